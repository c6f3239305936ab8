"""A client's WebSocket on a transport of the loop: the handshake, text messages, pongs, and a server that is silent."""

from __future__ import annotations

import asyncio
import base64
import os
import re
import ssl
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final, cast
from urllib.parse import urlsplit

import msgspec

from partyline.client.frames import error_of
from partyline.errors import Disconnected, InvalidValue, PartylineError
from partyline.wire.websocket.codec import Close, Codec, Limits, Ping, Violation
from partyline.wire.websocket.deflate import Deflate
from partyline.wire.websocket.handshake import accept_value, parse_extensions

_MAX_HEAD: Final = 32 * 1024
_MAX_BODY: Final = 64 * 1024
_OFFER: Final = "permessage-deflate; server_no_context_takeover; client_no_context_takeover"
_FAREWELL: Final = 2.0  # seconds for the server to end a connection that we closed
_SCHEMES: Final = {"http": False, "ws": False, "https": True, "wss": True}


@dataclass(frozen=True, slots=True)
class Address:
    """Where a WebSocket is."""

    host: str
    port: int
    secure: bool
    path: str
    authority: str  # what goes into Host

    @classmethod
    def parse(cls, url: str, path: str) -> Address:
        """From a server's URL (http, https, ws or wss); `path` is added to its path unless that ends so.

        Raises InvalidValue.
        """
        try:
            parts = urlsplit(url)
            secure = _SCHEMES[parts.scheme]
            port = parts.port or (443 if secure else 80)
            host = (parts.hostname or "").encode("idna").decode()
        except (ValueError, KeyError):
            hint = "" if "://" in url else f": did you mean http://{url[:200]}?"
            raise InvalidValue(f"url: {url[:200]!r} is not an http(s) or ws(s) address{hint}", field="url") from None
        if not host or parts.username is not None or parts.query or parts.fragment:
            raise InvalidValue(f"url: {url[:200]!r} has to be a scheme, a host, a port and a path", field="url")
        where = parts.path.rstrip("/")
        where = where if where.endswith(path) else where + path
        if not where.isascii() or not where.isprintable() or " " in where:
            raise InvalidValue(f"url: the path of {url[:200]!r} has to be percent-encoded", field="url")
        authority = f"[{host}]" if ":" in host else host
        return cls(host, port, secure, where, authority if parts.port is None else f"{authority}:{port}")


