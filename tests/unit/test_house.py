"""The house rules that a machine can check; every test lists all offenders at once."""

from __future__ import annotations

import ast
import importlib
import inspect
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
MAX_MODULE = 800  # lines
MAX_FUNCTION = 60  # lines, the docstring not counted

# From the top down; an import goes down, never up and never sideways. docs/architecture.md has their purposes.
FLOORS = (
    {"cli", "__main__"},
    {"server"},
    {"app"},
    {"api"},
    {"engine"},
    {"system"},
    {"pod", "build"},
    {"container"},
    {"image", "volume", "network", "vm"},
    {"registry", "db", "guest"},
    {"agent"},
    {"stream", "event", "capabilities", "aside"},
    {"config", "spec"},
    {"publickeys", "failpoint"},
    {"errors"},
    {""},  # hyperd/__init__.py: the version
)
# hypercloud is a program of its own, with floors of its own.
CLOUD_FLOORS = (
    {"__main__"},
    {"cli"},
    {"server"},
    {"app"},
    {"api"},
    {"cloud"},
    {"backends"},
    {"kube"},
    {"workload", "fleet"},
    {"placement", "account", "engine", "action"},
    {"event"},
    {"db"},
    {"config", "logs", "worker"},
    {"errors", "strict"},
    {""},  # hypercloud/__init__.py: the version
)
CTL_FLOORS = (
    {"__main__"},
    {"cli"},
    {"commands"},
    {"completion", "manual"},
    {"full", "kube", "making"},
    {"hints", "offers", "images", "listing", "spec"},
    {"credentials", "options", "verbs", "details", "podfile", "progress", "session", "naming", "template"},
    {"command", "helpers", "output", "tars", "terminal", "units", "uploads"},
    {"api"},
    {""},  # hyperctl/__init__.py: the version
)
PACKAGES = {"hyperd": FLOORS, "hypercloud": CLOUD_FLOORS, "hyperctl": CTL_FLOORS}
# Who alone may import what: the engine chooses the driver, the application mounts the API.
ONLY_BY = {
    "hyperd.vm.libvirt": {"hyperd.engine", "hyperd.vm.libvirt"},
    "hyperd.vm.fake": {"hyperd.engine"},
    "hyperd.api": {"hyperd.app", "hyperd.api"},
    "hyperd.engine": {"hyperd.cli", "hyperd.server", "hyperd.app", "hyperd.api"},
    "hypercloud.api": {"hypercloud.app", "hypercloud.api"},
    "hypercloud.cloud": {"hypercloud.server", "hypercloud.app", "hypercloud.api"},
    # Dialects import no other dialect.
    "hypercloud.api.shipyard": {"hypercloud.app", "hypercloud.api.shipyard"},
    "hypercloud.api.dockercloud": {"hypercloud.app", "hypercloud.api.dockercloud"},
    "hypercloud.api.web": {"hypercloud.app", "hypercloud.api.web"},
}
# The APIs: each has its own words, schemas and statuses below ``hyperd/api/``.
DIALECTS = ("hyper", "docker", "cri")
# Made by a program (scripts/build-proto): not checked.
GENERATED = "hyperd/api/cri/v1"
# The rooms whose code knows the APIs: what is said here of services does not hold for them.
ABOVE_SERVICES = ("hyperd.api", "hyperd.app", "hyperd.server", "hyperd.cli")
# Methods of services that may return mappings of anything, with the reason.
MAPPINGS = {
    "hyperd.build.config.ImageDraft.identity": "an OCI image configuration: the format of a file, not of an API",
    "hyperd.build.config.ImageDraft.finish": "an OCI image configuration: the format of a file, not of an API",
    "hyperd.network.ipvs.Balanced.dump": "what a row keeps",
    "hyperd.stream.relay.Relay.task": "a task of asyncio, whose result is of any type",
    "hyperd.vm.libvirt.guest.Guest.command": "what QEMU's monitor answers; used within the driver only",
    "hyperd.vm.libvirt.guest.Guest.counters": "what libvirt counts; used within the driver only",
}
# Keys of the APIs' messages. The services have names of their own for these.
WIRE_WORDS = frozenset(
    {
        "podID",
        "podId",
        "podName",
        "containerID",
        "containerId",
        "imageID",
        "imageName",
        "vmId",
        "Actor",
        "HostConfig",
        "ExitCode",
        "StatusCode",
        "NetworkSettings",
        "RepoTags",
        "RepoDigests",
        "VirtualSize",
        "Warnings",
        "podSandboxId",
        "runtimeHandler",
        "imageRef",
    }
)
# Modules that may use one of them, with the reason.
SPEAK_WORDS = {
    ("hyperd.image.transfer.load", "RepoTags"): "a key of manifest.json in archives of images: the format of a file",
    ("hyperd.image.transfer.save", "RepoTags"): "a key of manifest.json in archives of images: the format of a file",
}
# Who may know statuses of HTTP.
SPEAK_HTTP = ("hyperd.api", "hyperd.app", "hyperd.server", "hyperd.registry", "hyperd.container.fetch")


