"""A client of one engine: docker-py below, our values and errors above."""

from __future__ import annotations

import contextlib
import tempfile
import threading
from collections.abc import Generator, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import requests
import urllib3
from docker import errors as docker_errors
from docker.api.client import APIClient
from docker.auth import encode_header
from docker.tls import TLSConfig

from hypercloud.config.model import EnginesConfig
from hypercloud.engine import parse
from hypercloud.engine.address import Address, Policy
from hypercloud.engine.address import parse as parse_address
from hypercloud.engine.model import EngineContainer, EngineSpec
from hypercloud.engine.transport import POOL, guarded_adapter
from hypercloud.errors import CloudError, Conflict, EngineError, EngineUnreachable, Forbidden, NotFound

API_VERSION = "1.41"  # what every engine of the last years speaks; older ones are asked
OLDEST = "1.24"
PING_TIME = 10  # seconds; an engine that has vanished without a word shall not count as up for as long as a timeout
PULL_SILENCE = 300  # seconds between two lines of a pull's progress
_E = TypeVar("_E", bound=BaseException)


@contextlib.contextmanager
def translated(engine: str) -> Iterator[None]:
    """Turn docker-py's errors into ours; they name the engine."""
    try:
        yield
    except docker_errors.APIError as error:
        status = error.response.status_code if error.response is not None else 500
        text = str(error.explanation or error).strip()[:2000]
        kind: type[CloudError] = {404: NotFound, 409: Conflict}.get(status, EngineError)
        raise kind(f"engine {engine}: {_first_line(text)}", details=_rest(text)) from error
    except (KeyError, IndexError, TypeError, ValueError) as error:
        if not isinstance(error, requests.RequestException):
            raise EngineError(
                f"engine {engine} gives an answer that is not the Docker API's",
                details=f"{type(error).__name__}: {error}",
            ) from error
        raise EngineUnreachable(f"engine {engine} does not answer", details=_reason(error)) from error
    except (requests.RequestException, urllib3.exceptions.HTTPError, docker_errors.DockerException, OSError) as error:
        if (forbidden := _cause(error, Forbidden)) is not None:
            raise forbidden from None
        raise EngineUnreachable(
            f"engine {engine} does not answer",
            details=_reason(error),
            resolution="is it running, and is its address right?",
        ) from error


