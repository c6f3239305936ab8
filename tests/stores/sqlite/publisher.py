"""A process that appends for ever and prints each acknowledged offset: killed by test_faults.py.

python -m tests.stores.sqlite.publisher <database> <tag>
"""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import Sequence

from partyline.interfaces import Outcome, Stored
from partyline.metrics import Counters
from partyline.models import Draft
from partyline.stores.sqlite.database import Database
from partyline.stores.sqlite.store import SqliteStore


async def main(path: str, tag: str) -> None:
    store = SqliteStore(Database(path, Counters()))
    number = 0

    def committed(batch: Sequence[Outcome]) -> None:
        lines = [f"{o.message.offset} {o.draft.id}\n" for o in batch if isinstance(o, Stored)]
        os.write(1, "".join(lines).encode())  # one write: a line is whole or missing
        for _ in batch:
            append()

    def append() -> None:
        nonlocal number
        number += 1
        store.append(Draft(f"room{number % 5}", b"%d" % number * 10, f"{tag}.{number}"))

    store.start(committed)
    for _ in range(100):
        append()
    await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
