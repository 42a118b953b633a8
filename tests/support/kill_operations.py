"""What is asked of a daemon that is to die at a step (``tests.support.kills``): which operations pass which steps."""

from __future__ import annotations

import base64
import contextlib
import json
import shutil
import sqlite3
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from tests.support.builds import context
from tests.support.registry import Layer, digest_of, layer_tar, member

if TYPE_CHECKING:
    from tests.support.kills import World

COUNT = "i=0; while :; do i=$((i+1)); echo $i; sleep 0.05; done"  # what pods do
SLEEP = "echo 1; exec sleep 4321"  # what they do where nobody counts the lines of pods that end with their daemon

# Of a pod's start: where a daemon dies whose successor is to die in its own start.
FIRST = (
    "container.start.row_running", "container.start.sent", "network.publish.rows_written",
    "pod.start.container_started", "pod.start.reserved", "pod.start.row_running", "pod.start.state_written",
    "pod.start.vm_made", "vm.domain.started", "vm.start.agent_met", "vm.start.directory_made", "vm.start.row_written",
)  # fmt: skip


class Lost(Exception):
    """The daemon did not answer: it died."""


# Each prepares, and returns what is to be asked for once the step is armed.
Begin = Callable[[], tuple[int, bytes]]
Operation = Callable[["World"], Begin]


def create(world: World) -> Begin:
    pod = world.name()
    volume = {"volume": "v", "path": "/v", "detail": {"name": "v", "source": world.name("volume"), "format": "volume"}}
    file = {"path": "/etc", "filename": "motd"}
    container = {
        "name": f"{pod}-c", "image": world.host.image, "command": ["sh", "-c", world.program],
        "volumes": [volume], "files": [file],
    }  # fmt: skip
    body = {
        "id": pod,
        "containers": [container],
        "files": [{"name": "motd", "content": "hello"}],
        "portmappings": [{"containerPort": "80", "protocol": "tcp"}],
    }
    return lambda: world.ask("POST", "/pod/create", body=body)


def start(world: World) -> Begin:
    """Start from the pool, without it, and with a volume that is filled."""
    variant = world.variant % 3
    if variant == 2:
        detail = {"name": "v", "source": world.name("volume"), "format": "volume"}
        pod = world.make(world.name(), memory=112, volumes=[{"volume": "v", "path": "/etc", "detail": detail}])
    else:
        pod = world.make(world.name(), memory=128 if variant == 0 else 112)
    return lambda: world.ask("POST", "/pod/start", podId=pod)


def join(world: World) -> Begin:
    """Start from the pool on two networks."""
    names = [world.name("network") for _ in range(2)]
    for name in names:
        world.ready("POST", "/network/create", body=_network(world, name))
    pod = world.make(world.name(), networks=[{"network": name} for name in names])
    return lambda: world.ask("POST", "/pod/start", podId=pod)


def cold(world: World) -> Begin:
    """Start by a boot of the kernel, after which a template is made."""
    shutil.rmtree(world.templates, ignore_errors=True)
    pod = world.make(world.name(), memory=112)
    return lambda: world.ask("POST", "/pod/start", podId=pod)


def stop(world: World) -> Begin:
    pod = world.running()
    return lambda: world.ask("POST", "/pod/stop", podId=pod, t=0)


def delete(world: World) -> Begin:
    pod = world.running() if world.variant % 2 == 0 else world.make(world.name())
    return lambda: world.ask("DELETE", "/pod", podId=pod)


def sandbox(world: World) -> Begin:
    """Put a pod on the network of plugins."""
    config = _sandbox(world)
    return lambda: world.cri("RunPodSandbox", config=config)


def sandbox_stop(world: World) -> Begin:
    code, made = world.cri("RunPodSandbox", config=_sandbox(world))
    assert code == 200, made
    return lambda: world.cri("StopPodSandbox", pod_sandbox_id=made.pod_sandbox_id)


def _sandbox(world: World) -> dict[str, Any]:
    name = world.name("sandbox")
    port = 22_000 + 100 * world.daemon.number + world.serial % 100  # others of this try may be there still
    ports = [{"container_port": 80, "host_port": port}]
    return {"metadata": {"name": name, "uid": name, "namespace": "default"}, "port_mappings": ports}


def pause(world: World) -> Begin:
    pod = world.running()
    if world.variant % 2 == 1:
        world.ready("POST", "/pod/pause", podId=pod)
    return lambda: world.ask("POST", f"/pod/{'un' * (world.variant % 2)}pause", podId=pod)


def container_create(world: World) -> Begin:
    pod = world.make(world.name())
    detail = {"name": "v", "source": world.name("volume"), "format": "volume"}
    body = {
        "name": f"{pod}-d", "image": world.host.image, "command": ["sh", "-c", world.program],
        "volumes": [{"volume": "v", "path": "/v", "detail": detail}],
    }  # fmt: skip
    return lambda: world.ask("POST", "/container/create", podId=pod, body=body)


