"""hyperctl as a process against a daemon that records: requests, output and exit status of every command."""

from __future__ import annotations

import base64
import json
import os
import socket
import threading

import pytest

from tests.support.fake_hyperd import FakeHyperd, Hijack, Reply, lines, ok, refuse
from tests.support.hyperctl_process import CID, CODE
from tests.support.ports import free_port

IMAGE = "3f57d9401f8d42f986df300f0c69192fc41da28ccc8d797829467780db3dd741"


def columns(*cells: str) -> str:
    return "".join(cell.ljust(20) for cell in cells[:-1]) + cells[-1] + "\n"


# -- plain commands: (words, answers, requests, stdout)

INFO = {
    "Containers": 3,
    "Images": 5,
    "Pods": 2,
    "Driver": "overlay",
    "DriverStatus": [["Root", "/x"]],
    "DockerRootDir": "/var/lib/hyper",
    "IndexServerAddress": "https://index.docker.io/v1/",
    "ExecutionDriver": "libvirt",
    "MemTotal": 24576000,
    "Operating System": "Debian",
}
INFO_TEXT = (
    "Images: 5\nContainers: 3\nPODs: 2\nStorage Driver: overlay\n  Root: /x\nHyper Root Dir: /var/lib/hyper\n"
    "Index Server Address: https://index.docker.io/v1/\nExecution Driver: libvirt\nTotal Memory: 25.17 GB\n"
    "Operating System: Debian\n"
)
PODS = {"item": "pod", "podData": ["full:full:vm-abc:running", "stopped:stopped::failed"]}
IMAGES = {
    "imagesList": [
        f"busybox:latest:{IMAGE}:1700000000:1130000",
        f"127.0.0.1:5000/user/app:v1:{IMAGE}:0:999",
        f"<none>:<none>:{IMAGE}:1:4194304000",
    ]
}
IMAGES_TEXT = (
    "REPOSITORY                TAG                 IMAGE ID            CREATED               VIRTUAL SIZE\n"
    "busybox                   latest              3f57d9401f8d        2023-11-14 22:13:20   1.13 MB\n"
    "127.0.0.1:5000/user/app   v1                  3f57d9401f8d        1970-01-01 00:00:00   999 B\n"
    "<none>                    <none>              3f57d9401f8d        1970-01-01 00:00:01   4.194 GB\n"
)
ONE_IMAGE_TEXT = (
    "REPOSITORY          TAG                 IMAGE ID            CREATED               VIRTUAL SIZE\n"
    "busybox             latest              3f57d9401f8d        2023-11-14 22:13:20   1.13 MB\n"
)
PLAIN = [
    ("info", [("GET", "/info", ok(INFO))], ["GET /v1.1.0/info"], INFO_TEXT),
    ("version", [], [], "The hyperctl version is 0.1.0\n"),
    ("--version", [], [], "The hyperctl version is 0.1.0\n"),
    (
        "list",
        [("GET", "/list", ok(PODS, 201))],
        ["GET /v1.1.0/list?item=pod"],
        columns("POD ID", "POD Name", "VM name", "Status")
        + columns("full", "full", "vm-abc", "running")
        + columns("stopped", "stopped", "", "failed"),
    ),
    ("list -q", [("GET", "/list", ok(PODS))], ["GET /v1.1.0/list?item=pod"], "full\nstopped\n"),
    (
        "list -p full container",
        [("GET", "/list", ok({"item": "container", "cData": [f"{CID}:/web:full:running"]}))],
        ["GET /v1.1.0/list?item=container&pod=full"],
        "Container ID".ljust(67)
        + columns("Name", "POD ID", "Status")
        + CID.ljust(67)
        + columns("web", "full", "running"),
    ),
    (
        "LIST vm",
        [("GET", "/list", ok({"item": "vm", "vmData": ["vm-abc:full:associated"]}))],
        ["GET /v1.1.0/list?item=vm"],
        columns("VM name", "Status") + columns("vm-abc", "associated"),
    ),
    (
        "list -m vm-abc",
        [("GET", "/list", ok({"item": "pod", "podData": None}))],
        ["GET /v1.1.0/list?item=pod&vm=vm-abc"],
        columns("POD ID", "POD Name", "VM name", "Status"),
    ),
    ("images", [("GET", "/images/get", ok(IMAGES))], ["GET /v1.1.0/images/get?all=no&quiet=no"], IMAGES_TEXT),
    (
        "images -aq",
        [("GET", "/images/get", ok(IMAGES))],
        ["GET /v1.1.0/images/get?all=yes&quiet=yes"],
        f"{IMAGE[:12]}\n" * 3,
    ),
    (
        "images busybox",
        [("GET", "/images/get", ok(IMAGES))],
        ["GET /v1.1.0/images/get?all=no&quiet=no"],
        ONE_IMAGE_TEXT,
    ),
    (
        "start full",
        [("POST", "/pod/start", ok({}))],
        ["POST /v1.1.0/pod/start?podId=full"],
        "Successfully started the Pod(full)\n",
    ),
    (
        "start -c second",
        [("POST", "/container/start", ok({}))],
        ["POST /v1.1.0/container/start?container=second"],
        "Successfully started container second\n",
    ),
    (
        "stop full",
        [("POST", "/pod/stop", ok(CODE))],
        ["POST /v1.1.0/pod/stop?podId=full&stopVm=yes"],
        "Successfully shutdown the POD: full!\n",
    ),
    (
        "stop -t 3 full",
        [("POST", "/pod/stop", ok(CODE))],
        ["POST /v1.1.0/pod/stop?podId=full&stopVm=yes&t=3"],
        "Successfully shutdown the POD: full!\n",
    ),
    (
        "stop -c --time=0 a",
        [("POST", "/container/stop", Reply())],
        ["POST /v1.1.0/container/stop?container=a&t=0"],
        "",
    ),
    (
        "restart -t 5 full",
        [("POST", "/pod/stop", ok(CODE)), ("POST", "/pod/start", ok({}))],
        ["POST /v1.1.0/pod/stop?podId=full&stopVm=yes&t=5", "POST /v1.1.0/pod/start?podId=full"],
        "Successfully restarted the Pod(full)\n",
    ),
    (
        "stop -c a b",
        [("POST", "/container/stop", Reply())],
        ["POST /v1.1.0/container/stop?container=a", "POST /v1.1.0/container/stop?container=b"],
        "",
    ),
    (
        "rm cpod yamlpod",
        [("DELETE", "/pod", ok(CODE))],
        ["DELETE /v1.1.0/pod?podId=cpod", "DELETE /v1.1.0/pod?podId=yamlpod"],
        "Pod(cpod) is successfully deleted!\nPod(yamlpod) is successfully deleted!\n",
    ),
    (
        "rm -c extra",
        [("POST", "/container/remove", Reply(status=204))],
        ["POST /v1.1.0/container/remove?container=extra"],
        "container extra is successfully deleted!\n",
    ),
    (
        "kill second",
        [("POST", "/container/kill", ok({}, 201))],
        ["POST /v1.1.0/container/kill?container=second&signal=9"],
        "",
    ),
    (
        "kill -s sigterm second",
        [("POST", "/container/kill", ok({}, 201))],
        ["POST /v1.1.0/container/kill?container=second&signal=15"],
        "",
    ),
    (
        "kill -p -s 3 full",
        [("POST", "/pod/kill", ok({}))],
        ["POST /v1.1.0/pod/kill?podName=full&signal=3"],
        "",
    ),
    ("pause full", [("POST", "/pod/pause", Reply(status=204))], ["POST /v1.1.0/pod/pause?podId=full"], ""),
    ("unpause full", [("POST", "/pod/unpause", Reply(status=204))], ["POST /v1.1.0/pod/unpause?podId=full"], ""),
    (
        "ports ls full",
        [
            (
                "GET",
                "/pod/full/portmappings",
                ok({"portMappings": [{"protocol": "tcp", "hostPort": "3000", "containerPort": "1300"}]}),
            )
        ],
        ["GET /v1.1.0/pod/full/portmappings"],
        columns("Protocol", "Host Ports", "Container Ports") + columns("tcp", "3000", "1300"),
    ),
    (
        "rmi -f --no-prune haproxy:latest",
        [("DELETE", "/image", ok({"imagesList": [{"untaged": "haproxy:latest"}]}))],
        ["DELETE /v1.1.0/image?force=true&imageId=haproxy%3Alatest&noprune=true"],
        "Image(haproxy:latest) is successful to be deleted!\nUntagged: haproxy:latest\n",
    ),
    (
        "vm create --cpu 2 --memory 512",
        [("POST", "/vm/create", ok({"Cause": "", "Code": 0, "ID": "vm-abc"}))],
        ["POST /v1.1.0/vm/create?cpu=2&mem=512"],
        "New VM id is vm-abc\n",
    ),
    (
        "vm rm vm-abc",
        [("DELETE", "/vm", ok(CODE))],
        ["DELETE /v1.1.0/vm?vm=vm-abc"],
        "VM(vm-abc) is successfully deleted!\n",
    ),
    (
        "commit -a me -m msg cpod user/committed:v1",
        [("POST", "/container/commit", ok({"ID": "sha256:1"}))],
        [
            (
                "POST /v1.1.0/container/commit?author=me&change=%5B%22%22%5D&container=cpod&message=msg&pause=no"
                "&repo=user%2Fcommitted&tag=v1"
            )
        ],
        "sha256:1\n",
    ),
    (
        "save a:1 b:2 -f docker -r a=b",
        [("GET", "/images/save", Reply(pieces=[b"ta", b"r"], content_type="application/x-tar"))],
        ["GET /v1.1.0/images/save?format=docker&names=a%3A1&names=b%3A2&refs=%7B%22a%22%3A%22b%22%7D"],
        "tar",
    ),
    ("logout 127.0.0.1:5000", [], [], "Not logged in to 127.0.0.1:5000\n"),
]


