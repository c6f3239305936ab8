"""Socket.IO: events echoed and acknowledged, on WebSocket and polling, broadcast, and idle connections."""

from __future__ import annotations

from collections.abc import Sequence

from bench.catalog import NODE_SOCKETIO, PYTHON_SOCKETIO, SOCKETIO, Contender
from bench.load import Load
from bench.memory import MAX_ROUNDS, WARM_UP
from bench.procfs import settled_resident_bytes
from bench.rounds import Bench, Sample, cpu_per_operation, rotate, rows
from bench.table import Row

CONNECTIONS = 64
PAYLOAD = 64
NAMES = (SOCKETIO, NODE_SOCKETIO, PYTHON_SOCKETIO)
EVENT_BOUNDS = {NODE_SOCKETIO: 0.7, PYTHON_SOCKETIO: 0.2}
BROADCAST_BOUNDS = {NODE_SOCKETIO: 0.45, PYTHON_SOCKETIO: 0.1}
POLLING_BOUNDS = {NODE_SOCKETIO: 0.8, PYTHON_SOCKETIO: 0.5}
IDLE_BOUND_KB = 5.0
IDLE = 1_000


def socketio(bench: Bench) -> list[Row]:
    """What a Socket.IO server does most."""
    sizes = ("--connections", str(CONNECTIONS), "--payload", str(PAYLOAD))
    made = _each(bench, "event echoed", 100_000, EVENT_BOUNDS, "echo", "--socketio", *sizes)
    made += _each(bench, "event acknowledged", 100_000, EVENT_BOUNDS, "echo", "--socketio", "--acks", *sizes)
    made += _broadcast(bench)
    made += _each(bench, "event echoed on polling", 20_000, POLLING_BOUNDS, "poll", *sizes)
    return made + _idle(bench)


def _each(bench: Bench, what: str, count: int, bounds: dict[str, float], mode: str, *arguments: str) -> list[Row]:
    operations = bench.counted(count)

    def measure(contender: Contender) -> Sample:
        with (
            contender.start("", bench.server_core) as server,
            Load(mode, server.port, bench.load_core, *arguments) as load,
        ):
            load.run(operations // 5)
            return cpu_per_operation(server, load, operations)

    return _rows(bench, f"Socket.IO, {what}, {CONNECTIONS} connections, {PAYLOAD} B", "CPU us/event", measure, bounds)


def _broadcast(bench: Bench) -> list[Row]:
    receivers = 1_000
    messages = bench.counted(200)

    def measure(contender: Contender) -> Sample:
        arguments = ("--socketio", "--connections", str(receivers), "--payload", str(PAYLOAD))
        with (
            contender.start("", bench.server_core) as server,
            Load("listen", server.port, bench.load_core, *arguments) as load,
        ):
            load.run(max(2, messages // 5))
            return cpu_per_operation(server, load, messages, receivers)

    what = f"Socket.IO, broadcast, 1 to {receivers:,}, {PAYLOAD} B"
    return _rows(bench, what, "CPU us/delivery", measure, BROADCAST_BOUNDS)


def _idle(bench: Bench) -> list[Row]:
    def measure(contender: Contender) -> Sample:
        def opened(count: int) -> Load:
            return Load("idle", server.port, bench.load_core, "--socketio", "--connections", str(count))

        with contender.start("", bench.server_core) as server:
            with opened(WARM_UP):
                pass
            empty = settled_resident_bytes(server.pid)
            with opened(IDLE) as load:
                held = settled_resident_bytes(server.pid) - empty
                server.check()
                return Sample(held / 1000 / IDLE, per_second=load.connections_per_second)

    made = _rows(bench, f"Socket.IO, idle, {IDLE:,} connections", "kB/connection", measure, {}, MAX_ROUNDS)
    for row in made:
        if row.server == SOCKETIO and row.figure is not None:
            row.bound = IDLE_BOUND_KB
    return made


def _rows(
    bench: Bench, scenario: str, unit: str, measure: object, bounds: dict[str, float], rounds: int | None = None
) -> list[Row]:
    names: Sequence[str] = NAMES
    samples, without = rotate(bench, scenario, names, measure, min(bench.pairs, rounds or bench.pairs))  # type: ignore[arg-type]
    return rows(scenario, unit, names, samples, without, SOCKETIO, bounds)
