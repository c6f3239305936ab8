"""After a power cut at any instant, everything that had left the server by then is on the disk (hostile 7b)."""

from __future__ import annotations

import asyncio
import hashlib
import os
import random
import re
import shutil
import signal
import tempfile
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from partyline.metrics import Counters
from partyline.stores.sqlite.database import Database
from partyline.stores.sqlite.placing import Row
from partyline.stores.sqlite.reading import walk
from partyline.stores.sqlite.store import SqliteStore
from tests.process import serving
from tests.tools import preloaded

from .clients import TRIALS, Http, Line, encode, run, seeded
from .parties import HttpPublisher, Ledger
from .powercut import Disk, Event, read_record

_CLAIM = re.compile(rb'"position":"([0-9a-f]{16})-(\d+)"')
_LIVES = (signal.SIGTERM, signal.SIGKILL, signal.SIGTERM, signal.SIGKILL)
_MESSAGES = 25  # of each publisher in each life


@pytest.fixture
def memory() -> Iterator[Path]:
    """A folder in memory if there is one, because hundreds of databases are created in it."""
    shm = Path("/dev/shm")
    folder = Path(tempfile.mkdtemp(dir=shm if shm.is_dir() and os.access(shm, os.W_OK) else None))
    yield folder
    shutil.rmtree(folder)


def test_what_left_the_server_survives_a_power_cut(tmp_path: Path, memory: Path) -> None:
    """If the power is cut at any write or fsync, and unsynced data is dropped or kept in any part, the database opens,
    every position that had left on any connection is there, and every message is whole."""
    _, chance = seeded()
    ledger, record = run(live(tmp_path, chance))
    replay(ledger, record, memory, chance)


async def live(folder: Path, chance: random.Random) -> tuple[Ledger, list[Event]]:
    """Several lives of a recorded server that ends in different ways: what it sent, and the record."""
    db, record = folder / "partyline.db", folder / "record"
    library = preloaded(Path(__file__).with_name("record.c"), folder)
    env = {"LD_PRELOAD": library, "RECORD_OF": str(db), "RECORD_TO": str(record)}
    ledger = Ledger(0, ("a", "b", "c"), chance)
    for life, end in enumerate(_LIVES):
        async with serving(db=db, env=env, module="tests.crash.small_wal") as server:
            ledger.port = server.port
            listener = await Line.open(server.port, lambda frame: None)
            listener.send(type="subscribe", topic=">", after="earliest")
            await asyncio.gather(*(publish(HttpPublisher(ledger, f"{life}.{n}", 4 * n + 1)) for n in range(3)))
            assert await server.end(end) in (0, -signal.SIGKILL)
            listener.drop()
    return ledger, list(read_record(record))


async def publish(publisher: HttpPublisher) -> None:
    async with Http.open(publisher.ledger.port) as http:
        for _ in range(_MESSAGES):
            await publisher.publish(http)


def replay(ledger: Ledger, record: list[Event], folder: Path, chance: random.Random) -> None:
    """Cut the power at many instants, and check what is left."""
    counts = Counter(event.operation for event in record)
    assert min(counts[operation] for operation in "OUWTBSA") > 0, counts
    sampled = 1.0 if TRIALS else 200 / len(record)
    disk, claimed, epoch = Disk(), 0, ""
    seen: set[tuple[bytes, int]] = set()
    tally: Counter[str] = Counter()
    for event in record:
        boundary = event.operation in "BS"
        if event.operation == "A":
            for found in _CLAIM.findall(event.data):
                assert epoch in ("", found[0].decode())
                epoch, claimed = found[0].decode(), max(claimed, int(found[1]))
            continue
        # Before each change, so that everything that had been sent by then counts.
        dice = [None] if boundary or chance.random() < sampled else []
        dice += [random.Random(chance.random()) for _ in range(2 if TRIALS else 1) if chance.random() < sampled]
        for die in dice:
            files = disk.cut(die)
            digest = hashlib.blake2b(repr(sorted(files.items())).encode()).digest()
            if (digest, claimed) in seen:
                continue
            seen.add((digest, claimed))
            tally["dropped" if die is None else "torn"] += 1
            kept = look(ledger, files, folder, epoch, claimed)
            tally["more kept than claimed"] += kept > claimed
        disk.apply(event)
    assert claimed == len(ledger.sent) == len(ledger.acknowledged)
    print(
        f"events {dict(counts)}, messages {claimed}, cuts with all unsynced dropped {tally['dropped']}, with some "
        f"of it {tally['torn']}, of these held more than was claimed {tally['more kept than claimed']}, lost 0"
    )


def look(ledger: Ledger, files: dict[str, bytes], folder: Path, epoch: str, claimed: int) -> int:
    """Open what the cut left, in which everything claimed must be there; the highest offset."""
    for old in folder.iterdir():
        old.unlink()
    for name, content in files.items():
        (folder / name).write_bytes(content)
    database = Database(str(folder / "partyline.db"), Counters())
    try:
        store = SqliteStore(database)
        assert store.epoch == epoch or not claimed
        rows: list[Row] = []
        database.inspect(lambda connection: rows.extend(row for row in walk(connection, 0) if isinstance(row, Row)))
    finally:
        database.close()
    assert [row.offset for row in rows] == list(range(1, store.head + 1))
    assert store.head >= claimed, f"{claimed} had left the server, {store.head} is the last one kept"
    for row in rows:
        draft = row.message.draft
        sent = ledger.sent[draft.id]
        assert (draft.room, draft.data) == (sent.topic, encode(sent.data))
        assert ledger.acknowledged[draft.id] == f"{epoch}-{row.offset}" or not claimed
    return store.head
