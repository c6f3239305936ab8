"""Partyline: a real-time messaging server for Python. What is named here is the public API, and nothing else is.

Names are imported on first use, so that `import partyline` costs nothing.
"""

from __future__ import annotations

from importlib import import_module
from typing import Any

__version__ = "0.1.0"

_WHERE = {
    "Acknowledge": "partyline.socketio.acks",
    "ApiKey": "partyline.config",
    "Application": "partyline.mounting",
    "Pages": "partyline.server.pages",
    "Partyline": "partyline.app",
    "PartylineError": "partyline.errors",
    "CallTimeout": "partyline.errors",
    "ConfigError": "partyline.errors",
    "ConnectionRefused": "partyline.errors",
    "EngineIO": "partyline.engineio.engine",
    "JwtKey": "partyline.config",
    "Namespace": "partyline.socketio.namespace",
    "PeerGone": "partyline.errors",
    "Position": "partyline.models",
    "Settings": "partyline.config",
    "Socket": "partyline.socketio.socket",
    "SocketIO": "partyline.socketio.server",
    "build": "partyline.app",
    "connect": "partyline.client.connecting",
    "load": "partyline.config",
    "running": "partyline.app",
}

__all__ = [
    "Acknowledge",
    "ApiKey",
    "Application",
    "CallTimeout",
    "ConfigError",
    "ConnectionRefused",
    "EngineIO",
    "JwtKey",
    "Namespace",
    "Pages",
    "Partyline",
    "PartylineError",
    "PeerGone",
    "Position",
    "Settings",
    "Socket",
    "SocketIO",
    "build",
    "connect",
    "load",
    "running",
]


def __getattr__(name: str) -> Any:
    module = _WHERE.get(name)
    if module is None:
        raise AttributeError(f"module 'partyline' has no attribute {name!r}")
    return getattr(import_module(module), name)


def __dir__() -> list[str]:
    return [*__all__, "__version__"]
