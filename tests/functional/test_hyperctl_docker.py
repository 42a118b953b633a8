"""hyperctl as people who come from docker type it: what is sent, and what is shown."""

from __future__ import annotations

import io
import json
import tarfile
import time

import pytest

from tests.support.fake_hyperd import Reply, lines, ok, refuse
from tests.support.hyperctl_process import CID, CODE

OTHER = "3f57d9401f8d42f986df300f0c69192fc41da28ccc8d797829467780db3dd741"


def created(fake, hyperctl, words: str, **more):
    """What `create` sends for a command line."""
    fake.on("POST", "/pod/create", ok({**CODE, "ID": "p"}, 201))
    done = hyperctl("create", *words.split(), "busybox", **more)
    assert (done.returncode, done.stderr) == (0, b""), done
    return fake.exchanges[-1].json()


def test_what_one_container_gets(fake, hyperctl, tmp_path):
    (tmp_path / "vars").write_text("# a comment\n\nA=from file\nB=two words\nFROM_HERE\nNOT_HERE\n")
    hyperctl.environment["FROM_HERE"] = "x"
    words = (
        "-it -e A=1 --env-file vars -u alice:staff --group-add 27 -w /srv --hostname box --stop-signal SIGQUIT "
        "--ulimit nofile=10:20 --ulimit core=-1 --sysctl net.core.somaxconn=9 --dns 9.9.9.9 --dns-search x.y "
        "--dns-option ndots:1 --read-only --restart unless-stopped -l a=b=c"
    )
    pod = created(fake, hyperctl, words)
    (container,) = pod.pop("containers")
    for key in ("id", "log"):
        pod.pop(key)
    assert pod == {
        "hostname": "box",
        "labels": {"a": "b=c"},
        "resource": {"vcpu": 1, "memory": 128},
        "dns": ["9.9.9.9"],
        "dnsSearch": ["x.y"],
        "dnsOptions": ["ndots:1"],
    }
    container.pop("name")
    assert container == {
        "image": "busybox",
        "tty": True,
        "workdir": "/srv",
        "readOnly": True,
        "restartPolicy": "unless-stopped",
        "StopSignal": "SIGQUIT",
        "user": {"name": "alice", "group": "staff", "additionalGroups": ["27"]},
        "ulimits": [{"Name": "nofile", "Soft": 10, "Hard": 20}, {"Name": "core", "Soft": -1, "Hard": -1}],
        "sysctl": {"net.core.somaxconn": "9"},
        "envs": [
            {"env": "A", "value": "1"},
            {"env": "B", "value": "two words"},
            {"env": "FROM_HERE", "value": "x"},
        ],
    }


@pytest.mark.parametrize(
    ("words", "size"),
    [
        ("", (1, 128)),
        ("--memory 0 --cpu 0", (1, 128)),
        ("--memory 256 --cpu 2", (2, 256)),
        ("-m 1g", (1, 1024)),
        ("-m=1.5GiB", (1, 1536)),
        ("--memory 200000k", (1, 196)),
        ("--cpus 3", (3, 128)),
    ],
)
def test_sizes_of_the_vm(fake, hyperctl, words, size):
    resource = created(fake, hyperctl, words)["resource"]
    assert (resource["vcpu"], resource["memory"]) == size


@pytest.mark.parametrize(
    ("word", "rule"),
    [
        ("8080:80", {"containerPort": "80", "hostPort": "8080", "protocol": "tcp"}),
        ("80", {"containerPort": "80", "protocol": "tcp"}),
        ("53:53/udp", {"containerPort": "53", "hostPort": "53", "protocol": "udp"}),
        ("udp:53:53", {"containerPort": "53", "hostPort": "53", "protocol": "udp"}),
    ],
)
def test_published_ports(fake, hyperctl, word, rule):
    assert created(fake, hyperctl, f"--publish {word}")["portmappings"] == [rule]


