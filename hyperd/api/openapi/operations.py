"""What every route reads and answers, as a table; its summary is the docstring of the view."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from hyperd.api.openapi.schemas import COUNT, FLAG, TEXT, WHOLE, Schema, many, ref

JSON, PLAIN = "application/json", "text/plain; charset=utf-8"
RAW = "application/vnd.docker.raw-stream"
TAR = "application/x-tar"
# What any request may be answered: bad input, a fault of the host, too much at once.
COMMON = (400, 500)


@dataclass(frozen=True, kw_only=True)
class Operation:
    """One method of one path.

    Args:
        tag: kind of object.
        query: parameters, see ``q``. headers: names of headers that are read.
        body: media type and schema; ``body_needed`` tells whether there must be one.
        status, media, schema: of a good answer; a schema of None is no body (or bytes, for a media type).
        upgrade: answers 101 to a client that asks for an upgrade.
        errors: statuses beside COMMON.

    """

    tag: str
    query: Sequence[Schema] = ()
    headers: Sequence[str] = ()
    body: tuple[str, Schema] | None = None
    body_needed: bool = True
    status: int = 200
    media: str = JSON
    schema: Schema | None = None
    upgrade: bool = False
    errors: Sequence[int] = ()
    note: str = ""


def q(name: str, text: str = "", schema: Schema = TEXT, *, needed: bool = False, **more: Any) -> Schema:
    """Return a parameter of the query."""
    return {"name": name, "in": "query", "required": needed, "description": text, "schema": schema, **more}


def json_q(name: str, text: str, schema: Schema, *, needed: bool = False) -> Schema:
    """Return a parameter of the query whose value is JSON."""
    return {
        "name": name,
        "in": "query",
        "required": needed,
        "description": text,
        "content": {JSON: {"schema": schema}},
    }


POD = q("podId", "the pod", needed=True)
POD_NAME = q("podName", "the pod", needed=True)
CONTAINER = q("container", "name, id or unique beginning of an id", needed=True)
SIGNAL = q("signal", "number or name; 15 if not given")
GRACE = q("t", "seconds between stop signal and SIGKILL, up to 3600; without it the containers' own", WHOLE)
IMAGE = q("imageId", "name, id or unique beginning of an id", needed=True)
VOLUME = q("volume", "its name", needed=True)
NETWORK = q("network", "name, id or unique beginning of an id", needed=True)
TTY_EXEC = q("exec", "the exec; without it the container itself")
YES = {**TEXT, "description": "no, 0, false, none and empty mean no, everything else means yes"}
SERVICES = json_q("services", "the services", many(ref("ServiceSpec")), needed=True)
SINCE = q("since", "unix seconds, with a fraction or not, or RFC 3339")
UNTIL = q("until", "the same; the stream ends then")
FILTERS = json_q(
    "filters",
    "event passes when one value of every key fits; keys: type, event, pod, container, image, vm, label",
    {"type": "object", "additionalProperties": many(TEXT)},
)
_REGISTRY = (401, 403, 404, 413, 499, 501, 502, 504, 507)
_LIVE = (404, 409, 412, 503, 504)


def _service(schema: Schema) -> Operation:
    return Operation(tag="services", query=[POD, SERVICES], schema=schema, errors=_LIVE)


def _portmappings(verb: str) -> Operation:
    if verb == "get":
        return Operation(tag="ports", schema=ref("PortMappings"), errors=[404])
    return Operation(
        tag="ports", body=(JSON, many(ref("PortSpec"))), status=204, errors=_LIVE, note="action is add or delete"
    )


def _on_container(**more: Any) -> Operation:
    return Operation(tag="containers", **{"query": [CONTAINER], "schema": ref("Empty"), "errors": _LIVE, **more})


_PUSH = Operation(
    tag="images",
    query=[q("remote", "the repository, or a name with a tag", needed=True), q("tag", "all tags if not given")],
    headers=["X-Registry-Auth"],
    body=(JSON, ref("Credentials")),
    body_needed=False,
    schema=ref("Progress"),
    errors=_REGISTRY,
    note="one object per line",
)
_EXIT_CODE = Operation(
    tag="containers", query=[CONTAINER, TTY_EXEC], schema=ref("ExitCode"), errors=(404, 504), note="waits for the end"
)

_EXEC_OPTIONS = (
    q("env", "NAME=value, may be repeated", many(TEXT)),
    q("workdir", "absolute path; the container's if not given"),
    q("user", "user or user:group; the container's if not given"),
    q("privileged", "with all capabilities", YES),
    q("stdin", "no: its input is empty", YES),
    q("detachKeys", "such as ctrl-p,ctrl-q"),
)

OPERATIONS: dict[str, Operation] = {
    "POST /pod/create": Operation(
        tag="pods",
        query=[json_q("podArgs", "the pod, when there is no body", ref("PodSpec"))],
        body=(JSON, ref("PodSpec")),
        body_needed=False,
        status=201,
        schema=ref("Code"),
        errors=(403, 404, 409, 413, 501, 503, 504, 507),
        note="404 means that an image is missing, and nothing else",
    ),
    "POST /pod/start": Operation(
        tag="pods",
        query=[POD, q("vmId", "an idle VM to run on; a new one if not given")],
        schema=ref("Code"),
        errors=(*_LIVE, 507),
        note="ID is the VM's",
    ),
    "POST /pod/stop": Operation(
        tag="pods",
        query=[POD, q("stopVM", "no keeps the VM, idle", YES), GRACE],
        schema=ref("Code"),
        errors=_LIVE,
    ),
    "DELETE /pod": Operation(tag="pods", query=[POD], schema=ref("Code"), errors=_LIVE),
    "GET /list": Operation(
        tag="pods",
        query=[
            q("item", schema={"enum": ["pod", "container", "vm"]}, needed=True),
            q("pod", "only of this pod"),
            q("vm", "only of this VM"),
        ],
        status=201,
        schema=ref("List"),
    ),
    "GET /pod/info": Operation(tag="pods", query=[POD_NAME], schema=ref("PodInfo"), errors=[404]),
    "GET /pod/stats": Operation(tag="pods", query=[POD], schema=ref("PodStats"), errors=(404, 412)),
    "POST /pod/labels": Operation(
        tag="pods",
        query=[
            POD,
            json_q("labels", "labels to set", {"type": "object", "additionalProperties": TEXT}, needed=True),
            q("override", "true or yes: existing ones, too"),
        ],
        status=201,
        schema=ref("Code"),
        errors=(404, 409, 503),
    ),
    "POST /pod/kill": Operation(
        tag="pods",
        query=[POD_NAME, q("container", "only this one"), SIGNAL],
        schema=ref("Empty"),
        errors=_LIVE,
        note="SIGKILL without a container switches the VM off",
    ),
    "POST /pod/pause": Operation(tag="pods", query=[POD], status=204, errors=_LIVE),
    "POST /pod/unpause": Operation(tag="pods", query=[POD], status=204, errors=_LIVE),
    "POST /pod/checkpoint": Operation(
        tag="pods",
        query=[POD, q("pause", "the pod stays paused", FLAG)],
        media=TAR,
        errors=(*_LIVE, 499, 501, 507),
        note="a tar of checkpoint.json, memory and disk",
    ),
    "POST /pod/restore": Operation(
        tag="pods",
        body=(TAR, {}),
        status=201,
        schema=ref("Code"),
        errors=(403, 404, 409, 413, 499, 501, 503, 507),
        note="what POST /pod/checkpoint has given",
    ),
    "GET /pod/{pod_id}/portmappings": _portmappings("get"),
    "PUT /pod/{pod_id}/portmappings/{action}": _portmappings("put"),
    "GET /network/list": Operation(tag="networks", schema=many(ref("Network"))),
    "GET /network/info": Operation(tag="networks", query=[NETWORK], schema=ref("Network"), errors=(404, 409)),
    "POST /network/create": Operation(
        tag="networks",
        body=(JSON, ref("NetworkSpec")),
        status=201,
        schema=ref("Network"),
        errors=(409, 413, 501, 503),
        note="without a subnet a free one is chosen",
    ),
    "DELETE /network": Operation(tag="networks", query=[NETWORK], schema=ref("Code"), errors=(403, 404, 409)),
    "POST /network/prune": Operation(
        tag="networks", schema=many(TEXT), note="answers the names of those that were removed"
    ),
    "POST /network/connect": Operation(
        tag="networks",
        body=(JSON, ref("ConnectSpec")),
        schema=ref("Code"),
        errors=(404, 409, 412, 413, 501, 503, 504),
        note="a pod that runs gets a NIC at once",
    ),
    "POST /network/disconnect": Operation(
        tag="networks",
        body=(JSON, ref("ConnectSpec")),
        schema=ref("Code"),
        errors=(404, 409, 412, 413, 501, 503, 504),
        note="pod and network count, the rest is left out",
    ),
    "GET /volume/list": Operation(tag="volumes", schema=many(ref("NamedVolume"))),
    "GET /volume/info": Operation(tag="volumes", query=[VOLUME], schema=ref("NamedVolume"), errors=[404]),
    "POST /volume/create": Operation(
        tag="volumes",
        body=(JSON, ref("NamedVolumeSpec")),
        status=201,
        schema=ref("NamedVolume"),
        errors=(409, 413, 501, 507),
        note="without a name one is chosen",
    ),
    "DELETE /volume": Operation(tag="volumes", query=[VOLUME], schema=ref("Code"), errors=(404, 409)),
    "POST /volume/prune": Operation(
        tag="volumes",
        query=[q("all", "those with a name, too", YES)],
        schema={"type": "object", "additionalProperties": COUNT},
        note="answers name and bytes of those that were removed",
    ),
    "GET /service/list": Operation(tag="services", query=[POD], schema=many(ref("ServiceSpec")), errors=[404]),
    "POST /service/add": _service(ref("Done")),
    "POST /service/update": _service(ref("Done")),
    "DELETE /service": _service(ref("Done")),
    "POST /vm/create": Operation(
        tag="vms",
        query=[
            q("cpu", "CPUs", WHOLE),
            q("mem", "MiB", WHOLE),
            q("async", "yes: do not wait until it has booted", YES),
        ],
        schema=ref("Code"),
        errors=(409, 504),
    ),
    "DELETE /vm": Operation(tag="vms", query=[q("vm", "its id", needed=True)], schema=ref("Code"), errors=[404]),
    "POST /container/create": Operation(
        tag="containers",
        query=[POD],
        body=(JSON, ref("ContainerSpec")),
        status=201,
        schema=ref("NewContainer"),
        errors=(403, 404, 409, 412, 413, 501, 503, 504, 507),
        note="404 means that the image is missing, and nothing else",
    ),
    "POST /container/start": _on_container(),
    "POST /container/stop": Operation(tag="containers", query=[CONTAINER, GRACE], schema=ref("Empty"), errors=_LIVE),
    "POST /container/restart": Operation(
        tag="containers",
        query=[CONTAINER, GRACE],
        schema=ref("Empty"),
        errors=_LIVE,
    ),
    "POST /container/kill": Operation(
        tag="containers", query=[CONTAINER, SIGNAL], status=201, schema=ref("Empty"), errors=_LIVE
    ),
    "POST /container/remove": _on_container(status=204, schema=None),
    "POST /container/update": _on_container(body=(JSON, ref("ContainerUpdateSpec")), status=204, schema=None),
    "POST /container/rename": Operation(
        tag="containers",
        query=[q("oldName", needed=True), q("newName", needed=True)],
        schema=ref("Code"),
        errors=(404, 409),
    ),
    "GET /container/info": _on_container(schema=ref("ContainerInfo"), errors=[404]),
    "GET /container/logs": Operation(
        tag="containers",
        query=[
            CONTAINER,
            q("stdout", schema=YES),
            q("stderr", schema=YES),
            q("follow", "continue until the container ends", YES),
            q("timestamps", schema=YES),
            SINCE,
            q("tail", "number of last lines"),
        ],
        media=PLAIN,
        errors=(404, 501),
        note="Docker's multiplexed frames, raw bytes for a terminal's; one of stdout and stderr is needed",
    ),
    "POST /container/commit": Operation(
        tag="containers",
        query=[
            CONTAINER,
            q("repo"),
            q("tag"),
            q("comment"),
            q("author"),
            q("pause", "stand still meanwhile", YES),
            q("changes", "Dockerfile instructions", many(TEXT)),
        ],
        body=(JSON, {"type": "object"}),
        body_needed=False,
        schema=ref("Code"),
        errors=(*_LIVE, 413, 499, 501, 507),
    ),
    "GET /exitcode": _EXIT_CODE,
    "GET /container/exitcode": _EXIT_CODE,
    "GET /container/top": Operation(
        tag="containers",
        query=[CONTAINER, q("psArgs", "-ef if not given; aux, or -o and names of columns")],
        schema=ref("Processes"),
        errors=(404, 412, 504),
    ),
    "GET /container/stats": _on_container(schema=ref("ContainerStats"), errors=(404, 412, 504)),
    "GET /container/changes": _on_container(schema=many(ref("Change"))),
    "GET /container/export": _on_container(media=TAR, schema=None),
    "GET /container/archive": Operation(
        tag="containers",
        query=[
            CONTAINER,
            q("path", "dir/ and dir/. must be directories; of the latter the content", needed=True),
        ],
        media=TAR,
        errors=_LIVE,
    ),
    "GET /container/stat": Operation(
        tag="containers", query=[CONTAINER, q("path", needed=True)], schema=ref("PathStat"), errors=_LIVE
    ),
    "PUT /container/archive": Operation(
        tag="containers",
        query=[
            CONTAINER,
            q("path", "an existing directory", needed=True),
            q("strict", "no directory replaces a file, nor a file a directory", YES),
        ],
        body=(TAR, {}),
        status=204,
        errors=(*_LIVE, 403, 413, 499),
    ),
    "GET /container/wait": _on_container(
        query=[CONTAINER, q("condition", schema={"enum": ["not-running", "next-exit", "removed"]})],
        schema=ref("WaitResult"),
        errors=[404],
        note="the head comes at once, the body when it has happened; not-running if no condition is given",
    ),
    "POST /attach": _on_container(media=RAW, schema=None, upgrade=True, errors=[404]),
    "POST /tty/resize": Operation(
        tag="containers",
        query=[CONTAINER, TTY_EXEC, q("h", "rows", WHOLE, needed=True), q("w", "columns", WHOLE, needed=True)],
        errors=_LIVE,
        media="",
    ),
    "POST /exec/create": Operation(
        tag="execs",
        query=[
            CONTAINER,
            json_q("command", "words; a command line is taken, too", many(TEXT), needed=True),
            q("tty", "yes, true or on: with a terminal"),
            *_EXEC_OPTIONS,
        ],
        status=201,
        schema=ref("ExecId"),
        errors=(404, 412),
    ),
    "POST /exec/start": Operation(
        tag="execs",
        query=[CONTAINER, q("exec", needed=True), q("detach", "run without a client; answers the exec", YES)],
        media=RAW,
        upgrade=True,
        errors=(404, 409, 412),
        note="with detach the answer is an ExecInfo as JSON",
    ),
    "GET /exec/info": Operation(
        tag="execs",
        query=[q("exec", needed=True)],
        schema=ref("ExecInfo"),
        errors=[404],
        note="ended ones: ten minutes",
    ),
    "GET /exec/list": Operation(tag="execs", query=[CONTAINER], schema=many(ref("ExecInfo")), errors=[404]),
    "POST /exec/kill": Operation(
        tag="execs", query=[q("exec", needed=True), SIGNAL], schema=ref("Empty"), errors=(404, 412)
    ),
    "POST /exec/run": Operation(
        tag="execs",
        query=[
            CONTAINER,
            json_q("command", "words; a command line is taken, too", many(TEXT), needed=True),
            q("timeout", "seconds until it is killed, 30 if not given", WHOLE),
            q("limit", "bytes of each output that are kept, 1048576 if not given", WHOLE),
            *_EXEC_OPTIONS,
        ],
        schema=ref("ExecResult"),
        errors=(404, 412, 504),
    ),
    "POST /execvm": Operation(
        tag="execs",
        query=[q("pod", needed=True), json_q("command", "words", many(TEXT), needed=True)],
        media=RAW,
        upgrade=True,
        errors=(404, 412),
        note="always raw; the exit code is not told",
    ),
    "GET /images/get": Operation(
        tag="images",
        query=[
            q("all", "also nameless ones that others were built from", YES),
            q("filter", "pattern of names"),
            json_q("filters", "dangling", {"type": "object", "properties": {"dangling": {}}}),
        ],
        schema=ref("Images"),
    ),
    "POST /image/create": Operation(
        tag="images",
        query=[
            q("imageName", "what to pull"),
            q("tag", "tag or digest"),
            q("fromSrc", "what to import instead of pulling: a URL, or - for the body"),
            q("repo", "for an import: its name"),
            q("message", "for an import: its comment"),
            q("changes", "Dockerfile instructions", many(TEXT)),
        ],
        headers=["X-Registry-Auth"],
        body=(TAR, {}),
        body_needed=False,
        schema=ref("Progress"),
        errors=_REGISTRY,
        note="one object per line",
    ),
    "DELETE /image": Operation(
        tag="images",
        query=[q("imageId", "name or id", needed=True), q("force", schema=YES), q("noprune", schema=YES)],
        schema=ref("RemovedImages"),
        errors=(404, 409),
    ),
    "POST /image/push": _PUSH,
    "POST /images/push": _PUSH,
    "POST /image/build": Operation(
        tag="images",
        query=[
            q("dockerfile", "its path; Dockerfile if not given"),
            q("t", "name, may be repeated", many(TEXT)),
            q("name", "the same", many(TEXT)),
            q("remote", "URL of the context"),
            q("q", schema=YES),
            q("nocache", schema=YES),
            q("pull", schema=YES),
            q("rm", schema=YES),
            q("forcerm", schema=YES),
            json_q("buildargs", "build arguments", {"type": "object"}),
        ],
        headers=["X-Registry-Config"],
        body=(TAR, {}),
        body_needed=False,
        schema=ref("Progress"),
        errors=_REGISTRY,
        note="one object per line",
    ),
    "POST /image/load": Operation(
        tag="images",
        query=[q("name"), json_q("refs", "image name to OCI reference", {"type": "object"})],
        body=(TAR, {}),
        schema=ref("Progress"),
        errors=(404, 413, 499, 501, 503, 507),
        note="one object per line; docker or OCI archive, compressed or not",
    ),
    "POST /image/tag": Operation(
        tag="images",
        query=[IMAGE, q("repo", "the new name", needed=True), q("tag", "its tag; latest if not given")],
        status=201,
        errors=[404],
    ),
    "GET /image/inspect": Operation(tag="images", query=[IMAGE], schema=ref("Image"), errors=[404]),
    "GET /image/history": Operation(tag="images", query=[IMAGE], schema=many(ref("ImageStep")), errors=[404]),
    "POST /images/prune": Operation(
        tag="images",
        query=[
            q("all", "every image that no container uses, not only nameless ones", YES),
            q("label", "key or key=value that an image must have, may be repeated", many(TEXT)),
            q("until", "only images created before: unix seconds or RFC 3339"),
        ],
        schema=ref("PrunedImages"),
    ),
    "GET /images/df": Operation(tag="images", schema=ref("ImagesUsage")),
    "GET /images/search": Operation(
        tag="images",
        query=[q("term", "[host[:port]/]text", needed=True), q("limit", "25 if not given")],
        headers=["X-Registry-Auth"],
        schema=many(ref("FoundImage")),
        errors=(499, 501, 502, 504),
    ),
    "GET /images/save": Operation(
        tag="images",
        query=[
            q("names", "may be repeated", many(TEXT), needed=True),
            q("format", "oci, or Docker's"),
            json_q("refs", "OCI reference of each image", {"type": "object"}),
        ],
        media=TAR,
        errors=(404, 501, 507),
    ),
    "POST /auth": Operation(
        tag="system", body=(JSON, ref("Credentials")), schema=ref("Login"), errors=(401, 403, 413, 502, 504)
    ),
    "GET /info": Operation(tag="system", schema=ref("Info")),
    "GET /version": Operation(tag="system", schema=ref("Version")),
    "GET /_ping": Operation(tag="system", media=PLAIN, schema={"const": "OK"}),
    "GET /events": Operation(
        tag="system",
        query=[SINCE, UNTIL, FILTERS],
        schema=ref("Event"),
        note="one object per line; what is older than the newest 4096 events or than the daemon is forgotten",
    ),
    "GET /metrics": Operation(tag="system", media="text/plain", note="Prometheus text format, or OpenMetrics"),
    "GET /openapi.json": Operation(tag="system", schema={"type": "object"}),
}
