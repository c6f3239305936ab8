"""The chat's page in Chromium, with the server that serves it."""

from __future__ import annotations

import asyncio
import functools
import itertools
import json
import re
import subprocess
import time
from pathlib import Path
from typing import Any

import pytest

import partyline
from partyline import chat
from partyline.chat import strangers
from partyline.chat.rooms import Rooms, room_of
from partyline.chat.words import Pace
from tests import tools
from tests.process import serving
from tests.server.servers import eventually, partyline_server

from .browser import Visitor, chromium, visitors
from .node import STATIC

pytestmark = pytest.mark.check

PHONE = {"viewport": {"width": 390, "height": 844}, "has_touch": True, "is_mobile": True}


def test_types(tmp_path: Path) -> None:
    """TypeScript finds nothing wrong with the page's modules under --strict."""
    folder = tools.node_packages("typescript", {"typescript": "typescript@5.9.3"})
    options = ["--noEmit", "--allowJs", "--checkJs", "--strict", "--target", "es2024", "--module", "es2022"]
    compiler = [tools.program("node"), str(folder / "typescript" / "bin" / "tsc"), *options]
    files = [str(file) for file in STATIC.glob("*.js")]
    command = [*compiler, "--lib", "es2024,dom,dom.iterable", *files]
    done = subprocess.run(command, capture_output=True, text=True, timeout=100, cwd=tmp_path)
    assert (done.returncode, done.stdout) == (0, "")
    assert len(files) == 7


def test_a_conversation_in_a_room() -> None:
    """Two people in a room see who is there, who is typing and what is said, each message once, with its time."""

    async def main() -> None:
        async with (
            partyline_server(extras=chat.extras()) as (_, url),
            chromium() as browser,
            visitors(browser, url, 2) as (ada, lin),
        ):
            await ada.enter("Ada", "kitchen table")
            assert ada.page.url == f"{url}/#room/kitchen%20table"
            await ada.page.get_by_text("Nothing has been said here yet.").wait_for()
            await lin.enter("Lin", " kitchen  table ")
            await ada.page.get_by_text("2 people here").wait_for()
            assert sorted(await ada.page.locator("#people bdi").all_text_contents()) == ["Ada", "Lin"]
            await lin.page.type("#text", "hel")
            await ada.page.locator("#typing", has_text="Lin is typing").wait_for()
            await lin.page.keyboard.type("lo")
            await lin.page.keyboard.press("Enter")
            await ada.sees("hello")
            assert await ada.page.text_content("#typing") == ""
            await ada.say("hello back")
            for one in (ada, lin):
                await one.sees("hello back")
                assert await one.texts() == ["hello", "hello back"]
                times = one.page.locator(".message time")
                assert re.fullmatch(r"\d\d:\d\d( [AP]M)?", await times.first.text_content() or "")
            assert await ada.page.locator(".mine .by bdi").all_text_contents() == ["You"]
            assert await lin.page.locator(".message:not(.mine) .by bdi").all_text_contents() == ["Ada"]
            assert await ada.page.locator(".state", has_text=re.compile(".")).count() == 0
            await lin.page.click(".back")
            await ada.page.get_by_text("1 person here").wait_for()
            # After a reload, too, our own messages are marked as ours.
            await ada.page.reload()
            await ada.sees("hello back")
            assert await ada.page.locator(".mine .bubble").all_text_contents() == ["hello back"]

    asyncio.run(main())


def test_a_killed_server(tmp_path: Path) -> None:
    """When the server is killed in the middle of a conversation and started again, both pages say so and recover by
    themselves; what was said before, meanwhile and after is there once and in one order, and so is a half-typed
    text."""

    async def main() -> None:
        database = tmp_path / "partyline.db"
        async with chromium() as browser, serving(db=database) as server:
            port = server.port  # the next server uses it, too
            async with visitors(browser, server.url, 2) as (ada, lin):
                await ada.enter("Ada", "den")
                await lin.enter("Lin", "den")
                said = []
                for number in range(4):
                    one = (ada, lin)[number % 2]
                    await one.say(f"before {number}")
                    said.append(f"before {number}")
                    await (lin, ada)[number % 2].sees(said[-1])
                burst = [f"burst {number}" for number in range(5)]
                for text in burst:
                    await ada.say(text)
                server.process.kill()  # some of the burst are kept, some are not, some are kept and not answered
                await server.process.wait()
                for one in (ada, lin):
                    await one.page.locator("#banner", has_text="Connection lost").wait_for()
                await lin.say("meanwhile from Lin")
                for text in ("meanwhile from Ada", "and more", "and yet more"):
                    await ada.say(text)
                await ada.page.locator(".pending", has_text="and yet more").wait_for()
                await ada.page.fill("#text", "half-typed")
                async with serving(db=database, port=port):
                    healed = [one.page.locator("#banner", has_text="Connected again").wait_for() for one in (ada, lin)]
                    await asyncio.gather(*healed)
                    for one in (ada, lin):
                        for text in (*burst, "and yet more", "meanwhile from Lin"):
                            await one.sees(text)
                    assert await ada.page.input_value("#text") == "half-typed"
                    await ada.page.press("#text", "Enter")
                    await lin.sees("half-typed")
                    await ada.sees("half-typed")
                    seen = await ada.texts()
                    assert seen == await lin.texts()
                    assert seen[:4] == said
                    ours = [text for text in seen[4:] if text != "meanwhile from Lin"]
                    assert ours == [*burst, "meanwhile from Ada", "and more", "and yet more", "half-typed"]
                    assert len(seen) == 14
                    await ada.page.reload()
                    await ada.sees("half-typed")
                    assert await ada.texts() == seen

    asyncio.run(main())


