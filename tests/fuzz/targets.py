"""One function for each parser of what strangers send: it takes any bytes, and raises only when the parser is wrong.

A parser may refuse (``InvalidInput`` and its like); any other exception is a fault, and so is a result that does not
hold what the parser promises: what is written again reads the same, pieces make no difference, bounds are kept.
"""

from __future__ import annotations

import contextlib
import io
import json
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from hyperd.agent.frames import Decoder, Frame, FrameType, ProtocolError, Welcome, age_of, decode_records, split_offset
from hyperd.api.docker import schema
from hyperd.api.docker.create import read_order
from hyperd.api.docker.mounts import Mounts
from hyperd.api.hyper.pod_spec import (
    dump_pod,
    parse_container,
    parse_pod,
    parse_portmappings,
    parse_services,
    parse_update,
)
from hyperd.api.psformat import columns
from hyperd.build import dockerfile, grammar
from hyperd.build.context import Context
from hyperd.build.expand import expand, expand_text
from hyperd.build.ignore import Ignore
from hyperd.db import spec_codec
from hyperd.errors import HyperError, InvalidInput, TooLarge
from hyperd.image import manifest as manifests
from hyperd.image.layer import whiteout
from hyperd.image.layer.compression import decompressed
from hyperd.image.layer.members import Limits, normalise
from hyperd.image.layer.tarstream import TarReader
from hyperd.image.transfer.archive import read_archive
from hyperd.image.transfer.ingest import AddedLayer
from hyperd.registry.reference import Reference
from hyperd.spec.model import PodSpec
from hyperd.stream import jsonlines, linelog, logread
from hyperd.stream.jsonblocks import decode_block, encode_block, escape, unescape
from hyperd.stream.spdy import Opened, SpdyError, SpdyServer
from hyperd.stream.wsframes import WebSocketFrames

MAX_BYTES = 1 << 20
IDENT = "ab" * 32


def layer(data: bytes) -> None:
    """A layer becomes a tar that is safe to unpack: once more through the same checks it is taken."""
    out = io.BytesIO()
    with contextlib.suppress(InvalidInput, TooLarge):
        try:
            whiteout.filter_layer(_tar(data), out.write, Limits(MAX_BYTES))
        except whiteout.Untidy:
            out = io.BytesIO()
            plan = whiteout.plan_layer(_tar(data), Limits(MAX_BYTES))
            whiteout.filter_planned(_tar(data), plan, out.write, Limits(MAX_BYTES))
        _check_tar(out.getvalue())


def _check_tar(data: bytes) -> None:
    for entry in TarReader(_source(data + bytes(1024)), max_entries=10_000):
        name = normalise(entry.name)
        assert not name.startswith(b"/"), name
        assert b".." not in name.split(b"/"), name


def archive(data: bytes) -> None:
    """An archive of images is read or refused; what is kept of it is bounded."""
    with contextlib.suppress(InvalidInput, TooLarge):
        contents = read_archive(iter([data]), _Intake(), known=lambda *_: False, max_layer=MAX_BYTES)  # type: ignore[arg-type]  # a stand-in
        assert not any(name.startswith("/") or ".." in name.split("/") for name in contents.small)
        for name in [*contents.small, *contents.layers, *contents._links, *contents.refused][:20]:
            for look in (contents.find, contents.layer, lambda one: contents.document(one, "a file")):
                with contextlib.suppress(InvalidInput, TooLarge):
                    look(name)


class _Intake:
    """Reads layers and keeps none."""

    def add_layer(self, open_chunks: Callable[[], Iterator[bytes]], *, digest: str = "") -> AddedLayer:
        size = sum(map(len, open_chunks()))
        return AddedLayer(diff_id=digest, size=size, image_size=0, blob="", blob_size=size, kept=False)


def compression(data: bytes) -> None:
    """Whatever is compressed gives at most so many bytes, in pieces or whole the same where both are taken.

    libzstd compares the size that a frame declares only where it gets the whole frame at once.
    """
    results = []
    for size in (7, len(data) or 1):
        with contextlib.suppress(InvalidInput, TooLarge):
            pieces = (data[at : at + size] for at in range(0, len(data), size))
            results.append(b"".join(decompressed(pieces, max_bytes=MAX_BYTES)))
    assert all(len(one) <= MAX_BYTES for one in results)
    assert len(set(results)) <= 1


def manifest(data: bytes) -> None:
    """Manifests, indexes and configurations of registries."""
    with contextlib.suppress(HyperError):
        found = manifests.load(data)
        for read in (
            manifests.parse_manifest,
            manifests.choose_platform,
            manifests.platforms,
            lambda value: manifests.kind_of(value, ""),
            lambda value: manifests.diff_ids(value, 2),
        ):
            with contextlib.suppress(HyperError):
                read(found)


