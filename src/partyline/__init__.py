"""Partyline: a real-time messaging server for Python. What is named here is the public API, and nothing else is.

Names are imported on first use, so that `import partyline` costs nothing.
"""

from __future__ import annotations

from importlib import import_module
from typing import Any

__version__ = "0.1.0"

_WHERE = {
    "Application": "partyline.mounting",
    "Partyline": "partyline.app",
    "PartylineError": "partyline.errors",
    "ConfigError": "partyline.errors",
    "EngineIO": "partyline.engineio.engine",
    "Position": "partyline.models",
    "Settings": "partyline.config",
    "build": "partyline.app",
    "connect": "partyline.client.connecting",
    "load": "partyline.config",
    "running": "partyline.app",
}

__all__ = [
    "Application",
    "ConfigError",
    "EngineIO",
    "Partyline",
    "PartylineError",
    "Position",
    "Settings",
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