@pytest.mark.parametrize("case", PLAIN, ids=[case[0] for case in PLAIN])
def test_plain_command(fake, hyperctl, case):
    words, answers, requests, stdout = case
    for method, path, reply in answers:
        fake.on(method, path, reply)
    done = hyperctl(*words.split())
    assert (done.stdout.decode(), done.stderr, done.returncode) == (stdout, b"", 0)
    assert fake.requests == requests
    assert len({exchange.connection for exchange in fake.exchanges}) <= 1, "plain calls share a connection"


def test_headers_of_a_plain_call(fake, hyperctl):
    fake.on("POST", "/pod/stop", ok(CODE)).on("DELETE", "/pod", ok(CODE)).on("GET", "/list", ok(PODS))
    hyperctl("stop", "x")
    hyperctl("rm", "x")
    hyperctl("list")
    post, delete, get = (exchange.headers for exchange in fake.exchanges)
    assert post["user-agent"] == delete["user-agent"] == get["user-agent"] == "hyperctl/0.1.0"
    assert (post["content-length"], post["content-type"]) == ("0", "text/plain")
    assert ("content-length" in delete, delete["content-type"]) == (False, "text/plain")
    assert "content-type" not in get


def test_ports_add_and_delete_send_the_rules(fake, hyperctl):
    fake.on("PUT", "/pod/full/portmappings/add", Reply(status=204))
    fake.on("PUT", "/pod/full/portmappings/delete", refuse(404, "Pod full not found"))
    assert hyperctl("ports", "add", "-p", "tcp:3002:1302", "-p", "53-54:53-54", "full").returncode == 0
    assert fake.exchanges[0].json() == [
        {"containerPort": "1302", "hostPort": "3002", "protocol": "tcp"},
        {"containerPort": "53-54", "hostPort": "53-54", "protocol": "tcp"},
    ]
    assert fake.exchanges[0].headers["content-type"] == "application/json"
    done = hyperctl("ports", "delete", "-p", "udp:1:1", "full")
    assert (done.returncode, done.stderr) == (255, b"hyperctl ERROR: pod full not found\n")


