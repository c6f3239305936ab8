"""The hub in thousands of interleavings, and mutants of it that the simulator must catch."""

from __future__ import annotations

import asyncio
import json
import os
import random
from collections import Counter
from collections.abc import Awaitable, Callable, Collection, Coroutine, Iterator, Sequence
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any, cast

import pytest

from partyline.config import Settings
from partyline.errors import StoreUnavailable
from partyline.hub.delivery import Parcel
from partyline.hub.history import PAGE, Start, catch_up, find_start
from partyline.hub.hub import Done, Hub
from partyline.hub.timers import Timers
from partyline.interfaces import Connection, Found, Outcome, Refused, Store, Stored, View
from partyline.models import Draft, Message, Page, Payload, Position, Receipt
from partyline.relay.revocations import Revoker
from partyline.relay.services import Services
from partyline.relay.v1.websocket import V1WebSocket
from partyline.server.websocket import WebSocket
from partyline.testing import Clock
from partyline.trust.keys import Principal
from tests.hub.members import Taking

from .hub import Client, Item, Link, SimulatedStore, Simulation, Subscription, Violation, Want, pause, simulate

STEPS = 250
TRIALS = bool(os.environ.get("PARTYLINE_TRIALS"))  # `make trials`: a million steps of each kind, different each time


def seeds(count: int) -> range:
    """The seeds of a test: always the same, or in trials 4,000 from one that PARTYLINE_SEED repeats."""
    if not TRIALS:
        return range(count)
    first = int(os.environ.get("PARTYLINE_SEED") or random.randrange(1 << 32))
    return range(first, first + 4_000)


def told(tally: Counter[str], runs: range) -> Counter[str]:
    """Print what happened."""
    figures = ", ".join(f"{what} {count:,}" for what, count in sorted(tally.items()))
    print(f"{len(runs):,} runs from seed {runs[0]} (PARTYLINE_SEED={runs[0]} repeats them), no violation: {figures}")
    return tally


@pytest.mark.check
def test_the_promises_hold_in_every_interleaving() -> None:
    """In whatever order the parties run, nothing is lost, doubled, early, out of order or misdirected; and every case
    happened."""
    runs = seeds(800)
    tally = told(simulate(runs, STEPS), runs)
    assert tally["steps"] == len(runs) * STEPS
    for event in ("live", "caught up", "acknowledged", "duplicate", "refused", "recovered", "not recovered"):
        assert tally[event] > 1_000, event
    for event in ("drop", "resume", "unreadable", "passed by"):
        assert tally[event] > 1_000, event
    for event in ("conflict", "restart"):
        assert tally[event] > 200, event
    for event in ("gap", "slow"):
        assert tally[event] > 50, event


@pytest.mark.check
@pytest.mark.parametrize("size", [1, 2])
def test_the_promises_hold_for_large_audiences(size: int) -> None:
    """The same holds if an audience takes several turns of the loop, in which others publish, join and leave."""
    runs = seeds(400)
    tally = told(simulate(runs, STEPS, slice_size=size), runs)
    assert tally["slice"] > 500


def test_a_run_is_its_seed() -> None:
    """The same seed gives the same run, another seed another one."""
    runs = [Simulation(seed).run(STEPS) for seed in (1, 1, 2)]
    assert runs[0] == runs[1] != runs[2]


@pytest.mark.check
def test_a_position_from_history_that_is_not_fanned_out_yet() -> None:
    """History may show what is committed and not fanned out: a client that subscribes after that gets none of it
    again."""
    runs = seeds(200)
    told(simulate(runs, STEPS, reads_ahead=True), runs)


def test_a_violation_tells_how_to_see_it_again() -> None:
    """A broken promise is reported with the seed, the step and what led to it."""
    with pytest.raises(Violation, match=r"twice .*\(seed \d+, step \d+\):\n  ") as broken:
        simulate(range(50), STEPS, client=client(overlaps=True))
    assert isinstance(broken.value, AssertionError)


# Mutants. Each breaks one thing in the hub, in catching up, in a connection or in the store.


class _Due(Parcel):
    """A message for the members of its room, whatever the hub makes of it."""

    __slots__ = ("_hub",)

    def __init__(self, hub: Hub, message: Message) -> None:
        super().__init__(None, message)
        self._hub = hub

    def members(self) -> Collection[Connection]:
        assert self.message is not None
        return self._hub.audience(self.message.room, self.message.draft.user)


def _through(hub: Hub, change: Callable[[Sequence[Outcome]], Sequence[Outcome]]) -> None:
    """Give a hub what `change` makes of the batches of its store."""
    committed = hub.delivery.committed
    hub._store.start(lambda batch: committed(change(batch)))