def container_remove(world: World) -> Begin:
    pod = world.running()
    body = {"name": f"{pod}-d", "image": world.host.image, "command": ["sh", "-c", world.program]}
    world.ready("POST", "/container/create", podId=pod, body=body)
    world.ready("POST", "/container/start", container=f"{pod}-d")
    return lambda: world.ask("POST", "/container/remove", container=f"{pod}-d")


def container_stop(world: World) -> Begin:
    pod = world.running()
    return lambda: world.ask("POST", "/container/stop", container=f"{pod}-c", t=0)


def ends(world: World) -> Begin:
    pod = world.make(world.name(), command="i=0; while [ $i -lt 9 ]; do i=$((i+1)); echo $i; done")
    return lambda: world.ask("POST", "/pod/start", podId=pod)


def run_exec(world: World) -> Begin:
    pod = world.running()

    def begin() -> tuple[int, bytes]:
        command = json.dumps(["sh", "-c", "echo hi; sleep 0.2"])
        code, data = world.ask("POST", "/exec/create", container=f"{pod}-c", command=command)
        if code >= 400:
            return code, data
        ident = json.loads(data)
        return world.ask("POST", "/exec/start", container=f"{pod}-c", exec=ident, detach="yes")

    return begin


def pull(world: World) -> Begin:
    """Pull an image whose layers were removed a moment ago (what was read is kept for a day)."""
    world.ready("DELETE", "/image", imageId=world.other, status=(404,))
    return lambda: world.ask("POST", "/image/create", imageName=world.other)


def pull_new(world: World) -> Begin:
    """Pull an image whose layer must be read."""
    name = world.name("new")
    data = world.rng.randbytes(700_000)
    world.registry.push(name, "latest", [Layer(layer_tar([member("data", data)]))])
    return lambda: world.ask("POST", "/image/create", imageName=f"{world.registry.host}/{name}")


def load(world: World) -> Begin:
    world.ready("DELETE", "/image", imageId=world.other, status=(404,))
    headers = {"Content-Type": "application/x-tar"}
    return lambda: world.ask("POST", "/image/load", body=world.archive, headers=headers)


def copy(world: World) -> Begin:
    """Copy files into a pod that are too many for the port."""
    pod = world.running()
    tar = layer_tar([member("tmp/large", bytes(8 << 20))])
    headers = {"Content-Type": "application/x-tar"}
    return lambda: world.ask("PUT", f"/container/archive?container={pod}-c&path=/", body=tar, headers=headers)


def tag(world: World) -> Begin:
    return lambda: world.ask("POST", "/image/tag", imageId=world.other, repo="kill/tag", tag=world.name())


def image_remove(world: World) -> Begin:
    return lambda: world.ask("DELETE", "/image", imageId=world.other)


def commit(world: World) -> Begin:
    pod = world.running(command=f"echo {world.name()} > /made; {world.program}")
    time.sleep(0.2)  # for the file, which nobody tells of; a commit without it passes the same steps
    if world.variant % 2 == 1:
        world.ready("POST", "/pod/stop", podId=pod, t=0)
    return lambda: world.ask("POST", "/container/commit", container=f"{pod}-c", repo="kill/commit", pause="yes")


def build(world: World) -> Begin:
    text = f"FROM {world.host.image}\nCOPY file /file\nRUN echo {world.name()} > /made\n"
    data, headers = context({"Dockerfile": text, "file": "content"}), {"Content-Type": "application/tar"}
    return lambda: world.ask("POST", "/image/build?t=kill/build", body=data, headers=headers)


def push(world: World) -> Begin:
    """Push an image whose layer the registry does not have."""
    tagged = f"{world.registry.host}/{world.name('pushed')}"
    archive = image_archive(f"{tagged}:latest", layer_tar([member(world.name(), b"y" * 1000)]))
    world.ready("POST", "/image/load", body=archive, headers={"Content-Type": "application/x-tar"})
    anybody = {"X-Registry-Auth": base64.b64encode(b"{}").decode()}
    return lambda: world.ask("POST", "/image/push", remote=tagged, headers=anybody)


def image_archive(name: str, layer: bytes) -> bytes:
    """Return an image of one layer as `docker save` writes it."""
    config = {"os": "linux", "architecture": "amd64", "rootfs": {"type": "layers", "diff_ids": [digest_of(layer)]}}
    manifest = [{"Config": "c.json", "RepoTags": [name], "Layers": ["l.tar"]}]
    return layer_tar([
        member("manifest.json", json.dumps(manifest).encode()),
        member("c.json", json.dumps(config).encode()),
        member("l.tar", layer),
    ])  # fmt: skip


def volume_create(world: World) -> Begin:
    return lambda: world.ask("POST", "/volume/create", body={"name": world.name("volume")})


def volume_remove(world: World) -> Begin:
    name = world.name("volume")
    world.ready("POST", "/volume/create", body={"name": name})
    return lambda: world.ask("DELETE", "/volume", volume=name)


def _network(world: World, name: str) -> dict[str, str]:
    """Return a network whose subnet no daemon beside this one takes while this one is dead."""
    number = int(name.rpartition("-")[2])
    return {"name": name, "subnet": f"10.{220 + number % 30}.{world.daemon.number}.0/24"}


