"""A log that several nodes share, in Redis or Valkey: a stream, with scripts that number, keep and look up in one step.

Three connections: one appends and asks, one reads, one waits for the next message. `redis_scripts` describes the keys.

With `appendfsync always` Redis answers an append, and serves a waiting reader, when the message is on its disk.
Replicas may lag: a promoted one may have lost the end. Its replication id is not the one that the nodes know, and it
names its predecessor's; so the first node that connects to it gives the log a new epoch. A restarted server has a new
id, too, but names no predecessor: it gets a new epoch if its settings say that a restart may lose data. (A promoted
replica that restarts before any node has connected cannot be told from that.)
"""

from __future__ import annotations

import asyncio
import secrets
import time
from collections.abc import Callable, Sequence
from hashlib import blake2b, sha1
from typing import TYPE_CHECKING, Any, Final

import msgspec

from partyline import log
from partyline.adapters import redis_scripts as scripts
from partyline.adapters.asking import Asking
from partyline.adapters.redis_servers import named, servers
from partyline.errors import InvalidValue, PartylineError, StoreUnavailable, TooManyTopics
from partyline.interfaces import Durability, Fenced, Outcome, Refused, Standing, Stored, Stretch, View
from partyline.models import Draft, Message, Page
from partyline.stores.retention import Retention, lost

if TYPE_CHECKING:
    from partyline.adapters.redis_servers import Server

_log = log.get("store")

_MAX_BYTES: Final = 4 * 1024 * 1024  # of data in one answer; one message may be more
_FEW: Final = 16  # messages that the tail asks for at first, and after large ones
_MANY: Final = 128
_LARGE: Final = 256 * 1024  # bytes of data in one answer
_ROOMS: Final = 64  # rooms of a view that are looked up one by one; for more, the whole log is read
_PIECES: Final = 16  # answers that one page is made of, at most
_SETTLING: Final = 60_000  # milliseconds for which a random id is remembered: only this node may repeat it
_PRUNING: Final = 1.0  # seconds between two rounds of retention
_PRUNED: Final = 500  # rooms of one round, and messages that it deletes
_CHANGED: Final = 10_000  # rooms that are looked at before the walk reaches them
_SPARED: Final = 30.0  # seconds for which every message stays, so that all nodes can read it

_REFUSALS: Final = ("OOM", "MISCONF", "NOREPLICAS")
"""Answers of a Redis that is up and cannot write now."""

_Head = tuple[str, str, str | None, str | None, str | None, float | None, bool | None, str]
_encode_head = msgspec.json.encode
_decode_head = msgspec.json.Decoder(_Head).decode


