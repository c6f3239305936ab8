"""A deterministic simulator of the hub: a seed decides every interleaving, and each step checks the promises.

The hub and the catching up are the real ones. Around them are a store that commits late, fails, and brings rows back
after a failure; publishers that retry, and use an id for something else; clients that drop, resume, stall and overlap;
a server that is killed and starts again; and a scheduler that decides at every `await` which party goes on. Nothing
runs by itself: no loop, no thread, no clock. The same seed gives the same run, so that a broken promise is found again
by its number. The promises, as docs/reference/guarantees.md has them:

- nothing that was acknowledged is missing for a subscriber that resumes, and a skipped offset is never a loss
- offsets strictly increase within a subscription, and one connection receives none twice
- nothing leaves before its commit, reaches another user, or is at or before the requested position
- an unknown, pruned or too high position is not recovered, and every other one is
- a batch is accepted whole or not at all, and an id stands for one message
- an ephemeral message reaches each live subscriber in its audience once, and never again
"""

from __future__ import annotations

import random
import types
from collections import Counter, deque
from collections.abc import Callable, Coroutine, Generator, Iterable, Sequence
from dataclasses import dataclass, field
from enum import Enum
from functools import partial
from typing import Any, ClassVar, Final

from msgspec.structs import replace

from partyline.errors import Conflict, PartylineError, StoreUnavailable
from partyline.hub.history import Start, catch_up, find_start
from partyline.hub.hub import Hub
from partyline.interfaces import Committed, Dialect, Found, Outcome, Refused, Stored, View
from partyline.metrics import Counters
from partyline.models import Draft, Message, Page, Payload, Position, Receipt
from partyline.topics import is_pattern

TOPICS: Final = ("a.b", "a.c", "d")
NAMES: Final = ("a.b", "a.c", "d", "a.*", ">")  # what clients subscribe to: it overlaps on purpose
USERS: Final = (None, "ann", "bob")
INBOX: Final = 12  # messages a stalled connection may have waiting before it is closed as a slow consumer
_FULL: Final = 3  # from so many on catching up waits
_FOREIGN: Final = "f" * 16


class Violation(AssertionError):
    """A promise was broken. The message has the seed, the step and what led to it."""


@types.coroutine
def pause() -> Generator[None, None, None]:
    """Let the scheduler decide which party goes on."""
    yield


class State(Enum):
    """Where the store's writer is; the value says which steps it may take from there."""

    IDLE = ("write",)
    WRITING = ("commit", "commit", "fail", "wait")
    COMMITTED = ("hand_out", "wait", "wait")
    BROKEN = ("reopen", "wait")


