"""The log that a setting names by a URL."""

from __future__ import annotations

import asyncio
import logging
import sys
from types import ModuleType

import pytest

from partyline import Settings, SocketIO, build, running
from partyline.cli.config import show_settings
from partyline.engines import LOGS, open_store
from partyline.errors import ConfigError
from partyline.interfaces import Durability, Standing
from partyline.testing import MemoryLog
from partyline.testing.memory_log import MemoryHandle
from tests.calls import call, reached
from tests.relay.v1.test_websocket import line
from tests.server.servers import eventually
from tests.socketio.clients import entered


@pytest.fixture
def shared(monkeypatch: pytest.MonkeyPatch) -> MemoryLog:
    """What `memory://` opens."""
    log = MemoryLog()
    module = ModuleType("tests_memory_engine")
    module.open_log = lambda *known: log.handle()  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, module.__name__, module)
    monkeypatch.setitem(LOGS, "memory", (module.__name__, "memory"))
    monkeypatch.setitem(LOGS, "missing", ("tests.no_such_engine", "missing"))
    return log


def test_servers_with_the_same_url_share_a_log(shared: MemoryLog) -> None:
    """What is published on one of two servers is in the history of the other one."""

    async def main() -> None:
        settings = Settings(port=0, db=":memory:", log="memory://here")
        async with running(settings) as (_, first), running(settings) as (_, second):
            status, _ = await call(f"{first}/publish", "POST", {"topic": "cats", "message": "hello"})
            assert status == 200
            _, page = await call(f"{second}/v1/topics/cats/messages")
            assert [message["data"] for message in page["messages"]] == ["hello"]

    asyncio.run(main())


@pytest.fixture
def way(shared: MemoryLog) -> MemoryHandle:
    """The way to the log, which is cut."""
    handle = shared.handle()
    handle.cut = True
    sys.modules["tests_memory_engine"].open_log = lambda *known: handle  # type: ignore[attr-defined]
    return handle


def test_a_log_that_is_down_at_start(way: MemoryHandle, caplog: pytest.LogCaptureFixture) -> None:
    """A server whose log is down listens: it says so once, /health and durable publishes are 503 and name the log, and
    what is not kept is delivered. When the log comes, clients come back with 1012, and everything works."""

    async def main() -> None:
        settings = Settings(port=0, db=":memory:", log="memory://here", ephemeral_topics=("passing.>",))
        async with running(settings) as (_, url), line(url) as client:
            for answer in (
                await call(f"{url}/health"),
                await call(f"{url}/publish", "POST", {"topic": "cats", "message": "lost"}),
                await call(f"{url}/v1/topics/cats/messages"),
            ):
                assert answer[0] == 503
                assert "log" in answer[1]["error"]["message"]
            subscribed = await client.ask("subscribe", topic="passing.cats")
            await client.ask("subscribe", topic="cats")
            await client.ask("publish", topic="passing.cats", data="now")
            assert await client.data(1) == ["now"]
            way.cut = False
            assert (await client.ended())[0] == 1012
            await reached(url)
            async with line(url) as again:
                assert (await again.ask("subscribe", topic="cats", after=subscribed["position"]))["recovered"] is False
                status, _ = await call(f"{url}/publish", "POST", {"topic": "cats", "message": "kept"})
                assert status == 200
                assert await again.data(1) == ["kept"]

    asyncio.run(main())
    lines = [str(vars(record)) for record in caplog.records if record.levelno >= logging.WARNING]
    assert len(lines) == 1
    assert "the log cannot be reached" in lines[0]
    assert "the way to the log is cut" in lines[0]


