"""A deterministic simulator of several nodes on one log: a seed decides every interleaving.

The stores for shared logs, the hubs and the catching up are the real ones, on a loop that turns when told and whose
time is moved by hand. Around them are a log that is slow, loses requests and answers, takes appends late, forgets what
is old, and fails over to an older state; nodes that are killed and start again; publishers that retry on any node; and
clients that drop and resume on any node. The promises are those of `tests.simulator.hub`, across nodes:

- a subscriber gets everything of its view in increasing offset, each message once, wherever it resumes, or is told
- an epoch and an offset name one message for everybody
- what a node has acknowledged has been handed out there, and stays in the log unless a failover is told by a new epoch
- every publish is answered, and each message is stored once
- a position that another node has told is recovered while nothing fails, though this node may be slower
"""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Final

from partyline.errors import PartylineError, StoreUnavailable
from partyline.hub.history import Start, resume
from partyline.hub.hub import Hub
from partyline.interfaces import Fenced, News, Outcome, Overrun, Renewed, Stored, Stretch, View
from partyline.metrics import Counters
from partyline.models import Draft, Message, Payload, Position, Receipt
from partyline.stores.shared import SharedStore
from partyline.testing.memory_log import MemoryHandle, MemoryLog

from .hub import Violation, _Numbers
from .loop import SteppedLoop

NODES: Final = 3
CLIENTS: Final = 4
TOPICS: Final = ("a.b", "a.c", "d")
VIEWS: Final = (View(frozenset(("a.b",))), View(frozenset(("d",))), View(patterns=("a.*",)), View(patterns=(">",)))
_DIALECT: Final = _Numbers()
_SECONDS: Final = (0.0, 0.0, 0.0, 0.01, 0.3)  # that a request or an answer is on its way


class SaboteurLog(MemoryLog):
    """What all nodes share. `known`: the log says itself that it has failed over, by a new epoch."""

    def __init__(self, world: Simulation, *, known: bool) -> None:
        super().__init__(clock=lambda: 0.0)
        self.known = known
        self.lineage = 0  # how often it has failed over
        self.world = world

    def append(self, epoch: str, groups: Sequence[Sequence[Draft]]) -> list[Outcome]:
        outcomes = super().append(epoch, groups)
        for outcome in outcomes:
            if isinstance(outcome, Stored) and not outcome.duplicate:
                self.world.kept(self.epoch, outcome.message)
        return outcomes

    def renew(self, epoch: str) -> None:
        known = epoch == self.epoch
        super().renew(epoch)
        if known:
            self.world.renewed(epoch)

    def fail_over(self, head: int) -> None:
        """Go on with the state of a replica that was a little late."""
        self.records.roll_back(head)
        self.lineage += 1
        if self.known:
            self.renew(self.epoch)
        self.ring()


class SaboteurHandle(MemoryHandle):
    """One node's way to it."""

    log: SaboteurLog

    def __init__(self, log: SaboteurLog) -> None:
        super().__init__(log)
        self._chance = log.world.chance
        self._lineage = log.lineage
        self.calm_at = 0.0  # from then on what went wrong on this way is over

    async def before(self, what: str) -> None:
        await self._travel()
        await super().before(what)
        if what == "connect":
            self._lineage = self.log.lineage
        elif self._lineage != self.log.lineage:
            raise self.lost("the connection broke in a failover")

    async def after(self, what: str) -> None:
        await self._travel()
        await super().after(what)

    async def append(self, epoch: str, groups: Sequence[Sequence[Draft]]) -> Sequence[Outcome]:
        if self.log.world.faults and self._chance.random() < 0.03:
            late = partial(self._land, epoch, list(groups), self._lineage)
            asyncio.get_running_loop().call_later(self._chance.choice((0.1, 1.0, 4.0)), late)
            raise self.lost("the append is on its way")
        return await super().append(epoch, groups)

    async def tail(self, epoch: str, after: int, limit: int, wait: float) -> Stretch:
        return await super().tail(epoch, after, self._chance.randint(1, limit), wait)

    def _land(self, epoch: str, groups: Sequence[Sequence[Draft]], lineage: int) -> None:
        if lineage == self.log.lineage:
            with contextlib.suppress(Fenced):
                self.log.append(epoch, groups)

    async def _travel(self) -> None:
        if seconds := self._chance.choice(_SECONDS):
            await asyncio.sleep(seconds)
        if self.log.world.faults and self._chance.random() < 0.01:
            if self._chance.random() < 0.3:
                self.lost("it hangs")
                self.calm_at += 10.0
                await asyncio.sleep(10.0)  # longer than anybody waits
            raise self.lost("lost on the way")

    def lost(self, why: str) -> StoreUnavailable:
        """Something goes wrong: it takes its time until the node is connected again and has caught up."""
        self.log.world.trouble += 1
        self.calm_at = max(self.calm_at, asyncio.get_running_loop().time() + 5.0)
        return StoreUnavailable(why)


