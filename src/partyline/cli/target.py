"""Finds what `partyline serve MODULE:NAME` names: an ASGI application, or something to serve beside the relay."""

from __future__ import annotations

import dataclasses
import importlib
import inspect
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import cast

from starlette.types import ASGIApp

from partyline.config import Loaded, Settings
from partyline.errors import ConfigError
from partyline.mounting import Application, applications
from partyline.server.site import Extra


@dataclass(frozen=True, slots=True)
class Target:
    """What to serve beside the relay: `fallback` gets all other paths, `application` stands for the server."""

    fallback: ASGIApp | None = None
    extras: tuple[Extra, ...] = ()
    application: Application | None = None

    @property
    def relay(self) -> bool:
        return self.application is None or self.application.relay


def find(text: str) -> Target:
    """Import what `text` names, also from the working directory. Raises ConfigError, and whatever the module raises."""
    name, _, path = text.partition(":")
    if not name or not path:
        raise ConfigError(f"{text!r} is not MODULE:NAME, as in main:app", field="target")
    here = str(Path.cwd())
    if here not in sys.path:
        sys.path.insert(0, here)
    found: object
    try:
        found = importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name is None or not f"{name}.".startswith(f"{error.name}."):
            raise  # it is imported by the application's module
        raise ConfigError(
            f"there is no module {error.name!r} in {here} or on Python's path (from {text!r})", field="target"
        ) from None
    for part in path.split("."):
        if not hasattr(found, part):
            raise ConfigError(f"the module {name!r} has no {path!r}", field="target")
        found = getattr(found, part)
    return _sorted_out(text, found)


def under(loaded: Loaded, settings: Settings | None) -> Settings:
    """The program's settings, overridden by flags, environment and file."""
    if settings is None:
        return loaded.settings
    return dataclasses.replace(settings, **loaded.said)


def _sorted_out(text: str, found: object) -> Target:
    if isinstance(found, Application):
        return Target(extras=found.extras, application=found)
    if all(callable(getattr(found, name, None)) for name in ("attach", "routes", "upgrade")):
        return Target(extras=(cast("Extra", found),))
    if inspect.isclass(found) or not (
        inspect.iscoroutinefunction(found) or inspect.iscoroutinefunction(getattr(found, "__call__", None))  # noqa: B004
    ):
        raise ConfigError(
            f"{text!r} is neither an ASGI application nor something to serve beside the relay, such as an EngineIO: "
            f"it is a {type(found).__name__}",
            field="target",
        )
    mounted = applications()
    if len(mounted) > 1:
        raise ConfigError(
            f"{text!r} makes {len(mounted)} instances of partyline.Application, but a server can have only one: "
            "make one, with all the extras",
            field="target",
        )
    application = mounted[0] if mounted else None
    return Target(cast("ASGIApp", found), () if application is None else application.extras, application)