def test_two_windows_of_one_person() -> None:
    """Our own typing in another window is not shown as somebody else's, and a message sent there replaces the empty
    view here."""

    async def main() -> None:
        async with (
            partyline_server(extras=chat.extras()) as (_, url),
            chromium() as browser,
            visitors(browser, url, 2) as (ada, lin),
        ):
            await ada.enter("Ada", "den")
            window = Visitor(await ada.page.context.new_page(), url)
            await window.follow("den")
            await lin.enter("Lin", "den")
            empty = ada.page.get_by_text("Nothing has been said here yet.")
            await empty.wait_for()
            await window.page.type("#text", "hello")
            await lin.page.locator("#typing", has_text="Ada is typing").wait_for()
            await window.page.press("#text", "Enter")
            await ada.sees("hello")  # in order after the typing
            assert await ada.page.text_content("#typing") == ""
            for one in (ada, lin, window):
                assert await one.page.text_content("#top") == "Here it begins."
            assert await empty.count() == 0
            for unseen in ("\u200b", "\u2800 \u2800"):
                await ada.say(unseen)
                assert await ada.texts() == ["hello"]

    asyncio.run(main())


def test_the_people_of_a_room_on_a_phone() -> None:
    """The list of people opens with its button, and closes with Escape, with a tap elsewhere and with its room."""

    async def main() -> None:
        async with (
            partyline_server(extras=chat.extras()) as (_, url),
            chromium() as browser,
            visitors(browser, url, 1, **PHONE) as (ada,),
        ):
            await ada.enter("Ada", "den")
            button, people = ada.page.locator("#show-people"), ada.page.locator("#people")

            async def shows(shown: bool) -> None:
                assert await people.is_visible() is shown
                assert await button.get_attribute("aria-expanded") == str(shown).lower()

            async def escape() -> None:
                await ada.page.keyboard.press("Escape")

            async def elsewhere() -> None:
                await ada.page.tap("#scroller")

            async def another_room() -> None:
                await ada.page.evaluate("location.hash = '#room/attic'")
                await ada.page.locator("#title", has_text="attic").wait_for()

            for closes in (button.tap, escape, elsewhere, another_room):
                await shows(False)
                await button.tap()
                await people.get_by_text("Ada").tap()
                await shows(True)
                await closes()
            await shows(False)

    asyncio.run(main())


def test_the_name_of_a_room_and_the_way_back() -> None:
    """A room's name is used without invisible characters, and Back does not lead into a room that was left."""

    async def main() -> None:
        async with (
            partyline_server(extras=chat.extras()) as (_, url),
            chromium() as browser,
            visitors(browser, url, 1) as (ada,),
        ):
            await ada.enter("Ada", "den")
            await ada.follow("kitchen \u202e\u200b table\U000e0041")
            await ada.until("() => document.title === 'kitchen table'")
            assert await ada.page.text_content("#title") == "kitchen table"
            await ada.page.click(".back")
            await ada.page.wait_for_selector("#home:visible")
            await ada.page.go_back()
            await ada.here()
            assert await ada.page.text_content("#title") == "den"

    asyncio.run(main())


def test_an_outage_is_told_once() -> None:
    """Screen readers announce the loss of the connection once, whatever the banner counts, and its return; a browser
    that goes offline says so at once."""

    async def main() -> None:
        async with chromium() as browser, serving() as server, visitors(browser, server.url, 1) as (ada,):
            await ada.enter("Ada", "den")
            banner = ada.page.locator("#banner")
            await ada.page.evaluate(
                """() => {
                    window.told = [];
                    const tell = records => told.push(records.at(-1).target.textContent);
                    const watch = new MutationObserver(tell);
                    for (const one of document.querySelectorAll("[role=status], [aria-live]"))
                        watch.observe(one, {childList: true, characterData: true, subtree: true});
                }"""
            )
            await ada.page.context.set_offline(True)
            await banner.get_by_text("You are offline").wait_for()
            await ada.page.context.set_offline(False)
            await banner.get_by_text("Connected again").wait_for()
            server.process.kill()
            await server.process.wait()
            for _ in range(3):  # the banner counts
                await ada.until(
                    "text => document.querySelector('#banner').textContent !== text", await banner.text_content()
                )
            async with serving(port=server.port):
                await banner.get_by_text("Connected again").wait_for()
                told = await ada.page.evaluate("told")
            assert told == ["You are offline", "Connected again", "Connection lost", "Connected again"]

    asyncio.run(main())


def test_an_answer_that_is_lost() -> None:
    """A message that was kept, but whose answer and delivery never arrived, is not sent again to a server that has
    forgotten its id, like a restarted one; and it shows as sent."""
    swallowing = True

    def between(socket: Any) -> None:
        server = socket.connect_to_server()
        socket.on_message(lambda packet: server.send(packet))
        server.on_message(
            lambda packet: None if swallowing and ("text" in packet or "[{}]" in packet) else socket.send(packet)
        )

    async def main() -> None:
        nonlocal swallowing
        io = partyline.SocketIO()
        namespace = io.namespace("/chat")
        rooms = Rooms(namespace)
        async with (
            partyline_server(extras=[io, partyline.Pages(STATIC)]) as (server, url),
            chromium() as browser,
            visitors(browser, url, 1) as (ada,),
        ):
            await ada.page.route_web_socket(re.compile("socket.io"), between)
            await ada.enter("Ada", "den")
            await ada.say("hello")
            await ada.say("hello again")
            await eventually(lambda: server.store.head == 1, "the first one is kept")
            assert await ada.page.locator(".pending").count() == 2
            swallowing = False
            rooms.said.clear()
            for connection in tuple(server.site.live):
                connection.abort()
            await ada.sees("hello again")
            assert await ada.texts() == ["hello", "hello again"]
            entries = await namespace.history(room_of("den"))
            assert [entry.arguments[0]["text"] for entry in entries] == ["hello", "hello again"]

    asyncio.run(main())


