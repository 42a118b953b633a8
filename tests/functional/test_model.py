"""Any operations in any order: answers and states are what the model says, everything on the host agrees."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule, run_state_machine_as_test

from tests.support.daemon import HyperdLauncher
from tests.support.model import PODS, VOLUMES, Model
from tests.support.registry import Layer, RegistryServer, busybox_tar

pytestmark = [pytest.mark.root, pytest.mark.registry]

PLENTY = settings(
    derandomize=True,
    database=None,
    deadline=None,
    max_examples=2,
    stateful_step_count=25,
    suppress_health_check=list(HealthCheck),
    phases=(Phase.generate,),  # a sequence that fails is told as it is: to make it shorter would take minutes
)


@pytest.fixture
def fresh(tmp_path: Path) -> Iterator[Callable[[], Model]]:
    """What gives a model of a daemon that has nothing."""
    with (
        RegistryServer() as registry,
        HyperdLauncher(config="stop_grace = 1\n") as daemon,
    ):
        registry.push("busybox", "latest", [Layer(busybox_tar())])
        daemon.start()
        image = f"{registry.host}/busybox"
        assert daemon.request("POST", "/image/create", imageName=image)[0] == 200
        yield lambda: Model(daemon, image, templates=tmp_path, real=False)


def test_everything_is_as_the_model_says(fresh: Callable[[], Model]) -> None:
    class Machine(RuleBasedStateMachine):
        def __init__(self) -> None:
            super().__init__()
            self.model = fresh()

        @rule(pod=st.sampled_from(PODS), volume=st.sampled_from(("", *VOLUMES)))
        def create(self, pod: str, volume: str) -> None:
            self.model.create(pod, volume)

        @rule(pod=st.sampled_from(PODS), what=st.sampled_from(sorted(fresh().with_pod)))
        def with_pod(self, pod: str, what: str) -> None:
            self.model.with_pod[what](pod)

        @rule(volume=st.sampled_from(VOLUMES), what=st.sampled_from(sorted(fresh().with_volume)))
        def with_volume(self, volume: str, what: str) -> None:
            self.model.with_volume[what](volume)

        @rule(what=st.sampled_from(sorted(fresh().alone)))
        def alone(self, what: str) -> None:
            self.model.alone[what]()

        @invariant()
        def agrees(self) -> None:
            self.model.check()

        def teardown(self) -> None:
            self.model.clear()
            self.model.check()

    run_state_machine_as_test(Machine, settings=PLENTY)
