"""Listings: the same rows as a table, as JSON, or through a template (`--format`)."""

from __future__ import annotations

from hyperctl import output
from hyperctl.api.errors import UsageProblem
from hyperctl.command import Option

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from typing import Any

_TABLE = "table "
_SHORT = 12

FORMAT = Option(
    "--format",
    field="form",
    metavar="table|json|TEMPLATE",
    default="table",
    complete="format",
    text="How to print it; a template is '{{.Field}} ...', with headings 'table {{.Field}}\\t...'.",
)
NO_TRUNC = Option("--no-trunc", flag=True, text="Do not cut ids.")
# Of what asks nothing, for those who come from docker.
UNASKED = Option("-f", "--force", flag=True, text="Do not ask; it never does.")


class Column:
    """A column of a listing.

    Args:
        heading: its title in the table.
        field: its name in JSON and templates.
        text: how the table prints a raw value.
        hidden: the table leaves it out.

    """

    def __init__(self, heading: str, field: str, text: Callable[[Any], str] = str, *, hidden: bool = False) -> None:
        self.heading = heading
        self.field = field
        self.text = text
        self.hidden = hidden


def identity(*, no_trunc: bool) -> Callable[[str], str]:
    """Return how ids are printed: whole, or their first twelve letters, which are enough to name an image."""
    return str if no_trunc else lambda text: text[:_SHORT]


def show(columns: Sequence[Column], rows: Sequence[Mapping[str, Any]], form: str) -> None:
    """Print a listing.

    Args:
        columns: what a row has, from left to right.
        rows: raw values by field.
        form: `table`, `json` or a template.

    Raises:
        UsageProblem: the form is none of these.

    """
    if form == "table":
        shown = [column for column in columns if not column.hidden]
        cells = [[column.text(row[column.field]) for column in shown] for row in rows]
        output.write(output.table([[column.heading for column in shown], *cells]))
    elif form == "json":
        import json

        output.say(json.dumps([dict(row) for row in rows], indent=4))
    else:
        _templated(columns, rows, form)


def show_one(value: Mapping[str, Any], form: str) -> None:
    """Print a single object as JSON or through a template.

    Raises:
        UsageProblem: the form is neither.

    """
    if form == "json":
        import json

        output.say(json.dumps(value, indent=4))
    else:
        output.say(single(form)(value))


def single(form: str) -> Callable[[Mapping[str, Any]], str]:
    """Return what makes a text of an object by a template.

    Raises:
        UsageProblem: it is no template; or, when it is used, names a field that is not there.

    """
    from hyperctl.template import Template

    template = Template(_checked(form))
    return lambda value: template.fill(value, {})


def refuse_both(quiet: bool, form: str) -> None:
    """Refuse `-q` beside `--format`, and a format that is none.

    Raises:
        UsageProblem: both were given, or there is no such format.

    """
    if quiet and form != "table":
        raise UsageProblem("--quiet and --format can not be used together")
    check(form)


def check(form: str) -> None:
    """Look at a form before anything is asked for.

    Raises:
        UsageProblem: it is not `table`, `json` or a template.

    """
    if form not in {"table", "json"}:
        from hyperctl.template import Template

        Template(_checked(form).removeprefix(_TABLE))


def _templated(columns: Sequence[Column], rows: Sequence[Mapping[str, Any]], form: str) -> None:
    from hyperctl.template import Template

    titled = form.startswith(_TABLE)
    template = Template(_checked(form).removeprefix(_TABLE))
    texts = {column.field: column.text for column in columns}
    _check_fields(template.fields(), texts)
    lines = [template.fill(row, texts) for row in rows]
    if not titled:
        output.write("".join(f"{line}\n" for line in lines))
        return
    head = template.fill({column.field: column.heading for column in columns}, {})
    output.write(output.table([line.split("\t") for line in [head, *lines]]))


def _checked(form: str) -> str:
    if "{{" not in form:
        raise UsageProblem(f"'{form}' is no format: use json or a template such as '{{{{.ID}}}}'")
    return form


def _check_fields(named: Sequence[str], known: Mapping[str, object]) -> None:
    """Say so also when there is no row in which a field could be missing."""
    for field in named:
        if field not in known:
            raise UsageProblem(f"there is no field .{field} to print: use {', '.join(known)}")


def show_objects(found: list[dict[str, Any]], form: str) -> None:
    """Print objects as a JSON array or through a template."""
    if form == "json":
        import json

        output.say(json.dumps(found, indent=4))
        return
    text = single(form)
    for one in found:
        output.say(text(one))
