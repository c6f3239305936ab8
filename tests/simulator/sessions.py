"""A deterministic simulator of sessions that go from node to node: a seed decides every interleaving.

The sessions, what is written later, and the company of nodes are the real ones, on a loop that turns when told. Around
them are a table that is slow and fails before or after it has done what it was asked, a bus that is slow, and nodes
that are killed at any moment, between taking a row and writing it, too. The promises:

- one node has a session at a time, however many clients ask for it at once
- a node that lives hands over what it knows, not what it has written
- of a node that was killed remains what it has written, or nothing, and never anything newer or of another session
- when everything has come to rest, the row of a session is that of the node that has it, unless somebody else took it
  in vain
"""

from __future__ import annotations

import asyncio
import random
from collections import Counter, deque
from collections.abc import Iterable
from typing import Any, Final

import msgspec

from partyline.errors import StoreUnavailable
from partyline.hub.company import Company
from partyline.hub.timers import Timers
from partyline.interfaces import SessionRow
from partyline.metrics import Counters
from partyline.models import Position
from partyline.nodes.sessions import Sessions
from partyline.testing.bus import MemoryBus, MemoryNetwork
from partyline.testing.tables import MemoryTable, MemoryTables

from .hub import Violation
from .loop import SteppedLoop
from .nodes import running

NODES: Final = 3
PIDS: Final = 3
_SECONDS: Final = (0.0, 0.0, 0.01, 0.3)  # that something is on its way


class SlowTable(MemoryTable):
    """A table whose answers take their time, and may be lost."""

    world: World

    async def take(self, key: str) -> bytes | None:
        await self._way()
        value = await super().take(key)
        await self._way()
        return value

    async def put(self, key: str, value: bytes, life: float) -> None:
        await self._way()
        await super().put(key, value, life)
        await self._way()

    async def _way(self) -> None:
        if seconds := self.world.chance.choice(_SECONDS):
            await asyncio.sleep(seconds)
        if self.world.faults and self.world.chance.random() < 0.03:
            self.world.trouble += 1
            raise StoreUnavailable("lost on the way")


class SlowNetwork(MemoryNetwork):
    """Messages take their time, in their order."""

    def __init__(self, world: World) -> None:
        super().__init__()
        self.world = world
        self._last = 0.0

    def carry(self, subject: str, message: bytes) -> None:
        loop = asyncio.get_running_loop()
        self._last = max(self._last, loop.time() + self.world.chance.choice(_SECONDS))
        loop.call_at(self._last, super().carry, subject, message)


