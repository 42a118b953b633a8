"""Plugins of the Container Network Interface: configurations that hold, and what plugins are told."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path
from typing import Any

import pytest

from hyperd.errors import Busy, HostFault, HyperError, Timeout
from hyperd.network.bridged import BridgeDriver
from hyperd.network.cni import conf
from hyperd.network.cni.driver import CniDriver
from hyperd.network.cni.plugins import Plugins, Target
from hyperd.network.driver import NetworkDriver
from tests.support.until import until

TARGET = Target(
    container="c1",
    namespace="/run/netns/n",
    interface="eth0",
    args={"IgnoreUnknown": "1", "K8S_POD_NAME": "web"},
    runtime={"portMappings": [{"hostPort": 80}], "dns": {"servers": ["10.0.0.10"]}},
)
# Writes down what it was told, and gives a result that names it.
PLUGIN = """#!/bin/sh
name=$(basename $0)
cat > {0}/$CNI_COMMAND-$name.in
env | grep ^CNI_ | sort > {0}/$CNI_COMMAND-$name.env
echo "$CNI_COMMAND $name" >> {0}/order
echo '{{"cniVersion": "1.0.0", "dns": {{}}, "by": "'$name'"}}'
"""


def write(path: Path, text: str) -> None:
    path.write_text(text)
    path.chmod(0o755)


def network(**more: Any) -> conf.NetworkList:
    plugins = [{"type": "one", "colour": "red"}, {"type": "two", "capabilities": {"portMappings": True, "dns": False}}]
    return conf.parse({"cniVersion": "1.0.0", "name": "net", "plugins": plugins, **more})


@pytest.fixture
def seen(tmp_path: Path) -> Path:
    """Make two plugins; give the directory of what they were told."""
    for name in ("one", "two"):
        write(tmp_path / name, PLUGIN.format(tmp_path))
    return tmp_path


def told(seen: Path, what: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((seen / f"{what}.in").read_text())
    return found


def test_a_chain_of_plugins(seen: Path) -> None:
    plugins = Plugins([seen / "none", seen])
    result = plugins.add(network(), TARGET)
    assert result["by"] == "two"
    assert told(seen, "ADD-one") == {"type": "one", "colour": "red", "name": "net", "cniVersion": "1.0.0"}
    second = told(seen, "ADD-two")
    assert second["prevResult"]["by"] == "one"
    assert second["runtimeConfig"] == {"portMappings": [{"hostPort": 80}]}
    assert "capabilities" not in second
    assert (seen / "ADD-two.env").read_text().splitlines() == [
        "CNI_ARGS=IgnoreUnknown=1;K8S_POD_NAME=web",
        "CNI_COMMAND=ADD",
        "CNI_CONTAINERID=c1",
        "CNI_IFNAME=eth0",
        "CNI_NETNS=/run/netns/n",
        f"CNI_PATH={seen / 'none'}:{seen}",
    ]
    plugins.check(network(), TARGET, result)
    plugins.delete(network(), TARGET, result)
    assert told(seen, "CHECK-one")["prevResult"] == told(seen, "DEL-one")["prevResult"] == result
    order = (seen / "order").read_text().splitlines()
    assert order == ["ADD one", "ADD two", "CHECK one", "CHECK two", "DEL two", "DEL one"]


def test_what_old_versions_and_lists_do_not_have(seen: Path) -> None:
    plugins = Plugins([seen])
    plugins.check(network(disableCheck=True), TARGET, {})
    plugins.check(network(cniVersion="0.3.1"), TARGET, {})
    assert not (seen / "order").exists()
    plugins.delete(network(cniVersion="0.3.1"), TARGET, {"by": "two"})
    assert "prevResult" not in told(seen, "DEL-two")


@pytest.mark.parametrize(
    ("script", "error", "text"),
    [
        ('echo \'{"code": 7, "msg": "no room", "details": "in 10.0.0.0/8"}\'; exit 1', HostFault, "no room in 10.0"),
        ('echo \'{"code": 11, "msg": "later"}\'; exit 1', Busy, "later"),
        ("echo crashed >&2; exit 2", HostFault, "crashed"),
        ("echo words", HostFault, "gave no JSON"),
        ("echo '[]'", HostFault, "gave no result"),
        ("sleep 60 & sleep 60", Timeout, "did not end in 0.3 s"),
    ],
)
def test_plugins_that_fail(tmp_path: Path, script: str, error: type[HyperError], text: str) -> None:
    write(tmp_path / "one", f"#!/bin/sh\n{script}\n")
    alone = conf.parse({"cniVersion": "1.0.0", "name": "net", "type": "one"})
    with pytest.raises(error, match=text):
        Plugins([tmp_path], timeout=0.3 if error is Timeout else 30.0).add(alone, TARGET)


def test_a_plugin_that_leaves_something_behind_is_not_waited_for(tmp_path: Path) -> None:
    write(tmp_path / "left", f"#!/bin/sh\nsetsid sh -c 'echo $$ > {tmp_path}/pid; exec sleep 600' &\nsleep 600\n")
    alone = conf.parse({"name": "net", "cniVersion": "1.0.0", "type": "left"})
    try:
        with pytest.raises(Timeout):
            Plugins([tmp_path], timeout=1.0).add(alone, TARGET)
    finally:
        until((tmp_path / "pid").exists)
        os.kill(int((tmp_path / "pid").read_text()), signal.SIGKILL)


def test_a_plugin_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(HostFault, match=r"no network plugin one.*cni_bin_dirs"):
        Plugins([tmp_path]).add(network(), TARGET)
    assert conf.missing(network(), [tmp_path]) == ["one", "two"]


def test_the_first_file_that_can_be_used_holds(tmp_path: Path) -> None:
    with pytest.raises(HostFault, match=r"No such file"):
        conf.find(tmp_path / "none")
    (tmp_path / "readme").write_text("nothing")
    with pytest.raises(HostFault, match=r"has no file that ends in \.conf, \.conflist, \.json"):
        conf.find(tmp_path)
    (tmp_path / "05-broken.conf").write_text("{")
    with pytest.raises(HostFault, match=r"05-broken\.conf cannot be read"):
        conf.find(tmp_path)
    (tmp_path / "20-second.conflist").write_text(
        json.dumps({"cniVersion": "0.4.0", "name": "second", "plugins": [{"type": "a"}]})
    )
    (tmp_path / "10-first.conf").write_text(json.dumps({"cniVersion": "0.4.0", "name": "first", "type": "a"}))
    assert conf.find(tmp_path).name == "first"


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"name": "../x"}, "name is"),
        ({"cniVersion": "0.2.0"}, "cniVersion is '0.2.0'"),
        ({"cniVersion": {}}, "cniVersion is"),
        ({"plugins": []}, "an empty one"),
        ({"plugins": ["one"]}, "a plugin is no object"),
        ({"plugins": [{"type": "../../bin/sh"}]}, "a plugin's type is"),
        ({"plugins": [{"type": "one", "capabilities": []}]}, "capabilities of one"),
    ],
)
def test_configurations_that_cannot_be_right(change: dict[str, Any], text: str) -> None:
    with pytest.raises(HostFault, match=text):
        network(**change)


def test_all_that_a_driver_does_is_asked_of_the_inner_one() -> None:
    contract = {name for name in vars(NetworkDriver) if not name.startswith("_")} & set(vars(BridgeDriver))
    assert contract - set(vars(CniDriver)) == set()
