"""Patterns that others subscribe to, held by v1 WebSockets of the bench's own process, which is idle meanwhile."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import Iterator
from contextlib import AsyncExitStack, contextmanager

from websockets.asyncio.client import connect

from bench.process import BenchFailed
from bench.relay import TOPIC

EACH = 100  # patterns that one connection may have


def patterns(count: int) -> list[str]:
    """So many patterns that begin as topics do and cover none of one token."""
    return [f"{'*' if number % 2 else TOPIC}.x{number}.>" for number in range(count)]


@contextmanager
def held(port: int, count: int) -> Iterator[None]:
    """Hold so many patterns at the relay."""
    failed: list[BaseException] = []
    there, leave = threading.Event(), asyncio.Event()
    loop = asyncio.new_event_loop()

    def run() -> None:
        try:
            loop.run_until_complete(hold())
        except BaseException as error:  # told to whoever waits for it
            failed.append(error)
            there.set()

    async def hold() -> None:
        async with AsyncExitStack() as stack:
            wanted = patterns(count)
            for names in (wanted[at : at + EACH] for at in range(0, count, EACH)):
                socket = await stack.enter_async_context(
                    connect(f"ws://127.0.0.1:{port}/v1/ws", subprotocols=["partyline.v1"], proxy=None)
                )
                for number, name in enumerate(names):
                    await socket.send(json.dumps({"type": "subscribe", "topic": name, "id": number}))
                    while (answer := json.loads(await socket.recv())).get("id") != number:
                        pass
                    if answer["type"] != "reply":
                        raise BenchFailed(f"a subscription was answered {answer}")
            there.set()
            await leave.wait()

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    there.wait()
    if failed:
        raise failed[0]
    try:
        yield
    finally:
        loop.call_soon_threadsafe(leave.set)
        thread.join()
        loop.close()
