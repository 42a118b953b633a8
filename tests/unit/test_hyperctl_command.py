"""The quick parser against click, the help of every command, completion, and what start-up loads."""

from __future__ import annotations

import os
import subprocess
import sys

import click
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hyperctl import full, verbs
from hyperctl.command import App, Argument, Option, command, understand

COMMANDS = {words: one for verb in verbs.VERBS for words, one in verbs.commands(verb).items()}
WORDS = st.sampled_from(
    ["a", "b", "-", "--", "", "9", "0", "x=y", "-z", "--nope", "never", "KILL", "-5", "--rm=1", "007"]
)


@st.composite
def command_lines(draw: st.DrawFn) -> tuple[str, list[str]]:
    name = draw(st.sampled_from(sorted(COMMANDS)))
    known = [word for option in COMMANDS[name].options for word in option.names]
    long = [f"{word}={value}" for word in known if word.startswith("--") for value in ("1", "x=y", "")]
    return name, draw(st.lists(WORDS | st.sampled_from(known + long) if known else WORDS, max_size=6))


@given(command_lines())
def test_what_the_quick_parser_understands_click_understands_too(line):
    name, words = line
    values = understand(COMMANDS[name], words)
    if values is None:
        return
    context = full.cli.get_command(click.Context(full.cli), name.split()[0])
    one = context.get_command(click.Context(context), name.split()[1]) if " " in name else context
    parsed = one.make_context(name, list(words), obj=App()).params
    assert values == parsed


def test_the_quick_parser_understands_what_people_type():
    run = COMMANDS["run"]
    typed = ["-t", "--rm", "--name", "n", "--env", "A=1", "--env=B=2", "--memory", "64"]
    typed += ["busybox", "sh", "-c", "--rm", "--", "x"]
    values = understand(run, typed)
    assert values is not None
    assert (values["tty"], values["remove"], values["memory"], values["name"]) == (True, True, "64", "n")
    assert values["env"] == ("A=1", "B=2")
    assert values["words"] == ("busybox", "sh", "-c", "--rm", "--", "x")
    removal = {"names": ("a", "b"), "container": True, "force": False, "volumes": False}
    assert understand(COMMANDS["rm"], ["a", "-c", "b"]) == removal


@pytest.mark.parametrize("words", [["-h"], ["--help"], ["-tx"], ["--na", "n"], ["--memory"], ["--rm=perhaps"]])
def test_the_quick_parser_leaves_the_rest_to_click(words):
    assert understand(COMMANDS["run"], words) is None


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["-it", "busybox"], {"tty": True, "interactive": True}),
        (["-dit", "busybox"], {"detach": True, "tty": True, "interactive": True}),
        (["-p=x.json"], {"podfile": "x.json"}),
        (["-px.json"], {"podfile": "x.json"}),
        (["-dp=x.json"], {"podfile": "x.json", "detach": True}),
        (["-dp", "x.json"], {"podfile": "x.json", "detach": True}),
        (["-v=/a:/b", "busybox"], {"volume": ("/a:/b",)}),
        (["-e", "A=b=c", "-eD=1", "busybox"], {"env": ("A=b=c", "D=1")}),
        (["--rm=true", "--tty=false", "busybox"], {"remove": True, "tty": False}),
        (["-d=false", "busybox"], {"detach": False}),
        (["-t", "busybox", "-it", "-p=x"], {"tty": True, "words": ("busybox", "-it", "-p=x")}),
        (["--", "-it"], {"words": ("-it",), "tty": False}),
        (["-p", "-", "-y"], {"podfile": "-", "yaml": True}),
        (["--entrypoint", "", "busybox"], {"entrypoint": ""}),
        (["busybox"], {"entrypoint": None}),
    ],
)
def test_short_options_as_go_flags_and_docker_read_them(words, expected):
    values = understand(COMMANDS["run"], words)
    assert values is not None
    assert {key: values[key] for key in expected} == expected


def test_surplus_arguments_do_not_count_where_the_original_ignored_them():
    """They are named: ``start $(hyperctl ps -aq)`` starts one."""
    one = hyperctl("version", "x")
    assert (one.returncode, one.stdout) == (0, hyperctl("version").stdout)
    assert "hyperctl WARNING: x does not count, as in the original\n" in one.stderr
    for name in ("info", "load", "start", "attach", "logs", "pause", "unpause"):
        said = hyperctl(name, "first", "second", "third").stderr
        assert "second third do not count, as in the original\n" in said, name
        assert "Cannot connect" in said or name == "load"
    assert "unexpected extra argument" in hyperctl("rename", "a", "b", "c").stderr


