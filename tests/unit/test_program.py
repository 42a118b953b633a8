"""What a container runs: the image's words and the specification's."""

from __future__ import annotations

import pytest

from hyperd.container.plan import merge_program
from hyperd.errors import InvalidInput
from hyperd.spec.model import ContainerSpec, UserSpec

IMAGE = {"config": {"Entrypoint": ["/e"], "Cmd": ["c"]}}


@pytest.mark.parametrize(
    ("entrypoint", "command", "argv"),
    [
        ((), (), ("/e", "c")),
        ((), ("x",), ("/e", "x")),
        (("/o",), (), ("/o",)),
        (("/o",), ("x",), ("/o", "x")),
        (("",), ("x", "y"), ("x", "y")),
    ],
)
def test_entrypoint_and_command(entrypoint, command, argv):
    spec = ContainerSpec(name="c", entrypoint=entrypoint, command=command)
    assert tuple(merge_program(spec, IMAGE, hostname="h", pod_tty=False).argv) == argv


def test_nothing_to_run():
    with pytest.raises(InvalidInput, match="has nothing to run"):
        merge_program(ContainerSpec(name="c", entrypoint=("",)), IMAGE, hostname="h", pod_tty=False)


@pytest.mark.parametrize(
    ("image", "user", "result"),
    [
        ("", {}, ("", ())),
        ("www:web", {}, ("www:web", ())),
        ("www:web", {"name": "a"}, ("a", ())),
        ("www:web", {"name": "a", "group": "b"}, ("a:b", ())),
        ("www:web", {"group": "b"}, ("www:b", ())),
        ("", {"group": "b"}, ("0:b", ())),
        ("", {"additional_groups": ("c",)}, ("0", ("c",))),
        ("www", {"additional_groups": ("c",)}, ("www", ("c",))),
    ],
)
def test_user_and_groups(image, user, result):
    """A group without a user belongs to the image's user."""
    spec = ContainerSpec(name="c", command=("x",), user=UserSpec(**user))
    program = merge_program(spec, {"config": {"User": image}}, hostname="h", pod_tty=False)
    assert (program.user, tuple(program.groups)) == result