class FansOutBeforeTheCommit(Hub):
    """A publish is sent at once, with the number that it will probably get."""

    def publish_all(self, drafts: Sequence[tuple[Draft, Done | None]]) -> None:
        for number, (draft, _) in enumerate(drafts, self._store.head + 1):
            self.delivery.post(_Due(self, Message(draft, number, 0.0)))
        super().publish_all(drafts)


class AnswersBeforeTheCommit(Hub):
    def publish_all(self, drafts: Sequence[tuple[Draft, Done | None]]) -> None:
        for number, (draft, done) in enumerate(drafts, self._store.head + 1):
            if done is not None:
                done(Receipt(draft.room, draft.id, Position(self._store.epoch, number)))
        super().publish_all([(draft, None) for draft, _ in drafts])


class FansOutDuplicates(Hub):
    def __init__(self, *parts: Any, **settings: Any) -> None:
        super().__init__(*parts, **settings)

        def again(batch: Sequence[Outcome]) -> Sequence[Outcome]:
            for outcome in batch:
                if isinstance(outcome, Stored) and outcome.duplicate:
                    self.delivery.post(_Due(self, outcome.message))
            return batch

        _through(self, again)


class FansOutBackwards(Hub):
    def __init__(self, *parts: Any, **settings: Any) -> None:
        super().__init__(*parts, **settings)

        def backwards(batch: Sequence[Outcome]) -> Sequence[Outcome]:
            asked = [self.delivery._reserved.popleft() for one in batch if not isinstance(one, Found)]
            self.delivery._reserved.extendleft(asked)
            return batch[::-1]

        _through(self, backwards)


class ForgetsDirectMessages(Hub):
    def audience(self, room: str, user: str | None = None) -> Collection[Connection]:
        return super().audience(room)


class CountsPatternsTwice(Hub):
    def audience(self, room: str, user: str | None = None) -> Collection[Connection]:
        if user is not None:
            return super().audience(room, user)
        names = (room, *self._patterns.matching(room))
        return [member for name in names for member in self.rooms.members(name)]


class ForgetsPatterns(Hub):
    def join_pattern(self, member: Connection, pattern: str) -> None:
        self.rooms.join(member, pattern)


class KeepsTheGone(Hub):
    def remove(self, member: Connection) -> None:
        pass


class ForgetsWhoJoins(Hub):
    """A member that joins while a large audience is served does not get that message."""

    def _crowd_changed(self, member: Connection) -> None:
        pass


class ServesAgainWhoJoins(Hub):
    def _crowd_changed(self, member: Connection) -> None:
        if self.delivery.crowd is not None:
            self.delivery.crowd._seen = set()
        super()._crowd_changed(member)


class TellsTooEarly(Hub):
    """A message counts as delivered when the first slice of its audience has it."""

    @property
    def fanned_out(self) -> int:
        crowd = self.delivery.crowd
        return (crowd and crowd.message.offset) or super().fanned_out


class Overtakes(Hub):
    """Later messages do not wait for a large audience."""

    def __init__(self, *parts: Any, **settings: Any) -> None:
        super().__init__(*parts, **settings)
        push = self.delivery._push

        def overtake(parcel: Parcel) -> None:
            if self.delivery.crowd is None or parcel.message is None:
                push(parcel)
                return
            for member in parcel.members():
                member.offer(Payload(member.dialect.encode(parcel.message)))
            self.delivery.reached = parcel.message.offset or self.delivery.reached
            parcel.served()

        self.delivery._push = overtake  # type: ignore[method-assign]


class AcceptsInPart(Hub):
    def publish_all(self, drafts: Sequence[tuple[Draft, Done | None]]) -> None:
        for pair in drafts:
            super().publish_all((pair,))


class PassesNothingOn(Hub):
    """Ephemeral messages are answered, and reach nobody."""

    def pass_on(self, parcel: Any) -> None:
        message = Message(parcel.draft, None, 0.0)
        parcel.message = message
        parcel.served()


class KeepsWhatPasses(Hub):
    """Ephemeral messages are kept."""

    def _durable(self, draft: Draft) -> bool:
        return True


class BeginsAtZero(Hub):
    """After a restart the hub has forgotten how far it was."""

    def __init__(self, *parts: Any, **settings: Any) -> None:
        super().__init__(*parts, **settings)
        self.delivery.reached = 0


class ResurrectsInSilence(SimulatedStore):
    """Refused messages come back after a failure, and are not handed out."""

    def _reopen(self) -> None:
        self._commit()
        lost = StoreUnavailable("lost, it thinks")
        self._batch = [Refused(outcome.draft, lost) for outcome in self._batch if not isinstance(outcome, Found)]


