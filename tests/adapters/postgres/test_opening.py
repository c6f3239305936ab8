"""How a log in PostgreSQL is opened: its schema, what it promises, and what is wrong with an address or a role."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import pytest

from partyline.adapters.postgres.log import PostgresLog
from partyline.errors import ConfigError, StoreUnavailable
from partyline.interfaces import Durability
from partyline.models import Draft
from partyline.stores.shared import SharedStore
from partyline.testing.bench import Bench
from tests.adapters.postgres.server import PostgresServer, pgbouncer, postgres_server

pytestmark = pytest.mark.check

Fresh = Callable[[], str]


def test_nodes_that_start_together_make_one_schema(fresh: Fresh) -> None:
    """Several nodes that find no schema make one, and have the same epoch."""

    async def main() -> None:
        address = fresh()
        logs = [PostgresLog(address) for _ in range(5)]
        standings = await asyncio.gather(*(log.connect(0) for log in logs))
        assert len({standing.epoch for standing in standings}) == 1
        await asyncio.gather(*(log.close() for log in logs))

    asyncio.run(main())


def test_what_is_kept_is_there_after_a_restart_of_the_node(fresh: Fresh) -> None:
    """A node that is opened again goes on after the last message, in the same epoch."""

    async def main() -> None:
        address = fresh()
        epochs = []
        for number in range(3):
            store = await SharedStore.open(PostgresLog(address))
            assert store.head == number
            bench = Bench(f"n{number}.")
            bench.start(store)
            assert await bench.keep(bench.draft()) == [number + 1]
            epochs.append(store.epoch)
            await store.close()
        assert len(set(epochs)) == 1

    asyncio.run(main())


def test_a_role_that_may_not_make_the_schema_is_told_how_to(server: PostgresServer) -> None:
    """Where the schema is missing and the role may not make it, the error has the statement to run; then it works."""

    async def main() -> None:
        await server.ask("CREATE ROLE poor LOGIN", user="postgres")
        log = PostgresLog(server.url("poor", schema="of_poor"))
        with pytest.raises(StoreUnavailable) as caught:
            await log.connect(0)
        what, _, statement = caught.value.message.partition(", run ")
        assert "'poor' may not make the log's schema 'of_poor' in database 'app'" in what
        await server.ask(statement, user="postgres")
        assert (await log.connect(0)).head == 0
        await log.close()

    asyncio.run(main())


def test_a_schema_of_another_version_is_refused(server: PostgresServer, fresh: Fresh) -> None:
    """A schema that a later version has made is left alone."""

    async def main() -> None:
        address = fresh()
        log = PostgresLog(address)
        await log.connect(0)
        await server.ask(f"UPDATE {address.rpartition('=')[2]}.store SET version = 7")
        with pytest.raises(StoreUnavailable, match="has version 7, and this server knows version 1"):
            await log.connect(0)
        await log.close()

    asyncio.run(main())


@pytest.mark.parametrize(
    ("url", "says"),
    [
        ("postgres://app:se/cret@here/db?schema=A-b", "'A-b' is not a name for a schema"),
        ("postgres://app:se/cret@here/db?target_session_attrs=any", "'here/db' is not an address of PostgreSQL"),
        ("postgres://app:secret@here:port/db", "'here:port/db' is not an address of PostgreSQL"),
    ],
)
def test_what_is_no_address_is_refused(url: str, says: str) -> None:
    """An address that cannot be used is an error of the setting, which does not show the password."""
    with pytest.raises(ConfigError) as caught:
        asyncio.run(PostgresLog(url).connect(0))
    assert says in caught.value.message
    assert "cret" not in caught.value.message


@pytest.mark.parametrize(
    ("option", "kept"),
    [
        ("fsync=off", Durability.NOTHING),
        ("full_page_writes=off", Durability.WINDOW),
        ("synchronous_commit=off", Durability.POWER_CUT),
        ("synchronous_standby_names=other", Durability.MACHINE),
    ],
)
def test_what_is_promised_is_read(option: str, kept: Durability) -> None:
    """What an accepted message survives is read from the settings; commits wait, whatever is the default."""

    async def main() -> None:
        async with postgres_server() as server:
            log = PostgresLog(server.url())
            assert (await log.connect(0)).durability is Durability.POWER_CUT
            name, _, value = option.partition("=")
            await server.ask(f"ALTER SYSTEM SET {name} = '{value}'", user="postgres")
            await server.ask("SELECT pg_reload_conf()", user="postgres")
            async with asyncio.timeout(10):
                while (await log.connect(0)).durability is not kept:
                    await asyncio.sleep(0.02)
            await log.close()

    asyncio.run(main())


def test_a_pooler_of_sessions_is_as_good_as_none(server: PostgresServer) -> None:
    """Two nodes behind a PgBouncer that pools sessions hear each other's bell."""

    async def main() -> None:
        async with pgbouncer(server, "session") as address:
            logs = [PostgresLog(address + "?schema=pooled") for _ in range(2)]
            epoch, _ = [(await log.connect(0)).epoch for log in logs]
            await logs[1].tail(epoch, 0, 10, 0.0)
            tail = asyncio.create_task(logs[1].tail(epoch, 0, 10, 20.0))
            await logs[0].append(epoch, [(Draft("cats", b"1", "x"),)])
            assert [one.offset for one in (await tail).messages] == [1]
            assert logs[1]._bell._patience == 1.0
            await asyncio.gather(*(log.close() for log in logs))

    asyncio.run(main())


def test_a_pooler_that_loses_statements_is_refused(server: PostgresServer) -> None:
    """A PgBouncer that pools transactions and knows no prepared statements is refused with what to do."""

    async def main() -> None:
        async with pgbouncer(server, "transaction") as address:
            log = PostgresLog(address + "?schema=mixed")

            async def use() -> None:
                for _ in range(20):
                    epoch = (await log.connect(0)).epoch
                    await asyncio.gather(
                        log.append(epoch, [(Draft("cats", b"1", "x"),)]), log.tail(epoch, 0, 10, 0.1), log.head()
                    )

            with pytest.raises(StoreUnavailable, match="pool_mode = session"):
                await use()
            await log.close()

    asyncio.run(main())


def test_a_bell_that_is_not_heard_is_not_needed(server: PostgresServer, fresh: Fresh) -> None:
    """A node that hears no bell looks by itself: soon, and oftener once that is sure."""

    async def main() -> None:
        address = fresh()
        here, deaf = PostgresLog(address), PostgresLog(address)
        epoch = (await here.connect(0)).epoch
        await deaf.connect(0)
        await deaf.tail(epoch, 0, 10, 0.0)
        async with deaf._following.use() as connection:
            await connection.execute("UNLISTEN *")
        deaf._bell._patience = 1.0
        for number in range(4):
            tail = asyncio.create_task(deaf.tail(epoch, number, 10, 20.0))
            await here.append(epoch, [(Draft("cats", b"1", str(number)),)])
            assert [one.offset for one in (await tail).messages] == [number + 1]
        assert deaf._bell._patience < 0.1
        await asyncio.gather(here.close(), deaf.close())

    asyncio.run(main())