# -- errors

FAILING_ITEMS = [
    ("stop a b", "POST", "/pod/stop", "fail to stop pod a: Error from daemon's response: Can not find pod(a)\n"),
    ("stop -c a b", "POST", "/container/stop", "fail to stop container a: "),
    ("rm a b", "DELETE", "/pod", "Pod(a) delete failed: "),
    ("rm -c a b", "POST", "/container/remove", "container a delete failed: "),
    ("kill a b", "POST", "/container/kill", "fail to kill container a: "),
    ("kill -p a b", "POST", "/pod/kill", "fail to kill pod a: "),
    ("rmi a b", "DELETE", "/image", "Image(a) delete failed: "),
    ("vm rm a b", "DELETE", "/vm", "VM(a) delete failed: "),
]


@pytest.mark.parametrize("case", FAILING_ITEMS, ids=[case[0] for case in FAILING_ITEMS])
def test_one_failing_item_does_not_stop_the_others_but_the_status_tells(fake, hyperctl, case):
    words, method, path, complaint = case
    fake.on(method, path, refuse(500, "Can not find pod(a)"), ok(CODE))
    done = hyperctl(*words.split())
    assert len(fake.requests) == 2
    assert done.stderr.decode().startswith(complaint)
    assert len(done.stderr.splitlines()) == 1
    assert done.returncode == 255


