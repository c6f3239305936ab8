"""The cases of Partyline's own server also hold under other ASGI servers, and so do the examples."""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import signal
import sys
from collections.abc import AsyncIterator, Callable, Coroutine, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
from websockets.asyncio.client import connect

from partyline import Partyline, Settings
from partyline.server.site import Extra
from tests import tools
from tests.calls import call, register
from tests.client import test_line as client_cases
from tests.engineio import clients as engine
from tests.engineio import test_clients as npm_cases
from tests.engineio import test_engine as engine_cases
from tests.process import environment
from tests.relay.v1 import test_events as event_cases
from tests.relay.v1 import test_websocket as line_cases
from tests.server.asgi_servers import SERVERS, running_under
from tests.server.conftest import Run
from tests.server.peers import WITHIN

EXAMPLES = tools.ROOT / "examples"

# Cases of the whole that go through each door and meet each kind of ending. They bring their own servers.
CASES = [
    line_cases.test_welcome_comes_first,
    line_cases.test_publish_is_answered_with_its_place,
    line_cases.test_a_token_comes_by_header_subprotocol_or_command,
    line_cases.test_a_wrong_token_is_told_and_closed,
    line_cases.test_too_slow_to_identify,
    line_cases.test_a_token_ends_with_4401,
    line_cases.test_hostile_40_direct_messages_reach_their_user_alone,
    line_cases.test_subscribe_after_earliest_latest_and_a_position,
    line_cases.test_hostile_13_resuming_while_publishing_goes_on,
    line_cases.test_presence_is_told,
    line_cases.test_too_many_commands_a_second,
    line_cases.test_long_messages_are_compressed_where_that_is_agreed,
    line_cases.test_one_publish_reaches_every_kind_of_client,
    event_cases.test_a_stream_of_events,
    event_cases.test_resuming_streams,
    event_cases.test_hostile_17_a_reader_that_stands_still_is_cut,
    event_cases.test_hostile_40_streams_keep_users_apart,
    client_cases.test_publish_and_subscribe,
    client_cases.test_tokens,
]
ENGINE_CASES = [
    engine_cases.test_polling_handshake,
    engine_cases.test_websocket_handshake,
    engine_cases.test_messages_by_polling,
    engine_cases.test_ping_and_pong,
    engine_cases.test_ping_timeout,
    engine_cases.test_an_upgrade,
    engine_cases.test_an_upgrade_that_is_never_finished,
    engine_cases.test_protocol_3_on_a_websocket,
]
PLAIN_ENGINE_CASES = [
    engine_cases.test_a_websocket_message_has_a_limit,
    engine_cases.test_close_by_the_server,
    engine_cases.test_payloads_of_the_hub,
    engine_cases.test_a_candidate_that_goes_away,
    engine_cases.test_headers_and_cookie,
    engine_cases.test_allow_request,
]