def reference(data: bytes) -> None:
    """A reference that is taken means the same when it is written in any of its forms."""
    with contextlib.suppress(InvalidInput):
        found = Reference.parse(data.decode("utf-8", "surrogateescape"))
        for text in (found.canonical, found.familiar):
            assert Reference.parse(text) == found, text
        assert found.with_default_tag().target == found.target
        for other in (found.tag, found.digest, "other", "no tag"):
            assert found.with_tag(other).target in (other, "latest")


def build_file(data: bytes) -> None:
    """Dockerfiles; their grammar is BuildKit's, in this process here."""
    with contextlib.suppress(HyperError):
        found = dockerfile.parse_dockerfile(data)
        for at, stage in enumerate(found.stages):
            assert found.stage_index(stage.name or str(at), before=at + 1) <= at
            assert found.stage_index(stage.base, before=at) < at
            for step in stage.steps:
                assert step.verb.isupper()
                assert isinstance(step.shown, str)


def words(data: bytes) -> None:
    """Variables in words and here-documents, patterns of ignore files, arguments of ps."""
    text = data.decode("utf-8", "replace")
    for read in (expand, expand_text):
        with contextlib.suppress(InvalidInput, TooLarge):
            read(text, {"A": "a", "B": "", "PATH": "/bin:/usr/bin"})
    with contextlib.suppress(InvalidInput, TooLarge):
        rules = Ignore(text)
        for path in ("a", "a/b", ".x/y.z", "Dockerfile"):
            rules.hides(path)
    with contextlib.suppress(HyperError):
        columns(text)


def context(data: bytes) -> None:
    """A build's context: names stay in it, links lead nowhere else."""
    with tempfile.TemporaryDirectory() as directory:
        found = Context(Path(directory) / "context", max_bytes=MAX_BYTES)
        with contextlib.closing(found), contextlib.suppress(InvalidInput, TooLarge):
            found.load(iter([data]))
            for name in [*found.nodes][:20]:
                assert not name.startswith("/")
                with contextlib.suppress(InvalidInput, TooLarge):
                    target = found.resolve(name)
                    assert target is None or target in found.nodes or not target, (name, target)


def pod(data: bytes) -> None:
    """A pod of hyperd's own API, and parts of it: what is taken is told the same again, and rows keep it."""
    found = _json(data)
    for read in (parse_container, parse_update, parse_portmappings, parse_services):
        with contextlib.suppress(HyperError):
            read(found)
    with contextlib.suppress(HyperError):
        spec = parse_pod(found)
        assert spec_codec.load(PodSpec, json.loads(json.dumps(spec_codec.dump(spec)))) == spec
        json.dumps(dump_pod(spec))


def docker_create(data: bytes) -> None:
    """The body of Docker's ``/containers/create``."""
    found = _json(data)
    if not isinstance(found, dict):
        return
    create = schema.Create()
    with contextlib.suppress(HyperError):
        given = schema.load(create, schema.spelled(create, found))
        order = read_order(
            given, ident=IDENT, name="n", exposed=("80/tcp",), default_memory=128, volumes_of=lambda _: Mounts()
        )
        assert spec_codec.load(PodSpec, json.loads(json.dumps(spec_codec.dump(order.pod)))) == order.pod


def json_log(data: bytes) -> None:
    """Log files with lines of JSON: blocks say what their lines say, and what is written reads the same."""
    block = data[: data.rfind(b"\n") + 1]
    entries = [one for line in block.splitlines(keepends=True) if (one := jsonlines.parse(line))]
    lines = b"".join(entry.text for entry in entries)
    for entry in entries:
        assert entry.stream in logread.NUMBERS
        logread._seconds(entry.time)
        entry.time.encode()
    if block.count(b"\n") == len(block.splitlines()) == len(entries):  # no other kind of line end in it
        assert b"".join(text for _, text in jsonlines.outputs(block)) == lines
    list(jsonlines.whole_blocks(io.BytesIO(data)))
    jsonlines.last_lines(io.BytesIO(data), 3, lambda line: jsonlines.parse(line) is not None)
    decode_block(block)
    with contextlib.suppress(ValueError):
        unescape(data)
    text = data + b"\n"
    assert unescape(escape(text.replace(b"\n", b" "))) == text.replace(b"\n", b" ")
    written = b"".join(encode_block(text, stream="stdout", time="2026-01-02T03:04:05.000000006Z", run=1, end=0))
    assert b"".join(piece for _, piece in jsonlines.outputs(written)) == text


def cri_log(data: bytes) -> None:
    """Log files as kubelet reads them."""
    block = data[: data.rfind(b"\n") + 1]
    pieces = block.split(b"\n")[:-1]
    entries = [one for line in pieces if (one := linelog.parse(line + b"\n"))]
    for entry in entries:
        logread._seconds(entry.time)
        entry.time.encode()
    assert b"".join(text for _, text in linelog.outputs(block)) == b"".join(entry.text for entry in entries)


