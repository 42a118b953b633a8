"""Pods that are right in every field, and ways to make each field wrong."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from typing import Any

FULL: dict[str, Any] = {
    "id": "full-pod.1",
    "hostname": "full.lab",
    "type": "kubernetes",
    "restartPolicy": "never",
    "tty": True,
    "labels": {"team": "red"},
    "resource": {"vcpu": 2, "memory": 256},
    "containers": [
        {
            "name": "first",
            "id": "abcdef",
            "image": "busybox:latest",
            "command": ["sh", "-c", "exit 0"],
            "entrypoint": ["/bin/env"],
            "workdir": "/srv",
            "envs": [{"env": "MODE", "value": "demo"}],
            "tty": False,
            "user": {"name": "nobody", "group": "nogroup", "additionalGroups": ["daemon", "5"]},
            "volumes": [
                {"path": "/data", "volume": "shared", "readOnly": True},
                {
                    "path": "/ceph",
                    "volume": "inline",
                    "detail": {
                        "name": "inline",
                        "source": "rbd:pool/image",
                        "format": "rbd",
                        "fstype": "ext4",
                        "cache": "none",
                        "option": {"user": "admin", "keyring": "k", "monitors": ["10.0.0.1:6789"]},
                    },
                },
            ],
            "files": [{"path": "/etc/", "filename": "motd", "perm": "0644", "user": "0", "group": "root"}],
            "ports": [{"containerPort": 8080, "hostPort": 18080, "protocol": "tcp"}],
            "labels": {"a": "b"},
            "sysctl": {"net.core.somaxconn": "512"},
            "restartPolicy": "always",
            "StopSignal": "SIGINT",
            "ulimits": [{"Name": "nofile", "Hard": 2048, "Soft": 1024}],
            "logPath": "/var/log/first.log",
            "readOnly": True,
            "cache": "writeback",
        }
    ],
    "files": [{"name": "motd", "encoding": "base64", "uri": "", "content": "aGVsbG8K"}],
    "volumes": [{"name": "shared", "source": "/srv/shared", "format": "vfs", "fstype": "", "cache": "writeback"}],
    "interfaces": [
        {
            "id": "1",
            "bridge": "hyper0",
            "ip": "192.168.123.50/24",
            "ifname": "tap50",
            "mac": "52:54:00:12:34:56",
            "mtu": 1400,
            "gateway": "192.168.123.1",
        }
    ],
    "services": [
        {
            "serviceIP": "10.254.0.9",
            "servicePort": 6379,
            "protocol": "tcp",
            "hosts": [{"hostIP": "192.168.123.51", "hostPort": 6379}],
        }
    ],
    "portmappings": [{"containerPort": "80-81", "hostPort": "3000-3001", "protocol": "udp"}],
    "portmappingWhiteLists": {"internalNetworks": ["10.0.0.0/8"], "externalNetworks": ["0.0.0.0/0"]},
    "dns": ["192.0.2.53"],
    "dnsOptions": ["ndots:2"],
    "dnsSearch": ["lab.example"],
    "log": {"type": "json-file", "config": {"max-size": "1m"}},
}

NUMBERS_TOO = ("containers[0].ports[0].containerPort", "containers[0].ports[0].hostPort")


def changed(path: str, value: Any) -> dict[str, Any]:
    """Return the full pod with one field replaced; ``path`` as the error messages write it."""
    pod = copy.deepcopy(FULL)
    place: Any = pod
    keys = [int(key) if key.isdigit() else key for key in path.replace("]", "").replace("[", ".").split(".")]
    # Names of kernel parameters and the like contain dots; they are never replaced here.
    for key in keys[:-1]:
        place = place[key]
    place[keys[-1]] = value
    return pod


def fields(value: Any = FULL, path: str = "") -> Iterator[tuple[str, Any]]:
    """Yield every field of the full pod with its path."""
    if path:
        yield path, value
    if isinstance(value, dict):
        for key, item in value.items():
            if "." not in key:
                yield from fields(item, f"{path}.{key}" if path else key)
    elif isinstance(value, list):
        for index, item in enumerate(value):
            yield from fields(item, f"{path}[{index}]")


def wrong_types() -> list[tuple[str, Any]]:
    """Return (path, value) for every field with every JSON type that it must not have."""
    samples: list[tuple[type, Any]] = [
        (str, "text"),
        (int, 7),
        (float, 1.5),
        (bool, True),
        (list, ["x"]),
        (dict, {"x": "y"}),
    ]
    out = []
    for path, good in fields():
        for kind, sample in samples:
            fits = type(good) is kind or (path in NUMBERS_TOO and kind is str)
            if not fits:
                out.append((path, sample))
    return out


# What the original daemon says of a pod that breaks its rules; messages begin so. A file's ``detail`` does not help.
ORIGINAL_ERRORS: list[tuple[str, Any, str]] = [
    ("hostname", "x" * 64, "Hostname exceeds the maximum length 63"),
    ("hostname", "web." + "x" * 60, "Hostname exceeds the maximum length 63"),
    ("hostname", "Upper.case", "Hostname should fullfil the pattern"),
    (
        "interfaces",
        [{"gateway": "10.0.0.1"}, {}, {"gateway": "10.0.0.2"}],
        "in interface 2, Other interface already configured Gateway",
    ),
    (
        "interfaces",
        [{"bridge": "br0"}],
        "if configured a bridge, must specify the IP address",
    ),
    ("volumes", [*FULL["volumes"], {"name": "shared"}], "Volumes name does not unique"),
    ("files", [*FULL["files"], {"name": "motd"}], "Files name does not unique"),
    (
        "services",
        [{**FULL["services"][0], "protocol": protocol} for protocol in ("tcp", "TCP")],
        "Services IP:Port@Protocol combination does not unique",
    ),
    ("containers[0].volumes[1].volume", "shared", "in container 0, volume source are not unique"),
    (
        "containers[0].envs",
        [{"env": "A", "value": "1"}, {"env": "B"}, {"env": "A", "value": "2"}],
        "in container 0, environment name are not unique",
    ),
    (
        "containers[0].files[0]",
        {"path": "/f", "filename": "other", "detail": {"name": "other", "content": "x"}},
        "in container 0, file other does not exist in file list.",
    ),
    ("containers[0].files[0].perm", "0648", "in container 0, the permission 0648 only accept Octal digital in string"),
    ("containers[0].files[0].perm", "rw", "in container 0, the permission rw only accept Octal digital in string"),
    ("containers[0].volumes[0].volume", "other", "in container 0, volume other does not exist in volume list."),
    ("volumes[0].cache", "hot", "in volume 0, does not support cache hot."),
    ("volumes[0].format", "floppy", "in volume 0, volume does not support driver floppy."),
    ("dns", ["192.0.2.1", "one.two"], "incorrect dns one.two."),
    ("portmappings[0].protocol", "sctp", "unrecongnized protocol sctp"),
    ("services[0].protocol", "icmp", "unrecongnized protocol icmp"),
    ("containers[0].ports[0].protocol", "sctp", "unrecongnized protocol sctp"),
    ("portmappings[0].hostPort", "3000-3005", "port range mismatch"),
]

LONG = "x" * 5000
WRONG_VALUES: list[tuple[str, Any, str]] = [
    ("id", "with space", "id"),
    ("id", "colon:", "id"),
    ("id", "-dash", "id"),
    ("id", "x" * 129, "id"),
    ("id", "new\nline", "id"),
    ("hostname", "x" * 64, "Hostname exceeds the maximum length 63"),
    ("hostname", "Upper", "Hostname should fullfil the pattern"),
    ("hostname", "a..b", "Hostname should fullfil the pattern"),
    ("hostname", "-a", "Hostname should fullfil the pattern"),
    ("restartPolicy", "sometimes", "restartPolicy"),
    ("labels", {"a": 1}, "labels.a: must be a string"),
    ("labels", {"a": "x\0y"}, "labels.a"),
    ("labels", {"k" * 1025: "v"}, "labels"),
    ("labels", {str(n): "v" for n in range(1025)}, "labels: has over 1024 entries"),
    ("resource.vcpu", -1, "resource.vcpu: must be from 0 to 256"),
    ("resource.vcpu", 257, "resource.vcpu"),
    ("resource.memory", -1, "resource.memory"),
    ("resource.memory", 27, "resource.memory: must be at least 28"),
    ("resource.memory", 2**20 + 1, "resource.memory"),
    ("resource.memory", 10**400, "resource.memory"),
    ("containers", [None], "containers[0]: must be an object"),
    ("containers", [{}], "containers[0].image: is missing"),
    ("containers", [{"image": "a", "name": "same"}, {"image": "b", "name": "same"}], "name is not unique"),
    ("containers", [{"image": "a"}] * 129, "containers: has over 128 items"),
    ("containers[0].name", "a b", "containers[0].name"),
    ("containers[0].image", "", "containers[0].image: is empty"),
    ("containers[0].image", "  ", "containers[0].image: is empty"),
    ("containers[0].image", "x" * 1025, "containers[0].image"),
    ("containers[0].command", ["a\0b"], "containers[0].command[0]"),
    ("containers[0].command", ["x" * 200_000], "containers[0].command[0]"),
    ("containers[0].command", ["x"] * 5000, "containers[0].command: has over"),
    ("containers[0].workdir", "relative", "containers[0].workdir"),
    ("containers[0].workdir", "/a/../b", "containers[0].workdir"),
    ("containers[0].workdir", "/" + "x" * 256, "containers[0].workdir"),
    ("containers[0].envs", [{"env": "", "value": "x"}], "containers[0].envs[0].env"),
    ("containers[0].envs", [{"env": "a=b"}], "containers[0].envs[0].env"),
    ("containers[0].envs", [{"value": "x"}], "containers[0].envs[0].env: is missing"),
    ("containers[0].envs", [{"env": "A"}, {"env": "A"}], "in container 0, environment name are not unique"),
    ("containers[0].user.name", "a:b", "containers[0].user.name"),
    ("containers[0].user.additionalGroups", ["/x"], "containers[0].user.additionalGroups[0]"),
    ("containers[0].volumes[0].path", "data", "containers[0].volumes[0].path"),
    ("containers[0].volumes[0].path", "/", "containers[0].volumes[0].path"),
    ("containers[0].volumes[0].path", "/a/../../b", "containers[0].volumes[0].path"),
    ("containers[0].volumes[0].path", "", "containers[0].volumes[0].path"),
    ("containers[0].volumes[0].volume", "other", "in container 0, volume other does not exist in volume list."),
    ("containers[0].volumes[0].volume", "", "containers[0].volumes[0].volume: is missing"),
    ("containers[0].volumes[0].volume", "inline", "in container 0, volume source are not unique"),
    ("containers[0].volumes[1].path", "/data/", "in container 0, volume paths are not unique"),
    ("containers[0].volumes[1].detail.format", "floppy", "volume does not support driver floppy."),
    ("containers[0].volumes[1].detail.cache", "hot", "does not support cache hot."),
    ("containers[0].files[0].filename", "none", "in container 0, file none does not exist in file list."),
    ("containers[0].files[0].filename", "../motd", "filename"),
    ("containers[0].files[0].perm", "644", "in container 0, the permission 644 only accept Octal digital in string"),
    ("containers[0].files[0].perm", "0999", "in container 0, the permission 0999 only accept Octal digital in string"),
    ("containers[0].files[0].path", "etc", "containers[0].files[0].path"),
    ("containers[0].ports[0].containerPort", 0, "containers[0].ports"),
    ("containers[0].ports[0].containerPort", 65536, "containers[0].ports[0].containerPort"),
    ("containers[0].ports[0].protocol", "sctp", "unrecongnized protocol sctp"),
    ("containers[0].sysctl", {"../x": "1"}, "containers[0].sysctl"),
    ("containers[0].sysctl", {"kernel.x": 1}, "containers[0].sysctl"),
    ("containers[0].StopSignal", "SIG KILL", "containers[0].StopSignal"),
    ("containers[0].ulimits", [{"Name": "luck", "Hard": 1, "Soft": 1}], "containers[0].ulimits[0].Name"),
    ("containers[0].ulimits", [{"Name": "nofile", "Hard": 1, "Soft": 2}], "the soft limit is above the hard one"),
    ("containers[0].ulimits", [{"Name": "nofile", "Hard": 1, "Soft": -1}], "the soft limit is above the hard one"),
    ("containers[0].ulimits", [{"Name": "nofile", "Hard": 2**63, "Soft": 1}], "containers[0].ulimits[0].Hard"),
    ("containers[0].logPath", "log", "containers[0].logPath"),
    ("containers[0].cache", "hot", "in container 0, does not support cache hot."),
    ("files", [{"name": "motd"}, {"name": "motd"}], "Files name does not unique"),
    ("files[0].name", "", "files[0].name: is missing"),
    ("files[0].encoding", "rot13", "files[0].encoding"),
    ("files[0].content", "***", "files[0].content: is not base64"),
    ("files[0].uri", "ftp://x/y", "files[0].uri"),
    ("files[0].uri", "file://relative", "files[0].uri"),
    ("volumes", [{"name": "shared"}, {"name": "shared"}], "Volumes name does not unique"),
    ("volumes[0].name", "", "volumes[0].name: is missing"),
    ("volumes[0].name", "a/b", "volumes[0].name"),
    ("volumes[0].format", "floppy", "in volume 0, volume does not support driver floppy."),
    ("volumes[0].cache", "hot", "in volume 0, does not support cache hot."),
    ("volumes[0].source", "srv", "in volume 0, the source must be an absolute path"),
    ("volumes[0].source", "/srv/../etc", "in volume 0, the source must be an absolute path"),
    ("volumes[0].source", "/srv/a\nb", "volumes[0].source"),
    ("volumes[0].source", "", "in volume 0, the source must be an absolute path"),
    ("volumes[0].fstype", "ext4 -o x", "volumes[0].fstype"),
    (
        "interfaces",
        [{"gateway": "10.0.0.1"}, {"gateway": "10.0.0.2"}],
        "in interface 1, Other interface already configured Gateway",
    ),
    ("interfaces", [{"bridge": "br0"}], "if configured a bridge, must specify the IP address"),
    ("interfaces", [{}] * 9, "interfaces: has over 8 items"),
    ("interfaces[0].ip", "192.168.123.50", "interfaces[0].ip"),
    ("interfaces[0].ip", "not/an/ip", "interfaces[0].ip"),
    ("interfaces[0].mac", "52:54:00", "interfaces[0].mac"),
    ("interfaces[0].mtu", 60, "interfaces[0].mtu"),
    ("interfaces[0].mtu", 70_000, "interfaces[0].mtu"),
    ("interfaces[0].gateway", "gate", "interfaces[0].gateway"),
    ("interfaces[0].bridge", "a-name-that-is-too-long", "interfaces[0].bridge"),
    ("interfaces[0].ifname", "a/b", "interfaces[0].ifname"),
    ("services", [FULL["services"][0]] * 2, "Services IP:Port@Protocol combination does not unique"),
    ("services[0].serviceIP", "one", "services[0].serviceIP"),
    ("services[0].servicePort", 0, "services[0].servicePort"),
    ("services[0]", {"servicePort": 80}, "services[0].serviceIP: is missing"),
    ("services[0].hosts[0]", {"hostIP": "10.0.0.1"}, "services[0].hosts[0].hostPort: is missing"),
    ("containers[0].ulimits[0]", {"Hard": 1}, "containers[0].ulimits[0].Name: is missing"),
    ("containers[0].ulimits[0]", {"Name": "nofile", "Hard": 2**21, "Soft": 1}, "ulimit nofile: at most 1048576"),
    ("containers[0].ports[0]", {"hostPort": 80}, "containers[0].ports[0].containerPort: is missing"),
    ("services[0].protocol", "sctp", "unrecongnized protocol sctp"),
    ("services[0].hosts[0].hostIP", "", "services[0].hosts[0].hostIP"),
    ("services[0].hosts[0].hostPort", 65536, "services[0].hosts[0].hostPort"),
    ("portmappings[0].containerPort", "80-82", "port range mismatch"),
    ("portmappings[0].containerPort", "81-80", "portmappings[0].containerPort"),
    ("portmappings[0].containerPort", "http", "portmappings[0].containerPort"),
    ("portmappings[0].containerPort", "0", "portmappings[0].containerPort"),
    ("portmappings[0].containerPort", "1-65536", "portmappings[0].containerPort"),
    ("portmappings[0].hostPort", "65535-65536", "portmappings[0].hostPort"),
    ("portmappings[0].protocol", "sctp", "unrecongnized protocol sctp"),
    (
        "portmappings",
        [{"containerPort": "1", "hostPort": "5"}, {"containerPort": "2", "hostPort": "5"}],
        "Host port 5/tcp",
    ),
    ("portmappings", [{"hostPort": "5"}], "portmappings[0].containerPort: is missing"),
    ("portmappingWhiteLists.internalNetworks", ["10.0.0.0"], "portmappingWhiteLists.internalNetworks[0]"),
    ("portmappingWhiteLists.externalNetworks", ["x/8"], "portmappingWhiteLists.externalNetworks[0]"),
    ("dns", ["one.two"], "incorrect dns one.two."),
    ("dnsSearch", ["a b"], "dnsSearch[0]"),
    ("dnsOptions", ["a\nnameserver 1.1.1.1"], "dnsOptions[0]"),
    ("log.type", "carrier-pigeon", "log.type"),
    ("log.config", {"max-size": 5}, "log.config.max-size: must be a string"),
    ("type", LONG, "type"),
]
