"""What `hyperctl create` and `run -d` make of options and pod files, and the pulling of missing images."""

from __future__ import annotations

import json
import re

from tests.support.fake_hyperd import lines, ok, refuse
from tests.support.hyperctl_process import CID, CODE


def test_run_detached_with_every_option(fake, hyperctl, tmp_path):
    fake.on("POST", "/pod/create", ok({**CODE, "ID": "full"}, 201)).on("POST", "/pod/start", ok({}))
    words = (
        "run -d --name full --cpu 1 --memory 160 --env A=b --env C=d=e --env FROM_HERE --env NOT_HERE --label k=v"
        " --publish 3000:1300 --publish udp:3001:1301 -v ./vol:/mnt:ro -v /data --workdir /tmp"
        " --log-driver json-file --log-opt max-size=1m --restart onFailure --read-only --entrypoint /bin/sh"
        " busybox -c --rm"
    )
    hyperctl.environment["FROM_HERE"] = "x"
    done = hyperctl(*words.split())
    assert re.fullmatch(r"POD id is full\nTime to run a POD is \d+ ms\n", done.stdout.decode())
    assert (done.stderr, done.returncode) == (b"", 0)
    assert fake.requests == ["POST /v1.1.0/pod/create", "POST /v1.1.0/pod/start?podId=full"]
    pod = fake.exchanges[0].json()
    bound, made = pod["containers"][0].pop("volumes")
    assert pod == {
        "id": "full",
        "labels": {"k": "v"},
        "resource": {"vcpu": 1, "memory": 160},
        "log": {"type": "json-file", "config": {"max-size": "1m"}},
        "portmappings": [
            {"containerPort": "1300", "hostPort": "3000", "protocol": "tcp"},
            {"containerPort": "1301", "hostPort": "3001", "protocol": "udp"},
        ],
        "containers": [
            {
                "name": "full",
                "image": "busybox",
                "workdir": "/tmp",
                "restartPolicy": "onFailure",
                "envs": [
                    {"env": "A", "value": "b"},
                    {"env": "C", "value": "d=e"},
                    {"env": "FROM_HERE", "value": "x"},
                ],
                "command": ["-c", "--rm"],
                "entrypoint": ["/bin/sh"],
                "readOnly": True,
            }
        ],
    }
    assert re.fullmatch(r"vol-\d{5}", bound["volume"])
    assert bound == {
        "path": "/mnt",
        "volume": bound["volume"],
        "readOnly": True,
        "detail": {"name": bound["volume"], "source": f"{tmp_path}/vol", "format": "vfs"},
    }
    assert made == {"path": "/data", "volume": made["volume"], "detail": {"name": made["volume"]}}
    assert (tmp_path / "vol").stat().st_mode & 0o7777 == 0o755


def test_names_are_made_of_the_image(fake, hyperctl):
    fake.on("POST", "/pod/create", ok(CODE))
    for image, pattern in [
        ("busybox", r"busybox-\d{10}"),
        ("127.0.0.1:5000/user/volumetest:latest", r"volumetest-latest-\d{10}"),
        ("busybox@sha256:abc", r"busybox-\d{10}"),
        ("_x", r"pod-[A-Za-z]{10}"),
    ]:
        assert hyperctl("create", image).stdout == b"Pod ID is x\n"
        pod = fake.exchanges[-1].json()
        assert re.fullmatch(pattern, pod["id"])
        assert pod["containers"][0]["name"] == pod["id"]
        assert pod["log"] == {}


POD_JSON = {
    "ID": "filepod",
    "unknown": 1,
    "tty": False,
    "resource": {"vcpu": 0, "Memory": 256},
    "containers": [
        {
            "name": "fp1",
            "image": "busybox",
            "command": ["sh"],
            "ports": [{"containerport": 80, "hostPort": "8080"}],
            "stopsignal": "INT",
            "ulimits": [{"name": "nofile", "hard": 5, "soft": 4}],
        }
    ],
    "portmappings": [{"hostPort": "1-2", "containerPort": "3-4", "protocol": "tcp"}],
}
POD_YAML = """
id: filepod
resource: {memory: 256}
containers:
  - name: fp1
    image: busybox
    command: [sh]
    ports: [{containerport: 80, hostport: 8080}]
    stopSignal: INT
    ulimits: [{name: nofile, hard: 5, soft: 4}]
portmappings:
  - {hostport: 1-2, containerport: 3-4, protocol: tcp}
volumes:
dns: ~
"""
POD_SENT = {
    "id": "filepod",
    "resource": {"memory": 256},
    "log": {},
    "containers": [
        {
            "name": "fp1",
            "image": "busybox",
            "command": ["sh"],
            "ports": [{"containerPort": "80", "hostPort": "8080"}],
            "StopSignal": "INT",
            "ulimits": [{"Name": "nofile", "Hard": 5, "Soft": 4}],
        }
    ],
    "portmappings": [{"containerPort": "3-4", "hostPort": "1-2", "protocol": "tcp"}],
}


