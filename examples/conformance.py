"""The server for outside suites: Socket.IO, raw Engine.IO and plain WebSocket on one port.

    python examples/conformance.py --port 3000 --mode base

Modes: `base` (heartbeat 1,000/1,000 ms, protocol 3 on), `official` (300/200 ms, CONNECT within 1,000 ms), `official3`
(the same with protocol 3 on), `recovery` (base with recovery), `msgpack` (base with that parser). It prints its address
when it listens.

`/engine.io/` echoes raw Engine.IO messages, `/echo` plain WebSocket ones. Socket.IO has the namespaces `/`, `/custom`
and `/private`, which wants the auth {"token": "secret"}; they answer alike:

    (connect)                                emits `auth` with the auth, {} if there is none
    message ...args                          emits `message-back` ...args
    message-with-ack ...args, ack            ack(...args)
    join room, ack; leave room, ack          ack(room)
    room-send room ...args                   emits `room-message` room ...args to the room
    room-send-others room ...args            the same to the others in it
    room-size room, ack                      ack(count)
    broadcast ...args                        emits `broadcast-message` ...args to everybody else in the namespace
    ask-me ...args, ack                      emits `question` ...args with an ack, waits 500 ms for it;
                                             ack({"ok": true, "answer": [...]}) or ack({"ok": false})
    digest bytes, ack                        ack({"length": n, "sha256": hex})
    whoami, ack                              ack({"id", "rooms": [sorted, without its own], "recovered": bool})
    bye close                                disconnects this socket; with true the whole connection
"""

from __future__ import annotations

import argparse
import asyncio
import hashlib
import signal
from typing import Any

import partyline
from partyline import ConnectionRefused, EngineIO, Namespace, Socket, SocketIO
from partyline.server.site import Endpoint, Site, Upgrade
from partyline.wire.websocket.codec import Limits

MODES: dict[str, dict[str, Any]] = {
    "base": {"ping_interval": 1.0, "ping_timeout": 1.0, "version_3": True},
    "official": {"ping_interval": 0.3, "ping_timeout": 0.2, "connect_timeout": 1.0},
    "official3": {"ping_interval": 0.3, "ping_timeout": 0.2, "connect_timeout": 1.0, "version_3": True},
    "recovery": {"ping_interval": 1.0, "ping_timeout": 1.0, "version_3": True, "recovery_window": 120.0},
    "msgpack": {"ping_interval": 1.0, "ping_timeout": 1.0, "version_3": True, "parser": "msgpack"},
}
ENGINE = ("ping_interval", "ping_timeout", "version_3")


def kitchen_sink(chat: Namespace) -> None:
    """The handlers of one namespace."""

    @chat.on_connect
    def enter(socket: Socket, auth: dict[str, Any]) -> None:
        if not socket.recovered:
            socket.emit("auth", auth)

    @chat.on("message")
    def message(socket: Socket, *arguments: Any) -> None:
        socket.emit("message-back", *arguments)

    @chat.on("message-with-ack")
    def message_with_ack(socket: Socket, *arguments: Any) -> tuple[Any, ...]:
        return arguments

    @chat.on("join")
    def join(socket: Socket, room: str) -> str:
        socket.join(room)
        return room

    @chat.on("leave")
    def leave(socket: Socket, room: str) -> str:
        socket.leave(room)
        return room

    @chat.on("room-send")
    def room_send(socket: Socket, room: str, *arguments: Any) -> None:
        chat.to(room).emit("room-message", room, *arguments)

    @chat.on("room-send-others")
    def room_send_others(socket: Socket, room: str, *arguments: Any) -> None:
        socket.to(room).emit("room-message", room, *arguments)

    @chat.on("room-size")
    async def room_size(socket: Socket, room: str) -> int:
        return len(await chat.fetch_sockets(room))

    @chat.on("broadcast")
    def broadcast(socket: Socket, *arguments: Any) -> None:
        socket.broadcast.emit("broadcast-message", *arguments)

    @chat.on("ask-me")
    async def ask_me(socket: Socket, *arguments: Any) -> dict[str, Any]:
        try:
            answer = await socket.call("question", *arguments, timeout=0.5)
        except (partyline.CallTimeout, partyline.PeerGone):
            return {"ok": False}
        return {"ok": True, "answer": list(answer) if isinstance(answer, tuple) else [answer]}

    @chat.on("digest")
    def digest(socket: Socket, data: bytes) -> dict[str, Any]:
        return {"length": len(data), "sha256": hashlib.sha256(data).hexdigest()}

    @chat.on("whoami")
    def whoami(socket: Socket) -> dict[str, Any]:
        rooms = sorted(room for room in socket.rooms if room != socket.id)
        return {"id": socket.id, "rooms": rooms, "recovered": socket.recovered}

    @chat.on("bye")
    def bye(socket: Socket, close: bool = False) -> None:
        socket.disconnect(close)


def socket_io(mode: str) -> SocketIO:
    """The Socket.IO server of a mode."""
    io = SocketIO(**MODES[mode])
    for name in ("/", "/custom", "/private"):
        kitchen_sink(io.namespace(name))

    @io.namespace("/private").use
    def authorize(socket: Socket) -> None:
        if socket.handshake.auth != {"token": "secret"}:
            raise ConnectionRefused("not authorized", {"code": 401})

    return io


def engine_io(mode: str) -> EngineIO:
    """Raw Engine.IO: an echo."""
    engine = EngineIO("/engine.io/", **{name: value for name, value in MODES[mode].items() if name in ENGINE})
    engine.on_message(lambda connection, data: connection.send_message(data))
    return engine


class Echo:
    """A plain WebSocket echo, for suites of RFC 6455 and RFC 7692: large messages, many fragments, compression."""

    def attach(self, site: Site) -> None:
        """Nothing to prepare."""

    def routes(self) -> list[Any]:
        """No HTTP."""
        return []

    def upgrade(self, upgrade: Upgrade) -> Endpoint | None:
        """A WebSocket on /echo."""
        if upgrade.path != "/echo":
            return None
        size = 17 * 1024 * 1024
        return Endpoint(_Echo(), deflate=True, limits=Limits(size, size, 100_000))


class _Echo:
    def opened(self, connection: Any) -> None:
        self._connection = connection

    def text(self, text: str) -> None:
        self._connection.send_text(text)

    def binary(self, data: bytes) -> None:
        self._connection.send_binary(data)

    def refused(self, error: Exception, message: str | bytes) -> None:
        """There are no rate limits here."""

    def closed(self) -> None:
        """Nothing to release."""


async def main(port: int, mode: str, db: str) -> None:
    """Serve until a signal comes."""
    # A suite may hold several large messages at once.
    settings = partyline.Settings(port=port, db=db, outbox_bytes=64 * 1024 * 1024, drain_time=1.0)
    stop = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    async with partyline.running(settings, extras=[socket_io(mode), engine_io(mode), Echo()]) as (_, url):
        print(url, flush=True)  # noqa: T201 - whoever started it waits for this
        await stop.wait()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Partyline for outside suites.")
    parser.add_argument("--port", type=int, default=0, help="0 takes a free one")
    parser.add_argument("--mode", choices=MODES, default="base")
    parser.add_argument("--db", default=":memory:", help="the log of mode `recovery`, to outlive the process")
    arguments = parser.parse_args()
    asyncio.run(main(arguments.port, arguments.mode, arguments.db))
