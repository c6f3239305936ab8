"""One connection to a NATS server. It does not come back: its owner makes the next one.

Everything said in one turn of the loop leaves in one write. A message costs a quarter of what it costs with nats-py,
and nothing here waits in a queue between the socket and the listener.
"""

from __future__ import annotations

import asyncio
import secrets
from collections import deque
from collections.abc import Callable
from time import monotonic
from typing import Any, Final, NamedTuple, cast

import msgspec

from partyline import log
from partyline.adapters.nats.address import Address
from partyline.errors import StoreUnavailable

_log = log.get("cluster")

MOST: Final = 8 * 1024 * 1024  # bytes that may wait for a server
_LINE: Final = 64 * 1024  # bytes without an end of line that are not NATS's
_LARGEST: Final = 64 * 1024 * 1024  # bytes of a message: the server's own limit
_PATIENCE: Final = 5.0  # seconds for a connection to be made
_ENDING: Final = 1.0  # seconds for what was said before a connection is closed
_SLICE: Final = 0.002  # seconds of work in one turn of the loop for what one read has brought


class Arrived(NamedTuple):
    """A message: `head` is its header, without the first line's version, empty if it has none."""

    subject: bytes
    reply: bytes
    head: bytes
    data: bytes

    @property
    def status(self) -> bytes:
        """The status in the header's first line, such as 503; empty for an ordinary message."""
        return self.head[9:12] if self.head[8:9] == b" " else b""


Heard = Callable[[Arrived], None]
LOST: Final = StoreUnavailable("the connection to NATS is lost: try again in a moment")