def test_what_is_not_sent_outlives_the_view() -> None:
    """Unsent messages and a half-typed text are there again after leaving the room and after a reload, and are sent
    once the server is there, each once and in order."""
    cut = False

    def between(socket: Any) -> None:
        if cut:
            return  # nobody answers
        server = socket.connect_to_server()
        socket.on_message(lambda packet: None if cut else server.send(packet))
        server.on_message(lambda packet: None if cut else socket.send(packet))

    async def main() -> None:
        nonlocal cut
        async with (
            partyline_server(extras=chat.extras()) as (_, url),
            chromium() as browser,
            visitors(browser, url, 1) as (ada,),
        ):
            await ada.page.route_web_socket(re.compile("socket.io"), between)
            await ada.enter("Ada", "den")
            said = [f"quick {number}" for number in range(16)]
            for text in said:
                await ada.say(text)
            await ada.page.locator(".pending", has_text="a little slower").wait_for()
            await ada.page.fill("#text", "half-typed")
            await ada.page.click(".back")
            await ada.enter("Ada", "attic")
            assert await ada.texts() == []
            assert await ada.page.input_value("#text") == ""
            await ada.page.go_back()
            await ada.follow("den")
            assert await ada.page.input_value("#text") == "half-typed"
            await ada.sees(said[-1])
            assert await ada.texts() == said
            cut = True
            for text in ("half-typed", "and more"):
                await ada.say(text)
            await ada.page.click(".back")
            await ada.page.goto(f"{url}/#room/%20den")
            await ada.page.locator(".pending", has_text="and more").wait_for()
            await ada.page.fill("#text", "draft")
            cut = False
            await ada.page.reload()
            await ada.sees("and more")
            assert await ada.page.input_value("#text") == "draft"
            assert await ada.texts() == [*said, "half-typed", "and more"]
            await ada.page.reload()
            await ada.sees("and more")
            assert await ada.page.locator(".pending").count() == 0

    asyncio.run(main())


def test_a_reload_before_the_answer() -> None:
    """A message that was kept without the page's knowledge is not sent again after a reload, even if the server has
    forgotten its id and more has been said since than a page of the log holds."""
    swallowing = False

    def between(socket: Any) -> None:
        server = socket.connect_to_server()
        socket.on_message(lambda packet: server.send(packet))
        server.on_message(lambda packet: None if swallowing else socket.send(packet))

    async def main() -> None:
        nonlocal swallowing
        io = partyline.SocketIO()
        namespace = io.namespace("/chat")
        rooms = Rooms(namespace)
        async with (
            partyline_server(extras=[io, partyline.Pages(STATIC)]) as (server, url),
            chromium() as browser,
            visitors(browser, url, 1) as (ada,),
        ):
            await ada.page.route_web_socket(re.compile("socket.io"), between)
            await ada.enter("Ada", "den")
            swallowing = True
            await ada.say("hello")
            await eventually(lambda: server.store.head == 1, "it is kept")
            rooms.said.clear()
            now = int(time.time() * 1000)
            for number in range(60):
                message = {"id": f"id {number}", "by": "x", "name": "Lin", "text": str(number), "time": now}
                await namespace.publish(room_of("den"), "said", message)
            swallowing = False
            await ada.page.reload()
            await ada.sees("59")
            await ada.sees("hello")
            await ada.say("and once more")
            await ada.sees("and once more")
            assert await ada.texts() == ["hello", *map(str, range(60)), "and once more"]

    asyncio.run(main())


def test_a_long_absence() -> None:
    """Somebody who was away while more was said than a page of the log holds gets all of it, in order, including their
    own messages that were kept without their knowledge."""

    async def main() -> None:
        extras = chat.extras()
        namespace = extras[0].namespace("/chat")

        async def publish(numbers: range) -> None:
            for number in numbers:
                await say(str(number), f"id {number}")

        async def say(text: str, name: str) -> None:
            message = {"id": name, "by": "x", "name": "Lin", "text": text, "time": 1000}
            await namespace.publish(room_of("den"), "said", message)

        async with (
            partyline_server(extras=extras) as (server, url),
            chromium() as browser,
            visitors(browser, url, 1) as (ada,),
        ):
            await publish(range(10))
            await ada.enter("Ada", "den")
            await ada.sees("9")
            await ada.page.context.set_offline(True)
            for connection in tuple(server.site.live):
                connection.abort()
            await ada.page.locator("#banner", has_text="You are offline").wait_for()
            await ada.say("own")
            await publish(range(10, 100))
            await say("own", await ada.page.get_attribute(".pending", "data-id"))
            await publish(range(100, 180))
            await ada.page.context.set_offline(False)
            await ada.sees("179")
            assert await ada.texts() == [*map(str, range(100)), "own", *map(str, range(100, 180))]
            assert await ada.page.locator(".pending").count() == 0

    asyncio.run(main())


