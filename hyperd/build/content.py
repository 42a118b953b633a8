"""Large files of the context do not go through the guest: it gets a token in the place of what is in them.

What COPY does with names, owners, modes and links happens in the guest, as for every file. Then the files come back as
the tar of a layer, and on the host each token is exchanged for the file's content. So these bytes are neither sent into
the guest, nor written and read there, nor sent back; the steps that follow see the layer as a disk.
"""

from __future__ import annotations

import secrets
from collections.abc import Iterator

from hyperd.build.context import Context, Node
from hyperd.errors import InvalidInput
from hyperd.image.layer.tarstream import BLOCK, FILE

WORTHWHILE = 4 * 2**20  # bytes of content below which a step is done wholly in the guest
_LEAST, _MOST = 1 << 16, 1 << 33  # bytes of a file that gets a token; more would need another form of header
_SIZE = 64  # of a token


class ContentTokens:
    """The tokens of one step.

    Args:
        context: has the files.

    """

    def __init__(self, context: Context) -> None:
        self._context = context
        self._secret = secrets.token_hex(16).encode()
        self._nodes: list[Node] = []

    def of(self, node: Node) -> bytes:
        """Return what the guest gets for a file, empty when that is the content itself."""
        if node.kind != FILE or not _LEAST <= node.size < _MOST:
            return b""
        self._nodes.append(node)
        return b"%b%032d" % (self._secret, len(self._nodes) - 1)

    def restored(self, chunks: Iterator[bytes]) -> Iterator[bytes]:
        """Yield a layer's tar with the content of files instead of their tokens.

        Args:
            chunks: the tar as the guest packs it.

        Raises:
            InvalidInput: it is no tar.

        """
        source = _Source(chunks)
        while header := source.take(BLOCK):
            size = _size_of(header)
            node = None
            if header[156:157] == FILE and size == _SIZE:
                data = source.take(BLOCK)
                node = self._node(data)
                yield _with_size(header, node.size) if node is not None else header
                if node is None:
                    yield data
                else:
                    yield from self._context.content(node)
                    yield bytes(-node.size % BLOCK)
                continue
            yield header
            yield from source.pass_on(size + -size % BLOCK)

    def _node(self, data: bytes) -> Node | None:
        text = data[len(self._secret) : _SIZE]
        if not data.startswith(self._secret) or not text.isdigit() or int(text) >= len(self._nodes):
            return None
        return self._nodes[int(text)]


class _Source:
    def __init__(self, chunks: Iterator[bytes]) -> None:
        self._chunks = chunks
        self._left = b""

    def take(self, size: int) -> bytes:
        """Return so many bytes, or nothing at the end. Errors: InvalidInput when it ends in between."""
        while len(self._left) < size and (chunk := next(self._chunks, b"")):
            self._left += chunk
        if 0 < len(self._left) < size:
            raise InvalidInput("a layer ends in the middle")
        taken, self._left = self._left[:size], self._left[size:]
        return taken

    def pass_on(self, size: int) -> Iterator[bytes]:
        while size:
            piece = self._left[:size] if self._left else next(self._chunks, b"")[:]
            if not piece:
                raise InvalidInput("a layer ends in the middle")
            if self._left:
                self._left = self._left[len(piece) :]
            elif len(piece) > size:
                piece, self._left = piece[:size], piece[size:]
            size -= len(piece)
            yield piece


def _size_of(header: bytes) -> int:
    field = header[124:136]
    if field[0] & 0x80:  # base-256
        return int.from_bytes(field[1:], "big")
    text = field.strip(b"\0 ")
    if text.strip(b"01234567"):
        raise InvalidInput("bad number in a layer's header", details=repr(field))
    return int(text, 8) if text else 0


def _with_size(header: bytes, size: int) -> bytes:
    plain = b"%b%011o\0%b        %b" % (header[:124], size, header[136:148], header[156:])
    return b"%b%06o\0 %b" % (plain[:148], sum(plain), plain[156:])