class Line(asyncio.Protocol):
    """A connection, once `open` has made it."""

    def __init__(self, address: Address, gone: Callable[[Line], None]) -> None:
        self.address = address
        self.info: dict[str, Any] = {}
        self.largest = 1024 * 1024  # bytes of a message that this server takes
        self.up = False
        self._gone = gone
        self._transport: asyncio.Transport | None = None
        self._chunks: list[bytes] = []
        self._received = 0
        self._wanted = 1  # bytes that have to be there before there is anything to read
        self._paused = False  # a slice is used up: the rest has its turn before more is read
        self._out: list[bytes] = []
        self._size = 0
        self._serial = 0
        self._listeners: dict[bytes, Heard] = {}  # by the number of the subscription
        self._inbox = b"_INBOX." + secrets.token_hex(8).encode() + b"."
        self._answers: dict[bytes, Heard] = {}  # by the last token of the inbox
        self._pongs: deque[asyncio.Future[None]] = deque()
        self._greeted: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._ended: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._error = ""

    @classmethod
    async def open(cls, address: Address, gone: Callable[[Line], None]) -> Line:
        """Connect to one of the servers; `gone` is called when the connection is lost. Raises StoreUnavailable."""
        refusal = StoreUnavailable("NATS: no server is named")
        for host, port in address.hosts:
            line = cls(address, gone)
            try:
                async with asyncio.timeout(_PATIENCE):
                    await line._connect(host, port)
                return line
            except StoreUnavailable as error:
                refusal = StoreUnavailable(f"NATS at {host}:{port}: {error.message}")
            except (OSError, TimeoutError) as error:
                said = " ".join(str(error).split()) or "it does not answer"
                refusal = StoreUnavailable(f"NATS at {host}:{port}: {said[:300]}")
            finally:
                if not line.up:
                    line.abort()
        raise refusal

    async def _connect(self, host: str, port: int) -> None:
        loop = asyncio.get_running_loop()
        await loop.create_connection(lambda: self, host, port)
        await self._greeted
        if self.address.tls or self.info.get("tls_required"):
            assert self._transport is not None
            self._transport = await loop.start_tls(self._transport, self, self.address.context(), server_hostname=host)
        said = {
            **self.address.signed(str(self.info.get("nonce", ""))),
            "name": "partyline",
            "lang": "python",
            "version": "1",
            "protocol": 1,
            "verbose": False,
            "pedantic": False,
            "headers": True,
            "no_responders": True,
        }
        self._write(b"CONNECT " + msgspec.json.encode(said) + b"\r\n")
        await self.settled()
        self.largest = int(self.info.get("max_payload", self.largest))
        self.up = True
        self.subscribe(self._inbox + b"*", self._answered)

    # Out

    @property
    def full(self) -> bool:
        """Whether too much waits for the server."""
        waiting = self._transport.get_write_buffer_size() if self._transport is not None else 0
        return self._size + waiting > MOST

    def publish(self, subject: bytes, data: bytes, reply: bytes = b"", head: bytes = b"") -> None:
        """Publish. `head` is made of lines that end with CRLF. `largest` is not checked here."""
        if reply:
            subject = b"%b %b" % (subject, reply)
        if head:
            size = len(head) + 12
            self._write(b"HPUB %b %d %d\r\nNATS/1.0\r\n%b\r\n%b\r\n" % (subject, size, size + len(data), head, data))
        else:
            self._write(b"PUB %b %d\r\n%b\r\n" % (subject, len(data), data))

    def subscribe(self, subject: bytes, heard: Heard) -> bytes:
        """Listen on a subject; returns the number to end that with."""
        self._serial += 1
        number = b"%d" % self._serial
        self._listeners[number] = heard
        self._write(b"SUB %b %b\r\n" % (subject, number))
        return number

    def unsubscribe(self, number: bytes) -> None:
        """Hear nothing more of a subscription, at once."""
        if self._listeners.pop(number, None) is not None:
            self._write(b"UNSUB %b\r\n" % number)

    async def settled(self) -> None:
        """Return when the server has taken everything that was said. Raises StoreUnavailable."""
        if self._transport is None:
            raise LOST
        pong: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._pongs.append(pong)
        self._write(b"PING\r\n")
        await pong

    def inbox(self, heard: Heard) -> bytes:
        """A subject for answers, to be let go with `forget`."""
        self._serial += 1
        key = b"%d" % self._serial
        self._answers[key] = heard
        return self._inbox + key

    def forget(self, inbox: bytes) -> None:
        """No answers come there any more."""
        self._answers.pop(inbox[len(self._inbox) :], None)

    async def ask(self, subject: bytes, data: bytes = b"", head: bytes = b"") -> Arrived:
        """The answer to a request. Raises StoreUnavailable if none will come; the owner limits the time."""
        if self._transport is None:
            raise LOST
        answer: asyncio.Future[Arrived] = asyncio.get_running_loop().create_future()

        def heard(arrived: Arrived) -> None:
            if not answer.done():
                answer.set_result(arrived)

        inbox = self.inbox(heard)
        self.publish(subject, data, inbox, head)
        try:
            arrived = await answer
        finally:
            self.forget(inbox)
        if arrived is GONE:
            raise LOST
        return arrived

    async def close(self) -> None:
        """Send what was said, if the server takes it within a second, and close."""
        self._flush()
        if self._transport is not None:
            self._transport.close()
            await asyncio.wait([self._ended], timeout=_ENDING)
            self.abort()
            await asyncio.wait([self._ended])

    def abort(self) -> None:
        """Close at once."""
        if self._transport is not None:
            self._transport.abort()

    def _write(self, data: bytes) -> None:
        if not self._out:
            asyncio.get_running_loop().call_soon(self._flush)
        self._out.append(data)
        self._size += len(data)

    def _flush(self) -> None:
        if self._transport is not None and self._out:
            self._transport.write(b"".join(self._out))
        self._out.clear()
        self._size = 0

    # In: asyncio.Protocol

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)  # uvloop's is none by its class

    def connection_lost(self, error: Exception | None) -> None:
        self._transport = None
        if not self._ended.done():
            self._ended.set_result(None)
        was_up, self.up = self.up, False
        refusal = StoreUnavailable(self._error) if self._error else LOST
        for waiting in (self._greeted, *self._pongs):
            if not waiting.done():
                waiting.set_exception(refusal)
                waiting.exception()  # nobody may be there any more
        answers, self._answers = self._answers, {}
        for heard in answers.values():
            heard(GONE)
        if was_up:
            self._gone(self)

    def data_received(self, data: bytes) -> None:
        self._chunks.append(data)
        self._received += len(data)
        if not self._paused and self._received >= self._wanted and self._work() and self._transport is not None:
            self._paused = True
            self._transport.pause_reading()
            asyncio.get_running_loop().call_soon(self._go_on)

    def _go_on(self) -> None:
        """The turn of the rest has come."""
        if self._transport is None or self._transport.is_closing():
            return
        if self._work():
            asyncio.get_running_loop().call_soon(self._go_on)
        else:
            self._paused = False
            self._transport.resume_reading()

    def _work(self) -> bool:
        """Handle what has been received, for a slice of time; True if some is left."""
        data = b"".join(self._chunks) if len(self._chunks) > 1 else self._chunks[0]
        try:
            at, left = self._read(data, monotonic() + _SLICE)
        except (ValueError, IndexError, msgspec.MsgspecError) as error:
            _log.error("NATS sent what cannot be read", error=str(error))
            self.abort()
            return False
        rest = data[at:]
        self._chunks = [rest] if rest else []
        self._received = len(rest)
        return left

    def _read(self, data: bytes, until: float) -> tuple[int, bool]:
        """Handle what is whole. Returns how much of the data that was, and whether there is more that is whole."""
        at = 0
        while True:
            end = data.find(b"\r\n", at)
            if end < 0:
                if len(data) - at > _LINE:
                    raise ValueError("a line without an end")
                self._wanted = len(data) - at + 1
                return at, False
            word = data[at : at + 4]
            if word == b"MSG " or word == b"HMSG":
                parts = data[at:end].split()
                size = int(parts[-1])
                if not 0 <= size <= _LARGEST:
                    raise ValueError(f"a message of {size} bytes")
                start, after = end + 2, end + 4 + size
                if len(data) < after:
                    self._wanted = after - at
                    return at, False
                head = int(parts[-2]) if word == b"HMSG" else 0
                heard = self._listeners.get(parts[2])
                if heard is not None:
                    reply = parts[3] if len(parts) > (5 if head else 4) else b""
                    self._tell(
                        heard, Arrived(parts[1], reply, data[start : start + head], data[start + head : after - 2])
                    )
                at = after
                if monotonic() > until:
                    self._wanted = 1
                    return at, at < len(data)
            else:
                self._take(word, data[at:end])
                at = end + 2

    def _tell(self, heard: Heard, arrived: Arrived) -> None:
        try:
            heard(arrived)
        except Exception:
            _log.exception("a message from NATS could not be handled")

    def _take(self, word: bytes, line: bytes) -> None:
        """Handle a line that is not a message."""
        if word == b"PING":
            self._write(b"PONG\r\n")
        elif word == b"PONG":
            if self._pongs and not (pong := self._pongs.popleft()).done():
                pong.set_result(None)
        elif word == b"INFO":
            self.info.update(msgspec.json.decode(line[5:]))
            if not self._greeted.done():
                self._greeted.set_result(None)
        elif word == b"-ERR":
            self._error = line[4:].decode(errors="replace").strip(" '")
            if self.up:
                _log.error("NATS refuses something", error=self._error[:300])
        elif word[:3] != b"+OK":
            raise ValueError(f"not a line of NATS: {line[:60]!r}")

    def _answered(self, arrived: Arrived) -> None:
        heard = self._answers.get(arrived.subject[len(self._inbox) :])
        if heard is not None:
            heard(arrived)


GONE: Final = Arrived(b"", b"", b"", b"")
"""What a listener on an inbox hears when the connection is lost."""


def headers(arrived: Arrived) -> dict[bytes, bytes]:
    """The header of a message by name."""
    found: dict[bytes, bytes] = {}
    for line in arrived.head.split(b"\r\n")[1:]:
        name, colon, value = line.partition(b":")
        if colon:
            found[name] = value.strip()
    return found
