"""`python -m tests.soak`: a server under a mixed load for any length of time; what it holds must stay flat.

Two thousand clients of every dialect come and go, some do not read, strangers send what is malformed or too much, and
publishers number what they publish. Checked at the end: nobody missed a message that was accepted; memory, descriptors,
tasks and timers did not grow; and after everybody has left they are back where they were. The exit status is 0 only
then. The plot is for people.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import random
import statistics
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

from tests.crash.clients import Http, history, raise_descriptors, run
from tests.process import environment

from .parties import FLOODS, KINDS, MALFORMED, ClassicSubscriber, Soak, Subscriber, Topic, misbehave, publish
from .plot import svg

TOPICS = 20
BIG = 60_000  # bytes of a message that slow subscribers cannot take
# Bytes that are written and read before anybody comes: SQLite caches 16 MiB of what it writes, and as much of what it
# reads. Memory that these take later would look like a leak.
CACHED = 20_000_000
# Allowed growth from the second quarter of the steady time to the last: by this factor and this much.
GROWTH = {"resident MB": (1.10, 6.0), "descriptors": (1.05, 30), "tasks": (1.10, 30), "timers": (1.10, 60)}
# How much more than before may be left once everybody has gone.
REST = {"descriptors": 10, "tasks": 3, "connections": 0}
RATES = ("published", "received", "connections ended", "strangers", "floods")


@dataclass(slots=True)
class Watch:
    """A server process, and what it held second by second."""

    process: asyncio.subprocess.Process
    port: int
    began: float = field(default_factory=time.monotonic)
    seconds: list[float] = field(default_factory=list)
    series: dict[str, list[float]] = field(default_factory=dict)
    wrong: list[str] = field(default_factory=list)

    async def look(self, soak: Soak) -> None:
        """Take a sample with every line that the server says, until it ends."""
        assert self.process.stdout is not None
        before = dict.fromkeys(RATES, 0)
        while line := await self.process.stdout.readline():
            now = time.monotonic() - self.began
            root = f"/proc/{self.process.pid}"
            pages = int(Path(f"{root}/statm").read_text().split()[1])
            sample: dict[str, float] = {
                "resident MB": pages * os.sysconf("SC_PAGE_SIZE") / 1e6,
                "descriptors": len(os.listdir(f"{root}/fd")),
                **json.loads(line),
            }
            passed = max(0.1, now - (self.seconds[-1] if self.seconds else 0.0))
            for name in RATES:
                sample[f"{name} /s"] = (soak.tally[name] - before[name]) / passed
                before[name] = soak.tally[name]
            self.seconds.append(now)
            for name, value in sample.items():
                self.series.setdefault(name, []).append(value)

    def between(self, name: str, start: float, end: float) -> float:
        """The median of a series in a stretch of time."""
        pairs = zip(self.seconds, self.series[name], strict=True)
        return statistics.median(value for second, value in pairs if start <= second <= end)

    def grown(self, name: str) -> float:
        """How much more of it there is than before anybody connected."""
        return self.series[name][-1] - self.series[name][1]

    def now(self) -> float:
        return time.monotonic() - self.began


@asynccontextmanager
async def watched(db: Path) -> AsyncIterator[Watch]:
    """A watched server, ended at the end. `wrong` then lists what was wrong with it."""
    command = [sys.executable, "-m", "tests.soak.server", str(db)]
    log = db.with_suffix(".log")
    with log.open("wb") as errors:
        process = await asyncio.create_subprocess_exec(
            *command, stdout=asyncio.subprocess.PIPE, stderr=errors, env=environment()
        )
    assert process.stdout is not None
    try:
        facts = json.loads(await process.stdout.readline())
        watch = Watch(process, int(facts["listening"].rpartition(":")[2]))
        yield watch
        process.terminate()
        code = await asyncio.wait_for(process.wait(), 60)
        said = log.read_text()
        if code:
            watch.wrong.append(f"the server ended with {code}: {said[-2000:]}")
        if count := said.count("Traceback"):
            watch.wrong.append(f"{count} stack traces in its log, the first: {said[said.index('Traceback') :][:2000]}")
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()


def invited(soak: Soak, clients: int) -> tuple[list[Topic], list[Subscriber]]:
    """The topics, and as many subscribers of each kind as the kind's share."""
    topics = [Topic(f"soak.{number}") for number in range(TOPICS)]
    big, ticks = Topic("soak.big", BIG), Topic("the main namespace")
    parties: list[Subscriber] = []
    for kind, (make, share) in KINDS.items():
        for number in range(max(1, round(clients * share))):
            topic = {"slow v1": big, "recovery": ticks}.get(kind, topics[number % TOPICS])
            parties.append(make(soak, topic))
    return [*topics, big], parties


async def wait_for(what: str, met: Callable[[], bool], seconds: float) -> bool:
    """Wait until `met()` is true; whether it was in time."""
    deadline = time.monotonic() + seconds
    while not met():
        if time.monotonic() > deadline:
            print(f"not within {seconds:.0f} s: {what}", flush=True)
            return False
        await asyncio.sleep(0.2)
    return True


