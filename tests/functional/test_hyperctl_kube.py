"""`hyperctl kube`: what it asks of the daemon, and what it leaves after a failure."""

from __future__ import annotations

import signal
import subprocess
import threading

import pytest
import yaml

from tests.support.fake_hyperd import Reply, lines, ok, refuse
from tests.support.hyperctl_process import CODE

TWO = """
apiVersion: apps/v1
kind: Deployment
metadata: {name: web}
spec:
  replicas: 2
  template:
    spec:
      containers: [{name: app, image: busybox, livenessProbe: {}, volumeMounts: [{name: d, mountPath: /d}]}]
      volumes: [{name: d, hostPath: {path: DIR, type: DirectoryOrCreate}}]
"""


def played(fake, *creates):
    fake.on("POST", "/pod/create", *creates).on("POST", "/pod/start", ok({})).on("DELETE", "/pod", ok(CODE))
    fake.on("GET", "/list", ok({"podData": []}))


def calls(fake) -> list[str]:
    return [request.replace("/v1.1.0/pod", "") for request in fake.requests]


def test_play_creates_all_before_it_starts_any(fake, hyperctl, tmp_path):
    (tmp_path / "site.yaml").write_text(TWO.replace("DIR", str(tmp_path / "made")))
    played(fake, ok({**CODE, "ID": "web-pod-0"}, 201), ok({**CODE, "ID": "web-pod-1"}, 201))
    done = hyperctl("kube", "play", "site.yaml")
    assert done.stdout == b"Pod web-pod-0 is running\nPod web-pod-1 is running\n", done
    assert calls(fake) == [
        "POST /create",
        "POST /create",
        "POST /start?podId=web-pod-0",
        "POST /start?podId=web-pod-1",
    ]
    assert (tmp_path / "made").stat().st_mode & 0o777 == 0o755
    (volume,) = fake.exchanges[0].json()["volumes"]
    assert volume == {"name": "web-pod-0-d", "source": f"{tmp_path}/made", "format": "vfs"}


def test_a_failure_leaves_no_pod(fake, hyperctl, tmp_path):
    (tmp_path / "site.yaml").write_text(TWO.replace("DIR", str(tmp_path)))
    played(fake, ok({**CODE, "ID": "web-pod-0"}, 201), refuse(500, "the disk is full"))
    done = hyperctl("kube", "play", "site.yaml")
    assert (done.returncode, done.stdout, b"the disk is full" in done.stderr) == (255, b"", True)
    assert calls(fake) == ["POST /create", "POST /create", "DELETE ?podId=web-pod-0"]


def test_a_removal_that_fails_hides_nothing_and_ends_nothing(fake, hyperctl, tmp_path):
    (tmp_path / "site.yaml").write_text(TWO.replace("DIR", str(tmp_path)))
    played(fake, ok({**CODE, "ID": "web-pod-0"}, 201), ok({**CODE, "ID": "web-pod-1"}, 201))
    fake.on("POST", "/pod/start", refuse(500, "the disk is full")).on("DELETE", "/pod", refuse(500, "busy"), ok(CODE))
    done = hyperctl("kube", "play", "-q", "site.yaml")
    assert (done.returncode, b"the disk is full" in done.stderr, b"busy" in done.stderr) == (255, True, True)
    assert calls(fake)[3:] == ["DELETE ?podId=web-pod-1", "DELETE ?podId=web-pod-0"]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
@pytest.mark.parametrize("path", ["/pod/create", "/pod/start"])
def test_a_signal_leaves_no_pod(fake, hyperctl, tmp_path, *, path, number):
    """It comes while the second pod is being created, or started; the first answer is still to come, or late."""
    (tmp_path / "site.yaml").write_text(TWO.replace("DIR", str(tmp_path)))
    processes: list[subprocess.Popen[bytes]] = []
    gate, late = threading.Event(), threading.Event()
    played(fake, ok({**CODE, "ID": "web-pod-0"}, 201), ok({**CODE, "ID": "web-pod-1"}, 201))

    def interrupt() -> None:
        gate.wait(60)
        processes[0].send_signal(number)
        if path == "/pod/start":
            late.wait(3)

    second = Reply(body=b'{"ID":"web-pod-1"}', before=interrupt)
    fake.on("POST", path, ok({**CODE, "ID": "web-pod-0"}), second)
    with hyperctl.start("kube", "play", "site.yaml") as process:
        processes.append(process)
        gate.set()
        assert process.wait(100) == 128 + number
        late.set()
    assert calls(fake)[-2:] == ["DELETE ?podId=web-pod-1", "DELETE ?podId=web-pod-0"]
    assert calls(fake).count("POST /start?podId=web-pod-0") == (path == "/pod/start")


def test_a_directory_that_is_something_else(fake, hyperctl, tmp_path):
    (tmp_path / "file").touch()
    (tmp_path / "site.yaml").write_text(TWO.replace("DIR", str(tmp_path / "file")))
    played(fake)
    done = hyperctl("kube", "play", "-q", "site.yaml")
    assert (done.returncode, b"it is something else" in done.stderr, fake.requests) == (255, True, [])