def test_arguments_may_be_required_optional_or_many():
    @command("x", Argument("one", "ONE"), Argument("two", "TWO", default="2"), Option("--many", many=True, text="."))
    def x(app: App, **values: object) -> None:
        pass

    assert understand(x, []) is None
    assert understand(x, ["a"]) == {"one": "a", "two": "2", "many": ()}
    assert understand(x, ["a", "b", "--many", "1", "--many", "2"]) == {"one": "a", "two": "b", "many": ("1", "2")}
    assert understand(x, ["a", "b", "c"]) is None


@pytest.mark.parametrize("name", sorted(COMMANDS))
@pytest.mark.parametrize("word", ["-h", "--help"])
def test_every_command_has_help_with_examples(capsys, name, word):
    assert full.run([*name.split(), word]) == 0
    text = capsys.readouterr().out
    assert text.startswith(f"Usage: hyperctl {name} ")
    examples = text.partition("\nExamples:\n")[2].splitlines()
    assert examples
    assert any(f"hyperctl {name}" in line for line in examples)
    assert all(len(line) < 100 for line in examples)
    assert COMMANDS[name].text.strip().endswith(".")


def test_the_first_page_names_every_verb(capsys):
    assert full.run([]) == 0
    text = capsys.readouterr().out
    assert all(f"  {verb} " in text for verb in verbs.VERBS)
    assert full.run(["help"]) == 0
    assert capsys.readouterr().out == text


@pytest.mark.parametrize("verb", ["ports", "image", "kube", "network", "system", "vm", "volume"])
def test_a_group_alone_shows_its_help(verb):
    done = hyperctl(verb)
    assert (done.returncode, done.stdout.startswith(f"Usage: hyperctl {verb} ")) == (0, True)
    assert "ERROR" not in done.stderr


@pytest.mark.parametrize("words", [["ports", "LS", "-h"], ["Ports", "ls", "--help"], ["LIST", "-h"]])
def test_the_case_of_commands_does_not_matter(words):
    done = hyperctl(*words)
    assert (done.returncode, done.stdout.startswith("Usage: hyperctl ")) == (0, True)
    assert "Cannot connect" in hyperctl("VM", "RM", "x").stderr


def test_a_number_that_is_none():
    assert "'x' is not an amount of memory" in hyperctl("run", "--memory", "x", "busybox").stderr
    assert "'x' is not a valid number." in hyperctl("search", "--limit", "x", "busybox").stderr


def test_what_is_meant_is_said_only_when_it_is_near():
    assert "Did you mean exec?" in hyperctl("exce").stderr
    assert "Here it is: rm." in hyperctl("delete", "x").stderr
    assert "Did you mean" not in hyperctl("xyzzy").stderr
    assert "Did you mean --name?" in hyperctl("run", "--nam", "busybox").stderr
    stranger = hyperctl("run", "--frobnicate", "busybox").stderr
    assert ("No such option: --frobnicate." in stranger, "Did you mean" in stranger) == (True, False)
    assert "Instead: say --network." in hyperctl("run", "--net", "x", "busybox").stderr


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("rnu busybox", "Did you mean run?"),
        ("imags", "Did you mean images?"),
        ("isnpcet", "Did you mean inspect?"),
        ("ls", "Here it is: list for pods, ps for containers."),
        ("compose up", "Here it is: kube play for manifests"),
        ("swarm init", "There is none: hypercloud manages several hosts."),
        ("context ls", "There is none: -H or HYPER_HOST name the daemon."),
        ("container prune", "Here it is: ps, start, stop"),
        ("run --memroy 1 x", "Did you mean --memory?"),
        ("run --ports 80 x", "Instead: say --publish."),
        ("run -P x", "Instead: say --publish PORT for each port"),
    ],
)
def test_what_docker_users_type_is_answered_with_what_is_meant(line, said):
    assert said in hyperctl(*line.split()).stderr


@pytest.mark.parametrize("line", ["lock", "suspend", "logs --until 5m a", "run --privacy x", "run -x y"])
def test_what_is_far_off_is_not_guessed(line):
    assert "Did you mean" not in hyperctl(*line.split()).stderr


@pytest.mark.parametrize(
    ("longer", "shorter"),
    [
        ("container ls -a", "ps -a"),
        ("-H x container rm -f a", "-H x rm -f a"),
        ("--tls --tlscacert image Container EXEC c ls", "--tls --tlscacert image exec c ls"),
        ("image ls -q", "images -q"),
        ("image rm busybox", "rmi busybox"),
        ("image prune -a", "image prune -a"),
        ("image df", "image df"),
        ("container", "container"),
        ("run image ls", "run image ls"),
        ("exec container ls", "exec container ls"),
    ],
)
def test_longer_forms_of_docker(longer, shorter):
    assert verbs.shortened(longer.split()) == shorter.split()