class LosesWhatItAnswered(SimulatedStore):
    def _reopen(self) -> None:
        super()._reopen()
        for outcome in self._batch:
            if isinstance(outcome, Stored) and not outcome.duplicate:
                self.ever.pop(cast("int", outcome.message.offset), None)


class IgnoresConflicts(SimulatedStore):
    def _conflicts(self, draft: Draft, fresh: dict[str, Message]) -> bool:
        return False


class ForgetsInACrash(SimulatedStore):
    """The newest message it had committed was not on the disk."""

    def crash(self) -> None:
        super().crash()
        self.ever.pop(self._head, None)
        self._ids = {message.draft.id: message for message in self.ever.values()}
        self._head = max(self.ever, default=0)


class _Committed:
    """A hub whose fanned-out head is the committed one."""

    def __init__(self, store: Store) -> None:
        self._store = store

    @property
    def fanned_out(self) -> int:
        return self._store.head

    def conflates(self, room: str) -> bool:
        return False


class _NeverPruned:
    """A store that does not say what it has pruned."""

    def __init__(self, store: Store) -> None:
        self.epoch, self._store = store.epoch, store

    @property
    def head(self) -> int:
        return self._store.head

    async def read(self, view: View, after: int, limit: int) -> Page:
        page = await self._store.read(view, after, limit)
        return Page(page.messages, page.next, page.more, 1)


CatchUp = Callable[..., Awaitable[None]]


async def to_the_committed_head(hub: Hub, store: Store, view: View, after: int, sink: Any) -> None:
    await catch_up(cast("Hub", _Committed(store)), store, view, after, sink)


async def without_the_skip(hub: Hub, store: Store, view: View, after: int, sink: Any) -> None:
    """`catch_up` that delivers whole pages, including what will be delivered live."""
    at = after
    while at < hub.fanned_out:
        page = await store.read(view, at, PAGE)
        reached = hub.fanned_out
        for message in page.messages:
            await sink.deliver(message)
        at = min(page.next, reached)
    sink.attach()


async def one_turn_late(hub: Hub, store: Store, view: View, after: int, sink: Any) -> None:
    await catch_up(hub, store, view, after, Taking(sink.deliver))
    await pause()
    sink.attach()


async def attached_first(hub: Hub, store: Store, view: View, after: int, sink: Any) -> None:
    sink.attach()
    await catch_up(hub, store, view, after, Taking(sink.deliver))


async def not_at_all(hub: Hub, store: Store, view: View, after: int, sink: Any) -> None:
    sink.attach()


async def over_gaps(hub: Hub, store: Store, view: View, after: int, sink: Any) -> None:
    await catch_up(hub, cast("Store", _NeverPruned(store)), view, after, sink)


async def from_anywhere(hub: Hub, store: Store, view: View, after: Position | None) -> Start:
    start = await find_start(hub, store, view, after)
    return start if after is None else Start(Position(store.epoch, after.offset), recovered=True)


async def from_what_was_pruned(hub: Hub, store: Store, view: View, after: Position | None) -> Start:
    return await find_start(hub, cast("Store", _NeverPruned(store)), view, after)


async def from_nowhere(hub: Hub, store: Store, view: View, after: Position | None) -> Start:
    return Start(Position(store.epoch, hub.fanned_out), recovered=False, oldest=Position(store.epoch, 0))


class _Overlapping(Link):
    def has(self, message: Message, besides: Subscription | None = None) -> bool:
        return False


class _Eager(Link):
    def advance(self) -> None:
        every = list(self.subscriptions.values())
        if every:
            self.tell(Item("position", self.world.hub.fanned_out, every))


class _AheadOfItsTime(Link):
    def advance(self) -> None:
        every = list(self.subscriptions.values())
        if every and all(subscription.live_from is not None for subscription in every):
            self.tell(Item("position", self.world.store.head, every))


class _Mute(Link):
    def tell(self, item: Item) -> None:
        if item.kind != "gap":
            super().tell(item)


def client(
    catching: CatchUp = catch_up,
    starting: Callable[..., Awaitable[Start]] = find_start,
    *,
    link: type[Link] = Link,
    overlaps: bool = False,
) -> type[Client]:
    """A client with another way to catch up, to begin, or to be connected."""
    members = {
        "catch_up": staticmethod(catching),
        "find_start": staticmethod(starting),
        "link_type": _Overlapping if overlaps else link,
    }
    changed = [
        one.__name__ for one in (catching, starting, members["link_type"]) if one not in (catch_up, find_start, Link)
    ]
    return type("_".join(changed), (Client,), members)


