"""python-socketio's AsyncServer on uvicorn, as its documentation says: `python_socketio_app.py PORT`.

`m` comes back to its sender, `a` is acknowledged, `b` goes to everybody else.
"""

from __future__ import annotations

import socket
import sys

import uvicorn

import socketio

sio = socketio.AsyncServer(async_mode="asgi")


@sio.on("m")
async def echo(sid: str, text: str) -> None:
    """Send it back."""
    await sio.emit("m", text, to=sid)


@sio.on("a")
async def acknowledge(sid: str, text: str) -> str:
    """Answer with it."""
    return text


@sio.on("b")
async def broadcast(sid: str, text: str) -> None:
    """Send it to all others."""
    await sio.emit("m", text, skip_sid=sid)


class Announced(uvicorn.Server):
    """uvicorn.Server that says when it listens, and where."""

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Start as usual, then print the port."""
        await super().startup(sockets)
        print("listening", self.servers[0].sockets[0].getsockname()[1], flush=True)


if __name__ == "__main__":
    app = socketio.ASGIApp(sio)
    config = uvicorn.Config(app, host="127.0.0.1", port=int(sys.argv[1]), access_log=False, log_level="warning")
    Announced(config).run()