def test_volumes(fake, hyperctl, tmp_path):
    (tmp_path / "there").mkdir(mode=0o700)
    words = f"-v ./made:/a -v there/:/b:ro -v data:/c:ro,z -v /d --mount type=bind,src={tmp_path}/there,dst=/e,readonly"
    words += " --mount type=volume,source=data,target=/f"
    refs = created(fake, hyperctl, words)["containers"][0]["volumes"]
    shown = {
        ref["path"]: (ref["detail"].get("format"), ref["detail"].get("source"), ref.get("readOnly", False))
        for ref in refs
    }
    assert shown == {
        "/a": ("vfs", f"{tmp_path}/made", False),
        "/b": ("vfs", f"{tmp_path}/there", True),
        "/c": ("volume", "data", True),
        "/d": (None, None, False),
        "/e": ("vfs", f"{tmp_path}/there", True),
        "/f": ("volume", "data", False),
    }
    assert (tmp_path / "made").stat().st_mode & 0o7777 == 0o755
    assert (tmp_path / "there").stat().st_mode & 0o7777 == 0o700
    assert not (tmp_path / "data").exists()
    assert len({ref["volume"] for ref in refs}) == len(refs)


def test_what_a_container_may_do_and_use(fake, hyperctl, tmp_path):
    (tmp_path / "profile.json").write_text('{"defaultAction": "SCMP_ACT_ALLOW"}')
    words = (
        "--init --cap-add net_admin --cap-add CAP_SYS_TIME --cap-drop all --privileged --shm-size 64m "
        "--security-opt no-new-privileges --security-opt seccomp=profile.json --tmpfs /run "
        "--tmpfs /t:size=1m,mode=700,ro --device /dev/fuse --device /dev/vda:/dev/x:r --pids-limit 50 "
        "--memory-reservation 32m --memory-swap -1 --cpu-shares 512 --cpuset-cpus 0 --oom-score-adj -5 --cpus 0.5 "
        "--mount type=tmpfs,target=/m,tmpfs-size=2m"
    )
    pod = created(fake, hyperctl, words)
    (container,) = pod["containers"]
    assert pod["resource"] == {"vcpu": 1, "memory": 128}
    keys = ("init", "security", "tmpfs", "shmSize", "devices", "limits", "oomScoreAdj", "volumes")
    assert {key: container.get(key) for key in keys} == {
        "init": True,
        "security": {
            "privileged": True,
            "capAdd": ["NET_ADMIN", "SYS_TIME"],
            "capDrop": ["ALL"],
            "noNewPrivileges": True,
            "seccomp": '{"defaultAction": "SCMP_ACT_ALLOW"}',
        },
        "tmpfs": [
            {"path": "/run"},
            {"path": "/t", "size": 1 << 20, "mode": "700", "options": ["ro"]},
            {"path": "/m", "size": 2 << 20},
        ],
        "shmSize": 64 << 20,
        "devices": [{"source": "/dev/fuse"}, {"source": "/dev/vda", "target": "/dev/x", "permissions": "r"}],
        "limits": {
            "nanoCpus": 500_000_000,
            "memoryReservation": 32 << 20,
            "memorySwap": -1,
            "cpuShares": 512,
            "cpusetCpus": "0",
            "pids": 50,
        },
        "oomScoreAdj": -5,
        "volumes": None,
    }


def test_ends_and_health(fake, hyperctl):
    words = (
        "--restart on-failure:3 --stop-timeout 0 --health-interval 10s --health-timeout 500ms --health-retries 2 "
        "--health-start-period 1m --health-start-interval 2s --health-cmd true"
    )
    (container,) = created(fake, hyperctl, words)["containers"]
    assert (container["restartPolicy"], container["restartMax"], container["stopTimeout"]) == ("onFailure", 3, 0)
    assert container["healthcheck"] == {
        "interval": 10,
        "timeout": 1,
        "retries": 2,
        "startPeriod": 60,
        "startInterval": 2,
        "command": ["true"],
        "shell": True,
    }
    (container,) = created(fake, hyperctl, "--no-healthcheck --stop-timeout 1m")["containers"]
    assert (container["healthcheck"], container["stopTimeout"]) == ({"disabled": True}, 60)


def test_a_detached_pod_is_removed_by_the_daemon(fake, hyperctl, tmp_path):
    (tmp_path / "p.json").write_text('{"id": "p", "containers": [{"image": "a"}, {"image": "b"}]}')
    fake.on("POST", "/pod/create", ok({**CODE, "ID": "p"}, 201)).on("POST", "/pod/start", ok({}))
    assert hyperctl("run", "-d", "--rm", "-q", "busybox").stdout == b"p\n"
    assert fake.exchanges[0].json()["containers"][0]["autoRemove"] is True
    assert hyperctl("run", "--rm", "-q", "-p", "p.json").returncode == 0
    assert [one["autoRemove"] for one in fake.exchanges[2].json()["containers"]] == [True, True]