@cache
def modules() -> dict[str, Path]:
    """Every module of all packages by its dotted name."""
    found = {}
    for package in ("hyperd", "hyperctl", "hypercloud"):
        for path in sorted((ROOT / package).rglob("*.py")):
            if path.is_relative_to(ROOT / GENERATED):
                continue
            parts = path.relative_to(ROOT).with_suffix("").parts
            found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


@cache
def tree(name: str) -> ast.Module:
    """A module's syntax tree."""
    return ast.parse(modules()[name].read_text(encoding="utf-8"))


@cache
def imports(name: str) -> list[tuple[int, str]]:
    """What a module imports, wherever in it: line and the dotted name of a module of ours (or of someone else)."""
    found = []
    is_package = modules()[name].name == "__init__.py"
    for node in ast.walk(tree(name)):
        if isinstance(node, ast.Import):
            found += [(node.lineno, alias.name) for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            parts = name.split(".")
            base = parts[: len(parts) - node.level + is_package] if node.level else []
            source = ".".join([*base, *([node.module] if node.module else [])])
            for alias in node.names:
                inner = f"{source}.{alias.name}"
                found.append((node.lineno, inner if inner in modules() else source))
    return found


def part_of(name: str) -> str:
    """The room a module is in."""
    return [*name.split("."), ""][1]


def floor_of(name: str) -> int:
    """The number of a module's floor, 0 is the top."""
    for number, names in enumerate(PACKAGES[name.split(".", maxsplit=1)[0]]):
        if part_of(name) in names:
            return number
    raise AssertionError(f"{name} belongs to no floor: name its place in FLOORS")


def within(name: str, package: str) -> bool:
    return name == package or name.startswith(f"{package}.")


def where(name: str, line: int) -> str:
    return f"{modules()[name].relative_to(ROOT)}:{line}"


def report(offenders: list[str]) -> None:
    assert not offenders, f"{len(offenders)} offenders:\n" + "\n".join(sorted(offenders))


def ours(name: str) -> Iterator[tuple[int, str]]:
    for line, target in imports(name):
        if any(within(target, package) for package in ("hyperd", "hyperctl", "hypercloud")):
            yield line, target


def test_there_is_something_to_check() -> None:
    assert len(modules()) > 20


def test_imports_go_down() -> None:
    offenders = []
    for name in modules():
        package = name.split(".", maxsplit=1)[0]
        if package not in PACKAGES:
            continue
        for line, target in ours(name):
            if not within(target, package):
                continue
            if part_of(name) != part_of(target) and floor_of(target) <= floor_of(name):
                offenders.append(f"{where(name, line)} {name} imports {target}, which is not below it")
    report(offenders)


def tables(text: str) -> Iterator[list[str]]:
    """The rows of the Markdown tables in a text, as their cells."""
    for line in text.splitlines():
        if line.startswith("| "):
            yield [cell.strip() for cell in line.strip("|").split("|")]


@pytest.mark.parametrize("package", PACKAGES)
def test_the_architecture_page_has_the_same_layers(package: str) -> None:
    text = (ROOT / "docs/architecture.md").read_text(encoding="utf-8")
    section = text.partition(f"### {package}\n")[2].partition("\n#")[0]
    floors = PACKAGES[package]
    shown: dict[int, set[str]] = {}
    for number, names, purpose, below in list(tables(section))[1:]:
        layer = int(number)
        shown.setdefault(layer, set()).update(re.findall(r"`(\w+)`", names) or {""})
        assert purpose, names
        assert below == {0: "", 1: "0"}.get(layer, f"0-{layer - 1}"), (names, below)
    assert shown == {len(floors) - 1 - place: names for place, names in enumerate(floors)}


def test_the_architecture_page_has_the_same_narrow_rules() -> None:
    text = (ROOT / "docs/architecture.md").read_text(encoding="utf-8")
    section = text.partition("### Narrower rules\n")[2].partition("\n#")[0]
    shown = {module.strip("`"): set(re.findall(r"`([\w.]+)`", by)) for module, by in list(tables(section))[1:]}
    assert shown == ONLY_BY


def test_some_modules_are_reached_by_one_way_only() -> None:
    offenders = []
    for name in modules():
        for line, target in ours(name):
            for closed, allowed in ONLY_BY.items():
                if within(target, closed) and not any(within(name, one) for one in allowed):
                    offenders.append(f"{where(name, line)} {name} imports {target}; only {sorted(allowed)} may")
    report(offenders)


def test_statuses_of_http_are_the_dialects_business() -> None:
    """Below the API nobody knows them. The server answers before a dialect is asked; registries are HTTP servers."""
    offenders = []
    for name in modules():
        if not within(name, "hyperd") or any(within(name, room) for room in SPEAK_HTTP):
            continue
        for line, target in imports(name):
            if target == "http" or within(target, "werkzeug") or within(target, "flask"):
                offenders.append(f"{where(name, line)} {name} imports {target}")
        for node in ast.walk(tree(name)):
            names = node.targets if isinstance(node, ast.Assign) else []
            value = getattr(getattr(node, "value", None), "value", None)
            if any(getattr(one, "id", "") == "status" for one in names) and isinstance(value, int):
                offenders.append(f"{where(name, node.lineno)} {name} gives a class a status")
    report(offenders)


def below_the_api() -> Iterator[str]:
    """The modules of hyperd below the API."""
    for name in modules():
        if within(name, "hyperd") and not any(within(name, room) for room in ABOVE_SERVICES):
            yield name


def returns_mapping(node: ast.FunctionDef | ast.AsyncFunctionDef) -> bool:
    """Whether the return type of a public method has ``Any`` in it, alone or in a mapping."""
    found = ast.walk(node.returns) if node.returns is not None and not node.name.startswith("_") else ()
    return any(isinstance(part, ast.Name) and part.id == "Any" for part in found)


def test_services_return_values_and_no_messages() -> None:
    """Services return dataclasses. The words of an API, and mappings in its form, are made in the API's own room."""
    found = {
        f"{name}.{owner.name}.{node.name}": where(name, node.lineno)
        for name in below_the_api()
        for owner in tree(name).body
        if isinstance(owner, ast.ClassDef) and not owner.name.startswith("_")
        for node in owner.body
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and returns_mapping(node)
    }
    report(
        [f"{place} {method} returns Any" for method, place in found.items() if method not in MAPPINGS]
        + [f"{method}: an exception that is not needed" for method in MAPPINGS if method not in found]
    )


def test_words_of_the_apis_stay_in_the_apis() -> None:
    found = {
        (name, word): where(name, node.lineno)
        for name in below_the_api()
        for node in ast.walk(tree(name))
        for word in words_of(node)
        if word in WIRE_WORDS
    }
    report(
        [f"{place} {name} says {word!r}" for (name, word), place in found.items() if (name, word) not in SPEAK_WORDS]
        + [
            f"{name}, {word}: an exception that is not needed"
            for name, word in SPEAK_WORDS
            if (name, word) not in found
        ]
    )


def words_of(node: ast.AST) -> Iterator[str]:
    """The text of a literal, the name of an argument by key."""
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        yield node.value
    if isinstance(node, ast.keyword) and node.arg:
        yield node.arg


def test_dialects_know_nothing_of_each_other() -> None:
    offenders = []
    for name in modules():
        mine = next((dialect for dialect in DIALECTS if within(name, f"hyperd.api.{dialect}")), None)
        for line, target in ours(name):
            other = next((dialect for dialect in DIALECTS if within(target, f"hyperd.api.{dialect}")), None)
            if mine and other and mine != other:
                offenders.append(f"{where(name, line)} {name} imports {target}: a dialect imports no other")
    report(offenders)


def test_imports_make_no_circle() -> None:
    graph = {name: {target for _, target in ours(name) if target in modules()} - {name} for name in modules()}
    offenders = []
    state: dict[str, int] = {}

    def visit(name: str, path: list[str]) -> None:
        state[name] = 1
        for target in sorted(graph[name]):
            if state.get(target) == 1:
                offenders.append(" -> ".join([*path[path.index(target) :], target]))
            elif target not in state:
                visit(target, [*path, target])
        state[name] = 2

    for name in graph:
        if name not in state:
            visit(name, [name])
    report(offenders)


def test_the_programs_share_no_code() -> None:
    report(
        [
            f"{where(name, line)} {name} imports {target}"
            for name in modules()
            for line, target in ours(name)
            if name.split(".", maxsplit=1)[0] != target.split(".", maxsplit=1)[0]
        ]
    )


def test_no_test_imports_another() -> None:
    """What they share lies in tests/support, or beside them in a module that is no test; its own name is fine."""
    found = []
    for path in (ROOT / "tests").rglob("*.py"):
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
            other = re.match(r"\s*(?:from|import) tests(?:\.\w+)*\.(test_\w+)", line)
            if other and other[1] != path.stem:
                found.append(f"{path.relative_to(ROOT)}:{number} imports {other[1]}")
    report(found)


def test_modules_are_short() -> None:
    paths = [*modules().values(), *(ROOT / "tests").rglob("*.py"), *(ROOT / "benchmarks").rglob("*.py")]
    sizes = {path: len(path.read_text(encoding="utf-8").splitlines()) for path in paths}
    report([f"{path.relative_to(ROOT)}:1 has {size} lines" for path, size in sizes.items() if size > MAX_MODULE])


def functions(name: str) -> Iterator[ast.FunctionDef | ast.AsyncFunctionDef]:
    """All functions and methods, but those of migrations, which are lists of tables."""
    if ".migrations." in name:
        return
    for node in ast.walk(tree(name)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            yield node


def length(node: ast.FunctionDef | ast.AsyncFunctionDef) -> int:
    """Lines of a function without its docstring and decorators."""
    lines = (node.end_lineno or node.lineno) - node.lineno + 1
    if ast.get_docstring(node, clean=False) is not None:
        docstring = node.body[0]
        lines -= (docstring.end_lineno or docstring.lineno) - docstring.lineno + 1
    return lines


def test_functions_are_short() -> None:
    report(
        [
            f"{where(name, node.lineno)} {node.name} has {length(node)} lines"
            for name in modules()
            for node in functions(name)
            if length(node) > MAX_FUNCTION
        ]
    )


def test_everything_is_annotated() -> None:
    offenders = []
    for name in modules():
        for node in functions(name):
            arguments = [*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs]
            arguments += [extra for extra in (node.args.vararg, node.args.kwarg) if extra]
            missing = [a.arg for a in arguments if a.annotation is None and a.arg not in {"self", "cls"}]
            if node.returns is None:
                missing.append("return")
            if missing:
                offenders.append(f"{where(name, node.lineno)} {node.name}: no type for {', '.join(missing)}")
    report(offenders)


def test_annotations_are_not_evaluated() -> None:
    offenders = []
    for name in modules():
        names = [a.name for n in tree(name).body if isinstance(n, ast.ImportFrom) for a in n.names]
        annotated = any(isinstance(n, ast.AnnAssign | ast.arg | ast.FunctionDef) for n in ast.walk(tree(name)))
        if "annotations" not in names and annotated:
            offenders.append(f"{where(name, 1)} lacks from __future__ import annotations")
    report(offenders)


def undocumented(name: str) -> Iterator[str]:
    """Public modules, classes, functions and methods without a docstring, but methods that a base class has too."""
    if not ast.get_docstring(tree(name)):
        yield f"{where(name, 1)} module {name}"
    if ".migrations." in name:
        return
    for node in tree(name).body:
        public = not getattr(node, "name", "_").startswith("_")
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and public and not ast.get_docstring(node):
            yield f"{where(name, node.lineno)} function {node.name}"
        elif isinstance(node, ast.ClassDef) and public:
            if not ast.get_docstring(node):
                yield f"{where(name, node.lineno)} class {node.name}"
            yield from undocumented_methods(name, node)


def undocumented_methods(name: str, owner: ast.ClassDef) -> Iterator[str]:
    # hypercloud's libraries are not everybody's: its methods say themselves what they do, inherited or not.
    known = () if within(name, "hypercloud") else inspect.getmro(getattr(importlib.import_module(name), owner.name))
    bases = known[1:]
    for node in owner.body:
        if not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) or node.name.startswith("_"):
            continue
        setter = any(isinstance(d, ast.Attribute) and d.attr in {"setter", "deleter"} for d in node.decorator_list)
        overrides = any(hasattr(base, node.name) for base in bases)
        if not (ast.get_docstring(node) or setter or overrides):
            yield f"{where(name, node.lineno)} method {owner.name}.{node.name}"


def test_what_is_public_is_documented() -> None:
    report([offender for name in modules() for offender in undocumented(name)])


@pytest.mark.parametrize("words", ["ruff check", "ruff format --check", "mypy", "shellcheck"])
def test_lint_runs_every_tool(words: str) -> None:
    assert words in (ROOT / "scripts/lint").read_text(encoding="utf-8")


def test_decisions_have_numbers_of_their_own() -> None:
    text = (ROOT / "docs" / "decisions.md").read_text(encoding="utf-8")
    numbers = re.findall(r"\n\n\*\*(D\d+)\. ", text)
    assert numbers == re.findall(r"\*\*(D\d+)\. ", text)  # each begins a paragraph
    assert [number for number in numbers if numbers.count(number) > 1] == []
