"""The programs of Kubernetes and etcd for ``try-kubernetes``: found, or fetched from Debian and built, not installed.

Debian 12's source package ``kubernetes`` (1.20) is the last one that has more than kubectl.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

SUITE = "bookworm"
KEYRING = "/usr/share/keyrings/debian-archive-keyring.gpg"
COMMANDS = ("kubelet", "kube-apiserver", "kube-controller-manager", "kube-scheduler")
PROXY = "kube-proxy"  # its checks are left out without it
PLUGINS = Path("usr/lib/cni")
TOOLS = {"etcd": "etcd-server", "kubectl": "kubernetes-client", "docker-registry": "docker-registry"}
GO_PACKAGES = ("golang-1.19-go", "golang-1.19-src")
MODULE = "k8s.io/kubernetes"
VERSIONS = "k8s.io/component-base/version"
DEBIAN_VERSION = "v1.20.2"
TAGS = "providerless dockerless"  # without the clouds and the shim for dockerd that 1.20 still has


class Failed(Exception):
    """Something that is needed cannot be had; the message is for the person who started the trial."""


@dataclass(frozen=True)
class Binaries:
    """Where the programs are.

    Args:
        directory: of the programs of Kubernetes. tools: paths of etcd, kubectl and docker-registry.
        plugins: directory of the CNI plugins. version: of kubelet, as two numbers. proxy: of kube-proxy; None = there
        is none.

    """

    directory: Path
    tools: Mapping[str, str]
    plugins: Path
    version: tuple[int, int]
    proxy: tuple[int, int] | None

    def __getitem__(self, name: str) -> str:
        return self.tools.get(name) or str(self.directory / name)


def run(words: Sequence[str], *, cwd: Path | None = None, env: Mapping[str, str] | None = None) -> str:
    """Run a program that must succeed; return what it prints. Errors: Failed."""
    try:
        done = subprocess.run(
            words,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            check=False,
            cwd=cwd,
            env={**os.environ, **(env or {})},
        )
    except OSError as error:
        raise Failed(f"{words[0]}: {error}") from error
    if done.returncode:
        raise Failed(f"{' '.join(words)[:300]} failed:\n{done.stdout[-4000:]}")
    return done.stdout


def obtain(cache: Path, *, binaries: Path | None, source: Path | None, go: str) -> Binaries:
    """Return the programs.

    Args:
        cache: where they are kept for the next time. binaries: a directory that has those of Kubernetes.
        source: a checkout of Kubernetes to build; None = Debian's package. go: program that builds the checkout.

    Errors: Failed.

    """
    cache.mkdir(parents=True, exist_ok=True)
    apt = _Apt(cache / "apt")
    if binaries is None:
        binaries = cache / (f"built-{source.name}" if source else "debian-1.20")
        if source is None and not _complete(binaries):
            source, go = _debian_source(apt, cache), _debian_go(apt, cache)
        if source is not None and not _complete(binaries):
            _build(source, binaries, go=go, cache=cache)
    if not _complete(binaries):
        raise Failed(f"{binaries} does not have all of {', '.join(COMMANDS)}")
    tools = {name: _tool(apt, cache, name, package) for name, package in TOOLS.items()}
    proxy = _version(binaries / PROXY) if (binaries / PROXY).exists() else None
    return Binaries(binaries, tools, _plugins(apt, cache), _version(binaries / "kubelet"), proxy)


def _version(program: Path) -> tuple[int, int]:
    found = re.search(r"v(\d+)\.(\d+)", run([str(program), "--version"]))
    if not found:
        raise Failed(f"{program} does not tell its version")
    return int(found[1]), int(found[2])


def _complete(directory: Path) -> bool:
    return all(os.access(directory / name, os.X_OK) for name in COMMANDS)


class _Apt:
    """apt-get with lists and sources of its own, so that those of the host stay as they are."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._ready = False

    def download(self, *packages: str) -> None:
        """Fetch packages and unpack them into ``tree``. Errors: Failed."""
        place = self._directory / "debs"
        place.mkdir(parents=True, exist_ok=True)
        self._apt("download", *packages, cwd=place)
        for package in packages:
            (file,) = place.glob(f"{package}_*.deb")
            run(["dpkg-deb", "-x", str(file), str(self.tree)])
            file.unlink()

    @property
    def tree(self) -> Path:
        """Where packages are unpacked."""
        return self._directory / "tree"

    def source(self, package: str, place: Path) -> None:
        """Fetch and unpack a source package. Errors: Failed."""
        place.mkdir(parents=True, exist_ok=True)
        self._apt("source", package, cwd=place)

    def _apt(self, *words: str, cwd: Path) -> None:
        if not self._ready:
            self._configure()
            run(["apt-get", *self._options(), "update"])
            self._ready = True
        run(["apt-get", *self._options(), *words], cwd=cwd)

    def _configure(self) -> None:
        for name in ("lists/partial", "cache/archives/partial"):
            (self._directory / name).mkdir(parents=True, exist_ok=True)
        targets = run(["apt-get", "indextargets", "--format", "$(SITE) $(CODENAME)", "Created-By: Packages"]).split()
        sites = list(zip(targets[::2], targets[1::2], strict=True))
        if not sites:
            raise Failed("apt knows no mirror of Debian here (run apt-get update first): use --binaries or --source")
        site = next((site for site, codename in sites if codename == SUITE), sites[0][0])
        rows = [f"{kind} [signed-by={KEYRING}] {site} {SUITE} main\n" for kind in ("deb", "deb-src")]
        (self._directory / "sources.list").write_text("".join(rows))

    def _options(self) -> list[str]:
        settings = {
            "Dir::Etc::sourcelist": self._directory / "sources.list",
            "Dir::Etc::sourceparts": "/dev/null",
            "Dir::State::lists": self._directory / "lists",
            "Dir::Cache": self._directory / "cache",
            "APT::Sandbox::User": "root",
        }
        return [word for key, value in settings.items() for word in ("-o", f"{key}={value}")]


