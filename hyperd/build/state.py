"""What a stage is so far, and how a step's layer comes about: from the cache, or made in the workshop."""

from __future__ import annotations

import posixpath
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from hyperd.build import guest
from hyperd.build.cache import ImageSteps, StepCache
from hyperd.build.config import ImageDraft
from hyperd.build.content import ContentTokens
from hyperd.build.context import Context
from hyperd.build.expand import expand_text
from hyperd.build.order import Reporter
from hyperd.build.vm import Below, Workshop
from hyperd.failpoint import failpoint
from hyperd.image.transfer.ingest import Intake

SCRATCH_KEY = "scratch"
Work = Callable[[str], ContentTokens | None]


@dataclass(kw_only=True)
class StageState:
    """A stage as far as it is: configuration, layers (bottom first), and the key of what it is."""

    draft: ImageDraft
    layers: list[Below] = field(default_factory=list)
    key: str = SCRATCH_KEY
    base: str = ""  # id of the image it began with
    fresh: bool = False  # a step of it was made anew


@dataclass(frozen=True, kw_only=True)
class Tools:
    """What all stages of one build share. ``find_source`` gives what ``COPY --from`` names."""

    context: Context
    workshop: Workshop
    intake: Intake
    cache: StepCache
    others: ImageSteps
    reporter: Reporter
    arguments: Mapping[str, str]  # as the caller gave them
    global_arguments: Mapping[str, str]
    use_cache: bool
    classic: bool  # see BuildOrder
    named_only: bool  # steps are taken from ``others`` alone
    remove: bool
    may_fetch: bool
    shm_size: int
    cancelled: Callable[[], bool]
    find_source: Callable[[str], StageState]


class Bench:
    """A stage and the tools to work on it.

    Args:
        tools: of the build.
        state: changed in place.

    """

    def __init__(self, tools: Tools, state: StageState) -> None:
        self.tools = tools
        self.state = state
        self._cache_broken = not tools.use_cache

    # -- words

    def word(self, text: str) -> str:
        """Expand one word. Errors: InvalidInput, TooLarge."""
        return self.state.draft.word(text)

    def text(self, content: str) -> str:
        """Expand the variables of a here-document, whose quotes stay. Errors: InvalidInput, TooLarge."""
        draft = self.state.draft
        return expand_text(content, draft.variables, escape=draft.escape)

    def path(self, text: str) -> str:
        """Return a target's absolute path; a slash at its end stays."""
        joined = posixpath.join(self.state.draft.workdir, text)
        clean = posixpath.normpath(posixpath.join("/", joined)).replace("//", "/")
        return clean if clean == "/" or (not text.endswith(("/", "/.")) and text != ".") else f"{clean}/"

    # -- steps that change files

    def make(self, key: str, created_by: str, work: Work) -> None:
        """Take a step's layer from the cache, or make it: ``work`` fills the upper directory it is given.

        What ``work`` gives are the tokens of files whose content did not go into the guest, if there are any.
        """
        state, tools = self.state, self.tools
        found = None if self._cache_broken else self._known(key, created_by)
        if found is not None:
            tools.reporter.say(" ---> Using cache")
            made = Below(diff_id=found) if found else None
        else:
            self._cache_broken = state.fresh = True
            made = self._make(work)
            failpoint("build.run.layer_added")
            tools.cache.note(key, made.diff_id if made else "")
            failpoint("build.run.step_noted")
        if made is not None:
            state.layers.append(made)
        state.key = key
        state.draft.add_history(created_by, empty=made is None)

    def note(self, key: str, created_by: str) -> None:
        """Note a step that changes no file; the classic builder looks it up as every other one."""
        tools = self.tools
        if tools.classic:
            if not self._cache_broken and self._known(key, created_by) is not None:
                tools.reporter.say(" ---> Using cache")
            else:
                tools.cache.note(key, "")
        self.state.draft.add_history(created_by, empty=True)

    def _known(self, key: str, created_by: str) -> str | None:
        """Look a step up: what was made here, then in the images that the caller names; or only in these."""
        tools, state = self.tools, self.state
        found = None if tools.named_only else tools.cache.find(key, tools.intake)
        if found is None:
            layers = [below.diff_id for below in state.layers if not below.local]
            found = tools.others.find(state.draft.history, layers, created_by, tools.intake)
            if found is not None:
                tools.cache.note(key, found)
        return found

    def _make(self, work: Work) -> Below | None:
        tools = self.tools
        directory = tools.workshop.begin()
        upper = tools.workshop.upper()
        tokens = work(directory)
        failpoint("build.run.step_done")
        stream = guest.packed(
            tools.workshop.agent,
            upper=upper,
            lower=tools.workshop.lower(self.state.layers),
            cancelled=tools.cancelled,
        )
        layer = guest.add_layer(tools.intake, tokens.restored(stream) if tokens is not None else stream)
        if layer is None:
            return None
        return Below(diff_id=layer.diff_id, upper=upper if tokens is None else "")  # later steps see it as a disk
