"""The Docker API over services whose VMs are fake: what one client cannot do to the others, and what each is told."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from flask.testing import FlaskClient
from sqlalchemy import event

from hyperd.api.docker import create_docker_app, params, words
from hyperd.build.importer import ImportOrder
from hyperd.config.model import Config, HypervisorConfig, NetworkConfig
from hyperd.engine import Engine
from hyperd.errors import Busy
from hyperd.image.signing.signature import Flaw, SignatureRefused
from hyperd.network.model import NicWish
from hyperd.spec.model import ContainerSpec, PodSpec, PortSpec
from tests.support.registry import busybox_tar, digest_of, layer_tar, member

pytestmark = pytest.mark.root


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Engine]:
    root: Path = tmp_path_factory.mktemp("docker-api")
    network = NetworkConfig(bridge="hydockapi0", subnet="10.214.9.0/24", nft_table="hyperd_dockapi")
    engine = Engine(Config(root=root, network=network, hypervisor=HypervisorConfig(driver="fake", pool=0)))
    engine.open()
    try:
        engine.imports.from_body(ImportOrder(source="-", name="busybox:latest"), iter([busybox_tar()]))
        yield engine
        engine.stop_pods()
        for pod in engine.pods.summaries():
            engine.pods.remove(pod.id)
    finally:
        engine.network.destroy()
        engine.close()


@pytest.fixture(scope="module")
def client(running: Engine) -> FlaskClient:
    return create_docker_app(running).test_client()


@pytest.fixture
def clean(client: FlaskClient) -> Iterator[None]:
    """Leave no container."""
    yield
    for row in client.get("/containers/json?all=1").json:
        client.delete(f"/containers/{row['Id']}?force=1&v=1")


def make(client: FlaskClient, name: str = "", **body: Any) -> str:
    given = {"Image": "busybox", "Cmd": ["sleep", "1000"], **body}
    made = client.post("/containers/create", query_string={"name": name} if name else {}, json=given)
    assert made.status_code == 201, made.json
    return str(made.json["Id"])


def crooked_image(name: str, config: dict[str, Any]) -> bytes:
    """Return an archive with an image of one empty layer whose ``config`` is this."""
    layer = layer_tar([member("x")])
    about = {"os": "linux", "config": config, "rootfs": {"type": "layers", "diff_ids": [digest_of(layer)]}}
    manifest = [{"Config": "c.json", "RepoTags": [name], "Layers": ["l.tar"]}]
    return layer_tar(
        [
            member("manifest.json", json.dumps(manifest).encode()),
            member("c.json", json.dumps(about).encode()),
            member("l.tar", layer),
        ]
    )


@pytest.mark.usefixtures("clean")
@pytest.mark.parametrize(
    "config",
    [
        {"Labels": ["a"]},
        {"ExposedPorts": 5},
        {"ExposedPorts": {"²/tcp": {}, "/": {}}},
        {"Volumes": "x", "Env": 3, "OnBuild": 1, "User": [], "WorkingDir": {}, "StopSignal": 9},
        {"Cmd": 7, "Entrypoint": {}, "Healthcheck": ["NONE"]},
    ],
)
def test_an_image_of_nonsense_disturbs_nobody(client: FlaskClient, config: dict[str, Any]) -> None:
    client.post("/images/load", data=crooked_image("crooked:t", config))
    made = make(client, Image="crooked:t", HostConfig={"PublishAllPorts": False})
    client.post(f"/containers/{make(client)}/start")
    client.post(f"/containers/{made}/start")
    for path in (f"/containers/{made}/json", "/containers/json?all=1", "/images/json", "/system/df"):
        assert client.get(path).status_code == 200, path
    assert client.get('/containers/json?all=1&filters={"expose":["80"]}').json == []


@pytest.mark.usefixtures("clean")
def test_a_name_is_made_up_until_it_is_free(client: FlaskClient, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(words, "_FIRST", ["only"])
    monkeypatch.setattr(words, "_SECOND", ["one"])
    monkeypatch.setattr(words.secrets, "randbelow", lambda _below: 3)
    idents = [make(client) for _ in range(4)]
    names = [client.get(f"/containers/{ident}/json").json["Name"] for ident in idents]
    assert names == ["/only_one", "/only_one3", f"/{idents[2][:12]}", f"/{idents[3][:12]}"]
    given = client.post("/containers/create?name=only_one", json={"Image": "busybox"})
    assert (given.status_code, idents[0] in given.json["message"]) == (409, True)


@pytest.mark.usefixtures("clean")
def test_a_port_is_taken_by_the_start(client: FlaskClient) -> None:
    """As with dockerd: compose makes a container's successor while it runs, then stops it and starts the other."""
    host = {"PortBindings": {"80/tcp": [{"HostPort": "11231"}], "81/tcp": [{"HostPort": ""}]}}
    first, second = (make(client, Cmd=["sleep", "100"], HostConfig=host) for _ in range(2))
    assert client.post(f"/containers/{first}/start").status_code == 204
    refused = client.post(f"/containers/{second}/start")
    assert (refused.status_code, "11231" in refused.json["message"]) == (409, True)
    assert client.get(f"/containers/{second}/json").json["State"]["Status"] == "created"
    client.delete(f"/containers/{first}?force=1")
    assert client.post(f"/containers/{second}/start").status_code == 204
    ports = client.get(f"/containers/{second}/json").json["NetworkSettings"]["Ports"]
    assert (ports["80/tcp"][0]["HostPort"], bool(ports["81/tcp"][0]["HostPort"])) == ("11231", True)


