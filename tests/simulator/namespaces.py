"""A deterministic simulator of Socket.IO namespaces on one log: a seed decides every interleaving.

Everything from the connection inwards is the real thing: packets, sockets, namespaces, recovery, the hub. Around them
are the store of `tests.simulator.hub`, which commits late, fails and brings rows back; clients that ask and are
answered, drop, stall and come back; servers on one port whose namespaces have the same names; and a process that is
killed and starts again. Events, acknowledgements, questions and disconnects of one socket are one sequence. The
promises:

- a client reads what was said to it, in the order in which it was said, once, and nothing that was said to others
- an event that carries a position is in the log at that position before anybody sees it
- a session that is told that it goes on has everything, across drops and kills; if an event was sent without the log,
  a session that may lack it is told that it does not go on
- an acknowledgement or a question keeps its place, after the events before it and before those after it
- a published event reaches its room once it is kept, and nobody if it is not; if the log has it although its publisher
  was told otherwise, it reaches whoever is in the room when it is found
- what one socket or listener makes of an event does not affect any other socket, and at the end nothing waits
- what is held for a socket with a slow `on_connect` is bounded
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import random
import re
from collections import Counter, deque
from collections.abc import Callable, Coroutine, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Final, cast

from partyline.engineio.connection import EngineConnection
from partyline.engineio.limits import SessionLimits
from partyline.engineio.receiver import Request
from partyline.errors import CallTimeout, Overloaded, PartylineError, PeerGone, StoreUnavailable
from partyline.hub.hub import Hub
from partyline.hub.timers import Timers
from partyline.interfaces import Committed, Found, Outcome, Refused, SessionRow
from partyline.metrics import Counters
from partyline.models import Draft, Payload, Position
from partyline.server.site import ConnectionLimits, Site
from partyline.socketio.broadcast import Broadcast
from partyline.socketio.connection import Multiplexer
from partyline.socketio.namespace import Namespace
from partyline.socketio.server import SocketIO
from partyline.socketio.socket import Socket
from partyline.trust.perimeter import Peer
from partyline.wire.websocket.frames import Frames

from .hub import SimulatedStore, State, Violation
from .loop import SteppedLoop

ROOMS: Final = ("r", "s")
PATHS: Final = ("/a/", "/b/", "/c/")  # servers on one port; the last one is without recovery
NAMES: Final = ("/", "/side")
WINDOW: Final = 500.0  # seconds that a session waits for its client
HELD: Final = 2_000  # bytes of `outbox_bytes`
_GONE: Final = ("transport close", "ping timeout")
_BIG: Final = "x" * 1_500


class NastyStore(SimulatedStore):
    """A store that also refuses what it has not begun to write, like a full disk.

    `heard` gets each batch before the hub does.
    """

    def __init__(self, chance: random.Random, heard: Callable[[Sequence[Outcome]], None]) -> None:
        super().__init__(chance)
        self.heard = heard
        self.appended = 0

    def start(self, committed: Committed) -> None:
        def hand_out(batch: Sequence[Outcome]) -> None:
            self.heard(batch)
            committed(batch)

        super().start(hand_out)

    def append(self, *drafts: Draft) -> None:
        self.appended += 1
        super().append(*drafts)

    def refuse(self) -> None:
        """Refuse the oldest call."""
        if self._queue and self.state is State.IDLE:
            group = self._queue.popleft()
            assert self._committed is not None
            self._committed([Refused(draft, StoreUnavailable("the disk is full")) for draft in group])

    def prune(self) -> None:
        """Forget the oldest events of a room."""
        handing = {outcome.message.offset for outcome in self._batch if not isinstance(outcome, Refused)}
        rooms = sorted({message.room for message in self.ever.values()})
        if rooms:
            room = self._chance.choice(rooms)
            gone = self.pruned.get(room, 0)
            offsets = [o for o, m in self.ever.items() if m.room == room and o > gone and o not in handing]
            if offsets:
                self.pruned[room] = offsets[min(len(offsets) - 1, self._chance.randrange(4))]


def _number(data: bytes) -> int:
    """The number of the event in a record, whatever form it has."""
    found = re.search(rb'"x",([0-9]+)', data)
    assert found is not None
    return int(found[1])


def _whole(values: Any, attachments: list[Any]) -> Any:
    """Values with their attachments, as a client has them."""
    if isinstance(values, dict):
        if values.get("_placeholder") is True:
            return attachments[values["num"]]
        return {key: _whole(value, attachments) for key, value in values.items()}
    return [_whole(value, attachments) for value in values] if isinstance(values, list) else values


def _numbers(session: Session) -> str:
    return f"owed {[one.number for one in session.owed]}, read {session.newest}, {sorted(session.rooms)}"


@dataclass(slots=True, eq=False)
class Said:
    """Something said to sockets. `number` is its place in all that was said."""

    number: int
    kind: str  # event, publish, ack, question, bye
    values: list[Any]
    rooms: frozenset[str] = frozenset()
    excluded: frozenset[str] = frozenset()
    kept: bool | None = None  # whether the log has it; None: nobody knows yet
    volatile: bool = False
    owing: set[Session] = field(default_factory=set, repr=False)

    def reaches(self, rooms: set[str]) -> bool:
        return (not self.rooms or bool(self.rooms & rooms)) and not self.excluded & rooms


@dataclass(slots=True, eq=False)
class Session:
    """One client's session over all its connections: what is owed to it, and what it has."""

    place: tuple[str, str]
    sid: str
    pid: str | None
    rooms: set[str]
    link: Link | None
    ever: set[str] = field(default_factory=set)  # all the rooms that it has been in
    owed: deque[Said] = field(default_factory=deque)
    got: set[int] = field(default_factory=set)
    newest: int = -1  # of what it has read
    offset: str | None = None
    comebacks: int = 0
    hole: bool = False  # an event that it has not read was sent without the log
    final: bool = False  # it must not go on