def agent(data: bytes) -> None:
    """What a guest sends: frames and records, whole or byte by byte the same."""
    whole, pieces = Decoder(), Decoder()
    frames = list(whole.feed(data))
    split = [frame for at in range(0, len(data), 5) for frame in pieces.feed(data[at : at + 5])]
    assert frames == split
    for frame in frames:
        assert list(Decoder().feed(frame.encode())) == [frame]
        _read_frame(frame)
    for read in (decode_records, Welcome(b"n" * 16).feed):
        with contextlib.suppress(ProtocolError):
            read(data)


def _read_frame(frame: Frame) -> None:
    with contextlib.suppress(ProtocolError):
        decode_records(frame.payload)
    if frame.type in (FrameType.DATA, FrameType.EOF):
        with contextlib.suppress(ProtocolError):
            _, frame = age_of(frame)
            split_offset(frame)


def spdy(data: bytes) -> None:
    """Streams of Kubernetes' clients: any pieces give the same, and nothing is kept beyond a frame."""
    for size in (len(data) or 1, 3):
        server = SpdyServer()
        with contextlib.suppress(SpdyError):
            for at in range(0, len(data), size):
                for event in server.receive(data[at : at + size]):
                    assert event is not None
                    if isinstance(event, Opened):
                        server.send(event.stream, b"x" * 70_000, end=event.ended)
        server.go_away()
        assert server.to_send()
        assert not server.to_send()


def websocket(data: bytes) -> None:
    """Frames of WebSockets."""
    ended: list[bool] = []
    frames = WebSocketFrames(
        write=lambda _data: None, piece=lambda piece, _last: len(piece), ended=lambda: ended.append(True)
    )
    for at in range(0, len(data), 5):
        frames.receive(data[at : at + 5])
    frames.close()
    assert len(ended) <= 1


def _json(data: bytes) -> Any:
    try:
        return json.loads(data)
    except (ValueError, RecursionError):
        return None


def _source(data: bytes) -> Callable[[], bytes]:
    pieces = iter([data])
    return lambda: next(pieces, b"")


def _tar(data: bytes) -> TarReader:
    return TarReader(_source(data), max_entries=10_000)


def _grammar(text: str) -> str:
    """Do in this process what the parser's own process does: a process for each input is too slow."""
    import dockerfile as parser

    try:
        found = [grammar._described(one, parser.parse_string, text.split("\n")) for one in parser.parse_string(text)]
    except (parser.GoParseError, ValueError) as error:
        raise InvalidInput("Dockerfile parse error", details=str(error)) from error
    return json.dumps(found)


dockerfile._parse = _grammar  # type: ignore[assignment]  # another function in its place

TARGETS: dict[str, Callable[[bytes], None]] = {
    "layer": layer,
    "archive": archive,
    "compression": compression,
    "manifest": manifest,
    "reference": reference,
    "dockerfile": build_file,
    "words": words,
    "context": context,
    "pod": pod,
    "docker_create": docker_create,
    "json_log": json_log,
    "cri_log": cri_log,
    "agent": agent,
    "spdy": spdy,
    "websocket": websocket,
}
# The modules whose branches each target shall reach. Behind a colon stand the functions that count alone: what else the
# module has writes, or reads nothing of strangers.
MODULES: dict[str, tuple[str, ...]] = {
    "layer": ("hyperd/image/layer/tarstream", "hyperd/image/layer/members", "hyperd/image/layer/whiteout"),
    "archive": ("hyperd/image/transfer/archive",),
    "compression": ("hyperd/image/layer/compression",),
    "manifest": (
        "hyperd/image/manifest:load,kind_of,choose_platform,platforms,_variant_rank",
        "hyperd/image/manifest:parse_manifest,diff_ids,_list,descriptor,_is_sha256",
    ),
    "reference": ("hyperd/registry/reference",),
    "dockerfile": (
        "hyperd/build/dockerfile:parse_dockerfile,parse_instructions,_grammar,_checked,_flags,_heredocs,_close,_escape",
        "hyperd/build/dockerfile:_check_words_apart,_after_flags,_trigger,_check,_check_trigger,Dockerfile.stage_index",
        "hyperd/build/grammar:_described,_directives",
        "hyperd/build/heredocs",
    ),
    "words": ("hyperd/build/expand", "hyperd/build/ignore", "hyperd/build/glob"),
    "context": ("hyperd/build/context:Context.load,Context._parents,Context._put,Context._node,Context.resolve",),
    "pod": ("hyperd/api/hyper/pod_spec",),
    "docker_create": ("hyperd/api/docker/create", "hyperd/api/docker/mounts"),
    "json_log": ("hyperd/stream/jsonlines", "hyperd/stream/jsonblocks"),
    "cri_log": ("hyperd/stream/linelog:parse,outputs",),
    "agent": (
        "hyperd/agent/frames:decode_records,split_offset,age_of,Decoder.feed,Decoder._frames,Decoder._skip_to_magic",
        "hyperd/agent/frames:Welcome.feed",
    ),
    "spdy": ("hyperd/stream/spdy",),
    "websocket": ("hyperd/stream/wsframes",),
}
