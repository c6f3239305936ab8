"""Several servers that are one: what events between them cost, how long they take, workers, and what a death costs."""

from __future__ import annotations

import asyncio
import os
import signal
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final, Self
from urllib.error import URLError
from urllib.request import Request, urlopen

from bench.catalog import (
    BUS_NATS,
    BUS_POSTGRES,
    BUS_REDIS,
    CLASSIC,
    JETSTREAM,
    NODE_CLASSIC,
    ONE,
    POSTGRES,
    REDIS,
    TWO,
    Contender,
)
from bench.cluster import shared_log
from bench.engines import ENGINES, Engine
from bench.load import Load
from bench.process import BenchFailed, Server
from bench.procfs import tree, usage
from bench.rounds import Bench, Sample, cpu_per_operation, rotate, rows
from bench.table import Row

RATE: Final = 5_000  # events a second
TOGETHER: Final = 25  # of them at a time, where CPU is measured; 1 where time is
ACROSS: Final = {"sender": 0.5, "receiver": 0.8}  # of Node's own
ADDED: Final = {"p50": 1_000.0, "p99": 5_000.0}  # microseconds
FASTER: Final = 1.7
DEARER: Final = 1.3
FORWARDED: Final = 40.0  # microseconds
POLLS: Final = 32  # sessions that poll at a time
SETTLED: Final = {TWO: 1.0, BUS_REDIS: 6.0, BUS_NATS: 6.0, BUS_POSTGRES: 6.0}  # seconds
AGAIN: Final = 1.0  # seconds
_ENGINE_OF: Final = {CLASSIC: REDIS, NODE_CLASSIC: REDIS, BUS_REDIS: REDIS, BUS_POSTGRES: POSTGRES, BUS_NATS: JETSTREAM}


def cluster(bench: Bench) -> list[Row]:
    """Every bound about several servers."""
    made = shared_log(bench)
    for side, bound in ACROSS.items():
        made += _across(bench, side, bound)
    made += _added(bench) + _two_workers(bench) + _durable_workers(bench) + _forwarded(bench)
    return made + _settled(bench) + _again(bench)


# Between two servers