class Link:
    """One Engine.IO connection: what the real `socketio.Connection` has of it, and the client's end."""

    protocol = 4
    transport = "polling"
    takes_bundles = True
    base64 = False

    def __init__(self, world: World, client: Client) -> None:
        self.world, self.client = world, client
        self.inbox: deque[str | bytes] = deque()
        self.is_open = True
        self.stalled = False
        self.faulty = False
        self.receiver: Multiplexer | None = None
        self.session: Session | None = None
        self.socket: Socket | None = None
        self.claim: Session | None = None  # the session that it asks for
        self.closing: str | None = None
        self.replayed: list[tuple[list[Any], str | None]] = []
        self.welcomed = False  # its client has read the answer to CONNECT
        self.ghost = False  # its client has gone, and we have not noticed

    # engineio.Connection, as far as Socket.IO asks for it

    @property
    def writable(self) -> bool:
        return self.is_open and not self.stalled

    def known(self) -> None:
        """It has been let in."""

    def send_message(self, data: str | bytes) -> None:
        self.send_messages((data,))

    def send_messages(self, messages: Iterable[str | bytes]) -> None:
        if self.faulty and self.world.hub.delivery._serving:
            self.faulty = False
            self.closing = "transport error"
            raise OSError("this connection has just broken, and says so in the wrong way")
        if self.is_open and self.closing is None:
            self.inbox.extend(messages)

    def offer(self, payload: Payload) -> None:
        self.send(payload.data)

    def send(self, data: str | bytes) -> None:
        if isinstance(data, Frames):
            self.send_messages([one[1:] if isinstance(one, str) else one for one in data.messages])
        else:
            self.send_messages((data,))

    def close(self, code: int = 1000, reason: str = "") -> None:
        if self.closing is None:
            self.closing = "forced close"
            self.world.tally[f"closed {code}"] += 1
        if self.ghost:
            self.end("forced close")

    def hold(self) -> None: ...
    def release(self) -> None: ...

    async def drained(self) -> None:
        while self.is_open and (self.stalled or len(self.inbox) > 6):
            await asyncio.sleep(0)

    # The client's end

    def say(self, text: str) -> None:
        if self.receiver is not None and self.is_open and self.closing is None:
            with contextlib.suppress(OSError):  # Engine.IO logs what a message raises
                self.receiver.message(text)

    def end(self, reason: str) -> None:
        """End the connection for both sides."""
        if self.is_open:
            self.is_open = False
            self.world.drops(self)
            if self.receiver is not None:
                self.receiver.disconnected(reason)


