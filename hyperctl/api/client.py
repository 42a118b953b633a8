"""The daemon's API as methods: paths, parameters and answers of the original client (reference: hyperctl 1.1.0).

Everything above this module speaks in names and dictionaries, everything below in bytes.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping

from hyperctl import __version__
from hyperctl.api.errors import HyperctlError, OperationFailed, ProgressError, ProtocolError, api_error
from hyperctl.api.streams import Stream
from hyperctl.api.transport import Connection, Endpoint, Response, default_host, parse_host

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Self

    from hyperctl.api.tls import TlsOptions

PLAIN_PREFIX = "/v1.1.0"
HIJACK_PREFIX = "/v1.17"
_ERROR_LIMIT = 1 << 20
_LINE_LIMIT = 1 << 20
_UNRESERVED = frozenset(b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_.~")

Parameters = Mapping[str, "str | Iterable[str]"]
Auth = Mapping[str, str]


def escape(text: str) -> str:
    """Escape for application/x-www-form-urlencoded (WHATWG URL, 5); urllib.parse costs 2 ms of start-up."""
    return "".join(
        chr(byte) if byte in _UNRESERVED else "+" if byte == 0x20 else f"%{byte:02X}"
        for byte in text.encode("utf-8", "surrogateescape")
    )


def query(parameters: Parameters) -> str:
    """Return the query string, keys sorted, a list as a repeated key."""
    pairs = []
    for key in sorted(parameters):
        value = parameters[key]
        pairs += [f"{key}={escape(one)}" for one in ([value] if isinstance(value, str) else value)]
    return "&".join(pairs)


def compact(value: object) -> str:
    """Return JSON as Go's encoder writes it: no spaces, `<`, `>` and `&` escaped."""
    text = json.dumps(value, separators=(",", ":"), ensure_ascii=False)
    return text.replace("&", "\\u0026").replace("<", "\\u003c").replace(">", "\\u003e")


def flag(value: bool) -> str:
    """Return Go's spelling of a boolean."""
    return "true" if value else "false"


