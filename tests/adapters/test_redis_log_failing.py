"""A log in Redis when Redis goes, hangs, comes back, is full, refuses, or has lost its end."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import shutil
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from partyline.adapters.redis_log import RedisLog
from partyline.errors import ConfigError, StoreUnavailable
from partyline.interfaces import Durability, Fenced, Found, Overrun, Refused, Renewed, Stored, View
from partyline.models import Draft, Message
from partyline.stores.retention import Bounds, Retention
from partyline.stores.shared import SharedStore
from partyline.testing.bench import Bench
from tests.adapters.servers import Forwarder, RedisServer, redis_server
from tests.server.servers import eventually
from tests.socketio.clients import looped

pytestmark = pytest.mark.check

ALWAYS = ("--appendonly", "yes", "--appendfsync", "always")


@contextlib.asynccontextmanager
async def node(url: str, name: str = "", *, patience: float = 0.5) -> AsyncIterator[Bench]:
    """A started node on the log."""
    bench = Bench(name)
    bench.start(await SharedStore.open(RedisLog(url), patience=patience))
    try:
        yield bench
    finally:
        await bench.store.close()


def told(caplog: pytest.LogCaptureFixture) -> list[str]:
    """What the operator was told of the log, from warnings on."""
    return [str(record.__dict__) for record in caplog.records if record.levelno >= logging.WARNING]


async def whole(bench: Bench) -> list[Message]:
    return await bench.walk(View(patterns=(">",)), 1_000)


# What an accepted message survives


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ((), Durability.NOTHING),
        (("--appendonly", "yes"), Durability.WINDOW),
        (("--appendonly", "yes", "--appendfsync", "no"), Durability.NOTHING),
        (ALWAYS, Durability.POWER_CUT),
        ((*ALWAYS, "--no-appendfsync-on-rewrite", "yes"), Durability.WINDOW),
        ((*ALWAYS, "--rename-command", "CONFIG", ""), Durability.WINDOW),
    ],
)
def test_durability(tmp_path: Path, options: tuple[str, ...], expected: Durability) -> None:
    """What a message survives is read from the engine; less is believed where it does not tell."""

    @looped
    async def test() -> None:
        async with redis_server(tmp_path, *options) as server, node(server.url) as bench:
            assert bench.store.durability is expected

    test()


@looped
async def test_a_redis_that_forgets_is_refused(tmp_path: Path) -> None:
    """A Redis that may evict messages, or one that takes no writes, is refused with what to change."""
    async with redis_server(tmp_path, "--maxmemory-policy", "allkeys-lru") as server:
        with pytest.raises(StoreUnavailable, match="maxmemory-policy is allkeys-lru, and the log needs noeviction"):
            await SharedStore.open(RedisLog(server.url))
        await server.ask("CONFIG", "SET", "maxmemory-policy", "noeviction")
        await server.ask("REPLICAOF", "127.0.0.1", "1")
        with pytest.raises(StoreUnavailable, match="this Redis is a replica"):
            await SharedStore.open(RedisLog(server.url))


def test_what_is_no_address_is_refused() -> None:
    """A wrong address is an error of the setting, which does not show the password."""
    with pytest.raises(ConfigError) as caught:
        RedisLog("redis://:secret@127.0.0.1:x")
    assert caught.value.field == "log"
    assert "secret" not in caught.value.message


# Going and coming back


@looped
async def test_a_redis_that_goes_and_comes_back(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """While Redis is away publishes are refused after the patience, then at once; when it is back it goes on, in the
    same epoch, and the log has one line for each."""
    async with redis_server(tmp_path, *ALWAYS) as server, node(server.url) as bench:
        await bench.keep(bench.draft())
        epoch = bench.store.epoch
        await server.kill()
        (refused,) = await bench.append(bench.draft())
        assert isinstance(refused, Refused)
        assert isinstance(refused.error, StoreUnavailable)
        assert bench.store.refusal is not None
        await server.start()
        await eventually(lambda: bench.store.refusal is None, "it heals")
        await bench.keep(bench.draft())
        assert bench.store.epoch == epoch
        assert len(await whole(bench)) == 2
    lines = told(caplog)
    assert 1 <= len(lines) <= 2, lines  # lost, and what connecting says
    assert all("the log cannot be reached" in line for line in lines)


@looped
async def test_a_redis_that_hangs(tmp_path: Path) -> None:
    """What a Redis that hangs has been asked is refused, is done when it goes on, and is then found, once."""
    async with redis_server(tmp_path, *ALWAYS) as server, node(server.url) as bench:
        await bench.keep(bench.draft())
        server.hang()
        draft = bench.draft()
        (refused,) = await bench.append(draft)
        assert isinstance(refused, Refused)
        server.go_on()
        await eventually(lambda: len(bench.fanned_out) == 2, "it is found")
        assert isinstance(bench.outcomes[-1], Found)
        await bench.keep(bench.draft())
        (again,) = await bench.append(draft)
        assert isinstance(again, Stored)
        assert again.duplicate
        assert len(await whole(bench)) == 3


@looped
async def test_a_line_that_is_half_open(tmp_path: Path) -> None:
    """Where nothing comes through any more, and nothing breaks, the line is given up and made anew."""
    async with (
        redis_server(tmp_path, *ALWAYS) as server,
        Forwarder().open(server.port) as way,
        node(way.url) as bench,
        node(server.url, "other.") as other,
    ):
        await bench.keep(bench.draft())
        way.stalled = True
        (refused,) = await bench.append(bench.draft())
        assert isinstance(refused, Refused)
        missed = await other.keep(other.draft(), other.draft())
        way.stalled = False
        await eventually(lambda: bench.reached == missed[-1], "it catches up")
        await bench.keep(bench.draft())
        await eventually(lambda: bench.fanned_out == other.fanned_out, "both have the same")


@looped
async def test_connections_that_redis_ends(tmp_path: Path) -> None:
    """A connection that Redis ends costs nothing: each message is stored once and answered as stored."""
    async with redis_server(tmp_path, *ALWAYS) as server, node(server.url, patience=5.0) as bench:
        for _ in range(5):
            for _ in range(20):
                bench.store.append(bench.draft())
            await server.ask("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes")
        answers = await bench.answered(100)
        assert all(isinstance(one, Stored) and not one.duplicate for one in answers)
        assert [one.message.draft.id for one in answers if isinstance(one, Stored)] == [
            message.draft.id for message in await whole(bench)
        ]


@looped
async def test_a_password_that_changes(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """A Redis that refuses the password is one line with its reason, and is there again when it takes it."""
    async with redis_server(tmp_path, *ALWAYS, "--requirepass", "one") as server:
        with pytest.raises(StoreUnavailable, match="username-password"):
            await SharedStore.open(RedisLog(server.url.replace("//", "//:two@")))
        async with node(server.url.replace("//", "//:one@")) as bench:
            await bench.keep(bench.draft())

            async def change(old: str, new: str) -> None:
                reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
                writer.write(f"AUTH {old}\r\nCONFIG SET requirepass {new}\r\nCLIENT KILL TYPE normal\r\n".encode())
                await reader.readline()
                writer.close()

            await change("one", "two")
            await eventually(lambda: any("username-password" in line for line in told(caplog)), "it is told")
            (refused,) = await bench.append(bench.draft())
            assert isinstance(refused, Refused)
            await change("two", "one")
            await eventually(lambda: bench.store.refusal is None, "it heals")
            await bench.keep(bench.draft())
    assert sum("username-password" in line for line in told(caplog)) == 1


@looped
async def test_a_redis_that_is_full(tmp_path: Path) -> None:
    """A Redis without memory refuses what is published, at once, and what is there can be read; it heals by itself."""
    async with redis_server(tmp_path, *ALWAYS) as server, node(server.url) as bench:
        await bench.keep(bench.draft(), bench.draft())
        await server.ask("CONFIG", "SET", "maxmemory", "1")
        drafts = [bench.draft() for _ in range(3)]
        refused = await bench.append(*drafts)
        assert [one.draft for one in refused] == drafts
        for one in refused:
            assert isinstance(one, Refused)
            assert isinstance(one.error, StoreUnavailable)
            assert "Redis cannot write now: OOM" in one.error.message
        assert "Redis cannot write now: OOM" in str(bench.store.refusal)  # which /health tells
        assert len(await whole(bench)) == 2
        await server.ask("CONFIG", "SET", "maxmemory", "0")
        await bench.keep(*drafts)
        assert bench.store.refusal is None
        assert len(await whole(bench)) == 5


@looped
async def test_scripts_that_redis_forgets(tmp_path: Path) -> None:
    """Scripts that an operator flushes are there again for the next message."""
    async with redis_server(tmp_path, *ALWAYS) as server, node(server.url, patience=5.0) as bench:
        await bench.keep(bench.draft())
        await server.ask("SCRIPT", "FLUSH")
        await bench.keep(bench.draft())


# Loss


async def follows(server: RedisServer, way: Forwarder) -> None:
    """Make a server the replica of the one that is there, and wait until it has everything."""
    await server.ask("REPLICAOF", "127.0.0.1", way.url.rpartition(":")[2])
    until = asyncio.get_running_loop().time() + 15
    while (await server.ask("INFO", "replication"))["master_link_status"] != "up":
        assert asyncio.get_running_loop().time() < until
        await asyncio.sleep(0.02)


@looped
async def test_a_failover_with_loss_is_told(tmp_path: Path) -> None:
    """A promoted replica that lacks the end gives the log a new epoch, told once to each node, also where no node that
    comes back first knew that end."""
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
    async with (
        redis_server(tmp_path / "a", *ALWAYS) as first,
        redis_server(tmp_path / "b", *ALWAYS) as second,
        Forwarder().open(first.port) as copying,
        Forwarder().open(first.port) as way,
        Forwarder().open(first.port) as slow,
        node(way.url, "a.") as here,
        node(slow.url, "b.") as there,
    ):
        await first.ask("CONFIG", "SET", "repl-diskless-sync-delay", "0")
        await follows(second, copying)
        await here.keep(here.draft())
        await eventually(lambda: there.reached == 1, "it is on both")
        before = here.store.epoch
        await eventually_replicated(second)
        slow.stalled = True  # one node does not see the end that will be lost
        copying.stalled = True
        await here.keep(here.draft(), here.draft())
        await first.kill()
        await second.ask("REPLICAOF", "NO", "ONE")
        slow.port, way.port = second.port, 1  # the node that knows the end is the last to come back
        slow.stalled = False
        slow.cut()
        way.cut()
        await eventually(lambda: Renewed in map(type, there.outcomes), "it is told")
        (offset,) = await there.keep(there.draft())
        assert offset == 2
        way.port = second.port
        await eventually(lambda: Renewed in map(type, here.outcomes), "it is told")
        await eventually(lambda: here.reached >= 2 and here.store.head == 2, "both go on")
        assert here.store.epoch == there.store.epoch != before
        for bench in (here, there):
            (renewed,) = [one for one in bench.outcomes if isinstance(one, Renewed)]
            assert renewed.epoch == here.store.epoch


async def eventually_replicated(replica: RedisServer) -> None:
    """Return when a replica has the first message."""
    until = asyncio.get_running_loop().time() + 15
    while await replica.ask("XLEN", "{partyline}:log") < 1:
        assert asyncio.get_running_loop().time() < until
        await asyncio.sleep(0.02)


@pytest.mark.parametrize(("options", "same"), [(ALWAYS, True), (("--appendonly", "yes"), False)])
def test_a_restart_that_may_have_lost_something_is_told(tmp_path: Path, options: tuple[str, ...], same: bool) -> None:
    """A restarted Redis goes on in its epoch if it keeps everything, and gets a new one if it may have lost the end."""

    @looped
    async def test() -> None:
        async with redis_server(tmp_path, *options) as server, node(server.url) as bench:
            await bench.keep(bench.draft())
            before = bench.store.epoch
            await server.stop()
            await server.start()
            await bench.keep(bench.draft())
            assert (bench.store.epoch == before) is same

    test()


@looped
async def test_an_older_copy_is_told(tmp_path: Path) -> None:
    """A Redis whose files are replaced by an older copy gets a new epoch from the nodes, which know what is missing."""
    async with redis_server(tmp_path, *ALWAYS) as server, node(server.url) as bench:
        await bench.keep(bench.draft())
        before = bench.store.epoch
        shutil.copytree(tmp_path / "appendonlydir", tmp_path / "older")
        await bench.keep(bench.draft(), bench.draft())
        await server.kill()
        shutil.rmtree(tmp_path / "appendonlydir")
        (tmp_path / "older").rename(tmp_path / "appendonlydir")
        await server.start()
        await eventually(lambda: Renewed in map(type, bench.outcomes), "it is told")
        assert [one for one in bench.outcomes if isinstance(one, Renewed)] == [Renewed(bench.store.epoch, 1)]
        assert bench.store.epoch != before
        assert await bench.keep(bench.draft()) == [2]


@looped
async def test_no_node_appends_to_a_log_that_it_does_not_know(tmp_path: Path) -> None:
    """Whatever names another epoch is fenced off and does nothing; of two that renew one epoch one succeeds."""
    async with redis_server(tmp_path, *ALWAYS) as server:
        log = RedisLog(server.url)
        old = (await log.connect(0)).epoch
        await log.append(old, [[Draft("cats", b"1", "x")]])
        await log.renew(old)
        new = (await log.connect(0)).epoch
        await log.renew(old)
        assert (await log.connect(0)).epoch == new != old
        for asking in (
            log.append(old, [[Draft("cats", b"2", "y")]]),
            log.tail(old, 0, 10, 0.0),
            log.read(old, View(frozenset(("cats",))), 0, 10),
            log.read(old, View(patterns=(">",)), 0, 10),
            log.newest(old, "cats", 10, 10),
        ):
            with pytest.raises(Fenced):
                await asking
        assert (await log.tail(new, 0, 10, 0.0)).messages[-1].draft.id == "x"
        assert (await log.tail(new, 1, 10, 0.0)).messages == []
        waiting = asyncio.ensure_future(log.tail(new, 1, 10, 10.0))
        other = RedisLog(server.url)
        await other.connect(0)
        await other.renew(new)
        await other.append((await other.connect(0)).epoch, [[Draft("cats", b"2", "z")]])
        with pytest.raises(Fenced):  # it does not give a message of another epoch
            await waiting
        assert await log.head() == 2
        await asyncio.gather(log.close(), other.close())


@looped
async def test_a_log_that_is_wiped_is_a_new_one(tmp_path: Path) -> None:
    """After FLUSHALL no node goes on in the old epoch: there is a new one, from the first offset on."""
    async with redis_server(tmp_path, *ALWAYS) as server, node(server.url) as bench:
        await bench.keep(bench.draft(), bench.draft())
        before = bench.store.epoch
        await server.ask("FLUSHALL")
        await bench.take(bench.draft())
        await eventually(lambda: bench.store.epoch != before, "there is a new one")
        (offset,) = await bench.keep(bench.draft())
        assert offset <= 2


# Retention


@looped
async def test_retention(tmp_path: Path) -> None:
    """What is too old, too many or too large for a room goes, the oldest first, and a page says up to where."""
    rules = (("small.>", Bounds(100.0, 1_000, 10)), ("old.>", Bounds(1_000.0, 5)))
    now = 1_000.0
    async with redis_server(tmp_path, *ALWAYS) as server:
        log = RedisLog(server.url, Retention(100.0, 3, 1_000, rules), spared=0.0, clock=lambda: now)
        epoch = (await log.connect(0)).epoch

        async def keep(*rooms: str, data: bytes = b"12345") -> None:
            nonlocal serial
            for room in rooms:
                serial += 1
                await log.append(epoch, [[Draft(room, data, f"id{serial}")]])

        async def kept(*rooms: str, patterns: tuple[str, ...] = ()) -> tuple[list[int], int]:
            page = await log.read(epoch, View(frozenset(rooms), patterns), 0, 100)
            return [message.offset or 0 for message in page.messages], page.oldest

        serial = 0
        await keep(*["cats"] * 5, *["small.a"] * 3, *["old.b"] * 4, "dogs")
        now += 1.0
        await log.prune(epoch)
        assert await kept("cats") == ([3, 4, 5], 3)
        assert await kept("small.a") == ([7, 8], 7)
        assert await kept("old.b") == ([9, 10, 11, 12], 1)
        assert await kept("dogs", "nothing") == ([13], 1)
        assert await kept(patterns=("small.*", "old.*")) == ([7, 8, 9, 10, 11, 12], 7)
        assert await kept(patterns=(">",)) == ([3, 4, 5, 7, 8, 9, 10, 11, 12, 13], 7)
        assert (await log.tail(epoch, 0, 100, 0.0)).oldest == 7
        now += 200.0
        await log.prune(epoch)
        assert await kept("cats", "small.a", "dogs") == ([], 14)
        assert await kept("old.b") == ([9, 10, 11, 12], 1)
        await keep("cats")
        assert await kept("cats") == ([14], 14)
        assert (await log.connect(0)).head == 14
        await log.close()


@looped
async def test_what_was_just_written_stays_for_a_while(tmp_path: Path) -> None:
    """Retention leaves for half a minute what other nodes may not have read yet; one that is slower is told."""
    now = 1_000.0
    async with redis_server(tmp_path, *ALWAYS) as server:
        log = RedisLog(server.url, Retention(max_messages=1), clock=lambda: now)
        epoch = (await log.connect(0)).epoch
        await log.append(epoch, [[Draft("cats", b"1", f"id{number}") for number in range(5)]])
        await log.prune(epoch)
        assert len((await log.tail(epoch, 0, 100, 0.0)).messages) == 5
        async with Forwarder().open(server.port) as way, node(way.url) as bench:
            way.stalled = True
            await log.append(epoch, [[Draft("cats", b"2", "last")]])
            now += 31.0
            await log.prune(epoch)
            await log.append(epoch, [[Draft("cats", b"2", "later")]])
            way.stalled = False
            await eventually(lambda: bench.store.head == 7, "it catches up")
            assert Overrun not in map(type, bench.outcomes)  # it had read all that went
        await log.close()


# Kills


@looped
async def test_kills_under_load(tmp_path: Path) -> None:
    """Whenever Redis is killed, no acknowledged message is missing, none is there twice, and both nodes hand out the
    same, without a hole."""
    async with (
        redis_server(tmp_path, *ALWAYS) as server,
        node(server.url, "a.", patience=5.0) as here,
        node(server.url, "b.", patience=5.0) as there,
    ):
        epoch = here.store.epoch
        sent = 0
        done = False

        async def publish(bench: Bench) -> None:
            nonlocal sent
            while not done:
                for _ in range(20):
                    bench.store.append(bench.draft(f"room{sent % 7}"))
                    sent += 1
                await asyncio.sleep(0.002)

        async with asyncio.TaskGroup() as group:
            for bench in (here, there):
                group.create_task(publish(bench))
            for _ in range(3):
                await asyncio.sleep(0.15)
                await server.kill()
                await server.start()
                reached = here.reached
                await eventually(lambda reached=reached: here.reached > reached, "it publishes again")  # type: ignore[misc]
            done = True
        await eventually(lambda: len(here.answers) + len(there.answers) == sent, "all is answered")
        accepted = [one for bench in (here, there) for one in bench.answers if isinstance(one, Stored)]
        messages = await whole(here)
        offsets = [message.offset for message in messages]
        assert offsets == list(range(1, len(offsets) + 1))
        assert len({message.draft.identity for message in messages}) == len(messages)
        assert {one.message for one in accepted} <= set(messages)
        await eventually(lambda: here.reached == there.reached == len(offsets), "both have all")
        assert here.fanned_out == there.fanned_out == [(one.offset, one.draft.id) for one in messages]
        assert here.store.epoch == epoch