class SimulatedStore:
    """A Store that keeps its promises in the nastiest way: `step` by step, with short pages, losing and resurrecting.

    A failed transaction is either gone, and its numbers are given again, or it turns out to be there once the store is
    opened again; its publishers hear of the failure at once, or wait until then. Reads see what is committed and not
    handed out yet; while it is broken they fail.
    """

    epoch = "5eed5eed5eed5eed"
    refusal: PartylineError | None = None

    def __init__(self, chance: random.Random) -> None:
        self.ever: dict[int, Message] = {}  # all committed messages, in the order of their offsets
        self.state = State.IDLE
        self.pruned: dict[str, int] = {}
        self._chance = chance
        self._head = 0
        self._queue: deque[tuple[Draft, ...]] = deque()
        self._batch: list[Outcome] = []
        self._ids: dict[str, Message] = {}
        self._committed: Committed | None = None

    @property
    def head(self) -> int:
        return self._head

    @property
    def resting(self) -> bool:
        return self.state is State.IDLE and not self._queue

    def start(self, committed: Committed) -> None:
        self._committed = committed

    def append(self, *drafts: Draft) -> None:
        self._queue.append(drafts)

    async def read(self, view: View, after: int, limit: int) -> Page:
        await pause()
        if self.state is State.BROKEN:
            raise StoreUnavailable("broken")
        limit = min(limit, self._chance.randint(1, 4))
        pruned = self.pruned_of(view)
        found = [m for o, m in self.ever.items() if o > after and o > self.pruned.get(m.room, 0) and view.sees(m.draft)]
        last = self._head if len(found) <= limit else found[limit].offset or 0
        page = Page(tuple(found[:limit]), last if len(found) <= limit else last - 1, len(found) > limit, pruned + 1)
        await pause()
        return page

    async def newest(self, room: str, before: int, limit: int) -> Sequence[Message]:
        raise NotImplementedError  # no simulated party looks back

    async def close(self) -> None: ...

    def pruned_of(self, view: View) -> int:
        """The highest pruned offset of the view's rooms."""
        return max((offset for room, offset in self.pruned.items() if view.covers(room)), default=0)

    def step(self, *, faults: bool = True) -> str:
        """Let the writer take one step."""
        name: str = self._chance.choice(self.state.value if faults else self.state.value[:1])
        getattr(self, f"_{name}")()
        return name

    def prune(self) -> None:
        """Forget the oldest messages of a topic among those that were handed out."""
        room = self._chance.choice(TOPICS)
        pruned, batch = self.pruned.get(room, 0), {o.message.offset for o in self._batch if not isinstance(o, Refused)}
        offsets = [o for o, m in self.ever.items() if m.room == room and o > pruned and o not in batch]
        if offsets:
            self.pruned[room] = offsets[min(len(offsets) - 1, self._chance.randrange(4))]

    def crash(self) -> None:
        """The process is killed: queued messages are gone, those being written are there or not, and nobody is told."""
        if self.state in (State.WRITING, State.BROKEN) and self._chance.random() < 0.5:
            self._commit()
        self._queue.clear()
        self._batch = []
        self.state = State.IDLE

    def _wait(self) -> None:
        """The disk takes its time."""

    def _write(self) -> None:
        """Number what is queued, or a part of it."""
        number, fresh = self._head, dict[str, Message]()
        for _ in range(min(len(self._queue), self._chance.randint(1, 3))):
            group = self._queue.popleft()
            if any(self._conflicts(draft, fresh) for draft in group):
                self._batch += [Refused(draft, Conflict("the id is another message's")) for draft in group]
                continue
            for draft in group:
                known = self._ids.get(draft.id) or fresh.get(draft.id)
                if known is None:
                    number += 1
                    known = fresh[draft.id] = Message(draft, number, 0.0)
                    self._batch.append(Stored(draft, known))
                else:
                    self._batch.append(Stored(draft, known, duplicate=True))
        self.state = State.WRITING if self._batch else State.IDLE

    def _conflicts(self, draft: Draft, fresh: dict[str, Message]) -> bool:
        known = self._ids.get(draft.id) or fresh.get(draft.id)
        return known is not None and known.draft.data != draft.data

    def _commit(self) -> None:
        for outcome in self._batch:
            if isinstance(outcome, Found) or (isinstance(outcome, Stored) and not outcome.duplicate):
                assert outcome.message.offset is not None
                self._head = outcome.message.offset
                self.ever[self._head] = self._ids[outcome.draft.id] = outcome.message
        self.state = State.COMMITTED

    def _hand_out(self) -> None:
        batch, self._batch = self._batch, []
        self.state = State.IDLE
        assert self._committed is not None
        self._committed(batch)

    def _fail(self) -> None:
        self.state = State.BROKEN
        if self._chance.random() < 0.5:
            batch, self._batch = self._batch, []
            for outcome in batch:
                if isinstance(outcome, Stored) and not outcome.duplicate:
                    self._batch.append(Found(outcome.draft, outcome.message))
            assert self._committed is not None
            self._committed([Refused(outcome.draft, _failed()) for outcome in batch])

    def _reopen(self) -> None:
        if self._chance.random() < 0.5:  # the rows reached the disk after all
            self._commit()
        else:
            self._batch = [Refused(o.draft, _failed()) for o in self._batch if not isinstance(o, Found)]
            self.state = State.COMMITTED


def _failed() -> StoreUnavailable:
    return StoreUnavailable("the log failed")


@dataclass(frozen=True, slots=True, eq=False)
class _Numbers:
    def encode(self, message: Message) -> bytes:
        return b"%d %s" % (message.offset or 0, message.draft.id.encode())  # 0: ephemeral


_DIALECT: Final[Dialect] = _Numbers()


