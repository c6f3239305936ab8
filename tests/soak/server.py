"""The server of the soak: `python -m tests.soak.server DB`.

A line of JSON says where it listens, then one a second what it holds.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import sys
from collections.abc import Iterator

import uvloop

from partyline import Partyline, Settings, SocketIO, build

TICK = 0.5  # seconds between two events of the main namespace


def say(**facts: object) -> None:
    print(json.dumps(facts), flush=True)


def held(server: Partyline) -> Iterator[tuple[str, int]]:
    """What the loop has to do, who is there, and how often a client was cut as too slow."""
    yield "tasks", len(asyncio.all_tasks())
    yield "timers", len(server.site.timers)
    yield "connections", server.site.connections
    yield "cut as slow", server.counters.limits.get("outbox_bytes", 0)


async def main(db: str) -> None:
    io = SocketIO(recovery_window=120.0)
    settings = Settings(
        port=0,
        db=db,
        outbox_bytes=262_144,
        events_per_second=200.0,
        events_burst=400,
        ping_interval=10,
        ping_timeout=10,
    )
    server = build(settings, extras=[io])
    server.shell.stop_on_signals()
    url = (await server.listen())[0]
    say(listening=url)

    async def tick() -> None:
        number = 0
        while True:
            await asyncio.sleep(TICK)
            if io.sockets:
                number += 1
                io.emit("tick", number)

    async def report() -> None:
        while True:
            say(**dict(held(server)))
            await asyncio.sleep(1.0)

    beside = [asyncio.create_task(tick()), asyncio.create_task(report())]
    try:
        await server.serve()
    finally:
        for task in beside:
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await task


if __name__ == "__main__":
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(main(sys.argv[1]))
