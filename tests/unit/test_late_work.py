"""Functions inside functions of the APIs run in other threads, often after the request: they ask nothing of it."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from functools import cache
from pathlib import Path

API = Path(__file__).parents[2] / "hyperd" / "api"
OF_A_REQUEST = {("flask", name) for name in ("request", "g", "current_app")}
INNER = ast.FunctionDef | ast.Lambda
# A function by module and name.
Place = tuple[str, str]


class Module:
    """One module: its functions, and where the names come from that it imports."""

    def __init__(self, name: str, tree: ast.Module) -> None:
        self.name = name
        self.functions = {node.name: node for node in tree.body if isinstance(node, ast.FunctionDef)}
        self._imported: dict[str, Place] = {}
        for node in ast.walk(tree):
            if isinstance(node, ast.ImportFrom) and node.module:
                self._imported |= {one.asname or one.name: (node.module, one.name) for one in node.names}

    def uses(self, function: ast.AST, *, own: set[str]) -> Iterator[Place]:
        """Yield what a function refers to, but its ``own`` names."""
        for node in ast.walk(function):
            inside = isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name)
            name = node.value.id if inside else node.id if isinstance(node, ast.Name) else ""  # type: ignore[attr-defined]
            if name in own:
                continue
            if name in self._imported:
                place = self._imported[name]
                yield place
                if inside:
                    yield f"{place[0]}.{place[1]}", node.attr  # type: ignore[attr-defined]
            elif name in self.functions:
                yield self.name, name


def bound(function: ast.AST) -> set[str]:
    """Return the names that are arguments or variables somewhere in a function."""
    nodes = list(ast.walk(function))
    names = {node.id for node in nodes if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store)}
    return names | {node.arg for node in nodes if isinstance(node, ast.arg)}


@cache
def modules() -> list[Module]:
    paths = [path for path in API.rglob("*.py") if "cri" not in path.parts]
    names = [".".join(path.relative_to(API.parents[1]).with_suffix("").parts) for path in paths]
    return [Module(name, ast.parse(path.read_text())) for name, path in zip(names, paths, strict=True)]


@cache
def of_a_request() -> set[Place]:
    """Return the functions that only work while a request is looked at, directly or through others."""
    found = set(OF_A_REQUEST)
    while True:
        more = {
            (module.name, name)
            for module in modules()
            for name, node in module.functions.items()
            if not found.isdisjoint(module.uses(node, own=bound(node)))
        }
        if more <= found:
            return found
        found |= more


def test_what_runs_later_asks_nothing_of_the_request() -> None:
    assert len(of_a_request()) > 200
    offenders = [
        f"{module.name}.{name}, line {inner.lineno}: {'.'.join(place)}"
        for module in modules()
        for name, function in module.functions.items()
        for inner in ast.walk(function)
        if isinstance(inner, INNER) and inner is not function
        for place in of_a_request().intersection(module.uses(inner, own=bound(function)))
        if not any("copy_current_request_context" in ast.dump(one) for one in getattr(inner, "decorator_list", ()))
    ]
    assert not offenders, "\n".join(offenders)