@dataclass(slots=True)
class Want:
    """What a client wants, over all its connections. `position`: it knows that up to there nothing is missing."""

    name: str
    view: View
    position: int | None = None
    told: int = 0  # it has been told what is missing up to here


@dataclass(slots=True)
class Subscription:
    """What its view sees it has brought from `start` to `reached`, and brings from `live_from` on; between is a gap."""

    want: Want
    start: int = 0
    reached: int = 0
    live_from: int | None = None
    last: int = 0  # the highest offset it was given
    given: set[int] = field(default_factory=set)

    def has(self, message: Message) -> bool:
        offset = message.offset or 0
        brought = self.start < offset <= self.reached or (self.live_from is not None and offset > self.live_from)
        return brought and self.want.view.sees(message.draft)


@dataclass(slots=True)
class Item:
    """An item of a connection's inbox: a message, or what the server says about a position."""

    kind: str  # message, start, gap, position
    offset: int
    of: list[Subscription] = field(default_factory=list)
    oldest: int = 0  # something may be missing up to here, which is told


class Link:
    """One connection of a client: an `interfaces.Connection` with the server's end of its subscriptions."""

    def __init__(self, client: Client) -> None:
        self.client, self.world = client, client.world
        self.dialect = _DIALECT
        self.user = client.user
        self.rooms: tuple[str, ...] | set[str] = ()
        self.subscriptions: dict[str, Subscription] = {}
        self.inbox: deque[Item] = deque()
        self.got: set[int] = set()
        self.read: set[int] = set()
        self.passed: set[str] = set()  # ids of ephemeral messages that it was given
        self.closed = False
        self.jobs: deque[Coroutine[Any, Any, None]] = deque()
        self.open()

    def open(self) -> None:
        self.world.hub.add(self)

    # interfaces.Connection

    def offer(self, payload: Payload) -> None:
        offset, _, name = payload.data.partition(b" ")
        if int(offset):
            self.take(int(offset), name.decode())
        else:
            self.pass_by(name.decode())

    def send(self, data: bytes) -> None: ...
    def send_text(self, text: str) -> None: ...
    def close(self, code: int, reason: str = "") -> None: ...

    def take(self, offset: int, name: str, of: Subscription | None = None) -> None:
        """A message, live or for the one subscription that catches up: the promises are checked here."""
        world = self.world
        message = world.store.ever.get(offset)
        world.check(self.client.link is self, "a connection that is gone was offered something")
        world.check(message is not None and message.draft.id == name, f"{offset} was delivered before its commit")
        assert message is not None
        if self.closed:
            return
        every = self.subscriptions.values()
        given = (
            [s for s in every if s.live_from is not None and s.want.view.sees(message.draft)] if of is None else [of]
        )
        world.check(bool(given) and given[0].want.view.sees(message.draft), f"{offset} is for somebody else")
        world.check(offset not in self.got, f"{offset} was delivered twice to one connection")
        for subscription in given:
            world.check(offset > subscription.start, f"{offset} is not after the requested position")
            world.check(offset > subscription.last, f"{offset} came after {subscription.last} in one subscription")
            subscription.last = offset
            subscription.given.add(offset)
        self.got.add(offset)
        world.tally["caught up" if of else "live"] += 1
        self.tell(Item("message", offset, given))

    def pass_by(self, name: str) -> None:
        """An ephemeral message: the promises about it are checked here."""
        world, draft = self.world, self.world.passing[name]
        world.check(self.client.link is self, "a connection that is gone was offered something")
        world.check(self.wants(draft) or self.closed, f"{name} is for somebody else")
        world.check(name not in self.passed, f"{name} was delivered twice to one connection")
        self.passed.add(name)
        world.tally["passed by"] += 1

    def wants(self, draft: Draft) -> bool:
        """Whether one of its subscriptions is live and sees `draft`."""
        return any(self.is_live(s) and s.want.view.sees(draft) for s in self.subscriptions.values())

    def is_live(self, subscription: Subscription) -> bool:
        return subscription.live_from is not None

    def tell(self, item: Item) -> None:
        self.inbox.append(item)
        if len(self.inbox) > INBOX and not self.closed:
            self.closed = True
            self.world.tally["slow"] += 1

    # Subscriptions, as relay/v1/session.py has them

    def subscribe(self, want: Want, after: Position | None, *, latest: bool) -> None:
        subscription = self.subscriptions[want.name] = Subscription(want)
        if latest:
            self._begin(subscription, self.world.hub.fanned_out, told=True)
            self.attach(subscription)
        else:
            self.jobs.append(self._resume(subscription, after))

    def unsubscribe(self, name: str) -> None:
        self.jobs.append(self._forget(name))

    def advance(self) -> None:
        """The heartbeat tells a subscriber of quiet topics how far the log is."""
        every = list(self.subscriptions.values())
        if every and all(subscription.live_from is not None for subscription in every):
            self.tell(Item("position", self.world.hub.fanned_out, every))

    def drop(self) -> None:
        for job in self.jobs:
            job.close()
        self.world.hub.remove(self)

    async def _resume(self, subscription: Subscription, after: Position | None) -> None:
        world, want = self.world, subscription.want
        expected = world.expect(want.view, after)
        try:
            start = await self.client.find_start(world.hub, world.store, want.view, after)
            expected(start)
            oldest = 0 if start.oldest is None else start.oldest.offset
            told = not start.recovered or after is None
            self._begin(subscription, start.position.offset, told=told, oldest=oldest)
            await self.client.catch_up(
                world.hub, world.store, want.view, start.position.offset, _Sink(self, subscription)
            )
        except StoreUnavailable:
            world.tally["unreadable"] += 1
            await self._forget(want.name)

    def _begin(self, subscription: Subscription, offset: int, *, told: bool, oldest: int = 0) -> None:
        subscription.start = subscription.reached = subscription.last = offset
        if told:
            self.tell(Item("start", offset, [subscription], oldest))

    async def deliver(self, subscription: Subscription, message: Message) -> None:
        while len(self.inbox) >= _FULL and not self.closed:
            await pause()
        assert message.offset is not None
        if not self.has(message, subscription):
            self.take(message.offset, message.draft.id, subscription)
        subscription.reached = message.offset

    def has(self, message: Message, besides: Subscription | None = None) -> bool:
        """Whether another subscription of this connection has delivered, or will deliver, this message."""
        return any(s.has(message) for s in self.subscriptions.values() if s is not besides)

    def attach(self, subscription: Subscription) -> None:
        subscription.live_from = subscription.reached = self.world.hub.fanned_out
        join = self.world.hub.join_pattern if subscription.want.view.patterns else self.world.hub.join
        join(self, subscription.want.name)

    async def _forget(self, name: str) -> None:
        self.world.hub.leave(self, name)
        self.forgotten(name)

    def forgotten(self, name: str) -> None:
        """A subscription is over. Subscribing again requests its messages again."""
        del self.subscriptions[name]
        self.got = set().union(*(subscription.given for subscription in self.subscriptions.values()))


