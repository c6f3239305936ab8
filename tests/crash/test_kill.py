"""kill -9 of the whole server, again and again, under publishers and subscribers that come back (hostile 1)."""

from __future__ import annotations

import asyncio
import signal
import sqlite3
from contextlib import closing
from pathlib import Path

import msgspec

from partyline.topics import covers
from tests.process import serving

from .clients import LONG, TRIALS, Http, history, offset_of, run, seeded
from .parties import EventSubscriber, HttpPublisher, Ledger, LinePublisher, LineSubscriber, Subscriber, taking_part

ROUNDS = 200 if TRIALS else 20
TOPICS = ("t.0", "t.1", "t.2", "u")
QUIET = "quiet"  # nobody publishes there before the end, so its subscriber depends on being told its position
EVERY = (*TOPICS, QUIET)
SETTINGS = ("--set", "max_messages=100000000", "--set", "ping_interval=100ms")


def test_killed_at_any_instant(tmp_path: Path) -> None:
    """Whenever the server is killed, acknowledged messages are at their positions, in one order without gaps, a retry
    is stored once, and every subscriber that resumes gets its whole view once and in order."""
    run(kill_and_check(tmp_path / "partyline.db"))


async def kill_and_check(db: Path) -> None:
    seed, chance = seeded()
    async with serving(db=db) as server:
        ledger = Ledger(server.port, TOPICS, chance)
        epochs = {server.facts["log"].partition("epoch ")[2][:16]}
        await server.end()
    publishers = [
        *(HttpPublisher(ledger, f"single{n}") for n in range(3)),
        *(HttpPublisher(ledger, f"batch{n}", batch=8) for n in range(2)),
        *(LinePublisher(ledger, f"line{n}") for n in range(2)),
    ]
    quiet = LineSubscriber(ledger, QUIET)
    subscribers: list[LineSubscriber | EventSubscriber] = [
        LineSubscriber(ledger, "t.0"),
        LineSubscriber(ledger, "t.*"),
        LineSubscriber(ledger, ">", "t.*", "t.0"),
        LineSubscriber(ledger, "t.1", "t.*", "*", "u"),
        quiet,
        EventSubscriber(ledger, "t.1"),
        EventSubscriber(ledger, "u"),
    ]
    async with taking_part(publishers) as publishing, taking_part(subscribers) as subscribing:
        parties = [*publishing, *subscribing]
        for _ in range(ROUNDS):
            async with serving(*SETTINGS, db=db, port=ledger.port) as server:
                epochs.add(server.facts["log"].partition("epoch ")[2][:16])
                ledger.up.set()
                # A random instant, from before the first connection to well into the traffic.
                await asyncio.wait(parties, timeout=chance.uniform(0.0, 0.5), return_when=asyncio.FIRST_EXCEPTION)
                ledger.up.clear()
                assert await server.end(signal.SIGKILL) == -signal.SIGKILL
            assert not any(task.done() for task in parties), [task for task in parties if task.done()]
        async with serving(*SETTINGS, db=db, port=ledger.port) as server:
            epochs.add(server.facts["log"].partition("epoch ")[2][:16])
            ledger.ending = True
            ledger.up.set()
            await asyncio.wait_for(asyncio.gather(*publishing), LONG)
            async with Http.open(ledger.port) as http:  # one more in each topic, so that everybody sees the end
                last = [(await http.call("POST", f"/v1/topics/{t}/messages", {"data": "end"}))[1] for t in EVERY]
            for subscriber in subscribers:
                subscriber.finish = max(offset_of(one["position"]) for one in last if subscriber.sees(one["topic"]))
            await asyncio.gather(*(subscriber.finished() for subscriber in subscribers))
            log = {offset_of(m["position"]): m for topic in EVERY for m in await history(server.port, topic)}
            ledger.up.clear()
            assert await server.end() == 0

    assert quiet.told > 0, "the quiet subscriber was never told of its position"
    assert len(epochs) == 1
    assert sorted(log) == list(range(1, len(log) + 1))
    ids = [log[offset]["id"] for offset in sorted(log)]
    assert len(set(ids)) == len(ids), "a retry was stored twice"
    lost = 0
    for message_id, position in ledger.acknowledged.items():
        found, sent = log.get(offset_of(position)), ledger.sent[message_id]
        lost += found is None or (found["id"], found["topic"], found["data"]) != (sent.id, sent.topic, sent.data)
    assert lost == 0
    assert ledger.sent.keys() == ledger.acknowledged.keys()
    assert len(ids) == len(ledger.sent) + len(EVERY), "something is there that nobody sent"
    for publisher in publishers:
        own = [int(name.rpartition("-")[2]) for name in ids if name.startswith(f"{publisher.name}-")]
        assert own == list(range(len(own))), f"{publisher.name} is out of order"

    figures = ledger.tally | {"missing": 0, "duplicates": 0, "out of order": 0, "asked again": 0, "received": 0}
    for subscriber in subscribers:
        check(subscriber, log, figures)
    assert figures["duplicates"] == figures["missing"] == figures["out of order"] == 0, figures
    for what in ("connections lost", "sent again", "unanswered but stored"):
        assert figures[what] > 0, f"no {what}: the kills met nothing"
    with closing(sqlite3.connect(db)) as connection:
        assert connection.execute("PRAGMA integrity_check").fetchone() == ("ok",)
    print(f"rounds {ROUNDS}, seed {seed}, lost 0, {', '.join(f'{k} {v}' for k, v in sorted(figures.items()))}")


def check(subscriber: Subscriber, log: dict[int, dict[str, object]], figures: dict[str, int]) -> None:
    """Compare what `subscriber` got with the log."""
    expected = {o: m for o, m in log.items() if any(covers(name, str(m["topic"])) for name in subscriber.names)}
    assert subscriber.got.keys() <= expected.keys(), "something arrived that is not in the log"
    for offset, (topic, message_id, data) in subscriber.got.items():
        message = expected[offset]
        assert (topic, message_id, msgspec.json.decode(data)) == (message["topic"], message["id"], message["data"])
    figures["received"] += len(subscriber.order)
    figures["missing"] += len(expected) - len(subscriber.got)
    if isinstance(subscriber, LineSubscriber):
        figures["duplicates"] += subscriber.doubled + subscriber.unasked
        figures["out of order"] += subscriber.unordered
    if isinstance(subscriber, EventSubscriber) or (isinstance(subscriber, LineSubscriber) and subscriber.ordered):
        figures["duplicates"] += subscriber.repeated
        figures["out of order"] += sum(b < a for a, b in zip(subscriber.order, subscriber.order[1:], strict=False))
    else:
        figures["asked again"] += subscriber.repeated
