"""Running under another ASGI server: noticing that it stops, and keeping credentials out of its logs.

ASGI helps with neither. The shutdown event of the lifespan comes after all connections are gone, so a server that stops
waits for streams that never end. And an access log holds whole addresses, since the server cannot know that the id in
`/ws/<id>` is a credential.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Mapping, MutableMapping
from typing import Any, Final

from partyline import log

# Requests and upgrades of uvicorn (of its workers in gunicorn, too) and of hypercorn.
_LOGGERS: Final = ("uvicorn.access", "uvicorn.error", "uvicorn.asgi", "hypercorn.access", "hypercorn.error")


def find_host() -> Callable[[], bool] | None:
    """Whether the server that runs this loop is about to stop, as something to ask; None where it is not a known one.

    No server tells, so this looks for the coroutine that is uvicorn or hypercorn, and at what it keeps there. Nothing
    of it is changed. To be called while a request is served: they keep it from then on at the latest.
    """
    for task in asyncio.all_tasks():
        step: Any = task.get_coro()
        while step is not None:
            frame = getattr(step, "cr_frame", None)
            if frame is not None:
                found = _asked(frame.f_globals.get("__name__"), frame.f_code.co_name, frame.f_locals)
                if found is not None:
                    return found
            step = getattr(step, "cr_await", None)
    return None


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
    """Keep ids, tokens and keys out of the access logs of the servers that are known. Idempotent.

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
    elif isinstance(arguments, MutableMapping):  # hypercorn's atoms know what to say where one is missing
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
