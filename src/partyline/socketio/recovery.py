"""Connection state recovery: sessions of clients that come back, and the events that they have missed.

In Node's wire form: CONNECT is answered with a private id (`pid`), events carry their position as a last argument, and
a client that comes back names both. Missed events come from the durable log, before the answer. At least once: an
event that arrived with the connection's last bytes may come again.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, ClassVar, Final, Protocol, runtime_checkable

import msgspec

from partyline import log
from partyline.errors import InvalidValue, StoreUnavailable
from partyline.hub.history import Start, catch_up, find_start
from partyline.hub.hub import Hub
from partyline.hub.timers import Timers
from partyline.interfaces import SessionRow, SessionTable, Store, View
from partyline.models import Audience, Message, Position
from partyline.socketio.journal import read_record

if TYPE_CHECKING:
    from partyline.socketio.namespace import Namespace
    from partyline.socketio.seams import Carrying, Member
    from partyline.socketio.socket import Socket

_log = log.get("socketio")

# After these the client meant to leave, or must not resume its session.
FINAL: Final = frozenset(("client namespace disconnect", "server namespace disconnect", "parse error", "refused"))
_STEP: Final = 1_000  # offsets that a session's start moves before it is written again


MOST_WAITING: Final = 100_000  # sessions whose clients are away; about 1 kB each


@dataclass(slots=True)
class _Live:
    """A session in use."""

    row: SessionRow
    data: bytes  # as it was last written
    confirmed: int  # the offset up to which its client certainly has everything
    seen: int  # the offset sent at its last heartbeat; the next one confirms it
    saved: float  # when it was last written
    hole: int = -1  # the log's head when an event went out unkept: it cannot go on from there or earlier


@dataclass(frozen=True, slots=True)
class _Kept:
    """A session whose client is away."""

    row: SessionRow
    left: float
    hole: int = -1


@dataclass(frozen=True, slots=True)
class Restored:
    """A session on its way back."""

    kept: _Kept
    after: Position
    view: View
    proven: ClassVar = True

    @property
    def row(self) -> SessionRow:
        return self.kept.row


@runtime_checkable
class SharedSessions(SessionTable, Protocol):
    """A SessionTable of several nodes, any of which may take a session over. A row in use is to be saved again within
    `renewal` seconds."""

    node: str
    renewal: float

    def serve(self, hand_over: Callable[[bytes], tuple[SessionRow, int] | None]) -> None:
        """Another node asks for a session by its `pid_hash`: `hand_over` lets go of it, and returns its row and its
        hole (as `leave`), or None if there is nothing to hand over."""
        ...

    def leave(self, row: SessionRow, hole: int, life: float) -> None:
        """Its client is away, and may come back within `life` seconds; from `hole` or earlier it cannot go on."""
        ...

    async def claim(self, pid_hash: bytes) -> tuple[SessionRow, int] | None:
        """Take a session of another node, with its hole; None if there is none. Raises StoreUnavailable."""
        ...

    async def flush(self) -> None:
        """Return when everything so far is written."""
        ...


class Recovery:
    """The sessions of all namespaces of a server: `window` seconds for a client to come back."""

    def __init__(
        self, hub: Hub, store: Store, table: SessionTable, timers: Timers, window: float, realm: str = ""
    ) -> None:
        """The keys of the server's namespaces end with `realm`: sessions with other keys are other servers'."""
        self._hub = hub
        self._store = store
        self._table = table
        self._shared = table if isinstance(table, SharedSessions) else None
        self._timers = timers
        self._window = window
        self._live: dict[Member, _Live] = {}
        self._users: dict[bytes, Socket] = {}  # sockets by the hash of their private ids
        self._waiting: OrderedDict[bytes, _Kept] = OrderedDict()
        self._returning: dict[bytes, SessionRow] = {}  # on their way back
        self._fetching: set[bytes] = set()  # asked of other nodes
        self.timer_slot = 0
        for row in table.load():  # after a kill, the window begins at the server's start
            _, comma, path = row.namespace.partition(",")
            if comma + path != realm:
                continue
            self._waiting[row.pid_hash] = _Kept(row, timers.now())
        self._arm()
        if self._shared is not None:
            self._shared.serve(self._hand_over)

    @property
    def node(self) -> str:
        """The name of this node, if sessions may go to others."""
        return "" if self._shared is None else self._shared.node

    def __len__(self) -> int:
        """How many sessions there are, in use or not."""
        return len(self._live) + len(self._waiting)

    # A socket's life

    def start(self) -> Position:
        """Where a session that is new now begins."""
        return Position(self._store.epoch, self._hub.fanned_out)

    def entered(self, socket: Socket, start: Position) -> None:
        """A socket is connected: from now on its client may come back. `pid` is its private id."""
        assert socket._pid is not None
        data = _encode(socket)
        row = SessionRow(
            _hash(socket._pid),
            socket.namespace._key,
            socket.id,
            _rooms(socket),
            msgspec.json.decode(data or b"{}"),
            start,
        )
        self._live[socket] = _Live(row, data or b"", start.offset, start.offset, self._timers.now())
        self._users[row.pid_hash] = socket
        if data is not None:
            self._table.save(row)

    def changed(self, socket: Socket) -> None:
        """Its rooms or its data may have changed."""
        live = self._live.get(socket)
        if live is None:
            return
        rooms = _rooms(socket)
        data = _encode(socket) if socket.data or live.data != b"{}" else live.data
        if data is None or (rooms == live.row.rooms and data == live.data):
            return
        live.row, live.data = replace(live.row, rooms=rooms, data=msgspec.json.decode(data)), data
        self._save(live)

    def heard(self, socket: Socket) -> None:
        """It answered a heartbeat: everything sent up to the previous one has arrived."""
        live = self._live.get(socket)
        if live is None:
            return
        live.confirmed, live.seen = live.seen, self._hub.fanned_out
        due = self._shared is not None and self._timers.now() - live.saved >= self._shared.renewal
        if (
            due
            or live.confirmed - live.row.start.offset >= _STEP
            or live.row.start.offset <= live.hole < live.confirmed
        ):
            live.row = replace(live.row, start=Position(self._store.epoch, live.confirmed))
            self._save(live)

    def broken(self, namespace: Namespace) -> None:
        """An event of a namespace goes out without a place in the log: its sessions cannot go on past it."""
        for row in self._away(namespace):
            self._forget(row)
        for socket in namespace.sockets.values():
            live = self._live.get(socket)
            if live is not None:
                if (
                    live.hole < live.confirmed
                ):  # it is in the table: a process that starts after a kill knows of no hole
                    self._table.delete(live.row.pid_hash)
                live.hole = self._store.head

    def expelled(self, namespace: Namespace, audience: Audience) -> None:
        """An audience is disconnected: those of it that are away do not come back, either."""
        for row in self._away(namespace):
            if audience.reaches(row.sid, row.rooms):
                self._forget(row)

    def moved(self, namespace: Namespace, audience: Audience, into: frozenset[str], out_of: frozenset[str]) -> None:
        """An audience joins and leaves rooms: those of it that are away come back to them."""
        for row in self._away(namespace):
            if not audience.reaches(row.sid, row.rooms):
                continue
            rooms = set(row.rooms) - out_of
            if len(rooms | into) <= namespace.io.rooms_per_connection + 1:
                rooms |= into
            moved = replace(row, rooms=tuple(sorted(rooms)))
            kept = self._waiting.get(row.pid_hash)
            if kept is None:
                self._returning[row.pid_hash] = moved
            else:
                self._waiting[row.pid_hash] = replace(kept, row=moved)
                self._save_away(self._waiting[row.pid_hash])

    def _away(self, namespace: Namespace) -> list[SessionRow]:
        """The sessions of a namespace whose clients are away, or on their way back."""
        rows = (*(kept.row for kept in self._waiting.values()), *self._returning.values())
        return [row for row in rows if row.namespace == namespace._key]

    def _save(self, live: _Live) -> None:
        if live.hole < live.confirmed:
            live.saved = self._timers.now()
            self._table.save(live.row)

    def _save_away(self, kept: _Kept) -> None:
        if self._shared is not None:
            self._shared.leave(kept.row, kept.hole, self._window - (self._timers.now() - kept.left))
        elif kept.hole < kept.row.start.offset:
            self._table.save(kept.row)

    def _forget(self, row: SessionRow) -> None:
        self._waiting.pop(row.pid_hash, None)
        self._returning.pop(row.pid_hash, None)
        self._table.delete(row.pid_hash)

    def left(self, socket: Socket, reason: str) -> None:
        """It is gone; its rooms are still there."""
        live = self._live.pop(socket, None)
        if live is None:
            return
        del self._users[live.row.pid_hash]
        data = _encode(socket)
        if reason in FINAL or data is None:
            self._table.delete(live.row.pid_hash)
            return
        start = Position(live.row.start.epoch, live.confirmed)
        row = replace(live.row, rooms=_rooms(socket), data=msgspec.json.decode(data), start=start)
        self._keep(_Kept(row, self._timers.now(), live.hole))

    def _keep(self, kept: _Kept) -> None:
        self._save_away(kept)
        self._waiting[kept.row.pid_hash] = kept
        if len(self._waiting) > MOST_WAITING:
            self._hub.counters.hit("max_waiting_sessions")
            self._forget(next(iter(self._waiting.values())).row)  # the one whose client has been away the longest
        self._arm()

    # Coming back

    async def restore(self, namespace: Namespace, auth: dict[str, Any]) -> Restored | None:
        """The session that a client names, if it can go on; from then on it is in use, and nobody else can take it.

        If another connection uses it, that one is closed: the client is back before we noticed that it had gone.
        """
        pid, offset = auth.get("pid"), auth.get("offset")
        journal = namespace._journal
        if not isinstance(pid, str) or journal is None:
            return None
        pid_hash = _hash(pid)
        user = self._users.get(pid_hash)
        if user is not None and user.namespace is namespace:
            user.close()  # its client knows better than we do that this connection is dead
        if self._shared is not None and user is None and not (pid_hash in self._waiting or pid_hash in self._returning):
            await self._fetch(pid_hash)
        kept = self._waiting.get(pid_hash)
        now = self._timers.now()
        if kept is None or kept.row.namespace != namespace._key or now >= kept.left + self._window:
            return None
        row = kept.row
        self._returning[pid_hash] = self._waiting.pop(pid_hash).row
        after = row.start
        if offset is not None and offset != "":
            try:
                named = Position.parse(offset) if isinstance(offset, str) else None
            except InvalidValue:
                named = None
            if named is None or named.epoch != after.epoch:
                self._forget(row)
                return None
            after = max(after, named, key=lambda position: position.offset)
        view = View(journal.rooms(row.rooms))
        try:
            start = await find_start(self._hub, self._store, view, after)
        except BaseException as error:
            self.put_back(Restored(kept, after, view))
            if isinstance(error, StoreUnavailable):
                return None
            raise
        if not start.recovered or after.offset <= kept.hole or pid_hash not in self._returning:
            self._forget(row)
            return None
        return Restored(kept, after, view)

    async def replay(self, restored: Restored, socket: Socket, connection: Carrying) -> bool:
        """Send what was missed, and let the socket into its rooms in the very turn in which nothing is missing.

        False if something is missing by now: then it is in no room. If cancelled, or if the connection breaks, the
        session waits for its client again.
        """
        try:
            sink = _Replay(self, restored, socket, connection)
            await catch_up(self._hub, self._store, restored.view, restored.after.offset, sink)
        except _Missing:
            self._forget(restored.row)
            return False
        except BaseException:
            self.put_back(restored)
            raise
        return True

    def row(self, restored: Restored) -> SessionRow | None:
        """A session on its way back, in the rooms that it has now; None if it may not go on: an event has gone out
        unkept meanwhile, or it was disconnected."""
        return self._returning.get(restored.row.pid_hash)

    def returned(self, restored: Restored) -> None:
        """It is back."""
        del self._returning[restored.row.pid_hash]

    def put_back(self, restored: Restored) -> None:
        """The return failed: the session waits for its client again, if it may go on."""
        row = self._returning.pop(restored.row.pid_hash, None)
        if row is not None:
            self._keep(replace(restored.kept, row=row, left=self._timers.now()))

    # Other nodes

    async def _fetch(self, pid_hash: bytes) -> None:
        """Take over a session from another node, if there is one: then it waits here for its client."""
        if self._shared is None or pid_hash in self._fetching:
            return
        self._fetching.add(pid_hash)
        fetching = asyncio.ensure_future(self._shared.claim(pid_hash))
        fetching.add_done_callback(lambda _: self._fetching.discard(pid_hash))
        fetching.add_done_callback(self._fetched)  # also if this client has gone meanwhile: it comes back
        await asyncio.wait((fetching,))

    def _fetched(self, fetching: asyncio.Future[tuple[SessionRow, int] | None]) -> None:
        if fetching.cancelled():
            return
        error = fetching.exception()
        if error is None and (found := fetching.result()) is not None:
            self._keep(_Kept(found[0], self._timers.now(), found[1]))
        elif error is not None:
            _log.warning("a session of another node cannot be taken over", error=str(error))

    def _hand_over(self, pid_hash: bytes) -> tuple[SessionRow, int] | None:
        """Another node has taken this session: its client is there."""
        user = self._users.get(pid_hash)
        if user is not None:
            user.close()
        kept = self._waiting.pop(pid_hash, None)
        self._arm()
        return None if kept is None else (kept.row, kept.hole)

    # Time

    def on_deadline(self, now: float) -> None:
        """End the sessions whose clients have not come back."""
        while self._waiting:
            kept = next(iter(self._waiting.values()))
            if now < kept.left + self._window:
                break
            self._forget(kept.row)
        self._arm()

    def _arm(self) -> None:
        if self._waiting:
            self._timers.set(self, next(iter(self._waiting.values())).left + self._window)
        else:
            self._timers.cancel(self)


class _Missing(Exception):
    """A session cannot go on: something was pruned, or went out unkept, while it caught up; or it was disconnected."""


class _Replay:
    """Sends a socket what it missed (`hub.history.Sink`)."""

    def __init__(self, recovery: Recovery, restored: Restored, socket: Socket, connection: Carrying) -> None:
        assert socket.namespace._journal is not None
        self._recovery = recovery
        self._restored = restored
        self._socket = socket
        self._journal = socket.namespace._journal
        self._connection = connection

    def began(self, start: Start) -> None:
        """Its start was found before CONNECT was answered."""

    async def deliver(self, message: Message) -> None:
        record, row = read_record(message), self._row()
        if record.local and record.origin != self._recovery.node:
            return
        if record.audience.reaches(row.sid, row.rooms):
            offset = f"{self._restored.after.epoch}-{message.offset}"
            parser, engine = self._connection.parser, self._connection.engine
            name = self._socket.namespace.name
            engine.send_messages(parser.packet(name, self._journal.body(record), None, offset))
            await engine.drained()

    def gap(self, start: Start) -> None:
        raise _Missing

    def attach(self) -> None:
        row = self._row()
        self._recovery.returned(self._restored)
        namespace = self._socket.namespace
        namespace._add(self._socket)
        for room in row.rooms:
            namespace._members.join(self._socket, room)
        self._journal.joined(self._socket)

    def _row(self) -> SessionRow:
        row = self._recovery.row(self._restored)
        if row is None:
            raise _Missing
        return row


class MemoryTable:
    """Sessions that live as long as the process."""

    def load(self) -> list[SessionRow]:
        return []

    def save(self, row: SessionRow) -> None:
        """It is in memory already."""

    def delete(self, pid_hash: bytes) -> None:
        """It is gone from memory already."""


def _hash(pid: str) -> bytes:
    return hashlib.sha256(pid.encode("utf-8", "replace")).digest()


def _rooms(socket: Socket) -> tuple[str, ...]:
    return tuple(sorted(socket.rooms))


def _encode(socket: Socket) -> bytes | None:
    """Its data as JSON; None, with a warning, if that is impossible: then its session cannot be recovered."""
    try:
        return msgspec.json.encode(socket.data) if socket.data else b"{}"
    except (TypeError, ValueError, OverflowError, RecursionError) as error:
        _log.warning("a socket's data is not JSON: it cannot recover", socket=socket.id, error=str(error))
        return None