def test_podfiles(fake, hyperctl, tmp_path):
    (tmp_path / "pod.json").write_text(json.dumps(POD_JSON))
    (tmp_path / "pod.yml").write_text(POD_YAML)
    fake.on("POST", "/pod/create", ok({**CODE, "ID": "filepod"})).on("POST", "/pod/start", ok({}))
    assert hyperctl("run", "-p", "pod.json").stdout.startswith(b"POD id is filepod\nTime to run")
    assert hyperctl("run", "-y", "-p", "pod.yml").stdout.startswith(b"POD id is filepod\n")
    assert hyperctl("create", "-p", "-", stdin=json.dumps(POD_JSON).encode()).stdout == b"Pod ID is filepod\n"
    assert hyperctl("create", "-p", json.dumps(POD_JSON)).stdout == b"Pod ID is filepod\n"
    assert [exchange.json() for exchange in fake.exchanges if exchange.path.endswith("create")] == [POD_SENT] * 4
    assert b"the pod on the command line is not JSON" in hyperctl("create", "-p", "{").stderr


def test_create_a_container_in_a_pod(fake, hyperctl, tmp_path):
    (tmp_path / "c.json").write_text('{"name": "extra", "image": "busybox"}')
    fake.on("POST", "/container/create", ok({"ID": CID}, 201))
    words = [
        "create",
        "-c",
        "--name",
        "second",
        "--publish",
        "1:2",
        "--label",
        "a=b",
        "full",
        "busybox",
        "sh",
        "-c",
        "x",
    ]
    assert hyperctl(*words).stdout.decode() == f"Container ID is {CID}\n"
    assert fake.exchanges[0].json() == {
        "name": "second",
        "image": "busybox",
        "restartPolicy": "never",
        "command": ["sh", "-c", "x"],
        "labels": {"a": "b"},
        "ports": [{"containerPort": "2", "hostPort": "1", "protocol": "tcp"}],
    }
    assert hyperctl("create", "-c", "-p", "c.json", "full").returncode == 0
    assert fake.exchanges[1].json() == {"name": "extra", "image": "busybox"}
    assert fake.requests == ["POST /v1.1.0/container/create?podId=full"] * 2


def test_a_missing_image_is_pulled_and_the_create_repeated_once(fake, hyperctl, tmp_path):
    pod = {"containers": [{"image": "a"}, {"image": "h:1/b:2"}, {"image": "a"}]}
    (tmp_path / "pod.json").write_text(json.dumps(pod))
    fake.on("POST", "/pod/create", refuse(404, "No such image: a:latest"), ok(CODE))
    fake.on("POST", "/image/create", lines({"status": "pulled"}))
    done = hyperctl("create", "-p", "pod.json")
    assert fake.requests == [
        "POST /v1.1.0/pod/create",
        "POST /v1.1.0/image/create?imageName=a%3Alatest",
        "POST /v1.1.0/image/create?imageName=h%3A1%2Fb%3A2",
        "POST /v1.1.0/pod/create",
    ]
    assert (done.stdout, done.stderr, done.returncode) == (b"Pod ID is x\n", b"pulled\npulled\n", 0)


def test_a_create_that_still_fails_is_not_repeated_again(fake, hyperctl):
    fake.on("POST", "/container/create", refuse(404, "No such image: a:latest"))
    fake.on("POST", "/image/create", lines({"status": "pulled"}))
    done = hyperctl("create", "-c", "full", "a")
    assert len(fake.requests) == 3
    assert (done.stdout, done.returncode) == (b"", 255)
