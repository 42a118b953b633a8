"""Docker's create body as a specification: what is translated, refused, warned about."""

from __future__ import annotations

from typing import Any

import pytest

from hyperd.api.docker import schema
from hyperd.api.docker.create import Order, checked_name, read_order
from hyperd.api.docker.mounts import Mounts
from hyperd.container import isolation
from hyperd.errors import HyperError, InvalidInput, NotSupported
from hyperd.network.ports import PortMapping
from hyperd.pod.netplan import port_mappings
from hyperd.spec.model import ContainerSpec, Healthcheck, NetworkAttachment, PortSpec, Tmpfs

SHELL = {"shell": True}
IDENT = "ab" * 32


def order(config: dict[str, Any] | None = None, host: dict[str, Any] | None = None, **more: Any) -> Order:
    body = {"Image": "busybox", **(config or {}), "HostConfig": host or {}}
    exposed = more.pop("exposed", ())
    return read_order(
        schema.load(schema.Create(), body),
        ident=IDENT,
        name="web",
        exposed=exposed,
        default_memory=128,
        volumes_of=more.pop("volumes_of", lambda _name: Mounts()),
    )


def test_a_container_is_a_pod_of_the_same_id() -> None:
    made = order({"Cmd": ["sleep", "1"], "Env": ["A=b=c"], "User": "1000:100", "Hostname": "h", "Tty": True})
    assert made.pod.id == made.container.id == IDENT
    assert (made.pod.owner, made.pod.hostname) == ("docker", "h")
    assert made.container.command == ("sleep", "1")
    assert made.container.envs == (("A", "b=c"),)
    assert (made.container.user.name, made.container.user.group) == ("1000", "100")
    assert made.container.tty is True
    assert made.container.init is False


def test_without_a_hostname_it_is_the_short_id() -> None:
    assert order().pod.hostname == IDENT[:12]


@pytest.mark.parametrize(
    ("given", "wanted"),
    [(None, ()), ([], ("",)), ([""], ("",)), ("/bin/x", ("/bin/x",)), (["a", "b"], ("a", "b"))],
)
def test_entrypoints(given: Any, wanted: tuple[str, ...]) -> None:
    assert order({"Entrypoint": given}).container.entrypoint == wanted


def test_limits_and_the_size_of_the_vm() -> None:
    made = order(host={"Memory": 256 * 2**20, "NanoCpus": 1_500_000_000, "PidsLimit": 50, "CpuShares": 512})
    limits = made.container.limits
    assert (limits.memory, limits.cpus, limits.pids, limits.cpu_shares) == (256 * 2**20, 1_500_000_000, 50, 512)
    assert made.pod.resource.vcpu == 2
    assert order(host={"CpusetCpus": "0-1,3"}).pod.resource.vcpu == 4
    assert made.pod.resource.memory > 256


@pytest.mark.parametrize(
    ("host", "message"),
    [
        ({"Memory": 1}, "Minimum memory limit"),
        ({"Memory": 2**25, "MemorySwap": 2**24}, "memoryswap limit should be larger"),
        ({"NanoCpus": 1, "CpuQuota": 5}, "Conflicting options"),
        ({"RestartPolicy": {"Name": "sometimes"}}, "unknown policy 'sometimes'"),
        ({"RestartPolicy": {"Name": "always", "MaximumRetryCount": 2}}, "maximum retry count"),
        ({"RestartPolicy": {"Name": "always"}, "AutoRemove": True}, "can't create 'AutoRemove'"),
        ({"PortBindings": {"x/tcp": [{}]}}, "invalid port specification"),
        ({"Binds": ["a:b:c:d"]}, "invalid volume specification"),
        ({"Binds": ["/a:relative"]}, "mount path must be absolute"),
        ({"Binds": ["/a:/x", "/b:/x"]}, "Duplicate mount point"),
        ({"Binds": ["-bad:/x"]}, "invalid characters for a local volume name"),
        ({"Mounts": [{"Type": "bind", "Source": "x", "Target": "/x"}]}, "mount path must be absolute"),
        ({"Tmpfs": {"/x": "size=big"}}, "invalid size"),
        ({"ExtraHosts": ["nothing"]}, "bad format for add-host"),
        ({"SecurityOpt": ["nonsense=1"]}, "invalid --security-opt"),
        ({"Runtime": "kata"}, "unknown or invalid runtime name"),
        ({"NetworkMode": "container:x", "PortBindings": {"80/tcp": []}}, "conflicting options"),
    ],
)
def test_nonsense_is_refused(host: dict[str, Any], message: str) -> None:
    with pytest.raises(InvalidInput) as caught:
        order(host=host)
    assert message in str(caught.value)