class EngineClient:
    """Speaks with one engine; may be used by many threads.

    Args:
        spec: its address and certificates.
        config: times.
        policy: where connections may lead.

    """

    def __init__(self, spec: EngineSpec, config: EnginesConfig, policy: Policy) -> None:
        self.name = spec.name
        self._spec = spec
        self._config = config
        self._policy = policy
        self._lock = threading.Lock()
        self._networks = threading.Lock()
        self._client: APIClient | None = None
        self.address: Address = parse_address(spec.addr, tls=bool(spec.ssl_cert or spec.ca_cert))
        policy.check(self.address)

    def close(self) -> None:
        """Close all connections that are not in use."""
        with self._lock:
            client, self._client = self._client, None
        if client is not None:
            client.close()

    def docker(self) -> APIClient:
        """Return docker-py's client; made, and its version agreed on, at the first call. Errors: EngineUnreachable."""
        with self._lock:
            if self._client is None:
                with translated(self.name):
                    self._client = self._connect()
            return self._client

    def _connect(self) -> APIClient:
        tls: TLSConfig | bool = False
        with tempfile.TemporaryDirectory(prefix="hypercloud-tls-") as directory:
            if self.address.scheme == "https":
                tls = TLSConfig(verify=True)  # docker-py takes https then; the certificates are loaded below
            client = APIClient(
                base_url=self.address.base_url,
                version=API_VERSION,
                timeout=self._config.timeout,
                tls=tls,
                user_agent="hypercloud",
                max_pool_size=POOL,
            )
            client.trust_env = False  # no proxy of this host's between us and an engine
            client.max_redirects = 0
            if self.address.scheme != "unix":
                adapter = guarded_adapter(self._policy, self._config.connect_timeout)
                if self._spec.ca_cert or self._spec.ssl_cert:
                    _load_certificates(adapter, self._spec, Path(directory))
                client.mount("http://", adapter)
                client.mount("https://", adapter)
                client.verify, client.cert = True, None
            found = str(client.version(api_version=False).get("ApiVersion") or OLDEST)
            if _version(found) < _version(API_VERSION):
                client._version = found
            return client

    # -- looking -----------------------------------------------------------------------------------------------------

    def ping(self) -> None:
        """Ask whether it lives. Errors: EngineUnreachable."""
        with translated(self.name):
            docker = self.docker()  # its own method waits as long as for any other answer
            if docker._result(docker._get(docker._url("/_ping"), timeout=PING_TIME)) != "OK":
                raise EngineUnreachable(f"engine {self.name} does not answer a ping with OK")

    def version(self) -> Mapping[str, Any]:
        """Return what it says of its version."""
        with translated(self.name):
            return dict(self.docker().version())

    def info(self) -> Mapping[str, Any]:
        """Return what it says of its host."""
        with translated(self.name):
            return dict(self.docker().info())

    def container_ids(self) -> list[str]:
        """Return the ids of all containers, stopped ones included."""
        with translated(self.name):
            return [str(one["Id"]) for one in self.docker().containers(all=True)]

    def inspect(self, container: str) -> EngineContainer:
        """Return a container by id or name. Errors: NotFound."""
        with translated(self.name):
            return parse.container(self._spec.id, self.docker().inspect_container(container))

    def image(self, name: str) -> Mapping[str, Any]:
        """Return what the engine says of an image. Errors: NotFound."""
        with translated(self.name):
            return dict(self.docker().inspect_image(name))

    def images(self) -> list[Mapping[str, Any]]:
        """Return all images."""
        with translated(self.name):
            return list(self.docker().images())

    def logs(self, container: str, *, tail: int | str = "all") -> bytes:
        """Return what a container has written, both streams in order of their lines."""
        with translated(self.name):
            data: bytes = self.docker().logs(container, stdout=True, stderr=True, tail=tail, stream=False)
            return data

    def stats(self, container: str) -> Mapping[str, Any]:
        """Return the counters of a container's use of CPU, memory and network, as they are now."""
        with translated(self.name):
            docker = self.docker()
            # Without it the engine takes two readings, a second apart.
            one_shot = True if _version(docker.api_version) >= _version("1.41") else None
            return dict(docker.stats(container, stream=False, one_shot=one_shot))

    # -- doing -------------------------------------------------------------------------------------------------------

    def create(self, config: Mapping[str, Any], name: str | None = None) -> str:
        """Make a container from the API's own description; return its id. Errors: NotFound for the image, Conflict."""
        with translated(self.name):
            return str(self.docker().create_container_from_config(dict(config), name)["Id"])

    def start(self, container: str) -> None:
        """Start a container; one that runs is no error."""
        with translated(self.name):
            self.docker().start(container)

    def stop(self, container: str, timeout: int | None = None) -> None:
        """Stop a container; one that is stopped is no error."""
        with translated(self.name):
            self.docker().stop(container, timeout=self._config.stop_timeout if timeout is None else timeout)

    def restart(self, container: str, timeout: int = 10) -> None:
        """Stop and start a container."""
        with translated(self.name):
            self.docker().restart(container, timeout=timeout)

    def remove(self, container: str, *, volumes: bool = True) -> None:
        """Kill and remove a container; one that is gone is no error."""
        with contextlib.suppress(NotFound), translated(self.name):
            self.docker().remove_container(container, v=volumes, force=True)

    def pull(self, image: str, auth: Mapping[str, str] | None = None) -> Generator[Mapping[str, Any], None, None]:
        """Pull an image; give the engine's progress as it comes.

        Errors: EngineError with the registry's reason; EngineUnreachable when nothing comes for ``PULL_SILENCE``.
        """
        name, tag = _split(image)
        with translated(self.name):
            docker = self.docker()  # its own method waits without end
            response = docker._post(
                docker._url("/images/create"),
                params={"fromImage": name, "tag": tag},
                headers={"X-Registry-Auth": encode_header(dict(auth or {}))},
                stream=True,
                timeout=PULL_SILENCE,
            )
            with contextlib.closing(response):
                docker._raise_for_status(response)
                yield from _checked(self.name, image, docker._stream_helper(response, decode=True))

    def remove_image(self, image: str, *, force: bool = False) -> None:
        """Remove an image. Errors: NotFound, Conflict while it is in use."""
        with translated(self.name):
            self.docker().remove_image(image, force=force)

    def remove_volume(self, volume: str) -> None:
        """Remove a volume; one that is gone is no error. Errors: Conflict while it is in use."""
        with contextlib.suppress(NotFound), translated(self.name):
            self.docker().remove_volume(volume)

    def ensure_network(self, name: str, labels: Mapping[str, str]) -> None:
        """Make a bridge network unless it exists."""
        with self._networks:  # engines make two networks of one name when they are asked twice at the same time
            with translated(self.name):
                known = any(one.get("Name") == name for one in self.docker().networks(names=[name]))
            if not known:
                with contextlib.suppress(Conflict), translated(self.name):
                    self.docker().create_network(name, driver="bridge", labels=dict(labels), check_duplicate=True)

    def networks(self) -> list[Mapping[str, Any]]:
        """Return all networks."""
        with translated(self.name):
            return list(self.docker().networks())

    def remove_network(self, name: str) -> None:
        """Remove a network; one that is gone is no error. Errors: EngineError while a container is in it."""
        with contextlib.suppress(NotFound), translated(self.name):
            self.docker().remove_network(name)

    def connect(self, network: str, container: str, links: Sequence[str]) -> None:
        """Put a container into a further network, with links (``container:alias``); repeating it is no error."""
        pairs = [link.partition(":")[::2] for link in links]
        with contextlib.suppress(Conflict), translated(self.name):
            try:
                self.docker().connect_container_to_network(container, network, links=pairs)
            except docker_errors.APIError as error:
                if "already exists" not in str(error.explanation):
                    raise

    def rename(self, container: str, name: str) -> None:
        """Give a container another name. Errors: Conflict."""
        with translated(self.name):
            self.docker().rename(container, name)


