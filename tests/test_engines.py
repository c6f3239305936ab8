"""The log that a setting names by a URL."""

from __future__ import annotations

import asyncio
import sys
from types import ModuleType

import pytest

from partyline import Settings, build, running
from partyline.cli.config import show_settings
from partyline.engines import LOGS, open_store
from partyline.errors import ConfigError
from partyline.testing import MemoryLog
from tests.calls import call


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


def test_a_log_that_cannot_be_reached_is_waited_for(shared: MemoryLog, monkeypatch: pytest.MonkeyPatch) -> None:
    """A server whose engine is down starts when it is there."""
    monkeypatch.setattr("partyline.engines._AGAIN", 0.01)
    handle = shared.handle()
    handle.cut = True
    sys.modules["tests_memory_engine"].open_log = lambda *known: handle  # type: ignore[attr-defined]

    async def main() -> None:
        opening = asyncio.create_task(open_store(Settings(db=":memory:", log="memory://here")))
        assert not (await asyncio.wait([opening], timeout=0.05))[0]
        handle.cut = False
        store = await opening
        assert store is not None
        assert store.epoch == shared.epoch
        await store.close()

    asyncio.run(main())


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
        ("missing://here", "pip install 'partyline[missing]'"),
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
