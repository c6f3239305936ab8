"""Durable publishing on two servers that share a log in an engine."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager
from dataclasses import replace
from typing import Final

from bench.catalog import POSTGRES, REDIS, Contender, postgres_folder
from bench.durable import IN_FLIGHT, PAYLOAD, PUBLISHERS
from bench.load import Load, Result
from bench.process import START_SECONDS, BenchFailed
from bench.rounds import Bench, Sample, rotate, rows
from bench.table import Row

NODES = 2
PER_SECOND: Final = {POSTGRES: 15_000, REDIS: 12_000}
LATENCY: Final = 50_000.0  # microseconds, p99


def cluster(bench: Bench) -> list[Row]:
    """64 publishers with 8 messages of 100 bytes in flight each, half of them on each of two servers."""
    messages = bench.counted(60_000)

    def measure(contender: Contender) -> Sample:
        # Two servers, the engine and the generators: there is no core for each, so none is pinned.
        with ENGINES[contender.name]() as url, contender.start(url, None) as one, contender.start(url, None) as two:
            with _publishers(one.port) as first, _publishers(two.port) as second:
                _run((first, second), messages // 5)
                result = _run((first, second), messages)
            one.check()
            two.check()
            return Sample(result.seconds * 1e6 / messages, per_second=messages / result.seconds, result=result)

    scenario = f"durable publish on {NODES} servers, {PUBLISHERS} x {IN_FLIGHT} in flight, {PAYLOAD} B"
    names = tuple(ENGINES)
    samples, without = rotate(bench, scenario, names, measure)
    made = rows(scenario, "wall us/message", names, samples, without)
    for row in made:
        if row.server in samples:
            row.bound = 1e6 / PER_SECOND[row.server]
            row.note = f"the bound is {PER_SECOND[row.server]:,} acknowledged messages a second"
    for field, label in (("latency_p50_us", "p50"), ("latency_p99_us", "p99")):
        chosen = {
            name: [replace(sample, value=sample.result.fields[field]) for sample in taken if sample.result is not None]
            for name, taken in samples.items()
        }
        latencies = rows(f"{scenario}, {label}", "us", names, chosen, without)
        for row in latencies:
            if row.server in samples and label == "p99":
                row.bound = LATENCY
        made += latencies
    return made


def _publishers(port: int) -> Load:
    connections = PUBLISHERS // NODES
    arguments = ("--connections", str(connections), "--window", str(IN_FLIGHT), "--payload", str(PAYLOAD))
    return Load("publish", port, None, *arguments, "--topic", "log", "--others", paths=["/v1/ws"] * connections)


def _run(loads: tuple[Load, Load], messages: int) -> Result:
    """Both at once; the slower one counts."""
    with ThreadPoolExecutor(NODES) as pool:
        results = list(pool.map(lambda load: load.run(messages // NODES), loads))
    fields = {name: max(result.fields[name] for result in results) for name in results[0].fields}
    return Result(max(result.seconds for result in results), max(result.cpu_share for result in results), fields)


@contextmanager
def _redis() -> Iterator[str]:
    """A Redis that answers when a message is on the disk; gives its address."""
    program = shutil.which("redis-server")
    assert program is not None
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    with tempfile.TemporaryDirectory() as folder:
        options = ("--bind", "127.0.0.1", "--save", "", "--appendonly", "yes", "--appendfsync", "always")
        command = [program, "--port", str(port), "--dir", folder, *options]
        with subprocess.Popen(command, stdout=subprocess.DEVNULL) as process:
            try:
                _listening(port)
                yield f"redis://127.0.0.1:{port}"
            finally:
                process.kill()


@contextmanager
def _postgres() -> Iterator[str]:
    """A PostgreSQL with its defaults, which sync each commit; gives the address of a database."""
    programs = postgres_folder()
    assert programs is not None
    account = {"user": "postgres", "group": "postgres"} if os.getuid() == 0 else {}
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    with tempfile.TemporaryDirectory() as folder:
        if account:
            shutil.chown(folder, **account)
        data = os.path.join(folder, "data")
        make = [str(programs / "initdb"), "-D", data, "-U", "postgres", "-A", "trust", "-E", "UTF8", "--locale=C", "-N"]
        subprocess.run(make, check=True, stdout=subprocess.DEVNULL, cwd="/", **account)
        run = [
            str(programs / "postgres"),
            "-D",
            data,
            "-p",
            str(port),
            "-k",
            folder,
            "-c",
            "listen_addresses=127.0.0.1",
        ]
        with subprocess.Popen(run, stderr=subprocess.DEVNULL, cwd="/", **account) as process:
            try:
                _listening(port)
                yield f"postgres://postgres@127.0.0.1:{port}/postgres"
            finally:
                process.send_signal(signal.SIGINT)


def _listening(port: int) -> None:
    """Return when something listens there."""
    until = time.monotonic() + START_SECONDS
    while True:
        try:
            socket.create_connection(("127.0.0.1", port), 1).close()
            return
        except OSError:
            if time.monotonic() > until:
                raise BenchFailed("the engine did not start") from None
            time.sleep(0.02)


ENGINES: Final[dict[str, Callable[[], AbstractContextManager[str]]]] = {POSTGRES: _postgres, REDIS: _redis}
"""By contender, what runs its engine and gives the address."""