class Client:
    """The daemon at one endpoint; plain calls share a connection, every stream has its own.

    Use it as a context manager, or close it. One client is for one thread.

    Args:
        host: `unix:///path` or `tcp://host[:port]`; empty takes HYPER_HOST, or the default. Or an Endpoint.
        tls: how to speak TLS with a daemon on TCP; None for not at all.

    Every method raises CannotConnect, ConnectionLost or ProtocolError when the daemon cannot be spoken to, and
    ApiError (NotFound, Unauthorized) when it refuses. A host that is no address is a UsageProblem.

    """

    def __init__(self, host: str | Endpoint = "", *, tls: TlsOptions | None = None) -> None:
        self.endpoint = host if isinstance(host, Endpoint) else parse_host(host or default_host(), tls)
        self._plain = Connection(self.endpoint)
        self.warnings: list[str] = []  # what the daemon said of pods and containers that it created nevertheless

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the shared connection."""
        self._plain.close()

    # -- how calls are made

    def call(
        self,
        method: str,
        path: str,
        parameters: Parameters | None = None,
        *,
        payload: object = None,
        body: Iterable[bytes] | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> Response:
        """Make a plain call; `payload` is sent as JSON, `body` as it is."""
        target = _target(PLAIN_PREFIX + path, parameters)
        data: bytes | Iterable[bytes] = b""
        sent = {"User-Agent": f"hyperctl/{__version__}"}
        if payload is not None:
            data = compact(payload).encode()
            sent["Content-Type"] = "application/json"
        elif body is not None:
            data = body
        elif method != "GET":
            sent["Content-Type"] = "text/plain"
        if isinstance(data, bytes) and method in {"POST", "PUT"}:
            sent["Content-Length"] = str(len(data))
        response = self._plain.request(method, target, headers={**sent, **(headers or {})}, body=data)
        if response.status >= 400:
            raise _refusal(response, target)
        return response

    def hijack(self, path: str, parameters: Parameters) -> Stream:
        """Make a call whose connection becomes a stream; returns once the daemon has answered 101."""
        target = _target(HIJACK_PREFIX + path, parameters)
        connection = Connection(self.endpoint)
        headers = {
            "User-Agent": f"hyperctl/{__version__}",
            "Content-Length": "0",
            "Content-Type": "text/plain",
            "Connection": "Upgrade",
            "Upgrade": "tcp",
        }
        try:
            response = connection.request("POST", target, headers=headers)
            if response.status >= 400:
                raise _refusal(response, target)
            if response.status != 101:
                raise ProtocolError(f"the daemon answered {response.status} where it must give a stream")
            return Stream(*connection.take_over())
        finally:
            connection.close()

    def value(self, method: str, path: str, parameters: Parameters, **more: Any) -> object:
        """Make a call that answers JSON of any kind."""
        return _parse(self.call(method, path, parameters, **more).read())

    def _object(self, method: str, path: str, parameters: Parameters, **more: Any) -> dict[str, Any]:
        """Make a call that answers a JSON object; an empty body is an empty object."""
        data = _parse(self.call(method, path, parameters, **more).read() or b"{}")
        if not isinstance(data, dict):
            raise ProtocolError("the daemon's answer is not a JSON object")
        return data

    def _done(self, method: str, path: str, parameters: Parameters, **more: Any) -> None:
        """Make a call whose answer matters only by its status."""
        self.call(method, path, parameters, **more).read()

    # -- pods

    def create_pod(self, pod: Mapping[str, Any]) -> str:
        """Create a pod and give its id; NotFound means that an image is missing.

        Raises:
            OperationFailed: the daemon's Code is not 0.

        """
        answer = _coded(self._object("POST", "/pod/create", {}, payload=pod))
        self.warnings += _warnings(answer)
        return str(answer.get("ID", ""))

    def start_pod(self, pod: str) -> None:
        """Start a pod."""
        self._done("POST", "/pod/start", {"podId": pod})

    def stop_pod(self, pod: str, *, grace: int | None = None) -> None:
        """Stop a pod and its VM; `grace` are seconds before SIGKILL, the containers' own when None.

        Raises:
            OperationFailed: the daemon's Code is not 0.

        """
        _coded(self._object("POST", "/pod/stop", {"podId": pod, "stopVm": "yes", **_grace(grace)}))

    def remove_pod(self, pod: str) -> None:
        """Remove a pod, stopping it when it runs.

        Raises:
            OperationFailed: the daemon's Code is neither 0 nor 1 (the VM was shut down).

        """
        _coded(self._object("DELETE", "/pod", {"podId": pod}), good=(0, 1))

    def set_labels(self, pod: str, labels: Mapping[str, str], *, override: bool) -> None:
        """Set labels of a pod; one that has another value already only with `override`."""
        parameters = {"podId": pod, "labels": compact(dict(labels)), "override": flag(override)}
        self._done("POST", "/pod/labels", parameters)

    def kill_pod(self, pod: str, signal: int) -> None:
        """Send a signal, by number, to every container of a pod."""
        self._done("POST", "/pod/kill", {"podName": pod, "signal": str(signal)})

    def pause_pod(self, pod: str) -> None:
        """Suspend the VM of a pod."""
        self._done("POST", "/pod/pause", {"podId": pod})

    def unpause_pod(self, pod: str) -> None:
        """Resume the VM of a pod."""
        self._done("POST", "/pod/unpause", {"podId": pod})

    def checkpoint(self, pod: str, *, pause: bool) -> Response:
        """Ask for a pod that runs as a tar; it stays paused then, or goes on."""
        return self.call("POST", "/pod/checkpoint", {"podId": pod, "pause": "yes" if pause else "no"})

    def restore(self, pieces: Iterable[bytes]) -> str:
        """Make a pod of such a tar and give its id; NotFound means that an image is missing.

        Raises:
            OperationFailed: the daemon's Code is not 0.

        """
        headers = {"Content-Type": "application/x-tar"}
        answer = _coded(self._object("POST", "/pod/restore", {}, body=pieces, headers=headers))
        self.warnings += _warnings(answer)
        return str(answer.get("ID", ""))

    def pod_info(self, pod: str) -> dict[str, Any]:
        """Return PodInfo of a pod."""
        return self._object("GET", "/pod/info", {"podName": pod})

    def pod_stats(self, pod: str) -> dict[str, Any]:
        """Return PodStats of a running pod."""
        return self._object("GET", "/pod/stats", {"podId": pod})

    def portmappings(self, pod: str) -> list[dict[str, Any]]:
        """Return the published ports of a pod."""
        rows = self._object("GET", f"/pod/{escape(pod)}/portmappings", {}).get("portMappings") or []
        return [row for row in rows if isinstance(row, dict)]

    def change_portmappings(self, pod: str, action: str, rules: list[dict[str, str]]) -> None:
        """Apply `add` or `delete` to the published ports of a pod."""
        self._done("PUT", f"/pod/{escape(pod)}/portmappings/{action}", {}, payload=rules)

    # -- containers

    def create_container(self, pod: str, container: Mapping[str, Any]) -> str:
        """Create a container in a pod and give its id; NotFound means that its image is missing."""
        answer = self._object("POST", "/container/create", {"podId": pod}, payload=container)
        self.warnings += _warnings(answer)
        return str(answer.get("ID", ""))

    def start_container(self, container: str) -> None:
        """Start a container."""
        self._done("POST", "/container/start", {"container": container})

    def stop_container(self, container: str, *, grace: int | None = None) -> None:
        """Stop a container; `grace` are seconds before SIGKILL, the container's own when None."""
        self._done("POST", "/container/stop", {"container": container, **_grace(grace)})

    def restart_container(self, container: str, *, grace: int | None) -> None:
        """Stop a container if it runs and start it; `grace` as for `stop_container`."""
        self._done("POST", "/container/restart", {"container": container, **_grace(grace)})

    def remove_container(self, container: str) -> None:
        """Remove a container."""
        self._done("POST", "/container/remove", {"container": container})

    def kill_container(self, container: str, signal: int) -> None:
        """Send a signal, by number, to the main process of a container."""
        self._done("POST", "/container/kill", {"container": container, "signal": str(signal)})

    def update_container(self, container: str, limits: Mapping[str, Any]) -> None:
        """Give a container other limits: `memory` in bytes, `nanoCpus`, `pids` and so on; others stay as they are."""
        self._done("POST", "/container/update", {"container": container}, payload=dict(limits))

    def rename_container(self, container: str, name: str) -> None:
        """Give a container another name."""
        self._done("POST", "/container/rename", {"oldName": container, "newName": name})

    def container_info(self, container: str) -> dict[str, Any]:
        """Return ContainerInfo of a container."""
        return self._object("GET", "/container/info", {"container": container})

    def attach(self, container: str) -> Stream:
        """Join stdin, stdout and stderr of a container's main process, which need not have started yet."""
        return self.hijack("/attach", {"container": container})

    def exit_code(self, container: str, exec_id: str = "") -> int:
        """Wait for the end of a container or an exec and give its exit code."""
        body = self.call("GET", "/exitcode", {"container": container, "exec": exec_id}).read()
        code = _parse(body)
        if not isinstance(code, int):
            raise ProtocolError("the daemon's answer is not an exit code")
        return code & 0xFF

    def resize(self, container: str, exec_id: str, *, rows: int, columns: int) -> None:
        """Set the window size of a container's or an exec's terminal."""
        size = {"h": str(rows), "w": str(columns)}
        self._done("POST", "/tty/resize", {"container": container, "exec": exec_id, **size})

    def logs(self, container: str, *, follow: bool, since: str, tail: str, timestamps: bool) -> Response:
        """Ask for the output a container has left; frames, or raw bytes when it has a terminal."""
        return self.call(
            "GET",
            "/container/logs",
            {
                "container": container,
                "follow": flag(follow),
                "since": since,
                "stderr": "true",
                "stdout": "true",
                "tail": tail,
                "timestamps": flag(timestamps),
            },
        )

    def stat_path(self, container: str, path: str) -> dict[str, Any]:
        """Describe a file of a container: `name`, `mode` (st_mode), `size`, `link`, `target`."""
        return self._object("GET", "/container/stat", {"container": container, "path": path})

    def get_archive(self, container: str, path: str) -> Response:
        """Ask for a file or directory of a container as a tar."""
        return self.call("GET", "/container/archive", {"container": container, "path": path})

    def put_archive(self, container: str, path: str, pieces: Iterable[bytes]) -> None:
        """Unpack a tar into a directory of a container."""
        headers = {"Content-Type": "application/x-tar"}
        self._done("PUT", "/container/archive", {"container": container, "path": path}, body=pieces, headers=headers)

    def changes(self, container: str) -> list[dict[str, Any]]:
        """Return what a container has changed of its image: `path`, `kind` (added, modified, deleted)."""
        rows = self.value("GET", "/container/changes", {"container": container})
        return [row for row in rows if isinstance(row, dict)] if isinstance(rows, list) else []

    def export(self, container: str) -> Response:
        """Ask for a container's file system as a tar."""
        return self.call("GET", "/container/export", {"container": container})

    def top(self, container: str, arguments: str = "") -> dict[str, Any]:
        """Return `titles` and `processes` of a container, as ps with these arguments would."""
        more = {"psArgs": arguments} if arguments else {}
        return self._object("GET", "/container/top", {"container": container, **more})

    def commit(self, container: str, parameters: Parameters) -> str:
        """Make an image of a container and give its id."""
        return str(self._object("POST", "/container/commit", {"container": container, **parameters}).get("ID", ""))

    def create_exec(
        self, container: str, command: list[str], *, tty: bool, more: Mapping[str, str | list[str]] | None = None
    ) -> str:
        """Prepare a process in a container and give its exec id.

        Args:
            container: its name or id.
            command: the process.
            tty: it gets a terminal.
            more: `user`, `workdir`, `env` (a list of KEY=value), `privileged`, where they are not the container's.

        """
        parameters = {"container": container, "command": compact(command), "tty": flag(tty), **(more or {})}
        exec_id = _parse(self.call("POST", "/exec/create", parameters).read())
        if not isinstance(exec_id, str):
            raise ProtocolError("the daemon's answer is not an exec id")
        return exec_id

    def start_exec_detached(self, container: str, exec_id: str) -> None:
        """Start a prepared process that nobody joins."""
        self._done("POST", "/exec/start", {"container": container, "exec": exec_id, "detach": "true"})

    def start_exec(self, container: str, exec_id: str) -> Stream:
        """Start a prepared process and join its streams."""
        return self.hijack("/exec/start", {"container": container, "exec": exec_id})

    def run_exec(
        self,
        container: str,
        command: list[str],
        *,
        timeout: int = 30,
        limit: int = 1 << 20,
        more: Mapping[str, str | list[str]] | None = None,
    ) -> dict[str, Any]:
        """Run a process in a container to its end; give `exitCode`, `stdout`, `stderr`, `timedOut` and `truncated`.

        Args:
            container: its name or id.
            command: the process.
            timeout: seconds after which it is killed.
            limit: most bytes of output.
            more: as for `create_exec`.

        """
        asked = {"container": container, "command": compact(command), "timeout": str(timeout), "limit": str(limit)}
        return self._object("POST", "/exec/run", {**asked, **(more or {})})

    def exec_vm(self, pod: str, command: list[str]) -> Stream:
        """Run a process in the guest itself; its output is never framed."""
        return self.hijack("/execvm", {"pod": pod, "command": compact(command)})

    # -- networks and volumes

    def rows(self, path: str, parameters: Parameters | None = None) -> list[dict[str, Any]]:
        """Return a list of objects: `/network/list`, `/volume/list`."""
        found = self.value("GET", path, parameters or {})
        if not isinstance(found, list) or not all(isinstance(one, dict) for one in found):
            raise ProtocolError("the daemon's answer is not a list of objects")
        return found

    def one(self, path: str, **parameters: str) -> dict[str, Any]:
        """Return an object: `/network/info` with `network`, `/volume/info` with `volume`."""
        return self._object("GET", path, parameters)

    def create_network(self, network: Mapping[str, Any]) -> dict[str, Any]:
        """Make a network: `name`, and `subnet`, `gateway`, `ipRange`, `internal`, `labels`... where wanted."""
        return self._object("POST", "/network/create", {}, payload=network)

    def remove_network(self, network: str) -> None:
        """Remove a network that no pod is on."""
        self._done("DELETE", "/network", {"network": network})

    def connect_network(self, connection: Mapping[str, Any]) -> None:
        """Put a pod on a network: `pod`, `network`, and `ip`, `aliases` where wanted."""
        self._done("POST", "/network/connect", {}, payload=connection)

    def disconnect_network(self, network: str, pod: str) -> None:
        """Take a pod off a network."""
        self._done("POST", "/network/disconnect", {}, payload={"network": network, "pod": pod})

    def prune_networks(self) -> list[str]:
        """Remove all networks that no pod is on, and give their names."""
        found = self.value("POST", "/network/prune", {})
        return [str(one) for one in found] if isinstance(found, list) else []

    def create_volume(self, volume: Mapping[str, Any]) -> dict[str, Any]:
        """Make a volume: `name`, `driver`, `labels`, `options`; one of this name that exists is fine."""
        return self._object("POST", "/volume/create", {}, payload=volume)

    def remove_volume(self, volume: str) -> None:
        """Remove a volume that no container uses, with its files."""
        self._done("DELETE", "/volume", {"volume": volume})

    def prune_volumes(self, *, everything: bool) -> dict[str, int]:
        """Remove volumes that no container uses, those without a name of their own or all; give names and bytes."""
        return self._object("POST", "/volume/prune", {"all": flag(everything)})

    # -- VMs, lists, system

    def create_vm(self, *, cpu: int, memory: int) -> str:
        """Boot an idle VM (memory in MiB) and give its id."""
        answer = self._object("POST", "/vm/create", {"cpu": str(cpu), "mem": str(memory)})
        return str(_coded(answer).get("ID", ""))

    def remove_vm(self, vm: str) -> None:
        """Destroy a VM.

        Raises:
            OperationFailed: the daemon's Code is none of 0, 1, 2 (2 was VM_SHUTDOWN up to v0.7).

        """
        _coded(self._object("DELETE", "/vm", {"vm": vm}), good=(0, 1, 2))

    def list_items(self, item: str, *, pod: str = "", vm: str = "") -> list[list[str]]:
        """Return the rows of `pod`, `container` or `vm`, split into their fields."""
        parameters = {"item": item, **({"pod": pod} if pod else {}), **({"vm": vm} if vm else {})}
        key = {"pod": "podData", "container": "cData", "vm": "vmData"}[item]
        rows = self._object("GET", "/list", parameters).get(key) or []
        return [str(row).split(":") for row in rows]

    def events(self, *, filters: Mapping[str, list[str]], since: str, until: str) -> Iterator[dict[str, Any]]:
        """Yield what happens, as it happens.

        Raises:
            ProgressError: this client was too slow for the daemon.

        """
        given = {"filters": compact(dict(filters)) if filters else "", "since": since, "until": until}
        yield from progress(self.call("GET", "/events", {key: value for key, value in given.items() if value}))

    def info(self) -> dict[str, Any]:
        """Return what the daemon says about itself and its host."""
        return self._object("GET", "/info", {})

    def authenticate(self, auth: Auth) -> str:
        """Check credentials with their registry and give the registry's words."""
        return str(self._object("POST", "/auth", {}, payload=dict(auth)).get("Status", ""))

    # -- images

    def images(self, *, all_images: bool, quiet: bool) -> list[str]:
        """Return the rows `repository:tag:id:created:size` of the images."""
        parameters = {"all": "yes" if all_images else "no", "quiet": "yes" if quiet else "no"}
        rows = self._object("GET", "/images/get", parameters).get("imagesList") or []
        return [str(row) for row in rows]

    def pull(self, image: str, *, auth: str = "") -> Iterator[dict[str, Any]]:
        """Pull an image and yield the progress lines; `auth` is the value of X-Registry-Auth."""
        headers = {"X-Registry-Auth": auth} if auth else {}
        return progress(self.call("POST", "/image/create", {"imageName": image}, headers=headers))

    def push(self, image: str, *, tag: str, auth: str) -> Iterator[dict[str, Any]]:
        """Push an image and yield the progress lines."""
        parameters = {"remote": image, "tag": tag}
        return progress(self.call("POST", "/image/push", parameters, headers={"X-Registry-Auth": auth}))

    def build(self, pieces: Iterable[bytes], parameters: Parameters, *, config: str) -> Iterator[dict[str, Any]]:
        """Build an image from a tar and yield the progress lines; `config` is the value of X-Registry-Config."""
        headers = {"Content-Type": "application/tar"}
        if config:
            headers["X-Registry-Config"] = config
        return progress(self.call("POST", "/image/build", parameters, body=pieces, headers=headers))

    def remove_image(self, image: str, *, force: bool, no_prune: bool) -> list[dict[str, str]]:
        """Remove an image or one of its names; give what was `untagged` and `deleted`, in order.

        Raises:
            OperationFailed: the daemon's Code is neither 0 nor 1.

        """
        parameters = {"imageId": image, "force": flag(force), "noprune": flag(no_prune)}
        answer = _coded(self._object("DELETE", "/image", parameters), good=(0, 1))
        rows = [row for row in answer.get("imagesList") or [] if isinstance(row, dict)]
        return [{"untagged" if key == "untaged" else key: str(name) for key, name in row.items()} for row in rows]

    def save(self, images: list[str], *, layout: str, references: Mapping[str, str]) -> Response:
        """Ask for images as a tar."""
        parameters = {"names": images, "format": layout, "refs": compact(dict(references))}
        return self.call("GET", "/images/save", parameters)

    def load(self, pieces: Iterable[bytes], *, name: str, references: Mapping[str, str]) -> Response:
        """Send a tar of images."""
        parameters = {"name": name, "refs": compact(dict(references))}
        headers = {"Content-Type": "application/x-tar"}
        return self.call("POST", "/image/load", parameters, body=pieces, headers=headers)