POLICIES = """
kind: Pod
metadata: {name: p}
spec:
  containers:
  - {name: a, image: "a:1", imagePullPolicy: Always}
  - {name: b, image: "b:1"}
  - {name: c, image: "c:1", imagePullPolicy: Never}
"""


@pytest.mark.parametrize(
    ("words", "policies", "asked"),
    [
        ([], POLICIES, ["a:1", "/create", "a:1", "b:1", "/create"]),
        (["--pull", "never"], POLICIES, ["/create"]),
        ([], POLICIES.replace("Always", "Never").replace('"b:1"', '"b:1", imagePullPolicy: Never'), ["/create"]),
    ],
)
def test_images_are_pulled_as_the_manifest_says(fake, hyperctl, tmp_path, *, words, policies, asked):
    (tmp_path / "site.yaml").write_text(policies)
    played(fake, refuse(404, "No such image: b:1"))
    fake.on("POST", "/image/create", lines({"status": "done"}))
    assert hyperctl("kube", "play", *words, "site.yaml").returncode == 255
    shown = [one.parameters.get("imageName", [one.path.replace("/v1.1.0/pod", "")])[0] for one in fake.exchanges]
    assert shown == asked
    sent = next(one for one in fake.exchanges if one.path.endswith("/pod/create")).json()
    assert not any("pull" in one for one in sent["containers"])


def test_replace_and_no_start(fake, hyperctl, tmp_path):
    (tmp_path / "site.yaml").write_text(TWO.replace("DIR", str(tmp_path)).replace("replicas: 2", "replicas: 1"))
    played(fake, ok({**CODE, "ID": "web-pod"}, 201))
    done = hyperctl("kube", "play", "--replace", "--no-start", "-q", "-", stdin=(tmp_path / "site.yaml").read_bytes())
    assert done.stdout == b"web-pod\n"
    assert calls(fake) == ["DELETE ?podId=web-pod", "POST /create"]


def test_down(fake, hyperctl, tmp_path):
    (tmp_path / "site.yaml").write_text(TWO.replace("DIR", "/srv"))
    fake.on("DELETE", "/pod", ok(CODE), refuse(404, "none")).on("GET", "/list", ok({"podData": []}))
    done = hyperctl("kube", "down", "site.yaml")
    assert (done.returncode, done.stdout) == (0, b"Pod web-pod-0 is removed\nPod web-pod-1 was not there\n")
    fake.on("DELETE", "/pod", refuse(500, "busy")).on("GET", "/list", ok({"podData": ["web-pod-0:x:v:running"]}))
    done = hyperctl("kube", "down", "site.yaml")
    assert (done.returncode, b"Pod(web-pod-0) delete failed" in done.stderr) == (255, True)


def test_claims_are_volumes(fake, hyperctl, tmp_path):
    claim = "\n---\nkind: PersistentVolumeClaim\nmetadata: {name: store}\n"
    (tmp_path / "site.yaml").write_text(TWO.replace("DIR", "/srv").replace("replicas: 2", "replicas: 1") + claim)
    played(fake, ok({**CODE, "ID": "web-pod"}, 201))
    fake.on("POST", "/volume/create", ok({"name": "store"}, 201)).on("DELETE", "/volume", ok(CODE))
    assert hyperctl("kube", "play", "-q", "site.yaml").stdout == b"web-pod\n"
    assert fake.exchanges[0].json() == {"name": "store"}
    assert hyperctl("kube", "down", "site.yaml").stdout == b"Pod web-pod is removed\n"
    done = hyperctl("kube", "down", "--volumes", "site.yaml")
    assert done.stdout == b"Pod web-pod is removed\nVolume store is removed\n"


def test_generate(fake, hyperctl, tmp_path):
    info = {"podID": "web", "spec": {"vcpu": 1, "memory": 128, "containers": [{"name": "/web", "image": "busybox"}]}}
    fake.on("GET", "/pod/info", ok(info)).on("GET", "/pod/web/portmappings", ok({"portMappings": []}))
    (document,) = yaml.safe_load_all(hyperctl("kube", "generate", "web").stdout)
    assert (document["kind"], document["metadata"]["name"]) == ("Pod", "web")
    assert hyperctl("kube", "generate", "-f", "w.yaml", "web").stdout == b""
    assert yaml.safe_load((tmp_path / "w.yaml").read_text()) == document


def test_files_without_a_pod(fake, hyperctl, tmp_path):
    (tmp_path / "x.yaml").write_text("kind: ConfigMap\nmetadata: {name: x}\n")
    done = hyperctl("kube", "play", "x.yaml")
    assert (done.returncode, done.stderr) == (255, b"hyperctl ERROR: x.yaml describes no pod\n")
    assert fake.requests == []
