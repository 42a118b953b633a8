"""Registries on a bad day: statuses, redirects, proxies, tokens, endless lists."""

from __future__ import annotations

import json
import threading
import time
import urllib.parse
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from hyperd.config.model import RegistryConfig
from hyperd.errors import (
    Cancelled,
    Forbidden,
    HyperError,
    ImageNotFound,
    InvalidInput,
    RegistryError,
    Timeout,
    Unauthorized,
)
from hyperd.registry.auth import AuthConfig, TokenCache
from hyperd.registry.client import RegistryClient
from hyperd.registry.transport import Stop, Transport
from tests.support.faulty import FaultyRegistry, send
from tests.support.pulls import NAME, Host, noise
from tests.support.until import until

STATUSES = [(401, Unauthorized), (403, Forbidden), (404, ImageNotFound), (400, RegistryError), (500, RegistryError)]


@pytest.mark.parametrize(("status", "error"), STATUSES)
def test_statuses_are_typed_errors(host: Host, registry: FaultyRegistry, status: int, error: type[HyperError]) -> None:
    body = b'{"errors":[{"code":"SOME_CODE","message":"some message"}]}'

    def fault(handler: Any, path: str) -> bool:
        if "/manifests/" in path:
            send(handler, body, status=status)
        return "/manifests/" in path

    registry.fault = fault
    with pytest.raises(error) as caught:
        host.pull(registry)
    if status != 401:
        assert caught.value.details == f"status code {status}, SOME_CODE: some message"


def test_a_busy_registry_is_asked_again(host: Host, registry: FaultyRegistry) -> None:
    registry.add("t", [noise(10)])
    answers = [429, 503, 200, 502] * 10

    def fault(handler: Any, path: str) -> bool:
        status = answers.pop(0) if path != "/v2/" else 200
        if status != 200:
            send(handler, b"", status=status, Retry_After="0")
        return status != 200

    registry.fault = fault
    assert host.pull(registry).layers


def test_a_silent_registry_is_a_time_out(tmp_path: Path, registry: FaultyRegistry) -> None:
    registry.fault = lambda _handler, path: path != "/v2/" and registry.stall() is None
    patient = Host(tmp_path / "patient", timeout=0.3)
    with pytest.raises(Timeout):
        patient.pull(registry)
    patient.close()


@pytest.mark.parametrize("where", ["manifest", "blob"])
def test_cancelling_is_quick_even_when_the_registry_is_silent(host: Host, registry: FaultyRegistry, where: str) -> None:
    registry.add("t", [noise(1_000_000, n) for n in range(4)])
    reached = threading.Event()

    def fault(handler: Any, path: str) -> bool:
        if f"/{where}s/" not in path or (where == "blob" and len(registry.blobs[path.rpartition("/")[2]]) < 10_000):
            return False
        size = len(registry.blobs[path.rpartition("/")[2]]) if where == "blob" else 1_000_000
        handler.send_response(200)
        handler.send_header("Content-Length", str(size))
        handler.end_headers()
        handler.wfile.write(b"x" * 10)
        handler.wfile.flush()
        reached.set()
        registry.stall()
        return True

    registry.fault = fault
    when: list[float] = []

    def cancelled() -> bool:
        if reached.is_set() and not when:
            when.append(time.monotonic())
        return bool(when)

    with pytest.raises(Cancelled):
        host.pull(registry, cancelled=cancelled)
    until(lambda: not any(t.name.startswith("image-") for t in threading.enumerate()))
    assert time.monotonic() - when[0] < 20.0  # its time-out is 30


def test_a_client_that_left_ends_the_pull(host: Host, registry: FaultyRegistry) -> None:
    registry.add("t", [noise(100_000)])

    def progress(_line: dict[str, Any]) -> None:
        raise BrokenPipeError

    with pytest.raises(BrokenPipeError):
        host.pull(registry, progress=progress)


def test_redirects_lose_the_credentials_and_end(host: Host, registry: FaultyRegistry) -> None:
    with FaultyRegistry() as other:
        _, (digest,) = registry.add("t", [noise(1000)])
        other.blobs.update(registry.blobs)

        def fault(handler: Any, path: str) -> bool:
            if "Authorization" not in handler.headers:
                send(handler, b"", status=401, WWW_Authenticate='Basic realm="x"')
                return True
            if digest in path:
                send(handler, b"", status=307, Location=f"http://{other.host}{path}")
            return digest in path

        registry.fault = fault
        assert host.pull(registry, auth=AuthConfig(username="u", password="p")).layers
        assert [("Authorization" in headers) for _, _, headers in other.requests] == [False]
        for location in ("/v2/again", "file:///etc/passwd", "gopher://x/", "http://"):
            registry.fault = lambda handler, _path, to=location: send(handler, b"", status=302, Location=to) is None
            with pytest.raises(RegistryError, match="redirects"):
                host.pull(registry, "other")


