"""The application of the tests of recovery across processes."""

from __future__ import annotations

import os
from typing import Any

from partyline import Socket, SocketIO

io = SocketIO(recovery_window=60.0)


@io.on("join")
async def join(socket: Socket, room: str) -> Any:
    socket.join(room)
    socket.data["room"] = room
    return os.getpid()


@io.on("say")
async def say(socket: Socket, room: str, value: Any) -> bool:
    io.to(room).emit("said", value)
    return True


@io.on("whoami")
async def whoami(socket: Socket) -> Any:
    return [os.getpid(), socket.recovered, sorted(socket.rooms), socket.data]
