"""Many Socket.IO clients in a process of their own: `crowd.py PORT COUNT ROUNDS`. Prints a line when all are connected,
and one when all have gone, for each round; a line on standard input lets it go on."""

from __future__ import annotations

import asyncio
import sys

REQUEST = (
    "GET /socket.io/?EIO=4&transport=websocket HTTP/1.1\r\nHost: 127.0.0.1\r\nUpgrade: websocket\r\n"
    "Connection: Upgrade\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n"
)
CONNECT = b"\x81\x82\0\0\0\x0040"  # masked with zeros
AT_ONCE = 200


class Client(asyncio.Protocol):
    """Connects, says CONNECT, and is `connected` with the answer."""

    def __init__(self) -> None:
        loop = asyncio.get_running_loop()
        self.connected: asyncio.Future[None] = loop.create_future()
        self.gone: asyncio.Future[None] = loop.create_future()
        self._heard = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport
        transport.write(REQUEST.encode())

    def data_received(self, data: bytes) -> None:
        if self.connected.done():
            return
        self._heard += data
        if b'40{"sid"' in self._heard:
            self._heard = b""
            self.connected.set_result(None)
        elif b'0{"sid"' in self._heard:
            self.transport.write(CONNECT)
            self._heard = b""

    def connection_lost(self, exc: Exception | None) -> None:
        self.gone.set_result(None)


async def main(port: int, count: int, rounds: int) -> None:
    loop = asyncio.get_running_loop()
    for _ in range(rounds):
        clients: list[Client] = []
        for start in range(0, count, AT_ONCE):
            made = [loop.create_connection(Client, "127.0.0.1", port) for _ in range(min(AT_ONCE, count - start))]
            some = [client for _, client in await asyncio.gather(*made)]
            await asyncio.gather(*(client.connected for client in some))
            clients += some
        print("connected", flush=True)
        await loop.run_in_executor(None, sys.stdin.readline)
        for client in clients:
            client.transport.abort()
        await asyncio.gather(*(client.gone for client in clients))
        print("gone", flush=True)
        await loop.run_in_executor(None, sys.stdin.readline)


if __name__ == "__main__":
    asyncio.run(main(*map(int, sys.argv[1:4])))