def _across(bench: Bench, side: str, bound: float) -> list[Row]:
    """CPU of the server that emits, or of the one whose client gets the events."""
    count = bench.counted(25_000)

    def measure(contender: Contender) -> Sample:
        def two(first: Server, second: Server, engine: Engine) -> Sample:
            measured = first if side == "sender" else second

            async def run() -> Sample:
                async with _Flow(first, second) as flow:
                    await flow.run(count // 5, TOGETHER)
                    before, began = usage(measured.pid), time.monotonic()
                    await flow.run(count, TOGETHER)
                    used = usage(measured.pid) - before
                    seconds = time.monotonic() - began
                    return Sample(used.cpu_ns / 1000 / count, count / seconds, server_share=used.cpu_ns / 1e9 / seconds)

            return asyncio.run(run())

        return _pair(contender, two)

    scenario = f"Socket.IO event from one server to a client of another over Redis, classic form, {side}"
    samples, without = rotate(bench, scenario, (CLASSIC, NODE_CLASSIC), measure)
    return rows(scenario, "CPU us/event", (CLASSIC, NODE_CLASSIC), samples, without, CLASSIC, {NODE_CLASSIC: bound})


def _added(bench: Bench) -> list[Row]:
    """How much later an event comes on another server than on its own."""
    count = bench.counted(50_000)
    names = (BUS_REDIS, BUS_NATS, BUS_POSTGRES)
    taken: dict[str, dict[str, list[Sample]]] = {"p50": {}, "p99": {}}

    def measure(contender: Contender) -> Sample:
        def two(first: Server, second: Server, engine: Engine) -> Sample:
            async def run(there: Server) -> list[float]:
                async with _Flow(first, there) as flow:
                    await flow.run(count // 10, 1)
                    return await flow.run(count, 1)

            here, over = asyncio.run(run(first)), asyncio.run(run(second))
            for label, at in (("p50", 0.5), ("p99", 0.99)):
                sample = Sample(_percentile(over, at) - _percentile(here, at))
                taken[label].setdefault(contender.label, []).append(sample)
            return taken["p50"][contender.label][-1]

        return _pair(contender, two)

    scenario = f"added by the bus, {RATE:,} events a second"
    _, without = rotate(bench, scenario, names, measure)
    made: list[Row] = []
    for label, samples in taken.items():
        some = rows(f"{scenario}, {label}", "us", names, samples, without)
        for row in some:
            row.bound = None if row.figure is None else ADDED[label]
        made += some
    return made


class _Flow:
    """A client of one server in the lobby, and one of another that has it emit there."""

    def __init__(self, sender: Server, receiver: Server) -> None:
        from partyline.client import socketio

        self._late: list[float] = []
        self._news = asyncio.Event()
        self._asking = socketio.connect(f"http://127.0.0.1:{sender.port}", transports=("websocket",))
        self._hearing = socketio.connect(f"http://127.0.0.1:{receiver.port}", transports=("websocket",))
        self._hearing.client.on("m", self._heard)

    def _heard(self, at: int) -> None:
        self._late.append(time.monotonic_ns() / 1000 - at)
        self._news.set()

    async def run(self, count: int, together: int) -> list[float]:
        """Microseconds that each of so many events took."""
        self._late.clear()
        await self._asked.call("flow", count, RATE, together, timeout=120.0)
        try:
            async with asyncio.timeout(20):
                while len(self._late) < count:
                    self._news.clear()
                    await self._news.wait()
        except TimeoutError:
            raise BenchFailed(f"{count - len(self._late)} of {count} events did not come") from None
        return list(self._late)

    async def __aenter__(self) -> Self:
        self._asked = await self._asking.__aenter__()
        heard = await self._hearing.__aenter__()
        await heard.call("join")
        await asyncio.sleep(0.5)  # both servers know each other
        return self

    async def __aexit__(self, *failure: object) -> None:
        await self._hearing.__aexit__(*failure)
        await self._asking.__aexit__(*failure)


def _pair(contender: Contender, use: Callable[[Server, Server, Engine], Sample]) -> Sample:
    """Two servers of a contender on its engine."""
    with ENGINES[_ENGINE_OF[contender.name]]() as engine:
        mode = f"{'bus' if contender.name in SETTLED else 'classic'} {engine.url.partition('?')[0]}"
        with contender.start(mode, None) as first, contender.start(mode, None) as second:
            sample = use(first, second, engine)
            first.check()
            return sample


# Workers


def _two_workers(bench: Bench) -> list[Row]:
    """Throughput; the generator shares the cores with both of them."""
    made: list[Row] = []
    many = ("--connections", "64", "--payload", "64", "--socketio")
    for what, mode, count, per, arguments in (
        ("event echoed, 64 connections", "echo", 100_000, 1, many),
        ("broadcast, 1 to 1,000", "listen", 200, 1_000, ("--connections", "1000", "--payload", "64", "--socketio")),
    ):

        def measure(
            contender: Contender, mode: str = mode, count: int = count, per: int = per, arguments: Any = arguments
        ) -> Sample:
            operations = max(10, bench.counted(count))
            with contender.start("", None) as server, Load(mode, server.port, None, *arguments) as load:
                load.run(max(2, operations // 5))
                result = load.run(operations)
                server.check()
                done = operations * per
                return Sample(result.seconds * 1e6 / done, done / result.seconds, load_share=result.cpu_share)

        scenario = f"workers, Socket.IO, {what}"
        samples, without = rotate(bench, scenario, (TWO, ONE), measure)
        made += rows(scenario, "wall us/operation", (TWO, ONE), samples, without, TWO, {ONE: 1 / FASTER})
    for row in made:
        if row.server == ONE and row.figure is not None:
            row.note = f"the bound is {FASTER} times its throughput; the generator shares the {os.cpu_count()} cores"
    return made


def _durable_workers(bench: Bench) -> list[Row]:
    """CPU of all processes."""
    messages = bench.counted(60_000)

    def measure(contender: Contender) -> Sample:
        arguments = ("--connections", "64", "--window", "8", "--payload", "100", "--topic", "log", "--others")
        with (
            contender.start("file", None) as server,
            Load("publish", server.port, None, *arguments, paths=["/v1/ws"] * 64) as load,
        ):
            load.run(messages // 5)
            return cpu_per_operation(server, load, messages)

    scenario = "workers, durable publish, 64 x 8 in flight, 100 B"
    samples, without = rotate(bench, scenario, (TWO, ONE), measure)
    return rows(scenario, "CPU us/message", (TWO, ONE), samples, without, TWO, {ONE: DEARER})


def _forwarded(bench: Bench) -> list[Row]:
    """What a polling request costs more on a connection to a worker that does not have its session."""
    count = bench.counted(5_000)

    def measure(contender: Contender) -> Sample:
        with contender.start("", None) as server:
            cost = asyncio.run(_polled(server, count))
            server.check()
            return Sample(cost)

    scenario = "workers, a polling request that is forwarded"
    samples, without = rotate(bench, scenario, (TWO,), measure)
    return _bounded(rows(scenario, "added CPU us/request", (TWO,), samples, without), {TWO: FORWARDED})


async def _polled(server: Server, count: int) -> float:
    """The connections to one worker poll for their own sessions, then those to the other one for the same sessions."""
    by_worker: dict[str, list[_Polling]] = {}
    async with asyncio.timeout(60):
        while len(by_worker) < 2 or min(map(len, by_worker.values())) < POLLS:
            one = await _Polling.open(server.port)
            by_worker.setdefault(one.sid.rpartition(".")[2], []).append(one)
    own, others = (ways[:POLLS] for ways in by_worker.values())
    sids = [one.sid for one in own]
    await asyncio.gather(*[one.exchange("40", one.sid) for one in own])

    async def poll(way: _Polling, sid: str, times: int) -> None:
        for _ in range(times):
            await way.exchange('42["m","x"]', sid)

    costs: list[float] = []
    for ways in (own, others):
        for times in (count // POLLS // 5, count // POLLS):
            before = usage(server.pid)
            await asyncio.gather(*[poll(way, sid, times) for way, sid in zip(ways, sids, strict=True)])
            costs.append((usage(server.pid) - before).cpu_ns / 1000 / (2 * times * POLLS))
    return costs[3] - costs[1]


class _Polling:
    """A kept-alive connection, and the session that was opened on it."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader, self._writer = reader, writer
        self.sid = ""

    @classmethod
    async def open(cls, port: int) -> _Polling:
        made = cls(*await asyncio.open_connection("127.0.0.1", port))
        made.sid = (await made._request("GET", "")).partition('"sid":"')[2].partition('"')[0]
        return made

    async def exchange(self, said: str, sid: str) -> str:
        """Say something to a session; what it says next."""
        await self._request("POST", sid, said)
        return await self._request("GET", sid)

    async def _request(self, method: str, sid: str, body: str = "") -> str:
        query = "EIO=4&transport=polling" + (f"&sid={sid}" if sid else "")
        head = f"{method} /socket.io/?{query} HTTP/1.1\r\nHost: localhost\r\n"
        if body:
            head += f"Content-Type: text/plain\r\nContent-Length: {len(body)}\r\n"
        self._writer.write(f"{head}\r\n{body}".encode())
        head = (await self._reader.readuntil(b"\r\n\r\n")).decode().lower()
        size = int(head.partition("content-length: ")[2].partition("\r\n")[0])
        answer = (await self._reader.readexactly(size)).decode()
        if not head.startswith("http/1.1 200"):
            raise BenchFailed(f"a polling request was answered with {answer[:200]}")
        return answer


# Deaths


def _settled(bench: Bench) -> list[Row]:
    """From kill -9 of one server until a question to all of them is answered by the others."""
    names = (TWO, BUS_REDIS, BUS_NATS, BUS_POSTGRES)

    async def waited(asked: Server, kill: Callable[[], None]) -> float:
        from partyline.client import socketio

        async with socketio.connect(f"http://127.0.0.1:{asked.port}", transports=("websocket",)) as client:
            await client.call("who", timeout=30.0)
            kill()
            began = time.monotonic()
            while True:
                try:
                    await client.call("who", timeout=30.0)
                    return time.monotonic() - began
                except Exception as error:
                    if time.monotonic() - began > 30.0:
                        raise BenchFailed(f"the question is not answered: {error}") from None
                    await asyncio.sleep(0.05)

    def measure(contender: Contender) -> Sample:
        if contender.name == TWO:
            with contender.start("", None) as server:
                pid = _named(server, "worker-1")
                return Sample(asyncio.run(waited(server, lambda: os.kill(pid, signal.SIGKILL))))

        def two(first: Server, second: Server, engine: Engine) -> Sample:
            time.sleep(1.0)  # they know each other
            return Sample(asyncio.run(waited(first, lambda: os.kill(second.pid, signal.SIGKILL))))

        return _pair(contender, two)

    scenario = "a server is killed, until a question is answered without it"
    samples, without = rotate(bench, scenario, names, measure)
    return _bounded(rows(scenario, "seconds", names, samples, without), SETTLED)


def _named(server: Server, name: str) -> int:
    for pid in tree(server.pid):
        if Path(f"/proc/{pid}/comm").read_text().strip() == name:
            return pid
    raise BenchFailed(f"there is no process {name}")


def _again(bench: Bench) -> list[Row]:
    """From an engine that accepts connections again until a publish is acknowledged."""
    names = (POSTGRES, REDIS, JETSTREAM)

    def measure(contender: Contender) -> Sample:
        with ENGINES[contender.name]() as engine, contender.start(engine.url, None) as server:
            _until(lambda: _published(server))
            engine.stop()
            _until(lambda: not _published(server))
            engine.start()
            began = time.monotonic()
            _until(lambda: _published(server))
            return Sample(time.monotonic() - began)

    scenario = "an engine is restarted, until publishing goes on"
    samples, without = rotate(bench, scenario, names, measure)
    return _bounded(rows(scenario, "seconds", names, samples, without), dict.fromkeys(names, AGAIN))


def _published(server: Server) -> bool:
    url = f"http://127.0.0.1:{server.port}/publish"
    body = b'{"topic":"log","message":1}'
    try:
        with urlopen(Request(url, body, {"Content-Type": "application/json"}), timeout=20) as answer:
            return bool(answer.status == 200)
    except (URLError, OSError):
        return False


def _until(holds: Callable[[], bool]) -> None:
    until = time.monotonic() + 30
    while not holds():
        if time.monotonic() > until:
            raise BenchFailed("it does not go on")
        time.sleep(0.01)


def _bounded(made: list[Row], bounds: dict[str, float]) -> list[Row]:
    for row in made:
        if row.figure is not None:
            row.bound = bounds.get(row.server)
    return made


def _percentile(values: list[float], at: float) -> float:
    return statistics.quantiles(values, n=1000)[round(at * 1000) - 1]
