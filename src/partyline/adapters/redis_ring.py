"""Connections to all servers of a Redis Cluster, which together do what one `redis.Redis` does.

Whatever has a key, or a sharded channel, is said to the server that has it. Other channels are subscribed and published
on the server that has `home`: the cluster passes them on. Where a server is lost, or a slot has moved, it is looked up
who has it now, and the subscriptions go there.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any, Final

from partyline import log
from partyline.adapters.redis import GONE, Heard, Redis, Replied
from partyline.adapters.redis_servers import Clustered
from partyline.metrics import Counters

_log = log.get("cluster")

_AGAIN: Final = 0.2  # seconds between two looks at the cluster while a server is missing
_STARTING: Final = 10.0  # seconds that a server that starts waits for the cluster
_KEYS: Final = {"EVAL": 3}
"""Where the key is in a command, if it is not its first argument."""


class Ring:
    """The same as `redis.Redis`, for a Redis Cluster."""

    def __init__(self, cluster: Clustered, *, home: str, probe: str, sharded: bool) -> None:
        self._cluster = cluster
        self._home = home
        self._probe = probe
        self._sharded = sharded
        self._counters = Counters()
        self._lines: dict[str, Redis] = {}  # by server
        self._channels: dict[str, Heard] = {}
        self._patterns: dict[str, Heard] = {}
        self._places: dict[str, str] = {}  # of channels and patterns: the servers where they are subscribed
        self._lost = asyncio.Event()
        self._arranged = asyncio.Event()
        self._keeper: asyncio.Task[None] | None = None
        self._told = ""

    @property
    def counters(self) -> Counters:
        """Counters, also of all its connections."""
        return self._counters

    @counters.setter
    def counters(self, counters: Counters) -> None:
        self._counters = counters
        for line in self._lines.values():
            line.counters = counters

    @property
    def connected(self) -> bool:
        """Whether a publication would be sent now, whatever its channel."""
        return bool(self._lines) and all(line.connected for line in self._lines.values())

    async def start(self) -> None:
        """Connect. Returns when that is done, or after ten seconds; it goes on trying."""
        self._keeper = asyncio.get_running_loop().create_task(self._keep())
        await asyncio.wait([asyncio.ensure_future(self._arranged.wait())], timeout=_STARTING)

    async def close(self) -> None:
        """Send everything written, and close all connections."""
        if self._keeper is not None:
            self._keeper.cancel()
            await asyncio.wait([self._keeper])
        for line in self._lines.values():
            await line.close()
        await self._cluster.close()

    # Out

    def publish(self, channel: str, data: bytes) -> None:
        line = self._line(self._at(channel))
        if line is None:
            self._counters.unsent += 1
        else:
            line.publish(channel, data)

    def command(self, *parts: str | bytes) -> None:
        line = self._line(str(parts[_KEYS.get(str(parts[0]), 1)]))
        if line is None:
            self._counters.unsent += 1
        else:
            line.command(*parts)

    def ask(self, replied: Replied, *parts: str | bytes) -> None:
        line = self._line(str(parts[_KEYS.get(str(parts[0]), 1)]))
        if line is None:
            asyncio.get_running_loop().call_soon(replied, GONE)
        else:
            line.ask(replied, *parts)

    def answer(self, *parts: str | bytes) -> asyncio.Future[Any]:
        answer: asyncio.Future[Any] = asyncio.get_running_loop().create_future()

        def replied(reply: Any) -> None:
            if not answer.done():
                answer.set_result(reply)

        self.ask(replied, *parts)
        return answer

    def count(self, counted: Callable[[int], None], channel: str) -> None:
        """How many subscribe to a channel; on other than sharded channels each server knows only its own."""
        if self._sharded:
            line = self._line(channel)
            if line is not None:
                line.count(counted, channel)
            return
        missing, found = len(self._lines), 0

        def one(count: int) -> None:
            nonlocal missing, found
            missing, found = missing - 1, found + count
            if not missing:
                counted(found)

        for line in self._lines.values():
            line.count(one, channel)

    # Subscriptions

    def listen(self, channel: str, heard: Heard) -> None:
        self._channels[channel] = heard
        self._settle(channel)

    def unlisten(self, channel: str) -> None:
        if self._channels.pop(channel, None) is not None:
            self._settle(channel)

    def listen_pattern(self, pattern: str, heard: Heard) -> None:
        self._patterns[pattern] = heard
        self._settle(pattern, pattern=True)

    def unlisten_pattern(self, pattern: str) -> None:
        if self._patterns.pop(pattern, None) is not None:
            self._settle(pattern, pattern=True)

    def _settle(self, name: str, *, pattern: bool = False) -> None:
        """Subscribe to a channel or pattern where it is now, and nowhere else."""
        heard = (self._patterns if pattern else self._channels).get(name)
        place = "" if heard is None else self._owner(self._home if pattern else self._at(name))
        old = self._places.pop(name, "")
        if old != place and (there := self._lines.get(old)) is not None:
            (there.unlisten_pattern if pattern else there.unlisten)(name)
        if heard is not None and (here := self._lines.get(place)) is not None:
            self._places[name] = place
            if old != place:
                (here.listen_pattern if pattern else here.listen)(name, heard)

    def _at(self, channel: str) -> str:
        return channel if self._sharded else self._home

    def _owner(self, key: str) -> str:
        """The server that has a key; empty if that is not known."""
        try:
            return self._cluster.owner(key) if self._lines else ""
        except Exception:  # redis-py: nobody has it now
            return ""

    def _line(self, key: str) -> Redis | None:
        return self._lines.get(self._owner(key))

    # The cluster

    async def _keep(self) -> None:
        while True:
            self._lost.clear()
            try:
                await self._cluster.look()
            except Exception as error:  # of the network, TLS or Redis: any of them may pass
                if self._told != str(error):
                    self._told = str(error)
                    _log.error("the Redis Cluster cannot be reached: trying again until it can", error=self._told)
            else:
                self._told = ""
                await self._arrange()
            if self.connected:
                self._arranged.set()
                await self._lost.wait()
            else:
                await asyncio.sleep(_AGAIN)

    async def _arrange(self) -> None:
        """Have one connection to each server, and every subscription where it belongs."""
        masters = self._cluster.masters()
        for name in [name for name in self._lines if name not in masters]:
            line = self._lines.pop(name)
            await line.close()
        for name in masters:
            if name not in self._lines:
                line = Redis(_One(self._cluster, name), probe=self._probe, sharded=self._sharded)
                line.counters = self._counters
                line.when_down = self._lost.set
                self._lines[name] = line
                await line.start()
        for channel in self._channels:
            self._settle(channel)
        for pattern in self._patterns:
            self._settle(pattern, pattern=True)


class _One:
    """One server of a cluster (`redis_servers.Servers`)."""

    clustered = True

    def __init__(self, cluster: Clustered, name: str) -> None:
        self._cluster = cluster
        self._name = name

    async def connect(self, key: str) -> Any:
        return await self._cluster.connect_to(self._name)

    async def close(self) -> None:
        """The cluster stays."""