def test_what_the_daemon_warns_of_is_printed(fake, hyperctl):
    fake.on("POST", "/pod/create", ok({**CODE, "ID": "p", "Warnings": ["unknown key x: it is ignored"]}, 201))
    done = hyperctl("create", "busybox")
    assert (done.returncode, done.stderr) == (0, b"hyperctl WARNING: unknown key x: it is ignored\n")


def test_networks_of_a_pod(fake, hyperctl):
    pod = created(fake, hyperctl, "--network front --ip 10.0.0.9 --network-alias www --add-host db:10.0.0.3")
    assert pod["networks"] == [{"network": "front", "ip": "10.0.0.9", "aliases": ["www"]}]
    assert pod["extraHosts"] == [{"name": "db", "ip": "10.0.0.3"}]
    assert "networks" not in created(fake, hyperctl, "")


def test_networks_and_volumes(fake, hyperctl):
    network = {"id": CID, "name": "front", "driver": "bridge", "subnet": "10.9.0.0/24", "internal": True, "pods": [{}]}
    volume = {"name": "data", "driver": "local", "kind": "directory", "created": "x", "containers": ["c"]}
    fake.on("GET", "/network/list", ok([network])).on("GET", "/volume/list", ok([volume]))
    fake.on("GET", "/network/info", ok(network)).on("GET", "/volume/info", ok(volume))
    fake.on("POST", "/network/create", ok(network, 201)).on("POST", "/volume/create", ok(volume, 201))
    fake.on("POST", "/network/connect", ok(CODE)).on("POST", "/network/disconnect", ok(CODE))
    fake.on("DELETE", "/network", ok(CODE)).on("DELETE", "/volume", refuse(409, "in use"))
    fake.on("POST", "/volume/prune", ok({"a": 1000, "b": 500}))
    assert hyperctl("network", "ls", "--format", "{{.Name}} {{.Pods}}").stdout == b"front 1\n"
    assert hyperctl("network", "ls", "-q").stdout.decode() == f"{CID[:12]}\n"
    assert hyperctl("volume", "ls", "-q").stdout == b"data\n"
    assert hyperctl("network", "inspect", "--format", "{{.subnet}}", "front").stdout == b"10.9.0.0/24\n"
    assert json.loads(hyperctl("volume", "inspect", "data").stdout) == [volume]
    words = "--internal --subnet 10.9.0.0/24 --gateway 10.9.0.1 --ip-range 10.9.0.128/25 -l a=b -o c=d back"
    assert hyperctl("network", "create", *words.split()).stdout.decode() == f"{CID}\n"
    assert fake.exchanges[-1].json() == {
        "name": "back",
        "subnet": "10.9.0.0/24",
        "gateway": "10.9.0.1",
        "ipRange": "10.9.0.128/25",
        "internal": True,
        "labels": {"a": "b"},
        "options": {"c": "d"},
    }
    assert hyperctl("volume", "create", "-l", "a=b", "data").stdout == b"data\n"
    assert fake.exchanges[-1].json() == {"name": "data", "labels": {"a": "b"}}
    assert hyperctl("network", "connect", "--ip", "10.9.0.7", "--alias", "x", "back", "web").returncode == 0
    assert fake.exchanges[-1].json() == {"network": "back", "ip": "10.9.0.7", "aliases": ["x"], "pod": "web"}
    assert hyperctl("network", "disconnect", "back", "web").returncode == 0
    assert hyperctl("network", "rm", "back").stdout == b"back\n"
    done = hyperctl("volume", "rm", "data")
    assert (done.returncode, b"volume data delete failed" in done.stderr) == (255, True)
    assert hyperctl("volume", "prune", "-a").stdout == b"a\nb\nTotal reclaimed space: 1.5 kB\n"
    assert fake.exchanges[-1].parameters == {"all": ["true"]}