class Socket(asyncio.Protocol):
    """One WebSocket, from the request on. Made by `open`; gone when `lost` has been called."""

    def __init__(
        self,
        address: Address,
        headers: Sequence[tuple[str, str]],
        subprotocol: str | None,
        heard: Callable[[str], None],
        lost: Callable[[int, str], None],
        max_message: int,
        heard_binary: Callable[[bytes], None] | None = None,
    ) -> None:
        self._address = address
        self._headers = headers
        self._subprotocol = subprotocol
        self._on_text = heard
        self._on_binary = heard_binary
        self._on_lost: Callable[[int, str], None] | None = lost
        self._limits = Limits(max_message, max_message)
        self._transport = cast("asyncio.Transport", None)
        self._loop = asyncio.get_running_loop()
        self._key = base64.b64encode(os.urandom(16))
        self._head = b""
        self._wire: Codec | None = None
        self._upgraded: asyncio.Future[None] = self._loop.create_future()
        self._writable = asyncio.Event()
        self._writable.set()
        self._heard = True
        self._patience: asyncio.TimerHandle | None = None
        self._owed: bytes | None = None
        self._end = asyncio.Event()

    @classmethod
    async def open(
        cls,
        address: Address,
        headers: Sequence[tuple[str, str]],
        subprotocol: str | None,
        heard: Callable[[str], None],
        lost: Callable[[int, str], None],
        *,
        tls: ssl.SSLContext | None = None,
        timeout: float = 10.0,  # noqa: ASYNC109 - of the attempt, and the error says so
        max_message: int = 16_000_000,
        heard_binary: Callable[[bytes], None] | None = None,
    ) -> Socket:
        """Connect and upgrade, within `timeout` seconds.

        From then on `heard` gets each text message, `heard_binary` each binary one (which are dropped without it), and
        `lost` the close code and reason once, 1006 if the connection broke. Raises the server's own refusal as a
        PartylineError, Disconnected if there is no server, or none that speaks WebSocket. If cancelled, it leaves
        nothing open.
        """
        loop = asyncio.get_running_loop()
        context = (tls or ssl.create_default_context()) if address.secure else None
        name = address.host if context is not None else None
        socket = cls(address, headers, subprotocol, heard, lost, max_message, heard_binary)
        try:
            async with asyncio.timeout(timeout):
                await loop.create_connection(
                    lambda: socket, address.host, address.port, ssl=context, server_hostname=name
                )
                await socket._upgraded
        except TimeoutError:
            socket.abort()
            raise Disconnected(f"{address.authority} did not answer within {timeout:g} s") from None
        except OSError as error:
            socket.abort()
            raise Disconnected(f"{address.authority} cannot be reached: {error.strerror or error}") from None
        except BaseException:
            socket.abort()
            raise
        return socket

    # asyncio.Protocol

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)
        lines = [
            f"GET {self._address.path} HTTP/1.1",
            f"Host: {self._address.authority}",
            "Upgrade: websocket",
            "Connection: Upgrade",
            f"Sec-WebSocket-Key: {self._key.decode()}",
            "Sec-WebSocket-Version: 13",
            *([] if self._subprotocol is None else [f"Sec-WebSocket-Protocol: {self._subprotocol}"]),
            f"Sec-WebSocket-Extensions: {_OFFER}",
            *(f"{name}: {value}" for name, value in self._headers),
        ]
        self._transport.write(("\r\n".join(lines) + "\r\n\r\n").encode("latin-1"))

    def data_received(self, data: bytes) -> None:
        self._heard = True
        if self._wire is not None:
            self._frames(self._wire, data)
            return
        if self._upgraded.done():
            return
        self._head += data
        try:
            rest = self._answer()
        except PartylineError as error:
            self._upgraded.set_exception(error)
            self.abort()
            return
        if rest is not None:
            self._upgraded.set_result(None)
            if rest:
                # Frames came with the upgrade: they must not overtake it.
                self._loop.call_soon(self.data_received, rest)

    def pause_writing(self) -> None:
        self._writable.clear()

    def resume_writing(self) -> None:
        self._writable.set()
        if self._owed is not None:
            self._pong(self._owed)

    def connection_lost(self, exc: Exception | None) -> None:
        if not self._upgraded.done():
            self._upgraded.set_exception(Disconnected(f"{self._address.authority} closed the connection"))
        self._gone(1006, str(exc) if exc is not None else "the connection broke")
        self._end.set()

    # For the line

    def expect(self, heartbeat: float, patience: float) -> None:
        """Take the server for dead when nothing comes for `heartbeat` + `patience` seconds."""
        self._heard = False
        self._patience = self._loop.call_later(heartbeat + patience, self._look, heartbeat, patience)

    @property
    def blocked(self) -> bool:
        """Whether the transport asks for a pause."""
        return not self._writable.is_set()

    def write(self, text: bytes) -> None:
        """Send a text message. The transport buffers what it cannot send yet: see `writable`."""
        if self._wire is not None and self._on_lost is not None:
            self._transport.write(self._wire.text(text))

    def write_binary(self, data: bytes) -> None:
        """Send a binary message."""
        if self._wire is not None and self._on_lost is not None:
            self._transport.write(self._wire.binary(data))

    async def writable(self) -> None:
        """Return when the transport takes more, or the connection is gone. Cancelling it loses nothing."""
        await self._writable.wait()

    def close(self, code: int = 1000, reason: str = "") -> None:
        """Send a close frame; nothing is heard after this. The server ends the connection, or we do: see `ended`."""
        if self._wire is not None and self._on_lost is not None and not self._transport.is_closing():
            self._transport.write(self._wire.close(code, reason))
        self._gone(code, reason)
        self._patience = self._loop.call_later(_FAREWELL, self.abort)

    async def ended(self) -> None:
        """Return when nothing of the connection is left. Cancelling it loses nothing."""
        await self._end.wait()

    def abort(self) -> None:
        """Drop the connection as it is."""
        if self._transport is not None:
            self._transport.abort()

    # The rest

    def _look(self, heartbeat: float, patience: float) -> None:
        if self._heard:
            self.expect(heartbeat, patience)
        else:
            self._gone(1006, "the server is silent")
            self.abort()

    def _gone(self, code: int, reason: str) -> None:
        lost, self._on_lost = self._on_lost, None
        self._writable.set()
        if self._patience is not None:
            self._patience.cancel()
        if lost is not None and self._wire is not None:
            lost(code, reason)

    def _frames(self, wire: Codec, data: bytes) -> None:
        for event in wire.receive(data):
            match event:
                case Close():
                    self._transport.write(wire.close(event.code))
                    self._gone(event.code, event.reason)
                    self._transport.close()
                case Violation():
                    self._transport.write(wire.close(event.code, event.reason))
                    self._gone(0, f"the server broke the protocol, or max_message of this line: {event.reason}")
                    self._transport.close()
                case str() if self._on_lost is not None:
                    self._on_text(event)
                case bytes() if self._on_lost is not None and self._on_binary is not None:
                    self._on_binary(event)
                case Ping() if self._on_lost is not None:
                    self._pong(event.payload)
                case _:
                    pass  # pongs, binary messages that nobody wants, and anything after our close

    def _pong(self, payload: bytes) -> None:
        # RFC 6455 5.5.3: only the newest ping needs its pong, so a server that does not read costs no memory here.
        self._owed = payload if self.blocked else None
        if self._owed is None and self._wire is not None and self._on_lost is not None:
            self._transport.write(self._wire.pong(payload))

    def _answer(self) -> bytes | None:
        """The bytes after a complete 101; None while it is incomplete. Raises the server's refusal."""
        head, end, rest = self._head.partition(b"\r\n\r\n")
        if not end:
            if len(head) > _MAX_HEAD:
                raise Disconnected(f"{self._address.authority} does not speak HTTP")
            return None
        first, *lines = head.decode("latin-1").split("\r\n")
        version, _, status = first.partition(" ")
        if not version.startswith("HTTP/1.") or not re.match(r"[0-9]{3}(?: |\Z)", status):
            raise Disconnected(f"{self._address.authority} does not speak HTTP")
        headers = {name.strip().lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
        if status[:3] != "101":
            self._refused(int(status[:3]), headers, rest)
            return None
        self._wire = Codec(self._limits, deflate=self._agreed(headers), client=True)
        return rest

    def _agreed(self, headers: dict[str, str]) -> Deflate | None:
        """Check the 101 (RFC 6455 4.1) and its answer about compression."""
        if (
            headers.get("upgrade", "").lower() != "websocket"
            or "upgrade" not in headers.get("connection", "").lower()
            or headers.get("sec-websocket-accept", "").encode("latin-1") != accept_value(self._key)
            or headers.get("sec-websocket-protocol", self._subprotocol) != self._subprotocol
        ):
            raise Disconnected(f"{self._address.authority} answered the upgrade with something else")
        extensions = headers.get("sec-websocket-extensions")
        if extensions is None:
            return None
        try:
            offers = parse_extensions(extensions.encode("latin-1"))
        except PartylineError:
            offers = []
        if [name for name, _ in offers] != ["permessage-deflate"]:
            raise Disconnected(f"{self._address.authority} answered with an extension that nobody offered")
        return Deflate()

    def _refused(self, status: int, headers: dict[str, str], body: bytes) -> None:
        length = headers.get("content-length", "")
        if re.fullmatch("[0-9]{1,9}", length) and len(body) < min(int(length), _MAX_BODY):
            return  # the rest is still to come
        try:
            error = msgspec.json.decode(body, type=dict[str, dict[str, str]])["error"]
            code, message = error["code"], error["message"]
        except (msgspec.MsgspecError, KeyError):
            code, message = "refused", f"{self._address.authority} answered {status}"
        raise error_of(code, message, status=status, retry_after=headers.get("retry-after"))