@dataclass(frozen=True, slots=True)
class _Sink:
    """One subscription while it catches up (`hub.history.Sink`)."""

    link: Link
    of: Subscription

    def began(self, start: Start) -> None: ...

    async def deliver(self, message: Message) -> None:
        await self.link.deliver(self.of, message)

    def gap(self, start: Start) -> None:
        self.link.world.tally["gap"] += 1
        assert start.oldest is not None
        self.link.tell(Item("gap", start.position.offset, [self.of], start.oldest.offset))

    def attach(self) -> None:
        self.link.attach(self.of)


class Client:
    """One client: what it wants and how far it is, over all its connections.

    A mutant overrides `find_start`, `catch_up` or `link_type`.
    """

    find_start: ClassVar[Any] = staticmethod(find_start)
    catch_up: ClassVar[Any] = staticmethod(catch_up)
    link_type: ClassVar[type[Link]] = Link

    def __init__(self, world: Simulation, user: str | None) -> None:
        self.world, self.user = world, user
        self.link: Link | None = None
        self.wants: dict[str, Want] = {}

    def act(self) -> str:
        """Do one thing."""
        link, chance = self.link, self.world.chance
        if link is None:
            return self.connect()
        if link.closed:
            return self.drop()
        roll = chance.random()
        if roll < 0.40:
            return self.step()
        if roll < 0.72:
            return self.consume()
        if roll < 0.84:
            return self.subscribe(chance.choice(NAMES))
        if roll < 0.88 and link.subscriptions and not link.jobs:
            name = chance.choice(list(link.subscriptions))
            del self.wants[name]
            link.unsubscribe(name)
            return f"unsubscribes {name}"
        if roll < 0.94:
            link.advance()
            return "is advanced"
        return self.drop() if roll < 0.97 else "does nothing"

    def connect(self) -> str:
        self.link = link = self.link_type(self)
        for name in self.world.chance.sample(list(self.wants), len(self.wants)):
            self._resume(link, self.wants[name])
        return "connects"

    def drop(self) -> str:
        link, self.link = self.link, None
        assert link is not None
        link.drop()
        self.world.tally["drop"] += 1
        return "drops"

    def subscribe(self, name: str) -> str:
        """Subscribe to something new, or again to what could not be read."""
        link, world = self.link, self.world
        assert link is not None
        if name in link.subscriptions:
            return "is subscribed"
        if name in self.wants:
            self._resume(link, self.wants[name])
            return f"subscribes again to {name}"
        view = View(patterns=(name,), user=self.user) if is_pattern(name) else View(frozenset((name,)), user=self.user)
        want = self.wants[name] = Want(name, view)
        places: list[Position | None] = [
            None,
            Position(_FOREIGN, world.chance.randrange(9)),
            Position(world.store.epoch, world.store.head + 1_000),
            Position(world.store.epoch, world.chance.randint(0, world.hub.fanned_out)),
        ]
        if world.reads_ahead:  # as a page of history may have shown it
            places.append(Position(world.store.epoch, world.store.head))
        after, latest = world.chance.choice(places), world.chance.random() < 0.3
        if not latest and after is not None and after.epoch == world.store.epoch:
            want.position = after.offset
        link.subscribe(want, after, latest=latest)
        return f"subscribes {name} after {'latest' if latest else after}"

    def step(self) -> str:
        """Let what waits for the log go on, up to its next `await`."""
        link = self.link
        if link is None or not link.jobs:
            return "waits"
        try:
            link.jobs[0].send(None)
        except StopIteration:
            del link.jobs[0]
        return "goes on"

    def consume(self) -> str:
        """Read one thing that has arrived."""
        link = self.link
        if link is None or not link.inbox:
            return "hears nothing"
        item = link.inbox.popleft()
        for subscription in item.of:
            want = subscription.want
            if item.kind in ("start", "gap"):
                want.position = item.offset  # the client is told, so what lies before is no longer promised
                want.told = max(want.told, item.oldest)
            elif self.wants.get(want.name) is want:
                self.advance(want, item.offset, item.offset - (item.kind == "message"))
        if item.kind == "message":
            link.read.add(item.offset)
        return f"reads {item.kind} {item.offset}"

    def rest(self) -> None:
        """Come back if disconnected, let everything that waits finish, and read it all."""
        while (link := self.link) is None or link.closed or link.jobs or link.inbox:
            if link is None:
                self.connect()
            elif link.closed:
                self.drop()
            else:
                self.step()
                self.consume()

    def advance(self, want: Want, offset: int, complete: int) -> None:
        """Move on to `offset`: all of the view up to `complete` must have been read."""
        link, ever = self.link, self.world.store.ever
        assert link is not None
        self.world.check(want.position is not None, "a position was told before the subscription began")
        assert want.position is not None
        for number in range(max(want.position, want.told) + 1, complete + 1):
            lost = want.view.sees(ever[number].draft) and number not in link.read
            self.world.check(not lost, f"{number} of {want.name!r} was skipped, and is lost")
        want.position = max(want.position, offset)

    def _resume(self, link: Link, want: Want) -> None:
        after = None if want.position is None else Position(self.world.store.epoch, want.position)
        self.world.tally["resume"] += 1
        link.subscribe(want, after, latest=False)


