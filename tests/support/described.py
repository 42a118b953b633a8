"""Answers of a server, held against the OpenAPI documents that it serves."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from typing import Any

from jsonschema import Draft202012Validator

from tests.support.cloud import Answer

NAMESPACED = re.compile(r"^(/api/(?:app|infra|repo|audit)/v1/)[^/]+/(?=[^/]+)")


def strict(value: Any) -> Any:
    """Let objects have no properties but those described: what the server adds must be in the document."""
    if isinstance(value, dict):
        found = {key: strict(item) for key, item in value.items()}
        if isinstance(found.get("properties"), dict) and found.get("type") == "object":
            found.setdefault("additionalProperties", False)
        return found
    return [strict(item) for item in value] if isinstance(value, list) else value


class Described:
    """Says whether an answer is described; a path of no document is nothing of ours.

    Args:
        documents: of the server.

    """

    def __init__(self, documents: Iterable[dict[str, Any]]) -> None:
        self.seen: set[str] = set()
        self._paths: list[tuple[re.Pattern[str], str, dict[str, Any], dict[str, Any]]] = []
        for document in documents:
            components = strict(document["components"])
            for path, methods in document["paths"].items():
                pattern = re.sub(r"{(\w+)}", lambda name: ".+" if "/repository/" in name.string else "[^/]+", path)
                self._paths.append((re.compile(pattern.rstrip("/") + "/?"), path, methods, components))

    def __call__(self, method: str, path: str, answer: Answer) -> None:
        found = self._find(method, path)
        if found is None or answer.status in {413, 426}:
            return
        name, operation, components = found
        self.seen.add(name)
        responses = operation["responses"]
        assert str(answer.status) in responses, f"{name}: {answer.status} is not in the document: {answer.text[:300]}"
        for media, content in responses[str(answer.status)].get("content", {}).items():
            assert answer.headers["Content-Type"].partition(";")[0] == media, name
            body = json.loads(answer.text) if media == "application/json" else answer.text
            schema = strict(content["schema"]) | {"components": components}
            for error in Draft202012Validator(schema).iter_errors(body):
                raise AssertionError(f"{name}: {error.json_path}: {error.message[:500]}")

    def _find(self, method: str, path: str) -> tuple[str, dict[str, Any], dict[str, Any]] | None:
        plain = re.sub("/+", "/", path.partition("?")[0])
        for given in (plain, NAMESPACED.sub(r"\1", plain)):
            for pattern, shown, methods, components in self._paths:
                if pattern.fullmatch(given) and method.lower() in methods:
                    return f"{method} {shown}", methods[method.lower()], components
        return None
