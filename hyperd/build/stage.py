"""One stage of a build: its instructions, one after the other."""

from __future__ import annotations

from collections.abc import Iterable

import structlog

from hyperd.build.cache import chain
from hyperd.build.copying import Copying
from hyperd.build.dockerfile import Instruction
from hyperd.build.heredocs import raw_words, with_texts
from hyperd.build.mounts import Memory, Mounting
from hyperd.build.state import Bench, StageState, Tools
from hyperd.container.plan import DEFAULT_PATH, SHM, Program
from hyperd.errors import Cancelled, InvalidInput, ProgramFailed
from hyperd.image.manifest import host_architecture

log = structlog.get_logger(__name__)

_SCRIPT = "/tmp/.build-script"  # noqa: S108 - in the guest, where nobody else is

# May be given without an ARG, and do not count for the cache (Dockerfile reference, predefined ARGs).
PREDEFINED = frozenset(
    name
    for word in ("http_proxy", "https_proxy", "ftp_proxy", "no_proxy", "all_proxy")
    for name in (word, word.upper())
)


def platform_arguments() -> dict[str, str]:
    """Return the ARGs that tell what is built for and on; they must be declared to be seen."""
    machine = host_architecture()
    found: dict[str, str] = {}
    for side in ("TARGET", "BUILD"):
        found |= {f"{side}PLATFORM": f"linux/{machine}", f"{side}OS": "linux", f"{side}ARCH": machine}
    return {**found, "TARGETVARIANT": "", "BUILDVARIANT": ""}


class StageRunner(Bench):
    """Carries out instructions on a stage."""

    def __init__(self, tools: Tools, state: StageState) -> None:
        super().__init__(tools, state)
        self.used: set[str] = set()  # given arguments that were declared

    def carry_out(self, instruction: Instruction) -> None:
        """Carry out one instruction. Errors: HyperError with the reason; Cancelled."""
        if self.tools.cancelled():
            raise Cancelled("the build was cancelled")
        verb = instruction.verb
        if verb == "RUN":
            self._run(instruction)
        elif verb in ("COPY", "ADD"):
            Copying(self).carry_out(instruction)
        elif verb == "ARG":
            self._arg(instruction)
        elif verb == "WORKDIR":
            self._workdir(instruction)
        else:
            self._configure(instruction)
        self.tools.reporter.say(f" ---> {self.state.key[:12]}")

    def _run(self, instruction: Instruction) -> None:
        draft, tools = self.state.draft, self.tools
        argv = self._run_argv(instruction)
        arguments = {key: value for key, value in draft.arguments.items() if key not in draft.env}
        counted = {key: value for key, value in arguments.items() if key not in PREDEFINED}
        program = Program(
            argv=tuple(argv),
            env={"PATH": DEFAULT_PATH, **arguments, **draft.env},
            workdir=draft.workdir,
            user=str(draft.config.get("User") or ""),
            groups=(),
            tty=False,
        )

        mounting = Mounting(self, instruction.mounts, line=instruction.line)

        def work(directory: str) -> None:
            tools.reporter.say(f" ---> Running in {key[:12]}")
            volumes, files = mounting.prepare(directory)
            if tools.shm_size:
                files = [Memory(target=SHM, source=f"mode=1777,size={tools.shm_size}"), *files]
            code = tools.workshop.run(
                program, self.state.layers, directory, tools.reporter.output, volumes=volumes, files=files
            )
            if code:
                shown = " ".join(argv)
                raise ProgramFailed(f"The command '{shown[:1000]}' returned a non-zero code: {code}", code=code)
            if tools.remove:
                tools.reporter.say(f" ---> Removed intermediate container {key[:12]}")

        key = chain(self.state.key, "RUN", argv, counted, *mounting.identity)
        prefix = "".join(f"{name}={value} " for name, value in counted.items())
        shown = f"|{len(counted)} {prefix}" if counted else ""
        mounted = f"--mount:{key[:32]} " if instruction.mounts else ""  # the same words do other things with them
        self.make(key, mounted + shown + " ".join(argv), work)

    def _run_argv(self, instruction: Instruction) -> list[str]:
        """Return what RUN runs; of here-documents the shell makes what it can, a lone one is the script."""
        draft = self.state.draft
        if not instruction.heredocs:
            return draft.command(instruction)
        line, only = instruction.words[0].strip(), instruction.heredocs[0]
        if len(raw_words(line)) > 1:
            return [*draft.shell, with_texts(line, instruction.heredocs)]
        if only.content.startswith("#!"):  # the kernel shall find its interpreter
            end = _end_word(only.content)
            script = f"cat > {_SCRIPT} <<'{end}'\n{only.content}{end}\nchmod 700 {_SCRIPT}; {_SCRIPT}"
            return [*draft.shell, f"{script}; code=$?; rm -f {_SCRIPT}; exit $code"]
        return [*draft.shell, only.content]

    def _workdir(self, instruction: Instruction) -> None:
        draft = self.state.draft
        draft.apply(instruction)
        target, owner = draft.workdir, str(draft.config.get("User") or "")
        key = chain(self.state.key, "WORKDIR", target, owner)
        layers = self.state.layers
        workshop = self.tools.workshop
        self.make(
            key,
            f"/bin/sh -c #(nop) WORKDIR {target}",
            lambda work: workshop.make_directory(target, layers, work, owner=owner),
        )

    # -- steps that do not

    def _configure(self, instruction: Instruction) -> None:
        draft, state = self.state.draft, self.state
        draft.apply(instruction)
        before, state.key = state.key, chain(state.key, instruction.verb, draft.config, draft.image.get("author", ""))
        log.debug("build.configured", before=before[:12], after=state.key[:12])
        self.note(state.key, f"/bin/sh -c #(nop)  {instruction.shown}")

    def _arg(self, instruction: Instruction) -> None:
        for word in instruction.words:
            name, equals, default = word.partition("=")
            if not name.replace("_", "a").isalnum():
                raise InvalidInput(f"line {instruction.line}: ARG names must be letters, digits and _")
            self.declare(name, self.word(default) if equals else None)
        self.note(chain(self.state.key, "ARG", instruction.shown), f"/bin/sh -c #(nop)  {instruction.shown}")

    def declare_given(self, names: Iterable[str]) -> None:
        """Bring those of the names into scope that the caller gave a value."""
        for name in names:
            if name in self.tools.arguments:
                self.declare(name, None)

    def declare(self, name: str, default: str | None) -> None:
        """Bring an ARG into scope: the caller's value, else its default, else the one from before the first FROM."""
        tools, arguments = self.tools, self.state.draft.arguments
        if name in tools.arguments:
            self.used.add(name)
            arguments[name] = tools.arguments[name]
        elif default is not None:
            arguments[name] = default
        elif name in tools.global_arguments:
            arguments[name] = tools.global_arguments[name]


def _end_word(content: str) -> str:
    """Return a word that is no line of a text, to end it with in a here-document."""
    lines, word = set(content.splitlines()), "END_OF_SCRIPT"
    while word in lines:
        word += "_"
    return word