def test_a_port_of_another_apis_pod_is_bound_where_it_is(client: FlaskClient, running: Engine) -> None:
    containers = (ContainerSpec(name="inner", image="busybox"),)
    ports = (PortSpec(container_port="80", host_port="11232", host_ip="127.0.0.1"),)
    running.pods.create(PodSpec(id="pod", containers=containers, portmappings=ports))
    shown = client.get("/containers/inner/json").json
    assert shown["HostConfig"]["PortBindings"] == {"80/tcp": [{"HostIp": "127.0.0.1", "HostPort": "11232"}]}
    running.pods.remove("pod")


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ('/images/search?term=127.0.0.1:9/x&filters={"stars":["²","99999999999"]}', None),
        ("/networks/bridge/connect", b'{"Container": "\\ud800"}'),
        ("/auth", b'{"username": "a", "serveraddress": "http://[::1"}'),
        ("/auth", b'{"username": "\\ud800", "password": "b", "serveraddress": "127.0.0.1:9"}'),
    ],
)
def test_nonsense_is_no_internal_error(client: FlaskClient, path: str, body: bytes | None) -> None:
    kind = {"Content-Type": "application/json"}
    answer = client.get(path) if body is None else client.post(path, data=body, headers=kind)
    assert answer.status_code >= 400
    assert "internal error" not in answer.json["message"]


@pytest.mark.usefixtures("clean")
def test_patterns_of_names(client: FlaskClient) -> None:
    for name in ("web", "web-2", "db"):
        make(client, name)

    def named(*values: str) -> tuple[int, Any]:
        found = client.get("/containers/json", query_string={"all": "1", "filters": json.dumps({"name": values})})
        return found.status_code, sorted(row["Names"][0] for row in found.json) if found.status_code == 200 else ""

    assert named("web") == (200, ["/web", "/web-2"])
    assert named("^/web$", "^d") == (200, ["/db", "/web"])
    assert named("^/?(web|db)$") == (200, ["/db", "/web"])
    assert named("(a+)+$") == (200, [])
    assert named("(web") == (400, "")


@pytest.mark.parametrize("host", ["abc", [1], 7, True])
def test_a_host_config_that_is_no_object(client: FlaskClient, host: Any) -> None:
    made = client.post("/containers/create", json={"Image": "busybox", "HostConfig": host})
    assert (made.status_code, "HostConfig" in made.json["message"]) == (400, True)


@pytest.mark.parametrize("text", ["inf", "nan", "1e400", "-inf", "99999999999999h", "9999-99-99", "soon"])
def test_times_that_are_none(client: FlaskClient, text: str) -> None:
    ident = make(client)
    filters = json.dumps({"until": [text]})
    paths = [f"/events?until={text}", f"/events?since={text}", f"/containers/{ident}/logs?stdout=1&since={text}"]
    for path in paths:
        assert client.get(path).status_code == 400, path
    for kind in ("containers", "images", "networks"):
        assert client.post(f"/{kind}/prune", query_string={"filters": filters}).status_code == 400, kind
    client.delete(f"/containers/{ident}")


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("1700000000", 1_700_000_000.0),
        ("1700000000.25", 1_700_000_000.25),
        ("2023-11-14T22:13:20Z", 1_700_000_000.0),
        ("2023-11-14T22:13:20", 1_700_000_000.0),
        ("2023-11-14T23:13:20.5+01:00", 1_700_000_000.5),
        ("-62135596800.000000000", 0.0),
        ("0001-01-01T00:00:00Z", 0.0),
        ("999999999h", 0.0),
    ],
)
def test_times(text: str, wanted: float) -> None:
    assert params.moment(text) == wanted


def test_durations_before_now() -> None:
    for text, seconds in (("1h30m", 5400), ("1.5h", 5400), ("10m", 600), ("2s", 2)):
        assert abs(time.time() - seconds - params.moment(text)) < 30, text


