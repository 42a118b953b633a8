"""Every command of hyperctl against a real daemon: output and exit status as the reference has them.

The VMs only pretend here; ``test_guests.py`` repeats the commands where the guest matters.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from tests.support.daemon import HyperdLauncher
from tests.support.hyperctl_process import Runner
from tests.support.registry import PASSWORD, USER, Layer, RegistryServer, busybox_tar
from tests.support.until import until

pytestmark = [pytest.mark.root, pytest.mark.registry]

# All of the reference, hidden ones too, and ours.
VERBS = (
    *(
        "attach",
        "commit",
        "create",
        "exec",
        "help",
        "images",
        "info",
        "kill",
        "list",
        "load",
        "login",
        "logout",
        "logs",
    ),
    *("pause", "ports", "pull", "push", "rm", "rmi", "run", "save", "start", "stop", "unpause", "version"),
)
OWN_VERBS = (
    *("completion", "events", "history", "image", "import", "inspect", "restart", "search", "stats", "tag", "vm"),
)
REFUSED = "hyperctl ERROR: Error from daemon's response: "


@dataclass
class Ctl:
    """hyperctl, and the image it can run."""

    run: Runner
    image: str
    daemon: HyperdLauncher
    home: Path = field(init=False)

    def __post_init__(self) -> None:
        self.home = self.run.home

    def ok(self, *words: str, stdin: bytes = b"") -> str:
        """Run a command that succeeds and says nothing on stderr; give its output."""
        done = self.run(*words, stdin=stdin)
        assert (done.returncode, done.stderr) == (0, b""), (words, done)
        return done.stdout.decode()

    def fails(self, *words: str, code: int = 255, out: str = "") -> str:
        """Run a command that fails; give what it says on stderr."""
        done = self.run(*words)
        assert (done.returncode, done.stdout.decode()) == (code, out), (words, done)
        return done.stderr.decode()

    def rows(self, *words: str) -> list[list[str]]:
        """Return a listing's cells without its headings."""
        lines = self.ok(*words).splitlines()[1:]
        return [re.split(r" {3,}", line.rstrip()) for line in lines]


@pytest.fixture
def ctl(daemon: HyperdLauncher, image: str, tmp_path: Path) -> Iterator[Ctl]:
    """Yield hyperctl; the pods and VMs that a test leaves are removed."""
    one = Ctl(Runner(daemon.host, tmp_path), image, daemon)
    yield one
    for item, verb in (("pod", ["rm"]), ("vm", ["vm", "rm"])):
        left = one.ok("list", "-q", item).split()
        if left:
            one.ok(*verb, *left)


@pytest.fixture
def full(ctl: Ctl) -> Ctl:
    """Yield hyperctl and the running pod `full`."""
    ctl.ok("run", "-d", "--name", "full", ctl.image, "sleep", "1000")
    return ctl


def status(ctl: Ctl, container: str, wanted: str) -> None:
    """Wait until a container has a status."""
    until(lambda: [row[3] for row in ctl.rows("list", "container") if row[1] == container] == [wanted])


# -- general


def test_help_and_version(ctl):
    for words in ([], ["--help"], ["-h"], ["--version"], ["help"]):
        done = ctl.run(*words)
        assert (done.returncode, done.stderr) == (0, b"")
    assert ctl.ok("version") == "The hyperctl version is 0.1.0\n"
    assert ctl.ok("VERSION") == "The hyperctl version is 0.1.0\n"


@pytest.mark.parametrize("verb", sorted({*VERBS, *OWN_VERBS}))
def test_every_command_has_help_with_examples(ctl, verb):
    text = ctl.ok(verb, "--help")
    assert text.startswith("Usage: hyperctl ")
    assert verb in {"image", "kube", "network", "ports", "system", "vm", "volume"} or "Examples:" in text


def test_unknown_command(ctl):
    message = "hyperctl: 'nosuch' is not a hyperctl command. See 'hyperctl --help'.\n"
    assert ctl.fails("nosuch", code=1) == message