def network_create(world: World) -> Begin:
    return lambda: world.ask("POST", "/network/create", body=_network(world, world.name("network")))


def network_remove(world: World) -> Begin:
    name = world.name("network")
    world.ready("POST", "/network/create", body=_network(world, name))
    return lambda: world.ask("DELETE", "/network", network=name)


def save(world: World) -> Begin:
    pod = world.running()
    return lambda: world.ask("POST", "/pod/checkpoint", podId=pod)


def bring_back(world: World) -> Begin:
    """Restore a pod that was saved."""
    pod = world.running()
    code, saved = world.ask("POST", "/pod/checkpoint", podId=pod, pause="yes")
    assert code == 200, saved
    world.ready("DELETE", "/pod", podId=pod)
    return lambda: world.ask("POST", "/pod/restore", body=saved)


def restore(world: World) -> Begin:
    """Start a daemon that finds all kinds of things half done by an earlier one."""
    pods = [world.running(), world.make(world.name(), memory=112), world.running(memory=112)]
    world.die_first(world.rng.choice(FIRST), pods[1])
    if world.variant % 2 == 1:  # as after a crash of the host: a VM that no row knows, a row whose VM is gone
        with contextlib.closing(sqlite3.connect(world.database)) as database, database:
            database.execute("DELETE FROM vms WHERE pod_id = ?", (pods[2],))

    def begin() -> tuple[int, bytes]:
        world.daemon.start(wait=False)
        try:
            world.daemon.wait_ready()
        except AssertionError:
            if world.alive():
                raise
            raise Lost from None
        return 200, b""

    return begin


ANYTHING: tuple[Operation, ...] = (
    create, start, stop, delete, run_exec, pull, load, tag, image_remove, commit, build, volume_create, volume_remove,
    network_create, network_remove, container_create, container_remove, container_stop, ends, pause,
)  # fmt: skip
IN_GUESTS: tuple[Operation, ...] = (commit, build, copy, save, bring_back)  # they need real VMs
# The steps of each are passed by these operations.
GROUPS: dict[str, tuple[Operation, ...]] = {
    "api.request": ANYTHING,
    "build.run": (build,),
    "cni.add": (sandbox,),
    "cni.delete": (sandbox_stop,),
    "cni.plug": (sandbox,),
    "checkpoint.make": (save,),
    "checkpoint.restore": (bring_back,),
    "commit.run": (commit,),
    "container.create": (create, container_create),
    "container.delete": (container_remove,),
    "container.exit": (ends, container_stop),
    "container.start": (start,),
    "container.stop": (container_stop,),
    "database.session": ANYTHING,
    "exec.create": (run_exec,),
    "exec.end": (run_exec,),
    "exec.start": (run_exec,),
    "image.add": (load, build, pull, pull_new),
    "image.delete": (image_remove,),
    "image.load": (load,),
    "image.pull": (pull, pull_new),
    "image.push": (push,),
    "image.store": (pull, load, build, pull_new),
    "image.tag": (tag,),
    "network.create": (network_create,),
    "network.delete": (network_remove,),
    "network.publish": (start,),
    "network.release": (stop, delete),
    "network.tables": (start, stop, network_create),
    "pod.create": (create,),
    "pod.delete": (delete,),
    "pod.pause": (pause,),
    "pod.start": (start,),
    "pod.stop": (stop,),
    "pod.unpause": (pause,),
    "pool.refill": (start,),
    "pool.take": (join, start),
    "restore.pod": (restore,),
    "restore.run": (restore,),
    "restore.vm": (restore,),
    "template.make": (cold,),
    "vm.carrier": (copy,),
    "vm.disk": (cold,),
    "vm.domain": (start, stop, cold),
    "vm.end": (stop, delete),
    "vm.restore": (bring_back,),
    "vm.save": (save,),
    "vm.start": (start, cold),
    "volume.create": (volume_create, create),
    "volume.delete": (volume_remove,),
    "volume.fill": (start,),
    "volume.use": (create,),
}


def group_of(step: str) -> str:
    """Return the group of a step. Errors: KeyError when no operation is known that passes it."""
    group = step.rpartition(".")[0]
    if group not in GROUPS:
        raise KeyError(f"{step}: name the operations that pass it in GROUPS")
    return group


def needs_pool(step: str) -> bool:
    """Tell whether only a daemon with a pool passes a step."""
    return step.startswith("pool.") or step == "pod.start.vm_taken"


def before_guests(step: str) -> bool:
    """Tell whether an operation that needs real VMs passes a step before it has one."""
    return step in ("build.run.directory_made", "build.run.context_read")


def needs_guest(step: str) -> bool:
    """Tell whether only a daemon with real VMs passes a step: those that pretend have no QEMU, and end with it."""
    # What pretends has ended with the daemon; the last needs QEMU.
    later = ("restore.pod.adopted", "restore.vm.unknown_removed", "template.make.state_saved")
    own = ("checkpoint.", "vm.save", "vm.restore", "cni.plug.", "build.", "commit.", "vm.carrier.", "vm.domain")
    return step in later or (step.startswith(own) and not before_guests(step))