def test_a_log_that_comes_and_keeps_too_little(
    shared: MemoryLog, way: MemoryHandle, caplog: pytest.LogCaptureFixture
) -> None:
    """`require_durability` holds for a log that comes after the start: until it keeps enough, publishes are refused."""
    shared.durability = Durability.WINDOW

    async def main() -> None:
        settings = Settings(port=0, db=":memory:", log="memory://here", require_durability="power-cut")
        async with running(settings) as (_, url):
            way.cut = False
            await eventually(
                lambda: "survives all but its last seconds" in str(caplog.records[-1].__dict__), "it is told"
            )
            assert (await call(f"{url}/publish", "POST", {"topic": "cats", "message": "x"}))[0] == 503
            shared.durability = Durability.POWER_CUT
            await reached(url)
            assert (await call(f"{url}/publish", "POST", {"topic": "cats", "message": "x"}))[0] == 200

    asyncio.run(main())


def test_events_of_socketio_have_the_epoch_of_a_log_that_came_later(way: MemoryHandle) -> None:
    """What a Socket.IO server with recovery sends after its log has come has a position of that log."""
    io = SocketIO(recovery_window=60.0)

    async def main() -> None:
        async with running(Settings(port=0, db=":memory:", log="memory://here"), extras=[io]) as (_, url):
            async with entered(url):
                pass
            way.cut = False
            await reached(url)
            async with entered(url) as client:
                io.emit("x")
                assert (await client.event())[-1] == f"{way.log.epoch}-1"

    asyncio.run(main())


def test_a_new_epoch_needs_the_log(way: MemoryHandle) -> None:
    """`--new-epoch` while the log is down is refused: what was asked for would not have been done."""
    with pytest.raises(ConfigError, match=r"log: it cannot be reached .*the way to the log is cut.*start its engine"):
        asyncio.run(open_store(Settings(db=":memory:", log="memory://here"), new_epoch=True))


def test_a_log_that_does_not_answer_holds_no_start(way: MemoryHandle, monkeypatch: pytest.MonkeyPatch) -> None:
    """An engine that takes the connection and says nothing is as good as down, after a bounded wait."""
    monkeypatch.setattr("partyline.engines._PATIENCE", 0.01)
    connect = way.connect

    async def hang(offset: int) -> Standing:
        await asyncio.Event().wait()
        return await connect(offset)

    way.connect = hang  # type: ignore[method-assign]
    store = asyncio.run(open_store(Settings(db=":memory:", log="memory://here")))
    assert store is not None
    assert store.refusal is not None


def test_a_log_that_was_rolled_back_gets_a_new_epoch(shared: MemoryLog) -> None:
    """`--new-epoch` makes the positions of a shared log unknown, as it does those of a file."""

    async def main() -> None:
        before = shared.epoch
        store = await open_store(Settings(db=":memory:", log="memory://here"), new_epoch=True)
        assert store is not None
        assert store.epoch == shared.epoch != before
        await store.close()

    asyncio.run(main())


@pytest.mark.parametrize(
    ("url", "says"),
    [
        ("mysql://user:secret@here/db", "log: mysql:// is no log that several servers can share"),
        ("partyline.db", "choose a file with --db"),
        ("missing://here", "pip install 'partyline-server[missing]'"),
    ],
)
def test_what_is_no_log_is_refused(shared: MemoryLog, url: str, says: str) -> None:
    """A URL that no engine has is refused with the way out, and without its password."""
    with pytest.raises(ConfigError) as caught:
        asyncio.run(open_store(Settings(db=":memory:", log=url)))
    assert says in caught.value.message
    assert "secret" not in caught.value.message


def test_its_password_is_not_shown(shared: MemoryLog, capsys: pytest.CaptureFixture[str]) -> None:
    """`partyline config --show` shows where the log is, and not the password for it."""
    show_settings({"log": "memory://user:se/c:r@et@host/1"}, None, as_json=True)
    assert '"memory://[not shown]@host/1"' in capsys.readouterr().out


def test_build_wants_it_connected(shared: MemoryLog) -> None:
    """`build`, which cannot wait, refuses to take another log than the one that is named."""

    async def main() -> None:
        with pytest.raises(ConfigError, match="open_store"):
            build(Settings(port=0, db=":memory:", log="memory://here"))

    asyncio.run(main())
