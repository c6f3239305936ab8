"""Running under another ASGI server: noticing that it stops, that it has other workers, and keeping credentials out of
its logs.

ASGI helps with none of these. The shutdown event of the lifespan comes after all connections are gone, so a server that
stops waits for streams that never end. And an access log holds whole addresses, since the server cannot know that the
id in `/ws/<id>` is a credential.
"""

from __future__ import annotations

import asyncio
import fcntl
import logging
from collections.abc import Callable, Iterator, Mapping, MutableMapping
from typing import Any, Final

from partyline import log

# Requests and upgrades of uvicorn (of its workers in gunicorn, too) and of hypercorn.
_LOGGERS: Final = ("uvicorn.access", "uvicorn.error", "uvicorn.asgi", "hypercorn.access", "hypercorn.error")

_PATIENCE: Final = 2.0  # seconds that a worker which is being replaced has to let go of the listener
_POLL: Final = 0.05


def find_host() -> Callable[[], bool] | None:
    """A function that says whether the server that runs this loop is about to stop; None for an unknown server.

    Servers do not announce it, so this finds the coroutine of uvicorn or hypercorn and reads its state, without
    changing anything. Call it while a request is served: by then that state exists.
    """
    for module, function, values in _running():
        found = _asked(module, function, values)
        if found is not None:
            return found
    return None


async def another_worker() -> bool:
    """Whether another process accepts connections on the same listener, with an application of ours in it.

    An inherited listener is the same socket in all workers, so it carries a lock that each process has for itself and
    that ends with it. One that the server has made for itself has no other workers. May wait for a worker that is about
    to end. Raises nothing.
    """
    loop = asyncio.get_running_loop()
    deadline = loop.time() + _PATIENCE
    while not all(map(_claimed, _inherited())):
        if loop.time() >= deadline:
            return True
        await asyncio.sleep(_POLL)
    return False


def _claimed(descriptor: int) -> bool:
    try:
        fcntl.lockf(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:  # a system whose sockets have no locks
        pass
    return True


def _inherited() -> list[int]:
    """The listening sockets that were handed to the server that runs this loop, as far as it is a known one."""
    for module, function, values in _running():
        sockets: Any = values.get("sockets")
        if sockets is None:
            continue
        if module == "uvicorn.server" and function == "serve":
            return [listener.fileno() for listener in sockets]
        if module == "hypercorn.asyncio.run" and function == "worker_serve":
            return [listener.fileno() for listener in (*sockets.secure_sockets, *sockets.insecure_sockets)]
    return []


def _running() -> Iterator[tuple[object, str, Mapping[str, Any]]]:
    """Every coroutine that is on its way on this loop: its module, its function, and what it has in hand."""
    for task in asyncio.all_tasks():
        step: Any = task.get_coro()
        while step is not None:
            frame = getattr(step, "cr_frame", None)
            if frame is not None:
                yield frame.f_globals.get("__name__"), frame.f_code.co_name, frame.f_locals
            step = getattr(step, "cr_await", None)


def _asked(module: object, function: str, values: Mapping[str, Any]) -> Callable[[], bool] | None:
    if module == "uvicorn.server" and function == "serve":
        server: Any = values.get("self")
        if hasattr(server, "should_exit") and hasattr(server, "servers"):
            # It also stops without having been told to, after `--limit-max-requests`.
            return lambda: server.should_exit or not any(listener.is_serving() for listener in server.servers)
    if module == "hypercorn.asyncio.run" and function == "worker_serve":
        terminated = getattr(values.get("context"), "terminated", None)
        return getattr(terminated, "is_set", None)
    return None


def redact_logs() -> None:
    """Keep ids, tokens and keys out of the access logs of known servers. Idempotent.

    Nothing else about the host's logging is touched.
    """
    for name in _LOGGERS:
        logging.getLogger(name).addFilter(_redact)


def _redact(record: logging.LogRecord) -> bool:
    """A filter of `logging`: it lets every record pass."""
    if isinstance(record.msg, str):
        record.msg = log.redact_text(record.msg)
    arguments = record.args
    if isinstance(arguments, tuple):  # uvicorn's formatter counts on their number
        record.args = tuple(map(_redacted, arguments))
    elif isinstance(arguments, MutableMapping):  # hypercorn's atoms have defaults for missing keys
        for name, value in tuple(arguments.items()):
            arguments[name] = _redacted(value)
    return True


def _redacted(value: Any) -> Any:
    if isinstance(value, str):
        return log.redact_text(value)
    if value is None or isinstance(value, int | float):
        return value
    shown = repr(value)
    redacted = log.redact_text(shown)
    return value if redacted == shown else redacted
