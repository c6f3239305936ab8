"""Publishers and subscribers that outlive the server: whatever happens, they come back and continue."""

from __future__ import annotations

import asyncio
import itertools
import random
from collections import Counter, deque
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any, Protocol

from partyline.topics import contains, covers

from .clients import LONG, Frame, Http, Line, decode, offset_of

WINDOW = 32  # publishes that a line has in flight


@dataclass(frozen=True, slots=True)
class Sent:
    """One message as its publisher sends it, again and again until it is answered."""

    id: str
    topic: str
    data: dict[str, Any]

    @property
    def body(self) -> dict[str, Any]:
        return {"topic": self.topic, "id": self.id, "data": self.data}


@dataclass(slots=True)
class Ledger:
    """What was sent and what was answered, over the lives of all servers."""

    port: int
    topics: Sequence[str]
    chance: random.Random = field(default_factory=lambda: random.Random(1))
    up: asyncio.Event = field(default_factory=asyncio.Event)  # a server is there
    ending: bool = False  # nothing new is to be published
    sent: dict[str, Sent] = field(default_factory=dict)
    acknowledged: dict[str, str] = field(default_factory=dict)  # id -> position
    tally: Counter[str] = field(default_factory=Counter)

    def draft(self, publisher: str, number: int) -> Sent:
        """A new message."""
        topic = self.chance.choice(self.topics)
        filler = "x" * self.chance.choice((0, 20, 200, 3_000))
        draft = Sent(f"{publisher}-{number}", topic, {"by": publisher, "number": number, "filler": filler})
        self.sent[draft.id] = draft
        return draft

    def acknowledge(self, draft: Sent, position: str | None, *, duplicate: bool, again: bool) -> None:
        """The server has answered; `again` if it did not the first time."""
        assert position is not None, draft
        known = self.acknowledged.setdefault(draft.id, position)
        assert known == position, f"{draft.id} has two positions"
        assert again or not duplicate, f"{draft.id} was stored before it was sent"
        self.tally["acknowledged"] += 1
        self.tally["sent again"] += again
        self.tally["unanswered but stored"] += duplicate


class Party(Protocol):
    """A participant, with one connection after another."""

    ledger: Ledger

    async def once(self) -> bool:
        """One connection's life; False if that was the last. Raises ConnectionError."""
        ...


async def take_part(party: Party) -> None:
    """Connect whenever a server is there, until the party is done."""
    while True:
        await party.ledger.up.wait()
        try:
            if not await party.once():
                return
        except ConnectionError:
            party.ledger.tally["connections lost"] += 1
            await asyncio.sleep(0)


@asynccontextmanager
async def taking_part(parties: Sequence[Party]) -> AsyncIterator[list[asyncio.Task[None]]]:
    """The tasks of these parties; cancelled at the end. What went wrong in one of them is raised then."""
    tasks = [asyncio.create_task(take_part(party)) for party in parties]
    try:
        yield tasks
    finally:
        for task in tasks:
            task.cancel()
        for outcome in await asyncio.gather(*tasks, return_exceptions=True):
            if isinstance(outcome, Exception):
                raise outcome


# Publishers


class HttpPublisher:
    """Publishes over HTTP, one call after the other: single messages, or batches of up to `batch`."""

    def __init__(self, ledger: Ledger, name: str, batch: int = 1) -> None:
        self.ledger, self.name, self._batch = ledger, name, batch
        self._numbers = itertools.count()
        self._waiting: list[Sent] = []  # not answered yet

    async def once(self) -> bool:
        ledger = self.ledger
        async with Http.open(ledger.port) as http:
            while self._waiting or not ledger.ending:
                await self.publish(http)
        return False

    async def publish(self, http: Http) -> None:
        """One call. The next one sends again what it does not answer. Raises ConnectionError."""
        ledger, again = self.ledger, bool(self._waiting)
        if not again:
            count = ledger.chance.randint(1, self._batch)
            self._waiting = [ledger.draft(self.name, next(self._numbers)) for _ in range(count)]
        for draft, receipt in zip(self._waiting, await self._publish(http), strict=True):
            ledger.acknowledge(draft, receipt["position"], duplicate=receipt["duplicate"], again=again)
        self._waiting = []

    async def _publish(self, http: Http) -> list[dict[str, Any]]:
        drafts = self._waiting
        if self._batch == 1:
            (draft,) = drafts
            body = {"data": draft.data, "id": draft.id}
            status, answer = await http.call("POST", f"/v1/topics/{draft.topic}/messages", body)
        else:
            status, answer = await http.call("POST", "/v1/publish", {"messages": [draft.body for draft in drafts]})
        assert status == 200, answer
        return [answer] if self._batch == 1 else answer["messages"]