def _checked(engine: str, image: str, lines: Iterator[Mapping[str, Any]]) -> Iterator[Mapping[str, Any]]:
    """Hand on a progress stream, and raise the error that stands in it."""
    for line in lines:
        if "error" in line:
            reason = str(line["error"])
            kind = NotFound if "not found" in reason or "does not exist" in reason else EngineError
            raise kind(f"engine {engine} cannot pull {image}", details=reason[:1000])
        yield line


def _load_certificates(adapter: Any, spec: EngineSpec, directory: Path) -> None:
    """Load an engine's certificates into a transport; the files exist only for that moment."""
    import ssl

    try:
        context = ssl.create_default_context(cadata=spec.ca_cert or None)
        if spec.ssl_cert:
            cert, key = directory / "cert.pem", directory / "key.pem"
            cert.write_text(spec.ssl_cert, encoding="ascii")
            key.touch(mode=0o600)
            key.write_text(spec.ssl_key, encoding="ascii")
            context.load_cert_chain(cert, key)
    except (ssl.SSLError, ValueError) as error:
        raise EngineUnreachable(
            f"the certificates of engine {spec.name} cannot be used", details=str(error), resolution="are they PEM?"
        ) from None
    adapter.init_poolmanager(10, POOL, ssl_context=context)


def _split(image: str) -> tuple[str, str | None]:
    """``name[:tag]`` or ``name@digest`` as docker-py wants it."""
    if "@" in image:
        name, _, digest = image.partition("@")
        return name, digest
    head, _, tail = image.rpartition(":")
    return (head, tail) if head and "/" not in tail else (image, "latest")


def _version(text: str) -> tuple[int, ...]:
    return tuple(int(part) if part.isdecimal() else 0 for part in text.split("."))


def _first_line(text: str) -> str:
    return text.splitlines()[0] if text else "it refused"


def _rest(text: str) -> str:
    return "\n".join(text.splitlines()[1:])


def _cause(error: BaseException, kind: type[_E]) -> _E | None:
    """Find an error of a kind among the reasons of another."""
    seen: list[BaseException | None] = [error]
    for _ in range(20):
        if not seen:
            return None
        one = seen.pop()
        if isinstance(one, kind):
            return one
        if one is not None:
            seen += [one.__cause__, one.__context__, getattr(one, "reason", None)]
            seen += [arg for arg in one.args if isinstance(arg, BaseException)]
            seen = [item for item in seen if isinstance(item, BaseException)]
    return None


def _reason(error: BaseException) -> str:
    """Return the innermost reason of a connection's failure, without a Python object's address."""
    inner = _cause(error, OSError)
    while inner is not None and isinstance(inner, requests.RequestException):
        deeper = inner.args[0] if inner.args and isinstance(inner.args[0], BaseException) else None
        if deeper is None:
            break
        reason = getattr(deeper, "reason", None) or deeper
        words = [one for one in reason.args if isinstance(one, str)]  # beside them may be a connection
        return (words[-1] if words else str(reason)).rsplit("> ", maxsplit=1)[-1].rsplit("): ", maxsplit=1)[-1][:300]
    return str(inner or error)[:300]