def test_older_messages() -> None:
    """A room opens at its newest messages; scrolling up loads the older ones in order, and what is read does not
    move."""

    async def main() -> None:
        extras = chat.extras()
        namespace = extras[0].namespace("/chat")
        async with (
            partyline_server(extras=extras) as (_, url),
            chromium() as browser,
            visitors(browser, url, 1) as (ada,),
        ):
            for number in range(180):
                message = {"id": f"id {number}", "by": "x", "name": "Lin", "text": str(number), "time": number * 1000}
                await namespace.publish(room_of("den"), "said", message)
            await ada.enter("Ada", "den")
            await ada.sees("179")
            found = await ada.texts()
            assert found == [str(number) for number in range(130, 180)]
            bottom = "(s => s.scrollHeight - s.scrollTop - s.clientHeight)(document.querySelector('#scroller'))"
            assert await ada.page.evaluate(bottom) < 2
            # What is read stays in place when more is loaded above it.
            place = "document.querySelector('.message:nth-last-child(49)').getBoundingClientRect().top"
            await ada.page.evaluate("document.querySelector('#scroller').scrollTop = 250")
            before = await ada.page.evaluate(place)
            await ada.sees("80")
            assert abs(await ada.page.evaluate(place) - before) < 2
            for oldest in ("30", "0"):
                await ada.page.evaluate("document.querySelector('#scroller').scrollTop = 0")
                await ada.sees(oldest)
            await ada.page.get_by_text("Here it begins.").wait_for()
            assert await ada.texts() == [str(number) for number in range(180)]
            await namespace.publish(
                room_of("den"), "said", {"id": "new", "by": "x", "name": "Lin", "text": "new", "time": 1}
            )
            await ada.sees("new")
            await ada.page.click("#newer")  # while somebody reads above, nothing moves, and a button says so
            assert await ada.page.evaluate(bottom) < 2

    asyncio.run(main())


def test_a_message_that_is_not_sent() -> None:
    """Our message that the server refuses says why, and can be tried again or discarded; a slow answer is shown as
    such."""
    answers: list[dict[str, str]] = [{"error": "store_unavailable", "message": "the disk is full"}] * 2

    def between(socket: Any) -> None:
        server = socket.connect_to_server()

        def sent(packet: str) -> None:
            match = re.match(r'42/chat,(\d+)\["say"', packet)
            if match and answers:
                socket.send(f"43/chat,{match[1]}" + json.dumps([answers.pop()]))
            else:
                server.send(packet)

        socket.on_message(sent)
        server.on_message(lambda packet: socket.send(packet))

    async def main() -> None:
        async with (
            partyline_server(extras=chat.extras()) as (_, url),
            chromium() as browser,
            visitors(browser, url, 1) as (ada,),
        ):
            await ada.page.route_web_socket(re.compile("socket.io"), between)
            await ada.enter("Ada", "den")
            await ada.say("hello")
            state = ada.page.locator(".failed .state")
            await state.wait_for()
            assert await state.text_content() == "Not sent: the disk is full. Try again Discard"
            await ada.page.get_by_role("button", name="Try again").click()
            await ada.page.locator(".failed").wait_for()
            await ada.page.get_by_role("button", name="Try again").click()
            await ada.sees("hello")
            assert await ada.page.locator(".failed").count() == 0
            assert await ada.texts() == ["hello"]
            answers.append({"error": "store_unavailable", "message": "the disk is full"})
            await ada.say("unwanted")
            await ada.page.get_by_role("button", name="Discard").click()
            assert await ada.texts() == ["hello"]

    asyncio.run(main())


HOSTILE = [
    "<script>document.title = 'pwned'</script>",
    "<img src=x onerror=\"alert('pwned')\"><svg onload=alert(1)>",
    "javascript:alert(1) data:text/html,<script>alert(1)</script>",
    "\"'`&lt;b&gt;{{7*7}}${7*7}",
    "مرحبا \u202egnp.exe\u202c שלום",
    "👩‍👩‍👧‍👦🏳️‍🌈👍🏽🇪🇺",
    "half \ud83d of it \udc00",
    "a\x00b\x07c\x1b[31md\x7f\x9b\ufeff",
    "Z͑ͫ̓ͪ̂ͫ̽͏̴̙̤̞͉͚̯̞̠͍A̴̵̜̰͔ͫ͗͢L̠ͨͧͩ͘G̴̻͈͍͔̹̑͗̎̅͛́Ǫ̵̹̻̝̳͂̌̌͘" * 3,
    "W" * 300,
]


def test_hostile_texts_in_every_field() -> None:
    """With scripts, markup, directions, emoji, half characters, controls and very long words in every field nothing
    runs or breaks, the other page shows plain text, and neither page is wider than its window."""

    async def main() -> None:
        async with (
            partyline_server(extras=chat.extras()) as (_, url),
            chromium() as browser,
            visitors(browser, url, 3, viewport={"width": 320, "height": 640}) as (ada, lin, eve),
        ):
            fits = "document.documentElement.scrollWidth <= innerWidth"
            whole = "getComputedStyle(document.body).display === 'block' && document.scripts.length === 1"
            await lin.enter("Lin", "den")
            for number, text in enumerate(HOSTILE):
                await eve.page.goto(f"{url}/#")
                for field in ("#name", "#room"):
                    await eve.page.evaluate(
                        "([field, value]) => document.querySelector(field).value = value",
                        [field, text.encode("utf-8", "surrogatepass").decode("utf-8", "replace")],
                    )
                await eve.page.click("#join .primary")
                await eve.until(
                    "() => !document.querySelector('#talk').hidden || document.querySelector('.error:not([hidden])')"
                )
                assert await eve.page.evaluate(fits), text
                if number % 5 == 0:
                    await ada.enter("Ada", "den")  # a new connection, with a new pace
                # The test's protocol cannot type half a character, so the page creates it.
                await ada.page.evaluate(
                    "codes => document.querySelector('#text').value = String.fromCharCode(...codes)",
                    list(itertools.chain.from_iterable(_units(text))),
                )
                await ada.page.press("#text", "Enter")
                await lin.until("n => document.querySelectorAll('.message').length === n", number + 1)
            for one in (ada, lin, eve):
                assert await one.page.evaluate(f"{fits} && {whole}")
                assert "pwned" not in await one.page.title() or one is eve
            shown = await lin.texts()
            assert shown[:4] == HOSTILE[:4]
            assert shown[5] == HOSTILE[5]
            assert shown[6] == "half \ufffd of it \ufffd"
            assert shown[7] == "abc[31md"
            assert await lin.page.locator(".bubble a").count() == 0
            assert await lin.page.locator(".bubble *").count() == 0

    asyncio.run(main())