class Node:
    """One node, until it is killed."""

    def __init__(self, world: Simulation, store: SharedStore) -> None:
        self.world, self.store = world, store
        self.handle: SaboteurHandle = store._shared  # type: ignore[assignment]
        self.links: set[Link] = set()
        self.handed_out = store.head
        self.asked: Counter[str] = Counter()  # publishes without an answer, by their ids
        start = store.start

        def starting(committed: Callable[[Sequence[Outcome | News]], None]) -> None:
            def hand_out(batch: Sequence[Outcome | News]) -> None:
                for outcome in batch:
                    match outcome:
                        case Stored(duplicate=False):
                            self.handed_out = outcome.message.offset or 0
                        case Overrun(oldest):
                            self.handed_out = oldest - 1
                            world.tally["overrun"] += 1
                        case Renewed():
                            self.handed_out = outcome.head
                            world.tally["renewed"] += 1
                committed(batch)

            start(hand_out)

        store.start = starting  # type: ignore[method-assign]
        self.hub = world.hub_type(store, Counters(), clock=float)
        self.hub.displaced = self.displace

    def displace(self) -> None:
        """Everybody has to come back, as after a restart."""
        self.world.tally["displaced"] += 1
        for link in tuple(self.links):
            link.close(1012)


@dataclass(slots=True)
class Item:
    """What a client reads: a message, or where it goes on."""

    position: Position
    message: bool
    told: int = 0  # something may be missing up to here, which is told


class Link:
    """A connection of a client with its one subscription: `interfaces.Member` and `hub.history.Sink`."""

    def __init__(self, client: Client, node: Node) -> None:
        self.client, self.node, self.world = client, node, client.world
        self.dialect = _DIALECT
        self.user = None
        self.rooms: tuple[str, ...] | set[str] = ()
        self.epoch = node.store.epoch
        self.inbox: deque[Item] = deque()
        self.last = -1
        self.closed = self.live = False
        node.links.add(self)
        node.hub.add(self)
        self.after = client.position
        self.trouble = self.world.trouble if node.handle.calm_at < self.world.loop.time() else -1
        self.task = self.world.loop.create_task(self._resume())

    async def _resume(self) -> None:
        try:
            await resume(self.node.hub, self.node.store, self.client.view, self.after, self)
        except StoreUnavailable:
            self.world.tally["unreadable"] += 1
            self.close(1013)

    def leave(self) -> None:
        """The connection is gone."""
        self.close(1006)
        self.task.cancel()
        self.node.links.discard(self)
        self.node.hub.remove(self)

    # interfaces.Member

    def offer(self, payload: Payload) -> None:
        offset, _, name = payload.data.partition(b" ")
        self.take(int(offset), name.decode())

    def close(self, code: int, reason: str = "") -> None:
        self.closed = True

    def take(self, offset: int, name: str) -> None:
        if self.closed:
            return
        world = self.world
        message = world.ever.get((self.epoch, offset))
        world.check(message is not None and message.draft.id == name, f"{self.epoch}-{offset} is not {name}")
        world.check(offset > self.last, f"{offset} came after {self.last} on one connection")
        self.last = offset
        world.tally["live" if self.live else "caught up"] += 1
        self.inbox.append(Item(Position(self.epoch, offset), message=True))

    # hub.history.Sink

    def began(self, start: Start) -> None:
        world, after = self.world, self.after
        if self.closed:
            return
        world.check(start.position.epoch == self.epoch, "a subscription began in another epoch than its connection")
        if not start.recovered and after is not None and after.epoch == self.epoch == world.log.epoch:
            calm = self.trouble == world.trouble and after.offset >= world.log.records.oldest - 1
            world.check(not calm, f"{after} could be recovered, and was not")
        if start.recovered and after is not None:
            world.check(after.epoch == self.epoch, f"{after} cannot be recovered, and was")
            if self.node.handed_out > after.offset:
                world.tally["resumed"] += 1
        self.last = start.position.offset
        if not start.recovered or after is None:
            world.tally["told"] += 1
            self._tell(start)

    async def deliver(self, message: Message) -> None:
        await asyncio.sleep(0)
        self.take(message.offset or 0, message.draft.id)

    def gap(self, start: Start) -> None:
        if not self.closed:
            self.world.tally["gap"] += 1
            self._tell(start)

    def _tell(self, start: Start) -> None:
        self.inbox.append(Item(start.position, message=False, told=start.oldest.offset if start.oldest else 0))

    def attach(self) -> None:
        if self.closed:
            return
        self.live = True
        view = self.client.view
        for room in view.rooms:
            self.node.hub.join(self, room)
        for pattern in view.patterns:
            self.node.hub.join_pattern(self, pattern)


