"""The promises of every Store, as checks to run on one."""

from __future__ import annotations

import asyncio
import re
import threading
from collections.abc import Awaitable, Callable, Sequence
from contextlib import AbstractAsyncContextManager
from typing import Final

from partyline.errors import Conflict, StoreUnavailable
from partyline.interfaces import Refused, Store, Stored, View
from partyline.models import Draft, Message, Page
from partyline.testing.bench import LONG, Bench, unavailable
from partyline.testing.promises import promises, run_all

Make = Callable[[Callable[[], float]], AbstractAsyncContextManager[Store]]
"""Opens an empty store for one check, not started, with this clock in place of time.time (and of time.monotonic if it
uses that), and closes it afterwards."""

Check = Callable[[Bench], Awaitable[None]]


def _rooms(*names: str, user: str | None = None) -> View:
    return View(frozenset(names), user=user)


def _offsets(messages: Sequence[Message]) -> list[int]:
    return [message.offset or 0 for message in messages]


async def check_store(make: Make) -> None:
    """Run every check of STORE_CHECKS on a store of its own. Raises AssertionError, naming the check that failed."""
    await run_all(STORE_CHECKS, lambda check: run_check(check, make))


async def run_check(check: Check, make: Make) -> None:
    """Run one check on a fresh store."""
    bench = Bench()
    async with make(lambda: bench.now) as store:
        bench.start(store)
        await check(bench)
        numbers = [offset for offset, _ in bench.fanned_out]
        assert numbers == sorted(set(numbers)), "handed out in increasing offset, each once"
        assert bench.threads <= {threading.get_ident()}, "handed out on the loop's thread"


# The checks


async def _one_order(bench: Bench) -> None:
    """One log numbers all rooms: offsets grow in the order of the appends."""
    assert bench.store.head == 0
    offsets = [(await bench.keep(bench.draft(room)))[0] for room in ("cats", "dogs", "cats", "birds")]
    assert offsets == sorted(set(offsets))
    assert min(offsets) > 0
    assert bench.store.head == offsets[-1]
    assert _offsets(await bench.walk(_rooms("cats"))) == [offsets[0], offsets[2]]


async def _epoch(bench: Bench) -> None:
    """An epoch is 16 hex digits."""
    assert re.fullmatch("[0-9a-f]{16}", bench.store.epoch)


async def _answers_in_order(bench: Bench) -> None:
    """Every draft is answered exactly once, in the order of the appends, whoever appends, however many at a time."""
    wanted: list[Draft] = []

    async def publisher(number: int) -> None:
        for turn in range(20):
            drafts = [bench.draft(f"room{number % 3}") for _ in range(1 + (turn + number) % 4)]
            wanted.extend(drafts)
            bench.store.append(*drafts)
            await asyncio.sleep(0)

    await asyncio.gather(*(publisher(number) for number in range(8)))
    answers = await bench.answered(len(wanted))
    assert [outcome.draft for outcome in answers] == wanted
    for _ in range(5):
        await asyncio.sleep(0)
    assert len(bench.answers) == len(wanted)


async def _handed_out_is_readable(bench: Bench) -> None:
    """What was handed out can be read, and is below the head; what was refused cannot, unless it was found again."""
    wanted = [bench.draft() for _ in range(30)]
    for draft in wanted:
        bench.store.append(draft)
    await bench.answered(30)
    handed = {outcome.message.offset for outcome in bench.outcomes if isinstance(outcome, Stored)}
    there = set(_offsets(await bench.walk(_rooms("cats"))))
    assert handed <= there
    assert max(there, default=0) <= bench.store.head


async def _as_it_came(bench: Bench) -> None:
    """A page holds drafts as they were handed in, every field and any text or bytes, with the time of the clock."""
    drafts = [
        Draft("cats", b'{"a":1}', "x", user="7", key="k", sender="s", ttl=3600.25, durable=True, publisher="p"),
        Draft("cats", b"", "", user="7", key="", sender=""),
        Draft("日本.😀[a]", '"é\u2028"'.encode(), "'; DROP TABLE log; --", user="7", durable=None, ttl=0.1 + 0.2),
        Draft("cats", bytes(range(256)) * 500, "i" * 300, user="7"),
    ]
    await bench.keep(*drafts)
    found = await bench.walk(_rooms("cats", drafts[2].room, user="7"))
    assert [message.draft for message in found] == drafts
    assert all(abs(message.time - bench.now) < 1e-3 for message in found)
    handed = [outcome.message for outcome in bench.outcomes if isinstance(outcome, Stored) and not outcome.duplicate]
    assert handed == found, "what is read is what was handed out"