def test_no_daemon(ctl, tmp_path):
    address = f"unix://{tmp_path}/none"
    message = f"hyperctl ERROR: Cannot connect to the Hyper daemon at {address}. Is 'hyperd' running on this host?\n"
    assert ctl.fails("-H", address, "list") == message


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion(ctl, shell):
    assert "hyperctl" in ctl.ok("completion", shell)


# -- run and create


def test_run_attached(ctl):
    done = ctl.run("run", "--rm", ctl.image, "sh", "-c", "echo out; echo err >&2; exit 17")
    assert (done.returncode, done.stdout, done.stderr) == (17, b"out\n", b"err\n")
    assert ctl.rows("list") == []


def test_run_with_stdin(ctl):
    assert ctl.ok("run", "--rm", ctl.image, "cat", stdin=b"through\n") == "through\n"


def test_run_on_a_terminal(ctl):
    code, shown = ctl.run.on_terminal("run", "-t", "--rm", ctl.image, "sh", "-c", "stty size; exit 9")
    assert (code, shown) == (9, b"40 100\r\n")


def test_run_on_a_terminal_and_leave(ctl):
    words = ["run", "-t", "--name", "kept", ctl.image, "sh", "-c", "echo ready; sleep 1000"]
    code, shown = ctl.run.on_terminal(*words, typed=b"\x10\x11")
    assert (code, shown) == (0, b"ready\r\n")
    assert ctl.rows("list")[0][3] == "running"


def test_run_with_a_terminal_but_without_one(ctl):
    assert "terminal" in ctl.fails("run", "-t", "--rm", ctl.image, "true")
    assert ctl.rows("list") == []


def test_run_detached_with_many_options(ctl):
    options = (
        "run -d --name full --cpu 1 --memory 160 --env A=b --env C=d=e --label k=v --publish 11000:1300 --publish "
        "udp:11001:1301 -v /data --workdir /tmp --log-driver json-file --log-opt max-size=1m --restart never "
        f"--read-only --entrypoint /bin/sh {ctl.image} -c"
    )
    text = ctl.ok(*options.split(), "echo $A $C; pwd; sleep 1000")
    assert re.fullmatch(r"POD id is full\nTime to run a POD is \d+ ms\n", text)
    assert ctl.rows("ports", "ls", "full") == [["tcp", "11000", "1300"], ["udp", "11001", "1301"]]
    until(lambda: ctl.ok("logs", "full").count("\n") == 2)
    assert ctl.ok("logs", "full").startswith("b d=e\n")
    info = ctl.daemon.json("GET", "/pod/info", podName="full")
    assert (info["spec"]["memory"], info["spec"]["labels"]) == (160, {"k": "v"})


def test_name_is_made_of_the_image(ctl):
    text = ctl.ok("run", "-d", ctl.image, "sleep", "1000")
    assert re.match(r"POD id is busybox-latest-\d{10}\n", text)


POD = {"id": "filepod", "containers": [{"name": "fp1", "command": ["sh", "-c", "echo from a file"]}]}


@pytest.mark.parametrize("kind", ["json", "yaml"])
def test_run_a_podfile(ctl, kind):
    pod = {**POD, "containers": [{**POD["containers"][0], "image": ctl.image}]}
    path = ctl.home / "pod"
    text = json.dumps(pod) if kind == "json" else (
        f"id: filepod\ncontainers:\n- name: fp1\n  image: {ctl.image}\n  command: [sh, -c, echo from a file]\n"
    )  # fmt: skip
    path.write_text(text)
    words = ["-y", "-p", "pod"] if kind == "yaml" else ["-p", "pod"]
    assert ctl.ok("run", *words).startswith("POD id is filepod\nTime to run a POD is ")
    status(ctl, "fp1", "succeeded")
    assert ctl.ok("logs", "fp1") == "from a file\n"
    ctl.ok("rm", "filepod")
    assert ctl.ok("run", "-a", "--rm", *words) == "from a file\n"