def progress(response: Response) -> Iterator[dict[str, Any]]:
    """Yield the JSON lines of a progress stream (Docker's jsonmessage) as they arrive.

    Raises:
        ProgressError: a line says that the operation failed.
        ProtocolError: a line is not a JSON object.

    """
    rest = b""
    for piece in response.pieces():
        *lines, rest = (rest + piece).split(b"\n")
        if len(rest) > _LINE_LIMIT:
            raise ProtocolError("the daemon's answer is not a progress stream")
        yield from map(_progress_line, filter(bytes.strip, lines))
    if rest.strip():
        yield _progress_line(rest)


def _progress_line(line: bytes) -> dict[str, Any]:
    data = _parse(line)
    if not isinstance(data, dict):
        raise ProtocolError("the daemon's answer is not a progress stream")
    detail = data.get("errorDetail")
    if data.get("error") or detail:
        detail = detail if isinstance(detail, dict) else {}
        code = detail.get("code")
        message = str(detail.get("message") or data.get("error"))
        raise ProgressError(message, code=code if isinstance(code, int) else 0)
    return data


def _grace(seconds: int | None) -> dict[str, str]:
    return {} if seconds is None else {"t": str(seconds)}


def _warnings(answer: Mapping[str, Any]) -> list[str]:
    found = answer.get("Warnings")
    return [str(one) for one in found] if isinstance(found, list) else []


def _target(path: str, parameters: Parameters | None) -> str:
    return f"{path}?{query(parameters)}" if parameters else path


def _parse(data: bytes) -> object:
    try:
        return json.loads(data)
    except (ValueError, RecursionError):
        raise ProtocolError("the daemon's answer is not JSON") from None


def _coded(answer: dict[str, Any], *, good: tuple[int, ...] = (0,)) -> dict[str, Any]:
    """Check the Code of an answer; absent is 0."""
    code = answer.get("Code") or 0
    if code not in good:
        raise OperationFailed(code=code, cause=str(answer.get("Cause", "")))
    return answer


def _refusal(response: Response, target: str) -> HyperctlError:
    """Read the text of an answer with status 400 or above and make the error of it."""
    body = b""
    for piece in response.pieces():
        body += piece
        if len(body) > _ERROR_LIMIT:
            break
    text = body.decode("utf-8", "replace")
    return api_error(status=response.status, reason=response.reason, body=text, target=target)