def test_sizes_of_a_container_in_a_pod_are_its_limits(fake, hyperctl):
    fake.on("POST", "/container/create", ok({"ID": CID}, 201)).on("POST", "/container/update", Reply(status=204))
    hyperctl("create", "-c", "--memory", "512", "--cpu", "3", "p", "busybox")
    assert fake.exchanges[0].json()["limits"] == {"memory": 512 << 20, "nanoCpus": 3_000_000_000}
    assert hyperctl("update", "--memory", "64m", "--cpus", "1.5", "--pids-limit", "9", "c1").stdout == b"c1\n"
    assert fake.exchanges[1].json() == {"memory": 64 << 20, "nanoCpus": 1_500_000_000, "pids": 9}
    assert fake.exchanges[1].parameters == {"container": ["c1"]}
    assert hyperctl("update", "--restart", "on-failure:2", "c1").returncode == 0
    assert fake.exchanges[2].json() == {"restartPolicy": "onFailure", "restartMax": 2}
    assert b"a limit is needed" in hyperctl("update", "c1").stderr
    assert hyperctl("update", "--memory", "0", "--cpus", "0", "--pids-limit", "0", "c1").returncode == 0
    assert fake.exchanges[3].json() == {"memory": 0, "nanoCpus": 0, "pids": 0}


@pytest.mark.parametrize(
    ("words", "vcpu", "limit"),
    [
        ("--cpu 4 --cpus 2", 4, 2_000_000_000),
        ("--cpu 4 --cpus 4", 4, None),
        ("--cpu 1 --cpus 2", 2, None),
        ("--cpus 1.5", 2, 1_500_000_000),
        ("--cpus 2 --pids-limit 0", 2, None),
    ],
)
def test_fewer_cpus_than_the_vm_has_are_a_limit(fake, hyperctl, words, vcpu, limit):
    pod = created(fake, hyperctl, words)
    (container,) = pod["containers"]
    assert (pod["resource"]["vcpu"], container.get("limits")) == (vcpu, limit and {"nanoCpus": limit})


@pytest.mark.parametrize(
    ("flag", "read_only"),
    [("", False), (",readonly", True), (",ro=1", True), (",readonly=false", False), (",ro=0,readonly=true", True)],
)
def test_mounts_that_are_read_only(fake, hyperctl, flag, read_only):
    words = f"--mount type=tmpfs,target=/t{flag} --mount type=volume,source=data,target=/v{flag}"
    (container,) = created(fake, hyperctl, words)["containers"]
    assert container["tmpfs"] == [{"path": "/t", "options": ["ro"]} if read_only else {"path": "/t"}]
    assert container["volumes"][0].get("readOnly", False) == read_only


@pytest.mark.parametrize("kind", ["type=tmpfs", "type=volume,source=data"])
def test_a_mount_that_may_be_read_only(fake, hyperctl, kind):
    done = hyperctl("create", "--mount", f"{kind},target=/t,readonly=perhaps", "busybox")
    assert (done.returncode, done.stderr, fake.requests) == (
        255,
        b"hyperctl ERROR: --mount: readonly is true or false, not 'perhaps'\n",
        [],
    )


def test_the_entrypoint_can_be_taken_away(fake, hyperctl):
    assert "entrypoint" not in created(fake, hyperctl, "")["containers"][0]
    fake.on("POST", "/pod/create", ok({**CODE, "ID": "p"}, 201))
    hyperctl("create", "--entrypoint", "", "busybox")
    assert fake.exchanges[-1].json()["containers"][0]["entrypoint"] == [""]


def test_bare_ids(fake, hyperctl):
    fake.on("POST", "/pod/create", ok({**CODE, "ID": "p"}, 201)).on("POST", "/pod/start", ok({}))
    fake.on("POST", "/container/create", ok({"ID": CID}, 201))
    assert hyperctl("create", "-q", "busybox").stdout == b"p\n"
    assert hyperctl("run", "-d", "-q", "busybox").stdout == b"p\n"
    assert hyperctl("create", "-q", "-c", "p", "busybox").stdout.decode() == f"{CID}\n"


