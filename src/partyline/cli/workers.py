"""`partyline serve --workers N`: a parent, a keeper that has the database, and N workers that serve.

Each worker has its own listener on the port: the kernel spreads the connections over them evenly. The parent makes them
and keeps them open, so a connection that comes while a worker is replaced waits for the new one.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import socket
import tempfile
from collections.abc import Callable, Coroutine
from functools import partial
from typing import Any, Final

from partyline import log, parts
from partyline.app import build, take_over, tune
from partyline.cli.ending import end_tasks
from partyline.cli.supervising import Main, Said, Supervisor
from partyline.cli.target import Target
from partyline.config import Settings
from partyline.errors import ConfigError, StoreUnavailable
from partyline.metrics import Counters
from partyline.server.lifespan import lifespan
from partyline.server.shell import BACKLOG, bind_error
from partyline.stores.sqlite.database import Database
from partyline.trust.tokens import revocation_life
from partyline.workers.keeper import Keeper
from partyline.workers.seat import Seat
from partyline.workers.sharing import TABLES
from partyline.workers.shelf import Shelf

_log = log.get("server")

_ENDING: Final = 10.0  # seconds that a process may need to end, besides the drain

Loop = Callable[[], asyncio.AbstractEventLoop]
Facts = Callable[[Any, list[str], str], dict[str, str]]
"""Describes a server that listens, from the built server, its addresses, and the reason if it has no chat."""


def supervise(
    settings: Settings,
    count: int,
    *,
    find: Callable[[], Target],
    loop: Loop,
    facts: Facts,
    show: Callable[[dict[str, str]], None],
    handover: bool,
    new_epoch: bool,
) -> None:
    """Run until a signal comes. In each worker `find` imports what to serve beside the relay. Raises ConfigError."""
    folder = tempfile.mkdtemp(prefix="partyline-")
    listeners: list[list[socket.socket]] = []

    def close() -> None:
        for own in listeners:
            for listener in own:
                listener.close()
        listeners.clear()

    supervisor = Supervisor(on_stop=close)
    try:
        first = True

        def keep(told: int, say: Callable[[Said], None]) -> int:
            opened = partial(_keep, settings, folder, handover=handover and first, new_epoch=new_epoch and first)
            return _run(loop, opened(told, say))

        def work(number: int, told: int, say: Callable[[Said], None]) -> int:
            own = listeners[number]
            for other in listeners:
                if other is not own:
                    for listener in other:
                        listener.close()
            return _run(loop, _work(settings, find(), number, count, folder, own, facts, told, say))

        (kept,) = supervisor.start([("keeper", keep)])
        first = False
        listeners += _listeners(settings, count)
        workers: list[tuple[str, Main]] = [(f"worker {number}", partial(work, number)) for number in range(count)]
        said = supervisor.start(workers)
        show({**said[0], **kept, "workers": f"{count}, and a keeper of the log"})
        supervisor.run()
        supervisor.stop("worker", settings.drain_time + _ENDING)
        supervisor.stop("keeper", 2 * _ENDING)
    finally:
        close()
        supervisor.kill()
        shutil.rmtree(folder, ignore_errors=True)


def _run(loop: Loop, main: Coroutine[Any, Any, None]) -> int:
    with asyncio.Runner(loop_factory=loop) as runner:
        runner.run(main)
    return 0


def _listeners(settings: Settings, count: int) -> list[list[socket.socket]]:
    """For each worker its own listeners, on every address of the host. Raises ConfigError."""
    made: list[list[socket.socket]] = [[] for _ in range(count)]
    port = settings.port
    try:
        found = socket.getaddrinfo(
            settings.host or None, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE | socket.AI_ADDRCONFIG
        )
        for family, _, _, _, address in dict.fromkeys(found):
            for own in made:
                listener = socket.socket(family, socket.SOCK_STREAM)
                own.append(listener)
                listener.setblocking(False)
                listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
                if family == socket.AF_INET6:
                    listener.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
                listener.bind((address[0], port, *address[2:]))
                port = listener.getsockname()[1]  # the first one may have got any free port
                listener.listen(BACKLOG)
    except OSError as error:
        for own in made:
            for listener in own:
                listener.close()
        raise ConfigError(bind_error(error, settings.host, settings.port), field="port") from None
    return made


# In the keeper


async def _keep(
    settings: Settings, folder: str, told: int, say: Callable[[Said], None], *, handover: bool, new_epoch: bool
) -> None:
    counters = Counters()
    stopped = asyncio.Event()
    _listen(told, stopped.set)
    held = await take_over(settings, handover=handover)
    database = Database(settings.db, counters, held=held)
    try:
        store = parts.store(settings, database, new_epoch=new_epoch)
        parts.require_durability(settings, store.durability)
        keeper = Keeper(store, {name: Shelf(name, database) for name in TABLES}, counters)
        await keeper.listen(f"{folder}/keeper.sock")
        say(Said({"database": f"{settings.db} ({database.sync_mode})"}))
        tune()
        await stopped.wait()
        database.finishing()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(settings.drain_time + _ENDING):
                await keeper.left()
        with contextlib.suppress(TimeoutError):  # a disk that hangs must not hold the process for ever
            async with asyncio.timeout(_ENDING / 2):
                await keeper.close()
                await database.flush()
        shutil.rmtree(folder, ignore_errors=True)  # the parent may have died, and this is the last process
    finally:
        await asyncio.get_running_loop().run_in_executor(None, database.close)


# In a worker


async def _work(
    settings: Settings,
    target: Target,
    number: int,
    count: int,
    folder: str,
    listeners: list[socket.socket],
    facts: Facts,
    told: int,
    say: Callable[[Said], None],
) -> None:
    life = revocation_life(settings.jwt_max_life, (key.leeway for key in settings.jwt_keys))
    seat = Seat(number, count, folder, max_body=max(settings.max_body, settings.max_message), life=life)
    await _open(seat)
    partyline = build(settings, fallback=target.fallback, extras=target.extras, relay=target.relay, seat=seat)
    try:
        _listen(told, partyline.shell.stop)
        if target.application is not None:
            target.application.adopt(partyline)
        async with contextlib.AsyncExitStack() as stack:
            if target.fallback is not None:
                partyline.shell.state = await stack.enter_async_context(lifespan(target.fallback))
            await seat.elsewhere.start(partyline.shell.connection)
            await partyline.start_extras()
            await partyline.shell.listen_on(listeners, partyline.tls)
            urls = [_url(listener, tls=partyline.tls is not None) for listener in listeners]
            say(Said(facts(partyline, urls, "off with several workers")))
            tune()
            await partyline.shell.run_until_stopped()
    finally:
        await partyline.close()
    await end_tasks()


async def _open(seat: Seat) -> None:
    """Connect to the keeper, which may be about to be replaced."""
    for again in range(100):
        try:
            await seat.open()
            return
        except StoreUnavailable:
            if again == 99:
                raise
            await asyncio.sleep(0.1)


def _url(listener: socket.socket, *, tls: bool) -> str:
    host, port = listener.getsockname()[:2]
    return f"{'https' if tls else 'http'}://{f'[{host}]' if ':' in host else host}:{port}"


def _listen(told: int, stop: Callable[[], object]) -> None:
    """Call `stop` each time the parent says so, and when it has died."""
    loop = asyncio.get_running_loop()

    def read() -> None:
        said = os.read(told, 16)
        if not said:
            loop.remove_reader(told)
        stop()

    loop.add_reader(told, read)
