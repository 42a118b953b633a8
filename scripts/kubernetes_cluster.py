"""A cluster for ``try-kubernetes``: etcd and the control plane beside the caller, and nodes in namespaces of their own.

A node is a network namespace and a mount namespace with a kubelet and a hyperd. They have /var/lib/kubelet and /var/log
of their own, so that two kubelets on one host do not clean up after each other.
"""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import shutil
import signal
import ssl
import subprocess
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from kubernetes_binaries import PROXY, Binaries, Failed, run

from tests.support.daemon import HyperdLauncher

START_SECONDS = 180.0
SERVICES = "10.215.0.0/24"
SERVICE_ADDRESS = "10.215.0.1"
API_PORT, ETCD_PORT, ETCD_PEERS = 6443, 2379, 2380


def until(what: str, test: Callable[[], bool], seconds: float = START_SECONDS) -> None:
    """Wait for something. Errors: Failed."""
    deadline = time.monotonic() + seconds
    while not test():
        if time.monotonic() > deadline:
            raise Failed(f"{what}: not after {seconds:.0f} s")
        time.sleep(0.2)  # programs of others: nothing tells when they are ready


class Process:
    """A program that is started, ended and killed, with its output in a file.

    Args:
        words: the command. log: of its output. inside: words before the command that enter namespaces.

    """

    def __init__(self, words: Sequence[str], log: Path, *, inside: Sequence[str] = ()) -> None:
        self.log = log
        self._words = [*inside, *words]
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start it."""
        with self.log.open("ab") as file:
            self._process = subprocess.Popen(self._words, stdout=file, stderr=file, stdin=subprocess.DEVNULL)

    def alive(self) -> bool:
        """Return whether it runs. Errors: Failed when it has ended by itself."""
        if self._process is None:
            return False
        if self._process.poll() is not None:
            tail = self.log.read_text(errors="replace")[-3000:]
            raise Failed(f"{self._words[0]} ended with {self._process.returncode}:\n{tail}")
        return True

    def end(self, number: int = signal.SIGTERM) -> None:
        """End it; one that does not end on a signal is killed."""
        if self._process is None:
            return
        process, self._process = self._process, None
        process.send_signal(number)
        try:
            process.wait(20)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


class Authority:
    """Keys and certificates of a cluster."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        directory.mkdir()
        self._openssl("req", "-x509", *self._new("ca"), "-out", self.path("ca.crt"), "-days", "2", "-subj", "/CN=ca")
        self._openssl("genrsa", "-out", self.path("accounts.key"), "2048")

    def path(self, name: str) -> str:
        """Return the path of a file."""
        return str(self.directory / name)

    def issue(self, name: str, subject: str, *addresses: str) -> tuple[str, str]:
        """Make a certificate; return the paths of it and of its key."""
        request, extensions = self.path(f"{name}.csr"), self.directory / f"{name}.ext"
        names = [f"IP:{one}" if one[:1].isdigit() else f"DNS:{one}" for one in addresses or ("localhost",)]
        extensions.write_text(f"subjectAltName={','.join(names)}\n")
        self._openssl("req", *self._new(name), "-out", request, "-subj", subject)
        certificate = self.path(f"{name}.crt")
        signing = ("-CA", self.path("ca.crt"), "-CAkey", self.path("ca.key"), "-CAcreateserial", "-days", "2")
        self._openssl("x509", "-req", "-in", request, "-out", certificate, *signing, "-extfile", str(extensions))
        return certificate, self.path(f"{name}.key")

    def kubeconfig(self, name: str, subject: str, server: str) -> str:
        """Make the file with which somebody speaks to the API server; return its path."""
        certificate, key = self.issue(name, subject)
        content = {
            "apiVersion": "v1",
            "kind": "Config",
            "clusters": [{"name": "c", "cluster": {"server": server, "certificate-authority": self.path("ca.crt")}}],
            "users": [{"name": "u", "user": {"client-certificate": certificate, "client-key": key}}],
            "contexts": [{"name": "x", "context": {"cluster": "c", "user": "u"}}],
            "current-context": "x",
        }
        path = self.path(f"{name}.kubeconfig")
        Path(path).write_text(json.dumps(content))
        return path

    def _new(self, name: str) -> tuple[str, ...]:
        return (
            "-newkey",
            "ec",
            "-pkeyopt",
            "ec_paramgen_curve:prime256v1",
            "-nodes",
            "-keyout",
            self.path(f"{name}.key"),
        )

    def _openssl(self, *words: str) -> None:
        run(["openssl", *words])


