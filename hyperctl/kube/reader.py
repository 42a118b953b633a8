"""Reading manifests: documents of YAML or JSON, and objects whose fields are taken one by one.

What nobody has taken in the end is what is not understood; the topmost `Node` collects the paths.
"""

from __future__ import annotations

import re

from hyperctl import uploads
from hyperctl.api.errors import UsageProblem

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Any

_NAME = re.compile(r"[a-z0-9](?:[a-z0-9.-]{0,251}[a-z0-9])?")
_QUANTITY = re.compile(r"(\d+(?:\.\d+)?)(m|k|M|G|T|P|Ki|Mi|Gi|Ti|Pi)?")
_FACTORS = {None: 1.0, "m": 1e-3} | {unit: 1000.0**power for power, unit in enumerate("kMGTP", 1)}
_FACTORS |= {f"{unit}i": 1024.0**power for power, unit in enumerate("KMGTP", 1)}


def documents(name: str) -> list[dict[str, Any]]:
    """Read a file (`-` is stdin) of manifests; a `List` is taken apart.

    Raises:
        UsageProblem: it cannot be read, is no YAML, or has something that is no manifest.

    """
    import yaml

    data = uploads.small_file(name)
    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    try:
        found = list(yaml.load_all(data, Loader=loader))
    except (yaml.YAMLError, RecursionError, ValueError) as error:
        raise UsageProblem(f"{name} is not YAML: {error}") from error
    return [one for document in found if document is not None for one in _manifests(name, document)]


def _manifests(name: str, document: object) -> Iterator[dict[str, Any]]:
    if not isinstance(document, dict) or not isinstance(document.get("kind"), str):
        raise UsageProblem(f"{name}: a document is no manifest of Kubernetes: it has no kind")
    if document["kind"] == "List" and isinstance(document.get("items"), list):
        for item in document["items"]:
            yield from _manifests(name, item)
        return
    yield document


class Node:
    """An object of a manifest; a field that has been asked for counts as understood.

    Objects inside it are made once, however often they are asked for, and `done` of the topmost one looks at all.

    Args:
        value: the object.
        path: where it stands, for messages.
        unknown: gets the paths of what is not understood.

    """

    def __init__(self, value: object, path: str, unknown: list[str]) -> None:
        if value is None:
            value = {}
        if not isinstance(value, dict):
            raise UsageProblem(f"{path} must be an object")
        self._value = {str(key): item for key, item in value.items()}
        self.path = path
        self._unknown = unknown
        self._taken: set[str] = set()
        self._inner: dict[str, list[Node]] = {}

    def __contains__(self, key: str) -> bool:
        return self._value.get(key) is not None

    def take(self, key: str) -> Any:
        """Return a field as it is, None when it is not there."""
        self._taken.add(key)
        return self._value.get(key)

    def ignore(self, *keys: str) -> None:
        """Count fields as understood that mean nothing here and lose nothing."""
        self._taken.update(keys)

    def wrong(self, key: str, wanted: str) -> UsageProblem:
        """Return the error for a field of the wrong type."""
        return UsageProblem(f"{self.path}.{key} must be {wanted}")

    def text(self, key: str, default: str = "") -> str:
        """Return a text. Raises UsageProblem."""
        value = self.take(key)
        if value is None:
            return default
        if isinstance(value, bool):
            return "true" if value else "false"
        if not isinstance(value, str | int | float):
            raise self.wrong(key, "a text")
        return str(value)

    def name(self, key: str = "name") -> str:
        """Return a name that must be there. Raises UsageProblem."""
        value = self.text(key)
        if not _NAME.fullmatch(value):
            raise self.wrong(key, "a name: small letters, digits, - and .")
        return value

    def number(self, key: str) -> int | None:
        """Return a number, None when it is not there. Raises UsageProblem."""
        value = self.take(key)
        if value is not None and (isinstance(value, bool) or not isinstance(value, int)):
            raise self.wrong(key, "a number")
        return value

    def flag(self, key: str, *, default: bool = False) -> bool:
        """Return true or false. Raises UsageProblem."""
        value = self.take(key)
        if value is None:
            return default
        if not isinstance(value, bool):
            raise self.wrong(key, "true or false")
        return value

    def texts(self, key: str) -> list[str]:
        """Return a list of texts. Raises UsageProblem."""
        value = self.take(key)
        if value is None:
            return []
        if not isinstance(value, list) or not all(isinstance(one, str | int | float) for one in value):
            raise self.wrong(key, "a list of texts")
        return [str(one) for one in value]

    def table(self, key: str) -> dict[str, str]:
        """Return an object of texts. Raises UsageProblem."""
        value = self.take(key)
        if value is None:
            return {}
        if not isinstance(value, dict):
            raise self.wrong(key, "an object of texts")
        node = Node(value, f"{self.path}.{key}", self._unknown)
        return {str(name): node.text(str(name)) for name in value}

    def node(self, key: str) -> Node:
        """Return an object, empty when it is not there. Raises UsageProblem."""
        value = self.take(key)
        if key not in self._inner:
            self._inner[key] = [Node(value, f"{self.path}.{key}", self._unknown)]
        return self._inner[key][0]

    def nodes(self, key: str) -> list[Node]:
        """Return a list of objects. Raises UsageProblem."""
        value = self.take(key)
        if value is None:
            return []
        if not isinstance(value, list):
            raise self.wrong(key, "a list")
        if key not in self._inner:
            self._inner[key] = [
                Node(one, f"{self.path}.{key}[{index}]", self._unknown) for index, one in enumerate(value)
            ]
        return self._inner[key]

    def quantity(self, key: str) -> float | None:
        """Return a quantity (`500m`, `128Mi`) as a number, None when it is not there. Raises UsageProblem."""
        text = self.text(key)
        if not text:
            return None
        match = _QUANTITY.fullmatch(text)
        if match is None:
            raise self.wrong(key, "a quantity, such as 500m or 128Mi")
        return float(match[1]) * _FACTORS[match[2]]

    def done(self) -> None:
        """Note what nobody has asked for, here and in every object inside."""
        for node in (one for nodes in self._inner.values() for one in nodes):
            node.done()
        for key, value in self._value.items():
            if key not in self._taken and value not in (None, {}, []):
                self._unknown.append(f"{self.path}.{key}")