@pytest.mark.parametrize(
    ("parts", "broken"),
    [
        ({"hub": FansOutBeforeTheCommit}, "before its commit"),
        ({"hub": AnswersBeforeTheCommit}, "acknowledged"),
        ({"hub": FansOutDuplicates}, "twice|not after|before its commit|came after"),
        ({"hub": FansOutBackwards}, "came after|acknowledged|twice|is lost"),
        ({"hub": ForgetsDirectMessages}, "somebody else"),
        ({"hub": CountsPatternsTwice}, "twice"),
        ({"hub": ForgetsPatterns}, "is lost"),
        ({"hub": KeepsTheGone}, "is gone"),
        ({"hub": AcceptsInPart}, "in part"),
        ({"hub": PassesNothingOn}, "passed .* by, and is lost"),
        ({"hub": KeepsWhatPasses}, "is ephemeral, and was acknowledged"),
        ({"hub": ForgetsWhoJoins, "slice_size": 1}, "is lost|somebody else"),
        ({"hub": ServesAgainWhoJoins, "slice_size": 1}, "twice"),
        ({"hub": TellsTooEarly, "slice_size": 1}, "is lost|not after|twice"),
        ({"hub": Overtakes, "slice_size": 1}, "came after|is lost|twice"),
        ({"hub": BeginsAtZero}, "is lost|could be recovered"),
        ({"store": IgnoresConflicts}, "another message is there"),
        ({"store": ForgetsInACrash}, "acknowledged|before its commit|two positions|cannot be recovered|is lost"),
        ({"store": ResurrectsInSilence}, "is lost|the head of the log"),
        ({"store": LosesWhatItAnswered}, "acknowledged|before its commit"),
        ({"client": client(to_the_committed_head)}, "twice|not after"),
        ({"client": client(without_the_skip)}, "twice|is lost"),
        ({"client": client(one_turn_late)}, "is lost"),
        ({"client": client(attached_first)}, "came after|twice|is lost"),
        ({"client": client(not_at_all)}, "is lost"),
        ({"client": client(over_gaps)}, "is lost"),
        ({"client": client(starting=from_anywhere)}, "cannot be recovered"),
        ({"client": client(starting=from_what_was_pruned)}, "cannot be recovered"),
        ({"client": client(starting=from_nowhere)}, "could be recovered"),
        ({"client": client(overlaps=True)}, "twice"),
        ({"client": client(link=_Eager)}, "is lost|before the subscription began"),
        ({"client": client(link=_AheadOfItsTime)}, "is lost"),
        ({"client": client(link=_Mute)}, "is lost|before"),
    ],
    ids=lambda value: next(iter(value.values())).__name__ if isinstance(value, dict) else value.partition("|")[0],
)
def test_mutants_are_caught(parts: dict[str, Any], broken: str) -> None:
    """Each mutant that breaks a promise is found within a few hundred runs, with the message of that promise."""
    with pytest.raises(Violation, match=broken):
        simulate(range(400), STEPS, **parts)


# The connection of v1 in the same interleavings


class _Worker:
    """A task that goes on when the scheduler says so."""

    def __init__(self, work: Coroutine[Any, Any, None]) -> None:
        self._work = work
        self.send = work.send
        self.close = work.close

    def cancel(self) -> None:
        self._work.close()


class _Socket(WebSocket):
    """A WebSocket without a socket: what is written to it goes to the link."""

    def __init__(self, link: LineLink) -> None:
        self._link = link
        self.rooms = ()
        self.timer_slot = 0

    __slots__ = ("_link",)

    @property
    def deflate(self) -> None:
        return None

    def offer(self, payload: Payload) -> None:
        self._link.hear(payload.data, live=bool(payload.room))

    def send_utf8(self, payload: bytes) -> None:
        self._link.hear_text(json.loads(payload))

    def close(self, code: int, reason: str = "") -> None:
        raise AssertionError(f"closed with {code}: {reason}")

    def known(self) -> None: ...

    async def drained(self) -> None:
        while len(self._link.inbox) >= 3 and not self._link.closed:
            await pause()


class _Session(V1WebSocket):
    """Tells its link whose turn it is."""

    __slots__ = ("catching",)

    async def _resume(self, subscription: Any, after: Position | None) -> None:
        self.catching = subscription.name
        await super()._resume(subscription, after)


class _NoRevocations:
    """A table without a row."""

    def load(self) -> list[tuple[str, str, float]]:
        return []

    async def save(self, kind: str, name: str, at: float, *, oldest: float) -> None:
        raise AssertionError("nobody revokes here")