class RedisLog:
    """A SharedLog on a Redis (6.2 or later) or Valkey of an address, or of a client of redis-py with `protocol=3`.

    `prefix` tells deployments on one Redis from each other. `clock` gives messages their times. Raises
    ConfigError.
    """

    def __init__(
        self,
        server: Server,
        retention: Retention | None = None,
        *,
        prefix: str = "partyline",
        idempotency_window: float = 86400.0,
        spared: float = _SPARED,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._servers = servers(server, "log")
        self._prefix = f"{{{prefix}}}"
        self._retention = retention or Retention()
        self._sized = any(bounds.max_bytes is not None for _, bounds in self._retention.rules)
        self._window = max(1, round(1000 * idempotency_window))
        self._spared = spared
        self._clock = clock
        self._asking, self._reading, self._waiting = Asking(), Asking(), Asking()
        self._count = _FEW  # messages that the tail asks for
        self._changed: set[str] = set()  # rooms that got messages since the last round of retention
        self._cursor = b"0"  # of retention's walk over the other rooms
        self._next_pruning = 0.0
        self._pruning: asyncio.Task[None] | None = None

    # interfaces.SharedLog

    async def connect(self, offset: int) -> Standing:
        await self._asking.close()
        await self._waiting.close()
        try:
            return await self._greet(offset)
        except BaseException:
            await self.close()
            raise

    async def append(self, epoch: str, groups: Sequence[Sequence[Draft]]) -> Sequence[Outcome]:
        now = round(self._clock() * 1e6)
        values: list[str | bytes | int] = [epoch, now, self._retention.max_rooms]
        unfit: set[int] = set()
        for number, group in enumerate(groups):
            try:
                wanted: list[str | bytes | int] = [len(group)]
                for draft in group:
                    wanted += self._arguments(draft)
                values += wanted
            except UnicodeEncodeError:
                unfit.add(number)
        try:
            answers = await self._run(self._asking, scripts.APPEND, *values)
        except _Unwritable as error:
            return [Refused(draft, error) for group in groups for draft in group]
        outcomes: list[Outcome] = []
        at = 0
        for number, group in enumerate(groups):
            if number in unfit:
                half = InvalidValue("a topic, id, user, key or sender holds half a character (a lone surrogate)")
                outcomes += [Refused(draft, half) for draft in group]
                continue
            outcomes += self._outcomes(group, answers[at : at + len(group)], now / 1e6)
            at += len(group)
        return outcomes

    async def tail(self, epoch: str, after: int, limit: int, wait: float) -> Stretch:
        self._prune_soon(epoch)
        count = min(limit, self._count)
        block = ("BLOCK", max(1, round(wait * 1000))) if wait > 0 else ()
        reading = self._waiting.question(
            "XREAD", "COUNT", count, *block, "STREAMS", f"{self._prefix}:log", f"{after}-0"
        )
        try:  # in this order: the epoch is looked up when the messages have been read
            known, pruned = _answer(await self._waiting.ask("HMGET", self._prefix, "epoch", "pruned"))
        except BaseException:
            await self._waiting.close()  # nobody needs the answer that it waits for
            raise
        if known is None or known.decode() != epoch:
            raise Fenced
        (found,) = (_answer(reading.result()) or {b"": ()}).values()
        messages = [_message(entry) for entry in found]
        size = sum(len(message.draft.data) for message in messages)
        self._count = _FEW if size > _LARGE else _MANY
        return Stretch(messages, int(pruned) + 1)

    async def head(self) -> int:
        return int(_answer(await self._asking.ask("HGET", self._prefix, "head")) or 0)

    async def renew(self, epoch: str) -> None:
        await self._run(self._asking, scripts.RENEW, epoch, secrets.token_hex(8))

    async def read(self, epoch: str, view: View, after: int, limit: int) -> Page:
        read = self._of_rooms if not view.patterns and len(view.rooms) <= _ROOMS else self._of_all
        messages: list[Message] = []
        at, head, gone, size = after, after + 1, 0, 0
        for _ in range(_PIECES):
            if at >= head or len(messages) == limit or size >= _MAX_BYTES:
                break
            found, at, head, gone = await read(epoch, view, at, limit - len(messages) + 1)
            now = self._clock()
            for message in found:
                if not view.sees(message.draft) or message.expired(now):
                    continue
                if len(messages) == limit:
                    at = (message.offset or 0) - 1
                    break
                messages.append(message)
                size += len(message.draft.data)
        if view.patterns or len(view.rooms) > _ROOMS:
            gone = await self._gone(view)
        last = max(at, after)
        return Page(tuple(messages), last, last < head, gone + 1)

    async def newest(self, epoch: str, room: str, before: int, limit: int) -> Sequence[Message]:
        found: list[Message] = []  # newest first
        size = 0
        for _ in range(_PIECES):
            count = max(limit - len(found), 16)
            some = await self._find(scripts.NEWEST, epoch, room, before, count, _MAX_BYTES - size)
            now = self._clock()
            messages = [_message(entry) for entry in some]
            found += [message for message in messages if not message.expired(now)]
            size += sum(len(message.draft.data) for message in messages)
            if len(messages) < count or len(found) >= limit or size >= _MAX_BYTES:
                break
            before = messages[-1].offset or 0
        return found[:limit][::-1]

    async def close(self) -> None:
        if self._pruning is not None:
            self._pruning.cancel()
        for one in (self._asking, self._reading, self._waiting):
            await one.close()
        await self._servers.close()

    # Connecting

    async def _greet(self, offset: int) -> Standing:
        """Make the connections, and greet the log. Raises StoreUnavailable."""
        self._asking = asking = await Asking.open(self._servers, self._prefix)
        info = fields(_answer(await asking.ask("INFO")))
        if info.get("loading", "0") != "0":  # while it loads, it says that it has no append-only file
            raise StoreUnavailable("Redis is loading its data")
        if info.get("role") != "master":
            raise StoreUnavailable("this Redis is a replica: the log needs the one that takes writes")
        if (policy := info.get("maxmemory_policy", "noeviction")) != "noeviction":
            raise StoreUnavailable(
                f"Redis may forget messages: maxmemory-policy is {policy}, and the log needs noeviction"
            )
        durability = durability_of(info, await asking.ask("CONFIG", "GET", "*append*fsync*"))
        for script in _SCRIPTS:
            asking.question("SCRIPT", "LOAD", script)
        epoch, head, last = await self._run(
            asking,
            scripts.GREET,
            secrets.token_hex(8),
            info.get("master_replid", ""),
            info.get("master_replid2", "").strip("0"),
            info.get("run_id", ""),
            int(durability < Durability.POWER_CUT),
            offset,
        )
        self._waiting = await Asking.open(self._servers, self._prefix)
        old, self._reading = self._reading, await Asking.open(self._servers, self._prefix)
        await old.close()
        self._count = _FEW
        identity = _message(last).draft.identity if last else None
        return Standing(epoch.decode(), int(head), durability, identity)

    # Appending

    def _arguments(self, draft: Draft) -> tuple[str | bytes | int, ...]:
        """The script's arguments for a draft. Raises UnicodeEncodeError."""
        identity = blake2b("\0".join(draft.identity).encode(), digest_size=16).digest()
        sized = int(self._sized and self._retention.of(draft.room).max_bytes is not None)
        if not draft.chosen_id:
            return draft.room, identity, _SETTLING, b"", _head(draft), draft.data, sized
        narrowed = draft.user is not None or draft.key is not None
        key = blake2b(_encode_head((draft.user, draft.key))).digest() if narrowed else b""
        content = blake2b(draft.data, digest_size=16, key=key).digest()
        return draft.room, identity, self._window, content, _head(draft), draft.data, sized

    def _outcomes(self, group: Sequence[Draft], answers: Sequence[Any], now: float) -> list[Outcome]:
        if isinstance(answers[0], bytes):
            return [Refused(draft, self._refusal(answers[0], draft)) for draft in group]
        outcomes: list[Outcome] = []
        for draft, answer in zip(group, answers, strict=True):
            if isinstance(answer, int):
                if len(self._changed) < _CHANGED:  # above that, the walk finds them
                    self._changed.add(draft.room)
                outcomes.append(Stored(draft, Message(draft, answer, now)))
            else:
                offset, written, entry = answer
                # Retention may have deleted the message, but not its id.
                message = _message(entry) if entry else Message(draft, offset, written / 1e6)
                outcomes.append(Stored(draft, message, duplicate=True))
        return outcomes

    def _refusal(self, what: bytes, draft: Draft) -> PartylineError:
        if what == b"rooms":
            most = self._retention.max_rooms
            return TooManyTopics(f"the log keeps {most} topics (max_rooms)", limit="max_rooms")
        other = draft.conflict(Draft(draft.room, draft.data + b" ", draft.id))
        assert other is not None
        return other

    # Reading

    async def _of_rooms(self, epoch: str, view: View, after: int, count: int) -> tuple[list[Message], int, int, int]:
        """Messages of a few rooms, the offset up to which all are there, the head, and the highest offset deleted."""
        head, found, reached, rooms, gone = await self._find(
            scripts.ROOMS, epoch, after, count, _MAX_BYTES, *view.rooms
        )
        there = {name.decode(): int(float(taken)) for name, taken in zip(rooms[::2], rooms[1::2], strict=True)}
        before = lost(_offsets(gone), view.rooms - there.keys())
        return [_message(entry) for entry in found], int(reached), int(head), max([before, *there.values()])

    async def _of_all(self, epoch: str, view: View, after: int, count: int) -> tuple[list[Message], int, int, int]:
        """The same for the whole log; the caller skips messages that the view does not cover."""
        size = max(count, 256)
        head, _, found = await self._find(scripts.STRETCH, epoch, after, size, _MAX_BYTES)
        messages = [_message(entry) for entry in found]
        complete = len(messages) < size and sum(len(one.draft.data) for one in messages) < _MAX_BYTES
        return messages, int(head) if complete else messages[-1].offset or 0, int(head), 0

    async def _gone(self, view: View) -> int:
        """The highest offset of a large view that retention has deleted."""
        gone = lost(_offsets(await self._look_up("HGETALL", f"{self._prefix}:gone")), view.rooms, view.patterns)
        at = 0
        while True:
            some = await self._look_up(
                "ZREVRANGEBYSCORE", f"{self._prefix}:rooms", "+inf", f"({gone}", "LIMIT", at, 1_000, "WITHSCORES"
            )
            for name, taken in some:
                if view.covers(name.decode()):
                    return int(taken)
            if len(some) < 1_000:
                return gone
            at += len(some)

    # Retention

    def _prune_soon(self, epoch: str) -> None:
        now = time.monotonic()
        if now >= self._next_pruning:
            self._next_pruning = now + _PRUNING
            self._pruning = asyncio.get_running_loop().create_task(self.prune(epoch))
            self._pruning.add_done_callback(_look_at)

    async def prune(self, epoch: str) -> None:
        """Apply retention to the rooms that have changed here and to some others. Raises Fenced."""
        changed = [self._changed.pop() for _ in range(min(len(self._changed), _PRUNED))]
        cursor, some = await self._look_up("ZSCAN", f"{self._prefix}:rooms", self._cursor, "COUNT", _PRUNED)
        self._cursor = cursor
        now = self._clock()
        values: list[str | bytes | int] = []
        for room in dict.fromkeys((*changed, *(name.decode() for name in some[::2]))):
            rule, bounds = self._retention.rule(room)
            most = "" if bounds.max_bytes is None else bounds.max_bytes
            values += (room, rule, round((now - bounds.max_age) * 1e6), bounds.max_messages, most)
        if values:
            spared = round((now - self._spared) * 1e6)
            await self._run(self._asking, scripts.PRUNE, epoch, _PRUNED, spared, *values)

    # Asking

    async def _run(self, asking: Asking, script: str, *values: str | bytes | int) -> Any:
        return _answer(await asking.ask("EVALSHA", _SCRIPTS[script], 1, self._prefix, *values))

    async def _find(self, script: str, *values: str | bytes | int) -> Any:
        return await self._look_up("EVALSHA", _SCRIPTS[script], 1, self._prefix, *values)

    async def _look_up(self, *question: str | bytes | int) -> Any:
        """An answer on the reading connection; if that is replaced meanwhile, on its successor."""
        reading = self._reading
        try:
            return _answer(await reading.ask(*question))
        except StoreUnavailable:
            if reading is self._reading:
                raise
            return await self._look_up(*question)


class _Unwritable(StoreUnavailable):
    """Redis is up, but cannot write: nothing was done."""


def open_log(url: str, retention: Retention, idempotency_window: float) -> RedisLog:
    """The log that a setting names: an address, perhaps with `?prefix=...`. Raises ConfigError."""
    server, prefix = named(url)
    return RedisLog(server, retention, prefix=prefix, idempotency_window=idempotency_window)


_SCRIPTS: Final = {
    script: sha1(script.encode(), usedforsecurity=False).hexdigest()
    for script in (
        scripts.GREET,
        scripts.RENEW,
        scripts.APPEND,
        scripts.STRETCH,
        scripts.ROOMS,
        scripts.NEWEST,
        scripts.PRUNE,
    )
}


def _answer(answer: Any) -> Any:
    """The answer of Redis. Raises the error that an error reply stands for."""
    if not isinstance(answer, Exception):
        return answer
    text = str(answer)
    if text.startswith("FENCED"):
        raise Fenced
    if text.startswith(_REFUSALS):
        raise _Unwritable(f"Redis cannot write now: {text.split(' script:')[0]}")
    raise StoreUnavailable(f"Redis refuses: {text.split(' script:')[0]}")


def _look_at(done: asyncio.Task[None]) -> None:
    """Log a failure of retention, unless the tail has the same one and reports it."""
    error = None if done.cancelled() else done.exception()
    if error is not None and not isinstance(error, StoreUnavailable | Fenced):
        _log.error("retention failed", error=str(error))


def fields(info: Any) -> dict[str, str]:
    """INFO as names and values."""
    text = info.decode(errors="replace") if isinstance(info, bytes) else str(info)
    return dict(line.split(":", 1) for line in text.split("\r\n") if ":" in line)


def durability_of(info: dict[str, str], configured: Any) -> Durability:
    """What a write survives. If Redis hides its settings, as a managed one may, less is assumed.

    Raises StoreUnavailable if it cannot answer now, for example while it loads its data.
    """
    if info.get("aof_enabled") != "1":
        return Durability.NOTHING
    hidden = isinstance(configured, Exception) and str(configured).startswith(("NOPERM", "ERR"))
    pairs: dict[bytes, bytes] = {} if hidden else _answer(configured)
    policy = pairs.get(b"appendfsync", b"everysec")
    if policy == b"always" and pairs.get(b"no-appendfsync-on-rewrite") == b"no":
        return Durability.POWER_CUT
    return Durability.NOTHING if policy == b"no" else Durability.WINDOW


def _head(draft: Draft) -> bytes:
    """Everything in a draft except its data. Raises UnicodeEncodeError."""
    return _encode_head(
        (draft.room, draft.id, draft.user, draft.key, draft.sender, draft.ttl, draft.durable, draft.publisher)
    )


def _message(entry: Any) -> Message:
    """An entry of the stream."""
    identifier, (_, written, _, head, _, data) = entry
    room, message_id, user, key, sender, ttl, durable, publisher = _decode_head(head)
    draft = Draft(room, data, message_id, user, key, sender, ttl, durable, publisher)
    return Message(draft, int(identifier[:-2]), int(written) / 1e6)


def _offsets(values: Any) -> dict[str, int]:
    """A hash of offsets, as a script or Redis itself returns it."""
    pairs = values.items() if isinstance(values, dict) else zip(values[::2], values[1::2], strict=True)
    return {name.decode(): int(offset) for name, offset in pairs}
