"""Requests made of the OpenAPI document (schemathesis), sent to a real daemon whose VMs only pretend.

Half of the parameters that name something are given the name of something that exists: else nearly all requests would
end at the first look-up. Needs ``pip install -e '.[fuzz]'``.
"""

from __future__ import annotations

import contextlib
import http.client
import json
import math
import random
import time
import urllib.parse
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import schemathesis
from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis import strategies as st
from hypothesis.errors import HypothesisException, Unsatisfiable
from schemathesis import GenerationMode

from tests.fuzz.answers import excused, is_failure
from tests.fuzz.seeds import seeds
from tests.support.daemon import HyperdLauncher, UnixConnection
from tests.support.registry import RegistryServer

HANGS_AFTER = 30.0  # seconds
CASES = 8  # of one operation, one mode and one round
ALIKE = 3  # requests of one case, with other names: making a case takes longer than answering it
STREAM_SECONDS = 0.3  # that an answer without an end is listened to
# Their answers come when something happens, or have no end.
WAITING = (
    "/attach", "/container/exitcode", "/container/wait", "/container/logs", "/container/stats", "/events",
    "/exec/start", "/execvm", "/exitcode",
)  # fmt: skip
NAMES = {
    "container": ("kept-c", "made-c"),
    "pod": ("kept", "made"),
    "podId": ("kept", "made"),
    "podName": ("kept", "made"),
    "pod_id": ("kept", "made"),
    "imageId": ("{image}", "made/image"),
    "imageName": ("{image}",),
    "names": ("{image}",),
    "volume": ("kept", "made"),
    "network": ("kept", "bridge"),
}


@dataclass
class Result:
    """What came of the requests so far; ``faults`` are told with what repeats them.

    ``refusals``: answers with 500 that say what the pretended host was told to fail in, or its guest cannot do.
    """

    requests: int = 0
    statuses: Counter[int] = field(default_factory=Counter)
    operations: Counter[str] = field(default_factory=Counter)
    refusals: Counter[str] = field(default_factory=Counter)
    faults: dict[str, str] = field(default_factory=dict)


