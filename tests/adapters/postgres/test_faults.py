"""A PostgreSQL that is killed, hangs, is not there, or is another one than before: nothing is lost in silence."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import logging
import os
import signal
import tempfile
import time
from collections.abc import Callable

import pytest
from websockets.exceptions import ConnectionClosed

from partyline import running
from partyline.adapters.postgres.log import PostgresLog
from partyline.config import Settings
from partyline.errors import StoreUnavailable
from partyline.interfaces import Fenced, Found, Refused, Renewed, Stored, View
from partyline.models import Draft
from partyline.stores.shared import SharedStore
from partyline.testing.bench import Bench
from tests.adapters.postgres.server import PostgresServer, postgres_server
from tests.adapters.servers import Forwarder
from tests.calls import call, reached
from tests.process import serving
from tests.relay.v1.test_websocket import line
from tests.server.servers import eventually

pytestmark = pytest.mark.check


async def node(address: str, name: str = "", *, patience: float = 2.0) -> Bench:
    """One node on the log."""
    bench = Bench(name)
    bench.start(await SharedStore.open(PostgresLog(address), patience=patience))
    return bench


async def keep(bench: Bench) -> int:
    """Publish, as a client that tries again as long as it takes; the offset."""
    draft = bench.draft()
    tries = 0
    async with asyncio.timeout(30):
        while True:
            bench.store.append(draft)
            tries += 1
            while len(mine := [one for one in bench.answers if one.draft is draft]) < tries:
                await bench.news()  # others may be answered first
            if isinstance(mine[-1], Stored):
                return mine[-1].message.offset or 0
            await asyncio.sleep(0.02)


async def accepted(server: PostgresServer) -> set[str]:
    """The ids that the log has."""
    found = await server.ask("SELECT coalesce(array_agg(head), '{}') FROM partyline.log")
    return {head.split('"')[1] for head in found}


def test_an_engine_that_is_killed_under_load_loses_nothing() -> None:
    """Two nodes publish while PostgreSQL is killed again and again: what was acknowledged is in the log, each message
    once, and both nodes have handed out the same."""

    async def main() -> None:
        async with postgres_server() as server:
            nodes = [await node(server.url(), name) for name in "ab"]
            going = True

            async def load(bench: Bench) -> None:
                while going:
                    bench.store.append(*(bench.draft() for _ in range(5)))
                    await asyncio.sleep(0.002)

            loads = [asyncio.create_task(load(bench)) for bench in nodes]
            for _ in range(5):
                before = min(bench.reached for bench in nodes)
                async with asyncio.timeout(60):
                    while min(bench.reached for bench in nodes) <= before:
                        await nodes[0].news()
                await asyncio.sleep(0.1)
                server.kill()
                await server.start()
            going = False
            await asyncio.gather(*loads)
            last = [await keep(bench) for bench in nodes]
            async with asyncio.timeout(20):
                for bench in nodes:
                    while bench.reached < max(last):
                        await bench.news()
            there = await accepted(server)
            for bench in nodes:
                acknowledged = [one for one in bench.answers if isinstance(one, Stored)]
                assert len(acknowledged) > 50
                assert {one.draft.id for one in acknowledged} <= there
                offsets = [offset for offset, _ in bench.fanned_out]
                assert offsets == sorted(set(offsets))
                assert not any(isinstance(one, Renewed) for one in bench.outcomes)
            assert nodes[0].fanned_out == nodes[1].fanned_out
            assert {name for _, name in nodes[0].fanned_out} == there
            for bench in nodes:
                await bench.store.close()

    asyncio.run(main())


@pytest.mark.alone
def test_an_engine_that_hangs_refuses_in_time_and_heals() -> None:
    """While PostgreSQL answers nothing, a publish is refused after a bounded wait; when it goes on, so do the nodes."""

    async def main() -> None:
        async with postgres_server() as server:
            here, there = await node(server.url(), "a", patience=1.0), await node(server.url(), "b", patience=1.0)
            await here.keep(here.draft())
            server.hang()
            began = time.monotonic()
            (refused,) = await here.append(here.draft(message_id="x"))
            assert isinstance(refused, Refused)
            assert isinstance(refused.error, StoreUnavailable)
            assert time.monotonic() - began < 3.0
            server.go_on()
            offset = await keep(here)
            async with asyncio.timeout(20):
                while there.reached < offset:
                    await there.news()
            late = [one for one in here.outcomes if isinstance(one, Found)]
            assert {one.draft.id for one in late} <= {"x"}
            for bench in (here, there):
                await bench.store.close()

    asyncio.run(main())


def test_an_engine_that_is_full_refuses_and_heals(caplog: pytest.LogCaptureFixture) -> None:
    """While PostgreSQL has no space a publish is refused, with its reason in the log, and what is there can be read;
    when there is space again everything goes on, and what was acknowledged is there."""

    async def main() -> None:
        async with postgres_server() as server:
            bench = await node(server.url(), patience=0.5)
            await keep(bench)
            server.limit_files(20 * 1024 * 1024)
            for _ in range(40):
                (outcome,) = await bench.append(bench.draft(data=b'"' + os.urandom(400_000).hex().encode() + b'"'))
                if isinstance(outcome, Refused):
                    break
            assert isinstance(outcome, Refused)
            assert isinstance(outcome.error, StoreUnavailable)
            assert any("could not extend file" in str(vars(record)) for record in caplog.records)
            page = await bench.store.read(View(frozenset(("cats",))), 0, 1)
            assert [one.offset for one in page.messages] == [1]
            server.limit_files(None)
            await keep(bench)
            acknowledged = {one.draft.id for one in bench.answers if isinstance(one, Stored)}
            assert len(acknowledged) > 2
            assert acknowledged <= await accepted(server)
            await bench.store.close()

    asyncio.run(main())


def test_an_engine_that_is_down_at_start(caplog: pytest.LogCaptureFixture) -> None:
    """A server that starts while PostgreSQL is down says so once and listens; publishes are 503 until it is there."""

    async def main() -> None:
        async with postgres_server() as server:
            await server.stop()
            async with running(Settings(port=0, db=":memory:", log=server.url())) as (_, url):
                assert (await call(f"{url}/health"))[0] == 503
                assert (await call(f"{url}/v1/topics/cats/messages", "POST", {"data": 1}))[0] == 503
                assert caplog.text.count("the log cannot be reached") == 1
                await server.start()
                await reached(url)
                assert (await call(f"{url}/v1/topics/cats/messages", "POST", {"data": 1}))[0] == 200

    asyncio.run(main())


def test_a_wrong_password_is_told_and_mended(caplog: pytest.LogCaptureFixture) -> None:
    """A server that PostgreSQL does not let in says why, once for each thing it cannot do and without the password, and
    publishes when it is let in."""

    async def main() -> None:
        async with postgres_server() as server:
            await server.ask("CREATE ROLE locked LOGIN PASSWORD 'right'", user="postgres")
            await server.ask("GRANT CREATE ON DATABASE app TO locked", user="postgres")
            settings = Settings(port=0, db=":memory:", log=server.url("locked:secret"))
            async with running(settings) as (_, url):
                told = [record for record in caplog.records if record.levelno >= logging.WARNING]
                assert sorted(record.getMessage() for record in told) == [
                    "revoked tokens cannot be looked up until the engine is there",
                    "the bus cannot be reached",
                    "the log cannot be reached: durable publishes are refused until it can",
                ]
                for record in told:
                    assert 'password authentication failed for user "locked"' in str(vars(record))
                    assert "secret" not in str(vars(record))
                await server.ask("ALTER ROLE locked PASSWORD 'secret'", user="postgres")
                await reached(url)
                assert (await call(f"{url}/v1/topics/cats/messages", "POST", {"data": 1}))[0] == 200

    asyncio.run(main())


@pytest.mark.parametrize("loses", [True, False])
def test_a_promoted_standby_has_a_new_epoch(loses: bool) -> None:
    """After the promotion of a standby the log has a new epoch, whether or not its end is lost; both nodes are told
    once, and go on."""

    async def main() -> None:
        with tempfile.TemporaryDirectory(prefix="postgres-") as folder:
            async with postgres_server() as primary:
                standby = PostgresServer(folder)
                await asyncio.to_thread(standby.make_standby_of, primary)
                await standby.start()
                hosts = f"127.0.0.1:{primary.port},127.0.0.1:{standby.port}"
                address = f"postgres://app@{hosts}/app?target_session_attrs=read-write"
                nodes = [await node(address, name) for name in "ab"]
                before = nodes[0].store.epoch
                await nodes[0].keep(nodes[0].draft())
                kept = await primary.ask("SELECT pg_current_wal_insert_lsn()::text")
                async with asyncio.timeout(20):
                    while not await standby.ask("SELECT pg_last_wal_replay_lsn() >= $1::text::pg_lsn", kept):
                        await asyncio.sleep(0.02)
                if loses:
                    await standby.stop()
                    for bench in nodes:
                        await keep(bench)
                primary.kill()
                if loses:
                    await standby.start()
                await standby.promote()
                for bench in nodes:
                    await keep(bench)
                latest = f"idb{nodes[1]._serial}"
                await eventually(lambda: all(bench.fanned_out[-1][1] == latest for bench in nodes), "both are level")
                for bench in nodes:
                    (renewed,) = [one for one in bench.outcomes if isinstance(one, Renewed)]
                    assert renewed.head >= 1
                    assert bench.store.epoch == renewed.epoch != before
                assert nodes[0].store.epoch == nodes[1].store.epoch
                for bench in nodes:
                    await bench.store.close()
                await standby.stop()

    asyncio.run(main())


def test_no_append_goes_to_a_server_that_was_promoted_meanwhile() -> None:
    """A connection that leads to another timeline than the log was on, as through a pooler, appends and reads
    nothing."""

    async def main() -> None:
        async with postgres_server() as server:
            log = PostgresLog(server.url())
            standing = await log.connect(0)
            await server.ask("UPDATE partyline.store SET origin = left(origin, -1) || 'F'")
            with pytest.raises(Fenced):
                await log.append(standing.epoch, [(Draft("cats", b"1", "x"),)])
            with pytest.raises(Fenced):
                await log.tail(standing.epoch, 0, 10, 0.0)
            assert (await log.connect(0)).epoch != standing.epoch
            await log.close()

    asyncio.run(main())


def test_connections_that_are_ended_cost_nothing(server: PostgresServer, fresh: Callable[[], str]) -> None:
    """Whatever connection PostgreSQL ends, each message is stored once, in order, and answered as stored."""

    async def main() -> None:
        bench = await node(fresh(), patience=10.0)
        for _ in range(5):
            for _ in range(20):
                bench.store.append(bench.draft())
            await asyncio.sleep(0.01)
            await server.ask(
                "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity WHERE application_name = 'partyline'"
            )
        answers = await bench.answered(100)
        assert all(isinstance(one, Stored) and not one.duplicate for one in answers)
        names = [f"id{number}" for number in range(1, 101)]
        assert [one.draft.id for one in answers] == names == [name for _, name in bench.fanned_out]
        await bench.store.close()

    asyncio.run(main())


@pytest.mark.parametrize("cut", [True, False])
def test_a_line_that_breaks_or_is_half_open(server: PostgresServer, fresh: Callable[[], str], cut: bool) -> None:
    """Where the connection breaks, or nothing comes through any more and nothing breaks, the node refuses in time and
    then catches up."""

    async def main() -> None:
        address = fresh()
        other = await node(address, "b")
        async with Forwarder().open(server.port) as way:
            through = address.replace(f":{server.port}/", f":{way.url.rpartition(':')[2]}/")
            bench = await node(through, "a", patience=0.5)
            await keep(bench)
            way.stalled = True
            if cut:
                way.cut()
            (refused,) = await bench.append(bench.draft())
            assert isinstance(refused, Refused)
            missed = [await keep(other) for _ in range(3)]
            way.stalled = False
            await eventually(lambda: bench.reached >= missed[-1], "it catches up")
            last = await keep(bench)
            await eventually(lambda: other.reached == last, "both are level")
            assert bench.fanned_out == other.fanned_out
            await asyncio.gather(bench.store.close(), other.store.close())

    asyncio.run(main())


def test_a_node_that_is_killed_holds_nothing(fresh: Callable[[], str]) -> None:
    """A server that is killed again and again while it publishes leaves the log to the others, and what it had
    acknowledged is there, each message once."""

    async def main() -> None:
        address = fresh()
        other = await node(address, "b")
        acknowledged: set[str] = set()
        for turn in range(3):
            async with serving("--log", address) as process:

                async def publish(name: str, url: str = process.url) -> None:
                    with contextlib.suppress(ConnectionClosed):
                        async with line(url) as client:
                            for number in itertools.count():
                                await client.ask("publish", topic="cats", data=1, message_id=f"{name}.{number}")
                                acknowledged.add(f"{name}.{number}")

                known = len(acknowledged)
                publishing = [asyncio.create_task(publish(f"{turn}.{number}")) for number in range(8)]
                await eventually(lambda known=known: len(acknowledged) > known + 50, "it publishes")  # type: ignore[misc]
                await process.end(signal.SIGKILL)
                await asyncio.gather(*publishing)
            await keep(other)
        names = [name for _, name in other.fanned_out]
        assert len(names) == len(set(names))
        assert acknowledged <= set(names)
        await other.store.close()

    asyncio.run(main())