def test_a_code_that_is_not_zero_fails(fake, hyperctl):
    fake.on("POST", "/pod/stop", ok({"Code": 4, "Cause": "is busy"}))
    done = hyperctl("stop", "full")
    assert done.stderr == b"fail to stop pod full: Error code is 4, cause is is busy\n"
    assert (done.stdout, done.returncode) == (b"", 255)


REFUSED = [
    ("start nosuch", refuse(500, "The pod(nosuch) can not be found"), "The pod(nosuch) can not be found"),
    ("start nosuch", refuse(404, "  spaces  "), "spaces"),
]


@pytest.mark.parametrize(("words", "reply", "text"), REFUSED)
def test_the_daemons_words_are_printed(fake, hyperctl, words, reply, text):
    fake.on("POST", "/pod/start", reply)
    done = hyperctl(*words.split())
    assert done.stderr.decode() == f"hyperctl ERROR: Error from daemon's response: {text}\n"
    assert (done.stdout, done.returncode) == (b"", 255)


def test_an_empty_refusal_names_the_route(fake, hyperctl):
    fake.on("GET", "/info", Reply(status=500, reason="Internal Server Error"))
    done = hyperctl("info")
    assert done.stderr.decode() == (
        "hyperctl ERROR: Error: request returned Internal Server Error for API route and version /v1.1.0/info, "
        "check if the server supports the requested API version\n"
    )
    assert done.returncode == 255


@pytest.mark.parametrize(
    ("reply", "text"),
    [
        (Reply(body=b"<html>"), b"the daemon's answer is not JSON"),
        (ok([]), b"the daemon's answer is not a JSON object"),
        (Reply(body=b'{"a"', cut=True), b"the connection to the daemon ended in the middle of an answer"),
        (Reply(pieces=[b"{"], cut=True), b"the connection to the daemon ended in the middle of an answer"),
        (Reply(body=b"[" * 200000), b"the daemon's answer is not JSON"),
    ],
)
def test_a_broken_answer_is_an_error_and_no_traceback(fake, hyperctl, reply, text):
    fake.on("GET", "/info", reply)
    done = hyperctl("info")
    assert (done.stderr, done.stdout, done.returncode) == (b"hyperctl ERROR: %b\n" % text, b"", 255)


