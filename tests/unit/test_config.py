"""Configuration files: TOML, the original's INI, what is refused and why."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

from hyperd.config.load import SECTIONS, load, parse_size, read
from hyperd.config.model import Config, SignatureConfig
from hyperd.errors import InvalidInput

SAMPLE = Path(__file__).parents[2] / "configs" / "hyperd.toml"


def write(tmp_path: Path, text: str, name: str = "hyperd.toml") -> Path:
    path = tmp_path / name
    path.write_text(text)
    return path


def test_sample_file_is_the_defaults():
    config, warnings = read(SAMPLE)
    assert config == Config()
    assert warnings == []


def test_sample_file_names_every_key_and_explains_it():
    lines = SAMPLE.read_text().splitlines()
    section = ""
    seen: dict[str, set[str]] = {"": set()}
    for above, line in zip(["", *lines], lines, strict=False):
        if line.startswith("["):
            section = line.strip("[]")
            seen[section] = set()
        elif line and not line.startswith("#"):
            key = line.split(" = ")[0]
            seen[section].add(key)
            assert above, f"{section}.{key}: no comment or related key above it"
    assert seen[""] == {field.name for field in dataclasses.fields(Config)} - set(SECTIONS) - {"images"}
    for name, section_class in SECTIONS.items():
        assert seen[name] == {field.name for field in dataclasses.fields(section_class)}
    assert seen["images.signatures"] == {field.name for field in dataclasses.fields(SignatureConfig)} - {"rule"}


def test_values_of_every_type(tmp_path):
    path = write(
        tmp_path,
        'root = "/srv/hy"\nhosts = ["unix:///a", "tcp://"]\nsocket_mode = 0o600\nstop_grace = 2\n'
        '[network]\nnat = false\n[hypervisor]\nkernel = "/k"\n',
    )
    config, _ = load(path)
    assert config.root == Path("/srv/hy")
    assert config.hosts == ("unix:///a", "tcp://")
    assert config.socket_mode == 0o600
    assert config.stop_grace == 2.0
    assert isinstance(config.stop_grace, float)
    assert config.network.nat is False
    assert config.hypervisor.kernel == Path("/k")
    assert config.hypervisor.initrd is None


def test_command_line_wins(tmp_path):
    path = write(tmp_path, 'root = "/srv/hy"\nhosts = ["unix:///a"]\nlog_level = "error"\n')
    config, _ = load(path, root=Path("/r"), hosts=["unix:///b"], log_level="debug")
    assert (config.root, config.hosts, config.log_level) == (Path("/r"), ("unix:///b",), "debug")


@pytest.mark.parametrize(
    ("text", "word"),
    [
        ("colour = 1", "unknown key colour"),
        ("[network]\ncolour = 1", "unknown key network.colour"),
        ("network = 1", "[network]"),
        ("threads = '32'", "threads must be a whole number"),
        ("threads = 3.5", "threads must be a whole number"),
        ("threads = true", "threads must be a whole number"),
        ("threads = 1", "threads must be from 4"),
        ("root = 3", "root must be a path"),
        ("root = 'relative'", "root must be an absolute path"),
        ("hosts = 'unix:///a'", "hosts must be an array of strings"),
        ("hosts = [1]", "hosts must be an array of strings"),
        ("hosts = []", "hosts is empty"),
        ("socket_mode = 4096", "socket_mode"),
        ("log_level = 'loud'", "log_level must be one of"),
        ("stop_grace = nan", "stop_grace"),
        ("[network]\nsubnet = '10.0.0.0/33'", "subnet"),
        ("[network]\nsubnet = '10.0.0.0/30'", "subnet"),
        ("[network]\nsubnet = 'fd00::/64'", "subnet"),
        ("[network]\ndns = ['one']", "dns"),
        ("[network]\nbridge = 'a-name-that-is-too-long'", "network.bridge"),
        ("[network]\nnft_table = 'a b'", "network.nft_table"),
        ("[network]\nnat = 'yes'", "network.nat must be true or false"),
        ("[hypervisor]\ndriver = 'xen'", "hypervisor.driver"),
        ("[hypervisor]\naccelerator = 'hax'", "hypervisor.accelerator"),
        ("[hypervisor]\nuid_range = '70000'", "hypervisor.uid_range"),
        ("[hypervisor]\nuid_range = '0-70000'", "hypervisor.uid_range"),
        ("[hypervisor]\nuid_range = '70000-69999'", "hypervisor.uid_range"),
        ("[hypervisor]\nuid_range = '70000-4294967295'", "hypervisor.uid_range"),
        ("root = [", "not valid TOML"),
        (f"root = '/{'x' * 90}'", "longer than"),
    ],
)
def test_what_is_wrong_is_named(tmp_path, text, word):
    with pytest.raises(InvalidInput) as caught:
        load(write(tmp_path, text))
    assert word in str(caught.value)


def test_missing_file_is_an_error(tmp_path):
    with pytest.raises(InvalidInput, match="cannot read"):
        load(tmp_path / "none.toml")


def test_original_ini_file(tmp_path):
    path = write(
        tmp_path,
        "# the original's sample\nRoot=/var/lib/old\nHost=tcp://127.0.0.1:1246\nKernel=/var/lib/hyper/kernel\n"
        "Hypervisor=libvirt\nStorageDriver=overlay\nStorageBaseSize=4GB\nBridge=hyper7\nBridgeIP=10.7.0.1/16\n"
        "DisableIptables=true\nLogger=none\nFancy=1\n[Log]\nmax-size=1m\nmax-file=3\nPodLogPrefix=/x\nPodIdInPath=false\n"
        "syslog-address=udp://192.0.2.1:514\ngelf-address=x\n",
        "config",
    )
    config, warnings = load(path)
    assert config.root == Path("/var/lib/old")
    assert config.hosts == ("unix:///var/run/hyper.sock", "tcp://127.0.0.1:1246")
    assert config.scratch_size == 4 * 2**30
    assert (config.network.bridge, config.network.subnet, config.network.nat) == ("hyper7", "10.7.0.1/16", False)
    assert (config.log.driver, config.log.max_size, config.log.max_file) == ("none", 2**20, 3)
    assert (config.log.directory, config.log.pod_id_in_path) == (Path("/x"), False)
    assert config.log.syslog_address == "udp://192.0.2.1:514"
    told = "\n".join(warnings)
    for word in ("Kernel", "StorageDriver", "Fancy", "[Log] gelf-address"):
        assert word in told
    assert len(warnings) == 4


def test_ini_with_another_hypervisor_is_warned_about(tmp_path):
    _, warnings = load(write(tmp_path, "Hypervisor=xen\n", "config"))
    assert len(warnings) == 1
    assert "xen" in warnings[0]


def test_toml_without_suffix(tmp_path):
    config, _ = load(write(tmp_path, 'root = "/srv/hy"\n', "config"))
    assert config.root == Path("/srv/hy")


@pytest.mark.parametrize(
    ("text", "size"), [("10", 10), ("2k", 2048), ("1GiB", 2**30), ("3 MB", 3 * 2**20), ("1T", 2**40)]
)
def test_sizes(text, size):
    assert parse_size(text, "x") == size


@pytest.mark.parametrize("text", ["", "GB", "-1", "1.5G", "1 parsec"])
def test_bad_sizes(text):
    with pytest.raises(InvalidInput, match="must be a size"):
        parse_size(text, "x")