class Client:
    """What one client wants, and how far it is."""

    def __init__(self, world: Simulation, view: View) -> None:
        self.world, self.view = world, view
        self.link: Link | None = None
        self.position: Position | None = None
        self.told = 0
        self.got: set[tuple[str, int]] = set()

    def act(self) -> str:
        link, chance = self.link, self.world.chance
        if link is None:
            return self.connect()
        if link.inbox and chance.random() < 0.8:
            return self.read()
        if (link.closed and chance.random() < 0.5) or chance.random() < 0.05:
            return self.drop()
        return "waits"

    def connect(self) -> str:
        nodes = [node for node in self.world.nodes if node is not None]
        if not nodes:
            return "finds no node"
        node = self.world.chance.choice(nodes)
        self.link = Link(self, node)
        return f"connects to {self.world.nodes.index(node)} with {self.position}"

    def drop(self) -> str:
        link, self.link = self.link, None
        assert link is not None
        link.leave()
        return "drops"

    def read(self) -> str:
        assert self.link is not None
        item = self.link.inbox.popleft()
        if item.message:
            self.advance(item.position, item.position.offset - 1)
            self.got.add((item.position.epoch, item.position.offset))
        else:
            self.told = item.told
        self.position = item.position
        return f"reads {item.position}"

    def advance(self, position: Position, complete: int) -> None:
        """All of the view up to `complete` must have been read."""
        before = self.position
        assert before is not None
        self.world.check(before.epoch == position.epoch, f"{position} came after {before}, and nothing was told")
        for offset in range(max(before.offset, self.told) + 1, complete + 1):
            message = self.world.ever.get((position.epoch, offset))
            lost = message is not None and self.view.sees(message.draft) and (position.epoch, offset) not in self.got
            self.world.check(not lost, f"{position.epoch}-{offset} was skipped, and is lost")


@dataclass(slots=True)
class Publish:
    """A message, and what became of it."""

    draft: Draft
    open: int = 0
    positions: list[Position] = field(default_factory=list)