def test_create_and_start(ctl):
    assert ctl.ok("create", "--name", "cpod", ctl.image, "sleep", "1000") == "Pod ID is cpod\n"
    assert ctl.rows("list") == [["cpod", "cpod", "pending"]]
    assert "cpod" in ctl.fails("create", "--name", "cpod", ctl.image, "true")
    assert ctl.ok("start", "cpod") == "Successfully started the Pod(cpod)\n"
    assert ctl.rows("list")[0][3] == "running"


def test_missing_image_is_pulled(ctl, registry):
    done = ctl.run("run", "--rm", f"{registry.host}/other", "echo", "here")
    assert (done.returncode, done.stdout) == (0, b"here\n")
    ctl.ok("rmi", f"{registry.host}/other")
    assert "not found" in ctl.fails("run", "-d", f"{registry.host}/nosuch:1", "true").lower()


def test_unknown_option_is_an_error(ctl):
    assert "--link" in ctl.fails("run", "-d", "--link", "a:b", ctl.image, "true")


# -- pods and containers


def test_lists(full):
    [[vm, state]] = full.rows("list", "vm")
    [[container, *rest]] = full.rows("list", "container")
    assert state == "associated"
    assert rest == ["full", "full", "running"]
    assert (
        full.rows("list")
        == full.rows("list", "pod")
        == full.rows("list", "-m", vm)
        == [["full", "full", vm, "running"]]
    )
    assert full.rows("list", "-p", "full", "container")[0][0] == container
    assert full.rows("list", "-p", "none", "container") == []
    assert full.ok("list").splitlines()[0].split("  ")[0] == "POD ID"
    assert full.ok("list").splitlines()[0] == f"{'POD ID':20}{'POD Name':20}{'VM name':20}Status"
    assert full.ok("list", "container").splitlines()[0] == f"{'Container ID':67}{'Name':20}{'POD ID':20}Status"
    assert full.ok("list", "-q") == "full\n"
    assert full.fails("list", "foo") == "hyperctl ERROR: Can not support foo list!\n"


def test_stop_and_rm(full):
    assert full.ok("stop", "full") == "Successfully shutdown the POD: full!\n"
    assert full.ok("rm", "full") == "Pod(full) is successfully deleted!\n"
    assert full.fails("stop", "full").startswith("fail to stop pod full: Error from daemon's response: ")
    assert full.fails("rm", "full").startswith("Pod(full) delete failed: Error from daemon's response: ")
    assert full.fails("start", "full").startswith(REFUSED)


def test_rm_of_several(full):
    full.ok("create", "--name", "second", full.image, "true")
    out = "Pod(full) is successfully deleted!\nPod(second) is successfully deleted!\n"
    assert "nosuch" in full.fails("rm", "full", "nosuch", "second", out=out)


@pytest.fixture
def ids(full: Ctl) -> dict[str, str]:
    """Return the ids of containers by name: of the pod `full`, which has two, and of the pod `web`, which has one."""
    full.ok("create", "-c", "--name", "extra", "full", full.image, "sleep", "1000")
    full.ok("start", "-c", "extra")
    full.ok("run", "-d", "--name", "web", full.image, "sleep", "1000")
    return {row[1]: row[0] for row in full.rows("ps")}


def test_everything_is_removed_by_the_ids_that_ps_prints(full, ids):
    """``hyperctl rm -f $(hyperctl ps -aq)`` said nothing, did nothing and ended with 0."""
    del ids
    full.ok("rm", "-f", *full.ok("ps", "-a", "-q").split())
    assert (full.ok("list", "-q"), full.ok("ps", "-q")) == ("", "")