async def _retries(bench: Bench) -> None:
    """The same id with the same content is stored once, and answered with the first one's message."""
    draft = bench.draft(message_id="x", sender="s")
    (first,) = await bench.keep(draft)
    for _ in range(3):
        (again,) = await bench.take(draft)
        assert isinstance(again, Stored)
        assert again.duplicate
        assert (again.message.offset, again.message.draft) == (first, draft)
    assert _offsets(await bench.walk(_rooms("cats"))) == [first]


async def _racing_retries(bench: Bench) -> None:
    """Of many tries with one id that are under way together one is stored (hostile 11)."""
    draft = bench.draft(message_id="x", sender="s")
    for _ in range(50):
        bench.store.append(draft)
    answers = await bench.answered(50)
    stored = {outcome.message.offset for outcome in answers if isinstance(outcome, Stored)}
    assert len(stored) <= 1
    assert all(isinstance(outcome, Stored) or unavailable(outcome) for outcome in answers)
    assert len(await bench.walk(_rooms("cats"))) <= 1


async def _conflicts(bench: Bench) -> None:
    """The same id with another body, user or key is a conflict, and nothing is stored."""
    await bench.keep(bench.draft(message_id="x"))
    for change in ({"data": b"2"}, {"user": "2"}, {"key": "2"}):
        (outcome,) = await bench.take(bench.draft(message_id="x", **change))
        assert isinstance(outcome, Refused)
        assert isinstance(outcome.error, Conflict)
        assert (outcome.error.code, outcome.error.field) == ("id_conflict", "id")
    assert len(await bench.walk(_rooms("cats"), 1)) == 1


async def _ids_are_of_their_publisher(bench: Bench) -> None:
    """Two publishers, nobody in particular, or one in two rooms may use one id for different messages."""
    drafts = [
        bench.draft("cats", b"1", "x", publisher="a", sender="s"),
        bench.draft("cats", b"2", "x", publisher="b", sender="s"),
        bench.draft("dogs", b"3", "x", publisher="a"),
        bench.draft("cats", b"4", "x"),
        bench.draft("cats", b"5", "y", publisher="a"),
    ]
    assert len({offset for draft in drafts for offset in await bench.keep(draft)}) == 5


async def _ids_are_remembered(bench: Bench) -> None:
    """An id is remembered for a day, whatever comes between."""
    draft = bench.draft(message_id="x")
    (first,) = await bench.keep(draft)
    await bench.keep(*(bench.draft() for _ in range(300)))
    bench.now += 86_000.0
    (again,) = await bench.take(draft)
    assert isinstance(again, Stored)
    assert again.duplicate
    assert again.message.offset == first


async def _together_or_not(bench: Bench) -> None:
    """The drafts of one call are stored together or refused together, with the offsets of their order."""
    await bench.keep(bench.draft(message_id="known"))
    group = [bench.draft("dogs", message_id="a"), bench.draft(message_id="known"), bench.draft("dogs", message_id="b")]
    first, known, last = await bench.keep(*group)
    assert known < first < last
    clash = [bench.draft("dogs", message_id="c"), bench.draft(data=b"2", message_id="known"), bench.draft("dogs")]
    inner = [bench.draft("dogs", b"1", "same"), bench.draft("dogs", b"2", "same")]
    for drafts in (clash, inner):
        outcomes = await bench.take(*drafts)
        assert [outcome.draft for outcome in outcomes] == drafts
        assert all(isinstance(outcome, Refused) and isinstance(outcome.error, Conflict) for outcome in outcomes)
    assert _offsets(await bench.walk(_rooms("dogs"))) == [first, last]


async def _batches_whole(bench: Bench) -> None:
    """Whatever is refused under load, of each call all drafts are stored or none."""
    groups = [[bench.draft(message_id=f"g{number}.{place}") for place in range(5)] for number in range(40)]
    for group in groups:
        bench.store.append(*group)
        if len(bench.batches) % 3:
            await asyncio.sleep(0)
    answers = await bench.answered(200)
    for start in range(0, 200, 5):
        assert len({type(outcome) for outcome in answers[start : start + 5]}) == 1
    ids = {message.draft.id for message in await bench.walk(_rooms("cats"))}
    for group in groups:
        assert len({draft.id in ids for draft in group}) == 1


