"""The public names: these, no others, and nothing imported for them before they are used."""

from __future__ import annotations

import importlib
import importlib.metadata
import json
import subprocess
import sys

import pytest

import partyline

# A removed name is a broken promise, and an added name is a new one: both are recorded here on purpose.
NAMES = [
    "Acknowledge",
    "Adapter",
    "ApiKey",
    "Application",
    "Bus",
    "CallTimeout",
    "ConfigError",
    "Conflict",
    "ConnectionRefused",
    "Disconnected",
    "EngineIO",
    "Forbidden",
    "Gap",
    "InvalidValue",
    "JwtKey",
    "Line",
    "Message",
    "Namespace",
    "NatsBus",
    "NodeCluster",
    "NotRecovered",
    "Overloaded",
    "Pages",
    "Partyline",
    "PartylineError",
    "PayloadTooLarge",
    "PeerGone",
    "Position",
    "RateLimited",
    "RedisBus",
    "RetentionRule",
    "Settings",
    "Socket",
    "SocketIO",
    "StoreUnavailable",
    "TooManyTopics",
    "Unauthenticated",
    "build",
    "connect",
    "load",
    "running",
]
HOMES = {
    "Acknowledge": "partyline.socketio.acks",
    "Adapter": "partyline.interfaces",
    "ApiKey": "partyline.config",
    "Application": "partyline.mounting",
    "Bus": "partyline.interfaces",
    "CallTimeout": "partyline.errors",
    "ConfigError": "partyline.errors",
    "Conflict": "partyline.errors",
    "ConnectionRefused": "partyline.errors",
    "Disconnected": "partyline.errors",
    "EngineIO": "partyline.engineio.engine",
    "Forbidden": "partyline.errors",
    "Gap": "partyline.client.frames",
    "InvalidValue": "partyline.errors",
    "JwtKey": "partyline.config",
    "Line": "partyline.client.line",
    "Message": "partyline.client.frames",
    "Namespace": "partyline.socketio.namespace",
    "NatsBus": "partyline.adapters.nats.bus",
    "NodeCluster": "partyline.socketio.joining",
    "NotRecovered": "partyline.errors",
    "Overloaded": "partyline.errors",
    "Pages": "partyline.server.pages",
    "Partyline": "partyline.app",
    "PartylineError": "partyline.errors",
    "PayloadTooLarge": "partyline.errors",
    "PeerGone": "partyline.errors",
    "Position": "partyline.models",
    "RateLimited": "partyline.errors",
    "RedisBus": "partyline.adapters.redis_bus",
    "RetentionRule": "partyline.config",
    "Settings": "partyline.config",
    "Socket": "partyline.socketio.socket",
    "SocketIO": "partyline.socketio.server",
    "StoreUnavailable": "partyline.errors",
    "TooManyTopics": "partyline.errors",
    "Unauthenticated": "partyline.errors",
    "build": "partyline.app",
    "connect": "partyline.client.connecting",
    "load": "partyline.config",
    "running": "partyline.app",
}


def fresh(code: str) -> object:
    """What a new interpreter prints as JSON."""
    command = [sys.executable, "-W", "error", "-c", code]
    answer = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60)
    assert answer.stderr == ""
    return json.loads(answer.stdout)


def test_the_public_names_are_these() -> None:
    """`__all__` and `dir` hold the public names, and nothing else is API."""
    assert list(partyline.__all__) == NAMES
    assert sorted(dir(partyline)) == sorted([*NAMES, "__version__"])


@pytest.mark.parametrize("name", NAMES)
def test_every_public_name_is_there(name: str) -> None:
    """Each public name is the object of that name where it is defined."""
    found = getattr(partyline, name)
    assert found is getattr(importlib.import_module(HOMES[name]), name)
    assert found.__name__ == name


def test_unknown_names_are_attribute_errors() -> None:
    """A name that is not public is an AttributeError that names it, as of any module."""
    for name in ("Hub", "nonsense", "_private", "__path_"):
        with pytest.raises(AttributeError, match=f"'partyline' has no attribute '{name}'"):
            getattr(partyline, name)
        assert not hasattr(partyline, name)


def test_the_version_is_the_packages() -> None:
    """`__version__` is the version that is installed."""
    assert importlib.metadata.version("partyline-server") == partyline.__version__


def test_importing_costs_nothing() -> None:
    """`import partyline` imports only itself: no server, no framework, no event loop."""
    loaded = fresh(
        "import sys; before = set(sys.modules); import partyline; import json; "
        "print(json.dumps(sorted({name.partition('.')[0] for name in set(sys.modules) - before})))"
    )
    assert isinstance(loaded, list)
    assert not {"uvicorn", "starlette", "httptools", "msgspec", "structlog", "asyncio", "rich"} & set(loaded)


def test_a_name_imports_its_own_module_only() -> None:
    """A name that does not need the server, like the settings, does not import it."""
    loaded = fresh(
        "import sys, partyline, json; partyline.Settings; partyline.load; partyline.ConfigError; partyline.Position; "
        "print(json.dumps(sorted({name.partition('.')[0] for name in sys.modules})))"
    )
    assert isinstance(loaded, list)
    assert "partyline" in loaded
    assert not {"uvicorn", "starlette", "httptools", "structlog"} & set(loaded)


def test_a_star_import_gives_the_public_names() -> None:
    """`from partyline import *` gives exactly the public names."""
    given = fresh(
        "import json; names = {}; exec('from partyline import *', names); "
        "print(json.dumps(sorted(set(names) - {'__builtins__'})))"
    )
    assert given == sorted(NAMES)
