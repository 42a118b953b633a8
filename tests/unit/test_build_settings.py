"""Parameters that say how a build's steps run, and steps that come from images somebody else has built."""

from __future__ import annotations

from typing import Any, cast

import pytest

from hyperd.api.build_settings import with_settings
from hyperd.build.cache import ImageSteps
from hyperd.build.order import GATEWAY, NO_NETWORK, BuildOrder
from hyperd.errors import HyperError, InvalidInput, NotSupported
from hyperd.image.model import Image
from hyperd.image.transfer.ingest import Intake
from hyperd.spec.model import Ulimit


def order(**given: str | list[str]) -> BuildOrder:
    values = {name: value if isinstance(value, list) else [value] for name, value in given.items()}
    return with_settings(BuildOrder(), lambda name: values.get(name, []), lambda name: f"net-{name}")


def test_what_a_client_sends_by_default_changes_nothing() -> None:
    sent = dict.fromkeys(("memswap", "cpushares", "shmsize"), "0")
    empty = dict.fromkeys(("cpusetcpus", "cpusetmems", "cgroupparent", "isolation"), "")
    assert order(**sent, **empty, networkmode="default", ulimits="[]", cachefrom="[]", version="1") == BuildOrder()
    assert order(ulimits="null", networkmode="bridge") == BuildOrder()


def test_settings() -> None:
    found = order(
        networkmode="none",
        extrahosts=["a:192.0.2.1", "b=[2001:db8::1]", '["c:2001:db8::2", "d:host-gateway"]'],
        shmsize="1048576",
        ulimits='[{"Name":"nofile","Soft":10,"Hard":20},{"name":"core","soft":-1}]',
        cachefrom='["one","two:2"]',
        platform="linux/amd64",
        cpushares="512",
    )
    assert found.network == NO_NETWORK
    assert found.hosts == (("a", "192.0.2.1"), ("b", "2001:db8::1"), ("c", "2001:db8::2"), ("d", GATEWAY))
    assert found.ulimits == (Ulimit(name="nofile", soft=10, hard=20), Ulimit(name="core", soft=-1, hard=-1))
    assert (found.shm_size, found.cache_from, found.platform) == (1048576, ("one", "two:2"), "linux/amd64")
    (note,) = found.notes
    assert note.startswith("cpushares=512 has no effect")


@pytest.mark.parametrize(
    ("given", "error"),
    [
        ({"networkmode": "host"}, NotSupported),
        ({"networkmode": "container:x"}, NotSupported),
        ({"isolation": "hyperv"}, NotSupported),
        ({"securityopt": '["seccomp=x"]'}, NotSupported),
        ({"extrahosts": "a"}, InvalidInput),
        ({"extrahosts": "a:b"}, InvalidInput),
        ({"extrahosts": "a b:192.0.2.1"}, InvalidInput),
        ({"extrahosts": "[1]"}, InvalidInput),
        ({"shmsize": "-1"}, InvalidInput),
        ({"shmsize": "64m"}, InvalidInput),
        ({"ulimits": "{"}, InvalidInput),
        ({"ulimits": "{}"}, InvalidInput),
        ({"ulimits": '[{"Name":1}]'}, InvalidInput),
        ({"ulimits": '[{"Name":"core","Soft":"1"}]'}, InvalidInput),
        ({"cachefrom": "[1]"}, InvalidInput),
    ],
)
def test_settings_that_are_refused(given: dict[str, str], error: type[HyperError]) -> None:
    with pytest.raises(error):
        order(**given)


class Held:
    """An intake that has some layers."""

    def __init__(self, *layers: str) -> None:
        self.layers = layers

    def use_layer(self, diff_id: str) -> bool:
        return diff_id in self.layers


def step(command: str, *, empty: bool = False) -> dict[str, Any]:
    return {"created_by": command} | ({"empty_layer": True} if empty else {})


def test_steps_of_other_images() -> None:
    history = [step("base"), step("ENV", empty=True), step("RUN a"), step("WORKDIR /", empty=True), step("RUN b")]
    image = Image("sha256:i", {"history": history}, (), 0.0, 0, (), diff_ids=("0", "1", "2"))
    steps = ImageSteps([Image("sha256:j", {}, (), 0.0, 0, ()), image])
    intake = cast("Intake", Held("1", "2"))
    assert steps.find(history[:2], ["0"], "RUN a", intake) == "1"
    assert steps.find(history[:3], ["0", "1"], "WORKDIR /", intake) == ""
    assert steps.find(history[:4], ["0", "1"], "RUN b", intake) == "2"
    assert steps.find(history[:2], ["0"], "RUN other", intake) is None
    assert steps.find(history[:2], ["another base"], "RUN a", intake) is None
    assert steps.find(history[:1], ["0"], "RUN a", intake) is None  # without ENV it is another step
    assert steps.find(history, ["0", "1", "2"], "RUN c", intake) is None
    assert steps.find(history[:4], ["0", "1"], "RUN b", cast("Intake", Held("1"))) is None  # its layer is gone