def _units(text: str) -> list[list[int]]:
    """UTF-16 code units."""
    data = text.encode("utf-16-le", "surrogatepass")
    return [[int.from_bytes(data[at : at + 2], "little")] for at in range(0, len(data), 2)]


def test_ten_thousand_characters() -> None:
    """A text that is too long is neither sent nor lost, and its length is shown; the longest allowed one is folded."""

    async def main() -> None:
        async with (
            partyline_server(extras=chat.extras()) as (_, url),
            chromium() as browser,
            visitors(browser, url, 1) as (ada,),
        ):
            await ada.page.goto(url)
            await ada.page.fill("#name", "n" * 10_000)
            await ada.page.click("#join .primary")
            error = ada.page.locator("#name-error")
            await error.wait_for()
            assert await error.text_content() == "a name has at most 40 characters, and this one has 10,000"
            assert await ada.page.evaluate("document.activeElement.id") == "name"
            await ada.enter("Ada", "den")
            await ada.say("long " * 2_000)
            counter = ada.page.locator("#counter.over")
            await counter.wait_for()
            assert await counter.text_content() == "9,999 of 4,000 characters"
            assert len(await ada.page.input_value("#text")) == 10_000
            assert await ada.texts() == []
            await ada.say("x" * 4_000)
            await ada.sees("x" * 4_000)
            bubble = ada.page.locator(".bubble")
            folded = (await bubble.bounding_box())["height"]
            # The input box grows, and the end of the messages stays in sight.
            end = "(s => s.scrollHeight - s.scrollTop - s.clientHeight)(document.querySelector('#scroller'))"
            for text in ("line\n" * 30, "", "word " * 500):
                await ada.page.fill("#text", text)
                await ada.until(f"() => {end} < 2")
            await ada.page.get_by_role("button", name="Show all").click()
            assert (await bubble.bounding_box())["height"] > folded

    asyncio.run(main())


def test_links() -> None:
    """http and https addresses are links that open elsewhere without a referrer; the sentence around them is not a
    link."""
    text = "see https://example.org/a_(b)?q=1&r=<2> (or http://example.net/x). ftp://no.example javascript:alert(1)"

    async def main() -> None:
        async with (
            partyline_server(extras=chat.extras()) as (_, url),
            chromium() as browser,
            visitors(browser, url, 1) as (ada,),
        ):
            await ada.enter("Ada", "den")
            await ada.say(text)
            await ada.sees(text)
            links = await ada.page.evaluate(
                "[...document.querySelectorAll('.bubble a')].map(a => [a.textContent, a.href, a.target, a.rel])"
            )
            assert [link[0] for link in links] == ["https://example.org/a_(b)?q=1&r=", "http://example.net/x"]
            for shown, address, target, relation in links:
                assert (address, target) == (shown, "_blank")
                assert {"noopener", "noreferrer"} <= set(relation.split())

    asyncio.run(main())


def test_keys() -> None:
    """Enter sends, Shift and Enter break the line, and the Enter that ends a composition does neither."""

    async def main() -> None:
        async with (
            partyline_server(extras=chat.extras()) as (_, url),
            chromium() as browser,
            visitors(browser, url, 1) as (ada,),
        ):
            await ada.enter("Ada", "den")
            page = ada.page
            assert await page.evaluate("document.activeElement.id") == "text"
            await page.keyboard.type("one")
            await page.keyboard.press("Shift+Enter")
            await page.keyboard.type("two")
            for composing in ("isComposing: true", "keyCode: 229"):
                await page.evaluate(
                    "document.querySelector('#text').dispatchEvent(new KeyboardEvent('keydown', "
                    f"{{key: 'Enter', bubbles: true, cancelable: true, {composing}}}))"
                )
            assert await ada.texts() == []
            assert await page.input_value("#text") == "one\ntwo"
            await page.keyboard.press("Enter")
            await ada.sees("one\ntwo")
            await page.keyboard.press("Enter")
            await page.keyboard.type("   ")
            await page.keyboard.press("Enter")
            assert await ada.texts() == ["one\ntwo"]

    asyncio.run(main())