def test_a_proxy_is_used_for_all_but_the_loopback(
    tmp_path: Path, registry: FaultyRegistry, monkeypatch: pytest.MonkeyPatch
) -> None:
    registry.add("t", [noise(1000)])
    monkeypatch.setenv("HTTP_PROXY", f"http://user:pass@{registry.host}")
    monkeypatch.setenv("HTTPS_PROXY", "http://127.0.0.1:1")
    monkeypatch.delenv("NO_PROXY", raising=False)
    proxied = Host(tmp_path / "proxied", insecure=("registry.invalid",))
    name = f"registry.invalid:5000/{NAME}:t"
    assert proxied.service.pull(name, auth=None, progress=lambda _line: None).tags == (name,)
    assert all(path.startswith("http://registry.invalid:5000/v2/") for _, path, _ in registry.requests)
    assert {headers["proxy-authorization"] for _, _, headers in registry.requests} == {"Basic dXNlcjpwYXNz"}
    registry.requests.clear()
    assert proxied.pull(registry).layers
    assert all(path.startswith("/v2/") for _, path, _ in registry.requests)
    proxied.close()


@pytest.mark.parametrize("lifetime", [60, -1])
def test_an_identity_token_is_changed_for_a_bearer_token(host: Host, registry: FaultyRegistry, lifetime: int) -> None:
    registry.add("t", [noise(1000)])
    forms: list[str] = []

    def fault(handler: Any, path: str) -> bool:
        if path == "/token":
            forms.append(handler.body.decode())
            send(handler, json.dumps({"access_token": f"t{len(forms)}", "expires_in": lifetime}).encode())
        elif not handler.headers.get("Authorization", "").startswith("Bearer t"):
            realm = f"http://{registry.host}/token"
            send(handler, b"", status=401, WWW_Authenticate=f'Bearer realm="{realm}",service="s",scope="all:all:all"')
        else:
            return False
        return True

    registry.fault = fault
    host.pull(registry, auth=AuthConfig(identitytoken="the-token"))
    assert forms[0] == (
        "grant_type=refresh_token&refresh_token=the-token&client_id=hyperd&service=s"
        "&scope=repository%3Asome%2Fimage%3Apull"
    )
    assert (len(forms) == 1) == (lifetime > 0)
    forms.clear()
    host.pull(registry, auth=AuthConfig(registrytoken="t-given"))
    assert forms == []


def test_meta_headers_go_along_and_others_do_not(host: Host, registry: FaultyRegistry) -> None:
    registry.add("t", [noise(1000)])
    host.pull(registry, headers={"X-Meta-Team": "a", "Cookie": "b"})
    sent = next(headers for _, path, headers in registry.requests if "/manifests/" in path)
    assert sent["X-Meta-Team"] == "a"
    assert "Cookie" not in sent
    with pytest.raises(InvalidInput):
        host.pull(registry, headers={"X-Meta-Team": "a\r\nInjected: yes"})


Pages = Callable[[list[str], str, str], tuple[list[str], str]]  # tags, last, n -> a page and its Link


def by_ten(tags: list[str], last: str, n: str) -> tuple[list[str], str]:
    start = tags.index(last) + 1 if last in tags else 0
    more = start + 10 < len(tags)
    link = f'<https://inside.example/v2/other/tags/list?last={tags[start + 9]}&n={n}>; rel="next"' if more else ""
    return tags[start : start + 10], link


def by_token(tags: list[str], last: str, n: str) -> tuple[list[str], str]:
    start = int(last.removeprefix("page-") or 0)
    link = f'</x?last=page-{start - 10}>; rel="prev", </x?last=page-{start + 10}>; rel=next'
    return tags[start : start + 10], link if start + 10 < len(tags) else ""


def silently(tags: list[str], last: str, n: str) -> tuple[list[str], str]:
    start = tags.index(last) + 1 if last in tags else 0
    return tags[start : start + int(n)], ""


@pytest.mark.parametrize("pages", [by_ten, by_token, silently])
def test_tags_come_in_pages_of_any_size(registry: FaultyRegistry, pages: Pages) -> None:
    tags = [f"t{number:04}" for number in range(45 if pages is not silently else 2001)]
    serve_tags(registry, lambda last, n: pages(tags, last, n))
    assert tags_of(registry) == tags
    assert registry.count("/tags/list") == (5 if pages is not silently else 3)


def test_pages_of_tags_that_never_end(registry: FaultyRegistry) -> None:
    serve_tags(registry, lambda last, n: (["same"], '</x?last=y>; rel="next"'))
    with pytest.raises(RegistryError, match="more tags than can be listed"):
        tags_of(registry)


def tags_of(registry: FaultyRegistry) -> list[str]:
    transport = Transport(RegistryConfig(timeout=5.0))
    return RegistryClient(transport=transport, tokens=TokenCache(), host=registry.host, path=NAME, stop=Stop()).tags()


def serve_tags(registry: FaultyRegistry, page: Callable[[str, str], tuple[list[str], str]]) -> None:
    def answer(handler: Any, path: str) -> bool:
        where, _, query = path.partition("?")
        if where != f"/v2/{NAME}/tags/list":
            return False
        wanted = dict(urllib.parse.parse_qsl(query))
        tags, link = page(wanted.get("last", ""), wanted.get("n", ""))
        send(handler, json.dumps({"name": NAME, "tags": tags}).encode(), **({"Link": link} if link else {}))
        return True

    registry.fault = answer
