"""The log that the setting `log` names: which engine keeps it, and how it is opened. An engine is imported where it is
named, since what it needs is installed only by those who use it."""

from __future__ import annotations

import asyncio
import re
from importlib import import_module
from typing import Any, Final

from partyline import log
from partyline.config import Settings
from partyline.errors import ConfigError, StoreUnavailable
from partyline.interfaces import SharedLog, Standing
from partyline.stores.retention import Bounds, Retention
from partyline.stores.shared import SharedStore

_REDIS: Final = ("partyline.adapters.redis_log", "redis")
_POSTGRES: Final = ("partyline.adapters.postgres.log", "postgres")
LOGS: Final[dict[str, tuple[str, str]]] = {
    "redis": _REDIS,
    "rediss": _REDIS,
    "postgres": _POSTGRES,
    "postgresql": _POSTGRES,
}
"""By the scheme of a URL, the module with `open_log(url, retention, idempotency_window) -> SharedLog`, and the extra
that installs what it needs."""

_AGAIN: Final = 1.0  # seconds between tries while the engine cannot be reached
_PATIENCE: Final = 5.0  # seconds that somebody who only looks waits for it
_SCHEME: Final = re.compile(r"([a-z][a-z0-9+.-]*)://")

_log = log.get("store")


async def open_store(settings: Settings, *, new_epoch: bool = False) -> SharedStore | None:
    """The log that several servers share, connected; None where `db` is the log. Waits until the engine is there.

    `new_epoch` makes all positions of the log unknown, for all servers. Raises ConfigError.
    """
    if settings.log is None:
        return None
    shared = _open(settings.log, settings)
    told = False
    while True:
        try:
            store = await SharedStore.open(shared)
            if new_epoch:
                await shared.renew(store.epoch)
                store = await SharedStore.open(shared)
            return store
        except StoreUnavailable as error:
            if not told:
                told = True
                _log.error("the log cannot be reached: the server starts when it can", error=error.message)
            await asyncio.sleep(_AGAIN)


async def look(settings: Settings) -> Standing:
    """What the shared log says of itself. Raises ConfigError, and StoreUnavailable where it cannot be reached."""
    shared = _open(settings.log or "", settings)
    try:
        async with asyncio.timeout(_PATIENCE):
            return await shared.connect(0)
    except TimeoutError:
        raise StoreUnavailable("it does not answer") from None
    finally:
        await shared.close()


def retention(settings: Settings) -> Retention:
    """What a log keeps."""
    rules = tuple(
        (
            rule.topic,
            Bounds(
                settings.max_age if rule.max_age is None else rule.max_age,
                settings.max_messages if rule.max_messages is None else rule.max_messages,
                rule.max_bytes,
            ),
        )
        for rule in settings.retention
    )
    return Retention(settings.max_age, settings.max_messages, settings.max_rooms, rules)


def _open(url: str, settings: Settings) -> SharedLog:
    found = _SCHEME.match(url)
    scheme = found[1] if found else ""
    if scheme not in LOGS:
        known = ", ".join(f"{name}://" for name in sorted(LOGS)) or "none so far"
        shown = f"{scheme}://" if scheme else "it"  # the rest may have a password in it
        raise ConfigError(
            f"log: {shown} is no log that several servers can share ({known}): name one, or leave it out and choose a "
            "file with --db",
            field="log",
        )
    module, extra = LOGS[scheme]
    try:
        engine: Any = import_module(module)
    except ImportError as error:
        raise ConfigError(
            f"log: {scheme}:// needs {error.name}: pip install 'partyline[{extra}]'", field="log"
        ) from None
    opened: SharedLog = engine.open_log(url, retention(settings), settings.idempotency_window)
    return opened
