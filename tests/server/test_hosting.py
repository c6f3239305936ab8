"""What a host logs, and how its stop is noticed (hostile 60)."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import uvloop

from partyline.server.hosting import find_host, redact_logs
from tests.calls import call
from tests.server.asgi_servers import SERVERS, asgi_server

ID = "0123456789abcdef" * 2


@pytest.fixture
def said() -> Iterator[Callable[..., str]]:
    """`said(name, level, message, *arguments)`: what a handler of that logger writes."""
    loggers = [logging.getLogger(name) for name in ("uvicorn.access", "uvicorn.error", "hypercorn.access")]
    earlier = [(logger, logger.filters[:], logger.level, logger.propagate) for logger in loggers]
    written: list[str] = []
    handler = logging.Handler()
    handler.emit = lambda record: written.append(record.getMessage())  # type: ignore[method-assign]
    for logger in loggers:
        logger.addHandler(handler)
        logger.setLevel(logging.DEBUG)
        logger.propagate = False
    redact_logs()
    redact_logs()

    def say(name: str, level: int, message: Any, *arguments: Any) -> str:
        logging.getLogger(name).log(level, message, *arguments)
        return written.pop()

    yield say
    for logger, filters, level, propagate in earlier:
        logger.removeHandler(handler)
        logger.filters, logger.propagate = filters, propagate
        logger.setLevel(level)


ADDRESSES = [
    f"/ws/{ID}",
    f"/live/ws/{ID}",
    f"/register/{ID}",
    f"/v1/ws?token={ID}",
    f"/socket.io/?EIO=4&transport=polling&sid={ID}",
]


@pytest.mark.parametrize("address", ADDRESSES)
def test_uvicorns_logs_hold_no_credential(said: Callable[..., str], address: str) -> None:
    """uvicorn's log lines of requests and upgrades keep their five values, without an id or token in them (hostile
    60)."""
    line = said("uvicorn.access", logging.INFO, '%s - "%s %s HTTP/%s" %d', "1.2.3.4:5", "GET", address, "1.1", 200)
    assert ID not in line
    assert line.startswith('1.2.3.4:5 - "GET /')
    assert line.endswith('[redacted] HTTP/1.1" 200')
    assert ID not in said("uvicorn.error", logging.INFO, '%s - "WebSocket %s" [accepted]', ("1.2.3.4", 5), address)
    assert ID not in said("uvicorn.error", logging.DEBUG, "> GET " + address)
    assert ID not in said("uvicorn.error", logging.DEBUG, "scope %s", {"path": address})


@pytest.mark.parametrize("address", ADDRESSES)
def test_hypercorns_logs_hold_no_credential(said: Callable[..., str], address: str) -> None:
    """hypercorn's log lines of requests contain no id or token in any format (hostile 60)."""
    atoms = {"h": "1.2.3.4:5", "R": f"GET {address} 1.1", "s": "200", "{authorization}i": f"Bearer {ID}", "D": 5}
    line = said("hypercorn.access", logging.INFO, '%(h)s "%(R)s" %(s)s %({authorization}i)s %(D)d', atoms)
    assert ID not in line
    assert line.endswith("200 Bearer [redacted] 5")


def test_other_lines_stay_as_they_are(said: Callable[..., str]) -> None:
    """A line without a credential is not changed."""
    line = said("uvicorn.access", logging.INFO, '%s - "%s %s HTTP/%s" %d', "1.2.3.4:5", "GET", "/cats?a=b", "1.1", 404)
    assert line == '1.2.3.4:5 - "GET /cats?a=b HTTP/1.1" 404'
    assert said("uvicorn.error", logging.INFO, "Started server process [%d]", 7) == "Started server process [7]"


# The host's stop


@pytest.mark.parametrize("name", SERVERS)
@pytest.mark.parametrize("loop", ["asyncio", "uvloop"])
def test_a_host_that_stops_is_noticed(name: str, loop: str) -> None:
    """While a request is served the host is found, and from its stop on it reports that it is stopping."""
    asked: list[Callable[[], bool] | None] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "http":
            asked.append(find_host())
            await send({"type": "http.response.start", "status": 200, "headers": []})
            await send({"type": "http.response.body", "body": b""})

    async def main() -> None:
        assert find_host() is None
        async with asgi_server(name, app, lifespan=False) as url:
            assert (await call(url)) == (200, None)
            (stops,) = asked
            assert stops is not None
            assert not stops()
        assert stops()

    with asyncio.Runner(loop_factory=uvloop.new_event_loop if loop == "uvloop" else None) as runner:
        runner.run(main())