def test_ids_of_containers_are_taken_where_pods_are_named(full, ids):
    extra, web = ids["extra"], ids["web"][:12]
    full.ok("stop", "-t", "1", extra)
    status(full, "extra", "failed")
    status(full, "full", "running")
    assert full.ok("start", extra) == f"Successfully started container {extra}\n"
    assert full.ok("restart", "-t", "1", extra) == f"Successfully restarted container {extra}\n"
    full.ok("pause", web)
    assert ["web", "web", "paused"] in [[row[0], row[1], row[-1]] for row in full.rows("list")]
    full.ok("unpause", web)
    full.ok("ports", "add", "-p", "11080:80", "web")
    assert full.ok("port", web, "80") == "0.0.0.0:11080\n"
    assert full.ok("rm", extra) == f"container {extra} is successfully deleted!\n"
    assert full.ok("rm", web) == "Pod(web) is successfully deleted!\n"
    assert full.ok("list", "-q") == "full\n"


def test_one_of_several_containers_is_not_paused(full, ids):
    words = "is one of several containers of a pod: name the pod, to mean all of them"
    assert full.fails("pause", ids["extra"]) == f"hyperctl ERROR: {ids['extra']} {words}\n"


def test_short_beginnings_of_ids_are_no_names(full, ids):
    """``rm -f db`` of a pod that is gone removes no container whose id begins so by chance."""
    web = ids["web"]
    full.ok("rm", "-f", web[:2], web[:11])
    assert full.fails("stop", web[:11]).startswith(f"fail to stop pod {web[:11]}: Error")
    status(full, "web", "running")


def test_what_is_not_there_is_told_in_words_of_this_side(ctl):
    assert ctl.fails("logs", "nosuch") == f"{REFUSED}no container nosuch: 'hyperctl ps' shows those there are\n"
    assert ctl.fails("start", "nosuch") == f"{REFUSED}no pod nosuch: 'hyperctl list' shows those there are\n"


def test_containers_of_a_pod(full):
    words = ["create", "-c", "--name", "second", "full", full.image, "sh", "-c", "echo hello-log; sleep 1000"]
    assert re.fullmatch("Container ID is [0-9a-f]{64}\n", full.ok(*words))
    assert full.ok("start", "-c", "second") == "Successfully started container second\n"
    assert full.ok("exec", "second", "echo", "hi") == "hi\n"
    assert full.ok("kill", "-s", "TERM", "second") == ""
    status(full, "second", "failed")
    assert full.ok("stop", "-c", "second") == ""
    assert full.ok("rm", "-c", "second") == "container second is successfully deleted!\n"
    assert full.fails("rm", "-c", "nosuch").startswith("container nosuch delete failed: ")
    assert full.fails("create", "-c", "nosuch", full.image, "true").startswith(REFUSED)


def test_container_of_a_file(full):
    (full.home / "c.json").write_text(json.dumps({"name": "extra", "image": full.image, "command": ["true"]}))
    assert full.ok("create", "-c", "-p", "c.json", "full").startswith("Container ID is ")


def test_pause_and_unpause(full):
    assert full.ok("pause", "full") == ""
    assert full.rows("list")[0][3] == "paused"
    assert full.fails("pause", "full").startswith(REFUSED)
    assert full.ok("unpause", "full") == ""
    assert full.rows("list")[0][3] == "running"


def test_kill(full):
    assert full.ok("kill", "full") == ""
    status(full, "full", "failed")
    assert full.ok("kill", "-p", "full") == ""
    assert full.fails("kill", "-s", "NOSUCH", "full") == "hyperctl ERROR: Invalid signal: NOSUCH\n"
    assert full.fails("kill", "nosuch").startswith("fail to kill container nosuch: ")


def test_exec(full):
    done = full.run("exec", "full", "sh", "-c", "cat; echo err >&2; exit 37", stdin=b"in\n")
    assert (done.returncode, done.stdout, done.stderr) == (37, b"in\n", b"err\n")
    assert full.ok("exec", "-d", "full", "sleep", "1") == ""
    assert full.ok("exec", "-m", "full", "echo", "in the vm") == "in the vm\n"
    assert full.run.on_terminal("exec", "-t", "full", "sh", "-c", "stty size; exit 5") == (5, b"40 100\r\n")
    assert full.fails("exec", "nosuch", "true").startswith(REFUSED)