async def _pages(bench: Bench) -> None:
    """Pages of any size, each read from the last one's `next`, give every message once, and the last one says so."""
    drafts = [bench.draft(("cats", "dogs", "birds")[number % 3], b"%d" % number) for number in range(75)]
    offsets = [offset for draft in drafts for offset in await bench.keep(draft)]
    for limit in (1, 2, 7, 24, 25, 26, 75, 1000):
        assert _offsets(await bench.walk(_rooms("cats"), limit)) == offsets[::3]
        assert _offsets(await bench.walk(_rooms("cats", "dogs", "birds"), limit)) == offsets
    page = await bench.store.read(_rooms("cats"), 0, 25)
    assert _offsets(page.messages) == offsets[::3][: len(page.messages)]
    assert page.more == (page.next < bench.store.head)
    page = await bench.store.read(_rooms("cats"), 0, 24)
    assert page.more
    middle = offsets[40]
    assert _offsets(await bench.walk(_rooms("cats"), 7, middle)) == [
        offset for offset in offsets[::3] if offset > middle
    ]


async def _nothing_there(bench: Bench) -> None:
    """A room nobody published to, and a place at or above the head, give an empty page from which nothing was lost."""
    (offset,) = await bench.keep(bench.draft("dogs"))
    page = await bench.store.read(_rooms("cats"), 0, 10)
    assert (page.messages, page.next, page.more, page.oldest) == ((), bench.store.head, False, 1)
    page = await bench.store.read(_rooms("dogs"), bench.store.head, 10)
    assert (page.messages, page.more, page.oldest) == ((), False, 1)
    page = await bench.store.read(View(), 0, 10)
    assert (page.messages, page.more) == ((), False)
    assert _offsets(await bench.walk(_rooms("dogs"))) == [offset]


async def _views(bench: Bench) -> None:
    """A view is rooms, patterns or both, and what is addressed to its user; nobody else's (hostile 40)."""
    names = ["news", "news.eu", "news.eu.sport", "news.us", "cats", "a[b].c", *(f"many.r{n}.x" for n in range(80))]
    for name in names:
        await bench.keep(bench.draft(name), bench.draft(name, user="1"), bench.draft(name, user="2"))
    log = await bench.walk(View(frozenset(names), user="1"), 1000)
    assert len(log) == 2 * len(names)
    for view in (
        View(patterns=(">",)),
        View(patterns=(">",), user="2"),
        View(patterns=("news.*",), user="1"),
        View(patterns=("news.>",)),
        View(patterns=("*.eu", "*.*.sport"), user="2"),
        View(patterns=("*.*.x",), user="1"),
        View(patterns=("many.>", "news.*")),
        View(patterns=("a[b].*",)),
        View(frozenset(("cats", "nowhere")), ("*.us",)),
        View(frozenset(names[:70]), user="1"),
        View(frozenset(names)),
    ):
        for limit in (3, 500):
            found = await bench.walk(view, limit)
            expected = [(name, user) for name in names if view.covers(name) for user in {None, view.user}]
            seen = [(message.room, message.draft.user) for message in found]
            assert sorted(seen, key=_by_room) == sorted(expected, key=_by_room)
    everything = await bench.walk(View(patterns=(">",), user="1"), 64)
    assert everything == log


def _by_room(item: tuple[str, str | None]) -> tuple[str, str]:
    return item[0], item[1] or ""


async def _lives(bench: Bench) -> None:
    """A message whose life is over is in no page, and its place is not a loss."""
    await bench.keep(
        bench.draft(message_id="short", ttl=10.0), bench.draft(message_id="long", ttl=100.0), bench.draft()
    )
    bench.now += 9.9
    assert len(await bench.walk(_rooms("cats"))) == 3
    bench.now += 0.2
    assert "short" not in [message.draft.id for message in await bench.walk(_rooms("cats"), 1)]
    bench.now += 100.0
    assert len(await bench.walk(_rooms("cats"))) == 1
    assert (await bench.store.read(_rooms("cats"), 0, 10)).oldest == 1


async def _lives_and_pages(bench: Bench) -> None:
    """Pages of any size pass over messages whose life is over: they take no place in one and make no hole."""
    lives = [10.0 if number % 3 else None for number in range(40)]
    drafts = [bench.draft(("cats", "dogs")[number % 2], ttl=life) for number, life in enumerate(lives)]
    offsets = [offset for draft in drafts for offset in await bench.keep(draft)]
    bench.now += 11.0
    living = [offset for offset, life in zip(offsets, lives, strict=True) if life is None]
    for limit in (1, 2, 5, 14, 100):
        assert _offsets(await bench.walk(_rooms("cats", "dogs"), limit)) == living
        assert _offsets(await bench.walk(View(patterns=("*",)), limit)) == living
    behind = await bench.store.read(_rooms("cats", "dogs"), living[-1], 10)
    assert (behind.messages, behind.more, behind.oldest) == ((), False, 1)
    page = await bench.store.read(_rooms("cats", "dogs"), 0, len(living))
    assert _offsets(page.messages) == living[: len(page.messages)]