class Client:
    """A client of one namespace of one server."""

    def __init__(self, world: World, place: tuple[str, str]) -> None:
        self.world, self.place = world, place
        self.link: Link | None = None
        self.session: Session | None = None  # with which it may come back
        self.asked = 0

    @property
    def head(self) -> str:
        return "" if self.place[1] == "/" else self.place[1] + ","

    def act(self) -> str:
        link, chance = self.link, self.world.chance
        if link is None:
            return self.connect()
        if link.closing is not None and not link.inbox:
            return self.drop(link.closing)
        roll = chance.random()
        if roll < 0.62:
            return self.read()
        if roll < 0.80:
            return self.ask()
        if roll < 0.90:
            link.stalled = not link.stalled
            return "stalls" if link.stalled else "goes on"
        if roll < 0.93 and link.receiver is not None and not link.inbox:
            link.receiver.alive()  # a heartbeat confirms what was sent before the last one, which had arrived
            return "is alive"
        if roll < 0.97:
            return self.drop(chance.choice(_GONE))
        if roll < 0.98:
            self.link, link.ghost = None, True
            self.world.ghosts.append(link)
            return "is gone, and nobody has noticed"
        return self.leave() if link.session is not None else "waits"

    def connect(self) -> str:
        world = self.world
        self.link = link = Link(world, self)
        request = Request("polling", b"", [], Peer("127.0.0.1", "http", "localhost"))
        link.receiver = world.ios[self.place[0]].accepted(cast("EngineConnection", link), request)
        link.receiver.connected()
        auth: dict[str, Any] = {}
        session = link.claim = self.session
        if session is not None and session.pid is not None:
            auth = {"pid": session.pid} if session.offset is None else {"pid": session.pid, "offset": session.offset}
        world.tally["connect"] += 1
        link.say(f"0{self.head}" + (json.dumps(auth) if auth else ""))
        return f"connects with {auth}"

    def ask(self) -> str:
        """An event that wants an acknowledgement; the handler may emit before it answers."""
        link = self.link
        if link is None or not link.welcomed or link.socket is None or not link.socket.connected:
            return "asks nothing"
        self.asked += 1
        link.say(f'2{self.head}{self.asked}["ask",{self.asked}]')
        return f"asks {self.asked}"

    def leave(self) -> str:
        link = self.link
        assert link is not None
        session = link.session
        assert session is not None
        if not link.welcomed or link.closing is not None or link.socket is None or not link.socket.connected:
            return "waits"
        session.final = True
        link.say(f"1{self.head}")
        return "leaves, and " + self.drop("transport close")

    def drop(self, reason: str) -> str:
        link, self.link = self.link, None
        assert link is not None
        link.end(reason)
        self.world.tally["drop"] += 1
        return f"drops: {reason}"

    def read(self) -> str:
        """Read one packet."""
        link = self.link
        if link is None or not link.inbox or link.stalled:
            return "reads nothing"
        text = link.inbox.popleft()
        assert isinstance(text, str), f"{text!r} is not the beginning of a packet"
        kind, body = text[0], text[1:]
        attachments = []
        if kind == "5":
            count, _, body = body.partition("-")
            attachments = [link.inbox.popleft() for _ in range(int(count))]
        body = body.removeprefix(self.head)
        getattr(self, f"_read_{kind}")(body, attachments)
        return f"reads {text[:60]}"

    def _read_0(self, body: str, _: list[Any]) -> None:
        """CONNECT is answered: the session goes on, or it is a new one."""
        answer, link, world = json.loads(body), self.link, self.world
        assert link is not None
        assert link.session is not None
        link.welcomed = True
        session, before = link.session, link.claim
        world.check(session.sid == answer["sid"], "the answer names another session")
        session.pid = answer.get("pid")
        goes_on = before is not None and before is session
        if goes_on:
            world.tally["recovered"] += 1
            for values, offset in link.replayed:
                self._take("event", values, offset=offset)
        elif before is not None:
            world.tally["not recovered"] += 1
            world.ended(before)
        self.session = session if session.pid is not None else None

    def _read_1(self, _: str, __: list[Any]) -> None:
        link = cast("Link", self.link)
        self._take("bye", [])
        self.world.ended(link.session)
        link.session, link.closing, self.session = None, "transport close", None

    def _read_2(self, body: str, attachments: list[Any]) -> None:
        number, _, rest = body.partition("[")
        values = json.loads("[" + rest)
        if attachments:
            values = _whole(values, attachments)
        if number:
            self._take("question", values, answer=int(number))
            return
        offset = None
        if isinstance(values[-1], str) and values[-1].startswith(SimulatedStore.epoch):
            offset = values.pop()
        self._take("event", values, offset=offset)

    _read_5 = _read_2

    def _read_3(self, body: str, _: list[Any]) -> None:
        number, _, rest = body.partition("[")
        self._take("ack", [int(number), *json.loads("[" + rest)])

    def _read_4(self, body: str, _: list[Any]) -> None:
        """The client is not let in: the log cannot be read."""
        link, world = cast("Link", self.link), self.world
        world.check(world.unreadable, f"it is not let in: {body}")
        world.tally["not let in"] += 1
        link.closing = "transport close"

    def _take(self, kind: str, values: list[Any], *, offset: str | None = None, answer: int | None = None) -> None:
        """Something that was said has arrived: the promises are checked here."""
        world, link = self.world, self.link
        assert link is not None
        if not link.welcomed:  # what was missed: it counts if the answer to CONNECT says that the session goes on
            world.check(self.session is not None and offset is not None, f"{kind} {values} came to nobody")
            link.replayed.append((values, offset))
            return
        session = link.session
        world.check(session is not None, f"{kind} {values} came to nobody")
        assert session is not None
        if kind in ("event", "question"):
            said = world.said.get(values[1])
            world.check(said is not None and said.values == values, f"{values} is not what was said")
            assert said is not None
        else:
            said = next((one for one in session.owed if one.kind == kind and one.values == values), None)
            world.check(said is not None, f"{kind} {values} was not said to it, or twice")
            assert said is not None
        if offset is not None:
            place = Position.parse(offset).offset
            there = world.store.ever.get(place)
            world.check(there is not None, f"{said.number} was delivered before its commit")
            assert there is not None
            world.check(_number(there.draft.data) == said.number, f"{said.number} has the position of another event")
            if session.offset is not None:
                world.check(Position.parse(session.offset).offset < place, f"{said.number}: a position twice")
            session.offset = offset
        world.check(session.place == self.place, "it is another client's session")
        world.check(said.number not in session.got, f"{said.number} was delivered twice")
        world.tally[kind] += 1
        if said.volatile or (said.kind == "publish" and not world.recovers(self.place)):
            # The recipients of a published event are decided when the log has it.
            meanwhile = said.kind == "publish" and said.reaches(session.ever)
            world.check(session in said.owing or meanwhile, f"{said.number} was not said to it")
            said.owing.discard(session)
            session.got.add(said.number)
            return
        if session.owed and session.owed[0] is said:
            session.owed.popleft()
        else:
            owed = said in session.owed
            world.check(not owed, f"{said.number} came, and what was said before is lost: {_numbers(session)}")
            # What was missed is what went to the rooms in which it was at the end, whenever it joined them.
            # What the log has although its publisher was told otherwise is for whoever is there when it is found.
            found = said.kind == "publish" and said.kept is False
            extra = said.reaches(session.ever) and (session.comebacks > 0 or found)
            world.check(extra, f"{said.number} was not said to it: {said}, {_numbers(session)}")
            later = session.owed and session.owed[0].number < said.number
            world.check(not later, f"{said.number} came, and what was said before is lost: {_numbers(session)}")
            world.tally["extra"] += 1
            session.got.add(said.number)
            return
        world.check(session.newest < said.number, f"{said.number} came after {session.newest}")
        session.newest = said.number
        session.got.add(said.number)
        if answer is not None:
            link.say(f'3{self.head}{answer}["yes",{said.number}]')


