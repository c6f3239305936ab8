"""The log and the bus that several servers share: which engine a setting names, and how it is opened. An engine is
imported where it is named, since what it needs is installed only by those who use it."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Coroutine, Mapping
from importlib import import_module
from typing import Any, Final, TypeVar

from partyline import log
from partyline.adapters.examining import Examined
from partyline.config import Settings
from partyline.errors import ConfigError, StoreUnavailable
from partyline.findings import ok
from partyline.interfaces import Bus, Durability, SharedLog, Store, Tables
from partyline.metrics import Counters
from partyline.nodes.seat import Seat
from partyline.stores.retention import Bounds, Retention
from partyline.stores.shared import SharedStore
from partyline.trust.tokens import revocation_life

_REDIS: Final = ("partyline.adapters.redis_log", "redis")
_POSTGRES: Final = ("partyline.adapters.postgres.log", "postgres")
_NATS: Final = ("partyline.adapters.nats.log", "nats")
LOGS: Final[dict[str, tuple[str, str]]] = {
    "redis": _REDIS,
    "rediss": _REDIS,
    "postgres": _POSTGRES,
    "postgresql": _POSTGRES,
    "nats": _NATS,
    "tls": _NATS,  # NATS' own name for its addresses with TLS
}
"""By the scheme of a URL, the module with `open_log(url, retention, idempotency_window) -> SharedLog`, and the extra
that installs what it needs."""
BUSES: Final[dict[str, tuple[str, str]]] = {
    "redis": ("partyline.adapters.redis_bus", "redis"),
    "rediss": ("partyline.adapters.redis_bus", "redis"),
    "postgres": ("partyline.adapters.postgres.bus", "postgres"),
    "postgresql": ("partyline.adapters.postgres.bus", "postgres"),
    "nats": ("partyline.adapters.nats.bus", "nats"),
    "tls": ("partyline.adapters.nats.bus", "nats"),
}
"""Likewise, the module with `open_bus(url, field) -> Bus`."""
EXAMINERS: Final[dict[str, str]] = {
    "redis": "partyline.adapters.redis_examining",
    "rediss": "partyline.adapters.redis_examining",
    "postgres": "partyline.adapters.postgres.examining",
    "postgresql": "partyline.adapters.postgres.examining",
    "nats": "partyline.adapters.nats.examining",
    "tls": "partyline.adapters.nats.examining",
}
"""Likewise, the module with `examine(url, field) -> Examined`."""

TABLES: Final[dict[str, tuple[str, str]]] = {
    "redis": ("partyline.adapters.redis_tables", "redis"),
    "rediss": ("partyline.adapters.redis_tables", "redis"),
    "postgres": ("partyline.adapters.postgres.tables", "postgres"),
    "postgresql": ("partyline.adapters.postgres.tables", "postgres"),
    "nats": ("partyline.adapters.nats.tables", "nats"),
    "tls": ("partyline.adapters.nats.tables", "nats"),
}
"""Likewise, the module with `open_tables(url) -> Tables`."""

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


async def examine(settings: Settings, field: str) -> Examined:
    """What can be said of the engine that `log` or `bus` names, which is left as it is.

    Raises ConfigError, and StoreUnavailable where it cannot be reached.
    """
    url: str = getattr(settings, field)
    _engine(field, url, LOGS if field == "log" else BUSES)
    examiner = EXAMINERS.get(_scheme(url))
    if examiner is None:
        return Examined([ok(field, f"{_scheme(url)}://: what it is set to is not examined")])
    found: Examined = await _soon(import_module(examiner).examine(url, field))
    return found


async def _soon(call: Coroutine[Any, Any, _T]) -> _T:
    """The log's answer. Raises StoreUnavailable if that takes too long."""
    try:
        async with asyncio.timeout(_PATIENCE):
            return await call
    except TimeoutError:
        raise StoreUnavailable("it does not answer") from None


def open_bus(settings: Settings, counters: Counters, *, keeps: bool = True) -> Bus | None:
    """The bus that several servers share, not started: the one that is named, or that of the log's engine, if it has
    one. None for a server of its own. `keeps`: it serves topics that are kept in the log. Raises ConfigError."""
    field = "log" if settings.bus is None else "bus"
    url: str | None = getattr(settings, field)
    if url is None or (field == "log" and _scheme(url) not in BUSES):
        return None
    if keeps:
        check_bus(settings)
    opened: Bus = _engine(field, url, BUSES).open_bus(url, field)
    if hasattr(opened, "counters"):
        opened.counters = counters
    return opened


def check_bus(settings: Settings) -> None:
    """Whether topics may be kept, where there is a bus. Raises ConfigError."""
    if settings.bus is not None and settings.log is None and ">" not in settings.ephemeral_topics:
        raise ConfigError(
            "bus: it keeps nothing, and the log in db is this server's alone: what is published here would be missing "
            "in the history of the others. Name a log that all of them share (--log), or keep nothing "
            '(ephemeral_topics = [">"])',
            field="bus",
        )


def open_seat(settings: Settings, store: Store, counters: Counters) -> Seat | None:
    """This server's place among those with its log, not started; None if the log's engine has no tables, or there is no
    bus. Raises ConfigError."""
    url = settings.log or ""
    bus = open_bus(settings, counters) if _scheme(url) in TABLES else None
    if bus is None:
        return None
    tables: Tables = _engine("log", url, TABLES).open_tables(url)
    life = revocation_life(settings.jwt_max_life, (key.leeway for key in settings.jwt_keys))
    return Seat(store, bus, tables, max_body=max(settings.max_body, settings.max_message), life=life)


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
    opened: SharedLog = _engine("log", url, LOGS).open_log(url, retention(settings), settings.idempotency_window)
    return opened


def _scheme(url: str) -> str:
    found = _SCHEME.match(url)
    return found[1] if found else ""


def _engine(field: str, url: str, known: Mapping[str, tuple[str, str]]) -> Any:
    """The module of the engine that a setting names. Raises ConfigError."""
    scheme = _scheme(url)
    if scheme not in known:
        names = ", ".join(f"{name}://" for name in sorted(known))
        shown = f"{scheme}://" if scheme else "it"  # the rest may have a password in it
        instead = " and choose a file with --db" if field == "log" else ""
        raise ConfigError(
            f"{field}: {shown} is no {field} that several servers can share ({names}): name one, or leave it out"
            f"{instead}",
            field=field,
        )
    module, extra = known[scheme]
    try:
        return import_module(module)
    except ImportError as error:
        raise ConfigError(
            f"{field}: {scheme}:// needs {error.name}: pip install 'partyline-server[{extra}]'", field=field
        ) from None