@pytest.fixture(params=SERVERS)
def elsewhere(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Cases that start Partyline's own server get one of the others."""
    running = running_under(request.param)

    @contextlib.asynccontextmanager
    async def server(*, extras: Sequence[Extra] = (), **settings: Any) -> AsyncIterator[tuple[Partyline, str]]:
        chosen = Settings(**{"db": ":memory:", "drain_time": 1.0, **settings})
        async with running(chosen, extras=extras) as (partyline, url):
            yield partyline, url

    for module in (line_cases, event_cases):
        monkeypatch.setattr(module, "running", running)
    for module in (engine, client_cases):
        monkeypatch.setattr(module, "partyline_server", server)


def _name(case: Callable[..., None]) -> str:
    return f"{case.__module__.rpartition('.')[2]}.{case.__name__}"


@pytest.mark.alone
@pytest.mark.usefixtures("elsewhere")
@pytest.mark.parametrize("case", [*CASES, *PLAIN_ENGINE_CASES], ids=_name)
def test_the_same_elsewhere(case: Callable[[], None]) -> None:
    """A case of Partyline's own server holds under another one."""
    case()


@pytest.mark.alone
@pytest.mark.usefixtures("elsewhere")
@pytest.mark.parametrize("case", ENGINE_CASES, ids=_name)
def test_engineio_elsewhere(case: Callable[[Run], None]) -> None:
    """The cases of Engine.IO hold there, too: polling, WebSocket, and the upgrade from one to the other."""

    def run(main: Coroutine[Any, Any, None]) -> None:
        asyncio.run(main)

    case(run)


@pytest.mark.alone
@pytest.mark.usefixtures("elsewhere")
@pytest.mark.parametrize("way", ["polling", "websocket", "upgrade"])
def test_npm_clients_elsewhere(way: str) -> None:
    """The npm client talks to Engine.IO there by each transport and across the upgrade."""
    npm_cases.test_an_echo("engine.io-client", way)


# The examples, as processes

COMMANDS = {
    "uvicorn": ["-m", "uvicorn", "--port", "0", "--ws", "websockets-sansio", "--timeout-graceful-shutdown", "3"],
    "uvicorn-wsproto": ["-m", "uvicorn", "--port", "0", "--ws", "wsproto", "--timeout-graceful-shutdown", "3"],
    "hypercorn": ["-m", "hypercorn", "--bind", "127.0.0.1:0", "--graceful-timeout", "1"],
    "partyline": ["-m", "partyline", "serve", "--port", "0"],
}
# The folder and what is served from there, where the relay is, and the endpoints that publish, each with its topic.
APPS = {
    "fastapi": (".", "fastapi_app:app", "", {"cats": "/cats"}),
    "starlette": (".", "starlette_app:app", "/live", {"cats": "/cats"}),
    "django": ("django", "asgi:application", "/live", {"cats": "/cats", "dogs": "/dogs"}),
}


@contextlib.asynccontextmanager
async def process(
    *command: str, folder: Path, **variables: str
) -> AsyncIterator[tuple[asyncio.subprocess.Process, str]]:
    """A server as its users start it, and the URL that it says it listens on. It may print no stack trace of ours."""
    running = await asyncio.create_subprocess_exec(
        sys.executable,
        *command,
        cwd=folder,
        env=environment() | {"PARTYLINE_DB": ":memory:"} | variables,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
        start_new_session=True,  # hypercorn's worker is a child of its own
    )
    assert running.stdout is not None
    printed = b""
    try:
        async with asyncio.timeout(30):
            while (found := re.search(rb"http://127\.0\.0\.1:[1-9][0-9]*", printed)) is None:
                line = await running.stdout.readline()
                assert line, printed.decode()
                printed += line
        yield running, found[0].decode()
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(running.pid, signal.SIGKILL)
        printed += (await running.communicate())[0]
    assert b"/partyline/" not in printed, printed.decode()


@contextlib.asynccontextmanager
async def events(url: str) -> AsyncIterator[asyncio.StreamReader]:
    """The lines of a stream of server-sent events, after the head of the answer."""
    address = urlsplit(url)
    reader, writer = await asyncio.open_connection(address.hostname, address.port)
    writer.write(f"GET {address.path}?{address.query} HTTP/1.1\r\nHost: {address.netloc}\r\n\r\n".encode())
    try:
        async with asyncio.timeout(WITHIN):
            assert b" 200 " in (await reader.readuntil(b"\r\n\r\n")).partition(b"\r\n")[0]
        yield reader
    finally:
        writer.transport.abort()


@pytest.mark.parametrize("server", COMMANDS)
@pytest.mark.parametrize("app", APPS)
def test_examples(app: str, server: str) -> None:
    """Each example under each server: register, connect, publish by its own endpoint, receive by WebSocket and SSE."""
    folder, target, prefix, endpoints = APPS[app]

    async def main() -> None:
        async with process(*COMMANDS[server], target, folder=EXAMPLES / folder) as (running, url):
            address = await register(url + prefix, 1, topics=list(endpoints))
            assert address.startswith(f"{url.replace('http', 'ws', 1)}{prefix}/ws/")
            async with connect(address) as line:
                await line.send("ping")
                assert await line.recv() == "pong"
                for topic, endpoint in endpoints.items():
                    status, answer = await call(url + endpoint, "POST", {"name": topic.title()})
                    assert status == 200
                    assert await line.recv() == f'{{"name":"{topic.title()}"}}'
                    async with events(f"{url}{prefix}/v1/topics/{topic}/events?after=earliest") as stream:
                        async with asyncio.timeout(WITHIN):
                            await stream.readuntil(f"id: {answer['position']}\n".encode())
                running.send_signal(signal.SIGTERM)
                await line.wait_closed()
                assert line.close_code == 1012
            async with asyncio.timeout(WITHIN):
                assert await running.wait() in (0, -signal.SIGTERM)  # uvicorn sends itself the signal again

    asyncio.run(main())


@pytest.mark.parametrize(
    "command",
    [
        ["uvicorn", "--port", "0"],
        ["uvicorn", "--port", "0", "--ws", "websockets", "--loop", "asyncio"],
        ["hypercorn", "--bind", "127.0.0.1:0"],
    ],
    ids=" ".join,
)
def test_on_its_own(command: list[str], tmp_path: Path) -> None:
    """`partyline.asgi:app` is the whole server, with settings from the environment; what it accepted is kept."""

    async def main() -> None:
        database, position = tmp_path / "kept.db", ""
        for start in ("first", "second"):
            async with process("-m", *command, "partyline.asgi:app", folder=tmp_path, PARTYLINE_DB=str(database)) as (
                running,
                url,
            ):
                page = f"{url}/v1/topics/cats/messages?after="
                if start == "second":
                    assert [one["data"] for one in (await call(f"{page}earliest"))[1]["messages"]] == ["hello"]
                    assert (await call(f"{page}{position}"))[1]["recovered"] is True
                else:
                    async with connect(await register(url)) as line:
                        _, answer = await call(f"{url}/publish", "POST", {"topic": "cats", "message": "hello"})
                        position = answer["position"]
                        assert await line.recv() == "hello"
                os.killpg(running.pid, signal.SIGKILL if start == "first" else signal.SIGTERM)
                async with asyncio.timeout(WITHIN):
                    await running.wait()

    asyncio.run(main())
