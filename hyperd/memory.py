"""Keeping the daemon small: what glibc and Python are told about memory.

A daemon of many threads that do little would get an arena of glibc's for each thread, none of which ever gives much
back. The limits here cost nothing measurable: Python's threads take turns anyway.
"""

from __future__ import annotations

import ctypes
import gc
import opcode
import sys
import threading
from importlib import import_module, machinery
from types import CodeType, ModuleType
from typing import Any

# <malloc.h>
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD, _M_ARENA_MAX = -1, -3, -8
ARENAS = 1  # instead of up to eight for each CPU
LARGE = 128 * 1024  # bytes; blocks from here on are mapped for themselves and go back to the kernel when freed
KEPT = (
    1 << 20
)  # bytes free at the end of the heap that stay: below it, streams would get and give back pages all the time
BURST = 2.0  # seconds in which what a burst of work has left is given back, once
# Imported while the daemon starts, by libraries that can do more than is asked of them here; 7 MB and 0.1 s.
UNUSED = (
    "rich",  # structlog: colours in tracebacks, when it is there (hyperctl brings it)
    "jinja2",  # Flask: templates
    "werkzeug.serving",  # werkzeug and Flask: the development server
    "werkzeug.test",  # werkzeug: the client of tests
)
# Of the standard library: imported by what is needed, and used by it rarely or never; 1.2 MB and 40 ms.
POSTPONED = (
    "argparse",  # gunicorn's own command
    "calendar",  # email: dates
    "configparser",  # the original's configuration file; logging's
    "csv",  # importlib.metadata
    "difflib",  # werkzeug: what might have been meant
    "logging.handlers",  # logging.config
    "mimetypes",
    "zipfile",  # importlib.metadata
)


class _Hollow(ModuleType):
    """Stands for a module that is imported and not used: whatever is taken from it is an empty class.

    Modules below it are not found, which is what tells structlog that there is no rich.
    """

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_"):
            raise AttributeError(name)
        return type(name, (), {})


class _Postponed(ModuleType):
    """Stands for a module until something is taken from it (``importlib.util.LazyLoader`` ends at ``import``)."""

    def __getattr__(self, name: str) -> Any:
        if sys.modules.get(self.__name__) is self:
            del sys.modules[self.__name__]
        return getattr(import_module(self.__name__), name)


LONG = 100  # characters; shorter docstrings take half of the time and save nothing that can be measured
_DOCSTRING = "left out (hyperd.memory)"  # not None: some of SQLAlchemy's functions want to have one
_LOADS_FIRST = tuple(bytes((number, 0)) for number in opcode.hasconst)


class _TerseLoader(machinery.SourceFileLoader):
    """Loads modules as ever, but the libraries' without the docstrings of functions: 2.5 MB that nobody reads here.

    ``python -OO`` would leave out assertions, too, and needs files compiled for itself wherever hyperd is installed.
    """

    def get_code(self, fullname: str) -> CodeType | None:
        code = super().get_code(fullname)
        ours = fullname.partition(".")[0] == __package__  # the API's description is made from docstrings
        return code if code is None or ours else without_docstrings(code)


def without_docstrings(code: CodeType) -> CodeType:
    """Give the same code without the long docstrings of its functions, also of those within others and within classes.

    A docstring is a function's first constant, which no instruction loads; a module or a class loads its own.
    """
    old = code.co_consts
    new: dict[int, object] = {}
    for index, constant in enumerate(old):
        if isinstance(constant, CodeType):
            inner = without_docstrings(constant)
            if inner is not constant:
                new[index] = inner
    if old and isinstance(old[0], str) and len(old[0]) >= LONG and not _loads_first(code.co_code):
        new[0] = _DOCSTRING
    if not new:
        return code
    return code.replace(co_consts=tuple([new.get(index, constant) for index, constant in enumerate(old)]))


def _loads_first(instructions: bytes) -> bool:
    """Whether an instruction may load the constant of number 0; an instruction is two bytes."""
    for wanted in _LOADS_FIRST:
        at = instructions.find(wanted)
        while at >= 0:
            if not at % 2:
                return True
            at = instructions.find(wanted, at + 1)
    return False


_terse = machinery.FileFinder.path_hook(
    (machinery.ExtensionFileLoader, machinery.EXTENSION_SUFFIXES),
    (_TerseLoader, machinery.SOURCE_SUFFIXES),
    (machinery.SourcelessFileLoader, machinery.BYTECODE_SUFFIXES),
)


def prepare() -> None:
    """Set the limits; to be called before threads are started and the large libraries are imported."""
    for name in UNUSED:
        sys.modules.setdefault(name, _Hollow(name))
    for name in POSTPONED:
        if name not in sys.modules:
            sys.modules[name] = module = _Postponed(name)
            package, _, last = name.rpartition(".")
            if package:
                setattr(import_module(package), last, module)
    sys.path_hooks.insert(0, _terse)
    sys.path_importer_cache.clear()
    libc = ctypes.CDLL(None)
    if hasattr(libc, "mallopt"):  # glibc
        for parameter, value in ((_M_ARENA_MAX, ARENAS), (_M_MMAP_THRESHOLD, LARGE), (_M_TRIM_THRESHOLD, KEPT)):
            libc.mallopt(parameter, value)


def settle() -> None:
    """Give back what the start has used, and let the collector leave alone what lives as long as the daemon.

    What is imported later is imported as it is.
    """
    for name in UNUSED:
        if isinstance(sys.modules.get(name), _Hollow):
            del sys.modules[name]
    if _terse in sys.path_hooks:
        sys.path_hooks.remove(_terse)
        sys.path_importer_cache.clear()
    gc.collect()
    gc.freeze()
    trim()


def trim() -> None:
    """Give free memory back to the kernel; takes milliseconds."""
    libc = ctypes.CDLL(None)
    if hasattr(libc, "malloc_trim"):
        libc.malloc_trim(0)


class Trimmer:
    """Gives memory back after a burst of work; what libvirt had for twenty VMs would stay for the next ones."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._timer: threading.Timer | None = None

    def ask(self) -> None:
        """Trim soon; returns at once, and costs nothing where it has been asked for already."""
        with self._lock:
            if self._timer is None:
                self._timer = threading.Timer(BURST, self._run)
                self._timer.daemon = True
                self._timer.name = "trim"
                self._timer.start()

    def close(self) -> None:
        """Forget it."""
        with self._lock:
            if self._timer is not None:
                self._timer.cancel()

    def _run(self) -> None:
        with self._lock:
            self._timer = None
        trim()
