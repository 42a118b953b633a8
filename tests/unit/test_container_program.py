"""What a container runs: the image's defaults and the specification's words."""

from __future__ import annotations

import errno
from typing import Any

import pytest

from hyperd.build.commit import own_config
from hyperd.container.plan import merge_program
from hyperd.container.process import set_up_error
from hyperd.errors import AgentError, InvalidInput
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


@pytest.mark.parametrize(
    ("said", "number", "told"),
    [
        ("USER: no user bob in /etc/passwd", errno.ENOENT, "no user bob in /etc/passwd"),
        ("CWD /etc/passwd: Not a directory", errno.ENOTDIR, "working directory /etc/passwd: Not a directory"),
        (
            "CWD /a: Too many levels of symbolic links",
            errno.ELOOP,
            "working directory /a: Too many levels of symbolic links",
        ),
        (
            "WRITE /proc/sys/no/such: No such file or directory",
            errno.ENOENT,
            "sysctl /proc/sys/no/such: No such file or directory",
        ),
        ("USER: Input/output error", errno.EIO, ""),
        ("CWD /a: No space left on device", errno.ENOSPC, ""),
        ("WRITE /run/x: No such file or directory", errno.ENOENT, ""),
        ("the guest of vm-a is gone", 0, ""),
    ],
)
def test_what_the_guest_finds_wrong_with_a_specification_is_no_fault(said: str, number: int, told: str) -> None:
    error = AgentError(said, errno=number)
    found = set_up_error(error)
    if told:
        assert (type(found), str(found)) == (InvalidInput, told)
    else:
        assert found is error


def test_a_commit_keeps_that_the_entrypoint_is_gone() -> None:
    config: dict[str, Any] = {"Entrypoint": ["/entry"], "Cmd": ["cmd"]}
    own_config(config, ContainerSpec(entrypoint=("",), command=("mine",)))
    assert config == {"Entrypoint": [], "Cmd": ["mine"]}
