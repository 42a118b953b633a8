"""Which proxy a URL goes through."""

from __future__ import annotations

import pytest

from hyperd.config.model import RegistryConfig
from hyperd.registry.proxies import ProxySettings, split_host
from hyperd.registry.transport import Transport

ENVIRON = {
    "HTTPS_PROXY": "http://p.example:3128",
    "http_proxy": "q.example:80",
    "NO_PROXY": "plain.example, .sub.example,10.0.0.0/8,port.example:8443,[2001:db8::1],192.0.2.7,*.star.example",
}


@pytest.mark.parametrize(
    ("url", "proxy"),
    [
        ("https://a.example/", "http://p.example:3128"),
        ("http://a.example/", "http://q.example:80"),
        ("https://plain.example/", ""),
        ("https://x.plain.example/", ""),
        ("https://notplain.example/", "http://p.example:3128"),
        ("https://x.sub.example/", ""),
        ("https://sub.example/", "http://p.example:3128"),
        ("https://x.star.example/", ""),
        ("https://10.1.2.3:5000/", ""),
        ("https://11.1.2.3:5000/", "http://p.example:3128"),
        ("https://port.example:8443/", ""),
        ("https://port.example/", "http://p.example:3128"),
        ("https://[2001:db8::1]:5000/", ""),
        ("https://192.0.2.7/", ""),
        ("https://localhost:5000/", ""),
        ("http://127.0.0.5/", ""),
        ("https://[::1]/", ""),
    ],
)
def test_proxy_of_a_url(url: str, proxy: str) -> None:
    assert ProxySettings(ENVIRON).proxy_for(url) == proxy


def test_star_means_never() -> None:
    assert ProxySettings({"HTTPS_PROXY": "p", "NO_PROXY": "*"}).proxy_for("https://a.example/") == ""


def test_without_proxies() -> None:
    assert ProxySettings({}).proxy_for("https://a.example/") == ""


@pytest.mark.parametrize(
    ("text", "want"),
    [("a", ("a", None)), ("a:1", ("a", 1)), ("[::1]:2", ("::1", 2)), ("[::1]", ("::1", None)), ("::1", ("::1", None))],
)
def test_host_and_port(text: str, want: tuple[str, int | None]) -> None:
    assert split_host(text) == want


@pytest.mark.parametrize(
    ("host", "insecure"),
    [
        ("localhost:5000", True),
        ("127.3.2.1", True),
        ("[::1]:5000", True),
        ("plain.example", True),
        ("plain.example:5000", True),
        ("ported.example:5000", True),
        ("ported.example:5001", False),
        ("10.2.3.4:5000", True),
        ("mirror.example:80", True),
        ("r.example", False),
    ],
)
def test_insecure_registries(host: str, insecure: bool) -> None:
    config = RegistryConfig(
        insecure=("plain.example", "ported.example:5000", "10.0.0.0/8"), mirrors=("http://mirror.example:80",)
    )
    assert Transport(config, {}).is_insecure(host) is insecure