@dataclass(slots=True)
class Call:
    """Drafts that were published together, and whether they were accepted: one answer for all of them."""

    drafts: list[Draft]
    accepted: set[bool] = field(default_factory=set)


class Simulation:
    """One run. `hub` and `client` are types: a mutant of either must be caught."""

    def __init__(
        self,
        seed: int,
        *,
        hub: type[Hub] = Hub,
        client: type[Client] = Client,
        store: type[SimulatedStore] = SimulatedStore,
        reads_ahead: bool = False,
        slice_size: int = 512,
    ) -> None:
        self.seed = seed
        self.chance = random.Random(seed)
        self.store = store(self.chance)
        self._hub_type = hub
        self._slice_size = slice_size
        self._turns: deque[Callable[[], None]] = deque()  # what the hub wants done in later turns of the loop
        self.hub = self._new_hub()
        self.reads_ahead = reads_ahead
        self.tally: Counter[str] = Counter()
        self.clients = [client(self, user) for user in USERS]
        self.passing: dict[str, Draft] = {}  # the ephemeral ones, by id
        self._drafts: list[Draft] = []
        self._receipts: dict[str, Position] = {}
        self._trace: deque[str] = deque(maxlen=40)
        self._broken: Violation | None = None
        self._steps = 0

    def run(self, steps: int) -> Counter[str]:
        """Take this many steps, let everything come to rest, and check that nothing is missing. Raises Violation."""
        try:
            for _ in range(steps):
                self.step()
            self.settle()
        finally:
            for client in self.clients:
                if client.link is not None:
                    client.link.drop()
        return self.tally

    def step(self) -> None:
        """One decision of the scheduler."""
        self._steps += 1
        roll = self.chance.random()
        if roll < 0.12:
            self._trace.append(self.publish())
        elif roll < 0.34:
            self._trace.append(f"store: {self.store.step()}")
        elif roll < 0.35:
            self.store.prune()
            self._trace.append(f"pruned: {self.store.pruned}")
        elif roll < 0.353:
            self._trace.append(self.restart())
        elif roll < 0.45 and self._turns:
            self._trace.append(self.turn())
        else:
            client = self.chance.choice(self.clients)
            for _ in range(self.chance.choice((1, 1, 1, 8))):
                self._trace.append(f"{client.user}: {client.act()}")
        self.check(True, "nothing new; but the hub may have caught what was found")

    def settle(self) -> None:
        """End all faults: everybody comes back and reads to the end."""
        while not self.store.resting:
            self._trace.append(f"store: {self.store.step(faults=False)}")
        while self._turns:
            self._trace.append(self.turn())
        for client in self.clients:
            client.rest()
            for name in list(client.wants):  # what could not be read while the store was broken
                client.subscribe(name)
            client.rest()
            for want in client.wants.values():
                client.advance(want, self.hub.fanned_out, self.hub.fanned_out)
        self.check(self.hub.fanned_out == self.store.head, "the hub does not reach the head of the log")
        kept = {message.draft.id for message in self.store.ever.values()}
        self.check(self._receipts.keys() <= kept, "something was acknowledged and is not in the log")
        self.tally["steps"] += self._steps

    def restart(self) -> str:
        """The server is killed and starts again: the log is what is left."""
        for client in self.clients:
            if client.link is not None:
                client.drop()
        self.store.crash()
        self._turns.clear()
        self.hub = self._new_hub()
        self.tally["restart"] += 1
        return f"restart at {self.store.head}"

    def _new_hub(self) -> Hub:
        return self._hub_type(
            self.store,
            Counters(),
            clock=float,
            small=self._slice_size,
            slice_size=self._slice_size,
            later=self._turns.append,
        )

    def turn(self) -> str:
        """Another turn of the loop: the hub goes on with a large audience."""
        if not self._turns:
            return "nothing to go on with"
        self._turns.popleft()()
        self.tally["slice"] += 1
        return "the hub goes on"

    def publish(self) -> str:
        """Publish one or several messages, repeat one, or publish another one with its id."""
        chance = self.chance
        drafts: list[Draft] = []
        if self._drafts and chance.random() < 0.2:
            drafts.append(chance.choice(self._drafts))
            if chance.random() < 0.3:
                drafts[0] = replace(drafts[0], data=b"2")
        if not drafts or chance.random() < 0.2:
            drafts += [self._draft() for _ in range(chance.choice((1, 1, 2, 3)))]
        call = Call(drafts)
        self.hub.publish_all([(draft, partial(self._answered, draft, call)) for draft in drafts])
        return f"publish {[(draft.id, draft.room, draft.user) for draft in drafts]}"

    def _draft(self) -> Draft:
        chance, number = self.chance, len(self._drafts) + len(self.passing)
        draft = Draft(chance.choice(TOPICS), b"1", f"m{number}", chance.choice((None, *USERS)))
        if chance.random() < 0.2:
            draft = self.passing[draft.id] = replace(draft, durable=False)
        else:
            self._drafts.append(draft)
        return draft

    def _answered(self, draft: Draft, call: Call, outcome: Receipt | PartylineError) -> None:
        accepted = isinstance(outcome, Receipt)
        call.accepted.add(accepted)
        self.check(len(call.accepted) == 1, f"the batch of {draft.id} was accepted in part")
        if isinstance(outcome, Conflict):
            known = {m.draft.id: m.draft.data for m in self.store.ever.values()}
            conflicts = any(known.get(one.id, one.data) != one.data for one in call.drafts)
            self.check(conflicts, f"{draft.id} was refused as another message's id, and is not")
            self.tally["conflict"] += 1
        elif isinstance(outcome, PartylineError):
            self.tally["refused"] += 1
        if draft.durable is False:
            position = outcome.position if isinstance(outcome, Receipt) else None
            self.check(position is None, f"{draft.id} is ephemeral, and was acknowledged with a position")
            self._passed_by(draft, accepted=accepted)
        elif isinstance(outcome, Receipt):
            self._kept(draft, outcome)

    def _kept(self, draft: Draft, receipt: Receipt) -> None:
        assert receipt.position is not None
        kept = self.store.ever.get(receipt.position.offset)
        self.check(kept is not None and kept.draft.id == draft.id, f"{draft.id} was acknowledged before its commit")
        assert kept is not None
        self.check(kept.draft.data == draft.data, f"{draft.id} was acknowledged, and another message is there")
        known = self._receipts.setdefault(draft.id, receipt.position)
        self.check(known == receipt.position, f"{draft.id} has two positions")
        self.tally["duplicate" if receipt.duplicate else "acknowledged"] += 1

    def _passed_by(self, draft: Draft, *, accepted: bool) -> None:
        """An ephemeral message has been answered: if accepted, its whole audience has it, otherwise nobody."""
        for client in self.clients:
            link = client.link
            if link is not None and not link.closed:
                expected = accepted and link.wants(draft)
                self.check(accepted or draft.id not in link.passed, f"{draft.id} was refused, and delivered")
                self.check(not expected or draft.id in link.passed, f"{draft.id} passed {client.user} by, and is lost")

    def expect(self, view: View, after: Position | None) -> Callable[[Start], None]:
        """A check of the answer to a subscription that asks for `after` now."""
        head = self.hub.fanned_out
        # What is not fanned out yet is delivered live, though retention may already have taken it out of the log.
        pruned = min(self.store.pruned_of(view), head)

        def check(start: Start) -> None:
            known = after is None or after.epoch == self.store.epoch
            offset = self.store.head if after is None else after.offset
            if not known or (after is not None and (offset < pruned or offset > self.store.head)):
                self.check(not start.recovered, f"{after} cannot be recovered, and was")
            elif after is None or self.store.pruned_of(view) <= offset <= head:
                self.check(start.recovered, f"{after} could be recovered, and was not")
            self.check(start.recovered or start.oldest is not None, "the oldest position was not told")
            if known and after is not None and offset < pruned and start.oldest is not None:
                within = offset <= start.position.offset <= start.oldest.offset
                self.check(within, "it does not go on from the oldest kept")
            self.tally["recovered" if start.recovered else "not recovered"] += 1

        return check

    def check(self, true: bool, broken: str) -> None:
        if not true and self._broken is None:
            # The violation is kept, too, because the hub survives what a connection or a publisher raises.
            trace = "\n  ".join(self._trace)
            self._broken = Violation(f"{broken} (seed {self.seed}, step {self._steps}):\n  {trace}")
        if self._broken is not None:
            raise self._broken


def simulate(seeds: Iterable[int], steps: int = 200, **parts: Any) -> Counter[str]:
    """Run a simulation for each seed; how often each thing happened. Raises Violation for the first broken promise."""
    tally: Counter[str] = Counter()
    for seed in seeds:
        tally += Simulation(seed, **parts).run(steps)
    return tally