def test_when_an_image_is_pulled(fake, hyperctl):
    missing = refuse(404, "No such image: busybox")
    fake.on("POST", "/pod/create", missing, ok(CODE)).on("POST", "/image/create", lines({"status": "ok"}))
    assert hyperctl("create", "--pull", "never", "busybox").returncode == 255
    assert fake.requests == ["POST /v1.1.0/pod/create"]
    assert hyperctl("create", "--pull", "always", "busybox").returncode == 0
    assert [exchange.path.rpartition("/v1.1.0")[2] for exchange in fake.exchanges[1:]] == [
        "/image/create",
        "/pod/create",
    ]


def test_unknown_keys_of_a_pod_file_are_named(fake, hyperctl, tmp_path):
    (tmp_path / "p.json").write_text(
        json.dumps({"id": "p", "containers": [{"name": "c", "image": "busybox", "comand": ["sleep"]}], "xyz": 1})
    )
    fake.on("POST", "/pod/create", ok({**CODE, "ID": "p"}, 201))
    done = hyperctl("create", "-p", "p.json")
    assert done.returncode == 0
    assert done.stderr.decode().splitlines() == [
        "hyperctl WARNING: p.json: containers[0].comand is not known and does nothing; did you mean command?",
        "hyperctl WARNING: p.json: xyz is not known and does nothing",
    ]
    (tmp_path / "k.yaml").write_text("apiVersion: v1\nkind: Pod\nmetadata: {name: x}\n")
    done = hyperctl("run", "-p", "k.yaml")
    assert done.returncode == 255
    assert b"hyperctl kube play k.yaml" in done.stderr


PODS = {"podData": ["web:web:vm-a:running", "db:db::failed"]}
WEB = {
    "createdAt": int(time.time()) - 310,
    "spec": {"containers": [{"containerID": CID, "image": "nginx:1"}], "labels": {"team": "red"}},
    "status": {"podIP": ["10.0.0.2/24"]},
}
DB = {"createdAt": 1, "spec": {"containers": [{"containerID": OTHER, "image": "postgres"}]}, "status": {}}
RULES = {"portMappings": [{"protocol": "tcp", "hostPort": "8080", "containerPort": "80", "hostIP": "127.0.0.1"}]}


@pytest.fixture
def pods(fake):
    fake.on("GET", "/list", ok(PODS)).on("GET", "/pod/info", ok(WEB), ok(DB))
    fake.on("GET", "/pod/web/portmappings", ok(RULES)).on("GET", "/pod/db/portmappings", ok({"portMappings": []}))
    return fake


def test_a_long_list(pods, hyperctl):
    done = hyperctl("list", "-l")
    head, web, database = done.stdout.decode().splitlines()
    assert head.split() == ["POD", "Name", "Status", "Image", "Created", "Ports", "IP"]
    assert web.split("  ")[0] == "web"
    assert "running" in web
    assert "nginx:1" in web
    assert " minutes ago " in web
    assert "127.0.0.1:8080->80/tcp" in web
    assert web.endswith("10.0.0.2")
    assert "postgres" in database


@pytest.mark.parametrize(
    ("words", "found", "requests"),
    [
        ("--filter status=running", "web\n", 1),
        ("-f name=d -f name=w", "web\ndb\n", 1),
        ("--filter id=we", "web\n", 1),
        ("--filter label=team=red", "web\n", 5),
        ("--filter image=nginx", "web\n", 5),
        ("--filter label=team=blue --filter status=failed", "", 3),
    ],
)
def test_filters(pods, hyperctl, words, found, requests):
    assert hyperctl("list", "-q", *words.split()).stdout.decode() == found
    assert len(pods.requests) == requests


@pytest.mark.parametrize("words", [["pods"], ["Pods"], []])
def test_plurals(pods, hyperctl, words):
    assert hyperctl("list", "-q", *words).stdout == b"web\ndb\n"
    assert pods.requests == ["GET /v1.1.0/list?item=pod"]


def test_ps_lists_containers(fake, hyperctl):
    fake.on("GET", "/list", ok({"cData": [f"{CID}:/c1:web:running"]}))
    assert hyperctl("ps", "-aq").stdout.decode() == f"{CID}\n"
    assert fake.requests == ["GET /v1.1.0/list?item=container"]