def test_nobody_listens(hyperctl, tmp_path):
    text = "hyperctl ERROR: Cannot connect to the Hyper daemon at {}. Is 'hyperd' running on {}?\n"
    for command in (["list"], ["run", "busybox"], ["exec", "a", "true"], ["pull", "a"]):
        done = hyperctl("-H", f"unix://{tmp_path}/nobody", *command)
        assert (done.stderr.decode(), done.returncode) == (text.format(f"unix://{tmp_path}/nobody", "this host"), 255)
    port = free_port()
    done = hyperctl("--host", f"tcp://127.0.0.1:{port}", "list")
    assert (done.stderr.decode(), done.returncode) == (text.format(f"tcp://127.0.0.1:{port}", "127.0.0.1"), 255)


@pytest.mark.parametrize("said", [b"", b"\x15\x03\x03\x00\x02\x02\x46"])
def test_a_daemon_that_speaks_tls(hyperctl, said):
    """It sends an alert, or ends the connection without a word."""

    def answer() -> None:
        connection, _ = listener.accept()
        with connection:
            connection.recv(65536)
            connection.sendall(said)

    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=answer)
        thread.start()
        done = hyperctl("-H", f"tcp://127.0.0.1:{listener.getsockname()[1]}", "list")
        thread.join()
    assert (done.returncode, b"use --tlsverify, or HYPER_TLS_VERIFY=1" in done.stderr) == (255, True), done.stderr


def test_the_option_wins_over_the_environment(hyperctl):
    with FakeHyperd(tcp=True) as other:
        other.on("GET", "/list", ok(PODS))
        assert hyperctl("-H", other.address, "list", "-q").stdout == b"full\nstopped\n"
        assert other.exchanges[0].headers["host"] == other.address.removeprefix("tcp://")
        assert hyperctl("-H", other.address, "list", "--quiet", "-h").returncode == 0


