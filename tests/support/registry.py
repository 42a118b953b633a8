"""A real registry for tests: Debian's docker-registry on a free loopback port, and images made for it by hand.

``RegistryServer`` runs the server (plain or TLS with its own authority, open, with basic or with bearer-token
authentication). ``layer_tar``, ``Layer`` and ``RegistryServer.push`` make and push images without any daemon.
"""

from __future__ import annotations

import base64
import gzip
import hashlib
import io
import json
import shutil
import ssl
import subprocess
import tarfile
import tempfile
import threading
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, Self

from backports import zstd

from tests.support.ports import free_port

USER, PASSWORD = "jane", "s3cret:with:colons"
OCI_MANIFEST = "application/vnd.oci.image.manifest.v1+json"
OCI_INDEX = "application/vnd.oci.image.index.v1+json"
DOCKER_MANIFEST = "application/vnd.docker.distribution.manifest.v2+json"
DOCKER_LIST = "application/vnd.docker.distribution.manifest.list.v2+json"
_START_SECONDS = 90


def digest_of(data: bytes) -> str:
    """Return the OCI digest of some bytes."""
    return "sha256:" + hashlib.sha256(data).hexdigest()


def layer_tar(members: Iterable[tuple[tarfile.TarInfo, bytes]]) -> bytes:
    """Make an uncompressed pax archive."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=tarfile.PAX_FORMAT) as archive:
        for info, data in members:
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    return out.getvalue()


def member(name: str, data: bytes = b"", **fields: Any) -> tuple[tarfile.TarInfo, bytes]:
    """Make one member; ``fields`` are attributes of TarInfo."""
    info = tarfile.TarInfo(name)
    info.mode = 0o644
    for key, value in fields.items():
        setattr(info, key, value)
    return info, data


def directory(name: str, **fields: Any) -> tuple[tarfile.TarInfo, bytes]:
    """Make a directory member."""
    return member(name, **{"type": tarfile.DIRTYPE, "mode": 0o755, **fields})


def busybox_tar(*, users: str = "root:x:0:0:root:/root:/bin/sh\n", groups: str = "root:x:0:\n") -> bytes:
    """Make a root file system of Debian's static busybox with its applets as links."""
    binary = Path("/bin/busybox")
    names = subprocess.run([binary, "--list"], capture_output=True, text=True, check=True).stdout.split()
    members = [directory(name) for name in ("bin", "etc", "proc", "sys", "dev", "root", "tmp", "usr", "var")]
    members.append(member("bin/busybox", binary.read_bytes(), mode=0o755))
    members += [member(f"bin/{n}", type=tarfile.SYMTYPE, linkname="busybox") for n in names if n != "busybox"]
    members.append(member("etc/passwd", users.encode()))
    members.append(member("etc/group", groups.encode()))
    return layer_tar(members)


@dataclass(frozen=True)
class Layer:
    """A layer: the tar and how it is packed (``gzip``, ``zstd`` or empty)."""

    tar: bytes
    compression: str = "gzip"
    blob: bytes = field(default=b"", repr=False)

    @property
    def packed(self) -> bytes:
        """The bytes that are pushed."""
        if self.blob:
            return self.blob
        if self.compression == "gzip":
            return gzip.compress(self.tar, mtime=0)
        return zstd.compress(self.tar) if self.compression == "zstd" else self.tar

    def media_type(self, *, oci: bool) -> str:
        """The descriptor's media type."""
        if oci:
            return "application/vnd.oci.image.layer.v1.tar" + (f"+{self.compression}" if self.compression else "")
        suffix = f".{self.compression}" if self.compression else ""
        return f"application/vnd.docker.image.rootfs.diff.tar{suffix}"


@dataclass(frozen=True)
class Pushed:
    """What a push made."""

    digest: str
    image_id: str
    layers: tuple[str, ...]
    size: int
    media_type: str


