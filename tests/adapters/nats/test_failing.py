"""A log in JetStream when NATS goes, hangs, comes back, is full, refuses, or has lost its end."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import shutil
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from partyline.adapters.nats.log import NatsLog
from partyline.errors import ConfigError, InvalidValue, StoreUnavailable, TooManyTopics
from partyline.interfaces import Durability, Fenced, Found, Overrun, Refused, Renewed, Stored, View
from partyline.models import Draft, Message
from partyline.stores.retention import Bounds, Retention
from partyline.stores.shared import SharedStore
from partyline.testing.bench import Bench
from tests.adapters.nats.server import ALWAYS, NatsServer, nats_server
from tests.adapters.servers import Forwarder
from tests.server.servers import eventually
from tests.socketio.clients import looped

pytestmark = pytest.mark.check


@contextlib.asynccontextmanager
async def node(url: str, name: str = "", *, patience: float = 0.5) -> AsyncIterator[Bench]:
    """A started node on the log."""
    bench = Bench(name)
    bench.start(await SharedStore.open(NatsLog(url), patience=patience))
    try:
        yield bench
    finally:
        await bench.store.close()


def sure(server: NatsServer) -> str:
    """The address of a log that sees that its server writes everything to its disk."""
    return f"{server.url}?monitor={server.monitor}"


def through(way: Forwarder) -> str:
    return way.url.replace("redis", "nats")


def told(caplog: pytest.LogCaptureFixture) -> list[str]:
    """What the operator was told of the log, from warnings on."""
    return [str(record.__dict__) for record in caplog.records if record.levelno >= logging.WARNING]


async def whole(bench: Bench) -> list[Message]:
    return await bench.walk(View(patterns=(">",)), 1_000)


# What an accepted message survives


@pytest.mark.parametrize(
    ("jetstream", "options", "expected"),
    [
        (ALWAYS, "?monitor={}", Durability.POWER_CUT),
        ({}, "?monitor={}", Durability.WINDOW),
        (ALWAYS, "", Durability.WINDOW),
    ],
)
def test_durability(tmp_path: Path, jetstream: dict[str, Any], options: str, expected: Durability) -> None:
    """What a message survives is read from NATS' monitoring port; less is believed where that is not named."""

    @looped
    async def test() -> None:
        async with (
            nats_server(tmp_path, jetstream) as server,
            node(server.url + options.format(server.monitor)) as bench,
        ):
            assert bench.store.durability is expected

    test()


@looped
async def test_what_cannot_be_a_log_is_refused(tmp_path: Path) -> None:
    """A NATS without JetStream, one whose monitoring port is silent, and a stream that forgets are refused, with what
    to change; a message that is larger than NATS takes is refused alone."""
    async with nats_server(tmp_path / "a") as server:
        with pytest.raises(StoreUnavailable, match="monitoring port 1 of NATS does not answer"):
            await SharedStore.open(NatsLog(f"{server.url}?monitor=1"))
        await server.ask("STREAM.CREATE.chat_log", name="chat_log", subjects=["chat.log.>"], max_age=10**11)
        with pytest.raises(StoreUnavailable, match=r"the stream chat_log has .* `nats stream edit`"):
            await SharedStore.open(NatsLog(f"{server.url}?prefix=chat"))
        async with node(server.url) as bench:
            large, small = bench.draft(data=b"x" * 1_100_000), bench.draft()
            bench.store.append(large)
            bench.store.append(small)
            refused, stored = await bench.answered(2)
            assert isinstance(refused, Refused)
            assert refused.error.code == "payload_too_large"
            assert isinstance(stored, Stored)
            many = await bench.append(*(bench.draft() for _ in range(501)))
            assert all(isinstance(one, Refused) and isinstance(one.error, InvalidValue) for one in many)
    plain = NatsServer(tmp_path / "b")
    del plain.options["jetstream"]
    await plain.start()
    with pytest.raises(StoreUnavailable, match="JetStream does not answer: it is not enabled"):
        await SharedStore.open(NatsLog(plain.url))
    await plain.stop()