class LineLink(Link):
    """A link whose server's end is the real session of /v1/ws."""

    def open(self) -> None:
        world = self.world
        services = Services(
            world.hub,
            world.store,
            cast("Any", SimpleNamespace(revoker=Revoker(_NoRevocations(), 1.0))),
            Timers(cast("Any", Clock())),
            Settings(topics_per_connection=100, max_pending_events=100),
            clock=float,
        )
        self.expected: dict[str, Callable[[Start], None] | None] = {}
        self.asked: dict[str, Position | None] = {}
        self.socket = _Socket(self)
        self.session = _Session(services, Principal((), (">",), user=self.user), "")
        with stepping(self):
            self.session.opened(self.socket)

    def subscribe(self, want: Want, after: Position | None, *, latest: bool) -> None:
        self.subscriptions[want.name] = Subscription(want)
        self.expected[want.name] = None if latest else self.world.expect(want.view, after)
        self.asked[want.name] = after
        place = "latest" if latest else "earliest" if after is None else str(after)
        self.command("subscribe", want.name, after=place)

    def unsubscribe(self, name: str) -> None:
        self.command("unsubscribe", name)

    def advance(self) -> None:
        self.session.on_deadline(0.0)

    def drop(self) -> None:
        self.session.closed()

    def command(self, kind: str, name: str, **fields: Any) -> None:
        with stepping(self):
            self.session.text(json.dumps({"type": kind, "id": f"{kind} {name}", "topic": name, **fields}))

    def is_live(self, subscription: Subscription) -> bool:
        theirs = self.session._subscriptions.get(subscription.want.name)
        return theirs is not None and theirs.live

    def hear(self, data: bytes, *, live: bool) -> None:
        message = json.loads(data[2:] if data[1] < 126 else data[4:])
        if message["position"] is None:
            self.pass_by(message["id"])
            return
        for name, ours in self.subscriptions.items():
            theirs = self.session._subscriptions.get(name)
            ours.live_from = 0 if theirs is not None and theirs.live else None
        of = None if live else self.subscriptions[self.session.catching]
        self.take(int(message["position"].rpartition("-")[2]), message["id"], of)

    def hear_text(self, frame: dict[str, Any]) -> None:
        if frame["type"] == "welcome":
            return
        kind, _, name = frame.get("id", "").partition(" ")
        offset = int(frame.get("position", "-0").rpartition("-")[2])
        if frame["type"] == "error":
            self.world.check(frame["code"] == "store_unavailable", f"{kind} {name}: {frame['code']}")
            self.world.tally["unreadable"] += 1
            self.forgotten(name)
        elif kind == "unsubscribe":
            self.forgotten(name)
        elif kind == "subscribe":
            ours, expected = self.subscriptions[name], self.expected[name]
            oldest = Position.parse(frame["oldest"]) if "oldest" in frame else None
            if expected is not None:
                expected(Start(Position(self.world.store.epoch, offset), frame["recovered"], oldest))
            ours.start = ours.last = offset
            if expected is None or not frame["recovered"] or self.asked[name] is None:
                self.tell(Item("start", offset, [ours], 0 if oldest is None else oldest.offset))
        elif "topic" in frame:
            self.world.tally["gap"] += 1
            oldest = Position.parse(frame["oldest"])
            self.tell(Item("gap", offset, [self.subscriptions[frame["topic"]]], oldest.offset))
        else:
            self.tell(Item("position", offset, list(self.subscriptions.values())))


@contextmanager
def stepping(link: LineLink) -> Iterator[None]:
    """Replace the running loop with one whose tasks are the link's jobs, and whose time does not pass."""

    class Loop:
        def create_task(self, work: Coroutine[Any, Any, None]) -> _Worker:
            worker = _Worker(work)
            link.jobs.append(cast("Any", worker))
            return worker

        def call_later(self, _delay: float, _greet: Callable[[], None]) -> Any:
            return SimpleNamespace(cancel=lambda: None)  # the client's first command is earlier

    asyncio._set_running_loop(cast("Any", Loop()))
    try:
        yield
    finally:
        asyncio._set_running_loop(None)


@pytest.mark.check
def test_the_promises_hold_for_v1_connections() -> None:
    """The same holds for the sessions of /v1/ws: their jobs, overlaps, gaps, failures and heartbeats."""
    runs = seeds(200)
    tally = told(simulate(runs, STEPS, client=client(link=LineLink)), runs)
    for event in ("live", "caught up", "recovered", "not recovered", "drop", "resume", "unreadable", "passed by"):
        assert tally[event] > 300, event
    assert tally["gap"] > 10
