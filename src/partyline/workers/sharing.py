"""The log, the bus and the tables of a worker, which its keeper has: `interfaces.SharedLog`, `Bus`, `Tables`."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import Any, Final, TypeVar

from partyline import log
from partyline.errors import StoreUnavailable
from partyline.hub.envelopes import Envelopes
from partyline.interfaces import Changed, Heard, Outcome, Standing, Stretch, View
from partyline.models import Draft, Message, Page
from partyline.wire import keeper as wire
from partyline.wire.keeper import Placed
from partyline.workers.member import Member

_log = log.get("workers")

_T = TypeVar("_T")

_OWN: Final = "to "  # and the name of a node: the subject of what is sent to it alone
_PATIENCE: Final = 5.0  # seconds that the keeper may need for a table
_UNREAD: Final = 16 * 1024 * 1024  # bytes: while the keeper has not read so many, messages on the bus are dropped


class KeeperLog:
    """A `SharedLog`."""

    def __init__(self, member: Member) -> None:
        self._member = member
        self._since: int | None = None  # set while an append is unanswered: if it is stored, its offsets are above
        self._reached = 0

    async def connect(self, offset: int) -> Standing:
        await self._member.start()
        standing = await self._member.ask(wire.Connect, offset, gives=Standing)
        self._reached = offset
        return standing

    async def append(self, epoch: str, groups: Sequence[Sequence[Draft]]) -> Sequence[Outcome]:
        since, self._since = self._since, self._reached
        placed = await self._member.ask(wire.Append, epoch, groups, since, gives=list[Placed])
        self._since = None
        drafts = (draft for group in groups for draft in group)
        return [one.outcome(draft) for one, draft in zip(placed, drafts, strict=True)]

    async def tail(self, epoch: str, after: int, limit: int, wait: float) -> Stretch:
        self._reached = after
        return await self._member.ask(wire.Tail, epoch, after, limit, wait, gives=Stretch)

    async def head(self) -> int:
        return await self._member.ask(wire.Head, gives=int)

    async def renew(self, epoch: str) -> None:
        await self._member.ask(wire.Renew, epoch, gives=type(None))

    async def read(self, epoch: str, view: View, after: int, limit: int) -> Page:
        return await self._member.ask(wire.Read, epoch, view, after, limit, gives=Page)

    async def newest(self, epoch: str, room: str, before: int, limit: int) -> Sequence[Message]:
        return await self._member.ask(wire.Newest, epoch, room, before, limit, gives=list[Message])

    async def close(self) -> None:
        await self._member.close()


class KeeperBus:
    """A `Bus`: the keeper passes messages on to the workers that listen."""

    def __init__(self, member: Member) -> None:
        self.node = member.node
        self._member = member
        self._envelopes = Envelopes(member.node)
        self._listeners: dict[str, Heard] = {}
        self._closed = False
        member.heard = self._heard
        member.up.append(self._listen_again)

    @property
    def connected(self) -> bool:
        return self._member.connected and not self._closed

    async def start(self, received: Heard) -> None:
        self.listen(_OWN + self.node, received)
        await self._member.start()

    def publish(self, subject: str, data: bytes) -> None:
        if self._closed:
            return
        message = self._envelopes.wrap(subject, data)
        if self._member.unsent < _UNREAD:
            self._member.tell(wire.Say(subject, message))

    def send(self, node: str, data: bytes) -> None:
        self.publish(_OWN + node, data)

    def listen(self, subject: str, heard: Heard) -> None:
        self._listeners[subject] = heard
        self._member.tell(wire.Listen(subject))

    def unlisten(self, subject: str) -> None:
        self._listeners.pop(subject, None)
        self._envelopes.unlisten(subject)
        self._member.tell(wire.Unlisten(subject))

    async def ready(self) -> None:
        await self._member.ask(wire.Ready, gives=type(None))

    def lost(self) -> int:
        return self._envelopes.lost

    async def close(self) -> None:
        self._closed = True
        for subject in tuple(self._listeners):
            self.unlisten(subject)
        if self._member.connected:
            await self.ready()

    def _listen_again(self) -> None:
        for subject in self._listeners:
            self._member.tell(wire.Listen(subject))

    def _heard(self, subject: str, message: bytes) -> None:
        heard = self._listeners.get(subject)
        if heard is not None and (found := self._envelopes.unwrap(subject, message)) is not None:
            try:
                heard(*found)
            except Exception:
                _log.exception("what another worker has said could not be done", subject=subject)


class KeeperTable:
    """A `Table`."""

    def __init__(self, member: Member, name: str) -> None:
        self._member = member
        self._name = name
        self._watchers: list[Changed] = []
        self._told: dict[str, bytes] = {}  # what watchers know, once there is one
        self._changed: set[str] = set()  # keys that changed since the last full fetch began: newer than its pages
        self._again: asyncio.Task[None] | None = None
        member.up.append(self._watch_again)

    async def get(self, key: str) -> bytes | None:
        return await self._ask(wire.Get, key, gives=bytes | None)  # type: ignore[arg-type]

    async def put(self, key: str, value: bytes, life: float) -> None:
        await self._ask(wire.Put, key, value, life, gives=type(None))

    async def take(self, key: str) -> bytes | None:
        return await self._ask(wire.Take, key, gives=bytes | None)  # type: ignore[arg-type]

    async def watch(self, changed: Changed) -> None:
        self._watchers.append(changed)
        if len(self._watchers) == 1:
            await self._fetch()
        else:
            for key, value in tuple(self._told.items()):
                changed(key, value)

    async def all(self) -> list[tuple[str, bytes]]:
        """Everything that there is. Raises StoreUnavailable."""
        found: list[tuple[str, bytes]] = []
        after: str | None = None
        while page := await self._ask(wire.List, after, gives=list[tuple[str, bytes]]):
            found += page
            after = page[-1][0]
        return found

    def change(self, key: str, value: bytes | None) -> None:
        """Something has changed."""
        self._changed.add(key)
        if value is None:
            self._told.pop(key, None)
        else:
            self._told[key] = value
        for changed in tuple(self._watchers):
            try:
                changed(key, value)
            except Exception:
                _log.exception("a change in a table could not be done", table=self._name)

    def close(self) -> None:
        self._watchers.clear()
        if self._again is not None:
            self._again.cancel()

    async def _ask(self, kind: Callable[..., wire.Asked], *values: Any, gives: type[_T]) -> _T:
        try:
            async with asyncio.timeout(_PATIENCE):
                return await self._member.ask(kind, self._name, *values, gives=gives)
        except TimeoutError:
            raise StoreUnavailable("the process that keeps the log does not answer: try again in a moment") from None

    async def _fetch(self) -> None:
        """Tell the watchers what has changed since they were told."""
        before = set(self._told)
        self._changed = set()
        await self._ask(wire.Watch, gives=type(None))
        for key, value in await self.all():
            before.discard(key)
            if self._told.get(key) != value:
                self.change(key, value)
        for key in before - self._changed:
            self.change(key, None)

    def _watch_again(self) -> None:
        if self._watchers:
            self._again = asyncio.get_running_loop().create_task(self._try_again())

    async def _try_again(self) -> None:
        try:
            await self._fetch()
        except StoreUnavailable:
            pass  # the line is gone again; this is called when it is back


class KeeperTables:
    """`Tables`."""

    def __init__(self, member: Member) -> None:
        self._tables = {name: KeeperTable(member, name) for name in TABLES}
        self.registrations, self.sessions, self.revocations = self._tables.values()
        member.changed = self._changed

    async def close(self) -> None:
        for table in self._tables.values():
            table.close()

    def _changed(self, table: str, key: str, value: bytes | None) -> None:
        self._tables[table].change(key, value)


TABLES: Final = ("registrations", "sessions", "revocations")