def test_longer_forms_lead_to_commands_that_exist():
    assert {verb for forms in verbs._LONGER.values() for verb in forms.values()} <= set(verbs.VERBS)
    assert "Usage: hyperctl images" in hyperctl("image", "ls", "--help").stdout
    assert hyperctl("-v").stdout == hyperctl("--version").stdout


def test_an_unknown_command_of_a_group_shows_the_others():
    done = hyperctl("ports", "foo")
    assert (done.returncode, done.stdout) == (255, "")
    assert "Usage: hyperctl ports" in done.stderr
    assert "'foo' is not a command of hyperctl ports" in done.stderr


def hyperctl(*words: str, **environment: str) -> subprocess.CompletedProcess[str]:
    code = (
        "import sys; from hyperctl.cli import main; status = main(sys.argv[1:]);"
        "print('LOADED', *sys.modules, file=sys.stderr); sys.exit(status)"
    )
    return subprocess.run(
        [sys.executable, "-c", code, *words],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "HYPER_HOST": "/nonexistent/s", **environment},
        timeout=100,
    )


def loaded(done: subprocess.CompletedProcess[str]) -> set[str]:
    return set(done.stderr.rpartition("LOADED")[2].split())


@pytest.mark.parametrize("words", ["list", "exec c true", "run -d busybox", "rm a", "logs x", "version", "start a"])
def test_ordinary_commands_load_nothing_heavy(words):
    heavy = {
        "click",
        "httpx2",
        "http.client",
        "rich",
        "yaml",
        "asyncio",
        "dataclasses",
        "inspect",
        "email",
        "ssl",
        "typing",
        "hyperd",
    }
    modules = loaded(hyperctl(*words.split()))
    assert "hyperctl.cli" in modules
    assert modules & heavy == set()


@pytest.mark.parametrize("words", [["--help"], ["list", "--help"], ["run", "--help"], ["help", "list"]])
def test_help_loads_no_library_but_click(words):
    done = hyperctl(*words)
    assert done.stdout.startswith("Usage: hyperctl")
    assert loaded(done) & {"httpx2", "http.client", "rich", "yaml", "asyncio"} == set()


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion_scripts(shell):
    script = hyperctl("completion", shell)
    assert script.returncode == 0
    assert "_HYPERCTL_COMPLETE" in script.stdout
    assert hyperctl("completion", "csh").returncode == 255


# How shells ask; conformance/test_hyperctl_completion.py does it with the shells themselves.
ANSWERS = [
    ("hyperctl li", ["list"]),
    ("hyperctl ports ", ["ls", "add", "delete"]),
    ("hyperctl run --re", ["--read-only", "--restart"]),
    ("hyperctl run --restart o", ["onFailure"]),
    ("hyperctl run --restart=o", ["--restart=onFailure"]),
    ("hyperctl help ima", ["image", "images"]),
    ("hyperctl help image ", ["df", "prune"]),
    ("hyperctl kill -s KI", ["KILL"]),
    ("hyperctl list --format ", ["json", "table"]),
    ("hyperctl run -t busybox --r", []),
    ("hyperctl nosuch ", []),
    ("hyperctl stop ", []),  # there is no daemon
    ("hyperctl stop 'half a quote", []),
]


@pytest.mark.parametrize("shell", ["bash", "zsh"])
@pytest.mark.parametrize(("line", "expected"), ANSWERS)
def test_completion_answers(line, expected, shell):
    words = line.split(" ")[1:] if shell == "zsh" else []
    done = hyperctl(*words, _HYPERCTL_COMPLETE=shell, COMP_LINE=line)
    answers = [answer.split("\t") for answer in done.stdout.splitlines()]
    assert sorted(value for kind, value, _ in answers if kind == "plain") == sorted(expected)
    assert loaded(done) & {"httpx2", "rich", "yaml"} == set()


@pytest.mark.parametrize(
    ("line", "kind"), [("run -p x", "file"), ("build ", "dir"), ("load -i ", "file"), ("run -v /sr", "dir")]
)
def test_names_of_files_are_left_to_the_shell(line, kind):
    done = hyperctl(*line.split(" "), _HYPERCTL_COMPLETE="fish")
    assert done.stdout == f"{kind}\t{line.rpartition(' ')[2]}\t\n"
