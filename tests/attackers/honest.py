"""Honest clients beside the attackers.

`python -m tests.attackers.honest PORT [tls] [TOKEN]` runs twenty of them, each of which asks something twenty times a
second. For each line on standard input it prints what they have seen since the last one.
"""

from __future__ import annotations

import asyncio
import json
import random
import sys
import time

from .wire import Peer, text

CLIENTS = 20
EVERY = 0.05  # seconds


class Seen:
    """Latencies in milliseconds, including requests that are not answered yet."""

    def __init__(self) -> None:
        self.answered: list[float] = []
        self.asked: dict[int, float] = {}
        self.lost = 0

    def report(self) -> str:
        now = time.perf_counter()
        latencies = sorted([*self.answered, *((now - asked) * 1000 for asked in self.asked.values())])
        lost, self.lost, self.answered = self.lost, 0, []
        at = min(len(latencies) - 1, int(len(latencies) * 0.99))
        return json.dumps({"answers": len(latencies), "p99": latencies[at] if latencies else 0.0, "lost": lost})


async def client(number: int, port: int, tls: bool, token: str, seen: Seen) -> None:
    """Ask, and wait for the answer."""
    offered = "Sec-WebSocket-Protocol: partyline.v1" + (f", bearer.{token}" if token else "")
    peer = await Peer.open(port, tls)
    await peer.upgrade("/v1/ws", (offered,))
    await peer.until(b'"heartbeat"')
    count = 0
    while True:
        await asyncio.sleep(EVERY * random.uniform(0.5, 1.5))
        count += 1
        seen.asked[number] = began = time.perf_counter()
        await peer.write(text({"type": "ping", "id": count}))
        await peer.until(b'"id":%d}' % count)
        del seen.asked[number]
        seen.answered.append((time.perf_counter() - began) * 1000)


async def main(port: int, tls: bool, token: str) -> None:
    seen = Seen()
    for number in range(CLIENTS):
        task = asyncio.create_task(client(number, port, tls, token, seen))
        task.add_done_callback(lambda _: setattr(seen, "lost", seen.lost + 1))
    loop = asyncio.get_running_loop()
    while await loop.run_in_executor(None, sys.stdin.readline):
        print(seen.report(), flush=True)


if __name__ == "__main__":
    arguments = sys.argv[2:]
    tls = "tls" in arguments
    asyncio.run(main(int(sys.argv[1]), tls, next((one for one in arguments if one != "tls"), "")))