def test_port(pods, hyperctl):
    assert hyperctl("port", "web").stdout == b"80/tcp -> 127.0.0.1:8080\n"
    assert hyperctl("port", "web", "80/tcp").stdout == b"127.0.0.1:8080\n"
    done = hyperctl("port", "web", "81")
    assert (done.returncode, done.stdout) == (255, b"")
    assert b"port 81/tcp of the pod web is not published" in done.stderr


def test_small_commands(fake, hyperctl):
    fake.on("POST", "/container/rename", ok({})).on("POST", "/pod/labels", ok({}, 201)).on("GET", "/pod/info", ok(WEB))
    fake.on("GET", "/exitcode", ok(3), ok(0)).on("DELETE", "/pod", refuse(404, "no pod x"))
    assert hyperctl("rename", "a", "b").returncode == 0
    assert fake.exchanges[-1].parameters == {"oldName": ["a"], "newName": ["b"]}
    assert hyperctl("labels", "--overwrite", "web", "team=blue").returncode == 0
    assert fake.exchanges[-1].parameters == {"podId": ["web"], "labels": ['{"team":"blue"}'], "override": ["true"]}
    assert hyperctl("labels", "web").stdout == b"team=red\n"
    done = hyperctl("wait", "a", "b")
    assert (done.stdout, done.returncode) == (b"3\n0\n", 0)
    assert hyperctl("rm", "-f", "x").returncode == 0
    assert hyperctl("rm", "x").returncode == 255


def test_pods_are_taken_where_containers_are_named(fake, hyperctl):
    refusal = refuse(404, "Can not find container by name(web)")
    fake.on("GET", "/list", ok({"cData": [f"{CID}:/other:web:running"]})).on("POST", "/pod/kill", ok({}))
    fake.on("POST", "/container/kill", refusal).on("POST", "/container/rename", refusal, ok({}))
    assert hyperctl("kill", "web").returncode == 0
    assert "/pod/kill" in fake.exchanges[-1].target
    assert hyperctl("rename", "web", "front").returncode == 0
    assert fake.exchanges[-1].parameters["oldName"] == [CID]
    fake.on("POST", "/container/commit", refusal, ok({"ID": "sha256:1"}, 201))
    assert hyperctl("commit", "web", "img:1").stdout == b"sha256:1\n"
    fake.on("POST", "/pod/kill", refuse(404, "The pod(web) can not be found, please create it first"))
    assert hyperctl("kill", "web").stderr.endswith(b": no container web: 'hyperctl ps' shows those there are\n")


def test_options_that_docker_users_add(fake, hyperctl):
    fake.on("DELETE", "/pod", ok({})).on("GET", "/pod/info", ok(WEB)).on("POST", "/volume/prune", ok({"data": 3}))
    fake.on("POST", "/network/prune", ok({"removed": []})).on(
        "POST", "/images/prune", ok({"ImagesDeleted": [], "SpaceReclaimed": 0})
    )
    fake.on("POST", "/image/create", lines({"status": "Pulling"}, {"status": "Done"}))
    assert hyperctl("rm", "-fv", "web").returncode == 0
    assert hyperctl("inspect", "-f", "{{.createdAt}}", "web").returncode == 0
    assert hyperctl("pull", "-q", "busybox").stdout == b"busybox:latest\n"
    for what in ("image", "volume", "network"):
        assert hyperctl(what, "prune", "-f").returncode == 0


def test_attach_to_what_has_ended_says_so(fake, hyperctl):
    status = {"phase": "failed", "terminated": {"exitCode": 3}}
    fake.on("GET", "/container/info", ok({"container": {"containerID": CID}, "status": status}))
    done = hyperctl("attach", "c1")
    assert done.returncode == 255
    assert b"c1 does not run: it ended with exit code 3" in done.stderr
    assert all("/attach" not in request for request in fake.requests)


def test_since_a_while_ago(fake, hyperctl):
    fake.on("GET", "/container/info", ok({"container": {}}))
    fake.on("GET", "/container/logs", Reply(content_type="text/plain", pieces=[b"\1\0\0\0\0\0\0\2hi"]))
    before = time.time()
    assert hyperctl("logs", "--since", "10m", "-n", "5", "c1").stdout == b"hi"
    sent = fake.exchanges[-1].parameters
    assert before - 601 < float(sent["since"][0]) < time.time() - 599
    assert sent["tail"] == ["5"]
    hyperctl("logs", "--since", "2026-01-31", "--tail", "all", "c1")
    sent = fake.exchanges[-1].parameters
    assert (sent["since"], sent["tail"]) == (["1769817600"], [""])


