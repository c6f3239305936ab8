"""`partyline serve`: print what runs, then run it."""

from __future__ import annotations

import asyncio
import contextlib
import signal
import sys
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from typing import Any, Final

import msgspec
from rich.console import Group
from rich.table import Table
from rich.text import Text

from partyline import __version__, chat, log
from partyline.app import Partyline, build, take_over, tune
from partyline.checking import check, descriptor_limit, max_connections, worker_count
from partyline.cli.ending import end_tasks
from partyline.cli.machine import FEW, port
from partyline.cli.output import console, write
from partyline.cli.target import Target, find, under
from partyline.cli.workers import supervise
from partyline.config import Settings, is_open, load
from partyline.engines import open_store
from partyline.errors import ConfigError
from partyline.findings import Verdict
from partyline.interfaces import Bus
from partyline.notation import engine, written
from partyline.server.lifespan import lifespan
from partyline.trust.keys import key_hash

_log = log.get("server")

_LEAST_KEY: Final = 16  # characters


def run(
    flags: dict[str, Any],
    file: str | None,
    target: str | None = None,
    *,
    assigned: Mapping[str, str],
    new_epoch: bool = False,
    handover: bool = False,
) -> None:
    """Serve the relay, and `target` beside it, until a signal comes. Raises ConfigError before anything listens.

    `api_keys` among the flags are hashes, or keys as clients send them.
    """
    try:
        _run(flags, file, target, assigned, new_epoch, handover)
    finally:
        log.flush()  # before `main` prints why it could not go on


def _run(
    flags: dict[str, Any],
    file: str | None,
    target: str | None,
    assigned: Mapping[str, str],
    new_epoch: bool,
    handover: bool,
) -> None:
    keys: list[str] = flags["api_keys"] or []
    loaded = load({**flags, "api_keys": _hashed(keys) or None}, file=file, assigned=assigned)
    log.configure(loaded.value("log_format"), loaded.value("log_level"))
    if any(len(key) < _LEAST_KEY for key in keys):
        _log.warning(f"a key of fewer than {_LEAST_KEY} characters can be guessed: `partyline key` makes a good one")
    found = Target() if target is None else find(target)
    settings = loaded.settings if found.application is None else under(loaded, found.application.settings)
    check(settings)
    if settings.max_connections is None and (count := max_connections(settings)) < FEW:
        _log.warning(
            "few file descriptors: raise the limit with ulimit -n, or LimitNOFILE= of the service",
            descriptors=descriptor_limit(),
            connections=count,
        )
    if not handover and (finding := port(settings)).verdict is Verdict.PROBLEM:
        # Checked here, so that a server that cannot start creates no database.
        raise ConfigError(f"port: {finding.text}: {finding.advice}", field="port")
    if (count := worker_count(settings)) > 1:
        supervise(
            settings,
            count,
            find=lambda: Target() if target is None else find(target),
            loop=_loop_factory(),
            facts=_facts,
            show=partial(_show, settings),
            handover=handover,
            new_epoch=new_epoch,
        )
        return
    with asyncio.Runner(loop_factory=_loop_factory()) as runner:
        runner.run(_serve(settings, found, new_epoch, handover))


async def _serve(settings: Settings, target: Target, new_epoch: bool, handover: bool) -> None:
    store = await open_store(settings, new_epoch=new_epoch)
    held = await take_over(settings, handover=handover)
    chats, why = _chats(settings, target)
    extras = (*(chat.extras() if chats else ()), *target.extras)
    partyline = build(
        settings,
        fallback=target.fallback,
        extras=extras,
        held=held,
        store=store,
        new_epoch=new_epoch,
        relay=target.relay,
    )
    try:
        partyline.shell.stop_on_signals()
        _drain_at_hangup(partyline.shell.stop)
        if target.application is not None:
            target.application.adopt(partyline)
        async with contextlib.AsyncExitStack() as stack:
            if target.fallback is not None:
                partyline.shell.state = await stack.enter_async_context(lifespan(target.fallback))
            _show(settings, _facts(partyline, await partyline.listen(), "" if chats else why))
            tune()
            await partyline.shell.run_until_stopped()
    finally:
        await partyline.close()
    await end_tasks()


def _show(settings: Settings, facts: dict[str, str]) -> None:
    if sys.stdout is None:  # a daemon may have closed it
        return
    if settings.log_format == "json":
        write(msgspec.json.encode(facts).decode() + "\n")
    else:
        _print(facts)