@pytest.mark.usefixtures("clean")
def test_directories_of_binds_are_made(client: FlaskClient, tmp_path: Path) -> None:
    new, other = tmp_path / "new" / "deep", tmp_path / "other"
    mount = {"Type": "bind", "Source": str(other), "Target": "/y"}
    refused = client.post("/containers/create", json={"Image": "busybox", "HostConfig": {"Mounts": [mount]}})
    assert (refused.status_code, other.exists()) == (400, False)
    mount["BindOptions"] = {"CreateMountpoint": True}
    make(client, HostConfig={"Binds": [f"{new}:/x:ro"], "Mounts": [mount]})
    for path in (new, other):
        assert (path.is_dir(), path.stat().st_mode & 0o777) == (True, 0o755)


@pytest.mark.usefixtures("clean")
def test_what_a_failed_creation_has_made_goes(client: FlaskClient, running: Engine, tmp_path: Path) -> None:
    (tmp_path / "kept").mkdir()
    binds = [f"{tmp_path}/kept/a/b:/a", "fresh:/v", f"{running.config.root}/inside:/own"]
    made = client.post("/containers/create", json={"Image": "busybox", "HostConfig": {"Binds": binds}})
    assert (made.status_code, "belongs to the daemon" in made.json["message"]) == (409, True)
    assert list((tmp_path / "kept").iterdir()) == []
    assert not (running.config.root / "inside").exists()
    assert client.get("/volumes/fresh").status_code == 404
    mounts = [
        {"Type": "volume", "Source": "first", "Target": "/a"},
        {
            "Type": "volume",
            "Source": "second",
            "Target": "/b",
            "VolumeOptions": {"DriverConfig": {"Options": {"type": "nonsense"}}},
        },
    ]
    made = client.post("/containers/create", json={"Image": "busybox", "HostConfig": {"Mounts": mounts}})
    assert made.status_code >= 400, made.json
    assert client.get("/volumes/first").status_code == 404


@pytest.mark.usefixtures("clean")
def test_list_takes_as_many_queries_with_many_containers(client: FlaskClient, running: Engine) -> None:
    statements: list[str] = []
    here = threading.get_ident()

    @event.listens_for(running.database.engine, "before_cursor_execute")
    def note(_connection: object, _cursor: object, text: str, *_: object) -> None:
        if threading.get_ident() == here:
            statements.append(text)

    costs, rows = [], []
    for number in range(3):
        bindings = {"80/tcp": [{"HostPort": str(28240 + number)}]}
        ident = make(client, HostConfig={"PortBindings": bindings})
        assert client.post(f"/containers/{ident}/start").status_code == 204
        client.get("/containers/json")  # specifications of new rows are read once
        statements.clear()
        rows = client.get("/containers/json").json
        costs.append(len(statements))
    assert len(set(costs)) == 1, costs
    for row in rows:
        shown = client.get(f"/containers/{row['Id']}/json").json["NetworkSettings"]
        (port,) = row["Ports"]
        assert shown["Ports"]["80/tcp"][0]["HostPort"] == str(port["PublicPort"])
        assert row["NetworkSettings"]["Networks"]["bridge"]["IPAddress"] == shown["IPAddress"] != ""


