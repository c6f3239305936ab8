"""Every server that takes part: how to get it, how to start it, what it can do."""

from __future__ import annotations

import importlib.util
import os
import shutil
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from bench.build import BENCH, BUILD, NODE_MODULES, PEERS, ROOT, Unavailable, install_node_package, node_version
from bench.machine import package_version
from bench.process import Server

ECHO = "echo"
BROADCAST = "broadcast"
RELAY_CONFIG = BUILD / "relay.toml"
DURABLE_CONFIG = BUILD / "durable.toml"
DATABASE = BUILD / "durable.db"

FLOOR = "floor"
PARTYLINE = "Partyline"
RELAY = "Partyline relay"
DURABLE = "Partyline durable"
REDIS = "Partyline, log in Redis"
POSTGRES = "Partyline, log in PostgreSQL"
CLASSIC = "Partyline in Node's cluster"
NODE_CLASSIC = "Node Socket.IO, Redis adapter"
BUS_REDIS = "Partyline, bus in Redis"
BUS_POSTGRES = "Partyline, bus in PostgreSQL"
BUS_NATS = "Partyline, bus in NATS"
JETSTREAM = "Partyline, log in JetStream"
ONE = "Partyline, one process"
TWO = "Partyline, two workers"
NODE_WS = "Node ws"
WEBSOCKETS = "websockets"
UVICORN = "uvicorn"
SOCKETIO = "Partyline Socket.IO"
NODE_SOCKETIO = "Node Socket.IO"
PYTHON_SOCKETIO = "python-socketio"


@dataclass(frozen=True, slots=True)
class Contender:
    """A server that can be started. One of another checkout of Partyline says `where` it is from.

    `prepare` returns its version, or raises Unavailable with the way to get it. `command` takes
    the mode and returns the command line; the process then prints where it listens.
    """

    name: str
    prepare: Callable[[], str]
    command: Callable[[str], list[str]]
    environment: Mapping[str, str] = field(default_factory=dict)
    where: str = ""

    @property
    def label(self) -> str:
        """The name of its rows."""
        return f"{self.name} of {self.where}" if self.where else self.name

    def start(self, mode: str, core: int | None) -> Server:
        """Start it in one mode; returns when it listens."""
        return Server(self.label.replace(" ", "-").lower(), self.command(mode), core, self.environment)


def _python_package(package: str, requirement: str) -> Callable[[], str]:
    def prepare() -> str:
        version = package_version(package)
        if version is None:
            raise Unavailable(f"the Python package {package} is missing: pip install '{requirement}'")
        loop = package_version("uvloop")
        return f"{version}, {f'uvloop {loop}' if loop else 'asyncio loop'}"

    return prepare


def _node_ws() -> str:
    return f"{install_node_package('ws')}, Node {node_version()}"


def _node_socketio() -> str:
    return f"{install_node_package('socket.io')}, Node {node_version()}"


def _node_cluster() -> str:
    adapter = install_node_package("@socket.io/redis-adapter")
    install_node_package("redis")
    return f"{_node_socketio()}, adapter {adapter}"


def _partyline() -> str:
    source = ROOT / "src"
    if not (source / "partyline" / "__init__.py").exists() and importlib.util.find_spec("partyline") is None:
        raise Unavailable("the package partyline is not importable: pip install -e .")
    return package_version("partyline-server") or "this source tree"


def _partyline_echo() -> str:
    if not (BENCH / "servers" / "partyline_echo.py").exists():
        raise Unavailable("bench/servers/partyline_echo.py does not exist")
    return _partyline()


def _relay() -> str:
    version = _partyline()
    # Ephemeral: nothing is stored, so that the fan-out is what is measured.
    RELAY_CONFIG.write_text('ephemeral_topics = [">"]\n')
    return version


def _durable() -> str:
    version = _partyline()
    DURABLE_CONFIG.write_text('ephemeral_topics = ["cats"]\n')  # for the fan-out beside it
    return version


def _redis() -> str:
    version = _partyline()
    if shutil.which("redis-server") is None:
        raise Unavailable("no redis-server: apt-get install redis-server")
    if package_version("redis") is None or package_version("hiredis") is None:
        raise Unavailable("the Python packages redis and hiredis are missing: pip install 'partyline-server[redis]'")
    return version


def _postgres() -> str:
    version = _partyline()
    if postgres_folder() is None:
        raise Unavailable("no PostgreSQL: apt-get install postgresql")
    if package_version("asyncpg") is None:
        raise Unavailable("the Python package asyncpg is missing: pip install 'partyline-server[postgres]'")
    return version


def _nats() -> str:
    version = _partyline()
    if nats_program() is None:
        raise Unavailable("no nats-server: go install github.com/nats-io/nats-server/v2@latest")
    return version


def nats_program() -> str | None:
    """The path of nats-server: an installed one, or where `go install` puts it."""
    folders = [os.environ.get("GOBIN", ""), str(Path.home() / "go" / "bin"), os.environ["PATH"]]
    return shutil.which("nats-server", path=os.pathsep.join(filter(None, folders)))


def postgres_folder() -> Path | None:
    """Where the programs of the newest PostgreSQL are, which Debian does not put among others."""
    return max(Path("/usr/lib/postgresql").glob("*/bin"), key=lambda folder: int(folder.parent.name), default=None)