def test_exec_by_a_generated_pod_id(ctl):
    pod = {"containers": [{"image": ctl.image, "command": ["sleep", "1000"]}]}
    (ctl.home / "noid").write_text(json.dumps(pod))
    text = ctl.ok("run", "-p", "noid")
    pod_id = text.split()[3]
    assert pod_id.startswith("pod-")
    assert ctl.ok("exec", pod_id, "echo", "hi") == "hi\n"


def test_attach(ctl):
    ctl.ok("run", "-d", "--name", "shell", ctl.image, "sh")
    done = ctl.run("attach", "shell", stdin=b"echo from stdin; exit 3\n")
    assert (done.returncode, done.stdout, done.stderr) == (3, b"from stdin\n", b"")
    assert ctl.fails("attach", "nosuch").startswith(REFUSED)


def test_logs(ctl):
    ctl.ok(
        "run", "-d", "--name", "logged", ctl.image, "sh", "-c", "for n in 1 2 3; do echo line $n; done; echo bad >&2"
    )
    status(ctl, "logged", "succeeded")
    done = ctl.run("logs", "logged")
    assert (done.returncode, done.stdout, done.stderr) == (0, b"line 1\nline 2\nline 3\n", b"bad\n")
    done = ctl.run("logs", "--tail", "2", "-t", "logged")
    assert len((done.stdout + done.stderr).splitlines()) == 2
    assert re.match(rb"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{9}Z ", done.stdout or done.stderr)
    assert ctl.run("logs", "-f", "--since", "1600000000", "logged").stdout.count(b"\n") == 3
    assert ctl.run("logs", "--since", "4000000000", "logged").stdout == b""
    assert ctl.fails("logs", "nosuch").startswith(REFUSED)


def test_ports(full):
    assert full.ok("ports", "ls", "full") == f"{'Protocol':20}{'Host Ports':20}Container Ports\n"
    assert full.ok("ports", "add", "-p", "tcp:11002:1302", "full") == ""
    assert full.rows("ports", "ls", "full") == [["tcp", "11002", "1302"]]
    assert full.ok("ports", "delete", "-p", "tcp:11002:1302", "full") == ""
    assert full.rows("ports", "ls", "full") == []
    assert full.fails("ports", "ls", "nosuch") == "hyperctl ERROR: pod nosuch not found\n"
    assert full.fails("ports", "add", "-p", "1:1", "nosuch") == "hyperctl ERROR: pod nosuch not found\n"


def test_idle_vms(ctl):
    vm = ctl.ok("vm", "create").removeprefix("New VM id is ").strip()
    assert ctl.rows("list", "vm") == [[vm, "idle"]]
    assert ctl.ok("vm", "rm", vm) == f"VM({vm}) is successfully deleted!\n"
    assert ctl.fails("vm", "rm", vm).startswith(f"VM({vm}) delete failed: ")


# -- images and the daemon


def test_images(ctl):
    text = ctl.ok("images")
    repository, _, tag = ctl.image.rpartition(":")
    headings, line = text.splitlines()
    assert headings.split() == ["REPOSITORY", "TAG", "IMAGE", "ID", "CREATED", "VIRTUAL", "SIZE"]
    pattern = rf"{re.escape(repository)} +{tag} +([0-9a-f]{{12}}) +\d{{4}}-\d\d-\d\d \d\d:\d\d:\d\d +[0-9.]+ [kM]B"
    found = re.fullmatch(pattern, line)
    assert found, line
    assert ctl.ok("images", "-q") == f"{found[1]}\n"
    assert ctl.ok("images", "-a", repository) == text


