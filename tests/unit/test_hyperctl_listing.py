"""Listings: tables, JSON, templates, colours."""

from __future__ import annotations

import io
import json
import sys

import pytest

from hyperctl import listing, output, verbs
from hyperctl.api.errors import UsageProblem
from hyperctl.listing import Column, show, show_one
from hyperctl.template import Template

COLUMNS = (
    Column("NAME", "Name"),
    Column("SIZE", "Size", output.human_size),
    Column("POD", "Pod", hidden=True),
    Column("Status", "Status"),
)
ROWS = [
    {"Name": "a", "Size": 1500, "Pod": "p", "Status": "running"},
    {"Name": "b\x1b[7m", "Size": 7, "Pod": "q", "Status": "odd"},
]


@pytest.mark.parametrize(
    ("form", "text"),
    [
        ("{{.Name}}: {{ .Size }}", "a: 1.5 kB\nb?[7m: 7 B\n"),
        ("{{json .Size}}\\t{{upper .Status}}\\n", "1500\tRUNNING\n\n7\tODD\n\n"),
        ("{{lower .Pod}}\\\\t", "p\\t\nq\\t\n"),
        (
            "table {{.Pod}}\\t{{.Size}}",
            f"{'POD':20}SIZE\n{'p':20}1.5 kB\n{'q':20}7 B\n",
        ),
    ],
)
def test_templates(capsys, form, text):
    show(COLUMNS, ROWS, form)
    assert capsys.readouterr().out == text


def test_a_whole_row_as_json(capsys):
    show(COLUMNS, ROWS, "{{json .}}")
    assert [json.loads(line) for line in capsys.readouterr().out.splitlines()] == ROWS


def test_json_is_one_document_also_without_rows(capsys):
    show(COLUMNS, ROWS, "json")
    assert json.loads(capsys.readouterr().out) == ROWS
    show(COLUMNS, [], "json")
    assert json.loads(capsys.readouterr().out) == []


def test_objects_through_templates(capsys):
    show_one({"a": {"b": [1, "x"]}, "c": "text"}, "{{.a.b}} {{.c}} {{json .c}} {{index .a.b 1}}{{json .a.b}}")
    assert capsys.readouterr().out == '[1,"x"] text "text" x[1,"x"]\n'
    show_one({"a": 1}, "json")
    assert json.loads(capsys.readouterr().out) == {"a": 1}


@pytest.mark.parametrize("form", ["yaml", "", "{{range .}}", "{{.Name | upper}}", "{{.Nosuch}}", "table {{.name}}"])
@pytest.mark.parametrize("rows", [ROWS, []])
def test_forms_that_are_none(form, rows):
    with pytest.raises(UsageProblem):
        show(COLUMNS, rows, form)


@pytest.mark.parametrize("template", ["{{.a.b}}", "{{.x}}", "{{index .l 1}}", "{{index .a 0}}"])
def test_fields_that_are_not_there(template):
    with pytest.raises(UsageProblem, match="there is no field"):
        Template(template).fill({"a": 1, "l": [0]}, {})


@pytest.mark.parametrize("template", ["{{index .a}}", "{{upper .a 1}}", "{{.a 1}}", "{{}}", "{{a}}", "{{json}}"])
def test_templates_that_are_none(template):
    with pytest.raises(UsageProblem, match="is not understood"):
        Template(template)


LISTINGS = {
    "list",
    "ps",
    "images",
    "history",
    "search",
    "image df",
    "system df",
    "ports ls",
    "stats",
    "info",
    "version",
}
LISTINGS |= {"events", "network ls", "volume ls"}


def test_every_listing_has_the_same_option():
    commands = [pair for verb in verbs.VERBS for pair in verbs.commands(verb).items()]
    assert {name for name, command in commands if listing.FORMAT in command.options} == LISTINGS


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize(
    ("environment", "coloured"),
    [({"TERM": "xterm"}, True), ({"TERM": "xterm", "NO_COLOR": "1"}, False), ({"TERM": "dumb"}, False), ({}, False)],
)
def test_colours_are_for_terminals(monkeypatch, environment, coloured):
    for name in ("TERM", "NO_COLOR"):
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    screen = Terminal()
    monkeypatch.setattr(sys, "stdout", screen)
    monkeypatch.setattr(sys, "stderr", screen)
    show(COLUMNS, ROWS, "table")
    output.error("no")
    running, title = ("\x1b[32mrunning\x1b[0m", "\x1b[31mhyperctl ERROR:\x1b[0m") if coloured else ("running", None)
    lines = screen.getvalue().splitlines()
    assert lines[1:] == [
        f"{'a':20}{'1.5 kB':20}{running}",
        f"{'b?[7m':20}{'7 B':20}odd",
        f"{title or 'hyperctl ERROR:'} no",
    ]
    monkeypatch.setattr(sys, "stdout", io.StringIO())
    assert output.colourful(sys.stdout) is False
