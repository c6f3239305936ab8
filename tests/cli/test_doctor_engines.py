"""`partyline doctor` on the engines that servers share, and on a server with workers."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from partyline.adapters import examining
from partyline.findings import Verdict
from tests.adapters.postgres.server import PostgresServer, postgres_server
from tests.adapters.servers import RedisServer, redis_server
from tests.cli.test_doctor import findings, free_port
from tests.process import serving

Found = dict[str, dict[str, Any]]


@contextlib.asynccontextmanager
async def postgres(*options: str) -> AsyncIterator[tuple[PostgresServer, Callable[..., Awaitable[Found]]]]:
    async with postgres_server(*options) as server:
        yield server, _examining(server.url())


@contextlib.asynccontextmanager
async def redis(folder: Path, *options: str) -> AsyncIterator[tuple[RedisServer, Callable[..., Awaitable[Found]]]]:
    async with redis_server(folder, *options) as server:
        yield server, _examining(server.url)


def _examining(url: str) -> Callable[..., Awaitable[Found]]:
    async def examined(*arguments: str, code: int = 0, setting: str = "log") -> Found:
        known = ("--db", ":memory:", "--set", f"port={free_port()}", "--set", f"{setting}={url}")
        return await asyncio.to_thread(lambda: findings(*known, *arguments, code=code))

    return examined


@pytest.mark.check
def test_postgresql() -> None:
    """The version, what is kept, how long it takes and how its clock goes are said; a database without the log is left
    without it, and settings that weaken what is promised are warnings."""

    async def main() -> None:
        async with postgres("full_page_writes=off") as (server, examined):
            found = await examined()
            assert found["log"]["text"].startswith("PostgreSQL ")
            assert "the first server makes it" in found["schema"]["text"]
            assert await server.ask("SELECT count(*) FROM pg_namespace WHERE nspname = 'partyline'") == 0
            assert found["latency"]["text"].startswith("PostgreSQL answers in ")
            assert found["clock"]["verdict"] == "ok"
            assert found["settings"] == {
                "subject": "settings",
                "verdict": "warning",
                "text": "PostgreSQL has full_page_writes = off: after a power cut the last seconds may be missing, "
                "or damaged",
                "advice": "set full_page_writes = on",
                "positions": [],
            }
            assert "all but its last seconds" in found["durability"]["text"]
            async with serving("--log", server.url()):
                pass
            assert "last offset 0" in (await examined())["schema"]["text"]
            on_bus = await examined("--set", "ephemeral_topics=>", setting="bus")
            assert on_bus["bus"]["verdict"] == "ok"
            assert "settings" not in on_bus
            await server.ask("DROP SCHEMA partyline CASCADE")
            await server.ask("REVOKE CREATE ON DATABASE app FROM app", user="postgres")
            await server.ask("ALTER DATABASE app OWNER TO postgres", user="postgres")
            refused = (await examined(code=1))["schema"]
            assert 'CREATE SCHEMA "partyline" AUTHORIZATION "app"' in refused["advice"]
            server.kill()
            gone = (await examined(code=1))["log"]
            assert "PostgreSQL at 127.0.0.1" in gone["text"]
            assert "start its engine" in gone["advice"]

    asyncio.run(main())


@pytest.mark.check
def test_redis(tmp_path: Path) -> None:
    """Redis likewise: an engine that forgets is a problem, one that keeps less than it could is a warning, and nothing
    is written to it."""

    async def main() -> None:
        always = ("--appendonly", "yes", "--appendfsync", "always", "--no-appendfsync-on-rewrite", "no")
        async with redis(tmp_path, *always) as (server, examined):
            found = await examined("--set", "require_durability=power-cut")
            assert found["log"]["text"].startswith("Redis ")
            assert found["positions"]["text"].startswith("there is no log yet")
            assert "a power cut" in found["durability"]["text"]
            assert "settings" not in found
            assert await server.ask("DBSIZE") == 0
            await server.ask("CONFIG", "SET", "appendfsync", "everysec")
            assert "appendfsync always" in (await examined())["settings"]["advice"]
            refused = await examined("--set", "require_durability=power-cut", code=1)
            assert "power-cut is required" in refused["settings"]["text"]
            await server.ask("CONFIG", "SET", "appendfsync", "always")
            await server.ask("CONFIG", "SET", "maxmemory-policy", "allkeys-lru")
            forgets = (await examined(code=1))["settings"]
            assert (forgets["verdict"], forgets["advice"]) == ("problem", "set it to noeviction")
            await server.kill()
            assert "start its engine" in (await examined(code=1))["log"]["advice"]

    asyncio.run(main())


def test_a_bus_that_keeps_nothing() -> None:
    """A bus without a shared log is a problem of the settings where topics are kept."""
    found = findings("--db", ":memory:", "--set", "port=0", "--set", "bus=redis://127.0.0.1:1", code=1)
    assert "ephemeral_topics" in found["settings"]["text"]


@pytest.mark.parametrize(
    ("late", "ahead", "verdicts"),
    [(0.0, 0.0, ("ok", "ok")), (0.02, 0.0, ("warning", "ok")), (0.0, 5.0, ("ok", "warning"))],
)
def test_latency_and_clock(
    monkeypatch: pytest.MonkeyPatch, late: float, ahead: float, verdicts: tuple[str, str]
) -> None:
    """An engine that is slow to answer, or whose clock goes wrong, is a warning that says by how much."""
    now = 1000.0

    class Time:
        time = staticmethod(lambda: now)
        monotonic = staticmethod(lambda: now)

    monkeypatch.setattr(examining, "time", Time)

    async def clock() -> float:
        nonlocal now
        now += late
        return now + ahead

    found = asyncio.run(examining.times("PostgreSQL", clock))
    assert [one.verdict for one in found] == [Verdict(one) for one in verdicts]
    assert ("5.0 s ahead" in found[1].text) == bool(ahead)
    assert ("20.0 ms" in found[0].text) == bool(late)


@pytest.mark.check
def test_a_server_with_workers(tmp_path: Path) -> None:
    """A keeper that has the database, and its parent that listens, are one server: its port is no problem."""

    async def main() -> None:
        db = tmp_path / "p.db"
        async with serving("--workers", "2", db=db) as server:
            arguments = ("--db", str(db), "--set", f"port={server.port}")
            found = await asyncio.to_thread(findings, *arguments)
            assert found["port"]["verdict"] == "ok"
            assert f"process {server.pid}, with its workers" in found["port"]["text"]

    asyncio.run(main())
