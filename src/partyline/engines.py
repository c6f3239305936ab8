"""The log that the setting `log` names: which engine keeps it, and how it is opened. An engine is imported where it is
named, since what it needs is installed only by those who use it."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Coroutine
from importlib import import_module
from typing import Any, Final, TypeVar

from partyline import log
from partyline.config import Settings
from partyline.errors import ConfigError, StoreUnavailable
from partyline.interfaces import Durability, SharedLog, Standing
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

_PATIENCE: Final = 5.0  # seconds that a start, or somebody who only looks, waits for it
_SCHEME: Final = re.compile(r"([a-z][a-z0-9+.-]*)://")

_T = TypeVar("_T")

_log = log.get("store")


async def open_store(settings: Settings, *, new_epoch: bool = False) -> SharedStore | None:
    """The log that several servers share; None where `db` is the log. If it cannot be reached, its store refuses
    everything until it can.

    `new_epoch` makes all positions of the log unknown, for all servers. Raises ConfigError.
    """
    if settings.log is None:
        return None
    shared = _open(settings.log, settings)
    required = Durability.named(settings.require_durability)
    try:
        store = await _soon(SharedStore.open(shared, required=required))
        if new_epoch:
            await _soon(shared.renew(store.epoch))
            store = await _soon(SharedStore.open(shared, required=required))
        return store
    except StoreUnavailable as error:
        if new_epoch:
            await shared.close()
            raise ConfigError(
                f"log: it cannot be reached to give it a new epoch ({error.message}): start its engine first",
                field="log",
            ) from None
        _log.error("the log cannot be reached: durable publishes are refused until it can", error=error.message)
        return SharedStore.unreached(shared, error.message, required=required)


async def look(settings: Settings) -> Standing:
    """What the shared log says of itself. Raises ConfigError, and StoreUnavailable where it cannot be reached."""
    shared = _open(settings.log or "", settings)
    try:
        return await _soon(shared.connect(0))
    finally:
        await shared.close()


async def _soon(call: Coroutine[Any, Any, _T]) -> _T:
    """The log's answer. Raises StoreUnavailable if that takes too long."""
    try:
        async with asyncio.timeout(_PATIENCE):
            return await call
    except TimeoutError:
        raise StoreUnavailable("it does not answer") from None


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
