"""Partyline: a real-time messaging server for Python. What is named here is the public API, and nothing else is.

Names are imported on first use, so that `import partyline` costs nothing.
"""

from __future__ import annotations

from importlib import import_module
from typing import Any

__version__ = "0.1.0"

_WHERE = {
    "Acknowledge": "partyline.socketio.acks",
    "Adapter": "partyline.interfaces",
    "ApiKey": "partyline.entries",
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
    "JwtKey": "partyline.entries",
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
    "RetentionRule": "partyline.entries",
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

__all__ = [
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


def __getattr__(name: str) -> Any:
    module = _WHERE.get(name)
    if module is None:
        raise AttributeError(f"module 'partyline' has no attribute {name!r}")
    return getattr(import_module(module), name)


def __dir__() -> list[str]:
    return [*__all__, "__version__"]
