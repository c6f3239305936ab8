"""Every server that takes part: how to get it, how to start it, what it can do."""

from __future__ import annotations

import importlib.util
import os
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

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
NODE_WS = "Node ws"
WEBSOCKETS = "websockets"
UVICORN = "uvicorn"
SOCKETIO = "Partyline Socket.IO"
NODE_SOCKETIO = "Node Socket.IO"
PYTHON_SOCKETIO = "python-socketio"


@dataclass(frozen=True, slots=True)
class Contender:
    """A server that can be started.

    `prepare` returns its version, or raises Unavailable with the way to get it. `command` takes
    the mode and returns the command line; the process then prints where it listens.
    """

    name: str
    prepare: Callable[[], str]
    command: Callable[[str], list[str]]
    environment: Mapping[str, str] = field(default_factory=dict)

    def start(self, mode: str, core: int | None) -> Server:
        """Start it in one mode; returns when it listens."""
        return Server(self.name.replace(" ", "-").lower(), self.command(mode), core, self.environment)


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


def _partyline() -> str:
    source = ROOT / "src"
    if not (source / "partyline" / "__init__.py").exists() and importlib.util.find_spec("partyline") is None:
        raise Unavailable("the package partyline is not importable: pip install -e .")
    return package_version("partyline") or "this source tree"


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


def _durable_command(mode: str) -> list[str]:
    for path in DATABASE.parent.glob(f"{DATABASE.name}*"):  # every run begins with an empty log
        path.unlink()
    return [
        *(sys.executable, "-m", "partyline", "serve", "--port", "0", "--db", str(DATABASE)),
        *("--log-format", "json", "--config", str(DURABLE_CONFIG)),
    ]


def _with_source() -> dict[str, str]:
    paths = [str(ROOT / "src"), os.environ.get("PYTHONPATH", "")]
    return {"PYTHONPATH": os.pathsep.join(path for path in paths if path)}


_CONTENDERS = (
    Contender(FLOOR, lambda: "bench/native/floor.c", lambda mode: [str(BUILD / "floor"), mode, "0"]),
    Contender(
        PARTYLINE,
        _partyline_echo,
        lambda mode: [sys.executable, str(BENCH / "servers" / "partyline_echo.py"), "--port", "0"],
        _with_source(),
    ),
    Contender(
        RELAY,
        _relay,
        lambda mode: [
            *(sys.executable, "-m", "partyline", "serve", "--port", "0", "--db", ":memory:"),
            *("--log-format", "json", "--config", str(RELAY_CONFIG)),
        ],
        _with_source(),
    ),
    Contender(DURABLE, _durable, _durable_command, _with_source()),
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
        SOCKETIO,
        _partyline,
        lambda mode: [sys.executable, str(BENCH / "servers" / "partyline_socketio.py")],
        _with_source(),
    ),
    Contender(
        NODE_SOCKETIO,
        _node_socketio,
        lambda mode: ["node", str(PEERS / "socketio_server.js"), "0"],
        {"NODE_PATH": str(NODE_MODULES)},
    ),
    Contender(
        PYTHON_SOCKETIO,
        _python_package("python-socketio", "python-socketio>=5.18,<6"),
        lambda mode: [sys.executable, str(PEERS / "python_socketio_app.py"), "0"],
    ),
)


class Catalog:
    """The contenders of this machine, and the reasons of those that are missing."""

    def __init__(self) -> None:
        self.ready: dict[str, Contender] = {}
        self.versions: dict[str, str] = {}
        self.missing: dict[str, str] = {}
        for contender in _CONTENDERS:
            try:
                self.versions[contender.name] = contender.prepare()
            except Unavailable as reason:
                self.missing[contender.name] = str(reason)
            else:
                self.ready[contender.name] = contender
