"""Recovery over the stream of a cluster of Node's servers: a client that leaves one server comes back on any of them.

A session is in Redis while its client is away, in the form of Node's adapter, and only then: that of a server that is
killed is gone. What was missed is read from the stream, before CONNECT is answered.
"""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, cast

from partyline import log
from partyline.errors import InvalidValue
from partyline.models import Audience
from partyline.socketio.recovery import FINAL
from partyline.socketio.streaming import StreamLog
from partyline.wire.cluster.messages import Emit, Expel, Move
from partyline.wire.cluster.shapes import UNREADABLE
from partyline.wire.cluster.streams import (
    Session,
    is_offset,
    offset_number,
    offset_text,
    read_session,
    session_key,
    write_session,
)
from partyline.wire.socketio.values import in_messagepack

if TYPE_CHECKING:
    from partyline.socketio.namespace import Namespace
    from partyline.socketio.seams import Carrying
    from partyline.socketio.socket import Socket

_log = log.get("socketio")

_TAKE: Final = "local kept = redis.call('GET', KEYS[1]) redis.call('DEL', KEYS[1]) return kept"
_LONGEST: Final = 100  # characters of a private id
_PAGE: Final = 100  # entries read at a time
_PATIENCE: Final = 2.0  # seconds that a client waits for this server to read what another one has sent it


@dataclass(slots=True)
class _Live:
    """A session in use."""

    socket: Socket
    confirmed: int  # the entry up to which its client certainly has everything
    seen: int  # the entry sent at its last heartbeat; the next one confirms it


@dataclass(frozen=True, slots=True)
class _Row:
    """What a session keeps, but for its rooms."""

    sid: str
    data: dict[str, Any]


@dataclass(slots=True, eq=False)
class Restored:
    """A session on its way back (`seams.Returning`)."""

    row: _Row
    after: int
    proven: bool
    namespace: str
    rooms: set[str]
    session: Session  # as it was kept
    expelled: bool = False

    def move(self, into: Collection[str], out_of: Collection[str], most: int) -> None:
        """It joins and leaves rooms, at most so many."""
        self.rooms.difference_update(out_of)
        if len(self.rooms.union(into)) <= most + 1:  # its own room is one more
            self.rooms.update(into)