def run_openssl(*arguments: str, data: bytes = b"") -> bytes:
    """Run openssl; give its output."""
    return subprocess.run(["openssl", *arguments], input=data, capture_output=True, check=True).stdout


def make_certificates(directory_path: Path) -> tuple[Path, Path, Path]:
    """Make an authority and a certificate for localhost and 127.0.0.1: (authority, certificate, key)."""
    ca, ca_key = directory_path / "ca.pem", directory_path / "ca.key"
    key, request, certificate = (directory_path / name for name in ("tls.key", "tls.csr", "tls.pem"))
    new = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes")
    extensions = directory_path / "ext"
    extensions.write_text("subjectAltName=DNS:localhost,DNS:registry.test,IP:127.0.0.1\n")
    run_openssl("req", "-x509", *new, "-keyout", str(ca_key), "-out", str(ca), "-days", "2", "-subj", "/CN=test CA")
    run_openssl("req", *new, "-keyout", str(key), "-out", str(request), "-subj", "/CN=localhost")
    signing = ("-CA", str(ca), "-CAkey", str(ca_key), "-CAcreateserial", "-days", "2", "-extfile", str(extensions))
    run_openssl("x509", "-req", "-in", str(request), "-out", str(certificate), *signing)
    return ca, certificate, key


class TokenServer:
    """Issues bearer tokens for docker-registry (distribution's token specification), signed by its own key."""

    def __init__(self, directory_path: Path, *, lifetime: int = 300) -> None:
        self.certificate, self._key = directory_path / "token.pem", directory_path / "token.key"
        new = ("-newkey", "rsa:2048", "-nodes", "-keyout", str(self._key), "-out", str(self.certificate))
        run_openssl("req", "-x509", *new, "-days", "2", "-subj", "/CN=tokens")
        self._der = base64.b64encode(run_openssl("x509", "-in", str(self.certificate), "-outform", "DER")).decode()
        self.lifetime = lifetime
        self.anonymous = False  # whether tokens without credentials may pull
        self.requests: list[str] = []
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), self._handler())
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.05})
        self._thread.start()

    @property
    def realm(self) -> str:
        """The URL that challenges name."""
        return f"http://127.0.0.1:{self._server.server_address[1]}/token"

    def close(self) -> None:
        """Stop."""
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()

    def _token(self, scopes: list[str], user: str) -> str:
        access = []
        for scope in scopes:
            kind, name, actions = scope.rsplit(":", 1)[0].partition(":")[0], scope.split(":", 1)[1], scope
            name, _, actions = name.rpartition(":")
            allowed = actions.split(",") if user else ["pull"] * self.anonymous
            access.append({"type": kind, "name": name, "actions": allowed})
        now = int(time.time())
        claims = {
            "iss": "tests", "sub": user, "aud": "registry", "jti": str(now), "access": access,
            "exp": now + self.lifetime, "nbf": now - 10, "iat": now,
        }  # fmt: skip
        header = {"typ": "JWT", "alg": "RS256", "x5c": [self._der]}
        text = ".".join(_b64(json.dumps(part).encode()) for part in (header, claims))
        return f"{text}.{_b64(run_openssl('dgst', '-sha256', '-sign', str(self._key), data=text.encode()))}"

    def _handler(self) -> type[BaseHTTPRequestHandler]:
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                outer.requests.append(self.path)
                query = urllib.parse.parse_qs(urllib.parse.urlsplit(self.path).query)
                user, sent = "", self.headers.get("Authorization", "")
                if sent:
                    user, _, password = base64.b64decode(sent.removeprefix("Basic ")).decode().partition(":")
                    if (user, password) != (USER, PASSWORD):
                        self.send_error(401)
                        return
                scopes = [scope for scope in query.get("scope", []) if scope.count(":") > 1]
                body = json.dumps({"token": outer._token(scopes, user), "expires_in": outer.lifetime}).encode()
                self.send_response(200)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_: object) -> None:
                pass

        return Handler