def _drain_at_hangup(stop: Callable[[], None]) -> None:
    """Have SIGHUP stop the server with a drain, as SIGTERM does, however often it comes. Under nohup it is ignored."""
    if signal.getsignal(signal.SIGHUP) is signal.SIG_IGN:
        return
    stopped = False

    def hung_up() -> None:
        nonlocal stopped
        if not stopped:  # a second call would end the drain
            stopped = True
            _log.info("SIGHUP: the server stops")
            stop()

    asyncio.get_running_loop().add_signal_handler(signal.SIGHUP, hung_up)


def _hashed(keys: Iterable[str]) -> list[dict[str, object]]:
    return [{"hash": key if key.startswith("sha256:") else key_hash(key), "admin": True} for key in keys]


def _loop_factory() -> Callable[[], asyncio.AbstractEventLoop]:
    try:
        import uvloop
    except ImportError:
        return asyncio.new_event_loop
    return uvloop.new_event_loop


def _chats(settings: Settings, target: Target) -> tuple[bool, str]:
    """Whether the chat is served, and if not, why. It is open to anybody who can reach the server, and it takes `/`:
    with keys or an application it must be asked for."""
    if not target.relay or settings.chat is False:
        return False, "off"
    if settings.chat is None and target != Target():
        return False, "off beside an application (--set chat=true)"
    if settings.chat is None and not is_open(settings):
        return False, "off, since there are keys and it asks for none (--set chat=true)"
    return True, ""


def _facts(partyline: Partyline, urls: list[str], no_chat: str) -> dict[str, str]:
    settings = partyline.settings
    limits = partyline.site.limits
    loop = type(asyncio.get_running_loop()).__module__.partition(".")[0]
    return {
        "listening": ", ".join(urls),
        "chat": no_chat or f"{urls[0]}/" + ("" if is_open(settings) else ", open to everybody"),
        "version": __version__,
        "loop": loop,
        "database": f"{settings.db} ({partyline.database.sync_mode}), {len(partyline.registry)} registrations known",
        "log": _log_fact(partyline),
        **({} if partyline.hub.bus is None else {"bus": _bus_fact(settings, partyline.hub.bus)}),
        "access": _access(settings),
        "origins": _origins(settings),
        "limits": (
            f"{max_connections(settings)} connections ({descriptor_limit()} descriptors), "
            f"{written(settings.max_message, 'bytes')} a message, {written(settings.max_body, 'bytes')} a body, "
            f"heartbeat {limits.ping_interval:g} + {limits.ping_timeout:g} s"
        ),
    }


def _log_fact(partyline: Partyline) -> str:
    epoch, head = partyline.store.epoch, partyline.store.head
    survived = partyline.store.durability.survived
    if partyline.store.refusal is not None:
        return "shared with other servers, and not reached yet: durable publishes are refused until it is"
    if partyline.settings.log is not None:
        where = f"in {engine(partyline.settings.log)}, shared with other servers"
        return f"{where}, epoch {epoch}, last offset {head:,}: what is accepted survives {survived}"
    if partyline.settings.db == ":memory:":
        return f"in memory, epoch {epoch}: gone when this process ends"
    return f"in the database, epoch {epoch}, last offset {head:,}: what is accepted survives {survived}"


def _bus_fact(settings: Settings, bus: Bus) -> str:
    which = f"{engine(settings.bus or settings.log)}{'' if settings.bus else ', the engine of the log'}"
    if not bus.connected:
        return f"{which}: NOT reached, so nothing goes to other servers until it is"
    return f"{which}: events, and messages that are not kept, reach all servers on it, or are counted as lost"


def _access(settings: Settings) -> str:
    count = len(settings.api_keys)
    key = f"one of {count} API keys" if count > 1 else "the API key"
    if settings.jwt_keys:
        return f"calls need {key} or a token" if count else "calls need a token"
    if count:
        return f"HTTP calls need {key}"
    if settings.insecure:
        return "OPEN TO EVERYBODY who can reach this address (--insecure)"
    return "open, for programs on this machine only"


def _origins(settings: Settings) -> str:
    own = "its own pages and any on loopback" if is_open(settings) else "its own pages"
    return ", ".join([own, *settings.cors_origins])


def _print(facts: dict[str, str]) -> None:
    table = Table.grid(padding=(0, 2))
    table.add_column(style="dim")
    table.add_column(overflow="fold")
    for name in ("chat", "workers", "database", "log", "bus", "access", "origins", "limits", "loop"):
        if name not in facts:
            continue
        table.add_row(f"  {name}", Text(facts[name], "bold red" if facts[name].startswith("OPEN") else ""))
    first = Text.assemble((f"Partyline {facts['version']}", "bold"), " listens on ", (facts["listening"], "bold cyan"))
    console().print(Group(first, table, Text("  Ctrl-C stops it", "dim")))
