"""A process whose fsync is tampered with by test_faults.py; prints what happened as JSON.

python -m tests.stores.sqlite.slow_disk eio|slow <database> <order file>
"""

from __future__ import annotations

import asyncio
import json
import sys
import time
from pathlib import Path

from partyline.interfaces import Refused

from .logs import opened


async def eio(path: Path, order: Path) -> dict[str, object]:
    """One fsync fails with EIO."""
    async with opened(path) as log:
        await log.keep(10)
        order.write_text("eio")
        outcomes = await log.append(*(log.draft("lost") for _ in range(5)))
        later = await log.accepted()
        return {
            "refused": all(isinstance(outcome, Refused) for outcome in outcomes),
            "obeyed": not order.exists(),
            "later": later,
            "handed_out": log.handed_out,
            "errors": log.database.counters.write_errors,
        }


async def slow(path: Path, order: Path) -> dict[str, object]:
    """Every fsync takes 300 ms."""
    async with opened(path) as log:
        await log.keep(10)
        order.write_text("slow")
        lags: list[float] = []

        async def tick() -> None:
            while True:
                before = time.monotonic()
                await asyncio.sleep(0.005)
                lags.append(time.monotonic() - before - 0.005)

        ticking = asyncio.create_task(tick())
        started = time.monotonic()
        for _ in range(4):
            await log.keep()
        took = time.monotonic() - started
        ticking.cancel()
        order.unlink()
        return {"lag": max(lags), "took": took}


if __name__ == "__main__":
    what, path, order = sys.argv[1:]
    print(json.dumps(asyncio.run({"eio": eio, "slow": slow}[what](Path(path), Path(order)))))
