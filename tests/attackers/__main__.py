"""`python -m tests.attackers [keyed|open|tls [COUNT [ATTACK ...]]]`: the figures of docs/reference/hostile.md."""

from __future__ import annotations

import asyncio
import sys
import tempfile
from pathlib import Path

from .attacks import ROWS
from .test_attackers import attacked, honest, target


async def main(kind: str, count: int, names: list[str]) -> None:
    """Print a row of figures for each attack."""
    with tempfile.TemporaryDirectory() as folder:
        async with target(kind, Path(folder)) as at, honest(at) as clients:
            for name in names or ROWS:
                one = await attacked(at, clients, name, count)
                print(f"| {name} | {one.quiet:.0f} | {one.p99:.0f} | {one.loop:.1f} | {one.share:.0%} |", flush=True)


if __name__ == "__main__":
    given = sys.argv[1:]
    asyncio.run(main(given[0] if given else "keyed", int(given[1]) if given[1:] else 1, given[2:]))
