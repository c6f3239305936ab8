"""A server with recovery in its own process, for tests that kill it: `python -m tests.socketio.recovering DB`."""

from __future__ import annotations

import asyncio
import sys
from typing import Any

from partyline import Settings, running
from partyline.socketio.server import SocketIO
from partyline.socketio.socket import Socket

io = SocketIO(recovery_window=60.0)


@io.on("join")
def join(socket: Socket, room: str) -> None:
    socket.join(room)


@io.on("remember")
def remember(socket: Socket, value: Any) -> None:
    socket.data["value"] = value


@io.on("emit")
def emit(socket: Socket, room: str, value: Any) -> None:
    io.to(room).emit("x", value)


@io.on("whoami")
def whoami(socket: Socket) -> Any:
    return socket.id, sorted(socket.rooms), socket.data, socket.recovered


async def main(db: str) -> None:
    async with running(Settings(port=0, db=db), extras=[io]) as (_, url):
        print(url, flush=True)
        await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1]))
