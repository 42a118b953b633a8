"""The man pages: what groff thinks of them, and that nothing is missing."""

from __future__ import annotations

import re
import subprocess

import pytest

from hyperctl import full, manual, verbs


def rendered(name: str) -> str:
    """Return a page as a reader sees it; groff must have nothing to say."""
    words = ["groff", "-man", "-Tascii", "-P-c", "-P-b", "-P-u", "-ww", "-rLL=100n"]
    done = subprocess.run(words, input=manual.page(name), capture_output=True, text=True, check=True)
    assert done.stderr == ""
    return done.stdout


@pytest.mark.parametrize("name", manual.names())
def test_pages(name):
    text = rendered(name)
    assert re.search(rf"NAME\n +{name} - \w", text)
    if name == "hyperctl":
        assert all(f"hyperctl-{verb}(1)" in text for verb in verbs.VERBS)
        assert all(word in text for word in ("--tlsverify", "HYPER_HOST", "NO_COLOR", "EXIT STATUS"))
        return
    for one in verbs.commands(name.removeprefix("hyperctl-")).values():
        assert all(option_name in text for option in one.options for option_name in option.names)
        assert all(f"\n       {example}\n" in text for example in one.examples)


def test_help_prints_and_writes_them(capsys, tmp_path):
    assert full.run(["help", "--man", "RUN"]) == 0
    assert capsys.readouterr().out == manual.page("hyperctl-run")
    directory = tmp_path / "man" / "man1"
    assert full.run(["help", "--man-pages", str(directory)]) == 0
    assert sorted(path.name for path in directory.iterdir()) == sorted(f"{name}.1" for name in manual.names())
    assert (directory / "hyperctl.1").read_text() == manual.page("hyperctl")