def test_who_looks_elsewhere() -> None:
    """Messages that arrive while the page is not in focus are counted in the title until it is, and read to people who
    cannot see."""

    async def main() -> None:
        async with (
            partyline_server(extras=chat.extras()) as (_, url),
            chromium() as browser,
            visitors(browser, url, 2) as (ada, lin),
        ):
            await ada.enter("Ada", "den")
            await lin.enter("Lin", "den")
            await ada.page.evaluate("document.hasFocus = () => false")
            for number in (1, 2):
                await lin.say(f"message {number}")
                await ada.sees(f"message {number}")
                assert await ada.page.title() == f"({number}) den"
                assert await ada.page.text_content("#live") == f"Lin: message {number}"
            await ada.page.evaluate("window.dispatchEvent(new Event('focus'))")
            assert await ada.page.title() == "den"
            assert await lin.page.title() == "den"

    asyncio.run(main())


def test_strangers() -> None:
    """Two strangers wait, talk, type, leave, press next, stop and block; both pages always show the current state."""

    async def main() -> None:
        async with (
            partyline_server(extras=chat.extras()) as (_, url),
            chromium() as browser,
            visitors(browser, url, 2, **PHONE) as (one, other),
        ):
            for visitor in (one, other):
                await visitor.stranger()
            await one.page.get_by_text("2 people are here, you among them").wait_for()
            await one.page.click("#start")
            await one.reads("Looking for somebody…")
            await other.page.click("#start")
            hello = "You are connected with a stranger. Say hello."
            for visitor in (one, other):
                await visitor.sees(hello)
            await one.page.type("#text", "hi")
            await other.page.locator("#typing", has_text="The stranger is typing").wait_for()
            await one.page.press("#text", "Enter")
            await other.sees("hi")
            await other.say("hi <b>you</b>")
            await one.sees("hi <b>you</b>")
            assert await one.page.locator(".message .by bdi").all_text_contents() == ["You", "Stranger"]
            await other.page.click("#next")
            await one.sees("The stranger has left.")
            assert not await one.page.locator("#text").is_editable()
            await one.page.click("#next")
            await one.sees(hello)
            await other.sees(hello)
            assert await one.texts() == []  # nothing of the last talk
            await one.page.click("#more > button")
            await one.page.click("#block")
            await one.sees("You will not meet this stranger again.")
            await other.sees("The stranger has left.")
            await one.page.click("#next")
            await other.page.click("#next")
            for visitor in (one, other):
                await visitor.reads("Looking for somebody…")
            await one.page.click("#start")
            await one.reads("Talk to a stranger")
            await other.page.close()
            await one.page.get_by_text("You are the only one here at the moment").wait_for()

    asyncio.run(main())


def test_who_types_when_the_stranger_leaves() -> None:
    """Text typed while the other one leaves does not press anything and stays until Next is pressed; the next stranger
    gets none of it."""

    async def main() -> None:
        async with (
            partyline_server(extras=chat.extras()) as (_, url),
            chromium() as browser,
            visitors(browser, url, 3) as (one, other, third),
        ):
            hello = "You are connected with a stranger. Say hello."
            for visitor in (one, other):
                await visitor.stranger()
                await visitor.page.click("#start")
            await one.sees(hello)
            await third.stranger()
            await third.page.click("#start")
            await one.page.keyboard.type("only for")
            await other.page.click("#stop")
            await one.sees("The stranger has left.")
            for key in ("Space", "y", "o", "u", "Enter"):
                await one.page.keyboard.press(key)
            assert await one.page.input_value("#text") == "only for"
            assert await one.page.text_content("#subtitle") == "The talk is over"
            await one.page.click("#next")
            for visitor in (one, third):
                await visitor.sees(hello)
            assert await one.page.input_value("#text") == ""
            await one.say("hello")
            await third.sees("hello")
            assert await third.texts() == ["hello"]

    asyncio.run(main())


def test_quick_words_to_a_stranger() -> None:
    """If somebody writes faster than the server allows, the page waits by itself; everything is sent in order and once,
    even if an answer is lost."""
    swallowing = False

    def between(socket: Any) -> None:
        server = socket.connect_to_server()
        socket.on_message(lambda packet: server.send(packet))
        server.on_message(lambda packet: None if swallowing and "[{}]" in packet else socket.send(packet))

    async def main() -> None:
        nonlocal swallowing
        said = [f"quick {number}" for number in range(13)]
        async with (
            partyline_server(extras=chat.extras()) as (_, url),
            chromium() as browser,
            visitors(browser, url, 2) as (one, other),
        ):
            await one.page.clock.install()
            await one.page.route_web_socket(re.compile("socket.io"), between)
            for visitor in (one, other):
                await visitor.stranger()
                await visitor.page.click("#start")
            for visitor in (one, other):
                await visitor.sees("You are connected with a stranger. Say hello.")
            swallowing = True
            await one.say(said[0])
            await other.sees(said[0])
            swallowing = False
            for text in said[1:]:
                await one.say(text)
            await one.page.clock.run_for(11_000)  # the call whose answer was lost is given up
            await other.sees(said[-1])
            await one.sees(said[-1])
            assert await one.texts() == await other.texts() == said
            assert await one.page.locator(".failed").count() == 0

    asyncio.run(main())


def test_what_a_leaving_stranger_did_not_get() -> None:
    """A message that crosses with the other one's leaving is not sent, says so and stays readable; nobody else gets
    it."""
    held: list[str] = []

    def between(socket: Any) -> None:
        server = socket.connect_to_server()
        socket.on_message(lambda packet: server.send(packet))
        server.on_message(lambda packet: held.append(packet) if '["left"' in packet else socket.send(packet))

    async def main() -> None:
        async with (
            partyline_server(extras=chat.extras()) as (_, url),
            chromium() as browser,
            visitors(browser, url, 2) as (one, other),
        ):
            await one.page.route_web_socket(re.compile("socket.io"), between)
            for visitor in (one, other):
                await visitor.stranger()
                await visitor.page.click("#start")
            for visitor in (one, other):
                await visitor.sees("You are connected with a stranger. Say hello.")
            await other.page.click("#stop")
            await eventually(lambda: held, "the page does not get it")
            await one.say("too late")
            await one.sees("The stranger has left.")
            assert await one.page.text_content(".state") == "Not sent: the talk is over."
            assert await one.page.text_content("#subtitle") == "The talk is over"

    asyncio.run(main())


