"""Name servers for guests."""

from __future__ import annotations

from pathlib import Path

import pytest

from hyperd.network.nameservers import find_servers


def written(path: Path, text: str) -> Path:
    path.write_text(text, encoding="utf-8")
    return path


def test_configuration_wins(tmp_path: Path) -> None:
    file = written(tmp_path / "resolv.conf", "nameserver 198.51.100.1\n")
    assert find_servers(("192.0.2.53",), [file]) == ("192.0.2.53",)


@pytest.mark.parametrize(
    ("text", "servers"),
    [
        ("nameserver 198.51.100.1\nnameserver 198.51.100.2\n", ("198.51.100.1", "198.51.100.2")),
        ("# nameserver 198.51.100.9\n;x\nsearch lab\n\tnameserver\t198.51.100.1 # c\n", ("198.51.100.1",)),
        ("nameserver 127.0.0.1\nnameserver 198.51.100.1\nnameserver ::1\n", ("198.51.100.1",)),
        ("nameserver 198.51.100.1\nnameserver 198.51.100.1\n", ("198.51.100.1",)),
        ("".join(f"nameserver 198.51.100.{n}\n" for n in range(1, 6)), tuple(f"198.51.100.{n}" for n in (1, 2, 3))),
        ("nameserver 2001:db8::1\nnameserver fe80::1%eth0\nnameserver 0.0.0.0\n", ()),
        ("nameserver\nnameserver words\n\0\xff", ()),
        ("", ()),
    ],
)
def test_reachable_servers_of_the_file(tmp_path: Path, text: str, servers: tuple[str, ...]) -> None:
    assert find_servers((), [written(tmp_path / "resolv.conf", text)]) == servers


def test_stub_of_systemd_resolved_leads_to_its_real_file(tmp_path: Path) -> None:
    stub = written(tmp_path / "stub", "nameserver 127.0.0.53\noptions edns0\n")
    real = written(tmp_path / "real", "nameserver 198.51.100.7\n")
    assert find_servers((), [stub, real]) == ("198.51.100.7",)


def test_missing_files_are_no_error(tmp_path: Path) -> None:
    assert find_servers((), [tmp_path / "none", tmp_path]) == ()