def _tool(apt: _Apt, cache: Path, name: str, package: str) -> str:
    found = shutil.which(name)
    if found:
        return found
    path = apt.tree / "usr/bin" / name
    if not path.exists():
        print(f"fetching Debian's {package} into {cache}", flush=True)
        apt.download(package)
    return str(path)


def _plugins(apt: _Apt, cache: Path) -> Path:
    path = Path("/") / PLUGINS
    if not (path / "bridge").exists():
        path = apt.tree / PLUGINS
    if not (path / "bridge").exists():
        print(f"fetching Debian's containernetworking-plugins into {cache}", flush=True)
        apt.download("containernetworking-plugins")
    return path


def _debian_source(apt: _Apt, cache: Path) -> Path:
    place = cache / "source"
    if not list(place.glob("kubernetes-*/cmd/kubelet")):
        shutil.rmtree(place, ignore_errors=True)
        print(f"fetching Debian's source package kubernetes into {place}", flush=True)
        apt.source(f"kubernetes/{SUITE}", place)
    found = list(place.glob("kubernetes-*/cmd/kubelet"))
    if not found:
        raise Failed(f"the source package in {place} has no kubelet: use --source with a checkout of Kubernetes")
    return found[0].parents[1]


def _debian_go(apt: _Apt, cache: Path) -> str:
    path = apt.tree / "usr/lib/go-1.19/bin/go"
    if not path.exists():
        print(f"fetching Debian's Go 1.19 into {cache}", flush=True)
        apt.download(*GO_PACKAGES)
    return str(path)


def _build(source: Path, target: Path, *, go: str, cache: Path) -> None:
    """Compile the programs, one package after the other. Errors: Failed."""
    version = _version_of(source)
    env = {"GOCACHE": str(cache / "go-build"), "GOTOOLCHAIN": "local", "GOFLAGS": "-mod=vendor", "PWD": str(source)}
    vendored = ""
    if version is None:
        version, vendored = DEBIAN_VERSION, f"{MODULE}/vendor/"
        source = _below_gopath(source, cache / "gopath")
        env |= {"GO111MODULE": "off", "GOPATH": str(cache / "gopath"), "GOFLAGS": "", "PWD": str(source)}
        _describe_api(source, cache, go=go, env=env)
    major, minor = version.removeprefix("v").split(".")[:2]
    values = {"gitVersion": version, "gitMajor": major, "gitMinor": minor}
    flags = " ".join(["-s", "-w", *(f"-X {vendored}{VERSIONS}.{key}={value}" for key, value in values.items())])
    target.mkdir(parents=True, exist_ok=True)
    for name in (*COMMANDS, PROXY):
        if not os.access(target / name, os.X_OK) and (source / "cmd" / name).is_dir():
            began = time.monotonic()
            print(f"building {name} {version} ... ", end="", flush=True)
            output = target / f".{name}"
            _go(go, source, env, "-tags", TAGS, "-ldflags", flags, "-o", str(output), f"{MODULE}/cmd/{name}")
            output.rename(target / name)
            print(f"{time.monotonic() - began:.0f} s", flush=True)


def _go(go: str, source: Path, env: Mapping[str, str], *words: str) -> None:
    run(["nice", "-n", "10", go, "build", "-p", "1", *words], cwd=source, env=env)


def _below_gopath(source: Path, gopath: Path) -> Path:
    """Return another path of old sources: they are built below GOPATH, where their own libraries are links."""
    link = gopath / "src" / MODULE
    link.parent.mkdir(parents=True, exist_ok=True)
    link.unlink(missing_ok=True)
    link.symlink_to(source)
    return link


def _describe_api(source: Path, cache: Path, *, go: str, env: Mapping[str, str]) -> None:
    """Make the description of the API, which old sources do not have. Errors: Failed."""
    package = "pkg/generated/openapi"
    if list((source / package).glob("zz_generated*")):
        return
    print("making the description of the API", flush=True)
    generator = cache / "openapi-gen"
    _go(go, source, env, "-o", str(generator), f"{MODULE}/vendor/k8s.io/kube-openapi/cmd/openapi-gen")
    tagged = run(["grep", "-rl", "--include=*.go", "+k8s:openapi-gen=", "pkg", "cmd", "plugin", "staging"], cwd=source)
    places = {str(Path(path).parent).replace("staging/src/", "vendor/") for path in tagged.split()}
    wanted = sorted(f"{MODULE}/{place}" for place in places if not re.search("/(code-generator|sample-[a-z]+)/", place))
    options = {
        "-i": ",".join(wanted),
        "-p": f"{MODULE}/{package}",
        "-O": "zz_generated.openapi",
        "-o": str(cache / "gopath/src"),
        "-h": "hack/boilerplate/boilerplate.generatego.txt",
        "-r": str(cache / "violations"),
    }
    run([str(generator), *(word for pair in options.items() for word in pair)], cwd=source, env=env)


def _version_of(source: Path) -> str | None:
    """Return the version that git tells of a checkout; None for Debian's source, which is no checkout."""
    if not (source / ".git").exists():
        return None
    return run(["git", "-C", str(source), "describe", "--tags", "--abbrev=0"]).strip()
