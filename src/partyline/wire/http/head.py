"""A request's head: bytes to values (RFC 9112 2 to 6)."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Final
from urllib.parse import unquote_to_bytes

import httptools
from msgspec import Struct

from partyline.errors import HeadTooLarge, MalformedRequest, PartylineError

Headers = list[tuple[bytes, bytes]]

CHUNKED: Final = -1

_END: Final = b"\r\n\r\n"
_ABSOLUTE: Final = re.compile(rb"(?i)https?://([^/?#@]+)(/[^?#]*)?(?:\?([^#]*))?(?:#.*)?\Z")  # RFC 9112 3.2.2
_PORT: Final = re.compile(rb":([0-9]*)\Z")
_DIGITS: Final = 18  # of a length: Python refuses to read thousands of digits, even zeros


class Head(Struct, frozen=True):
    """A head without contradictions. Header names are in lower case.

    `path` is raw; `*` means the server as a whole. `length` is the body's in bytes, or CHUNKED. `websocket` says that
    the client asks for a WebSocket; other upgrades are ignored (RFC 9110 7.8). `hostless` marks a request of HTTP/1.0
    without Host.
    """

    method: str
    path: bytes
    query: bytes
    version: str
    headers: Headers
    length: int
    keep_alive: bool
    websocket: bool
    expects: bool  # the client waits for 100 Continue before it sends the body
    hostless: bool


def request_head(head: Head) -> bytes:
    """The bytes of a head again, for whoever is to read it anew."""
    query = b"?" + head.query if head.query else b""
    lines = [b"%s %s%s HTTP/%s" % (head.method.encode(), head.path, query, head.version.encode())]
    lines += [b"%s: %s" % pair for pair in head.headers]
    return b"\r\n".join([*lines, b"", b""])


class _Gathered:
    """Gathers what the parser reports."""

    __slots__ = ("complete", "headers", "most", "target")

    def __init__(self, most: int) -> None:
        self.most = most
        self.target: list[bytes] = []
        self.headers: Headers = []
        self.complete = False

    def on_url(self, piece: bytes) -> None:
        self.target.append(piece)

    def on_header(self, name: bytes, value: bytes) -> None:
        self.headers.append((name.lower(), value))
        if len(self.headers) > self.most:
            raise HeadTooLarge(f"more than {self.most} headers", limit="max_headers")

    def on_headers_complete(self) -> None:
        self.complete = True


class HeadReader:
    """Reads one head, as it arrives."""

    __slots__ = ("_fed", "_gathered", "_max_bytes", "_parser")

    def __init__(self, max_bytes: int, max_headers: int) -> None:
        self._max_bytes = max_bytes
        self._gathered = _Gathered(max_headers)
        self._parser = httptools.HttpRequestParser(self._gathered)
        self._fed = 0

    def feed(self, data: bytearray) -> int:
        """The size of the head once it is complete; 0 until then. `data` is everything since its first byte.

        Each byte is looked at once. Raises HeadTooLarge (431) or MalformedRequest (400), as soon as that can be known.
        """
        end = data.find(_END, max(0, self._fed - 3))
        size = len(data) if end < 0 else end + 4
        if size > self._max_bytes:
            raise HeadTooLarge(f"the request's head is larger than {self._max_bytes} bytes", limit="max_head_bytes")
        piece, self._fed = bytes(data[self._fed : size]), size
        try:
            self._parser.feed_data(piece)
        except httptools.HttpParserUpgrade:
            pass
        except httptools.HttpParserCallbackError as error:
            if isinstance(error.__context__, PartylineError):
                raise error.__context__ from None
            raise
        except httptools.HttpParserError as error:
            raise MalformedRequest(f"this is not an HTTP/1.1 request: {error}") from None
        if self._gathered.complete != (end >= 0):
            raise MalformedRequest("this is not an HTTP/1.1 request: its head has no clear end")
        return size if end >= 0 else 0

    def head(self, host: Callable[[], bytes]) -> Head:
        """The head that was read; `host` returns the value for a Host header that HTTP/1.0 may leave out.

        Raises MalformedRequest if it contradicts itself or is not a request of HTTP/1.0 or 1.1.
        """
        parser, headers = self._parser, self._gathered.headers
        version, method = parser.get_http_version(), parser.get_method().decode("ascii")
        if version not in ("1.1", "1.0"):
            raise MalformedRequest("this server speaks HTTP/1.1")
        if method == "CONNECT":
            raise MalformedRequest("CONNECT is for proxies, and this is not one")
        length, hosts, expects = 0, 0, False
        connection: list[bytes] = []
        upgrade: list[bytes] = []
        for name, value in headers:
            if name == b"host":
                hosts += 1
            elif name == b"content-length":
                length = content_length(value)
            elif name == b"transfer-encoding":
                if value.strip().lower() != b"chunked" or length == CHUNKED or version == "1.0":
                    raise MalformedRequest("Transfer-Encoding can be chunked only, once, and in HTTP/1.1")
                length = CHUNKED
            elif name == b"expect":
                expects = value.lower() == b"100-continue"
            elif name == b"connection":
                connection += _tokens(value)
            elif name == b"upgrade":
                upgrade += _tokens(value)
        path, query, authority = _target(b"".join(self._gathered.target))
        if authority is not None and hosts == 1:  # RFC 9112 3.2.2: it overrides Host
            headers = [pair for pair in headers if pair[0] != b"host"]
            headers.append((b"host", authority))
        hostless = version == "1.0" and not hosts
        if hostless:
            headers.append((b"host", authority or host()))
        websocket = b"websocket" in upgrade and b"upgrade" in connection
        if websocket and length:
            raise MalformedRequest("a WebSocket handshake has no body")
        keep_alive = version == "1.1" and b"close" not in connection
        return Head(
            method, path, query, version, headers, length, keep_alive, websocket, expects and bool(length), hostless
        )


def _target(target: bytes) -> tuple[bytes, bytes, bytes | None]:
    """Path, query, and the authority of an absolute target (RFC 9112 3.2). Raises MalformedRequest."""
    if not target.isascii():
        raise MalformedRequest("the request's target is not a URL in ASCII")
    if target[:1] == b"/":
        path, _, query = target.partition(b"#")[0].partition(b"?")
        return path, query, None
    if target == b"*":
        return target, b"", None
    match = _ABSOLUTE.match(target)
    port = None if match is None else _PORT.search(match[1])
    if match is None or (port is not None and (len(port[1]) > 5 or int(port[1] or 0) > 0xFFFF)):
        raise MalformedRequest("the request's target is not a URL of this server")
    return match[2] or b"/", match[3] or b"", match[1]


def content_length(value: bytes) -> int:
    """A Content-Length as a number. Raises MalformedRequest."""
    digits = value.strip(b" \t")
    if not digits.isdigit() or len(digits) > _DIGITS:
        raise MalformedRequest(f"Content-Length is not a number of at most {_DIGITS} digits")
    return int(digits)


def _tokens(value: bytes) -> list[bytes]:
    """The parts of a list header, in lower case."""
    value = value.lower()
    return [token.strip() for token in value.split(b",")] if b"," in value else [value.strip()]


def path_text(raw: bytes) -> str:
    """A path as text. Raises MalformedRequest if it is not UTF-8: many paths would become the same text."""
    try:
        return (unquote_to_bytes(raw) if b"%" in raw else raw).decode()
    except UnicodeDecodeError:
        raise MalformedRequest("the path is not UTF-8, percent-encoded (RFC 3986 2.5)") from None


def complete_lines(data: bytes) -> Headers:
    """The headers in a piece of a head, even a malformed one, for the answer that refuses it."""
    pairs = (line.partition(b":") for line in data.split(b"\r\n")[1:-1])
    return [(name.lower(), value.strip()) for name, colon, value in pairs if colon]
