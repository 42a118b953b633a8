"""A client of one cluster: the ``kubernetes`` package below, plain JSON and our errors above.

Objects are JSON as the API has them. The package's classes for them refuse what they do not know, and a cluster may be
older or newer than the package.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator, Mapping
from typing import Any

import urllib3
import yaml

from hypercloud.config.model import EnginesConfig, KubernetesConfig
from hypercloud.engine.ending import Shared
from hypercloud.errors import CloudError, Conflict, EngineError, EngineUnreachable, HostFault, NotFound

MANAGER = "hypercloud"  # of the fields that we set
LONGEST = 2**24  # bytes of an answer's line
Json = dict[str, Any]
# Kinds: where they are, and whether they belong to a namespace.
PATHS = {
    "Namespace": ("/api/v1", "namespaces", False),
    "Node": ("/api/v1", "nodes", False),
    "Pod": ("/api/v1", "pods", True),
    "Service": ("/api/v1", "services", True),
    "Secret": ("/api/v1", "secrets", True),
    "PersistentVolumeClaim": ("/api/v1", "persistentvolumeclaims", True),
    "Deployment": ("/apis/apps/v1", "deployments", True),
    "StatefulSet": ("/apis/apps/v1", "statefulsets", True),
    "DaemonSet": ("/apis/apps/v1", "daemonsets", True),
    "Job": ("/apis/batch/v1", "jobs", True),
}
GONE = 410


class WatchExpired(EngineError):
    """The cluster no longer knows what happened since a version: everything is to be read anew."""


class KubeClient:
    """Speaks with one cluster; may be used by many threads.

    Args:
        config: its kubeconfig and namespace.
        times: how long answers may take.

    Errors: HostFault when the package is missing or the kubeconfig cannot be used.

    """

    def __init__(self, config: KubernetesConfig, times: EnginesConfig) -> None:
        self.namespace = config.namespace
        self._times = times
        self._api = _load(config)
        self.address = str(self._api.configuration.host)

    def close(self) -> None:
        """Close connections that are not in use."""
        self._api.rest_client.pool_manager.clear()

    # -- objects -----------------------------------------------------------------------------------------------------

    def get(self, kind: str, name: str) -> Json:
        """Return an object. Errors: NotFound, EngineError."""
        return self._json("GET", self.path(kind, name))

    def find(self, kind: str, name: str) -> Json | None:
        """Return an object, or None when it is not there. Errors: EngineError."""
        try:
            return self.get(kind, name)
        except NotFound:
            return None

    def objects(self, kind: str, labels: str = "") -> tuple[list[Json], str]:
        """Return all objects with labels, and the version of the list. Errors: EngineError."""
        found = self._json("GET", self.path(kind), {"labelSelector": labels} if labels else {})
        items = found.get("items")
        version = found.get("metadata", {}).get("resourceVersion", "")
        return [one for one in items if isinstance(one, dict)] if isinstance(items, list) else [], str(version)

    def apply(self, kind: str, body: Json) -> Json:
        """Make an object be what a description says; our earlier fields that it does not name go. Errors: EngineError.

        Repeating it changes nothing.
        """
        query = {"fieldManager": MANAGER, "force": "true"}
        path = self.path(kind, str(body["metadata"]["name"]))
        prefix = PATHS[kind][0]
        full = {"apiVersion": "v1" if prefix == "/api/v1" else prefix.removeprefix("/apis/"), "kind": kind, **body}
        return self._json("PATCH", path, query, full, "application/apply-patch+yaml")

    def merge(self, kind: str, name: str, change: Json) -> Json:
        """Change fields of an object. Errors: NotFound, EngineError."""
        query = {"fieldManager": MANAGER}
        return self._json("PATCH", self.path(kind, name), query, change, "application/merge-patch+json")

    def delete(self, kind: str, name: str, *, foreground: bool = False) -> None:
        """Remove an object, and what belongs to it; one that is gone is no error.

        Args:
            kind: of the object.
            name: its.
            foreground: it stays until what belongs to it is gone.

        Errors: EngineError.

        """
        body = {"propagationPolicy": "Foreground" if foreground else "Background"}
        with contextlib.suppress(NotFound):
            self._json("DELETE", self.path(kind, name), {}, body)

    def ping(self) -> str:
        """Return the version of a cluster that answers. Errors: EngineError."""
        return str(self._json("GET", "/version").get("gitVersion") or "")

    def path(self, kind: str, name: str = "", verb: str = "") -> str:
        """Return the path of an object, of all of its kind, or of a verb of it."""
        prefix, plural, inside = PATHS[kind]
        where = f"{prefix}/namespaces/{self.namespace}" if inside else prefix
        return "/".join(one for one in (f"{where}/{plural}", name, verb) if one)

    # -- streams -----------------------------------------------------------------------------------------------------

    def watch(self, kind: str, version: str, labels: str = "") -> Stream:
        """Follow what happens to objects since a version; its lines are events. Errors: EngineError."""
        query = {"watch": "1", "resourceVersion": version, "allowWatchBookmarks": "true", "timeoutSeconds": "240"}
        if labels:
            query["labelSelector"] = labels
        return Stream(self._open("GET", self.path(kind), query, read_time=300.0), self.address)

    def log(self, pod: str, *, tail: int | None, follow: bool) -> Stream:
        """Return what the program of a pod has written, each line with its time. Errors: NotFound, EngineError."""
        query = {"timestamps": "true", "follow": str(follow).lower()}
        if tail is not None:
            query["tailLines"] = str(tail)
        path = self.path("Pod", pod, "log")
        return Stream(self._open("GET", path, query, read_time=None if follow else self._times.timeout), self.address)

    def socket(self, pod: str, command: list[str]) -> Any:
        """Run a program with a terminal in a pod; return the websocket to it. Errors: NotFound, EngineError."""
        from kubernetes.client.exceptions import ApiException
        from kubernetes.stream.ws_client import websocket_call

        self.get("Pod", pod)  # a refused websocket does not say why
        query = [("command", one) for one in command]
        query += [(one, "true") for one in ("stdin", "stdout", "tty")]
        _, url, headers, _, _ = self._api.param_serialize(
            "GET", self.path("Pod", pod, "exec"), query_params=query, header_params={}, auth_settings=["BearerToken"]
        )
        try:
            call: Any = websocket_call
            opened = call(self._api.configuration, "GET", url, headers=headers, _preload_content=False, binary=True)
        except ApiException as error:
            raise EngineError("the cluster cannot run a program in the pod", details=str(error.reason)[:500]) from error
        return opened.sock

    # -- below -------------------------------------------------------------------------------------------------------

    def _json(
        self,
        method: str,
        path: str,
        query: Mapping[str, str] | None = None,
        body: Json | None = None,
        kind: str = "application/json",
    ) -> Json:
        response = self._open(method, path, query, body, kind, read_time=self._times.timeout)
        with _translated(self.address), contextlib.closing(response):
            found = json.loads(response.data or b"{}")
        if not isinstance(found, dict):
            raise EngineError("the cluster gives an answer that is not Kubernetes'", details=path)
        return found

    def _open(
        self,
        method: str,
        path: str,
        query: Mapping[str, str] | None = None,
        body: Json | None = None,
        kind: str = "application/json",
        *,
        read_time: float | None,
    ) -> urllib3.BaseHTTPResponse:
        """Send a request; return the answer when it is a good one."""
        with _translated(self.address):
            method, url, headers, sent, _ = self._api.param_serialize(
                method,
                path,
                query_params=list((query or {}).items()),
                header_params={"Accept": "application/json, */*", "Content-Type": kind},
                body=body,
                auth_settings=["BearerToken"],
            )
            times = urllib3.Timeout(connect=self._times.connect_timeout, read=read_time)
            response = self._api.rest_client.pool_manager.request(
                method,
                url,
                body=None if sent is None else json.dumps(sent),
                headers=headers,
                timeout=times,
                preload_content=False,
                retries=False,
                redirect=False,
            )
            made: urllib3.BaseHTTPResponse = response
            if 200 <= made.status < 300:
                return made
            with contextlib.closing(made):
                data = made.data
        raise _refusal(made.status, data, f"{method} {path}")


class Stream:
    """An answer that comes line by line; ``close`` ends it from another thread."""

    def __init__(self, response: urllib3.BaseHTTPResponse, address: str) -> None:
        self._response = response
        self._address = address
        self._shared = Shared(response.shutdown, response.close)

    def lines(self) -> Iterator[bytes]:
        """Give the lines without their ends, also the last one; longer ones than ``LONGEST`` in pieces.

        Errors: EngineUnreachable when the connection breaks.
        """
        rest = b""
        try:
            with _translated(self._address), self._shared.using() as alive:
                for piece in self._response.stream(2**16) if alive else ():
                    *whole, rest = (rest + piece).split(b"\n")
                    yield from whole
                    if len(rest) > LONGEST:
                        yield rest
                        rest = b""
        except EngineUnreachable:
            if not self._shared.over:
                raise
        if rest and not self._shared.over:
            yield rest

    def events(self) -> Iterator[tuple[str, Json]]:
        """Give the events of a watch: what happened, and the object. Errors: EngineError, WatchExpired."""
        for line in self.lines():
            with _translated(self._address):
                event = json.loads(line)
                kind, thing = str(event["type"]), event["object"]
            if kind == "ERROR":
                status = thing.get("code") if isinstance(thing, dict) else 0
                raise (WatchExpired if status == GONE else EngineError)(f"the cluster ends the watch: {thing}"[:500])
            if isinstance(thing, dict):
                yield kind, thing

    def close(self) -> None:
        """End it."""
        self._shared.end()


def _load(config: KubernetesConfig) -> Any:
    """Return the package's client for a kubeconfig. Errors: HostFault."""
    try:
        from kubernetes.client.api_client import ApiClient
        from kubernetes.client.configuration import Configuration
        from kubernetes.config.config_exception import ConfigException
        from kubernetes.config.kube_config import load_kube_config
    except ModuleNotFoundError as error:
        raise HostFault(
            "the back end kubernetes is not installed",
            details=f"no module {error.name}",
            resolution="pip install 'hyperd[kubernetes]'",
        ) from None
    found = Configuration()
    try:
        load: Any = load_kube_config
        load(str(config.config), config.context or None, client_configuration=found, persist_config=False)
    except (ConfigException, yaml.YAMLError, OSError, ValueError, TypeError, KeyError, AttributeError) as error:
        raise HostFault(f"cannot use the kubeconfig {config.config}", details=str(error)[:500]) from None
    found.connection_pool_maxsize = 64
    client = ApiClient(found)
    client.user_agent = "hypercloud"
    return client