class Simulation:
    """One run. `store` and `hub` are types: a mutant of either must be caught."""

    def __init__(
        self, seed: int, *, store: type[SharedStore] = SharedStore, hub: type[Hub] = Hub, known: bool = True
    ) -> None:
        self.seed = seed
        self.chance = random.Random(seed)
        self.loop = SteppedLoop()
        self.faults = True
        self.trouble = 0  # how often something has failed
        self.tally: Counter[str] = Counter()
        self.store_type, self.hub_type = store, hub
        self.ever: dict[tuple[str, int], Message] = {}
        self.log = SaboteurLog(self, known=known)
        self.lost: list[tuple[str, int]] = []  # of each failover, the epoch of before and the head that was left
        self.nodes: list[Node | None] = [None] * NODES
        self._starting: list[asyncio.Task[Any] | None] = [None] * NODES
        self.clients = [Client(self, VIEWS[number % len(VIEWS)]) for number in range(CLIENTS)]
        self.published: list[Publish] = []
        self._trace: deque[str] = deque(maxlen=40)
        self._broken: Violation | None = None
        self._steps = 0

    def run(self, steps: int) -> Counter[str]:
        """Take this many steps, let everything come to rest, and check that nothing is missing. Raises Violation."""
        with running(self.loop):
            try:
                for number in range(NODES):
                    self.start(number)
                self.turn(200)
                for _ in range(steps):
                    self.step()
                self.settle()
            finally:
                self._end()
        return self.tally

    def step(self) -> None:
        """One decision of the scheduler."""
        self._steps += 1
        chance = self.chance
        roll = chance.random()
        if roll < 0.45:
            self.turn(chance.choice((1, 3, 20)))
        elif roll < 0.55:
            self.turn(500)  # nobody is too late because the loop was not turned
            self.loop.advance(chance.choice((0.01, 0.1, 0.3)))
        elif roll < 0.65:
            self._trace.append(self.publish())
        elif roll < 0.97:
            client = chance.choice(self.clients)
            self._trace.append(f"client {self.clients.index(client)}: {client.act()}")
        elif roll < 0.98:
            self._trace.append(self.cut())
        elif roll < 0.987:
            self._trace.append(self.prune())
        elif roll < 0.992:
            self._trace.append(self.fail_over())
        elif self.log.known:
            self._trace.append(self.kill())
        self.check(not self.loop.errors, f"a callback raised: {self.loop.errors}")

    def turn(self, count: int) -> None:
        for _ in range(count):
            if not self.loop.turn():
                break
        self.check(True, "nothing new; but a hub may have caught what was found")

    def settle(self) -> None:
        """End all faults: everybody comes back and reads to the end."""
        self.faults = False
        for node in self.nodes:
            if node is not None:
                node.handle.cut = False
                node.handle.lost("it was cut off until now")
        for number in range(NODES):
            if self.nodes[number] is None and self._starting[number] is None:
                self.start(number)
        self.rest(lambda: all(node is not None for node in self.nodes) and not any(p.open for p in self.published))
        for publish in self.published:
            self.check(publish.open == 0, f"{publish.draft.id} was never answered")
        final = self.publish(retry=False)
        self._trace.append(f"at last: {final}")
        self.rest(lambda: not self.published[-1].open and all(self.is_level(node) for node in self.nodes))
        for client in self.clients:
            self.rest(lambda client=client: self.is_done(client))  # type: ignore[misc]
            self.check(self.is_done(client), f"a client of {client.view} does not get to the end")
            assert client.position is not None
            client.advance(Position(self.log.epoch, self.log.records.head), self.log.records.head)
        for number, node in enumerate(self.nodes):
            self.check(self.is_level(node), f"node {number} does not reach the head of the log")
        self._nothing_lost()
        self.tally["steps"] += self._steps

    def rest(self, done: Callable[[], bool]) -> None:
        for _ in range(400):
            if done():
                return
            self.turn(200)
            self.loop.advance(0.2)
            for client in self.clients:
                if client.link is not None and client.link.closed and not client.link.inbox:
                    client.drop()
                elif client.link is None or client.link.inbox:
                    client.act()

    def is_level(self, node: Node | None) -> bool:
        return node is not None and node.store.epoch == self.log.epoch and node.hub.fanned_out == self.log.records.head

    def is_done(self, client: Client) -> bool:
        link = client.link
        return link is not None and link.live and not link.closed and not link.inbox and self.is_level(link.node)

    def _nothing_lost(self) -> None:
        records = self.log.records
        for publish in self.published:
            for position in publish.positions:
                left = min((head for epoch, head in self.lost if epoch >= position.epoch), default=records.head)
                if records.oldest <= position.offset <= left:
                    there = records.at(position.offset)
                    kept = there is not None and there.draft.id == publish.draft.id
                    self.check(kept, f"{publish.draft.id} was acknowledged as {position}, and is not in the log")

    # What happens

    def start(self, number: int) -> None:
        """A node starts, once it can reach the log."""

        async def begin() -> None:
            handle = SaboteurHandle(self.log)
            while True:
                with contextlib.suppress(StoreUnavailable):
                    store = await self.store_type.open(handle)
                    break
            self.nodes[number] = Node(self, store)
            self._starting[number] = None

        self._starting[number] = self.loop.create_task(begin())

    def kill(self) -> str:
        """A node is killed, and another one starts in its place."""
        number = self.chance.randrange(NODES)
        node = self.nodes[number]
        if node is None:
            return "nobody to kill"
        self.nodes[number] = None
        for client in self.clients:
            if client.link is not None and client.link.node is node:
                client.drop()
        self._stop(node)
        for publish in self.published:
            publish.open -= node.asked[publish.draft.id]  # nobody will answer these
        self.start(number)
        self.tally["kill"] += 1
        return f"node {number} is killed"

    def _stop(self, node: Node) -> None:
        node.store.start = lambda committed: None  # type: ignore[method-assign]
        node.store._committed = lambda batch: None
        task = node.store._running
        if task is not None:
            task.cancel()
        node.store._stay_patient()

    def cut(self) -> str:
        """The way of one node to the log is cut, or there again."""
        node = self.chance.choice(self.nodes)
        if node is None:
            return "nothing to cut"
        handle = node.handle
        handle.cut = not handle.cut
        handle.lost("cut")
        self.log.ring()
        self.tally["cut"] += 1
        return f"node {self.nodes.index(node)} is {'cut off' if handle.cut else 'back'}"

    def prune(self) -> str:
        records = self.log.records
        self.trouble += 1
        records.prune(self.chance.randint(records.oldest, records.head + 1))
        return f"pruned below {records.oldest}"

    def fail_over(self) -> str:
        """The log has lost its newest messages."""
        records = self.log.records
        head = max(0, records.head - self.chance.choice((0, 1, 2, 5)))
        # By what they have handed out nodes can tell; but one that has not could append before the others know.
        if not self.log.known and (head == records.head or not all(self.is_level(node) for node in self.nodes)):
            return "no failover that every node would notice"
        self.trouble += 1
        self.lost.append((self.log.epoch, head))
        self.log.fail_over(head)
        self.tally["failover"] += 1
        return f"failover to {head}, epoch {self.log.epoch}"

    def publish(self, *, retry: bool = True) -> str:
        """Publish a message on some node, or one again."""
        nodes = [node for node in self.nodes if node is not None]
        if not nodes:
            return "no node to publish on"
        if retry and self.published and self.chance.random() < 0.3:
            publish = self.chance.choice(self.published[-8:])
        else:
            topic = self.chance.choice(TOPICS)
            publish = Publish(Draft(topic, b"1", f"m{len(self.published)}"))
            self.published.append(publish)
        node = self.chance.choice(nodes)
        publish.open += 1
        node.asked[publish.draft.id] += 1
        node.hub.publish(publish.draft, partial(self._answered, publish, node))
        return f"publish {publish.draft.id} on {self.nodes.index(node)}"

    def _answered(self, publish: Publish, node: Node, outcome: Receipt | PartylineError) -> None:
        publish.open -= 1
        node.asked[publish.draft.id] -= 1
        self.check(publish.open >= 0, f"{publish.draft.id} was answered twice")
        if isinstance(outcome, PartylineError):
            self.tally["refused"] += 1
            return
        position = outcome.position
        assert position is not None
        name = publish.draft.id
        kept = self.ever.get((position.epoch, position.offset))
        self.check(
            kept is not None and kept.draft.id == name, f"{name} was acknowledged as {position}, and is not there"
        )
        self.check(node.handed_out >= position.offset, f"{name} was acknowledged before it was handed out")
        others = {known for known in publish.positions if known.epoch == position.epoch and known != position}
        self.check(not others, f"{name} was stored twice: {others} and {position}")
        publish.positions.append(position)
        self.tally["duplicate" if outcome.duplicate else "acknowledged"] += 1

    def kept(self, epoch: str, message: Message) -> None:
        """A message is in the log."""
        assert message.offset is not None
        place = (epoch, message.offset)
        self.check(place not in self.ever, f"{epoch}-{message.offset} was given twice")
        self.ever[place] = message

    def renewed(self, before: str) -> None:
        """What the log has not lost is there in its new epoch, too."""
        after, head = self.log.epoch, self.log.records.head
        for (epoch, offset), message in list(self.ever.items()):
            if epoch == before and offset <= head:
                self.ever[after, offset] = message

    def check(self, true: bool, broken: str) -> None:
        if not true and self._broken is None:
            trace = "\n  ".join(self._trace)
            self._broken = Violation(f"{broken} (seed {self.seed}, step {self._steps}):\n  {trace}")
        if self._broken is not None:
            raise self._broken

    def _end(self) -> None:
        for node in self.nodes:
            if node is not None:
                self._stop(node)
        for client in self.clients:
            if client.link is not None:
                client.link.task.cancel()
        for task in self._starting:
            if task is not None:
                task.cancel()
        with contextlib.suppress(Violation):
            for _ in range(10_000):
                if not self.loop.turn():
                    break


@contextlib.contextmanager
def running(loop: SteppedLoop) -> Iterator[None]:
    """Let `loop` be the running one."""
    asyncio._set_running_loop(loop)
    try:
        yield
    finally:
        asyncio._set_running_loop(None)


def simulate(seeds: Iterable[int], steps: int, **parts: Any) -> Counter[str]:
    """Run a simulation for each seed; how often each thing happened. Raises Violation for the first broken promise."""
    tally: Counter[str] = Counter()
    for seed in seeds:
        tally += Simulation(seed, **parts).run(steps)
    return tally
