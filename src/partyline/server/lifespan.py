"""The lifespan of an ASGI application that we serve: its start-up before, its shutdown after (ASGI, Lifespan)."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from typing import Any

from starlette.types import ASGIApp, Message

from partyline import log
from partyline.errors import ConfigError

_log = log.get("server")


@contextlib.asynccontextmanager
async def lifespan(app: ASGIApp) -> AsyncIterator[dict[str, Any]]:
    """Start `app`, and shut it down at the end; gives the state for the scopes of its requests.

    An application without lifespan support is served without one. Raises ConfigError if its start-up failed; a failed
    shutdown is logged. If cancelled inside, it is shut down all the same.
    """
    state: dict[str, Any] = {}
    inbox: asyncio.Queue[Message] = asyncio.Queue()
    answers: asyncio.Queue[Message] = asyncio.Queue()
    running = asyncio.create_task(_run(app, state, inbox, answers))
    try:
        inbox.put_nowait({"type": "lifespan.startup"})
        answer = await answers.get()
        if answer["type"] == "lifespan.startup.failed":
            said = str(answer.get("message", "")).strip()
            _log.error("the application's start-up failed", said=said)
            raise ConfigError(f"the application's start-up failed: {said.rpartition(chr(10))[2] or 'it said no more'}")
        if answer["type"] != "lifespan.startup.complete":
            yield state
            return
        try:
            yield state
        finally:
            inbox.put_nowait({"type": "lifespan.shutdown"})
            answer = await answers.get()
            if answer["type"] == "lifespan.shutdown.failed":
                _log.error("the application's shutdown failed", said=str(answer.get("message", "")))
            await asyncio.wait((running,))
    finally:
        running.cancel()


async def _run(
    app: ASGIApp, state: dict[str, Any], inbox: asyncio.Queue[Message], answers: asyncio.Queue[Message]
) -> None:
    async def send(message: Message) -> None:
        answers.put_nowait(message)

    scope = {"type": "lifespan", "asgi": {"version": "3.0", "spec_version": "2.0"}, "state": state}
    try:
        await app(scope, inbox.get, send)
    except Exception as error:  # how an application says that it has no lifespan
        _log.debug("the application has no lifespan", error=f"{type(error).__name__}: {error}")
    finally:
        answers.put_nowait({"type": "lifespan.over"})