def _b64(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


class RegistryServer:
    """One docker-registry.

    Args:
        tls: serve TLS; the authority is ``ca_file``.
        auth: empty, ``basic`` or ``token`` (``USER`` and ``PASSWORD``).
        token_lifetime: seconds.
        address: where it listens. program: docker-registry.

    """

    def __init__(
        self,
        *,
        tls: bool = False,
        auth: str = "",
        token_lifetime: int = 300,
        address: str = "127.0.0.1",
        program: str = "docker-registry",
    ) -> None:
        self.root = Path(tempfile.mkdtemp(prefix="hyreg", dir="/tmp"))
        self.tls = tls
        self.auth = auth
        self.ca_file: Path | None = None
        self.tokens: TokenServer | None = None
        self.port = free_port()  # the same again after a stop
        self._lifetime = token_lifetime
        self._address, self._program = address, program
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def host(self) -> str:
        """``address:port``."""
        return f"{self._address}:{self.port}"

    @property
    def url(self) -> str:
        """The base URL."""
        return f"{'https' if self.tls else 'http'}://{self.host}"

    def start(self) -> None:
        """Start (again) on the same data and wait until it answers."""
        (self.root / "config.json").write_text(json.dumps(self._config()))
        log = (self.root / "log").open("wb")
        with log:
            self._process = subprocess.Popen(
                [self._program, "serve", str(self.root / "config.json")], stdout=log, stderr=log
            )
        until = time.monotonic() + _START_SECONDS
        while time.monotonic() < until:
            text = (self.root / "log").read_text(errors="replace")
            if f"listening on {self.host}" in text:
                return
            if self._process.poll() is not None:
                break
            time.sleep(0.02)
        raise RuntimeError(f"docker-registry did not start: {text[-2000:]}")

    def stop(self) -> None:
        """Stop the server; the data stays."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None

    def close(self) -> None:
        """Stop everything and remove the data."""
        self.stop()
        if self.tokens is not None:
            self.tokens.close()
            self.tokens = None
        shutil.rmtree(self.root, ignore_errors=True)

    def blob_file(self, digest: str) -> Path:
        """Return the file in which the registry keeps a blob."""
        hexadecimal = digest.removeprefix("sha256:")
        base = self.root / "data/docker/registry/v2/blobs/sha256"
        return base / hexadecimal[:2] / hexadecimal / "data"

    def push(
        self,
        repository: str,
        tag: str,
        layers: Iterable[Layer],
        *,
        oci: bool = False,
        config: Mapping[str, Any] | None = None,
        manifest: Mapping[str, Any] | None = None,
    ) -> Pushed:
        """Push an image.

        Args:
            repository: path without host.
            tag: a tag, or empty to push by digest only.
            layers: bottom first.
            oci: OCI media types instead of Docker's.
            config: overrides of the image's configuration (whole top-level keys).
            manifest: overrides of the manifest.

        """
        layers = list(layers)
        packed = [layer.packed for layer in layers]
        body = {
            "architecture": "amd64",
            "os": "linux",
            "created": "2024-05-06T07:08:09.123456789Z",
            "config": {"Cmd": ["/bin/sh"], "Env": ["PATH=/bin"]},
            "rootfs": {"type": "layers", "diff_ids": [digest_of(layer.tar) for layer in layers]},
            **(config or {}),
        }
        blob = json.dumps(body).encode()
        for data in [*packed, blob]:
            self._push_blob(repository, data)
        family = "oci.image" if oci else "docker.container.image"
        document = {
            "schemaVersion": 2,
            "mediaType": OCI_MANIFEST if oci else DOCKER_MANIFEST,
            "config": {
                "mediaType": f"application/vnd.{family}{'.config' if oci else ''}.v1+json",
                "digest": digest_of(blob),
                "size": len(blob),
            },
            "layers": [
                {"mediaType": layer.media_type(oci=oci), "digest": digest_of(data), "size": len(data)}
                for layer, data in zip(layers, packed, strict=True)
            ],
            **(manifest or {}),
        }
        raw = json.dumps(document).encode()
        self.push_manifest(repository, tag or digest_of(raw), raw, str(document["mediaType"]))
        return Pushed(
            digest_of(raw), digest_of(blob), tuple(map(digest_of, packed)), len(raw), str(document["mediaType"])
        )

    def push_index(
        self, repository: str, tag: str, images: Iterable[tuple[Pushed, Mapping[str, str]]], *, oci: bool = True
    ) -> str:
        """Push an index of images with their platforms; give its digest."""
        entries = [
            {"mediaType": image.media_type, "digest": image.digest, "size": image.size, "platform": dict(platform)}
            for image, platform in images
        ]
        media_type = OCI_INDEX if oci else DOCKER_LIST
        raw = json.dumps({"schemaVersion": 2, "mediaType": media_type, "manifests": entries}).encode()
        self.push_manifest(repository, tag, raw, media_type)
        return digest_of(raw)

    def push_manifest(self, repository: str, target: str, raw: bytes, media_type: str) -> None:
        """Push raw manifest bytes."""
        self._send("PUT", f"/v2/{repository}/manifests/{target}", raw, {"Content-Type": media_type}, repository)

    def _push_blob(self, repository: str, data: bytes) -> None:
        location = self._send("POST", f"/v2/{repository}/blobs/uploads/", b"", {}, repository)
        joiner = "&" if "?" in location else "?"
        url = f"{location}{joiner}digest={urllib.parse.quote(digest_of(data))}"
        self._send("PUT", url, data, {"Content-Type": "application/octet-stream"}, repository)

    def _send(self, method: str, url: str, data: bytes, headers: Mapping[str, str], repository: str) -> str:
        target = url if "://" in url else self.url + url
        request = urllib.request.Request(target, data=data, method=method, headers=dict(headers))
        if self.auth == "basic":
            request.add_header("Authorization", "Basic " + base64.b64encode(f"{USER}:{PASSWORD}".encode()).decode())
        elif self.tokens is not None:
            token = self.tokens._token([f"repository:{repository}:pull,push"], USER)
            request.add_header("Authorization", f"Bearer {token}")
        context = ssl.create_default_context(cafile=str(self.ca_file)) if self.tls else None
        opener = urllib.request.build_opener(
            urllib.request.ProxyHandler({}), *([urllib.request.HTTPSHandler(context=context)] if context else [])
        )
        with opener.open(request, timeout=90) as response:
            return response.headers.get("Location", "")

    def _config(self) -> dict[str, Any]:
        http: dict[str, Any] = {"addr": self.host, "secret": "tests"}
        if self.tls:
            self.ca_file, certificate, key = make_certificates(self.root)
            http["tls"] = {"certificate": str(certificate), "key": str(key)}
        config: dict[str, Any] = {
            "version": 0.1,
            "log": {"level": "info", "accesslog": {"disabled": True}},
            "storage": {"filesystem": {"rootdirectory": str(self.root / "data")}, "delete": {"enabled": True}},
            "http": http,
        }
        if self.auth == "basic":
            line = subprocess.run(["htpasswd", "-Bbn", "-C", "4", USER, PASSWORD], capture_output=True, check=True)
            (self.root / "htpasswd").write_bytes(line.stdout)
            config["auth"] = {"htpasswd": {"realm": "tests", "path": str(self.root / "htpasswd")}}
        elif self.auth == "token":
            self.tokens = self.tokens or TokenServer(self.root, lifetime=self._lifetime)
            bundle = {"service": "registry", "issuer": "tests", "rootcertbundle": str(self.tokens.certificate)}
            config["auth"] = {"token": {"realm": self.tokens.realm, **bundle}}
        return config