def test_a_stop_that_crosses_a_pairing() -> None:
    """Whoever presses Stop before hearing of the pairing is not in that talk, and neither is their next search."""
    held: list[str] | None = []
    sockets: list[Any] = []

    def between(socket: Any) -> None:
        sockets.append(socket)
        server = socket.connect_to_server()
        socket.on_message(lambda packet: server.send(packet))
        server.on_message(lambda packet: socket.send(packet) if held is None else held.append(packet))

    async def main() -> None:
        nonlocal held
        hello = "You are connected with a stranger. Say hello."
        async with (
            partyline_server(extras=chat.extras()) as (_, url),
            chromium() as browser,
            visitors(browser, url, 3) as (one, other, third),
        ):
            await one.page.route_web_socket(re.compile("socket.io"), between)
            await other.stranger()
            waiting, held = held, None
            await one.stranger()
            await one.page.click("#start")
            await one.reads("Looking for somebody…")
            await eventually(lambda: sockets, "the page is connected")
            held = waiting
            await other.page.click("#start")
            await other.sees(hello)
            await one.page.click("#start")  # Stop
            await other.sees("The stranger has left.")
            await one.page.click("#start")  # again, before anything of the last search arrives
            crossed, held = held, None
            for packet in crossed:
                sockets[0].send(packet)
            await third.stranger()
            assert await one.page.text_content("#subtitle") == "Looking for somebody"
            await third.page.click("#start")
            for visitor in (one, third):
                await visitor.sees(hello)
            await one.say("to the third")
            await third.sees("to the third")
            assert await other.texts() == []

    asyncio.run(main())


def test_strangers_with_keyboard_and_ears() -> None:
    """The focus is always somewhere and presses nothing by itself, events are announced, and a double click counts
    once."""

    async def main() -> None:
        async with (
            partyline_server(extras=chat.extras()) as (_, url),
            chromium() as browser,
            visitors(browser, url, 2) as (one, other),
        ):
            focus = "document.activeElement.id"
            for visitor in (one, other):
                await visitor.stranger()
            assert await one.page.evaluate(focus) == "meet-text"
            await one.page.keyboard.press("Tab")
            assert await one.page.evaluate(focus) == "start"
            for _ in range(2):
                await one.page.keyboard.press("Enter")  # the second press does not stop the search
            await one.reads("Looking for somebody…")
            assert await one.page.evaluate(focus) == "meet-text"
            assert await one.page.text_content("#live") == "Looking for somebody…"
            await one.page.click("#start")
            assert await one.page.text_content("#live") == "Stopped"
            assert await one.page.evaluate(focus) == "meet-text"
            await one.page.dblclick("#start")
            assert await one.page.text_content("#subtitle") == "Looking for somebody"
            await other.page.click("#start")
            await one.sees("You are connected with a stranger. Say hello.")
            assert await one.page.evaluate(focus) == "text"
            await other.page.click("#more > button")
            await other.page.click("#block")
            await other.sees("You will not meet this stranger again.")
            assert await other.page.evaluate(focus) == "title"
            await one.page.click("#next")
            assert await one.page.text_content("#live") == "Looking for somebody…"
            assert await one.page.evaluate(focus) == "meet-text"

    asyncio.run(main())


def test_waiting_while_the_server_is_away() -> None:
    """Somebody who waits for a stranger can stop even if the server is away, and is not promised anybody meanwhile."""

    async def main() -> None:
        async with chromium() as browser, serving() as server, visitors(browser, server.url, 1) as (one,):
            await one.stranger()
            await one.page.click("#start")
            await one.reads("Looking for somebody…")
            server.process.kill()
            await server.process.wait()
            await one.reads("The search goes on as soon as the server is there again.")
            async with serving(port=server.port) as again:
                await one.reads("Looking for somebody…")
                again.process.kill()
                await again.process.wait()
            await one.reads("The search goes on as soon as the server is there again.")
            await one.page.click("#start")
            await one.reads("Talk to a stranger")
            assert await one.page.locator("#start").is_disabled()
            async with serving(port=server.port):
                await one.page.wait_for_selector("#start:enabled")
                assert await one.page.text_content("#meet-text") == "Talk to a stranger"

    asyncio.run(main())


def test_strangers_in_two_windows() -> None:
    """Two windows of one browser are never paired, the newest one searches, and a block outlives a reload."""

    async def main() -> None:
        async with (
            partyline_server(extras=chat.extras()) as (_, url),
            chromium() as browser,
            visitors(browser, url, 2) as (one, other),
        ):
            second = Visitor(await one.page.context.new_page(), url)
            for visitor in (one, second):
                await visitor.stranger()
                await visitor.page.click("#start")
                await visitor.reads("Looking for somebody…")
            await one.reads("You are looking for somebody in another window.")
            await other.stranger()
            await other.page.click("#start")
            await second.sees("You are connected with a stranger. Say hello.")
            await second.page.click("#more > button")
            await second.page.click("#block")
            await second.sees("You will not meet this stranger again.")
            for visitor in (other, second):
                await visitor.page.reload()
                await visitor.page.click("#start")
            for visitor in (other, second):
                await visitor.reads("Looking for somebody…")

    asyncio.run(main())