async def _newest_of_each_key(bench: Bench) -> None:
    """Every message of a key is kept, in order: the last one of a walk is the newest, whatever the page size
    (guarantee 5)."""
    newest: dict[tuple[str, str | None], int] = {}
    for number in range(60):
        room, key = ("cats", "dogs")[number % 2], (None, "a", "b")[number % 3]
        (newest[room, key],) = await bench.keep(bench.draft(room, b"%d" % number, key=key))
    for limit in (1, 7, 100):
        found = await bench.walk(_rooms("cats", "dogs"), limit)
        assert len(found) == 60
        assert {(message.room, message.draft.key): message.offset for message in found} == newest


async def _clock_jumps(bench: Bench) -> None:
    """A wall clock that is set back orders nothing: offsets grow on, pages stay whole (hostile 8)."""
    offsets = []
    for step in (0.0, -5_000.0, 3_600.0, -1.0):
        bench.now += step
        offsets += await bench.keep(bench.draft())
    assert offsets == sorted(offsets)
    assert _offsets(await bench.walk(_rooms("cats"), 2)) == offsets


async def _cancelled_reads(bench: Bench) -> None:
    """A read that is cancelled costs nothing: the next one gives the same."""
    offsets = [offset for _ in range(10) for offset in await bench.keep(bench.draft())]
    reads = [asyncio.ensure_future(bench.store.read(_rooms("cats"), 0, 5)) for _ in range(20)]
    await asyncio.sleep(0)
    for read in reads[::2]:
        read.cancel()
    pages = await asyncio.gather(*reads, return_exceptions=True)
    whole = [page for page in pages if isinstance(page, Page)]
    assert all(_offsets(page.messages) == offsets[: len(page.messages)] for page in whole)
    assert len(whole) >= 10
    assert _offsets(await bench.walk(_rooms("cats"), 3)) == offsets


async def _reads_beside_appends(bench: Bench) -> None:
    """A reader that follows the log while it grows sees everything once, in order (hostile 13)."""
    seen: list[int] = []
    done = False

    async def follow() -> None:
        after = 0
        while not (done and after >= bench.store.head):
            page = await bench.store.read(View(patterns=(">",)), after, 7)
            seen.extend(_offsets(page.messages))
            after = page.next
            await asyncio.sleep(0)

    async with asyncio.timeout(LONG), asyncio.TaskGroup() as group:
        group.create_task(follow())
        for number in range(60):
            await bench.keep(*(bench.draft(f"room{number % 5}") for _ in range(1 + number % 3)))
        done = True
    assert seen == sorted(set(seen))
    assert seen == _offsets(await bench.walk(View(patterns=(">",))))


async def _the_end(bench: Bench) -> None:
    """Closing commits and hands out what is queued; what is appended afterwards is refused as temporary, in order."""
    for _ in range(20):
        bench.store.append(bench.draft())
    closing = asyncio.ensure_future(bench.store.close())
    await asyncio.sleep(0)
    late = [bench.draft(), bench.draft()]
    bench.store.append(*late)
    await asyncio.wait_for(closing, LONG)
    answers = await bench.answered(22)
    assert all(isinstance(outcome, Stored) or unavailable(outcome) for outcome in answers[:20])
    for outcome in answers[20:]:
        assert isinstance(outcome, Refused)
        assert isinstance(outcome.error, StoreUnavailable)
        assert outcome.error.temporary
    bench.store.append(bench.draft())
    assert unavailable((await bench.answered(23))[22])


STORE_CHECKS: Final[dict[str, Check]] = promises(
    _one_order,
    _epoch,
    _answers_in_order,
    _handed_out_is_readable,
    _as_it_came,
    _retries,
    _racing_retries,
    _conflicts,
    _ids_are_of_their_publisher,
    _ids_are_remembered,
    _together_or_not,
    _batches_whole,
    _pages,
    _nothing_there,
    _views,
    _lives,
    _lives_and_pages,
    _newest_of_each_key,
    _clock_jumps,
    _cancelled_reads,
    _reads_beside_appends,
    _the_end,
)
"""Every promise of a Store as a sentence, with its check."""