@pytest.mark.parametrize(
    ("host", "words"),
    [
        ({"NetworkMode": "host"}, "network namespace of the host"),
        ({"PidMode": "host"}, "process namespace of the host"),
        ({"IpcMode": "host"}, "IPC namespace of the host"),
        ({"UTSMode": "host"}, "UTS namespace of the host"),
        ({"UsernsMode": "host"}, "user namespace of the host"),
        ({"PidMode": "container:x"}, "PidMode"),
        ({"SecurityOpt": ["label=type:svirt_t"]}, "SELinux"),
        (
            {"Mounts": [{"Type": "bind", "Source": "/a", "Target": "/b", "BindOptions": {"NonRecursive": True}}]},
            "NonRecursive",
        ),
        ({"Devices": [{"PathOnHost": "/dev/sda"}]}, "/dev/sda"),
        ({"DeviceRequests": [{"Count": -1}]}, "GPU"),
        ({"StorageOpt": {"size": "1G"}}, "storage-opt"),
        ({"SecurityOpt": ["apparmor=mine"]}, "AppArmor"),
        ({"Binds": ["/a:/b:rshared"]}, "cannot propagate"),
        ({"VolumeDriver": "nfs", "Binds": ["vol:/x"]}, "plugin nfs"),
    ],
)
def test_what_a_vm_cannot_have_is_refused_with_the_reason(host: dict[str, Any], words: str) -> None:
    with pytest.raises(NotSupported) as caught:
        order(host=host)
    assert words in str(caught.value)


def test_what_has_no_effect_is_warned_about_by_name() -> None:
    made = order(host={"BlkioWeight": 300, "CpusetMems": "0", "CgroupParent": "/x", "MemorySwappiness": 5})
    text = "\n".join(made.warnings)
    for key in ("BlkioWeight", "CpusetMems", "CgroupParent", "MemorySwappiness"):
        assert key in text
    assert order(host={"MemorySwappiness": -1}).warnings == ()


def test_ports() -> None:
    made = order(
        {"ExposedPorts": {"90/udp": {}}},
        {
            "PortBindings": {"80/tcp": [{"HostIp": "127.0.0.1", "HostPort": "8080"}], "81": [{"HostPort": ""}]},
            "PublishAllPorts": True,
        },
        exposed=("80/tcp", "443/tcp"),
    )
    assert made.pod.portmappings == (
        PortSpec(container_port="80", host_port="8080", host_ip="127.0.0.1"),
        PortSpec(container_port="81"),
        PortSpec(container_port="90", protocol="udp"),
        PortSpec(container_port="443"),
    )


@pytest.mark.parametrize("everywhere", ["", "0.0.0.0", "::"])  # noqa: S104 - nothing is bound
def test_a_port_on_every_address_has_no_address(everywhere: str) -> None:
    made = order({}, {"PortBindings": {"80/tcp": [{"HostIp": everywhere, "HostPort": "8080"}]}})
    assert made.pod.portmappings == (PortSpec(container_port="80", host_port="8080"),)
    assert port_mappings(made.pod) == [PortMapping("tcp", 8080, 80)]


def test_binds_volumes_and_mounts() -> None:
    made = order(
        {"Volumes": {"/anon": {}, "/data": {}}},
        {
            "Binds": ["/srv/x:/x:ro", "named:/data"],
            "Mounts": [
                {"Type": "volume", "Target": "/v", "VolumeOptions": {"NoCopy": True}},
                {"Type": "tmpfs", "Target": "/t", "TmpfsOptions": {"SizeBytes": 4096}},
            ],
            "Tmpfs": {"/u": "size=1m,mode=755,noexec"},
        },
    )
    refs = {ref.path: ref for ref in made.container.volumes}
    assert set(refs) == {"/anon", "/data", "/x", "/v"}
    assert refs["/x"].read_only
    assert refs["/x"].detail is not None
    assert (refs["/x"].detail.format, refs["/x"].detail.source) == ("vfs", "/srv/x")
    assert refs["/data"].detail is not None
    assert (refs["/data"].detail.format, refs["/data"].detail.source) == ("volume", "named")
    assert refs["/v"].nocopy
    assert made.container.tmpfs == (
        Tmpfs(path="/t", size=4096),
        Tmpfs(path="/u", size=2**20, mode=0o755, options=("noexec",)),
    )
    anonymous = {volume.name: volume.anonymous for volume in made.mounts.volumes}
    assert anonymous.pop("named") is False
    assert list(anonymous.values()) == [True, True]
    assert made.mounts.new_sources == ("/srv/x",)