BAD_LINES = [
    (["list", "foo"], "Can not support foo list!\n"),
    (["-H", "ftp://x", "list"], "'ftp://x' is not an address of a daemon: use unix:///path or tcp://host:port\n"),
    (["kill", "-s", "NOPE", "a"], "Invalid signal: NOPE\n"),
    (["run"], "an image is needed, or --podfile\n"),
    (["run", "--restart", "always:3", "busybox"], "'always:3' is not a restart policy"),
    (["run", "--no-healthcheck", "--health-cmd", "x", "busybox"], "--no-healthcheck can not be used together"),
    (["run", "--health-interval", "often", "busybox"], "'often' is not a time for --health-interval"),
    (["run", "-t", "busybox"], "-t needs a terminal: stdin is not one\n"),
    (["exec", "-t", "a", "sh"], "-t needs a terminal: stdin is not one\n"),
    (["run", "--publish", "x", "busybox"], "'x' is not a port rule"),
    (["run", "-p", "8080:80", "busybox"], "-p is a pod file here; publish ports with --publish 8080:80\n"),
    (["run", "--rm", "--restart", "always", "busybox"], "--rm and --restart always can not be used together"),
    (["run", "--memory", "much", "busybox"], "'much' is not an amount of memory"),
    (["run", "--cpus", "many", "busybox"], "'many' is not a number of CPUs"),
    (["run", "-v", "a.b/c:x", "busybox"], "'a.b/c:x' is not a volume"),
    (["run", "--mount", "type=bind,target=/x", "busybox"], "'type=bind,target=/x' is not a mount"),
    (["run", "--ulimit", "nofile", "busybox"], "'nofile' is not a limit"),
    (["run", "--pull", "sometimes", "busybox"], "'sometimes' is not known to --pull"),
    (["create", "-c", "--dns", "1.1.1.1", "p", "busybox"], "--dns is the pod's"),
    (["create", "--tmpfs", "rel", "busybox"], "'rel' is not a tmpfs"),
    (["create", "--security-opt", "label=x", "busybox"], "'label=x' is not known to --security-opt"),
    (["create", "--security-opt", "seccomp=/nosuch", "busybox"], "cannot read /nosuch"),
    (["create", "--pids-limit", "few", "busybox"], "'few' is not a number for --pids-limit"),
    (["create", "--device", "null", "busybox"], "'null' is not a device"),
    (["list", "--filter", "colour=red"], "a filter is KEY=VALUE"),
    (["list", "--format", "{{.Name"], "'{{.Name' has {{ without }}"),
    (["logs", "--since", "yesterday", "a"], "'yesterday' is not a time"),
    (["system", "prune"], "This removes all pods that have ended, networks without pods, images without a name."),
    (["run", "--network", "host", "busybox"], "--network host cannot be had"),
    (["run", "--network", "none", "--ip", "10.0.0.9", "busybox"], "--network none means no network at all"),
    (["run", "--network", "none", "--network", "front", "busybox"], "--network none means no network at all"),
    (["run", "--network", "none", "--publish", "80", "busybox"], "--publish needs a network"),
    (["stop", "-t", "soon", "web"], "--time takes a number of seconds"),
    (["restart", "-t", "3601", "web"], "--time takes a number of seconds"),
    (["run", "--ip", "10.0.0.9", "busybox"], "--ip and --network-alias belong to a network"),
    (["run", "--add-host", "name", "busybox"], "'name' is not a line of /etc/hosts"),
    (["run", "-v", "rel", "busybox"], "'rel' is not a volume"),
    (["run", "--label", "x", "busybox"], "'x' is not a value for --label: use key=value\n"),
    (["run", "--link", "a:b", "busybox"], "No such option: --link. Instead: "),
    (["run", "--restart", "maybe", "busybox"], "'maybe' is not a restart policy"),
    (["create", "-c", "full", "--name", "second", "busybox"], "'--name' stands where the image must be"),
    (["create", "-p", "x.json", "busybox"], "'busybox' can not be used together with --podfile\n"),
    (["create", "-p", "x.json", "--memory", "64"], "--memory can not be used together with --podfile\n"),
    (["create", "-p", "/nosuch/x.json"], "cannot read /nosuch/x.json: No such file or directory\n"),
    (["ports", "add", "full"], "a rule is needed"),
    (["exec", "a"], "Missing argument 'COMMAND...'"),
    (["push", "busybox"], 'You cannot push a "root" repository.'),
    (["login", "-u", "a"], "username and password are needed"),
    (["completion", "tcsh"], "there is no completion for tcsh"),
    (["events", "--format", "foo"], "'foo' is no format"),
    (["events", "--format", "{{a b}}"], "'{{a b}}' is not understood"),
]


@pytest.mark.parametrize(("words", "text"), BAD_LINES, ids=[" ".join(case[0]) for case in BAD_LINES])
def test_a_wrong_command_line_asks_the_daemon_nothing(fake, hyperctl, words, text):
    done = hyperctl(*words)
    assert done.stderr.decode().startswith(f"hyperctl ERROR: {text}")
    assert (done.stdout, done.returncode, fake.requests) == (b"", 255, [])


def test_an_unknown_command(hyperctl):
    done = hyperctl("frobnicate")
    assert done.stderr == b"hyperctl: 'frobnicate' is not a hyperctl command. See 'hyperctl --help'.\n"
    assert done.returncode == 1


# -- pull, login

BUSY_PULL = (
    {"status": "Pulling from library/busybox", "id": "latest"},
    {"status": "Pulling fs layer", "progressDetail": {}, "id": "3f57d9401f8d"},
    {"status": "Downloading", "progressDetail": {"current": 1, "total": 100}, "id": "3f57d9401f8d"},
    {"status": "Pull complete", "progressDetail": {}, "id": "3f57d9401f8d"},
    {"status": "Status: Downloaded newer image for busybox:latest"},
)