def _empty_log() -> None:
    for path in DATABASE.parent.glob(f"{DATABASE.name}*"):  # every run begins with one
        path.unlink()


def _ours(root: Path, python: str, where: str = "") -> tuple[Contender, ...]:
    """The servers of a checkout of Partyline, run by the interpreter that has what it needs."""
    paths = [str(root / "src"), os.environ.get("PYTHONPATH", "")]
    environment = {"PYTHONPATH": os.pathsep.join(path for path in paths if path)}

    def served(mode: str, *arguments: str) -> list[str]:
        return [python, "-m", "partyline", "serve", "--port", "0", "--log-format", "json", *arguments]

    def script(mode: str, name: str) -> list[str]:
        return [python, str(root / "bench" / "servers" / name), *([mode] if " " in mode else [])]

    def workers(mode: str, count: int) -> list[str]:
        _empty_log()
        db = str(DATABASE) if mode == "file" else ":memory:" if count == 1 else str(DATABASE)
        return served(mode, "bench.servers.partyline_cluster:io", "--db", db, "--workers", str(count))

    def durable(mode: str) -> list[str]:
        _empty_log()
        return served(mode, "--db", str(DATABASE), "--config", str(DURABLE_CONFIG))

    commands: dict[str, tuple[Callable[[], str], Callable[[str], list[str]]]] = {
        PARTYLINE: (_partyline_echo, partial(script, name="partyline_echo.py")),
        RELAY: (_relay, lambda mode: served(mode, "--db", ":memory:", "--config", str(RELAY_CONFIG))),
        DURABLE: (_durable, durable),
        REDIS: (_redis, lambda url: served(url, "--db", ":memory:", "--log", url)),
        POSTGRES: (_postgres, lambda url: served(url, "--db", ":memory:", "--log", url)),
        CLASSIC: (_redis, partial(script, name="partyline_cluster.py")),
        BUS_REDIS: (_redis, partial(script, name="partyline_cluster.py")),
        BUS_POSTGRES: (_postgres, partial(script, name="partyline_cluster.py")),
        BUS_NATS: (_nats, partial(script, name="partyline_cluster.py")),
        JETSTREAM: (_nats, lambda url: served(url, "--db", ":memory:", "--log", url)),
        ONE: (_partyline, partial(workers, count=1)),
        TWO: (_partyline, partial(workers, count=2)),
        SOCKETIO: (_partyline, partial(script, name="partyline_socketio.py")),
    }
    return tuple(Contender(name, prepare, command, environment, where) for name, (prepare, command) in commands.items())


_PEERS = (
    Contender(FLOOR, lambda: "bench/native/floor.c", lambda mode: [str(BUILD / "floor"), mode, "0"]),
    Contender(
        NODE_WS,
        _node_ws,
        lambda mode: ["node", str(PEERS / "ws_server.js"), mode, "0"],
        {"NODE_PATH": str(NODE_MODULES)},
    ),
    Contender(
        WEBSOCKETS,
        _python_package("websockets", "websockets>=17,<18"),
        lambda mode: [sys.executable, str(PEERS / "websockets_server.py"), mode, "0"],
    ),
    Contender(
        UVICORN,
        _python_package("uvicorn", "uvicorn>=0.54,<0.55"),
        lambda mode: [sys.executable, str(PEERS / "uvicorn_app.py"), "0"],
    ),
    Contender(
        NODE_SOCKETIO,
        _node_socketio,
        lambda mode: ["node", str(PEERS / "socketio_server.js"), "0"],
        {"NODE_PATH": str(NODE_MODULES)},
    ),
    Contender(
        NODE_CLASSIC,
        _node_cluster,
        lambda mode: ["node", str(PEERS / "socketio_cluster.js"), mode.partition(" ")[2]],
        {"NODE_PATH": str(NODE_MODULES)},
    ),
    Contender(
        PYTHON_SOCKETIO,
        _python_package("python-socketio", "python-socketio>=5.18,<6"),
        lambda mode: [sys.executable, str(PEERS / "python_socketio_app.py"), "0"],
    ),
)


class Catalog:
    """The contenders of this machine, and the reasons of those that are missing.

    With another checkout (`against`) there are Partyline's servers only, each beside the other checkout's.
    """

    def __init__(self, against: Path | None = None) -> None:
        self.ready: dict[str, Contender] = {}
        self.versions: dict[str, str] = {}
        self.missing: dict[str, str] = {}
        self._others: dict[str, Contender] = {}
        ours = _ours(ROOT, sys.executable)
        if against is not None:
            python = against / ".venv" / "bin" / "python"
            others = _ours(against, str(python) if python.exists() else sys.executable, against.name)
            self._others = {contender.name: contender for contender in others}
        for contender in (*ours, *(() if against else _PEERS)):
            try:
                self.versions[contender.name] = contender.prepare()
            except Unavailable as reason:
                self.missing[contender.name] = str(reason)
            else:
                self.ready[contender.name] = contender

    def sides(self, names: Sequence[str]) -> dict[str, Contender]:
        """Those of `names` that can be started, by their labels, each followed by the other checkout's."""
        found = [side for name in names for side in (self.ready.get(name), self._others.get(name)) if side is not None]
        return {side.label: side for side in found}
