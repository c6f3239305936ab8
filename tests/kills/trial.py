"""Nodes and engines are killed under load; then what publishers and subscribers saw is compared with the log."""

from __future__ import annotations

import asyncio
import contextlib
import json
import math
import random
import time
from dataclasses import dataclass, field
from typing import Any, Final

from websockets.exceptions import WebSocketException

from tests.calls import call
from tests.kills.deployments import NODES, Deployment
from tests.relay.v1.test_websocket import line, offset

PUBLISHERS: Final = 8
SUBSCRIBERS: Final = 6  # two on each server at first
PROGRESS: Final = 20  # messages that are acknowledged between two kills
_PAUSE: Final = 0.05  # seconds between two messages of a publisher, so that the kills are what takes the time
_TOPIC: Final = "cats"
_PATIENCE: Final = 120.0  # seconds for anything to go on, however busy the machine is

# What a client meets whose server is killed.
_ENDED: Final = (WebSocketException, OSError, TimeoutError, EOFError)


@dataclass(slots=True)
class Load:
    """What publishers and subscribers know."""

    urls: list[str]
    acknowledged: dict[str, str] = field(default_factory=dict)  # positions by id
    again: int = 0  # publishes that had to be tried again
    resumed: int = 0
    ending: bool = False
    news: asyncio.Event = field(default_factory=asyncio.Event)

    async def until(self, count: int) -> None:
        """Return when so many are acknowledged."""
        async with asyncio.timeout(_PATIENCE):
            while len(self.acknowledged) < count:
                self.news.clear()
                await self.news.wait()

    def somewhere(self) -> str:
        return random.choice(self.urls)


