"""What a container runs: the image's defaults and the specification's words."""

from __future__ import annotations

from typing import Any

import pytest

from hyperd.build.commit import own_config
from hyperd.container.plan import merge_program
from hyperd.errors import InvalidInput
from hyperd.spec.model import ContainerSpec

IMAGE = {"config": {"Entrypoint": ["/entry", "x"], "Cmd": ["cmd"]}}


@pytest.mark.parametrize(
    ("entrypoint", "command", "argv"),
    [
        ((), (), ("/entry", "x", "cmd")),
        ((), ("mine",), ("/entry", "x", "mine")),
        (("/own",), (), ("/own",)),
        (("",), ("mine", ""), ("mine", "")),
    ],
)
def test_entrypoint_and_command(entrypoint: tuple[str, ...], command: tuple[str, ...], argv: tuple[str, ...]) -> None:
    spec = ContainerSpec(name="c", image="i", entrypoint=entrypoint, command=command)
    assert merge_program(spec, IMAGE, hostname="h", pod_tty=False).argv == argv


def test_without_an_entrypoint_there_must_be_a_command() -> None:
    spec = ContainerSpec(name="c", image="i", entrypoint=("",))
    with pytest.raises(InvalidInput, match="nothing to run"):
        merge_program(spec, IMAGE, hostname="h", pod_tty=False)


def test_a_commit_keeps_that_the_entrypoint_is_gone() -> None:
    config: dict[str, Any] = {"Entrypoint": ["/entry"], "Cmd": ["cmd"]}
    own_config(config, ContainerSpec(entrypoint=("",), command=("mine",)))
    assert config == {"Entrypoint": [], "Cmd": ["mine"]}