class LinePublisher:
    """Publishes on a line, many in flight at once; unanswered ones are sent again first, in order."""

    def __init__(self, ledger: Ledger, name: str) -> None:
        self.ledger, self.name = ledger, name
        self._numbers = itertools.count()
        self._waiting: deque[tuple[Sent, bool]] = deque()

    async def once(self) -> bool:
        self._waiting = deque((draft, True) for draft, _ in self._waiting)
        self._line = line = await Line.open(self.ledger.port, self._hear)
        for draft, _ in self._waiting:
            self._send(draft)
        self._fill()
        try:
            await line.closed
        finally:
            line.drop()
        if self._waiting or not self.ledger.ending:
            raise ConnectionResetError("the line was cut")
        return False

    def _hear(self, frame: Frame) -> None:
        if frame.type == "welcome":
            return
        assert frame.type == "reply", frame
        draft, again = self._waiting.popleft()
        assert frame.id == frame.message_id == draft.id, "an answer is out of order"
        self.ledger.acknowledge(draft, frame.position, duplicate=frame.duplicate, again=again)
        self._fill()

    def _fill(self) -> None:
        while len(self._waiting) < WINDOW and not self.ledger.ending:
            draft = self.ledger.draft(self.name, next(self._numbers))
            self._waiting.append((draft, False))
            self._send(draft)
        if not self._waiting:
            self._line.drop()

    def _send(self, draft: Sent) -> None:
        self._line.send(type="publish", id=draft.id, message_id=draft.id, topic=draft.topic, data=draft.data)


# Subscribers


class Subscriber:
    """What a subscriber has got over all its connections, in the order of arrival."""

    def __init__(self, ledger: Ledger, *names: str) -> None:
        self.ledger, self.names = ledger, names
        self.got: dict[int, tuple[str, str, bytes]] = {}  # by offset: topic, id, data
        self.order: list[int] = []
        self.repeated = 0  # messages that arrived a second time
        self.last = 0
        self.finish: int | None = None  # the offset of the last message of all, once known
        self._finished = asyncio.Event()

    def sees(self, topic: str) -> bool:
        return any(covers(name, topic) for name in self.names)

    def take(self, position: str, topic: str, message_id: str, data: bytes) -> None:
        """A message has arrived."""
        assert self.sees(topic), f"{topic} is not for {self.names}"
        offset = offset_of(position)
        self.order.append(offset)
        self.repeated += offset in self.got
        self.got[offset] = topic, message_id, data
        self.last = max(self.last, offset)
        self.look()

    def look(self) -> None:
        """Whether it has reached the end."""
        if self.finish is not None and self.last >= self.finish:
            self._finished.set()

    async def finished(self) -> None:
        """Return when everything up to `finish` has arrived. Raises TimeoutError if that takes too long."""
        self.look()
        async with asyncio.timeout(LONG):
            await self._finished.wait()


class EventSubscriber(Subscriber):
    """One topic as server-sent events, resumed with Last-Event-ID as a browser does."""

    def __init__(self, ledger: Ledger, topic: str) -> None:
        super().__init__(ledger, topic)
        self._last_id = "earliest"

    async def once(self) -> bool:
        async with Http.open(self.ledger.port) as http:
            async for name, data in http.events(self.names[0], self._last_id):
                self._last_id = name or self._last_id
                if data and name:
                    envelope = decode(data)
                    assert envelope.position == name
                    self.take(name, str(envelope.topic), str(envelope.id), bytes(envelope.data))
        return True


class LineSubscriber(Subscriber):
    """Topics and patterns on one line, each resumed from its own position.

    If the first name covers the others, it delivers everything, in one order. Otherwise messages that arrive while they
    catch up are in order only within each subscription: positions move on once the answer to a later command says that
    all are live, and earlier messages may be requested again.
    """

    def __init__(self, ledger: Ledger, *names: str) -> None:
        super().__init__(ledger, *names)
        self._positions = dict.fromkeys(names, "earliest")
        self.ordered = all(contains(names[0], name) for name in names)
        self._live = False
        self._here: set[int] = set()  # arrived on this connection
        self._newest = ""
        self.doubled = 0  # messages that arrived twice on one connection: never
        self.unasked = 0  # messages at or before the requested positions: never
        self.unordered = 0  # messages that arrived after a newer one of the same subscription: never
        self.passing = 0  # ephemeral messages
        self.told = 0  # how often it was told its position without a message
        self._asked: dict[str, int] = {}

    async def once(self) -> bool:
        self._live, self._newest = self.ordered, ""
        self._here.clear()
        self._asked = {n: 0 if p == "earliest" else offset_of(p) for n, p in self._positions.items()}
        line = await Line.open(self.ledger.port, self._hear)
        try:
            for name, after in self._positions.items():
                line.send(type="subscribe", id=name, topic=name, after=after)
            line.send(type="history", id="live", topic=self.ledger.topics[0], limit=1)
            await line.closed
        finally:
            line.drop()
        raise ConnectionResetError("the line was cut")

    def _hear(self, frame: Frame) -> None:
        if frame.type == "message":
            if frame.position is None:
                self.passing += 1
                return
            self._message(frame.position, str(frame.topic), str(frame.id), bytes(frame.data))
        elif frame.type == "reply":
            if frame.id == "live":
                self._live = True
            else:
                assert frame.recovered, f"{frame.id} was not recovered"
        elif frame.type == "position":
            assert frame.topic is None, f"a gap in {frame.topic}"
            assert frame.position is not None
            self.told += 1
            self.unordered += bool(self._newest) and offset_of(frame.position) < offset_of(self._newest)
            self._newest = frame.position
        else:
            assert frame.type == "welcome", frame
        if self._live and self._newest:
            self._positions = dict.fromkeys(self.names, self._newest)

    def _message(self, position: str, topic: str, message_id: str, data: bytes) -> None:
        offset = offset_of(position)
        self.doubled += offset in self._here
        self.unasked += all(offset <= self._asked[name] for name in self.names if covers(name, topic))
        self._here.add(offset)
        if not self._newest or offset > offset_of(self._newest):
            self._newest = position
        else:
            self.unordered += self._live
        self.take(position, topic, message_id, data)