@pytest.mark.usefixtures("clean")
def test_first_words_of_a_container_that_has_just_begun_are_waited_for(
    client: FlaskClient, running: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    late = make(client, Cmd=["sh", "-c", "sleep 1; echo late; sleep 1000"])
    silent, ended = make(client), make(client, Cmd=["true"])
    streams, processes = running.containers.streams, running.containers.processes.by_container
    monkeypatch.setattr("hyperd.container.streams.BEGINNING", 60.0)
    for ident in (late, ended):
        assert client.post(f"/containers/{ident}/start").status_code == 204
        streams.await_first_output(ident)
    assert processes[late].hub.said
    assert client.post(f"/containers/{silent}/start").status_code == 204
    monkeypatch.setattr("hyperd.container.streams.BEGINNING", 0.0)
    streams.await_first_output(silent)
    assert not processes[silent].hub.said


@pytest.mark.usefixtures("clean")
def test_a_missing_source_of_a_bind(client: FlaskClient, tmp_path: Path) -> None:
    mount = {"Type": "bind", "Source": f"{tmp_path}/nothing", "Target": "/a"}
    refused = client.post("/containers/create", json={"Image": "busybox", "HostConfig": {"Mounts": [mount]}})
    assert (refused.status_code, refused.json["message"]) == (
        400,
        f'invalid mount config for type "bind": bind source path does not exist: {tmp_path}/nothing',
    )


@pytest.mark.usefixtures("clean")
def test_a_volume_is_held_until_its_container_is_there(
    client: FlaskClient, running: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = running.pods.create
    pruned = []

    def create(*words: Any, **more: Any) -> Any:
        pruned.append(client.post("/volumes/prune?filters={%22all%22:[%22true%22]}").json["VolumesDeleted"])
        return made(*words, **more)

    monkeypatch.setattr(running.pods, "create", create)
    options = {"Labels": {"kept": "yes"}}
    mounts = [{"Type": "volume", "Source": "held", "Target": "/v", "VolumeOptions": options}]
    make(client, HostConfig={"Mounts": mounts})
    assert (pruned, client.get("/volumes/held").json["Labels"]) == ([None], {"kept": "yes"})
    monkeypatch.setattr(running.pods, "create", _refuse)
    body = {"Image": "busybox", "HostConfig": {"Binds": ["not-held:/v"]}}
    assert client.post("/containers/create", json=body).status_code == 503
    assert client.get("/volumes/not-held").status_code == 404


def _refuse(*_words: Any, **_more: Any) -> None:
    raise Busy("not now")


START = {
    "Binds": ["fresh-of-start:/v"],
    "PortBindings": {"80/tcp": [{"HostPort": "11232"}]},
    "CapAdd": ["NET_ADMIN"],
    "RestartPolicy": {"Name": "on-failure", "MaximumRetryCount": 3},
    "NetworkMode": "default",
    "LxcConf": [],
    "Dns": None,
}


@pytest.mark.usefixtures("clean")
def test_the_host_config_of_a_start(client: FlaskClient) -> None:
    ident = make(client)
    start = f"/v1.14/containers/{ident}/start"
    assert client.post(start, json=START).status_code == 204
    found = client.get(f"/containers/{ident}/json").json
    host = found["HostConfig"]
    assert (host["Binds"], host["CapAdd"]) == (START["Binds"], ["NET_ADMIN"])
    assert (host["RestartPolicy"], [one["Name"] for one in found["Mounts"]]) == (
        START["RestartPolicy"],
        ["fresh-of-start"],
    )
    assert found["NetworkSettings"]["Ports"]["80/tcp"][0]["HostPort"] == "11232"
    assert client.post(start, json=START).status_code == 304  # it runs
    assert client.post(start, json={"Binds": ["other:/o"]}).status_code == 304
    assert client.post(f"/containers/{ident}/stop").status_code == 204
    assert client.post(start, json=START).status_code == 204  # the same again changes nothing
    client.post(f"/containers/{ident}/stop")
    assert client.post(start, json={"Binds": ["other:/o"]}).status_code == 409
    assert client.get("/volumes/other").status_code == 404
    shown = client.get(f"/containers/{ident}/json").json["HostConfig"]
    assert client.post(f"/containers/{ident}/start", json=shown).status_code == 204


@pytest.mark.usefixtures("clean")
def test_names_and_links_of_a_start(client: FlaskClient) -> None:
    ident, other = make(client), make(client, "linked-db", ExposedPorts={"80/tcp": {}}, Env=["A=1"])
    start, words = f"/v1.14/containers/{ident}/start", {"Dns": ["10.0.0.1"], "DnsSearch": ["a.test"]}
    assert client.post(start, json={"Links": ["nosuch:b"]}).status_code == 400
    assert client.post(start, json={"Links": [":b"]}).status_code == 400
    refused = client.post(start, json={**words, "Links": ["linked-db:b"]})
    assert (refused.status_code, "Cannot link to a non running container: /linked-db AS /" in refused.text) == (
        409,
        True,
    )
    assert client.post(f"/containers/{other}/start").status_code == 204
    assert client.post(start, json={**words, "Links": ["linked-db:b"]}).status_code == 204
    found = client.get(f"/containers/{ident}/json").json
    host = found["HostConfig"]
    assert (host["Dns"], host["DnsSearch"]) == (["10.0.0.1"], ["a.test"])
    assert host["Links"] == [f"/linked-db:{found['Name']}/b"]
    client.post(f"/containers/{ident}/stop")
    assert client.post(start, json=host).status_code == 204  # what is shown changes nothing
    assert (
        client.post("/containers/create", json={"Image": "busybox", "HostConfig": {"Links": ["no:x"]}}).status_code
        == 400
    )


@pytest.mark.usefixtures("clean")
def test_what_links_tell(client: FlaskClient, running: Engine) -> None:
    db = make(client, "db", ExposedPorts={"5432/tcp": {}, "53/udp": {}}, Env=["A=1", "HOME=/h"])
    web = make(client, "web", Env=["DB_NAME=mine"], HostConfig={"Links": ["db:db-1", "db"]})
    client.post(f"/containers/{db}/start")
    client.post(f"/containers/{web}/start")
    address = client.get(f"/containers/{db}/json").json["NetworkSettings"]["IPAddress"]
    program = running.containers.queries.linked_program(running.containers.records.find(web))
    env = {key: value for key, value in program.env.items() if key.startswith("DB")}
    assert env.pop("DB_NAME") == "mine"
    assert {key: value for key, value in env.items() if key.startswith("DB_1_")} == {
        "DB_1_NAME": "/web/db-1",
        "DB_1_ENV_A": "1",
        "DB_1_PORT": f"udp://{address}:53",
        "DB_1_PORT_53_UDP": f"udp://{address}:53",
        "DB_1_PORT_53_UDP_ADDR": address,
        "DB_1_PORT_53_UDP_PORT": "53",
        "DB_1_PORT_53_UDP_PROTO": "udp",
        "DB_1_PORT_5432_TCP": f"tcp://{address}:5432",
        "DB_1_PORT_5432_TCP_ADDR": address,
        "DB_1_PORT_5432_TCP_PORT": "5432",
        "DB_1_PORT_5432_TCP_PROTO": "tcp",
    }
    assert env["DB_ENV_A"] == "1"


@pytest.mark.usefixtures("clean")
@pytest.mark.parametrize(
    ("host", "word"),
    [
        ({"Memory": 2**28}, "HostConfig.Memory"),
        ({"NetworkMode": "host"}, "HostConfig.NetworkMode"),
        ({"Devices": [{"PathOnHost": "/dev/null"}]}, "/dev/null"),
        ({"PidMode": "host"}, "process namespace"),
    ],
)
def test_what_a_start_cannot_change_is_named(client: FlaskClient, host: dict[str, Any], word: str) -> None:
    ident = make(client)
    answer = client.post(f"/v1.14/containers/{ident}/start", json={**host, "Binds": ["nowhere-made:/v"]})
    assert (answer.status_code, word in answer.text) == (501, True), answer.text
    found = client.get(f"/containers/{ident}/json").json
    assert (found["State"]["Status"], found["HostConfig"]["Binds"]) == ("created", None)
    assert client.get("/volumes/nowhere-made").status_code == 404


MIB = 2**20


@pytest.mark.usefixtures("clean")
@pytest.mark.parametrize(
    ("first", "change", "status", "words"),
    [
        ({}, {"Memory": 64 * MIB}, 200, ""),
        ({}, {"Memory": 4096 * MIB}, 200, "has 128 MiB of memory"),
        ({"Memory": 64 * MIB}, {"MemorySwap": 96 * MIB}, 200, "has no swap"),
        ({"Memory": 64 * MIB}, {"MemorySwap": 32 * MIB}, 400, "larger than memory limit"),
        ({}, {"MemorySwap": 96 * MIB}, 400, "always set the Memory limit"),
        ({"Memory": 64 * MIB, "MemorySwap": 64 * MIB}, {"Memory": 96 * MIB}, 409, "already set memoryswap"),
        ({}, {"NanoCpus": 2_000_000_000}, 200, "has 1 CPU(s)"),
        ({"NanoCpus": 1_500_000_000}, {"NanoCpus": 2_000_000_000}, 200, ""),
        ({"CpuQuota": 50_000}, {"NanoCpus": 500_000_000}, 409, "CPU Quota has already been set"),
        ({"CpuPeriod": 50_000}, {"NanoCpus": 500_000_000}, 409, "CPU Period has already been set"),
        ({"NanoCpus": 500_000_000}, {"CpuQuota": 50_000}, 409, "CPU Quota cannot be updated"),
        ({"CpuQuota": 50_000}, {"CpuQuota": 200_000}, 200, "has 1 CPU(s)"),
        ({}, {"CpusetCpus": "0,3"}, 400, "Requested CPUs are not available"),
        ({}, {"BlkioWeight": 300, "CpusetMems": "0"}, 200, "CpusetMems was discarded"),
        ({}, {"BlkioDeviceReadBps": [{"Path": "/dev/x", "Rate": 1}]}, 200, "BlkioDeviceReadBps was discarded"),
        ({}, {"Devices": [{"PathOnHost": "/dev/null"}]}, 501, "/dev/null"),
        ({}, {"Ulimits": [{"Name": "nofile", "Soft": 1, "Hard": 1}]}, 501, "ulimits"),
    ],
)
def test_limits_are_changed_or_the_reason_is_told(
    client: FlaskClient, first: dict[str, Any], change: dict[str, Any], status: int, words: str
) -> None:
    ident = make(client, HostConfig=first)
    answer = client.post(f"/containers/{ident}/update", json=change)
    assert (answer.status_code, words in answer.text) == (status, True), answer.text
    if status == 200 and not words:
        assert answer.json == {"Warnings": []}
    shown = client.get(f"/containers/{ident}/json").json["HostConfig"]
    kept = {
        key: value for key, value in change.items() if key in shown and not words.startswith(("CpusetMems", "Blkio"))
    }
    for key, value in kept.items():
        assert (shown[key] == value) is (status == 200), key


@pytest.mark.usefixtures("clean")
def test_limits_of_a_container_in_the_vm_of_another(client: FlaskClient) -> None:
    make(client, "first")
    host = {"NetworkMode": "container:first", "Memory": 512 * MIB, "MemorySwap": -1}
    made = client.post("/containers/create", json={"Image": "busybox", "HostConfig": host})
    assert (made.status_code, len(made.json["Warnings"])) == (201, 2)
    alone = client.post("/containers/create", json={"Image": "busybox", "HostConfig": {"Memory": 512 * MIB}})
    assert (alone.status_code, alone.json["Warnings"]) == (201, [])
    host = {"NetworkMode": "container:first", "CpusetCpus": "1"}
    assert client.post("/containers/create", json={"Image": "busybox", "HostConfig": host}).status_code == 400
    host = {"NetworkMode": "container:nosuch"}  # not 404: docker run would pull the image
    gone = client.post("/containers/create", json={"Image": "busybox", "HostConfig": host})
    assert (gone.status_code, gone.json) == (400, {"message": "No such container: nosuch"})
    huge = client.post("/containers/create", json={"Image": "busybox", "HostConfig": {"Memory": 2**50}})
    assert (huge.status_code, "more memory than this host has" in huge.json["message"]) == (400, True)


@pytest.mark.usefixtures("clean")
def test_a_variable_that_is_taken_away(client: FlaskClient, running: Engine) -> None:
    image = crooked_image("with-env:t", {"Env": ["KEPT=1", "GONE=2"], "Cmd": ["sh"]})
    assert client.post("/images/load", data=image).status_code == 200
    ident = make(client, Image="with-env:t", Env=["GONE", "PATH", "OWN=3"])
    assert sorted(client.get(f"/containers/{ident}/json").json["Config"]["Env"]) == ["GONE", "KEPT=1", "OWN=3", "PATH"]
    program = running.containers.queries.inspect(ident).program
    assert program is not None
    assert dict(program.env) == {"KEPT": "1", "OWN": "3", "HOSTNAME": ident[:12]}


def test_what_is_no_archive_is_told_in_the_stream_of_load(client: FlaskClient) -> None:
    answer = client.post("/images/load", data=b"abc")
    told = json.loads(answer.data.splitlines()[-1])
    assert (answer.status_code, told["errorDetail"]["message"], "archive" in told["error"]) == (
        200,
        told["error"],
        True,
    )


@pytest.mark.usefixtures("clean")
def test_the_platform_of_an_image(client: FlaskClient) -> None:
    layer = layer_tar([member("x")])
    about = {
        "os": "linux",
        "architecture": "amd64",
        "config": {"Cmd": ["sh"]},
        "rootfs": {"type": "layers", "diff_ids": [digest_of(layer)]},
    }
    manifest = [{"Config": "c.json", "RepoTags": ["plat:t"], "Layers": ["l.tar"]}]
    parts = (("manifest.json", json.dumps(manifest).encode()), ("c.json", json.dumps(about).encode()), ("l.tar", layer))
    assert client.post("/images/load", data=layer_tar([member(*part) for part in parts])).status_code == 200
    for platform, status in (("linux", 201), ("linux/amd64", 201), ("linux/arm64", 404), ("windows", 404), ("", 201)):
        made = client.post(f"/containers/create?platform={platform}", json={"Image": "plat:t"})
        assert made.status_code == status, (platform, made.json)


@pytest.mark.parametrize(
    ("body", "status", "words"),
    [
        ({"Options": {"com.docker.network.bridge.enable_icc": "false"}}, 201, '"Warning":""'),
        ({"Options": {"com.docker.network.bridge.enable_icc": "perhaps"}}, 400, "true or false"),
        ({"Options": {"com.docker.network.bridge.enable_ip_masquerade": "perhaps"}}, 400, "true or false"),
        ({"Options": {"com.docker.network.driver.mtu": "big"}}, 400, "must be a number"),
        ({"ConfigOnly": True}, 501, "ConfigOnly"),
        ({"ConfigFrom": {"Network": "x"}}, 501, "ConfigFrom"),
        ({"EnableIPv4": False}, 501, "without IPv4"),
        ({"EnableIPv6": True}, 201, '"Warning":""'),
        ({"EnableIPv6": True, "IPAM": {"Config": [{"Subnet": "fd00:8::/64", "IPRange": "fd01:8::/80"}]}}, 400, "range"),
        ({"EnableIPv6": True, "IPAM": {"Config": [{"Subnet": "fd00:8::/64"}] * 2}}, 400, "one IPv6 subnet"),
        ({"IPAM": {"Options": {"a": "b"}}}, 501, "IPAM option a"),
        ({"Attachable": True}, 201, "Attachable"),
        ({"Options": {"com.example.what": "x"}}, 201, "com.example.what"),
        ({"Options": {"com.docker.network.driver.mtu": "1400"}}, 201, '"Warning":""'),
    ],
)
def test_networks_are_made_or_the_reason_is_told(
    client: FlaskClient, body: dict[str, Any], status: int, words: str
) -> None:
    made = client.post("/networks/create", json={"Name": "asked", **body})
    try:
        assert (made.status_code, words in made.text) == (status, True), made.text
    finally:
        client.delete("/networks/asked")


@pytest.mark.usefixtures("clean")
def test_ipv6_that_is_not_enabled_is_kept_and_told(client: FlaskClient) -> None:
    pools = [{"Subnet": "2001:db8::/64", "Gateway": "2001:db8::1"}]
    made = client.post("/networks/create", json={"Name": "asked", "IPAM": {"Config": pools}})
    try:
        assert (made.status_code, "2001:db8::/64 was discarded" in made.json["Warning"]) == (201, True)
        config = client.get("/networks/asked").json["IPAM"]["Config"]
        assert (len(config), config[1]) == (2, pools[0])
        point = {"IPAMConfig": {"IPv6Address": "2001:db8::7"}}
        body = {"Image": "busybox", "NetworkingConfig": {"EndpointsConfig": {"asked": point}}}
        told = client.post("/containers/create", json={**body, "HostConfig": {"NetworkMode": "asked"}}).json
        assert told["Warnings"] == ["IPv6 is not enabled on network asked: IPv6Address was discarded."]
        ident = make(client)
        connect = {"Container": ident, "EndpointConfig": point}
        assert client.post("/networks/asked/connect", json=connect).status_code == 200
        for one in (told["Id"], ident):
            shown = client.get(f"/containers/{one}/json").json["NetworkSettings"]["Networks"]["asked"]
            assert shown["IPAMConfig"] == point["IPAMConfig"]
        client.post("/networks/create", json={"Name": "plain"})
        assert client.post("/networks/plain/connect", json=connect).status_code == 501
    finally:
        for row in client.get("/containers/json?all=1").json:
            client.delete(f"/containers/{row['Id']}?force=1&v=1")
        for name in ("asked", "plain"):
            client.delete(f"/networks/{name}")


@pytest.mark.usefixtures("clean")
def test_network_with_ipv6(client: FlaskClient) -> None:
    pools = [{"Subnet": "fd00:8::/64"}, {"Subnet": "172.30.8.0/24"}]
    made = client.post("/networks/create", json={"Name": "six", "EnableIPv6": True, "IPAM": {"Config": pools}})
    assert (made.status_code, made.json["Warning"]) == (201, "")
    try:
        wanted = {"IPAMConfig": {"IPv6Address": "fd00:8::7"}}
        host = {"NetworkMode": "six", "PortBindings": {"80/tcp": [{"HostPort": ""}]}}
        body = {"Image": "busybox", "NetworkingConfig": {"EndpointsConfig": {"six": wanted}}, "HostConfig": host}
        told = client.post("/containers/create", json={**body, "Cmd": ["sleep", "100"]}).json
        assert told["Warnings"] == []
        other = make(client)
        for ident in (told["Id"], other):
            assert client.post(f"/containers/{ident}/start").status_code == 204
        assert client.post("/networks/six/connect", json={"Container": other}).status_code == 200
        about = client.get(f"/containers/{told['Id']}/json").json["NetworkSettings"]
        point = about["Networks"]["six"]
        shown = (point["GlobalIPv6Address"], point["GlobalIPv6PrefixLen"], point["IPv6Gateway"])
        assert shown == ("fd00:8::7", 64, "fd00:8::1")
        assert point["IPAMConfig"] == wanted["IPAMConfig"]
        assert [one["HostIp"] for one in about["Ports"]["80/tcp"]] == ["0.0.0.0", "::"]  # noqa: S104 - read, not listened on
        network = client.get("/networks/six").json
        assert network["EnableIPv6"]
        assert network["IPAM"]["Config"][1] == {"Subnet": "fd00:8::/64", "Gateway": "fd00:8::1"}
        addresses = {one["IPv6Address"] for one in network["Containers"].values()}
        assert (len(addresses), "fd00:8::7/64" in addresses) == (2, True)
        assert client.post("/networks/six/disconnect", json={"Container": other}).status_code == 200
        later = client.post("/containers/create", json={**body, "Cmd": ["sleep", "100"]}).json["Id"]
        client.post("/networks/six/disconnect", json={"Container": later})
        wanted["MacAddress"] = "02:42:ac:11:00:02"
        client.post("/networks/six/connect", json={"Container": later, "EndpointConfig": wanted})
        planned = client.get(f"/containers/{later}/json").json["NetworkSettings"]["Networks"]["six"]
        assert (planned["MacAddress"], planned["IPAMConfig"]) == ("02:42:ac:11:00:02", {"IPv6Address": "fd00:8::7"})
        taken = client.post(f"/containers/{later}/start")
        assert (taken.status_code, "fd00:8::7" in taken.text) == (409, True)
    finally:
        for row in client.get("/containers/json?all=1").json:
            client.delete(f"/containers/{row['Id']}?force=1&v=1")
        client.delete("/networks/six")


@pytest.mark.usefixtures("clean")
def test_network_is_left_by_force(client: FlaskClient, running: Engine) -> None:
    """A container that was never started, one that nobody knows, and what one that is gone has left."""
    made = client.post("/networks/create", json={"Name": "left"}).json["Id"]
    try:
        ident = make(client)
        assert client.post("/networks/left/connect", json={"Container": ident}).status_code == 200
        body = {"Container": ident, "Force": True}
        assert client.post("/networks/left/disconnect", json=body).status_code == 200
        for force, words in ((True, "endpoint nosuch not found"), (False, "No such container: nosuch")):
            told = client.post("/networks/left/disconnect", json={"Container": "nosuch", "Force": force})
            assert (told.status_code, told.json["message"]) == (404, words)
        running.network.reserve("gone", [NicWish(network=made)])
        assert client.delete("/networks/left").status_code == 403
        body = {"Container": "gone", "Force": True}
        assert client.post("/networks/left/disconnect", json=body).status_code == 200
    finally:
        assert client.delete("/networks/left").status_code == 204


@pytest.mark.usefixtures("clean")
def test_processes_are_shared_in_one_vm_only(client: FlaskClient) -> None:
    one, other = make(client), make(client)
    shared = {"NetworkMode": f"container:{one}", "PidMode": f"container:{one[:12]}"}
    made = client.post("/containers/create", json={"Image": "busybox", "HostConfig": shared}).json
    about = client.get(f"/containers/{made['Id']}/json").json["HostConfig"]
    assert about["PidMode"] == f"container:{one}"
    elsewhere = {**shared, "PidMode": f"container:{other}"}
    told = client.post("/containers/create", json={"Image": "busybox", "HostConfig": elsewhere})
    assert (told.status_code, "another VM" in told.text) == (501, True)
    missing = {**shared, "PidMode": "container:nosuch"}
    told = client.post("/containers/create", json={"Image": "busybox", "HostConfig": missing})
    assert (told.status_code, told.json["message"]) == (400, "No such container: nosuch")


@pytest.mark.usefixtures("clean")
def test_owners_of_copied_files(client: FlaskClient, running: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    told = []
    monkeypatch.setattr(running.containers.contents, "unpack", lambda *_words, owner, **_more: told.append(owner))
    ident = make(client, User="1000:5")
    for flag in ("", "&copyUIDGID=1"):
        assert client.put(f"/containers/{ident}/archive?path=/{flag}", data=b"").status_code == 200
    assert told == ["", "1000:5"]


def test_the_disk_of_what_was_asked_for(client: FlaskClient) -> None:
    every = client.get("/system/df").json
    assert all(every[key] is not None for key in ("Images", "Containers", "Volumes", "BuildCache"))
    assert every["LayersSize"] >= max(image["Size"] for image in every["Images"]) > 0
    some = client.get("/system/df?type=volume&type=build-cache").json
    assert {key for key, value in some.items() if value is not None} == {"LayersSize", "Volumes", "BuildCache"}
    assert some["LayersSize"] == 0
    assert client.get("/system/df?type=nonsense").status_code == 400


def test_an_image_that_cannot_be_saved_is_named(client: FlaskClient) -> None:
    for query in ("names=busybox&names=nosuch", "names=nosuch&names=busybox"):
        answer = client.get(f"/images/get?{query}")
        assert (answer.status_code, answer.json) == (404, {"message": "No such image: nosuch:latest"})


def test_versions_of_old_clients(client: FlaskClient) -> None:
    more = {"ApiVersion", "Os", "Arch", "KernelVersion"}
    assert not more & set(client.get("/v1.8/version").json)
    for spoken in ("1.12", "1.23", "1.24", "1.47"):
        assert more <= set(client.get(f"/v{spoken}/version").json)


@pytest.mark.usefixtures("clean")
def test_volumes_are_read_only_for_who_has_some(
    client: FlaskClient, running: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain, using = make(client), make(client, HostConfig={"Binds": ["some:/v"]})
    asked: list[int] = []
    every = running.volumes.all
    monkeypatch.setattr(running.volumes, "all", lambda: asked.append(1) or every())
    assert client.get(f"/containers/{plain}/json").status_code == 200
    assert asked == []
    assert client.get(f"/containers/{using}/json").json["Mounts"][0]["Source"]
    assert client.get("/containers/json?all=1").status_code == 200
    assert len(asked) == 2  # once for each request


def test_a_pull_that_the_policy_refuses_is_not_told_as_the_registrys_denial(
    client: FlaskClient, running: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    def pull(*_args: object, **_more: object) -> None:
        raise SignatureRefused("r.io/x:t", Flaw.MISSING)

    monkeypatch.setattr(running.images, "pull", pull)
    said = client.post("/images/create?fromImage=r.io/x&tag=t").text
    assert "the policy on signatures refuses r.io/x:t: it has no signature" in said
    assert "pull access denied" not in said
