"""Where Redis is: one server, the master that Sentinels name, or the server of a Redis Cluster that has a key.

redis-py finds it, and makes the connections.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, Final, Protocol, TypeAlias, runtime_checkable
from urllib.parse import parse_qsl, urlencode, urlsplit, urlunsplit

from partyline.errors import ConfigError

if TYPE_CHECKING:
    from redis.asyncio import Redis as Client
    from redis.asyncio.cluster import RedisCluster

    Server: TypeAlias = str | Client | RedisCluster
    """An address, or a client of redis-py."""

_SENTINEL: Final = 26379


@runtime_checkable
class Servers(Protocol):
    """What connects."""

    clustered: bool

    async def connect(self, key: str) -> Any:
        """redis-py's connection to the server that has `key`, connected. Raises what redis-py raises. Cancelled,
        nothing stays open."""

    async def close(self) -> None:
        """Let go."""


class Single:
    """One server, or whichever Sentinels name now."""

    clustered = False

    def __init__(self, client: Client, *, own: bool) -> None:
        self._client = client
        self._own = own

    async def connect(self, key: str) -> Any:
        pool: Any = self._client.connection_pool
        return await _connected(pool.make_connection())

    async def close(self) -> None:
        if self._own:
            await self._client.aclose()
            for sentinel in getattr(getattr(self._client.connection_pool, "sentinel_manager", None), "sentinels", ()):
                await sentinel.aclose()


class Clustered:
    """A Redis Cluster."""

    clustered = True

    def __init__(self, client: RedisCluster, *, own: bool) -> None:
        self._client = client
        self._own = own

    async def connect(self, key: str) -> Any:
        await self.look()
        return await self.connect_to(self.owner(key))

    async def look(self) -> None:
        """Find out which servers there are, and which keys they have."""
        with _cancellable():
            await self._client.initialize()  # once
            await self._client.nodes_manager.initialize()

    def owner(self, key: str) -> str:
        """The name of the server that has a key."""
        node = self._client.get_node_from_key(key)
        assert node is not None  # else it raises
        return node.name

    def masters(self) -> list[str]:
        """The names of all servers that have keys."""
        return [node.name for node in self._client.get_primaries()]

    async def connect_to(self, name: str) -> Any:
        """A connection to the server of this name."""
        node: Any = self._client.get_node(node_name=name)
        if node is None:
            raise ConnectionError(f"{name} is in the cluster no more")
        return await _connected(node.connection_class(**node.connection_kwargs))

    async def close(self) -> None:
        if self._own:
            await self._client.aclose()


@contextlib.contextmanager
def _cancellable() -> Iterator[None]:
    """A cancellation in here takes effect, at the latest at the end: redis-py writes under `asyncio.wait_for`, which in
    Python 3.11 forgets a cancellation that comes when the write is done."""
    task = asyncio.current_task()
    assert task is not None
    before = task.cancelling()
    yield
    if task.cancelling() > before:
        raise asyncio.CancelledError


async def _connected(connection: Any) -> Any:
    try:
        with _cancellable():
            await connection.connect()
    except BaseException:
        await connection.disconnect(nowait=True)
        raise
    return connection


def servers(server: Server, field: str = "adapter") -> Servers:
    """What connects to an address, or as a client of redis-py does. `field` is the setting that it comes from.

    An address may say `?cluster=true`, or name Sentinels: `redis://host,host/0?sentinel=NAME`. Raises ConfigError where
    it cannot be used, and without redis-py and hiredis.
    """
    try:
        import hiredis  # noqa: F401
        import redis.asyncio
    except ImportError:
        raise ConfigError(
            "Redis needs packages that are not installed: pip install 'partyline-server[redis]'", field=field
        ) from None
    if isinstance(server, str):
        try:
            return _addressed(server)
        except ValueError as error:
            shown = server.partition("://")[0]  # the rest may have a password in it
            raise ConfigError(f"{field}: {shown}:// is not an address of Redis: {error}", field=field) from None
    if isinstance(server, redis.asyncio.RedisCluster):
        settings: dict[str, Any] = server.get_connection_kwargs()
    else:
        settings = server.connection_pool.connection_kwargs
    if str(settings.get("protocol")) != "3":
        raise ConfigError(f"{field}: make the client of redis-py with protocol=3", field=field)
    if isinstance(server, redis.asyncio.RedisCluster):
        return Clustered(server, own=False)
    return Single(server, own=False)


def _addressed(url: str) -> Servers:
    """Raises ValueError."""
    import redis.asyncio
    from redis.asyncio.sentinel import Sentinel

    once: Any = redis.asyncio.retry.Retry(redis.backoff.NoBackoff(), 0)
    parts = urlsplit(url)
    query = dict(parse_qsl(parts.query))
    cluster, name = query.pop("cluster", "false"), query.pop("sentinel", "")
    plain = urlunsplit(parts._replace(query=urlencode(query)))
    if cluster not in ("true", "false"):
        raise ValueError(f"cluster: {cluster!r} must be true or false")
    if cluster == "true":
        return Clustered(redis.asyncio.RedisCluster.from_url(plain, protocol=3), own=True)
    if name:
        user, at, hosts = parts.netloc.rpartition("@")
        first = urlunsplit(parts._replace(netloc=user + at + hosts.partition(",")[0], query=urlencode(query)))
        settings = redis.asyncio.ConnectionPool.from_url(first).connection_kwargs
        known = {key: value for key, value in settings.items() if key not in ("host", "port")}
        there = [_place(host) for host in hosts.split(",")]
        sentinel: Any = Sentinel(there)  # type: ignore[no-untyped-call]
        master = sentinel.master_for(name, protocol=3, retry=once, **known)
        return Single(master, own=True)
    return Single(redis.asyncio.from_url(plain, protocol=3, retry=once), own=True)


def _place(text: str) -> tuple[str, int]:
    parts = urlsplit(f"//{text}")
    if not parts.hostname:
        raise ValueError(f"{text!r} is not a host")
    return parts.hostname, parts.port or _SENTINEL


def named(url: str) -> tuple[str, str]:
    """The address in a URL, and the name of a deployment: what `?prefix=...` says, "partyline" if nothing does."""
    parts = urlsplit(url)
    query = dict(parse_qsl(parts.query))
    prefix = query.pop("prefix", "partyline")
    return urlunsplit(parts._replace(query=urlencode(query))), prefix