def test_pull_and_rmi(ctl, registry):
    name = f"{registry.host}/third"
    text = ctl.ok("pull", name)
    assert text.startswith("Using default tag: latest\n")
    assert f"Status: Downloaded newer image for {name}:latest" in text
    digests = r"Untagged: {0}@sha256:\w{{64}}\n(Deleted: sha256:\w{{64}}\n)"
    first = f"Image({name}) is successful to be deleted!\nUntagged: {name}:latest\n"
    assert re.fullmatch(re.escape(first) + digests.format(re.escape(name)) + "+", ctl.ok("rmi", name))
    assert ctl.fails("rmi", name).startswith(f"Image({name}) delete failed: Error from daemon's response: ")
    assert ctl.run("pull", f"{registry.host}/nosuch:1").returncode == 255


def test_rmi_of_an_image_in_use(full):
    assert full.fails("rmi", full.image).startswith(f"Image({full.image}) delete failed: ")


def test_login_pull_and_logout(ctl):
    with RegistryServer(auth="basic") as server:
        server.push("private", "1", [Layer(busybox_tar())])
        name = f"{server.host}/private:1"
        assert ctl.run("pull", name).returncode == 255
        wrong = ctl.run("login", "-u", USER, "-p", "wrong", server.host)
        assert wrong.returncode == 255
        path = ctl.home / ".docker" / "config.json"
        text = ctl.ok("login", "-u", USER, "-p", PASSWORD, "-e", "e@x", server.host)
        assert text == f"WARNING: login credentials saved in {path}\nLogin Succeeded\n"
        assert server.host in json.loads(path.read_text())["auths"]
        assert f"Downloaded newer image for {name}" in ctl.ok("pull", name)
        assert ctl.ok("logout", server.host) == f"Remove login credentials for {server.host}\n"
        assert ctl.ok("logout", server.host) == f"Not logged in to {server.host}\n"
        assert server.host not in json.loads(path.read_text()).get("auths", {})
        ctl.ok("rmi", name)


def test_info(full):
    lines = full.ok("info").splitlines()
    words = ["Images", "Containers", "PODs", "Storage Driver", "Hyper Root Dir", "Index Server Address"]
    words += ["Execution Driver", "Total Memory", "Operating System"]
    top = {line.partition(": ")[0]: line.partition(": ")[2] for line in lines if not line.startswith("  ")}
    assert [key for key in top if key in words] == words
    assert (top["Images"], top["Containers"], top["PODs"], top["Execution Driver"]) == ("1", "1", "1", "fake")
    assert top["Hyper Root Dir"] == str(full.daemon.root)
    size, unit = top["Total Memory"].split()
    total = int(re.search(r"MemTotal: +(\d+)", Path("/proc/meminfo").read_text())[1]) * 1024
    assert float(size) * 1000 ** " kMGT".index(unit[0]) == pytest.approx(total, rel=0.01)


def test_push_of_a_root_repository_is_refused(ctl):
    assert ctl.fails("push", "busybox").startswith('hyperctl ERROR: You cannot push a "root" repository.')


def test_push_save_and_load(ctl, registry):
    name = f"{registry.host}/user/pushed:1"
    ctl.ok("tag", ctl.image, name)
    text = ctl.ok("push", name)
    assert "The push refers to" in text
    assert re.search(r"1: digest: sha256:[0-9a-f]{64} size: \d+", text)
    ctl.ok("save", "-o", "images.tar", name)
    assert (ctl.home / "images.tar").stat().st_size > 500_000
    removed = ctl.ok("rmi", name)
    assert removed.startswith(f"Image({name}) is successful to be deleted!\nUntagged: {name}\n")
    assert "Deleted: " not in removed  # the image has another name
    assert name.rpartition(":")[0] not in ctl.ok("images")
    ctl.ok("load", "-i", "images.tar")
    assert name.rpartition(":")[0] in ctl.ok("images")
    ctl.ok("rmi", name)
    assert ctl.fails("save", "-o", "none.tar", "nosuch:latest").startswith(REFUSED)
    assert not (ctl.home / "none.tar").exists()
    garbage = ctl.run("load", stdin=b"no archive at all")
    assert (garbage.returncode, garbage.stdout) == (255, b"")
