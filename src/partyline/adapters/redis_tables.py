"""Tables in Redis or Valkey: a hash of each, with the deadline before each value, and a channel that tells changes.

A script changes a value and tells it in one step, so that watchers hear the changes of a key in their order. A watcher
that was away is told again of all that there is, and of what is not there any more.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from struct import Struct
from typing import TYPE_CHECKING, Any, Final

from partyline import log
from partyline.adapters import redis_scripts as scripts
from partyline.adapters.redis import GONE, Redis
from partyline.adapters.redis_servers import named
from partyline.errors import StoreUnavailable
from partyline.interfaces import Changed

if TYPE_CHECKING:
    from partyline.adapters.redis_servers import Server

_log = log.get("store")

_PATIENCE: Final = 2.0  # seconds until a Redis that does not answer is taken to be gone
_DEADLINE: Final = Struct(">d")
_LENGTH: Final = Struct(">I")
_SWEEP: Final = 1_000
_COUNT: Final = "500"  # values in one answer, about
_TABLES: Final = ("registrations", "sessions", "revocations")


def open_tables(url: str) -> RedisTables:
    """The tables beside the log at `url`, not connected yet. Raises ConfigError."""
    server, prefix = named(url)
    return RedisTables(server, prefix=prefix)


class RedisTables:
    """Tables on the Redis (6 or later) or Valkey of an address, or of a client of redis-py with `protocol=3`.

    `clock` None counts lives by the clock of Redis, which is the same one for all nodes. Raises ConfigError.
    """

    def __init__(self, server: Server, *, prefix: str = "partyline", clock: Callable[[], float] | None = None) -> None:
        self._redis = Redis(server, at=f"{{{prefix}}}", probe=f"{{{prefix}}}:probe", field="log")
        self._redis.when_up = self._up
        self._redis.quiet = True  # whoever asks hears of it, and the log beside has a line
        self._started = False
        self.registrations, self.sessions, self.revocations = (
            RedisTable(self._redis, f"{{{prefix}}}", name, clock) for name in _TABLES
        )

    async def start(self) -> None:
        """Connect, or go on trying: returns after the first attempt. Idempotent."""
        if not self._started:
            self._started = True
            await self._redis.start()

    async def close(self) -> None:
        for table in self._tables:
            table.close()
        await self._redis.close()

    @property
    def _tables(self) -> tuple[RedisTable, ...]:
        return self.registrations, self.sessions, self.revocations

    def _up(self) -> None:
        for table in self._tables:
            table.up()


class RedisTable:
    """One of them."""

    def __init__(self, redis: Redis, prefix: str, name: str, clock: Callable[[], float] | None) -> None:
        self._redis = redis
        self._prefix = prefix
        self._name = name
        self._values = f"{prefix}:table:{name}"  # also the channel
        self._clock = clock
        self._watchers: list[Changed] = []
        self._known: dict[str, float] = {}  # keys that the watchers were told of, and their deadlines in milliseconds
        self._sweep = _SWEEP  # from this many on they are searched for those whose life is over
        self._ahead = 0.0  # of the loop's clock, the clock of Redis
        self._missed: set[str] = set()  # those of before a loss that have not been seen again yet

    async def get(self, key: str) -> bytes | None:
        found: bytes | None = await self._run(scripts.GET, key)
        return found

    async def put(self, key: str, value: bytes, life: float) -> None:
        await self._run(scripts.PUT, key, value, str(round(life * 1000)))

    async def take(self, key: str) -> bytes | None:
        taken: bytes | None = await self._run(scripts.TAKE, key)
        return taken

    async def watch(self, changed: Changed) -> None:
        if not self._watchers:
            self._redis.listen(self._values, self._heard)
        self._watchers.append(changed)
        try:
            await self._scan([changed])
        except BaseException:
            self._watchers.remove(changed)
            raise

    def close(self) -> None:
        """Tell nobody of this node any more."""
        self._watchers.clear()

    def up(self) -> None:
        """There is a connection again: what was changed meanwhile is told."""
        if self._watchers:
            self._missed |= self._known.keys()
            self._scan(list(self._watchers)).add_done_callback(self._told_again)

    def _told_again(self, done: asyncio.Future[None]) -> None:
        if done.cancelled() or done.exception() is not None:
            return  # the connection is lost again
        missed, self._missed = self._missed, set()
        for key in missed:
            self._tell(self._watchers, key, b"")

    def _scan(self, watchers: list[Changed]) -> asyncio.Future[None]:
        """Tell all that there is.

        Each piece is told as soon as it is read, since the next thing that is read may be a change of it.
        """
        done: asyncio.Future[None] = asyncio.get_running_loop().create_future()

        def timed(reply: Any) -> None:
            if isinstance(reply, list):
                self._ahead = int(reply[0]) * 1000 + int(reply[1]) / 1000 - asyncio.get_running_loop().time() * 1000

        def piece(reply: Any) -> None:
            if done.done():
                return
            if isinstance(reply, Exception):
                done.set_exception(StoreUnavailable(f"a table in Redis cannot be read: {reply}"))
                return
            cursor, values = reply
            now = self._now()
            for key, value in zip(values[::2], values[1::2], strict=True):
                if _DEADLINE.unpack_from(value)[0] > now:
                    self._tell(watchers, _text(key), value)
            if cursor == b"0":
                done.set_result(None)
            else:
                self._redis.ask(piece, "HSCAN", self._values, cursor, "COUNT", _COUNT)

        self._redis.ask(timed, "TIME")
        self._redis.ask(piece, "HSCAN", self._values, "0", "COUNT", _COUNT)
        return done

    def _heard(self, change: bytes) -> None:
        start = _LENGTH.size
        end = start + _LENGTH.unpack_from(change)[0]
        self._tell(self._watchers, _text(change[start:end]), change[end:])

    def _tell(self, watchers: list[Changed], key: str, kept: bytes) -> None:
        """`kept` is the value after its deadline, empty where it was taken."""
        self._missed.discard(key)
        value: bytes | None = None
        if kept:
            (self._known[key],) = _DEADLINE.unpack_from(kept)
            value = kept[_DEADLINE.size :]
            if len(self._known) > self._sweep:
                self._forget()
        else:
            self._known.pop(key, None)
        for changed in tuple(watchers):
            try:
                changed(key, value)
            except Exception:
                _log.exception("a change of a table could not be taken in", table=self._name)

    def _forget(self) -> None:
        """Forget the keys whose life is over, without telling."""
        now = self._now()
        self._known = {key: ending for key, ending in self._known.items() if ending > now}
        self._sweep = max(_SWEEP, 2 * len(self._known))

    def _now(self) -> float:
        """Milliseconds, by the clock that lives are counted by."""
        return self._clock() * 1000 if self._clock else asyncio.get_running_loop().time() * 1000 + self._ahead

    async def _run(self, script: str, key: str, *values: str | bytes) -> Any:
        now = "" if self._clock is None else str(round(self._clock() * 1000))
        parts = ("EVAL", script, "1", self._prefix, self._name, now, _bytes(key), *values)
        try:
            async with asyncio.timeout(_PATIENCE):
                answer = await self._redis.answer(*parts)
        except TimeoutError:
            raise StoreUnavailable("Redis does not answer: try again in a moment") from None
        if answer is GONE:
            raise StoreUnavailable("the connection to Redis is lost: try again in a moment")
        if isinstance(answer, Exception):
            raise StoreUnavailable(f"Redis refuses: {answer}")
        return answer


def _bytes(key: str) -> bytes:
    """Any text, lone surrogates included."""
    return key.encode("utf-8", "surrogatepass")


def _text(key: bytes) -> str:
    return key.decode("utf-8", "surrogatepass")