def test_volumes_from() -> None:
    first = order(host={"Binds": ["/srv/x:/x", "named:/n"]})
    made = order(host={"VolumesFrom": ["other:ro"]}, volumes_of=lambda _name: first.mounts)
    assert {(ref.path, ref.read_only) for ref in made.container.volumes} == {("/x", True), ("/n", True)}
    assert order(host={"VolumesFrom": ""}).container.volumes == ()  # as clients of 2014 send it


@pytest.mark.parametrize(
    ("host", "networking", "wanted"),
    [
        ({}, {}, ()),
        ({"NetworkMode": "default"}, {"default": {}}, ()),
        ({"NetworkMode": "bridge"}, {}, ()),
        ({"NetworkMode": "front"}, {"front": None}, (NetworkAttachment(network="front"),)),
        (
            {"NetworkMode": "front", "Links": ["db:database"]},
            {"front": {"Aliases": ["w"], "IPAMConfig": {"IPv4Address": "10.1.2.3"}, "MacAddress": "02:00:00:00:00:01"}},
            (
                NetworkAttachment(
                    network="front",
                    aliases=("w",),
                    links=(("db", "database"),),
                    ipv4="10.1.2.3",
                    mac="02:00:00:00:00:01",
                ),
            ),
        ),
    ],
)
def test_networks(host: dict[str, Any], networking: dict[str, Any], wanted: tuple[Any, ...]) -> None:
    assert order({"NetworkingConfig": {"EndpointsConfig": networking}}, host).pod.networks == wanted


def test_no_network() -> None:
    assert order(host={"NetworkMode": "none"}).pod.network_disabled
    assert order({"NetworkDisabled": True}).pod.network_disabled


def test_joining_another_container() -> None:
    assert order(host={"NetworkMode": "container:web"}).joins == "web"
    both = order(host={"NetworkMode": "container:web", "PidMode": "container:db"})
    assert (both.joins, both.container.pid_namespace) == ("web", "db")
    with pytest.raises(InvalidInput, match="needs the name"):
        order(host={"NetworkMode": "container:web", "PidMode": "container:"})


@pytest.mark.parametrize(
    ("given", "wanted"),
    [
        (None, None),
        ({"Test": ["NONE"]}, Healthcheck(disabled=True)),
        ({"Test": ["CMD-SHELL", "true"], "Interval": 10**9}, Healthcheck(argv=("true",), interval=1.0, **SHELL)),
        ({"Test": ["CMD", "a", "b"], "Retries": 2}, Healthcheck(argv=("a", "b"), retries=2)),
        ({"Test": [], "Timeout": 2 * 10**9}, Healthcheck(timeout=2.0)),
    ],
)
def test_health_checks(given: Any, wanted: Healthcheck | None) -> None:
    assert order({"Healthcheck": given}).container.healthcheck == wanted


def test_security_options() -> None:
    made = order(
        host={
            "SecurityOpt": ["seccomp=unconfined", "no-new-privileges", "label=disable", "systempaths=unconfined"],
            "CapAdd": ["CAP_NET_ADMIN"],
            "CapDrop": ["all"],
            "Privileged": True,
        }
    ).container.security
    assert (made.seccomp, made.no_new_privileges, made.privileged) == ("unconfined", True, True)
    assert (made.cap_add, made.cap_drop) == (("NET_ADMIN",), ("ALL",))
    assert (made.masked_paths, made.readonly_paths) == ((), ())