def test_pull_prints_plain_lines_when_nobody_watches(fake, hyperctl):
    fake.on("POST", "/image/create", lines(*BUSY_PULL))
    done = hyperctl("pull", "127.0.0.1:5000/user/app")
    assert fake.requests == ["POST /v1.1.0/image/create?imageName=127.0.0.1%3A5000%2Fuser%2Fapp%3Alatest"]
    assert "x-registry-auth" not in fake.exchanges[0].headers
    assert done.stdout.decode().splitlines() == [
        "Using default tag: latest",
        "latest: Pulling from library/busybox",
        "3f57d9401f8d: Pulling fs layer",
        "3f57d9401f8d: Pull complete",
        "Status: Downloaded newer image for busybox:latest",
    ]
    assert (done.returncode, done.stderr) == (0, b"")


@pytest.mark.parametrize("name", ["busybox:1", "busybox@sha256:abc", "h:1/busybox:2"])
def test_pull_leaves_a_full_name_alone(fake, hyperctl, name):
    fake.on("POST", "/image/create", lines({"status": "ok"}))
    done = hyperctl("pull", name)
    assert fake.exchanges[0].parameters == {"imageName": [name]}
    assert done.stdout == b"ok\n"


def test_an_error_inside_the_progress_fails(fake, hyperctl):
    fake.on("POST", "/image/create", lines({"status": "x"}, {"errorDetail": {"message": "no"}, "error": "no"}))
    done = hyperctl("pull", "busybox:1")
    assert (done.stdout, done.stderr, done.returncode) == (b"x\n", b"hyperctl ERROR: no\n", 255)


def test_login_pull_logout(fake, hyperctl, tmp_path):
    file = tmp_path / ".docker" / "config.json"
    file.parent.mkdir()
    file.write_text(json.dumps({"psFormat": "x", "auths": {"other": {"auth": "b3RoZXI6cHc="}}}))
    fake.on("POST", "/auth", ok({"Status": "Login Succeeded"}))
    fake.on("POST", "/image/create", lines({"status": "ok"}))
    done = hyperctl("login", "-u", "alice", "-p", "s:ecret", "-e", "a@x", "127.0.0.1:5000")
    assert done.stdout.decode() == f"WARNING: login credentials saved in {file}\nLogin Succeeded\n"
    auth = {"username": "alice", "password": "s:ecret", "email": "a@x", "serveraddress": "127.0.0.1:5000"}
    assert fake.exchanges[0].json() == auth
    kept = json.loads(file.read_text())
    assert kept == {
        "psFormat": "x",
        "auths": {
            "other": {"auth": "b3RoZXI6cHc="},
            "127.0.0.1:5000": {"auth": base64.b64encode(b"alice:s:ecret").decode(), "email": "a@x"},
        },
    }
    assert file.stat().st_mode & 0o777 == 0o600
    assert hyperctl("pull", "127.0.0.1:5000/user/app:1").returncode == 0
    header = fake.find("/image/create").headers["x-registry-auth"]
    assert json.loads(base64.urlsafe_b64decode(header)) == auth
    assert hyperctl("pull", "busybox:1").returncode == 0
    assert "x-registry-auth" not in fake.find("/image/create", 2).headers
    assert hyperctl("logout", "127.0.0.1:5000").stdout == b"Remove login credentials for 127.0.0.1:5000\n"
    assert json.loads(file.read_text())["auths"] == {"other": {"auth": "b3RoZXI6cHc="}}


def test_a_refused_login_forgets_what_was_kept(fake, hyperctl, tmp_path):
    file = tmp_path / ".docker" / "config.json"
    file.parent.mkdir()
    file.write_text(json.dumps({"auths": {"h:1": {"auth": "b2xkOnB3"}}}))
    fake.on("POST", "/auth", refuse(401, "unauthorized: wrong password"))
    done = hyperctl("login", "-u", "a", "--password-stdin", "h:1", stdin=b"pw\n")
    assert fake.exchanges[0].json()["password"] == "pw"
    assert (done.returncode, b"wrong password" in done.stderr) == (255, True)
    assert json.loads(file.read_text()) == {"auths": {}}