STATS = {
    "timestamp": "2026-01-31T12:00:00.5Z",
    "cpu": {"usage": {"total": 1000}},
    "memory": {"usage": 1000},
    "network": {},
    "block": {},
    "container_stats": [],
}


def test_stats_of_all_that_run(fake, hyperctl):
    fake.on("GET", "/list", ok(PODS)).on("GET", "/pod/stats", ok(STATS))
    done = hyperctl("stats", "--format", "{{.Name}}")
    assert (done.stdout, done.returncode) == (b"web\n", 0)
    assert json.loads(hyperctl("stats", "--format", "json").stdout)[0]["pod"] == "web"


def test_system_prune_removes_what_has_ended(fake, hyperctl):
    fake.on("GET", "/list", ok(PODS)).on("DELETE", "/pod", ok(CODE))
    fake.on("POST", "/images/prune", ok({"ImagesDeleted": [{"untaged": "a:1"}], "SpaceReclaimed": 5000}))
    fake.on("POST", "/network/prune", ok(["front"])).on("POST", "/volume/prune", ok({"v1": 7}))
    done = hyperctl("system", "prune", "-f")
    assert done.stdout.decode() == "pod: db\nnetwork: front\nuntagged: a:1\nTotal reclaimed space: 5 kB\n"
    assert not any("/volume/prune" in request for request in fake.requests)
    assert "DELETE /v1.1.0/pod?podId=db" in fake.requests
    assert "DELETE /v1.1.0/pod?podId=web" not in fake.requests


def test_system_prune_removes_volumes_when_asked(fake, hyperctl):
    fake.on("GET", "/list", ok({"podData": []})).on("POST", "/network/prune", ok([]))
    fake.on("POST", "/images/prune", ok({"ImagesDeleted": None, "SpaceReclaimed": 5000}))
    fake.on("POST", "/volume/prune", ok({"v1": 2000, "v2": 1000}))
    done = hyperctl("system", "prune", "-f", "--volumes")
    assert done.stdout.decode() == "volume: v1\nvolume: v2\nTotal reclaimed space: 8 kB\n"
    assert next(one for one in fake.exchanges if one.path.endswith("/volume/prune")).parameters["all"] == ["true"]


def members(data: bytes) -> dict[str, bytes]:
    with tarfile.open(fileobj=io.BytesIO(data)) as tar:
        return {one.name: tar.extractfile(one).read() for one in tar}


def test_build_from_standard_input(fake, hyperctl):
    fake.on("POST", "/image/build", lines({"stream": "ok\n"}))
    text = b"FROM busybox\nRUN true\n" * 100
    assert hyperctl("build", "-t", "x", "-", stdin=text).stdout == b"ok\n"
    assert members(fake.exchanges[0].body) == {"Dockerfile": text}
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w:gz") as tar:
        info = tarfile.TarInfo("Other")
        info.size = 4
        tar.addfile(info, io.BytesIO(b"FROM"))
    assert hyperctl("build", "-f", "Other", "-", stdin=packed.getvalue()).stdout == b"ok\n"
    assert fake.exchanges[1].body == packed.getvalue()
    assert fake.exchanges[1].parameters["dockerfile"] == ["Other"]
    done = hyperctl("build", "-", stdin=b"")
    assert (done.returncode, b"nothing on standard input" in done.stderr) == (255, True)


def test_exec_in_the_guest_without_a_command_is_no_mistake(fake, hyperctl):
    done = hyperctl("exec", "-m", "web")
    assert (done.returncode, done.stdout, done.stderr, fake.requests) == (0, b"", b"", [])


def test_attached_to_a_pod_without_containers(fake, hyperctl, tmp_path):
    (tmp_path / "p.json").write_text('{"id": "p"}')
    fake.on("POST", "/pod/create", ok({**CODE, "ID": "p"}, 201)).on("POST", "/pod/start", ok({}))
    done = hyperctl("run", "-a", "-p=p.json")
    assert (done.returncode, done.stdout.startswith(b"POD id is p\n")) == (0, True)