@pytest.mark.parametrize("body", [{"Env": {}}, {"Tty": "yes"}, {"HostConfig": 7}, {"Cmd": [1]}, {"Labels": {"a": 1}}])
def test_wrong_types_are_named(body: dict[str, Any]) -> None:
    with pytest.raises(InvalidInput) as caught:
        schema.load(schema.Create(), body)
    assert next(iter(body)) in str(caught.value)


@pytest.mark.parametrize("name", ["", "/", "a", "-a", "a b", "ü1"])
def test_bad_names(name: str) -> None:
    with pytest.raises(HyperError):
        checked_name(name)


def test_good_names() -> None:
    assert checked_name("/web_1.x-y") == "web_1.x-y"


@pytest.mark.parametrize(
    ("config", "host", "words"),
    [
        ({"Hostname": "h"}, {}, "hostname"),
        ({"Domainname": "d"}, {}, "domain name"),
        ({"MacAddress": "02:00:00:00:00:01"}, {}, "mac-address"),
        ({"ExposedPorts": {"80/tcp": {}}}, {}, "port exposing"),
        ({}, {"PortBindings": {"80/tcp": [{}]}}, "port publishing"),
        ({}, {"PublishAllPorts": True}, "port publishing"),
        ({}, {"Dns": ["10.0.0.1"]}, "dns and"),
        ({}, {"DnsSearch": ["x"]}, "dns search"),
        ({}, {"DnsOptions": ["ndots:1"]}, "dns options"),
        ({}, {"ExtraHosts": ["a:10.0.0.1"]}, "host-to-IP"),
        ({}, {"Links": ["a:b"]}, "links"),
    ],
)
def test_what_another_container_decides(config: dict[str, Any], host: dict[str, Any], words: str) -> None:
    with pytest.raises(InvalidInput, match=f"conflicting options: .*{words}"):
        order(config, {**host, "NetworkMode": "container:x"})
    order(config, {key: value for key, value in host.items() if key != "Links"})


@pytest.mark.parametrize(
    "config",
    [
        {"ExposedPorts": {"x": {}}},
        {"ExposedPorts": {"80/icmp": {}}},
        {"Env": [""]},
        {"HostConfig": {"SecurityOpt": ["systempaths=none"]}},
        {"HostConfig": {"SecurityOpt": ["no-new-privileges=maybe"]}},
    ],
)
def test_words_without_a_meaning(config: dict[str, Any]) -> None:
    with pytest.raises(InvalidInput):
        order(config, config.get("HostConfig"))


def test_a_variable_without_a_value_is_taken_away() -> None:
    made = order({"Env": ["PATH", "A=1", "B="]}).container
    assert (made.envs, made.unset_envs) == ((("A", "1"), ("B", "")), ("PATH",))


def test_what_an_endpoint_asks_for_is_kept_and_what_has_no_effect_is_told() -> None:
    point = {"DriverOpts": {"a": "b"}, "IPAMConfig": {"LinkLocalIPs": ["169.254.1.1"]}}
    made = order({"NetworkingConfig": {"EndpointsConfig": {"bridge": point}}})
    (network,) = made.pod.networks
    assert (network.link_local, network.options) == (("169.254.1.1",), {"a": "b"})
    assert made.warnings == ("The option a of the endpoint on bridge has no effect here.",)


def test_links_need_a_container_and_one_alias() -> None:
    links = order({}, {"Links": ["/db:/web/alias", "plain"]}).pod.networks[0].links
    assert links == (("db", "alias"), ("plain", "plain"))
    for text in ("", ":a", "a:b:c"):
        with pytest.raises(InvalidInput):
            order({}, {"Links": [text]})


def test_device_rules_are_the_containers() -> None:
    assert order({}, {"DeviceCgroupRules": ["c 7:128 rwm"]}).container.device_rules == ("c 7:128 rwm",)


@pytest.mark.parametrize("rule", ["", "c 7:128", "d 1:1 r", "c 1:1 x", "c -1:1 r", "c 1:1 rwm\n", "c 12345678:1 r"])
def test_device_rules_that_mean_nothing(rule: str) -> None:
    with pytest.raises(InvalidInput, match="device cgroup rule"):
        isolation.check(ContainerSpec(device_rules=(rule,)))


def test_too_many_device_rules() -> None:
    with pytest.raises(InvalidInput, match="over"):
        isolation.check(ContainerSpec(device_rules=("c 1:1 r",) * (isolation.MAX_DEVICE_RULES + 1)))
