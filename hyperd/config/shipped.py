"""The files that come with hyperd: example configuration, units, kernel configuration, example pods (``configs/``)."""

from __future__ import annotations

from pathlib import Path

from hyperd.errors import NotFound

_PACKAGE = Path(__file__).resolve().parents[1]


def directory() -> Path:
    """Return where the files are: inside an installed package, else in the source tree beside it.

    Errors: NotFound.
    """
    for place in (_PACKAGE / "configs", _PACKAGE.parent / "configs"):
        if (place / "hyperd.toml").is_file():
            return place
    raise NotFound("the files of this installation are missing", details=str(_PACKAGE / "configs"))


def names() -> list[str]:
    """Return the files by their paths below ``directory``. Errors: NotFound."""
    top = directory()
    return sorted(str(path.relative_to(top)) for path in top.rglob("*") if path.is_file())


def text(name: str, *, program: str = "") -> str:
    """Return the content of a file.

    Args:
        name: one of ``names``.
        program: path of the hyperd that units start; empty leaves ``/usr/local/bin/hyperd``.

    Errors: NotFound.

    """
    if name not in names():
        raise NotFound(f"no file {name} comes with hyperd", resolution="'hyperd files' lists them")
    content = (directory() / name).read_text(encoding="utf-8")
    return content.replace("/usr/local/bin/hyperd", program) if program and name.endswith(".service") else content