@pytest.mark.parametrize("url", ["nats://:secret@h:x", "nats://h?replicas=many", "nats://h?prefix=", "nats://h?x=1"])
def test_what_is_no_address_is_refused(url: str) -> None:
    """A wrong address is an error of the setting, which does not show the password."""
    with pytest.raises(ConfigError) as caught:
        NatsLog(url)
    assert caught.value.field == "log"
    assert "secret" not in caught.value.message


# Going and coming back


@looped
async def test_a_nats_that_goes_and_comes_back(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """While NATS is away publishes are refused after the patience, then at once; when it is back it goes on, in the
    same epoch, and the log has one line for each."""
    async with nats_server(tmp_path, ALWAYS) as server, node(sure(server)) as bench:
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
    assert 1 <= len(lines) <= 3, lines  # lost, and what connecting says
    assert all("the log cannot be reached" in line for line in lines)


@looped
async def test_a_nats_that_hangs(tmp_path: Path) -> None:
    """What a NATS that hangs has been asked is refused, is done when it goes on, and is then found, once."""
    async with nats_server(tmp_path, ALWAYS) as server, node(sure(server)) as bench:
        await bench.keep(bench.draft())
        server.hang()
        draft = bench.draft()
        (refused,) = await bench.append(draft)
        assert isinstance(refused, Refused)
        server.go_on()
        await eventually(lambda: bench.store.refusal is None, "it heals")
        (again,) = await bench.append(draft)
        assert isinstance(again, Stored)
        assert sum(message.draft.id == draft.id for message in await whole(bench)) == 1
        found = [one for one in bench.outcomes if isinstance(one, Found)]
        assert again.duplicate is bool(found)


@looped
async def test_a_line_that_is_half_open(tmp_path: Path) -> None:
    """Where nothing comes through any more, and nothing breaks, the line is given up and made anew."""
    async with (
        nats_server(tmp_path, ALWAYS) as server,
        Forwarder().open(server.port) as way,
        node(through(way)) as bench,
        node(server.url, "other.") as other,
    ):
        await bench.keep(bench.draft())
        way.stalled = True
        (refused,) = await bench.append(bench.draft())
        assert isinstance(refused, Refused)
        missed = await other.keep(other.draft(), other.draft())
        way.stalled = False
        await eventually(lambda: bench.reached >= missed[-1], "it catches up")
        await bench.keep(bench.draft())
        await eventually(lambda: bench.fanned_out == other.fanned_out, "both have the same")


@looped
async def test_lines_that_break(tmp_path: Path) -> None:
    """A connection that breaks costs nothing: each message is stored once and answered as stored, whether its id was
    chosen or drawn."""
    async with (
        nats_server(tmp_path, ALWAYS) as server,
        Forwarder().open(server.port) as way,
        node(through(way), patience=5.0) as bench,
    ):
        for turn in range(6):
            for number in range(20):
                draft = bench.draft()
                chosen = turn < 2 or (turn < 4 and number % 2 == 0)
                bench.store.append(Draft(draft.room, draft.data, draft.id, chosen_id=chosen))
            await asyncio.sleep(0.002 * turn)
            way.cut()
        answers = await bench.answered(120)
        assert all(isinstance(one, Stored) and not one.duplicate for one in answers)
        assert [one.message.draft.id for one in answers if isinstance(one, Stored)] == [
            message.draft.id for message in await whole(bench)
        ]


@looped
async def test_a_deaf_consumer(tmp_path: Path) -> None:
    """A consumer that JetStream has dropped is noticed, and nothing is missed."""
    async with nats_server(tmp_path, ALWAYS) as server, node(server.url) as bench:
        await bench.keep(bench.draft())
        for name in (await server.ask("CONSUMER.NAMES.partyline_log"))["consumers"]:
            await server.ask(f"CONSUMER.DELETE.partyline_log.{name}")
        await bench.keep(bench.draft())
        await eventually(lambda: len(bench.fanned_out) == 2, "it is handed out")


@looped
async def test_a_password_that_changes(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """A NATS that refuses the password is one line with its reason, and is there again when it takes it."""

    def login(password: str) -> dict[str, str]:
        return {"user": "app", "password": password}

    async with nats_server(tmp_path, ALWAYS, authorization=login("one")) as server:
        with pytest.raises(StoreUnavailable, match="Authorization Violation"):
            await SharedStore.open(NatsLog(server.url.replace("//", "//app:two@")))
        async with node(server.url.replace("//", "//app:one@")) as bench:
            await bench.keep(bench.draft())
            server.configure(authorization=login("two"))
            await eventually(lambda: any("Authorization Violation" in line for line in told(caplog)), "it is told")
            (refused,) = await bench.append(bench.draft())
            assert isinstance(refused, Refused)
            server.configure(authorization=login("one"))
            await eventually(lambda: bench.store.refusal is None, "it heals")
            await bench.keep(bench.draft())
    assert not any("two" in line for line in told(caplog))


@pytest.mark.parametrize("how", ["stream", "server"])
def test_a_nats_that_is_full(tmp_path: Path, how: str) -> None:
    """A stream or a server without space refuses what is published, at once, and what is there can be read; it heals
    by itself."""

    @looped
    async def test() -> None:
        limit = {} if how == "stream" else {"max_file_store": 500_000}
        async with nats_server(tmp_path, {**ALWAYS, **limit}) as server, node(server.url) as bench:
            if how == "stream":
                config = (await server.ask("STREAM.INFO.partyline_log"))["config"]
                await server.ask("STREAM.UPDATE.partyline_log", **{**config, "max_bytes": 500_000})
            kept = 0
            while True:
                draft = bench.draft(data=b"x" * 50_000)
                (outcome,) = await bench.append(draft)
                if isinstance(outcome, Refused):
                    break
                kept += 1
                assert kept < 50
            assert isinstance(outcome.error, StoreUnavailable)
            assert "NATS cannot write now" in outcome.error.message
            assert bench.store.refusal is outcome.error  # which /health tells
            assert len(await whole(bench)) == kept > 3
            await server.ask("STREAM.PURGE.partyline_log", filter="partyline.log.room.>", keep=1)
            await bench.keep(draft)
            assert bench.store.refusal is None

    test()


# Loss


@pytest.mark.parametrize("safe", [True, False])
def test_a_restart_that_may_have_lost_something_is_told(tmp_path: Path, safe: bool) -> None:
    """A restarted NATS goes on in its epoch if it keeps everything, and gets a new one if it may have lost the end."""

    @looped
    async def test() -> None:
        async with (
            nats_server(tmp_path, ALWAYS if safe else {}) as server,
            node(sure(server), patience=2.0) as bench,
        ):
            await bench.keep(bench.draft())
            before = bench.store.epoch
            await server.stop()
            await server.start()
            await bench.keep(bench.draft())
            assert (bench.store.epoch == before) is safe

    test()


@looped
async def test_an_older_copy_is_told(tmp_path: Path) -> None:
    """A NATS whose files are replaced by an older copy gets a new epoch from the nodes, which know what is missing."""
    async with nats_server(tmp_path, ALWAYS) as server, node(sure(server), patience=2.0) as bench:
        await bench.keep(bench.draft())
        before = bench.store.epoch
        await server.stop()
        shutil.copytree(tmp_path / "data", tmp_path / "older")
        await server.start()
        await bench.keep(bench.draft(), bench.draft())
        await server.kill()
        shutil.rmtree(tmp_path / "data")
        (tmp_path / "older").rename(tmp_path / "data")
        await server.start()
        await eventually(lambda: Renewed in map(type, bench.outcomes), "it is told")
        assert bench.store.epoch != before
        await bench.keep(bench.draft())
        assert len(await whole(bench)) == 2


@looped
async def test_a_stream_that_is_deleted_is_a_new_log(tmp_path: Path) -> None:
    """A stream that somebody deletes is made anew, with an epoch of its own."""
    async with nats_server(tmp_path, ALWAYS) as server, node(sure(server), patience=2.0) as bench:
        await bench.keep(bench.draft(), bench.draft())
        before = bench.store.epoch
        await server.ask("STREAM.DELETE.partyline_log")
        await bench.take(bench.draft())
        await eventually(lambda: bench.store.epoch != before, "there is a new one")
        await bench.keep(bench.draft())
        assert len(await whole(bench)) <= 2


@looped
async def test_no_node_appends_to_a_log_that_it_does_not_know(tmp_path: Path) -> None:
    """Whatever names another epoch is fenced off and does nothing; of two that renew one epoch one succeeds."""
    async with nats_server(tmp_path, ALWAYS) as server:
        log, other = NatsLog(sure(server)), NatsLog(sure(server))
        old = (await log.connect(0)).epoch
        await other.connect(0)
        await log.append(old, [[Draft("cats", b"1", "x")]])
        await log.renew(old)
        for drafts in ([Draft("cats", b"2", "y")], [Draft("cats", b"2", "z", chosen_id=False)]):
            with pytest.raises(Fenced):  # it does not know of the new one yet
                await other.append(old, [drafts])
        with pytest.raises(Fenced):
            await other.read(old, View(frozenset(("cats",))), 0, 10)
        with pytest.raises(Fenced):
            await other.tail(old, 0, 10, 5.0)
        new = (await log.connect(0)).epoch
        await log.renew(old)
        assert (await log.connect(0)).epoch == new != old
        for asking in (
            log.append(old, [[Draft("cats", b"2", "y")]]),
            log.tail(old, 0, 10, 0.0),
            log.read(old, View(frozenset(("cats",))), 0, 10),
            log.newest(old, "cats", 10, 10),
        ):
            with pytest.raises(Fenced):
                await asking
        assert [message.draft.id for message in (await log.tail(new, 0, 10, 0.0)).messages] == ["x"]
        await asyncio.gather(log.close(), other.close())


# Retention


@looped
async def test_retention(tmp_path: Path) -> None:
    """What is too old, too many or too large for a room goes, the oldest first, and a page says up to where."""
    rules = (("small.>", Bounds(100.0, 1_000, 10)), ("old.>", Bounds(1_000.0, 5)))
    now = 1_000.0
    async with nats_server(tmp_path, ALWAYS) as server:
        log = NatsLog(server.url, Retention(100.0, 3, 1_000, rules), spared=0.0, clock=lambda: now)
        epoch = (await log.connect(0)).epoch
        offsets: list[int] = [0]

        async def keep(*rooms: str) -> None:
            for room in rooms:
                (outcome,) = await log.append(epoch, [[Draft(room, b"12345", f"id{len(offsets)}", chosen_id=False)]])
                assert isinstance(outcome, Stored)
                offsets.append(outcome.message.offset or 0)

        async def kept(*rooms: str, patterns: tuple[str, ...] = ()) -> tuple[list[int], int]:
            """Which ones there are, by their place in `offsets`, and the place from which on nothing is lost."""
            page = await log.read(epoch, View(frozenset(rooms), patterns), 0, 100)
            there = [offsets.index(message.offset or 0) for message in page.messages]
            return there, next((place for place, offset in enumerate(offsets) if offset >= page.oldest), len(offsets))

        await keep(*["cats"] * 5, *["small.a"] * 3, *["old.b"] * 4, "dogs")
        now += 1.0
        await log.prune(epoch)
        assert await kept("cats") == ([3, 4, 5], 3)
        assert await kept("small.a") == ([7, 8], 7)
        assert await kept("old.b") == ([9, 10, 11, 12], 1)
        assert await kept("dogs", "nothing") == ([13], 1)
        assert await kept(patterns=("small.*", "old.*")) == ([7, 8, 9, 10, 11, 12], 7)
        assert await kept(patterns=(">",)) == ([3, 4, 5, 7, 8, 9, 10, 11, 12, 13], 7)
        assert (await log.tail(epoch, 0, 100, 0.0)).oldest == offsets[6] + 1
        now += 200.0
        await log.prune(epoch)
        assert await kept("cats", "small.a", "dogs") == ([], 14)
        assert await kept("old.b") == ([9, 10, 11, 12], 1)
        await keep("cats")
        assert await kept("cats") == ([14], 6)
        assert (await log.connect(0)).head >= offsets[14]
        now += 8 * 86400.0
        await log.prune(epoch)  # what was lost is recorded for rules now
        await log.prune(epoch)
        assert (await kept("nothing"))[1] == 14
        await log.close()


@looped
async def test_what_was_just_written_stays_for_a_while(tmp_path: Path) -> None:
    """Retention leaves for half a minute what other nodes may not have read yet; one that is slower is told."""
    now = 1_000.0
    async with nats_server(tmp_path, ALWAYS) as server:
        log = NatsLog(server.url, Retention(max_messages=1), clock=lambda: now)
        epoch = (await log.connect(0)).epoch
        await log.append(epoch, [[Draft("cats", b"1", f"id{number}") for number in range(5)]])
        await log.prune(epoch)
        assert len((await log.tail(epoch, 0, 100, 0.0)).messages) == 5
        async with Forwarder().open(server.port) as way, node(through(way)) as bench:
            way.stalled = True
            await log.append(epoch, [[Draft("cats", b"2", f"more{number}") for number in range(3)]])
            now += 31.0
            await log.prune(epoch)
            (last,) = await log.append(epoch, [[Draft("cats", b"2", "later")]])
            assert isinstance(last, Stored)
            way.cut()
            way.stalled = False
            await eventually(lambda: bench.reached == last.message.offset, "it catches up")
            assert Overrun in map(type, bench.outcomes)  # it had not read all that went
        await log.close()


@looped
async def test_rooms_that_are_too_many(tmp_path: Path) -> None:
    """One room too many is refused, and the others are not, whichever node made them; one that has gone makes space."""
    now = 1_000.0
    async with nats_server(tmp_path, ALWAYS) as server:
        logs = [NatsLog(server.url, Retention(100.0, max_rooms=2), spared=0.0, clock=lambda: now) for _ in range(2)]
        epoch, _ = [(await log.connect(0)).epoch for log in logs]
        serial = 0

        async def put(log: NatsLog, room: str) -> type:
            nonlocal serial
            serial += 1
            (outcome,) = await log.append(epoch, [[Draft(room, b"1", f"id{serial}")]])
            return type(outcome.error if isinstance(outcome, Refused) else outcome)

        assert [await put(log, room) for log, room in zip(logs, ("a", "b"), strict=True)] == [Stored, Stored]
        assert [await put(logs[0], room) for room in ("b", "a", "c")] == [Stored, Stored, TooManyTopics]
        now += 101.0
        await put(logs[0], "a")
        await logs[0].prune(epoch)
        logs[0]._counted = 0.0
        assert await put(logs[0], "c") is Stored
        await asyncio.gather(*(log.close() for log in logs))


# Kills


@looped
async def test_kills_under_load(tmp_path: Path) -> None:
    """Whenever NATS is killed, no acknowledged message is missing, none is there twice, and both nodes hand out the
    same, without a hole."""
    async with (
        nats_server(tmp_path, ALWAYS) as server,
        node(sure(server), "a.", patience=5.0) as here,
        node(sure(server), "b.", patience=5.0) as there,
    ):
        epoch = here.store.epoch
        sent = 0
        done = False

        async def publish(bench: Bench) -> None:
            nonlocal sent
            while not done:
                for _ in range(20):
                    draft = bench.draft(f"room{sent % 7}")
                    bench.store.append(Draft(draft.room, draft.data, draft.id, chosen_id=bool(sent % 3)))
                    sent += 1
                await asyncio.sleep(0.01)

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
        assert len({message.draft.identity for message in messages}) == len(messages)
        assert {(one.message.offset, one.message.draft.id) for one in accepted} <= {
            (message.offset, message.draft.id) for message in messages
        }
        last = messages[-1].offset
        await eventually(lambda: here.reached == there.reached == last, "both have all")
        assert here.fanned_out == there.fanned_out == [(one.offset, one.draft.id) for one in messages]
        assert here.store.epoch == epoch
