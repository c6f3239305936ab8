"""A WebSocket over TLS whose session another worker has. Its state cannot be passed on, so its bytes go both ways here.

Either side reads no faster than the other one writes. The owner is told first whose bytes they are.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any, Final, cast

import msgspec

from partyline import log
from partyline.errors import PartylineError
from partyline.wire.keeper import Frames, encode, frame

_log = log.get("workers")


class Client(msgspec.Struct, frozen=True, array_like=True):
    """The client whose bytes follow, and the address at which it connected."""

    peername: tuple[str, int]
    sockname: tuple[str, int]


_decode: Final = msgspec.msgpack.Decoder(Client).decode


class End(asyncio.Protocol):
    """One of the two ends: what arrives here is written to the other one."""

    def __init__(self) -> None:
        self.transport = cast("asyncio.Transport", None)
        self.other: End | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast("asyncio.Transport", transport)

    def data_received(self, data: bytes) -> None:
        if self.other is not None:
            self.other.transport.write(data)

    def pause_writing(self) -> None:
        if self.other is not None:
            self.other.transport.pause_reading()

    def resume_writing(self) -> None:
        if self.other is not None and not self.other.transport.is_closing():
            self.other.transport.resume_reading()

    def connection_lost(self, exc: Exception | None) -> None:
        if self.other is not None:
            self.other.transport.close()
            self.other = None


class Tunnel(End):
    """The client's end (`server.site.Live`); `gone` is called when it is over."""

    def __init__(self, transport: asyncio.Transport, gone: Callable[[Tunnel], None]) -> None:
        super().__init__()
        self.transport = transport
        self._gone = gone
        self._digging: asyncio.Task[None] | None = None

    def dig(self, path: str, data: bytes) -> None:
        """Reach the owner at `path`, and let it read `data` and what follows."""
        self.transport.set_protocol(self)
        self._digging = asyncio.get_running_loop().create_task(self._dig(path, data))

    async def _dig(self, path: str, data: bytes) -> None:
        other = End()
        try:
            await asyncio.get_running_loop().create_unix_connection(lambda: other, path)
        except OSError:
            self.transport.close()  # its owner has gone, and the client will connect again
            return
        if self.transport.is_closing():
            other.transport.close()
            return
        self.other, other.other = other, self
        about = [tuple(self.transport.get_extra_info(name)[:2]) for name in ("peername", "sockname")]
        other.transport.write(frame(encode(Client(*about))) + data)
        self.transport.resume_reading()

    def connection_lost(self, exc: Exception | None) -> None:
        if self._digging is not None:
            self._digging.cancel()
        super().connection_lost(exc)
        self._gone(self)

    def shutdown(self) -> None:
        """Nothing to do: the owner of the session tells the client."""

    def abort(self) -> None:
        self.transport.abort()


class Entrance(asyncio.Protocol):
    """The owner's end, until it knows whose bytes come. From then on it is a connection like any other."""

    def __init__(self, connection: Callable[[], asyncio.Protocol]) -> None:
        self._make = connection
        self._frames = bytearray()
        self._transport = cast("asyncio.Transport", None)

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)

    def data_received(self, data: bytes) -> None:
        self._frames += data
        if len(self._frames) < 4:
            return
        end = 4 + int.from_bytes(self._frames[:4], "big")
        if len(self._frames) < end:
            return
        try:
            (about,) = Frames().feed(bytes(self._frames[:end]))
            client = _decode(about)
        except (PartylineError, msgspec.MsgspecError) as error:
            _log.error("a tunnel does not say whose it is", error=str(error))
            self._transport.abort()
            return
        protocol = self._make()
        self._transport.set_protocol(protocol)
        protocol.connection_made(_Veiled(self._transport, client))
        if rest := bytes(self._frames[end:]):
            protocol.data_received(rest)


class _Veiled(asyncio.Transport):
    """The owner's transport, with the addresses of the client's."""

    def __init__(self, transport: asyncio.Transport, client: Client) -> None:
        super().__init__({"peername": client.peername, "sockname": client.sockname, "sslcontext": True})
        self._under = transport

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        found = super().get_extra_info(name)
        return self._under.get_extra_info(name, default) if found is None else found

    def is_closing(self) -> bool:
        return self._under.is_closing()

    def close(self) -> None:
        self._under.close()

    def abort(self) -> None:
        self._under.abort()

    def set_protocol(self, protocol: asyncio.BaseProtocol) -> None:
        self._under.set_protocol(protocol)

    def get_protocol(self) -> asyncio.BaseProtocol:
        return self._under.get_protocol()

    def is_reading(self) -> bool:
        return self._under.is_reading()

    def pause_reading(self) -> None:
        self._under.pause_reading()

    def resume_reading(self) -> None:
        self._under.resume_reading()

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        self._under.set_write_buffer_limits(high, low)

    def get_write_buffer_size(self) -> int:
        return self._under.get_write_buffer_size()

    def write(self, data: bytes | bytearray | memoryview) -> None:
        self._under.write(data)

    def can_write_eof(self) -> bool:
        return self._under.can_write_eof()

    def write_eof(self) -> None:
        self._under.write_eof()