def _network(pods: str, directory: Path) -> dict[str, Any]:
    """Return the configuration of the CNI plugins of a node."""
    bridge = {
        "type": "bridge",
        "bridge": "cni0",
        "isGateway": True,
        "hairpinMode": True,  # a pod may ask itself by way of a service
        "ipam": {
            "type": "host-local",
            "dataDir": f"{directory}/addresses",
            "ranges": [[{"subnet": pods}]],
            "routes": [{"dst": "0.0.0.0/0"}],
        },
    }
    ports = {"type": "portmap", "capabilities": {"portMappings": True}}
    return {"cniVersion": "1.0.0", "name": "pods", "plugins": [bridge, ports]}


def _remove_network(space: str, link: str) -> None:
    """Remove a node's namespace and its cable, which does not go with it while others have the namespace, too."""
    for words in (("link", "delete", link), ("netns", "delete", space)):
        subprocess.run(["ip", *words], capture_output=True, check=False)


@dataclass
class Node:
    """A kubelet and its hyperd.

    Args:
        name: of the node. space: name of its network namespace. address: in the network of the nodes. link: our end
        of its cable. pods: their network on this node.
        directory: of its files. inside: words that enter its namespaces. holder: keeps them. daemon: its hyperd.
        kubelet: its kubelet. proxy: its kube-proxy, when there is one.

    """

    name: str
    space: str
    address: str
    link: str
    pods: str
    directory: Path
    inside: list[str]
    holder: subprocess.Popen[bytes]
    daemon: HyperdLauncher
    kubelet: Process = field(init=False)
    proxy: Process | None = None

    @property
    def socket(self) -> Path:
        """Where hyperd serves the CRI."""
        return self.daemon.directory / "cri.sock"

    def start_daemon(self) -> None:
        """Start hyperd."""
        self.daemon.start("--cri", f"unix://{self.socket}")

    def start(self) -> None:
        """Start kubelet and kube-proxy."""
        self.kubelet.start()
        if self.proxy is not None:
            self.proxy.start()

    def plug(self, connected: bool) -> None:
        """Pull the cable of the node, or put it back. Errors: Failed."""
        run(["ip", "link", "set", self.link, "up" if connected else "down"])