async def soak_for(options: argparse.Namespace, folder: Path) -> list[str]:
    """Run it; what was wrong."""
    async with watched(folder / "soak.db") as watch:
        soak = Soak(watch.port, random.Random(options.seed))
        watching = asyncio.create_task(watch.look(soak))
        marks: list[float] = []  # the begin and end of the steady time, and when all had left
        try:
            await asyncio.sleep(3)
            await _load(soak, watch, options, marks)
            _judge(watch, marks)
        finally:
            title = f"{options.clients:,} clients, {options.seconds} s, seed {options.seed}"
            Path(options.plot).write_text(svg(title, watch.seconds, watch.series, marks), "utf-8")
            print(f"the plot is in {options.plot}")
    await watching
    for name, count in sorted(soak.tally.items()):
        print(f"{count:12,}  {name}")
    return [*soak.wrong, *watch.wrong]


async def _load(soak: Soak, watch: Watch, options: argparse.Namespace, marks: list[float]) -> None:
    """Everybody connects, stays, and leaves."""
    async with Http.open(soak.port) as http:
        for _ in range(CACHED // 500_000):
            _, answer = await http.call("POST", "/v1/topics/soak.first/messages", {"data": "x" * 500_000})
        soak.epoch = answer["position"].rpartition("-")[0]
    await history(soak.port, "soak.first")
    topics, parties = invited(soak, options.clients)
    stopped = asyncio.Event()
    background = [asyncio.create_task(misbehave(soak, "strangers", MALFORMED, 0.2, 1.0)) for _ in range(8)]
    background += [asyncio.create_task(misbehave(soak, "floods", FLOODS, 2.0, 3.0)) for _ in range(2)]
    living = []
    for number, party in enumerate(parties):
        living.append(asyncio.create_task(party.live()))
        if number % 50 == 0:
            await asyncio.sleep(0.1)
    if not await wait_for("everybody is in", lambda: all(party.entered for party in parties), 60):
        soak.fault("not everybody came in")
    marks.append(watch.now())
    for number, topic in enumerate(topics):
        interval = 0.15 if topic.filler == BIG else TOPICS / options.rate
        background.append(asyncio.create_task(publish(soak, topic, interval, by_line=number % 2 == 1, stopped=stopped)))
    done, _ = await asyncio.wait([*living, *background], timeout=options.seconds, return_when=asyncio.FIRST_EXCEPTION)
    for task in done:
        task.result()
    marks.append(watch.now())

    stopped.set()
    soak.calm = True
    complete = await wait_for("everybody has everything", lambda: all(party.complete for party in parties), 60)
    if not complete:
        for party in [party for party in parties if not party.complete][:10]:
            soak.fault(f"{party.kind} of {party.topic.name} has {party.last} of {party.topic.accepted}")
    await asyncio.wait(background, timeout=20)
    for topic in topics:
        kept = [message["data"]["n"] for message in await history(soak.port, topic.name)]
        if kept[: topic.accepted] != list(range(1, topic.accepted + 1)):
            soak.fault(f"the log of {topic.name} has {len(kept)} messages, {topic.accepted} were accepted")
    for task in [*living, *background]:
        task.cancel()
    await asyncio.wait([*living, *background])
    for party in parties:
        if isinstance(party, ClassicSubscriber):
            await party.leave()
    marks.append(watch.now())
    await wait_for("nothing is left", lambda: all(watch.grown(name) <= more for name, more in REST.items()), 30)


def _judge(watch: Watch, marks: Sequence[float]) -> None:
    """What grew, and what was left."""
    began, ended, _ = marks
    quarter = (ended - began) / 4
    for name, (factor, more) in GROWTH.items():
        early = watch.between(name, began + quarter, began + 2 * quarter)
        late = watch.between(name, ended - quarter, ended)
        print(f"{name}: {early:,.1f} in the second quarter, {late:,.1f} in the last")
        if late > early * factor + more:
            watch.wrong.append(f"{name} grew from {early:,.1f} to {late:,.1f}")
    for name, more in REST.items():
        before, after = watch.series[name][1], watch.series[name][-1]
        print(f"{name}: {before:,.0f} before anybody came, {after:,.0f} after all had left")
        if watch.grown(name) > more:
            watch.wrong.append(f"{name}: {before:,.0f} before, {after:,.0f} after all had left")


def main() -> int:
    """Run and report; returns the exit status."""
    parser = argparse.ArgumentParser(prog="python -m tests.soak", description="A mixed load; does it leave traces?")
    parser.add_argument("--seconds", type=int, default=600, help="how long the load is steady (default: %(default)s)")
    parser.add_argument("--clients", type=int, default=2_000, help="how many there are (default: %(default)s)")
    parser.add_argument("--rate", type=float, default=20.0, help="messages a second in all (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=int(os.environ.get("PARTYLINE_SEED") or random.randrange(1 << 32)))
    parser.add_argument("--plot", default="soak.svg", help="where the plot is written (default: %(default)s)")
    options = parser.parse_args()
    print(f"seed {options.seed} (--seed {options.seed} repeats it)", flush=True)
    if raise_descriptors() < 2 * options.clients + 500:
        print(
            f"{options.clients} clients need {2 * options.clients + 500} file descriptors: ulimit -Hn", file=sys.stderr
        )
        return 2
    with tempfile.TemporaryDirectory() as folder:
        wrong = run(soak_for(options, Path(folder)))
    for what in wrong:
        print(f"WRONG: {what}")
    print("nothing was wrong" if not wrong else f"{len(wrong)} things were wrong")
    return bool(wrong)


if __name__ == "__main__":
    sys.exit(main())
