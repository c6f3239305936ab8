"""uvicorn's own WebSocket implementation under a minimal ASGI echo.

`uvicorn_app.py PORT`. Everything is uvicorn's default (`ws="auto"`, `loop="auto"`)
but compression, which is off in every server here, and the access log.
"""

from __future__ import annotations

import socket
import sys
from typing import Any

import uvicorn


async def app(scope: dict[str, Any], receive: Any, send: Any) -> None:
    """Accept every WebSocket and send every message back."""
    if scope["type"] != "websocket":
        raise RuntimeError("this application only echoes WebSocket messages")
    await receive()
    await send({"type": "websocket.accept"})
    while (event := await receive())["type"] == "websocket.receive":
        await send({"type": "websocket.send", "text": event.get("text"), "bytes": event.get("bytes")})


class Announced(uvicorn.Server):
    """uvicorn.Server that says when it listens, and where."""

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Start as usual, then print the port."""
        await super().startup(sockets)
        port = self.servers[0].sockets[0].getsockname()[1]
        print("listening", port, flush=True)


if __name__ == "__main__":
    config = uvicorn.Config(
        app,
        host="127.0.0.1",
        port=int(sys.argv[1]),
        lifespan="off",
        ws_per_message_deflate=False,
        access_log=False,
        log_level="warning",
    )
    Announced(config).run()
