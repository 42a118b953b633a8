"""One build from its Dockerfile to its image: stages, base images, the result."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import suppress

from hyperd.build.cache import ImageSteps, StepCache, chain
from hyperd.build.config import ImageDraft
from hyperd.build.context import Context
from hyperd.build.dockerfile import Dockerfile, Instruction, Stage, parse_dockerfile, parse_instructions
from hyperd.build.expand import expand
from hyperd.build.grammar import MAX_DOCKERFILE
from hyperd.build.ignore import Ignore
from hyperd.build.order import BuildOrder, Reporter
from hyperd.build.stage import PREDEFINED, StageRunner, platform_arguments
from hyperd.build.state import StageState, Tools
from hyperd.build.vm import Below, Services, Workshop
from hyperd.errors import ImageNotFound, InvalidInput, NotSupported
from hyperd.failpoint import failpoint
from hyperd.image.manifest import host_architecture
from hyperd.image.model import Image
from hyperd.image.transfer.ingest import Intake
from hyperd.image.transfer.pull import host_of
from hyperd.registry.reference import Reference

_IGNORE_FILE = ".dockerignore"


class Build:
    """See the module's docstring. It is run once."""

    def __init__(
        self,
        *,
        services: Services,
        order: BuildOrder,
        context: Context,
        workshop: Workshop,
        intake: Intake,
        cache: StepCache,
        reporter: Reporter,
        cancelled: Callable[[], bool],
    ) -> None:
        self._services = services
        self._order = order
        self._context = context
        self._workshop = workshop
        self._intake = intake
        self._cache = cache
        self._reporter = reporter
        self._cancelled = cancelled
        self._states: list[StageState] = []
        self._file = self._read()
        self._globals: dict[str, str] = {}
        self._used: set[str] = set()
        self._step = 0
        self._total = self._file.step_count + bool(order.labels)
        self._others = ImageSteps(list(self._cache_images()))

    def run(self) -> str:
        """Build; give the image's id. Errors: those of ``BuildService.build``."""
        for note in self._order.notes:
            self._reporter.say(f"[Warning] {note}")
        check_platform(self._order.platform)
        for instruction in self._file.arguments:
            self._announce(instruction.shown)
            self._global_argument(instruction)
        last = self._target()
        for stage in self._file.stages[: last + 1]:
            self._stage(stage)
        state = self._states[-1]
        if self._order.labels:
            self._label(state)
        unused = sorted(set(self._order.arguments) - self._used - PREDEFINED)
        if unused:
            self._reporter.say(f"[Warning] One or more build-args [{' '.join(unused)}] were not consumed")
        image = self._finished(state)
        self._reporter.last(image.id)
        self._reporter.say(f"Successfully built {_short(image.id)}")
        for tag in self._order.tags:
            self._reporter.say(f"Successfully tagged {self._services.images.taggable(tag).familiar}")
        return image.id

    def _finished(self, state: StageState) -> Image:
        """Make the image; a build that is all cache has made it before: it is the same one then."""
        images, layers = self._services.images, [below.diff_id for below in state.layers if not below.local]
        key = chain("image", state.draft.identity, layers, state.base)
        if not (state.fresh or self._order.no_cache) and (known := self._cache.image(key)):
            with suppress(ImageNotFound), images.held(known) as image:
                for tag in self._order.tags:
                    images.tag(known, tag)
                return images.get(image.id)
        made = images.add_image(state.draft.finish(), layers, tags=self._order.tags, parent=state.base)
        failpoint("build.run.image_added")
        self._cache.note(key, made.id)
        failpoint("build.run.image_noted")
        return made

    def _cache_images(self) -> Iterator[Image]:
        for name in self._order.cache_from:
            with suppress(ImageNotFound):  # it is only a hint
                yield self._services.images.usable(name)

    def _read(self) -> Dockerfile:
        path = self._order.dockerfile or "Dockerfile"
        text = self._context.read(path, limit=MAX_DOCKERFILE)
        if text is None and path == "Dockerfile":
            text = self._context.read("dockerfile", limit=MAX_DOCKERFILE)
        if text is None:
            raise InvalidInput(f"Cannot locate specified Dockerfile: {path[:300]}")
        rules = self._context.read(f"{path}{_IGNORE_FILE}", limit=MAX_DOCKERFILE)
        if rules is None:
            rules = self._context.read(_IGNORE_FILE, limit=MAX_DOCKERFILE)
        if rules is not None:
            self._context.ignore(Ignore(rules.decode("utf-8", "replace")))
        return parse_dockerfile(text)

    def _announce(self, shown: str) -> None:
        self._step += 1
        self._reporter.say(f"Step {self._step}/{self._total} : {shown}")

    def _target(self) -> int:
        stages = self._file.stages
        if not self._order.target:
            return len(stages) - 1
        found = self._file.stage_index(self._order.target, before=len(stages))
        if found < 0:
            raise InvalidInput(f"failed to reach build target {self._order.target[:100]} in Dockerfile")
        return found

    def _global_argument(self, instruction: Instruction) -> None:
        for word in instruction.words:
            name, equals, default = word.partition("=")
            known = {**platform_arguments(), **self._globals}
            if name in self._order.arguments:
                self._globals[name] = self._order.arguments[name]
                self._used.add(name)
            elif equals:
                self._globals[name] = expand(default, known, escape=self._file.escape)

    def _stage(self, stage: Stage) -> None:
        self._announce(stage.start.shown)
        known = {**platform_arguments(), **self._globals}
        base = expand(stage.base, known, escape=self._file.escape)
        if not base:
            raise InvalidInput(f"base name ({stage.base[:100]}) should not be blank")
        check_platform(expand(stage.platform, known, escape=self._file.escape))
        earlier = self._file.stage_index(base, before=len(self._states)) if not base.isdigit() else -1
        state = self._copy_of(self._states[earlier]) if earlier >= 0 else self._from_image(base)
        self._states.append(state)
        runner = StageRunner(self._tools(), state)
        runner.declare_given(PREDEFINED)
        self._reporter.say(f" ---> {_short(state.base) if state.base and earlier < 0 else state.key[:12]}")
        self._triggers(runner)
        for instruction in stage.steps:
            self._announce(instruction.shown)
            runner.carry_out(instruction)
        self._used |= runner.used

    def _triggers(self, runner: StageRunner) -> None:
        triggers = runner.state.draft.config.pop("OnBuild", None) or []
        if not isinstance(triggers, list) or not triggers:
            return
        self._reporter.say(f"# Executing {len(triggers)} build trigger{'s' if len(triggers) != 1 else ''}")
        for text in triggers:
            for instruction in parse_instructions(str(text)):
                if instruction.verb in ("FROM", "ONBUILD", "MAINTAINER"):
                    raise InvalidInput(f"{instruction.verb} isn't allowed as an ONBUILD trigger")
                runner.carry_out(instruction)

    def _tools(self) -> Tools:
        return Tools(
            context=self._context,
            workshop=self._workshop,
            intake=self._intake,
            cache=self._cache,
            others=self._others,
            shm_size=self._order.shm_size,
            reporter=self._reporter,
            arguments=self._order.arguments,
            global_arguments={**platform_arguments(), **self._globals},
            use_cache=not self._order.no_cache,
            classic=self._order.classic,
            named_only=self._order.classic and bool(self._order.cache_from),
            remove=self._order.remove,
            may_fetch=self._order.may_fetch,
            cancelled=self._cancelled,
            find_source=self._source,
        )

    def _source(self, name: str) -> StageState:
        """Return what ``COPY --from`` names: an earlier stage, else an image."""
        before = len(self._states) - 1
        index = self._file.stage_index(name, before=before)
        if index >= 0:
            return self._states[index]
        if name.isdigit():
            raise InvalidInput(f"invalid from flag value {name}: there is no such stage before this one")
        return self._from_image(name)

    def _copy_of(self, state: StageState) -> StageState:
        image = {key: value for key, value in state.draft.image.items() if key != "rootfs"}
        draft = ImageDraft({**image, "config": state.draft.config, "history": []}, escape=self._file.escape)
        draft.history = [dict(entry) for entry in state.draft.history]
        draft.arguments = dict(state.draft.arguments)  # Docker: child stages inherit what was declared
        return StageState(draft=draft, layers=list(state.layers), key=state.key, base=state.base, fresh=state.fresh)

    def _from_image(self, name: str) -> StageState:
        if name == "scratch":
            return StageState(draft=ImageDraft(escape=self._file.escape))
        image = self._image(name)
        if not all(self._intake.use_layer(diff_id) for diff_id in image.diff_ids):
            image = self._pull(name)
        return StageState(
            draft=ImageDraft(image.config, escape=self._file.escape),
            layers=_below(image),
            key=image.id.removeprefix("sha256:"),
            base=image.id,
        )

    def _image(self, name: str) -> Image:
        if self._order.pull:
            try:
                return self._pull(name)
            except InvalidInput:  # an id is nothing a registry could have
                return self._services.images.usable(name)
        try:
            return self._services.images.usable(name)
        except ImageNotFound:
            return self._pull(name)

    def _pull(self, name: str) -> Image:
        domain = Reference.parse(name, default_domain=self._services.config.registry.default).domain
        return self._services.images.pull(
            name,
            auth=self._order.auth.get(host_of(domain)),
            progress=self._reporter.pass_on,
            cancelled=self._cancelled,
        )

    def _label(self, state: StageState) -> None:
        self._announce("LABEL " + " ".join(f"{key}={value}" for key, value in self._order.labels.items()))
        labels = {**(state.draft.config.get("Labels") or {}), **self._order.labels}
        state.draft.config["Labels"] = labels
        state.draft.add_history("/bin/sh -c #(nop)  LABEL of the build", empty=True)


def check_platform(platform: str) -> None:
    """Refuse to build for other machines. Errors: NotSupported."""
    if not platform:
        return
    system, _, machine = platform.partition("/")
    if system.lower() != "linux" or machine.partition("/")[0] not in ("", host_architecture()):
        raise NotSupported(f"cannot build for {platform[:60]} here", details=f"this is linux/{host_architecture()}")


def _short(image_id: str) -> str:
    return image_id.removeprefix("sha256:")[:12]


def _below(image: Image) -> list[Below]:
    attached = [layer.diff_id for layer in image.layers]
    layers = [Below(diff_id=diff_id, hidden=diff_id not in attached) for diff_id in image.diff_ids]
    return layers + [Below(diff_id=diff_id, local=True) for diff_id in attached if diff_id not in image.diff_ids]
