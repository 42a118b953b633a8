"""`kube play`, `kube down` and `kube generate`: manifests of Kubernetes as pods of this host."""

from __future__ import annotations

import os
import sys

from hyperctl import images, making, output, spec, terminal
from hyperctl.api.client import Client
from hyperctl.api.errors import ApiError, HyperctlError, NotFound, OperationFailed, UsageProblem
from hyperctl.command import App, Argument, Group, Option, command

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from hyperctl.kube.pods import Plan

_FILE = Argument("file", "FILE", complete="file")


@command(
    "play",
    _FILE,
    Option("--replace", flag=True, text="Remove pods of these names first."),
    Option("--no-start", flag=True, text="Create the pods, without starting them."),
    Option("--configmap", many=True, metavar="FILE", complete="file", text="More ConfigMaps and Secrets (repeat)."),
    Option(
        "--pull",
        metavar="WHEN",
        complete="pull",
        text="Pull images: missing, always or never; without it as imagePullPolicy says.",
    ),
    Option("-q", "--quiet", flag=True, text="Print ids alone; do not name what is not understood."),
    examples=(
        "hyperctl kube play site.yaml",
        "hyperctl kube play --replace site.yaml",
        "hyperctl kube play --configmap settings.yaml - < site.yaml",
    ),
)
def _play(
    app: App, *, file: str, replace: bool, no_start: bool, configmap: tuple[str, ...], pull: str, quiet: bool
) -> None:
    """Create and start what a file of manifests describes.

    Pod, Deployment (with its replicas), ConfigMap, Secret and PersistentVolumeClaim are understood; whatever else the
    file says is named and does nothing. When something fails, the pods made so far are removed again.
    """
    plan = _read(file, configmap)
    if not quiet:
        for path in plan.unknown:
            output.complain(f"hyperctl WARNING: {file}: {path} is not understood and does nothing")
    if not plan.pods:
        raise UsageProblem(f"{file} describes no pod")
    if replace:
        for pod in plan.pods:
            _remove(app.client, pod["id"])
    for name in plan.claims:
        app.client.create_volume({"name": name})
    for name in _made(app.client, plan, pull, start=not no_start):
        output.say(name if quiet else f"Pod {name} is {'created' if no_start else 'running'}")


def _read(file: str, more: tuple[str, ...] = ()) -> Plan:
    from hyperctl.kube import pods, reader

    extra = [document for name in more for document in reader.documents(name)]
    return pods.plan(reader.documents(file), extra)


def _made(client: Client, plan: Plan, pull: str, *, start: bool) -> list[str]:
    """Create all pods and start them; a failure or a signal leaves none."""
    made: list[str] = []
    with terminal.leaving():
        try:
            for pod in plan.pods:
                _make_directories(pod, local=client.endpoint.local)
                when, names = _pulled(client, pod, pull)
                _, check = making.create(client, pod, when=when, names=names, note=made.append)
                check()
            for name in made if start else ():
                client.start_pod(name)
        except BaseException:
            making.undo(client, *reversed(made))
            raise
    return made


def _pulled(client: Client, pod: dict[str, Any], when: str) -> tuple[str, list[str]]:
    """Pull the images that shall always be; give when and which others are pulled: --pull wins over the manifest."""
    wanted = [(one["image"], one.pop("pull", "")) for one in pod["containers"]]
    if when:
        return when, [image for image, _ in wanted]
    for image in dict.fromkeys(image for image, policy in wanted if policy == "always"):
        images.pull(client, image, file=sys.stderr)
    missing = [image for image, policy in wanted if policy != "never"]
    return ("missing" if missing else "never"), missing


def _make_directories(pod: dict[str, Any], *, local: bool) -> None:
    """Make the directories of the host that a manifest wants to be made."""
    for volume in pod.get("volumes", []):
        if volume.pop("make", False) and local:
            spec.make_directory(volume["source"])
            if not os.path.isdir(volume["source"]):
                raise UsageProblem(f"cannot make the directory {volume['source']}: it is something else")


def _remove(client: Client, name: str) -> bool:
    """Remove a pod; say whether it was there."""
    try:
        client.remove_pod(name)
    except NotFound:
        return False
    except ApiError:
        if any(row[0] == name for row in client.list_items("pod")):
            raise
        return False
    return True


@command(
    "down",
    _FILE,
    Option("--volumes", flag=True, text="Remove the volumes of its claims, with their files, too."),
    examples=("hyperctl kube down site.yaml", "hyperctl kube down --volumes site.yaml"),
)
def _down(app: App, *, file: str, volumes: bool) -> int:
    """Remove the pods that a file of manifests describes; volumes of its claims stay."""
    status, plan = 0, _read(file)
    for pod in plan.pods:
        try:
            gone = _remove(app.client, pod["id"])
        except (ApiError, OperationFailed) as error:
            output.complain(f"Pod({pod['id']}) delete failed: {error}")
            status = HyperctlError.exit_status
            continue
        output.say(f"Pod {pod['id']} is removed" if gone else f"Pod {pod['id']} was not there")
    for name in plan.claims if volumes else ():
        try:
            app.client.remove_volume(name)
            output.say(f"Volume {name} is removed")
        except NotFound:
            output.say(f"Volume {name} was not there")
        except ApiError as error:
            output.complain(f"volume {name} delete failed: {error}")
            status = HyperctlError.exit_status
    return status


@command(
    "generate",
    Argument("pods", "POD...", many=True, complete="pod"),
    Option("-f", "--file", metavar="FILE", complete="file", text="Write to a file, not to stdout."),
    examples=("hyperctl kube generate web1", "hyperctl kube generate -f site.yaml web1 db1"),
)
def _generate(app: App, *, pods: tuple[str, ...], file: str) -> None:
    """Print manifests that describe pods of this host; what a manifest does not say is named on stderr."""
    from hyperctl.kube import generate

    left: list[str] = []
    text = generate.manifests([(app.client.pod_info(pod), app.client.portmappings(pod)) for pod in pods], left)
    for what in left:
        output.complain(f"hyperctl WARNING: {output.clean(what)} is not in the manifest")
    if not file:
        output.write(text)
        return
    try:
        with open(file, "w", encoding="utf-8") as target:
            target.write(text)
    except OSError as error:
        raise UsageProblem(f"cannot write {file}: {error.strerror}") from error


kube_command = Group("kube", "Run manifests of Kubernetes as pods of this host.", (_play, _down, _generate))