class Cluster:
    """Everything that the trial starts; ``close`` ends and removes it.

    Args:
        binaries: the programs. directory: for all files. guest: directory of kernel and initramfs of the VMs.
        python: with which hyperd runs.

    """

    def __init__(self, binaries: Binaries, directory: Path, *, guest: Path, python: str) -> None:
        self.binaries = binaries
        self.directory = directory
        self.bridge = self.network = self.address = self.url = ""
        self.nodes: list[Node] = []
        self._guest, self._python = guest, python
        self._processes: list[Process] = []
        self._made_directories: list[Path] = []
        self.authority = Authority(directory / "keys")
        self.kubeconfig = ""

    # -- the network

    def open(self) -> None:
        """Make the bridge of the nodes, with a name and a network that are free here. Errors: Failed."""
        for number in range(1, 250):
            self.bridge, self.network = f"kt{number}", f"10.214.{number}"
            done = subprocess.run(
                ["ip", "link", "add", self.bridge, "type", "bridge"], capture_output=True, check=False
            )
            if done.returncode == 0:
                break
        else:
            raise Failed(f"no bridge can be made: {done.stderr.decode()}")
        self.address = f"{self.network}.1"
        self.url = f"https://{self.address}:{API_PORT}"
        run(["ip", "address", "add", f"{self.address}/24", "dev", self.bridge])
        run(["ip", "link", "set", self.bridge, "up"])

    def close(self) -> list[str]:
        """End everything, the youngest first; return what could not be removed in order."""
        left: list[str] = []
        for node in reversed(self.nodes):
            for program in (node.proxy, getattr(node, "kubelet", None)):
                if program is not None:
                    program.end()
            with contextlib.suppress(OSError):
                shutil.copy(node.daemon.log_path, node.directory / "hyperd.log")
            spaces = [f"hyperd-{path.stem[:32]}" for path in (node.daemon.root / "cni").glob("*.json")]
            try:
                node.daemon.close()
            except AssertionError as error:
                left.append(f"{node.name}: {str(error)[:500]}")
            for space in spaces:  # of pods that a trial which was interrupted has left
                Path("/run/netns", space).unlink(missing_ok=True)
            node.holder.kill()
            node.holder.wait()
            _remove_network(node.space, node.link)
        for process in reversed(self._processes):
            process.end()
        subprocess.run(["ip", "link", "delete", self.bridge], capture_output=True, check=False)
        for directory in reversed(self._made_directories):
            with contextlib.suppress(OSError):
                directory.rmdir()
        return left

    # -- the control plane

    def start_control_plane(self) -> float:
        """Start etcd, the API server, the controllers and the scheduler; return the seconds until the API is ready."""
        began = time.monotonic()
        self._start("etcd", self._etcd())
        self._start("kube-apiserver", self._api_server())
        self.kubeconfig = self.authority.kubeconfig("admin", "/O=system:masters/CN=admin", self.url)
        until("the API server is ready", self._api_ready)
        self._start("kube-controller-manager", self._controllers())
        self._start("kube-scheduler", self._scheduler())
        until("the default service account is there", lambda: self.kubectl("get", "sa", "default", check=False) != "")
        return time.monotonic() - began

    def _start(self, name: str, words: Sequence[str]) -> None:
        process = Process([self.binaries[name], *words], self.directory / f"{name}.log")
        self._processes.append(process)
        process.start()

    def process(self, name: str) -> Process:
        """Return a program of the control plane by its name, to end it and start it again."""
        return next(one for one in self._processes if one.log.name == f"{name}.log")

    def renew_controllers(self) -> None:
        """Restart the controllers where they no longer mark nodes that are lost.

        Kubernetes 1.19 and 1.20 (kubernetes/kubernetes#96183, mended in 1.21): a node that was once not ready for two
        looks stays at the head of the queue of those to be marked, and nobody behind it has its turn.
        """
        if self.binaries.version < (1, 21):
            controllers = self.process("kube-controller-manager")
            controllers.end()
            controllers.start()

    def _etcd(self) -> list[str]:
        client, peer = f"http://{self.address}:{ETCD_PORT}", f"http://{self.address}:{ETCD_PEERS}"
        return [
            f"--data-dir={self.directory}/etcd",
            f"--listen-client-urls={client}",
            f"--advertise-client-urls={client}",
            f"--listen-peer-urls={peer}",
            f"--initial-advertise-peer-urls={peer}",
            f"--initial-cluster=default={peer}",
        ]

    def _api_server(self) -> list[str]:
        keys = self.authority
        certificate, key = keys.issue("api", "/CN=api", self.address, SERVICE_ADDRESS, "kubernetes.default.svc")
        client, client_key = keys.issue("api-client", "/O=system:masters/CN=kube-apiserver")
        words = [
            f"--etcd-servers=http://{self.address}:{ETCD_PORT}",
            f"--bind-address={self.address}",
            f"--advertise-address={self.address}",
            f"--secure-port={API_PORT}",
            f"--service-cluster-ip-range={SERVICES}",
            f"--tls-cert-file={certificate}",
            f"--tls-private-key-file={key}",
            f"--client-ca-file={keys.path('ca.crt')}",
            f"--kubelet-client-certificate={client}",
            f"--kubelet-client-key={client_key}",
            f"--kubelet-certificate-authority={keys.path('ca.crt')}",
            "--kubelet-preferred-address-types=InternalIP",
            "--authorization-mode=Node,RBAC",
            "--enable-admission-plugins=NodeRestriction",
            "--allow-privileged=true",
            "--service-account-issuer=https://kubernetes.default.svc",
            f"--service-account-signing-key-file={keys.path('accounts.key')}",
            f"--service-account-key-file={keys.path('accounts.key')}",
            "--default-not-ready-toleration-seconds=5",
            "--default-unreachable-toleration-seconds=5",
        ]
        return [*words, "--insecure-port=0"] if self.binaries.version < (1, 24) else words

    def _api_ready(self) -> bool:
        self._processes[-1].alive()
        context = ssl.create_default_context(cafile=self.authority.path("ca.crt"))
        context.load_cert_chain(self.authority.path("admin.crt"), self.authority.path("admin.key"))
        connection = http.client.HTTPSConnection(self.address, API_PORT, context=context, timeout=10)
        with contextlib.closing(connection), contextlib.suppress(OSError, http.client.HTTPException):
            connection.request("GET", "/readyz")
            return connection.getresponse().status == 200
        return False

    def _controllers(self) -> list[str]:
        keys = self.authority
        kubeconfig = keys.kubeconfig("controllers", "/CN=system:kube-controller-manager", self.url)
        words = [
            f"--kubeconfig={kubeconfig}",
            f"--bind-address={self.address}",
            "--leader-elect=false",
            "--use-service-account-credentials=true",
            f"--service-account-private-key-file={keys.path('accounts.key')}",
            f"--root-ca-file={keys.path('ca.crt')}",
            "--node-monitor-period=1s",
            "--node-monitor-grace-period=12s",
            "--node-eviction-rate=1",
            "--concurrent-deployment-syncs=2",
        ]
        return [*words, "--port=0"] if self.binaries.version < (1, 24) else words

    def _scheduler(self) -> list[str]:
        kubeconfig = self.authority.kubeconfig("scheduler", "/CN=system:kube-scheduler", self.url)
        words = [f"--kubeconfig={kubeconfig}", f"--bind-address={self.address}", "--leader-elect=false"]
        return [*words, "--port=0"] if self.binaries.version < (1, 24) else words

    # -- nodes

    def add_node(self, *, insecure: str, static_pods: Path | None = None) -> Node:
        """Make a node and start its hyperd.

        Args:
            insecure: registry that speaks plain HTTP. static_pods: directory of manifests; its kubelet then knows no
            API server.

        """
        name = f"node{len(self.nodes) + 1}"
        space, address = f"{self.bridge}-{os.getpid()}-{name}", f"{self.network}.{10 + len(self.nodes) + 1}"
        directory = self.directory / name
        for part in ("log/pods", "log/containers", "kubelet", "plugins", "cni"):
            (directory / part).mkdir(parents=True)
        link = self._add_network(space, address)
        binds = {directory / "log": Path("/var/log"), directory / "kubelet": Path("/var/lib/kubelet")}
        self._need_directory(Path("/var/lib/kubelet"))
        script = "; ".join(f"mount --bind '{own}' '{place}'" for own, place in binds.items())
        holder = subprocess.Popen(
            [
                "nsenter",
                f"--net=/run/netns/{space}",
                "unshare",
                "-m",
                "sh",
                "-ec",
                f"{script}; echo; exec sleep infinity",
            ],
            stdout=subprocess.PIPE,
        )
        if not next(iter(holder.stdout or ()), b""):
            raise Failed(f"the namespaces of {name} could not be made")
        inside = ["nsenter", f"--net=/run/netns/{space}", f"--mount=/proc/{holder.pid}/ns/mnt", f"--wd={Path.cwd()}"]
        daemon = HyperdLauncher(
            driver="libvirt",
            guest=self._guest,
            pool=1,
            command=[*inside, self._python, "-m", "hyperd.cli"],
            config=f'[registry]\ninsecure = ["{insecure}"]\n[cri]\ncni_conf_dir = "{directory}/cni"\n'
            f'cni_bin_dirs = ["{self.binaries.plugins}"]\n',
        )
        pods = f"10.{217 + len(self.nodes)}.{self.network.rpartition('.')[2]}.0/24"
        (directory / "cni/net.conflist").write_text(json.dumps(_network(pods, directory)))
        node = Node(name, space, address, link, pods, directory, inside, holder, daemon)
        self.nodes.append(node)
        node.start_daemon()
        node.kubelet = self._kubelet(node, static_pods)
        if static_pods is None and self.binaries.proxy is not None:
            node.proxy = self._proxy(node, self.binaries.proxy)
        self._add_routes()
        return node

    def _add_network(self, space: str, address: str) -> str:
        """Make the namespace of a node and its cable; return our end of it. Errors: Failed."""
        link = f"{self.bridge}n{address.rpartition('.')[2]}"
        try:
            run(["ip", "netns", "add", space])
            run(["ip", "link", "add", link, "type", "veth", "peer", "name", "eth0", "netns", space])
            run(["ip", "link", "set", link, "master", self.bridge, "up"])
            for words in (
                ("link", "set", "lo", "up"),
                ("address", "add", f"{address}/24", "dev", "eth0"),
                ("link", "set", "eth0", "up"),
                ("route", "add", "default", "via", self.address),
            ):
                run(["ip", "-n", space, *words])
        except BaseException:
            _remove_network(space, link)
            raise
        return link

    def _add_routes(self) -> None:
        """Lead every node, and us, to the pods of all nodes."""
        for node in self.nodes:
            run(["ip", "route", "replace", node.pods, "via", node.address])
            for other in self.nodes:
                if other is not node:
                    run(["ip", "-n", node.space, "route", "replace", other.pods, "via", other.address])

    def _need_directory(self, path: Path) -> None:
        if not path.exists():
            path.mkdir()
            self._made_directories.append(path)

    def _kubelet(self, node: Node, static_pods: Path | None) -> Process:
        certificate, key = self.authority.issue(f"{node.name}-serving", f"/CN={node.name}", node.address, node.name)
        config: dict[str, Any] = {
            "apiVersion": "kubelet.config.k8s.io/v1beta1",
            "kind": "KubeletConfiguration",
            "address": node.address,
            "authentication": {
                "x509": {"clientCAFile": self.authority.path("ca.crt")},
                "anonymous": {"enabled": False},
                "webhook": {"enabled": False},
            },
            "authorization": {"mode": "AlwaysAllow"},
            "tlsCertFile": certificate,
            "tlsPrivateKeyFile": key,
            # What the host's memory and disk are is not asked: it is shared with everything else on this machine.
            "cgroupsPerQOS": False,
            "enforceNodeAllocatable": [],
            "cgroupDriver": "cgroupfs",
            "failSwapOn": False,
            "evictionHard": {"memory.available": "0%", "nodefs.available": "0%", "imagefs.available": "0%"},
            "imageGCHighThresholdPercent": 100,
            "imageGCLowThresholdPercent": 99,
            "makeIPTablesUtilChains": False,
            "volumePluginDir": str(node.directory / "plugins"),
            "resolvConf": "/etc/resolv.conf",
            "syncFrequency": "5s",
            "nodeStatusUpdateFrequency": "3s",
            "serializeImagePulls": False,
        }
        words = [self.binaries["kubelet"], f"--hostname-override={node.name}", f"--node-ip={node.address}"]
        endpoint = f"unix://{node.socket}"
        if self.binaries.version < (1, 27):
            words += ["--container-runtime=remote", f"--container-runtime-endpoint={endpoint}"]
        else:
            config |= {"containerRuntimeEndpoint": endpoint, "failCgroupV1": False}
        if static_pods is not None:
            config["staticPodPath"] = str(static_pods)
            config["authentication"]["x509"] = {}
            config["authentication"]["anonymous"]["enabled"] = True
        else:
            user = f"/O=system:nodes/CN=system:node:{node.name}"
            words.append(f"--kubeconfig={self.authority.kubeconfig(node.name, user, self.url)}")
        path = node.directory / "kubelet.json"
        path.write_text(json.dumps(config))
        return Process([*words, f"--config={path}", "--v=2"], node.directory / "kubelet.log", inside=node.inside)

    def _proxy(self, node: Node, version: tuple[int, int]) -> Process:
        kubeconfig = self.authority.kubeconfig(f"{node.name}-proxy", "/CN=system:kube-proxy", self.url)
        words = [
            self.binaries[PROXY],
            f"--kubeconfig={kubeconfig}",
            f"--hostname-override={node.name}",
            f"--bind-address={node.address}",
            f"--healthz-bind-address={node.address}:10256",
            "--proxy-mode=iptables",
            "--conntrack-max-per-core=0",  # the host's own numbers stay
            "--conntrack-tcp-timeout-established=0",
            "--conntrack-tcp-timeout-close-wait=0",
        ]
        if version < (1, 22) <= self.binaries.version:
            words.append("--feature-gates=EndpointSliceProxying=false")  # it knows slices of a version that is gone
        return Process(words, node.directory / "kube-proxy.log", inside=node.inside)

    # -- what a person does

    def kubectl_words(self, *words: str) -> list[str]:
        """Return the command."""
        return [
            self.binaries["kubectl"],
            "--kubeconfig",
            self.kubeconfig,
            "--cache-dir",
            f"{self.directory}/cache",
            *words,
        ]

    def kubectl(self, *words: str, data: str = "", check: bool = True, seconds: float = 120) -> str:
        """Run kubectl; return its output (empty when it may fail and does). Errors: Failed."""
        done = subprocess.run(
            self.kubectl_words(*words), input=data, capture_output=True, text=True, check=False, timeout=seconds
        )
        if done.returncode and check:
            raise Failed(f"kubectl {' '.join(words)[:300]}: {done.stderr[:2000]}")
        return "" if done.returncode else done.stdout

    def apply(self, *objects: dict[str, Any]) -> None:
        """Apply objects."""
        self.kubectl("apply", "-f", "-", data=json.dumps({"apiVersion": "v1", "kind": "List", "items": objects}))

    def get(self, kind: str, *words: str) -> Any:
        """Return objects."""
        return json.loads(self.kubectl("get", kind, "-o", "json", *words))