@contextlib.contextmanager
def _translated(address: str) -> Iterator[None]:
    """Turn errors of a connection into ours."""
    try:
        yield
    except CloudError:
        raise
    except (urllib3.exceptions.HTTPError, OSError) as error:
        words = [one for one in error.args if isinstance(one, str)]
        raise EngineUnreachable(
            "the cluster does not answer",
            details=f"{address}: {(words[-1] if words else str(error)).rsplit('): ', maxsplit=1)[-1]}"[:300],
            resolution="does its API server run, and is the kubeconfig right?",
        ) from error
    except (KeyError, TypeError, ValueError) as error:
        raise EngineError(
            "the cluster gives an answer that is not Kubernetes'", details=f"{type(error).__name__}: {error}"[:300]
        ) from error


def _refusal(status: int, data: bytes, about: str) -> CloudError:
    """Return the error for an answer that is no good one."""
    try:
        found = json.loads(data)
        text = str(found["message"]) if isinstance(found, dict) and "message" in found else ""
    except ValueError:
        text = ""
    text = text or data.decode("utf-8", "replace")
    if status in {401, 403}:
        return EngineError(
            "the cluster does not allow it", details=text[:1000], resolution="give the kubeconfig's user the rights"
        )
    if status == GONE:
        return WatchExpired("the cluster no longer knows that version", details=text[:500])
    if status >= 502:  # a proxy in front of it, or it is about to end
        return EngineUnreachable("the cluster does not answer", details=f"{status}: {text[:500]}")
    kind = {404: NotFound, 409: Conflict}.get(status, EngineError)
    return kind("the cluster refuses it", details=f"{about}: {text[:1500]}")