class ApiFuzz:
    """See the module's docstring.

    Args:
        daemon: running, with the fake driver.
        registry: has ``busybox``.
        start: of everything random.

    """

    def __init__(self, daemon: HyperdLauncher, registry: RegistryServer, *, start: int) -> None:
        self._daemon = daemon
        self._image = f"{registry.host}/busybox"
        self._start = start
        self._rng = random.Random(start)
        self._document = daemon.json("GET", "/openapi.json")
        self.result = Result()
        self._logged = 0

    def prepare(self) -> None:
        """Make what requests are to find."""
        daemon = self._daemon
        daemon.request("POST", "/image/create", imageName=self._image)
        for name in ("kept", "made"):
            container = {"name": f"{name}-c", "image": self._image, "command": ["sleep", "1000"]}
            daemon.request("POST", "/pod/create", body={"id": name, "containers": [container]})
            daemon.request("POST", "/pod/start", podId=name)
            daemon.request("POST", "/volume/create", body={"name": name})
            daemon.request("POST", "/network/create", body={"name": name})
        daemon.request("POST", "/image/tag", imageId=self._image, repo="made/image")

    def clear(self) -> None:
        """Remove pods and networks."""
        for row in self._daemon.json("GET", "/list", item="pod")["podData"]:
            self._daemon.request("DELETE", "/pod", podId=row.split(":")[0])
        self._daemon.json("POST", "/network/prune")

    def run(self, count: int, *, seconds: float = math.inf) -> Result:
        """Send so many requests, or for so long, in rounds over all operations."""
        until = time.monotonic() + seconds
        archives = [*seeds("context"), *seeds("archive"), *seeds("compression")]
        tars = st.sampled_from(archives) | st.binary(max_size=2000)
        schemathesis.openapi.media_type("application/x-tar", tars)
        schema = schemathesis.openapi.from_dict(self._document)
        operations = [found.ok() for found in schema.get_all_operations()]
        number = 0
        while self.result.requests < count and time.monotonic() < until:
            number += 1
            self.prepare()
            for operation in self._rng.sample(operations, len(operations)):
                if self.result.requests >= count or time.monotonic() > until:
                    break
                for mode in (GenerationMode.POSITIVE, GenerationMode.NEGATIVE):
                    self._some(operation, mode, CASES, number)
            self._read_log()
        return self.result

    def _some(self, operation: Any, mode: GenerationMode, count: int, number: int) -> None:
        """Send some requests of one operation."""

        @seed(self._start + number)
        @settings(
            max_examples=count,
            phases=[Phase.generate],
            suppress_health_check=list(HealthCheck),
            database=None,
            deadline=None,
        )
        @given(case=operation.as_strategy(generation_mode=mode))
        def each(case: Any) -> None:
            for _ in range(ALIKE if self._has_names(case) else 1):
                self._send(case)

        with contextlib.suppress(Unsatisfiable, HypothesisException, schemathesis.errors.SchemathesisError):
            each()

    def _has_names(self, case: Any) -> bool:
        return any(key in NAMES for key in [*(case.query or ()), *(case.path_parameters or ())])

    def _send(self, case: Any) -> None:
        path, query, headers = self._where(case)
        body = case.body
        data = None
        if isinstance(body, (bytes, str)):
            data = body.encode("utf-8", "surrogatepass") if isinstance(body, str) else body
        elif type(body).__name__ != "NotSet":
            with contextlib.suppress(TypeError, ValueError):
                data = json.dumps(body).encode()
                headers["Content-Type"] = case.media_type or "application/json"
        target = path + (f"?{query}" if query else "")
        told = f"{case.method.upper()} {target[:2000]} {data[:2000] if data else ''!r}"
        self.result.requests += 1
        self.result.operations[f"{case.method.upper()} {case.operation.path}"] += 1
        began = time.monotonic()
        try:
            status, answer = self._ask(case.method.upper(), target, data, headers, waits=case.operation.path in WAITING)
        except (OSError, http.client.HTTPException, ValueError) as error:
            if isinstance(error, ValueError) or not isinstance(error, TimeoutError):
                self._refused(error, told)
            else:
                self.result.faults[f"hangs: {case.operation.path}"] = told
            return
        self.result.statuses[status] += 1
        if is_failure(status):
            said = f"{status} {case.operation.path}: {answer.decode(errors='replace').strip()[:200]}"
            if excused(answer):
                self.result.refusals[said] += 1
            else:
                self.result.faults[said] = told
        if time.monotonic() - began > HANGS_AFTER:
            self.result.faults[f"slow: {case.operation.path}"] = told

    def _refused(self, error: Exception, told: str) -> None:
        """Take a request that no client can send (ValueError), or one whose connection was closed."""
        process = self._daemon.process
        if not isinstance(error, ValueError) and process is not None and process.poll() is not None:
            self.result.faults["the daemon has ended"] = told
            raise AssertionError(f"the daemon has ended: {told}") from error

    def _where(self, case: Any) -> tuple[str, str, dict[str, str]]:
        """Return path, query and headers, with some names of what exists."""
        query = dict(case.query or {})
        for key in query:
            if key in NAMES and self._rng.random() < 0.5:
                query[key] = self._rng.choice(NAMES[key]).format(image=self._image)
            if key == "command":
                query[key] = json.dumps(["true"])  # programs of pretended VMs run on this host
            if key in {"timeout", "t"} and self._rng.random() < 0.9:
                query[key] = "0"
        path = case.operation.path
        for key, value in (case.path_parameters or {}).items():
            given_name = key in NAMES and self._rng.random() < 0.5
            text = self._rng.choice(NAMES[key]) if given_name else str(value)
            path = path.replace(f"{{{key}}}", urllib.parse.quote(text, safe="", errors="replace"))
        headers = {str(key): str(value) for key, value in (case.headers or {}).items()}
        return path, urllib.parse.urlencode(list(_pairs(query)), errors="replace"), headers

    def _ask(
        self, method: str, target: str, data: bytes | None, headers: dict[str, str], *, waits: bool
    ) -> tuple[int, bytes]:
        """Send one request. Errors: TimeoutError when the answer takes too long, though nothing is waited for."""
        connection = UnixConnection(self._daemon.socket, STREAM_SECONDS if waits else HANGS_AFTER)
        with contextlib.closing(connection):
            connection.request(method, target, body=data, headers=headers)
            try:
                answer = connection.getresponse()
                return answer.status, answer.read(1 << 16)
            except TimeoutError:
                if waits:
                    return 0, b""
                raise

    def _read_log(self) -> None:
        """Look for exceptions that nobody has expected."""
        text = self._daemon.log()
        new, self._logged = text[self._logged :], len(text)
        for at in _places(new, "Traceback (most recent call last)"):
            shown = new[max(0, at - 600) : at + 3000]
            self.result.faults[f"traceback: {shown.strip().splitlines()[-1][:200]}"] = shown


def _pairs(query: dict[str, Any]) -> Iterator[tuple[str, str]]:
    for key, value in query.items():
        for one in value if isinstance(value, list) else [value]:
            yield key, one if isinstance(one, str) else json.dumps(one)


def _places(text: str, word: str) -> Iterator[int]:
    at = text.find(word)
    while at >= 0:
        yield at
        at = text.find(word, at + 1)