def test_push_sends_credentials_and_tag(fake, hyperctl):
    fake.on("POST", "/image/push", lines({"status": "Pushed", "id": "1"}))
    done = hyperctl("push", "127.0.0.1:5000/user/app:v1")
    assert fake.requests == ["POST /v1.1.0/image/push?remote=127.0.0.1%3A5000%2Fuser%2Fapp%3Av1&tag=v1"]
    assert "x-registry-auth" in fake.exchanges[0].headers
    assert (done.stdout, done.returncode) == (b"1: Pushed\n", 0)


def test_load_streams_stdin(fake, hyperctl, tmp_path):
    data = os.urandom(700_000)
    fake.on("POST", "/image/load", lines({"stream": "loaded\n"}), Reply(content_type="text/plain", body=b"renamed\n"))
    done = hyperctl("load", "-n", "nm", "-r", "a=b", stdin=data)
    assert fake.requests == ["POST /v1.1.0/image/load?name=nm&refs=%7B%22a%22%3A%22b%22%7D"]
    assert fake.exchanges[0].body == data
    assert fake.exchanges[0].headers["content-type"] == "application/x-tar"
    assert done.stdout == b"loaded\n"
    (tmp_path / "i.tar").write_bytes(data)
    assert hyperctl("load", "-i", "i.tar").stdout == b"renamed\n"
    assert fake.exchanges[1].body == data


def test_save_to_a_file_leaves_nothing_after_a_failure(fake, hyperctl, tmp_path):
    fake.on("GET", "/images/save", Reply(pieces=[b"half"], cut=True), Reply(pieces=[b"who", b"le"]))
    assert hyperctl("save", "-o", "s.tar", "busybox").returncode == 255
    assert list(tmp_path.iterdir()) == []
    assert hyperctl("save", "-o", "s.tar", "busybox").returncode == 0
    assert (tmp_path / "s.tar").read_bytes() == b"whole"


@pytest.mark.parametrize("verb", ["logs", "attach", "exec"])
def test_the_name_of_a_pod_means_its_first_container(fake, hyperctl, verb):
    """Only when no container has the name; the first refusal is what is said when it is no pod's either."""
    refusal = refuse(404, "cannot find container web")
    fake.on("GET", "/container/info", refusal, ok({"container": {"containerID": CID}}))
    fake.on("POST", "/exec/create", refusal, ok("exec-a", 201))
    fake.on("GET", "/list", ok({"item": "container", "cData": [f"{CID}:c1:web:running", f"{IMAGE}:c2:web:running"]}))
    fake.on("GET", "/container/logs", Reply(content_type="text/plain", pieces=[b"\1\0\0\0\0\0\0\2hi"]))
    fake.on("POST", "/attach", Hijack(lambda talk: talk.out(b"hi"))).on("GET", "/exitcode", ok(0))
    fake.on("POST", "/exec/start", Hijack(lambda talk: talk.out(b"hi")))
    done = hyperctl(verb, "web", *(["true"] if verb == "exec" else []))
    assert (done.returncode, done.stdout, done.stderr) == (0, b"hi", b"")
    assert "GET /v1.1.0/list?item=container&pod=web" in fake.requests
    assert fake.exchanges[-1].parameters["container"] == [CID]
    fake.on("GET", "/container/info", refusal).on("POST", "/exec/create", refusal)
    fake.on("GET", "/list", ok({"item": "container", "cData": []}))
    done = hyperctl(verb, "web", *(["true"] if verb == "exec" else []))
    assert (done.returncode, b"cannot find container web" in done.stderr) == (255, True)