@dataclass(slots=True)
class Figures:
    """What came of it."""

    nodes: int
    engines: int
    acknowledged: int
    again: int
    resumed: int
    seconds: float
    paused: list[float]  # seconds from an engine that accepts again until the next acknowledgement

    def __str__(self) -> str:
        paused = sorted(self.paused)
        middle, most = (paused[len(paused) // 2], paused[-1]) if paused else (0.0, 0.0)
        return (
            f"{self.nodes} nodes and {self.engines} engines killed in {self.seconds:.0f} s: {self.acknowledged} "
            f"acknowledged, 0 missing, 0 twice; {self.again} publishes tried again, {self.resumed} times resumed, "
            f"publishing again {middle:.2f} s after an engine accepts (at most {most:.2f})"
        )


async def publish(load: Load, name: str) -> None:
    """Publish one message after the other, each until it is acknowledged, wherever that can be done."""
    number = 0
    while not load.ending:
        try:
            async with line(load.somewhere()) as client:
                while not load.ending:
                    identity = f"{name}-{number}"
                    async with asyncio.timeout(_PATIENCE):
                        answer = await client.ask("publish", topic=_TOPIC, data=identity, message_id=identity)
                    if answer["type"] == "reply":
                        load.acknowledged[identity] = answer["position"]
                        load.news.set()
                        number += 1
                        await asyncio.sleep(_PAUSE)
                    else:
                        assert answer["code"] == "store_unavailable", answer
                        load.again += 1
                        await asyncio.sleep(0.05)
        except _ENDED:
            load.again += 1
            await asyncio.sleep(0.02)


class Subscriber:
    """Gets every message, and resumes from its last position, wherever that can be done."""

    def __init__(self, load: Load, number: int) -> None:
        self.load = load
        self.url = load.urls[number % len(load.urls)]
        self.got: list[tuple[str, Any]] = []  # positions and what was said
        self.wrong: list[Any] = []

    async def run(self) -> None:
        while True:
            try:
                async with line(self.url) as client:
                    after = self.got[-1][0] if self.got else "earliest"
                    answer = await client.ask("subscribe", topic=_TOPIC, after=after)
                    if answer["type"] == "error":
                        await asyncio.sleep(0.05)
                        continue
                    if not answer["recovered"]:
                        self.wrong.append(answer)
                    self.load.resumed += 1
                    while True:
                        frame = client.heard.popleft() if client.heard else await _next(client.socket)
                        if frame["type"] == "message":
                            self.got.append((frame["position"], frame["data"]))
                        elif frame["type"] not in ("position", "reached"):
                            self.wrong.append(frame)
            except _ENDED:
                await asyncio.sleep(0.02)
            self.url = self.load.somewhere()


async def _next(socket: Any) -> Any:
    return json.loads(await socket.recv())


async def trial(
    deployment: Deployment, nodes: int, engines: int, chance: random.Random, within: float = math.inf
) -> Figures:
    """Kill so many, in any order, or as many as can be killed `within` these seconds.

    Raises AssertionError if anything that was acknowledged is missing or there twice, or if a subscriber did not get
    everything in one order.
    """
    load = Load(list(deployment.urls))
    subscribers = [Subscriber(load, number) for number in range(SUBSCRIBERS)]
    following = [asyncio.create_task(subscriber.run()) for subscriber in subscribers]
    publishing = [asyncio.create_task(publish(load, f"{number}")) for number in range(PUBLISHERS)]
    victims = ["node"] * nodes + ["engine"] * engines
    chance.shuffle(victims)
    began = time.monotonic()
    paused: list[float] = []
    killed: list[str] = []
    try:
        for victim in victims:
            if time.monotonic() - began > within:
                break
            killed.append(victim)
            await load.until(len(load.acknowledged) + PROGRESS)
            await asyncio.sleep(chance.uniform(0.0, 0.05))
            if victim == "node":
                await deployment.kill_node(chance.randrange(NODES))
            else:
                await deployment.kill_engine(chance.uniform(0.0, 0.3))
                there = time.monotonic()
                await load.until(len(load.acknowledged) + 1)
                paused.append(time.monotonic() - there)
        await load.until(len(load.acknowledged) + PROGRESS)
        seconds = time.monotonic() - began
        load.ending = True
        async with asyncio.timeout(_PATIENCE):
            await asyncio.gather(*publishing)
        log = await history(load)
        async with asyncio.timeout(_PATIENCE):
            while any(len(subscriber.got) < len(log) for subscriber in subscribers):
                await asyncio.sleep(0.05)
    finally:
        for task in (*publishing, *following):
            task.cancel()
        await asyncio.gather(*publishing, *following, return_exceptions=True)
    check(load, log, subscribers)
    return Figures(
        killed.count("node"), killed.count("engine"), len(load.acknowledged), load.again, load.resumed, seconds, paused
    )


async def history(load: Load) -> list[tuple[str, Any]]:
    """The whole log, as any of the servers has it."""
    found: list[tuple[str, Any]] = []
    after = "earliest"
    while True:
        with contextlib.suppress(OSError):
            status, page = await call(f"{load.somewhere()}/v1/topics/{_TOPIC}/messages?after={after}&limit=1000")
            assert status == 200, page
            found += [(message["position"], message["data"]) for message in page["messages"]]
            after = page["next"]
            if not page["more"]:
                return found


def check(load: Load, log: list[tuple[str, Any]], subscribers: list[Subscriber]) -> None:
    """Compare what everybody knows."""
    names = [name for _, name in log]
    assert len(set(names)) == len(names), "a message is in the log twice"
    places = {name: position for position, name in log}
    missing = load.acknowledged.keys() - places.keys()
    assert not missing, f"acknowledged, and missing: {len(missing)}, {sorted(missing)[:5]}"
    assert all(places[name] == position for name, position in load.acknowledged.items()), "it is elsewhere"
    offsets = [offset(position) for position, _ in log]
    assert offsets == sorted(set(offsets))
    for number in range(PUBLISHERS):
        own = [int(name.partition("-")[2]) for name in names if name.startswith(f"{number}-")]
        assert own == list(range(len(own))), f"publisher {number} is out of order"
    for subscriber in subscribers:
        assert not subscriber.wrong, subscriber.wrong[:3]
        assert subscriber.got == log, "a subscriber did not get each message once, in the order of the log"