class StreamSessions:
    """The sessions of all namespaces of a server (`seams.Recovering`): `window` seconds for a client to come back."""

    def __init__(self, stream: StreamLog, window: float) -> None:
        self._stream = stream
        self._redis = stream.redis
        self._window = str(max(round(window * 1000), 1))
        self._live: dict[str, _Live] = {}  # by private id
        self._returning: set[Restored] = set()

    def __len__(self) -> int:
        """How many sessions are in use."""
        return len(self._live)

    # A socket's life

    def start(self) -> int:
        """Where a session that is new now begins."""
        return self._stream.covered

    def entered(self, socket: Socket, start: int) -> None:
        assert socket._pid is not None
        self._live[socket._pid] = _Live(socket, start, start)

    def changed(self, socket: Socket) -> None:
        """Nothing is kept while it is here."""

    def heard(self, socket: Socket) -> None:
        live = self._live.get(socket._pid or "")
        if live is not None:
            live.confirmed, live.seen = live.seen, self._stream.covered

    def broken(self, namespace: Namespace) -> None:
        """The stream remembers where that was."""

    def expelled(self, namespace: Namespace, audience: Audience) -> None:
        """An audience is disconnected: those of it that are on their way back are, too. Whoever is away is when it
        finds that in the stream."""
        for restored in self._reached(namespace, audience):
            restored.expelled = True

    def moved(self, namespace: Namespace, audience: Audience, into: frozenset[str], out_of: frozenset[str]) -> None:
        """An audience joins and leaves rooms, likewise."""
        for restored in self._reached(namespace, audience):
            restored.move(into, out_of, namespace.io.rooms_per_connection)

    def _reached(self, namespace: Namespace, audience: Audience) -> list[Restored]:
        return [
            one
            for one in self._returning
            if one.namespace == namespace.name and audience.reaches(one.row.sid, one.rooms)
        ]

    def left(self, socket: Socket, reason: str) -> None:
        """It is gone; its rooms are still there."""
        live = self._live.pop(socket._pid or "", None)
        if live is None or reason in FINAL:
            return
        rooms: list[str | int] = list(socket.rooms)
        offset = offset_text(live.confirmed) if live.confirmed else ""
        try:
            data = in_messagepack(
                lambda values: write_session(
                    Session(
                        socket.id,
                        cast("str", socket._pid),
                        rooms,
                        values[0],
                        nsp=socket.namespace.name,
                        offset=offset,
                        left=offset_text(self._stream.read),
                        uid=self._stream.form.node,
                        n=self._stream.numbers,
                    )
                ),
                [socket.data],
                lambda: ["data"],
            )
        except InvalidValue as error:
            _log.warning("a socket cannot recover", socket=socket.id, error=error.message)
        else:
            self._save(cast("str", socket._pid), data)

    def _save(self, pid: str, data: bytes) -> None:
        self._redis.command("SET", session_key(pid), data, "PX", self._window)

    # Coming back

    async def restore(self, namespace: Namespace, auth: dict[str, Any]) -> Restored | None:
        """The session that a client names, if it can go on; from then on nobody else can take it.

        If another connection here uses it, that one is closed: the client is back before we noticed that it had gone.
        """
        pid, offset = auth.get("pid"), auth.get("offset")
        if not isinstance(pid, str) or len(pid) > _LONGEST or not (offset in (None, "") or is_offset(offset)):
            return None
        live = self._live.get(pid)
        if live is not None and live.socket.namespace is namespace:
            live.socket.close()
        kept = await self._redis.answer("EVAL", _TAKE, "1", session_key(pid))
        if not isinstance(kept, bytes):
            return None
        try:
            session = read_session(kept)
        except UNREADABLE as error:
            self._stream.counters.unreadable += 1
            _log.warning("a session in Redis cannot be read", error=str(error))
            return None
        after = offset or session.offset
        if session.pid != pid or session.nsp not in ("", namespace.name) or not is_offset(after):
            return None
        if session.sid in namespace.sockets:
            return None
        found = await self._redis.answer("XRANGE", self._stream.form.stream, after, after)
        if not isinstance(found, list) or not found or offset_number(after) <= self._stream.hole:
            return None
        data = session.data if isinstance(session.data, dict) else {}
        restored = Restored(
            _Row(session.sid, data),
            offset_number(after),
            proven=bool(session.nsp),
            namespace=namespace.name,
            rooms={session.sid, *(str(room) for room in session.rooms)},
            session=session,
        )
        self._returning.add(restored)
        return restored

    async def replay(self, restored: Restored, socket: Socket, connection: Carrying) -> bool:
        """Send what was missed, and let the socket into its rooms in the very turn in which nothing is missing.

        False if something is missing by now: then it is in no room. If cancelled, or if the connection breaks, the
        session waits for its client again.
        """
        stream, at = self._stream, restored.after
        try:
            async with asyncio.timeout(None) as patience:
                while at != stream.covered:
                    if at > stream.covered:  # another server was faster
                        loop = asyncio.get_running_loop()
                        patience.reschedule(patience.when() or loop.time() + _PATIENCE)
                        await stream.moves()
                        continue
                    until = stream.covered
                    patience.reschedule(None)
                    found = await self._read(at, until)
                    if found is None:
                        return False
                    for identifier, fields in found:
                        self._apply(identifier.decode(), fields, restored, socket, connection)
                        await connection.engine.drained()
                    if restored.expelled:
                        return False
                    at = until if len(found) < _PAGE else offset_number(found[-1][0].decode())
        except TimeoutError:
            return False
        except BaseException:
            self.put_back(restored)
            raise
        finally:
            self._returning.discard(restored)
        if restored.expelled or restored.after <= stream.hole or socket.id in socket.namespace.sockets:
            return False
        namespace = socket.namespace
        namespace._add(socket)
        for room in restored.rooms:
            namespace._members.join(socket, room)
        for parcel in stream.unserved(namespace):
            parcel.joined(socket)
        return True

    async def _read(self, after: int, until: int) -> Sequence[tuple[bytes, Sequence[bytes]]] | None:
        """The next entries; None if some of them are gone, or Redis is."""
        name = self._stream.form.stream
        page = self._redis.answer("XRANGE", name, f"({offset_text(after)}", offset_text(until), "COUNT", str(_PAGE))
        oldest = await self._redis.answer("XRANGE", name, "-", "+", "COUNT", "1")
        found = await page
        if not isinstance(found, list) or not isinstance(oldest, list) or not oldest:
            return None
        return None if offset_number(oldest[0][0].decode()) > after else found

    def _apply(
        self, identifier: str, fields: Sequence[bytes], restored: Restored, socket: Socket, connection: Carrying
    ) -> None:
        """Send an entry, if it is an event that the client has missed; or do to it what was done to its audience
        meanwhile. Volatile events are not for those who are away."""
        try:
            said = self._stream.form.read_entry(fields, own=True)
        except UNREADABLE:
            return  # whoever read it when it came has counted it
        message = None if said is None else said[1]
        name, sid = socket.namespace.name, restored.row.sid
        if not isinstance(message, Emit | Move | Expel) or message.namespace != name or restored.expelled:
            return
        if not Audience(frozenset(message.rooms), frozenset(message.excluded)).reaches(sid, restored.rooms):
            return
        if isinstance(message, Expel):
            restored.expelled = True
        elif isinstance(message, Move):
            if self._is_later(identifier, fields, restored.session):
                restored.move(message.into, message.out_of, socket.namespace.io.rooms_per_connection)
        elif not message.volatile:
            try:
                body = connection.parser.body(message.event, tuple(message.arguments))
            except InvalidValue:
                return
            connection.engine.send_messages(connection.parser.packet(name, body, None, identifier))

    def _is_later(self, identifier: str, fields: Sequence[bytes], session: Session) -> bool:
        """Whether what an entry says was not done yet when a session was kept. Node's servers do not say it."""
        number = self._stream.form.number(fields, session.uid)
        if number:
            return number > session.n
        return is_offset(session.left) and offset_number(identifier) > offset_number(session.left)

    def put_back(self, restored: Restored) -> None:
        self._returning.discard(restored)
        if not restored.expelled:
            self._save(restored.session.pid, write_session(restored.session))

    def overrun(self) -> None:
        """Entries were trimmed before they were read: whoever is here has missed some, and has to come anew."""
        self._stream.beside()
        for live in tuple(self._live.values()):
            live.socket.close(1012, "events are missing")