class Table:
    """The sessions of all servers, as they outlive the process."""

    def __init__(self, rows: Mapping[bytes, SessionRow]) -> None:
        self.rows = dict(rows)

    def load(self) -> list[SessionRow]:
        return list(self.rows.values())

    def save(self, row: SessionRow) -> None:
        self.rows[row.pid_hash] = row

    def delete(self, pid_hash: bytes) -> None:
        self.rows.pop(pid_hash, None)


class SimulatedIO(SocketIO):
    """A server whose ids are numbers. A mutant of it must be caught."""

    __slots__ = ("world",)

    def accepted(self, engine: EngineConnection, request: Request) -> Multiplexer:
        return self._accept(engine, request)

    def _new_id(self) -> str:
        self.world.ids += 1
        return f"id{self.world.ids}"


class World:
    """One run. The parts are types: a mutant of any of them must be caught.

    `faults` lets connections break in the middle of a fan-out, listeners raise, and values that look like placeholders
    stand beside binary ones.
    """

    def __init__(
        self,
        seed: int,
        *,
        io: type[SimulatedIO] = SimulatedIO,
        hub: type[Hub] = Hub,
        paths: Iterable[str] = PATHS,
        faults: bool = True,
        slice_size: int = 2,
    ) -> None:
        self.seed = seed
        self.chance = random.Random(seed)
        self.tally: Counter[str] = Counter()
        self.loop = SteppedLoop()
        self.store = NastyStore(self.chance, self.answered)
        self.table = Table({})
        self.ids = 0
        self.said: dict[int, Said] = {}
        self.sessions: list[Session] = []
        self.ios: dict[str, SimulatedIO] = {}
        self._io_type, self._hub_type, self._paths = io, hub, tuple(paths)
        self._faults, self._slice_size = faults, slice_size
        self._pending: dict[int, Said] = {}  # not answered by the log yet
        self._gates: list[asyncio.Future[None]] = []
        self.ghosts: list[Link] = []
        self.unreadable = False  # the log has failed
        self._trace: deque[str] = deque(maxlen=60)
        self._broken: Violation | None = None
        self._steps = 0
        self._tasks: set[asyncio.Task[None]] = set()
        with self.running():
            self._start()
        self.clients = [Client(self, (path, name)) for path in self._paths for name in NAMES for _ in range(2)]

    @contextmanager
    def running(self) -> Iterator[None]:
        asyncio._set_running_loop(self.loop)
        try:
            yield
        finally:
            asyncio._set_running_loop(None)

    def recovers(self, place: tuple[str, str]) -> bool:
        return place[0] != "/c/"

    # The servers

    def _start(self) -> None:
        self.hub = self._hub_type(
            self.store, Counters(), clock=float, small=self._slice_size, slice_size=self._slice_size, most_waiting=40
        )
        self.timers = Timers(self.loop)
        limits = ConnectionLimits(outbox_bytes=HELD)
        site = Site(limits, self.timers, self.hub.counters, cast("Any", None), lambda upgrade: None)
        site.for_extras[SessionLimits] = SessionLimits(connect_timeout=1e9)
        site.hub, site.store, site.sessions = self.hub, self.store, self.table
        for path in self._paths:
            window = WINDOW if path != "/c/" else None
            io = self.ios[path] = self._io_type(path, recovery_window=window)
            io.world = self
            io.attach(site)
            for name in NAMES:
                self._handle((path, name), io.namespace(name))

    def _handle(self, place: tuple[str, str], namespace: Namespace) -> None:
        @namespace.on_connect
        def enter(socket: Socket) -> None:
            self.entered(place, socket)

        @namespace.on_connect
        async def linger(socket: Socket) -> None:
            if self.chance.random() < 0.2:
                gate = self.loop.create_future()
                self._gates.append(gate)
                self.tally["waits to enter"] += 1
                await gate

        @namespace.on("ask")
        def ask(socket: Socket, number: int) -> int:
            if self.chance.random() < 0.5:
                self.emit(place)
            self.owe(place, Said(self.next(), "ack", [number, number]), frozenset((socket.id,)))
            return number

    def entered(self, place: tuple[str, str], socket: Socket) -> None:
        """`on_connect` runs: from now on what is said reaches it."""
        link = cast("Link", socket.engine)
        link.socket = socket
        before = link.claim
        if socket.recovered:
            self.check(before is not None and before.sid == socket.id, "somebody else's session goes on")
            assert before is not None
            self.check(before.link is None, "a session goes on twice")
            self.check(not before.final, "a session goes on that had ended")
            self.check(not before.hole, f"a session goes on over a hole: {_numbers(before)}")
            self.check(set(socket.rooms) == before.rooms, "it is not in the rooms that it was in")
            before.link, link.session = link, before
            before.comebacks += 1
            return
        session = Session(place, socket.id, socket._pid, set(), link)
        link.session = session
        self.sessions.append(session)
        for room in (socket.id, *(room for room in ROOMS if self.chance.random() < 0.6)):
            socket.join(room)
            session.rooms.add(room)
            session.ever.add(room)
        if self._faults and self.chance.random() < 0.1:
            socket.on_any_outgoing(self._raises)

    def _raises(self, event: str, *arguments: Any) -> None:
        raise RuntimeError("a listener of what leaves has failed")

    def drops(self, link: Link) -> None:
        """A connection is over: what was only for it is lost, what the log has is still owed."""
        session = link.session
        if session is None or session.link is not link:
            return
        session.link = None
        if session.pid is None or not self.recovers(session.place) or link.client.session is not session:
            self.ended(session)
            return
        gone = [one for one in session.owed if one.kind not in ("event", "publish") or one.volatile]
        kept = [one for one in session.owed if one not in gone and one.reaches(session.rooms)]
        if any(one.kept is False for one in kept):
            session.hole = True
        session.owed = deque(kept)

    def ended(self, session: Session | None) -> None:
        """Forget a session for which nobody comes back."""
        if session is not None:
            session.owed.clear()
            if session in self.sessions:
                self.sessions.remove(session)
            for said in self.said.values():
                said.owing.discard(session)

    # What is said

    def next(self) -> int:
        return len(self.said)

    def owe(self, place: tuple[str, str], said: Said, rooms: frozenset[str] | None = None) -> Said:
        """Something is being said to those that are there, and to those that may come back for it."""
        self.said[said.number] = said
        said.rooms = said.rooms if rooms is None else rooms
        stored = said.kind in ("event", "publish") and not said.volatile and self.recovers(place)
        for session in self.sessions:
            here = session.link is not None and session.link.socket is not None and session.link.socket.connected
            if session.place == place and said.reaches(session.rooms) and (here or (stored and session.link is None)):
                if said.volatile or (said.kind == "publish" and not self.recovers(place)):
                    said.owing.add(session)
                else:
                    session.owed.append(said)
        if stored:
            self._pending[said.number] = said
        return said

    def whom(self, namespace: Namespace) -> tuple[Broadcast | Socket, frozenset[str], frozenset[str]]:
        """An audience: the rooms in it and those that are left out."""
        chance = self.chance
        roll = chance.random()
        if roll < 0.35 or not namespace.sockets:
            return namespace, frozenset(), frozenset()
        if roll < 0.7:
            room = chance.choice(ROOMS)
            return namespace.to(room), frozenset((room,)), frozenset()
        socket = namespace.sockets[chance.choice(sorted(namespace.sockets))]
        if roll < 0.85:
            return socket, frozenset((socket.id,)), frozenset()
        return socket.to("r"), frozenset(("r",)), frozenset((socket.id,))

    def emit(self, place: tuple[str, str]) -> str:
        namespace = self.ios[place[0]].namespace(place[1])
        target, rooms, excluded = self.whom(namespace)
        volatile = self.chance.random() < 0.15
        number = self.next()
        values: list[Any] = ["x", number]
        if self.chance.random() < 0.25:
            values.append(b"binary")
            if self.chance.random() < 0.3:
                values.append({"inside": [b"more", number]})
        elif self._faults and self.chance.random() < 0.2:
            values.append({"_placeholder": True, "num": 9})
        elif self.chance.random() < 0.2:
            values.append(_BIG)
        said = Said(number, "event", values, rooms, excluded, volatile=volatile)
        self.owe(place, said)
        appended = self.store.appended
        try:
            with contextlib.suppress(OSError):
                (target.volatile if volatile else target).emit(*values)
        except Overloaded:
            self.tally["overloaded"] += 1
            self._unsaid(said)
        else:
            if number in self._pending and appended == self.store.appended:
                self.tally["beside the log"] += 1
                self._passes_by(self._pending.pop(number))
        return f"emit {number} to {place} {sorted(rooms)} {'volatile' if volatile else ''}"

    def _unsaid(self, said: Said) -> None:
        self._pending.pop(said.number, None)
        said.kept = False
        for session in self.sessions:
            if said in session.owed:
                session.owed.remove(said)

    def _passes_by(self, said: Said) -> None:
        """The log does not have an event: a client that is away, or leaves before reading it, lacks it."""
        said.kept = False
        for session in self.sessions:
            if session.link is None and said in session.owed:
                session.hole = True

    def answered(self, batch: Sequence[Outcome]) -> None:
        """The log has answered, and the hub is about to hear of it."""
        for outcome in batch:
            if isinstance(outcome, Found):
                self.tally["found"] += 1
                continue
            said = self._pending.pop(_number(outcome.draft.data), None)
            if said is None:
                continue
            if isinstance(outcome, Refused):
                self.tally["not kept"] += 1
                if said.kind == "publish":
                    self._unsaid(said)
                else:
                    self._passes_by(said)
            else:
                said.kept = True

    def publish(self, place: tuple[str, str]) -> str:
        """A program publishes, and runs up to its first `await` here."""
        room, number = self.chance.choice(ROOMS), self.next()
        said = self.owe(place, Said(number, "publish", ["x", number], frozenset((room,))))
        publishing = self._publish(place, said, room)
        try:
            waits = cast("asyncio.Future[Any]", publishing.send(None))
        except StopIteration:
            return f"publish {number} to {place} {room} is refused at once"
        waits._asyncio_future_blocking = False
        self._spawn(self._rest(publishing, waits))
        return f"publish {number} to {place} {room}"

    async def _rest(self, publishing: Coroutine[Any, Any, None], waits: asyncio.Future[Any]) -> None:
        """The rest of a program that waits for a future."""
        await asyncio.wait([waits])
        with contextlib.suppress(StopIteration):
            publishing.send(None)

    def _spawn(self, work: Coroutine[Any, Any, None]) -> None:
        task = self.loop.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _publish(self, place: tuple[str, str], said: Said, room: str) -> None:
        namespace = self.ios[place[0]].namespace(place[1])
        try:
            position = await namespace.publish(room, *said.values)
        except PartylineError:
            self.tally["refused"] += 1
            self._unsaid(said)
            said.owing.clear()
        else:
            there = self.store.ever.get(position.offset)
            self.check(there is not None, f"{said.number} was acknowledged before its commit")
            self.tally["published"] += 1

    def question(self, place: tuple[str, str]) -> str:
        namespace = self.ios[place[0]].namespace(place[1])
        if not namespace.sockets:
            return "nobody to ask"
        socket = namespace.sockets[self.chance.choice(sorted(namespace.sockets))]
        link = cast("Link", socket.engine)
        if not link.welcomed or not socket.connected:
            return "asks nobody who has not been let in"
        self._spawn(self._ask(place, socket))
        return f"asks {socket.id}"

    async def _ask(self, place: tuple[str, str], socket: Socket) -> None:
        if not socket.connected:
            return
        said = self.owe(place, Said(self.next(), "question", ["x", self.next()]), frozenset((socket.id,)))
        try:
            answer = await socket.call(*said.values, timeout=50.0)
            self.check(answer == ("yes", said.number), f"{said.number} got the answer of another question: {answer}")
            self.tally["answered"] += 1
        except Overloaded:
            self._unsaid(said)
        except (PeerGone, CallTimeout):
            self.tally["not answered"] += 1

    def _forget_tasks(self) -> None:
        """Running programs get no further turn."""
        for task in asyncio.all_tasks(self.loop):
            task._log_destroy_pending = False
            with contextlib.suppress(RuntimeError):
                cast("Coroutine[Any, Any, Any]", task.get_coro()).close()
        self._tasks.clear()
        self.loop.forget()

    # The scheduler

    def run(self, steps: int) -> Counter[str]:
        with self.running():
            try:
                for _ in range(steps):
                    self.step()
                self.settle()
            finally:
                self._forget_tasks()
        return self.tally

    def step(self) -> None:
        self._steps += 1
        chance = self.chance
        roll = chance.random()
        place = (chance.choice(self._paths), chance.choice(NAMES))
        if roll < 0.10:
            self.note(self.emit(place))
        elif roll < 0.13:
            self.note(self.publish(place))
        elif roll < 0.15:
            self.note(self.question(place))
        elif roll < 0.17:
            self.note(self.move(place))
        elif roll < 0.175:
            self.note(self.kick(place))
        elif roll < 0.32:
            self.note(f"store: {self.store.step()}")
            self.unreadable |= self.store.state is State.BROKEN
        elif roll < 0.325:
            self.store.refuse()
            self.note("the oldest is refused")
        elif roll < 0.326:
            self.store.prune()
            self.note(f"pruned: {self.store.pruned}")
        elif roll < 0.328:
            self.note(self.kill())
        elif roll < 0.36:
            self.loop.advance(chance.choice((0.02, 0.02, 1.0, WINDOW / 8)))
        elif roll < 0.37 and self._gates:
            self.open(self._gates.pop(chance.randrange(len(self._gates))))
        elif roll < 0.38 and self._faults:
            link = chance.choice(self.clients).link
            if link is not None and link.session is not None:
                link.faulty = True
        elif roll < 0.60:
            for _ in range(chance.choice((1, 1, 2, 20))):
                self.loop.turn()
        else:
            client = chance.choice(self.clients)
            self.note(f"{client.place}: {client.act()}")
        for client in self.clients:
            held = client.link and client.link.socket and client.link.socket._held
            self.check(not held or held.size <= HELD, "too much is held for a socket that enters")
        self.check(True, "nothing new; but a handler may have caught what was found")

    def note(self, what: str) -> None:
        self._trace.append(what)

    def open(self, gate: asyncio.Future[None]) -> None:
        if not gate.done():
            gate.set_result(None)

    def move(self, place: tuple[str, str]) -> str:
        """A socket joins or leaves a room."""
        namespace = self.ios[place[0]].namespace(place[1])
        room = self.chance.choice(ROOMS)
        for socket in namespace.sockets.values():
            session = cast("Link", socket.engine).session
            if session is not None and socket.connected and self.chance.random() < 0.5:
                if room in session.rooms:
                    session.rooms.discard(room)
                    socket.leave(room)
                    for said in self.said.values():
                        if said.kind == "publish" and not said.reaches(session.rooms):
                            said.owing.discard(session)
                else:
                    session.rooms.add(room)
                    session.ever.add(room)
                    socket.join(room)
        return f"some of {place} move: {room}"

    def kick(self, place: tuple[str, str]) -> str:
        namespace = self.ios[place[0]].namespace(place[1])
        for socket in tuple(namespace.sockets.values()):
            link = cast("Link", socket.engine)
            if link.session is not None and link.welcomed and socket.connected:
                self.owe(place, Said(self.next(), "bye", []), frozenset((socket.id,)))
                link.session.final = True
                with contextlib.suppress(OSError):
                    socket.disconnect()
                self.tally["kicked"] += 1
                return f"{socket.id} is kicked"
        return "nobody to kick"

    def kill(self) -> str:
        """The process dies, and another one starts: the log and the table of sessions are what is left."""
        for link in [*self.ghosts, *(client.link for client in self.clients if client.link is not None)]:
            link.is_open = False
            self.drops(link)
        for client in self.clients:
            client.link = None
        self.ghosts.clear()
        self._gates.clear()
        self.store.crash()
        there = {_number(message.draft.data) for message in self.store.ever.values()}
        for number, said in tuple(self._pending.items()):
            if number in there:
                said.kept = True
            else:
                self._unsaid(said)
        self._pending.clear()
        for said in self.said.values():
            said.owing.clear()
        self.table = Table(self.table.rows)
        self._forget_tasks()
        self._start()
        self.tally["kill"] += 1
        return "killed"

    def settle(self) -> None:
        """End all faults: all gates open, and everybody comes back and reads to the end."""
        self._faults = False
        for _ in range(200):
            for gate in self._gates:
                self.open(gate)
            self._gates.clear()
            while not self.store.resting:
                self.note(f"store: {self.store.step(faults=False)}")
            for _ in range(500):
                if not self.loop.turn():
                    break
            self.loop.advance(0.02)
            for ghost in self.ghosts:
                ghost.end("ping timeout")
            self.ghosts.clear()
            busy = False
            for client in self.clients:
                link = client.link
                if link is None:
                    self.note(f"{client.place}: {client.connect()}")
                    busy = True
                    continue
                link.stalled = link.faulty = False
                while link.inbox:
                    self.note(f"{client.place}: {client.read()}")
                    busy = True
                if link.closing is not None:
                    self.note(f"{client.place}: {client.drop(link.closing)}")
                    busy = True
            if not (busy or self._gates or self.loop.ready) and self.store.resting:
                break
        self.check(True, "")
        for client in self.clients:
            session = client.link and client.link.session
            self.check(session is not None, "a client does not get in any more")
            assert session
            self.check(not session.owed, f"at the end something is lost: {_numbers(session)}")
        live = {client.link.session for client in self.clients if client.link is not None}
        for said in self.said.values():
            lost = said.kind == "publish" and said.owing & live
            self.check(not lost, f"{said.number} was published, and is lost")
        self.check(not self._pending, f"the log does not answer: {list(self._pending)}")
        self.check(not self.loop.errors, f"something failed: {self.loop.errors}")
        self.tally["steps"] += self._steps

    def check(self, true: bool, broken: str) -> None:
        if not true and self._broken is None:
            trace = "\n  ".join(self._trace)
            self._broken = Violation(f"{broken} (seed {self.seed}, step {self._steps}):\n  {trace}")
        if self._broken is not None:
            raise self._broken


def simulate(seeds: Iterable[int], steps: int = 300, **parts: Any) -> Counter[str]:
    """Run a world for each seed; how often each thing happened. Raises Violation for the first broken promise."""
    tally: Counter[str] = Counter()
    for seed in seeds:
        tally += World(seed, **parts).run(steps)
    return tally
