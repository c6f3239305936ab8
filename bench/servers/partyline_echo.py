"""Partyline as a plain WebSocket echo server: its own protocol and transport, no relay on top."""

from __future__ import annotations

import argparse
import asyncio

from partyline import Settings, build
from partyline.interfaces import Connection
from partyline.server.site import Endpoint, Upgrade
from partyline.wire.websocket.codec import Limits


class Echo:
    """Sends every message back."""

    __slots__ = ("_connection",)

    def opened(self, connection: Connection) -> None:
        self._connection = connection

    def text(self, text: str) -> None:
        self._connection.send_text(text)

    def binary(self, data: bytes) -> None:
        self._connection.send_binary(data)

    def refused(self, error: Exception, message: str | bytes) -> None:
        pass

    def closed(self) -> None:
        pass


async def main(port: int, limits: Limits, compress_from: int) -> None:
    """Echo until a signal comes."""

    def route(upgrade: Upgrade) -> Endpoint:
        return Endpoint(Echo(), limits=limits, deflate=True)

    settings = Settings(port=port, db=":memory:", outbox_bytes=64 << 20, compress_from=compress_from)
    partyline = build(settings)
    partyline.shell.stop_on_signals()
    partyline.site.route = route
    url = (await partyline.listen())[0]
    print("listening", url.rpartition(":")[2], flush=True)
    await partyline.serve()


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--port", type=int, default=0)
    parser.add_argument("--max-message", type=int, default=1_000_000)
    parser.add_argument("--max-fragments", type=int, default=1_024)
    parser.add_argument("--compress-from", type=int, default=1024)
    chosen = parser.parse_args()
    chosen_limits = Limits(chosen.max_message, chosen.max_message, chosen.max_fragments)
    try:
        import uvloop as loops
    except ImportError:
        loops = asyncio  # type: ignore[assignment]
    with asyncio.Runner(loop_factory=loops.new_event_loop) as runner:
        runner.run(main(chosen.port, chosen_limits, chosen.compress_from))