def test_pressing_next_too_fast(monkeypatch: pytest.MonkeyPatch) -> None:
    """Somebody who presses faster than the server allows is told so."""
    slow = functools.partial(strangers.Visitor, starts=Pace(0.01, 2))  # slower than any machine
    monkeypatch.setattr(strangers, "Visitor", slow)

    async def main() -> None:
        async with (
            partyline_server(extras=chat.extras()) as (_, url),
            chromium() as browser,
            visitors(browser, url, 1) as (one,),
        ):
            await one.stranger()
            for _ in range(6):
                await one.page.click("#start")
            await one.reads("That is too fast: wait a moment.")

    asyncio.run(main())


def test_a_restart_ends_a_talk() -> None:
    """When the server restarts, strangers are told that their talk has ended, and can start another one."""

    async def main() -> None:
        async with chromium() as browser, serving() as server, visitors(browser, server.url, 2) as (one, other):
            for visitor in (one, other):
                await visitor.stranger()
                await visitor.page.click("#start")
            await one.sees("You are connected with a stranger. Say hello.")
            await one.say("remember this")
            await other.sees("remember this")
            server.process.kill()
            await server.process.wait()
            for visitor in (one, other):
                await visitor.page.locator("#banner", has_text="Connection lost").wait_for()
                assert not await visitor.page.locator("#text").is_editable()
            async with serving(port=server.port):
                for visitor in (one, other):
                    await visitor.sees("The server restarted: this talk has ended.")
                    await visitor.page.click("#next")
                await one.sees("You are connected with a stranger. Say hello.")

    asyncio.run(main())


def test_a_link_from_another_site() -> None:
    """Following a link on a page of another site leads into the room that it names."""

    async def main() -> None:
        async with (
            partyline_server(extras=chat.extras()) as (_, url),
            chromium() as browser,
            visitors(browser, url, 1) as (ada,),
        ):
            await ada.enter("Ada", "attic")
            await ada.page.goto("about:blank")
            await ada.page.route(
                "https://elsewhere.example/",
                lambda route: route.fulfill(content_type="text/html", body=f"<a href='{url}/#room/den'>come</a>"),
            )
            await ada.page.goto("https://elsewhere.example/")
            await ada.page.click("a")
            await ada.here()
            assert await ada.page.text_content("#title") == "den"
            ada.problems.remove("a request to https://elsewhere.example/")

    asyncio.run(main())


def test_who_cannot_see() -> None:
    """Every control has a name and can be reached with the keyboard, and the focused one is visible."""

    async def main() -> None:
        async with (
            partyline_server(extras=chat.extras()) as (_, url),
            chromium() as browser,
            visitors(browser, url, 1) as (ada,),
        ):
            await ada.enter("Ada", "den")
            seen = []
            for _ in range(8):
                await ada.page.keyboard.press("Tab")
                seen.append(
                    await ada.page.evaluate(
                        """() => {
                            const { id, className } = document.activeElement;
                            const { outlineStyle, outlineWidth } = getComputedStyle(document.activeElement);
                            return [id || className, outlineStyle === "solid" && parseFloat(outlineWidth) >= 2];
                        }"""
                    )
                )
            reached = {name for name, _ in seen}
            assert {"text", "scroller", "share", "icon back"} <= reached, seen
            assert all(shows for name, shows in seen if name), seen
            for view in ("", "#stranger", "#room/den"):
                await ada.page.goto(f"{url}/{view}")
                nameless = await ada.page.evaluate(
                    """[...document.querySelectorAll("button, a, input, textarea")].filter(one => !one.hidden &&
                        !one.textContent.trim() && !one.ariaLabel && !one.labels?.length).map(one => one.outerHTML)"""
                )
                assert nameless == []

    asyncio.run(main())


def _luminance(colour: str) -> float:
    """WCAG 2.2's relative luminance."""
    parts = [int(colour[at : at + 2], 16) / 255 for at in (1, 3, 5)]
    red, green, blue = (part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts)
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_contrast(scheme: str) -> None:
    """Every text colour has a contrast of 4.5 to its background, and every edge that must be seen one of 3 (WCAG)."""
    blocks = re.findall(r":root \{(.*?)\n\s*\}", (STATIC / "chat.css").read_text("utf-8"), re.DOTALL)
    colours = {name: value for block in blocks for name, value in re.findall(r"--([\w-]+): (#[0-9a-f]{6})", block)}
    if scheme == "light":
        colours = dict(re.findall(r"--([\w-]+): (#[0-9a-f]{6})", blocks[0]))

    def contrast(one: str, other: str) -> float:
        bright, dark = sorted((_luminance(colours[one]), _luminance(colours[other])), reverse=True)
        return (bright + 0.05) / (dark + 0.05)

    grounds = ("ground", "surface", "sunk")
    pairs = list(itertools.product(("ink", "soft", "accent", *(f"hue-{n}" for n in range(8))), grounds))
    pairs += [("bad", "ground"), ("bad", "surface"), ("on-mine", "mine"), ("on-warn", "warn"), ("on-well", "well")]
    pairs += [("on-accent", "accent"), ("on-accent", "accent-over")]
    assert {pair: contrast(*pair) for pair in pairs if contrast(*pair) < 4.5} == {}
    assert {ground: contrast("edge", ground) for ground in grounds[:2] if contrast("edge", ground) < 3} == {}
