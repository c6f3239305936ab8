"""The `websockets` package, as its documentation says.

`websockets_server.py echo|broadcast PORT`. Its performance page recommends
uvloop, so uvloop runs it where it is installed; compression is off, as in every
other server here; `broadcast()` is what it offers for many receivers.
"""

from __future__ import annotations

import asyncio
import sys

from websockets.asyncio.server import ServerConnection, broadcast, serve
from websockets.exceptions import ConnectionClosed

CLIENTS: set[ServerConnection] = set()


async def echo(websocket: ServerConnection) -> None:
    """Send every message back."""
    async for message in websocket:
        await websocket.send(message)


async def relay(websocket: ServerConnection) -> None:
    """Send every message to all other clients."""
    CLIENTS.add(websocket)
    try:
        async for message in websocket:
            broadcast(CLIENTS - {websocket}, message)
    except ConnectionClosed:
        pass
    finally:
        CLIENTS.remove(websocket)


async def main(mode: str, port: int) -> None:
    """Serve until the process is stopped."""
    handler = relay if mode == "broadcast" else echo
    async with serve(handler, "127.0.0.1", port, compression=None) as server:
        print("listening", next(iter(server.sockets)).getsockname()[1], flush=True)
        await server.serve_forever()


def new_loop() -> asyncio.AbstractEventLoop:
    """uvloop's event loop if it is installed."""
    try:
        import uvloop
    except ImportError:
        return asyncio.new_event_loop()
    return uvloop.new_event_loop()


if __name__ == "__main__":
    with asyncio.Runner(loop_factory=new_loop) as runner:
        runner.run(main(sys.argv[1], int(sys.argv[2])))
