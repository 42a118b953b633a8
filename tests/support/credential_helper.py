"""A credential helper that keeps its credentials in a JSON file, written for a test and put on its PATH."""

from __future__ import annotations

import json
import sys
from pathlib import Path

from tests.support.hyperctl_process import Runner

_PROGRAM = """#!{python} -IS
import json, sys
path = {path!r}
kept, given = json.load(open(path)), sys.stdin.read()
def say(value):
    print(json.dumps(value))
if sys.argv[1:] == ["store"]:
    one = json.loads(given)
    kept[one["ServerURL"]] = [one["Username"], one["Secret"]]
elif sys.argv[1:] == ["list"]:
    say({{server: pair[0] for server, pair in kept.items()}})
elif given not in kept:
    sys.exit("" if print("credentials not found in native keychain") else 1)
elif sys.argv[1:] == ["get"]:
    say({{"ServerURL": given, "Username": kept[given][0], "Secret": kept[given][1]}})
elif sys.argv[1:] == ["erase"]:
    del kept[given]
json.dump(kept, open(path, "w"))
"""


class CredentialHelper:
    """A helper on the PATH of a hyperctl.

    Args:
        runner: whose PATH it is put on.
        name: the program is ``docker-credential-NAME``.

    """

    def __init__(self, runner: Runner, name: str) -> None:
        self._path = runner.home / f"{name}.kept"
        directory = runner.home / "bin"
        directory.mkdir(exist_ok=True)
        self.program = directory / f"docker-credential-{name}"
        self.program.write_text(_PROGRAM.format(python=sys.executable, path=str(self._path)))
        self.program.chmod(0o755)
        if str(directory) not in runner.environment["PATH"]:
            runner.environment["PATH"] = f"{directory}:{runner.environment['PATH']}"
        self.kept = {}

    @property
    def kept(self) -> dict[str, list[str]]:
        """What it keeps: user name and secret by server."""
        kept: dict[str, list[str]] = json.loads(self._path.read_text())
        return kept

    @kept.setter
    def kept(self, value: dict[str, list[str]]) -> None:
        self._path.write_text(json.dumps(value))


def docker_config(home: Path, **content: object) -> Path:
    """Write Docker's configuration file below a home; give its path."""
    path = home / ".docker" / "config.json"
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps(content))
    return path