class Node:
    """One node, until it is killed. `has` are the sessions that it has, in use or not."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.bus: MemoryBus = world.network.bus()
        self.company = Company(self.bus, world.timers, Counters())
        table = SlowTable(world.tables, "sessions")
        table.world = world
        self.sessions = world.sessions(table, self.company)
        self.sessions.serve(self.hand_over)
        self.has: dict[bytes, SessionRow] = {}
        self.claiming: set[bytes] = set()
        self.tasks: list[asyncio.Task[None]] = []
        self.alive = True

    def hand_over(self, pid: bytes) -> tuple[SessionRow, int] | None:
        row = self.has.pop(pid, None) if self.alive else None
        return None if row is None else (row, -1)

    def save(self, row: SessionRow) -> None:
        self.has[row.pid_hash] = row
        self.sessions.save(row)

    async def come(self, pid: bytes) -> None:
        """A client asks for its session here."""
        if pid in self.has or pid in self.claiming:
            return
        self.claiming.add(pid)
        holders = [node for node in self.world.nodes if pid in node.has]
        calm, known = self.world.trouble, max((node.has[pid].data["n"] for node in holders), default=0)
        try:
            found = await self.sessions.claim(pid)
        except StoreUnavailable:
            self.world.unsure.add(pid)
            return
        finally:
            self.claiming.discard(pid)
        if found is None:
            self.world.unsure.add(pid)
            return
        row, _ = found
        number = row.data["n"]
        self.world.tally["taken over"] += 1
        self.world.check(row.pid_hash == pid, "another session")
        self.world.check(number <= self.world.newest[pid], "it is newer than it can be")
        if holders and all(node.alive for node in holders) and calm == self.world.trouble:
            self.world.check(number >= known, f"a node that lives knew {known}, and {number} was handed over")
        self.save(row)


class World:
    """Nodes, and clients that come to any of them."""

    def __init__(self, seed: int, *, sessions: type[Sessions] = Sessions) -> None:
        self.seed = seed
        self.chance = random.Random(seed)
        self.sessions = sessions
        self.loop = SteppedLoop()
        self.tables = MemoryTables(clock=lambda: 0.0)
        self.network = SlowNetwork(self)
        self.faults = True
        self.trouble = 0
        self.tally: Counter[str] = Counter()
        self.newest: Counter[bytes] = Counter()
        self.pids = [b""] * PIDS
        self.unsure: set[bytes] = set()  # whose row may have been taken by somebody who did not get it
        self.nodes: list[Node] = []
        self._trace: deque[str] = deque(maxlen=40)
        self._tasks: list[asyncio.Task[Any]] = []

    def run(self, steps: int) -> Counter[str]:
        with running(self.loop):
            self.timers = Timers(self.loop)
            for _ in range(NODES):
                self.start()
            self.turn(2.0)
            for _ in range(steps):
                self.step()
            self.settle()
            for task in asyncio.all_tasks(self.loop):
                task.cancel()
            while self.loop.turn():
                pass
        return self.tally

    def start(self) -> None:
        node = Node(self)
        self.nodes.append(node)
        self._tasks.append(self.loop.create_task(node.company.start()))

    def step(self) -> None:
        chance, roll = self.chance, self.chance.random()
        node, place = chance.choice(self.nodes), chance.randrange(PIDS)
        pid = self.pids[place]
        if roll < 0.45:
            self.turn(chance.choice((0.0, 0.01, 0.1)))
        elif roll < 0.70:
            self._trace.append(f"{pid!r} comes to {self.nodes.index(node)}")
            for one in chance.sample(self.nodes, chance.choice((1, 1, 2))):
                one.tasks.append(self.loop.create_task(one.come(pid)))
        elif roll < 0.95:
            self.change(node, pid)
        elif roll < 0.97:
            self.kill(node)
        elif not any(pid in one.has for one in self.nodes):
            self.begin(node, place)

    def begin(self, node: Node, place: int) -> None:
        """A client has lost its session, and begins a new one."""
        pid = self.pids[place] = b"%d" % len(self.newest)
        self.newest[pid] += 1
        self._trace.append(f"{pid!r} begins on {self.nodes.index(node)}")
        node.save(SessionRow(pid, "/", "s", (), {"n": self.newest[pid]}, Position("0" * 16, 0)))

    def change(self, node: Node, pid: bytes) -> None:
        row = node.has.get(pid)
        if row is not None:
            self.newest[pid] += 1
            self._trace.append(f"{pid!r} changes on {self.nodes.index(node)}: {self.newest[pid]}")
            node.save(SessionRow(pid, "/", "s", (), {"n": self.newest[pid]}, row.start))

    def kill(self, node: Node) -> None:
        self._trace.append(f"{self.nodes.index(node)} is killed")
        self.tally["kill"] += 1
        self.trouble += 1
        node.alive = False
        self.unsure |= node.claiming
        node.has.clear()
        node.bus.cut = True
        self.network.buses.remove(node.bus)
        behind = node.sessions._behind
        for task in (behind._writing, *behind._under_way.values(), *node.tasks, *node.company._working):
            if task is not None:
                task.cancel()
        behind._changed.clear()
        self.timers.cancel(node.company.cluster)
        self.nodes.remove(node)
        for other in self.nodes:
            other.company.cluster.lose(node.bus.node)
        self.start()
        self.turn(0.0)

    def turn(self, seconds: float) -> None:
        for _ in range(500):
            if not self.loop.turn():
                break
        self.loop.advance(seconds)
        for pid in self.newest:
            holders = [node for node in self.nodes if pid in node.has]
            self.check(len(holders) <= 1, f"{len(holders)} nodes have {pid!r}")

    def settle(self) -> None:
        self.faults = False
        for _ in range(100):
            self.turn(0.3)
        for pid in self.newest:
            holders = [node for node in self.nodes if pid in node.has]
            kept = self.tables.values["sessions"].get(pid.hex())
            for node in holders:
                own = node.sessions._row(node.has[pid], -1)
                if kept is None and pid in self.unsure:
                    continue  # until it changes: if its node is killed before, the client begins anew
                is_own = kept is not None and kept[0] == msgspec.msgpack.encode(own)
                self.check(is_own, f"the row of {pid!r} is not that of the node that has it")
        tasks = [*self._tasks, *(task for node in self.nodes for task in node.tasks)]
        failed = [task.exception() for task in tasks if task.done() and not task.cancelled() and task.exception()]
        self.check(not failed and not self.loop.errors, f"something failed: {failed} {self.loop.errors}")

    def check(self, true: bool, broken: str) -> None:
        if not true:
            trace = "\n  ".join(self._trace)
            raise Violation(f"{broken} (seed {self.seed}):\n  {trace}")


def simulate(seeds: Iterable[int], steps: int = 300, **parts: Any) -> Counter[str]:
    """Run a world for each seed. Raises Violation for the first broken promise."""
    tally: Counter[str] = Counter()
    for seed in seeds:
        tally += World(seed, **parts).run(steps)
    return tally
