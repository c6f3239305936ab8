"""The server's side of rooms, over real sockets and a real log."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from websockets.asyncio.client import connect

from partyline import chat
from partyline.chat import rooms
from partyline.chat.rooms import MOST_PAGE, PAGE, Guest, Rooms, Saying, person, room_of
from partyline.errors import StoreUnavailable
from tests.process import serving
from tests.server.peers import connected, request
from tests.server.servers import partyline_server

from .guests import Guest as Client
from .guests import guests


@asynccontextmanager
async def chatting(count: int, **settings: Any) -> AsyncIterator[tuple[Any, list[Client]]]:
    """The namespace of the rooms, and clients in it."""
    extras = chat.extras()
    async with partyline_server(extras=extras, **settings) as (_, url), guests(url, "/chat", count) as found:
        yield extras[0].namespace("/chat"), found


def who(name: str, room: str = "den") -> dict[str, str]:
    return {"room": room, "name": name, "key": f"the key of {name}"}


def saying(number: int, text: str | None = None) -> dict[str, str]:
    return {"id": f"message {number:04}", "text": text or f"text {number}"}


def test_what_is_said_reaches_all_and_who_comes_later() -> None:
    """A message reaches everybody in the room once, including its sender, and nobody elsewhere, and is kept for whoever
    joins later."""

    async def main() -> None:
        async with chatting(4) as (_, (ada, lin, elsewhere, late)):
            entered = await ada.call("enter", who("Ada"))
            assert entered["messages"] == []
            assert entered["before"] is None
            assert entered["people"] == [{"by": entered["me"], "name": "Ada"}]
            await lin.call("enter", who("Lin"))
            await elsewhere.call("enter", who("Eve", "another room"))
            assert await ada.call("say", saying(1)) == {}
            (said,) = await lin.hears("said")
            assert (said["id"], said["text"]) == ("message 0001", "text 1")
            assert (said["by"], said["name"]) == (entered["me"], "Ada")
            assert ada.all("said") == lin.all("said") == [[said]]
            assert (await late.call("enter", who("Joy")))["messages"] == [said]
            assert elsewhere.all("said") == []

    asyncio.run(main())


def test_rooms_have_a_number(monkeypatch: pytest.MonkeyPatch) -> None:
    """Beyond the number of rooms a guest is refused and counted, and stays in its room; one that empties makes room."""
    monkeypatch.setattr(rooms, "MOST_ROOMS", 2)

    async def main() -> None:
        async with chatting(3) as (namespace, (ada, lin, joy)):
            await ada.call("enter", who("Ada", "first"))
            await lin.call("enter", who("Lin", "second"))
            assert (await joy.call("enter", who("Joy", "third")))["error"] == "too_many_rooms"
            assert namespace.io.counters.limits == {"chat_rooms": 1}
            assert "error" not in await joy.call("enter", who("Joy", "second"))
            await ada.call("enter", who("Ada", "second"))
            assert "error" not in await joy.call("enter", who("Joy", "third"))

    asyncio.run(main())


def test_a_retry_is_said_once() -> None:
    """The same id, even at once and over another connection of the person, is answered and not sent again."""

    async def main() -> None:
        async with chatting(3) as (_, (ada, again, lin)):
            for one, name in ((ada, "Ada"), (again, "Ada"), (lin, "Lin")):
                await one.call("enter", who(name))
            calls = [ada.call("say", saying(1)), ada.call("say", saying(1)), again.call("say", saying(1))]
            assert await asyncio.gather(*calls) == [{}, {}, {}]
            assert await again.call("say", saying(1)) == {}
            assert await lin.call("say", saying(1, "another person's")) == {}  # theirs is another message
            await ada.hears("said", 2)
            assert [said["text"] for (said,) in ada.all("said")] == ["text 1", "another person's"]

    asyncio.run(main())


class FullAtFirst:
    """A namespace whose log refuses the first message, with one socket in it; it stands for that socket, too."""

    def __init__(self) -> None:
        self.id = "socket"
        self.published: list[dict[str, Any]] = []
        self.attempts = 0

    def on(self, event: str, handler: Any) -> None: ...
    def on_disconnect(self, handler: Any) -> None: ...
    def join(self, room: str) -> None: ...
    def emit(self, event: str, *arguments: Any) -> None: ...

    def to(self, room: str) -> FullAtFirst:
        return self

    async def history(self, room: str, **which: Any) -> list[Any]:
        return []

    async def publish(self, room: str, event: str, message: dict[str, Any]) -> None:
        self.attempts += 1
        if self.attempts == 1:
            raise StoreUnavailable("the disk is full")
        self.published.append(message)


def test_what_the_log_refuses_may_be_said_again() -> None:
    """While the log keeps nothing, messages fail with the log's code; the same id works afterwards, once."""

    async def main() -> None:
        namespace: Any = FullAtFirst()
        rooms = Rooms(namespace)
        await rooms.enter(namespace, Guest("den", "Ada", "a key"))
        answers = [await rooms.say(namespace, Saying("message 1", "text")) for _ in range(3)]
        assert answers == [{"error": "store_unavailable", "message": "the disk is full"}, {}, {}]
        assert [message["text"] for message in namespace.published] == ["text"]

    asyncio.run(main())


def test_pages_of_the_log() -> None:
    """From the newest page back to the beginning every message appears once and in order, and the last page says so."""

    async def main() -> None:
        async with chatting(1) as (namespace, (ada,)):
            count = PAGE * 2 + 7
            for number in range(count):
                await namespace.publish(room_of("den"), "said", {"id": str(number), "text": ""})
                await namespace.publish(room_of("attic"), "said", {"id": "foreign", "text": ""})
            page = await ada.call("enter", who("Ada"))
            found = page["messages"]
            sizes = [len(found)]
            while page["before"]:
                page = await ada.call("older", page["before"])
                found = page["messages"] + found
                sizes.append(len(page["messages"]))
            assert [message["id"] for message in found] == [str(number) for number in range(count)]
            assert sizes == [PAGE, PAGE, 7]
            for before in ("nonsense", "0" * 16 + "-99999999999999999999", ""):
                assert (await ada.call("older", before))["error"] == "invalid_position"

    asyncio.run(main())


def test_pages_of_long_messages() -> None:
    """With the longest messages a page ends early, and still all of them appear, each once and in order."""

    async def main() -> None:
        async with chatting(1) as (namespace, (ada,)):
            for number in range(40):
                await namespace.publish(room_of("den"), "said", {"id": number, "text": "\U0001f642" * 4_000})
            page = await ada.call("enter", who("Ada"))
            found, pages = page["messages"], 1
            assert len(found) == MOST_PAGE // 4_000
            while page["before"]:
                page = await ada.call("older", page["before"])
                found, pages = page["messages"] + found, pages + 1
            assert [message["id"] for message in found] == list(range(40))
            assert pages == 4

    asyncio.run(main())


def test_who_is_here() -> None:
    """A person counts once however many pages they have, joins with the first and leaves with the last."""

    async def main() -> None:
        async with chatting(3) as (_, (lin, ada, again)):
            await lin.call("enter", who("Lin"))
            by = (await ada.call("enter", who("Ada")))["me"]
            assert (await again.call("enter", who("Ada")))["count"] == 2
            await lin.hears("came", 2)
            assert lin.all("came") == [[{"by": by, "name": "Ada", "count": 2}]] * 2
            ada.leave()
            await lin.call("enter", who("Lin"))  # anything caused by ada's leaving has arrived by now
            assert lin.all("left") == []
            await again.call("enter", who("Ada", "another room"))
            assert await lin.hears("left") == [{"by": by, "count": 1}]
            assert by == person("the key of Ada")

    asyncio.run(main())


def test_a_window_that_closes_takes_its_name_along() -> None:
    """A person with another name in a second window has the first name again when that window closes."""

    async def main() -> None:
        async with chatting(3) as (_, (lin, ada, again)):
            await lin.call("enter", who("Lin"))
            by = (await ada.call("enter", who("Ada")))["me"]
            entered = await again.call("enter", who("Ada") | {"name": "Countess", "room": " den\u200b"})
            assert {"by": by, "name": "Countess"} in entered["people"]
            assert entered["room"] == "den"
            again.leave()
            await lin.hears("came", 3)
            assert lin.all("came") == [[{"by": by, "name": name, "count": 2}] for name in ("Ada", "Countess", "Ada")]
            assert lin.all("left") == []

    asyncio.run(main())


def test_typing_reaches_the_others_of_the_room() -> None:
    """Typing is shown to the others in the room and to nobody else, and outside of a room to nobody."""

    async def main() -> None:
        async with chatting(3) as (_, (ada, lin, eve)):
            eve.emit("typing", True)
            by = (await ada.call("enter", who("Ada")))["me"]
            await lin.call("enter", who("Lin"))
            ada.emit("typing", True)
            assert await lin.hears("typing") == [{"by": by, "name": "Ada", "on": True}]
            await ada.call("say", saying(1))
            assert ada.all("typing") == eve.all("typing") == []

    asyncio.run(main())


HOSTILE = [
    "<script>document.title='x'</script>",
    "x" * 10_000,
    "مرحبا \u202eedoc\u202c ‏",
    "👩‍👩‍👧‍👦🏳️‍🌈" * 3,
    "half \ud83d",
    "\x00\x07\x1b[2J\x7f\x85",
    "",
    " \u200b\ufeff ",
    "\u200d\ufe0f\u0301",
]


def test_hostile_values_in_every_field() -> None:
    """Every hostile text in every field gets a plain answer or a refusal that names the field, and the room goes on."""

    async def main() -> None:
        async with chatting(1 + len(HOSTILE)) as (_, (lin, *others)):
            await lin.call("enter", who("Lin"))
            for number, (ada, value) in enumerate(zip(others, HOSTILE, strict=True)):
                for field in ("name", "room"):
                    answer = await ada.call("enter", {**who("Ada"), field: value})
                    assert "me" in answer or (answer["error"] in ("empty", "too_long") and answer["field"] == field)
                assert "me" in await ada.call("enter", {**who("Ada"), "key": value})
                answer = await ada.call("say", saying(number, value or " "))
                assert answer == {} or (answer["error"], answer["field"]) in (("empty", "text"), ("too_long", "text"))
                assert (await ada.call("say", {"id": value, "text": "x"})).keys() <= {"error", "message", "field"}
            assert len(lin.all("said")) >= 5
            names = {came["name"] for (came,) in lin.all("came")}
            assert all(any(letter.isprintable() and letter.strip() for letter in name) for name in names)
            json.dumps(lin.heard, ensure_ascii=False).encode()  # no half characters

    asyncio.run(main())


def test_wrong_shapes_are_refused() -> None:
    """Arguments of the wrong types or number are answered with invalid_arguments, and nothing is sent."""

    async def main() -> None:
        async with chatting(1) as (_, (ada,)):
            assert (await ada.call("say", saying(1)))["error"] == "not_in_a_room"
            await ada.call("enter", who("Ada"))
            wrong: list[list[Any]] = [[], [None], [7], [{}], [{"id": 1, "text": 2}], ["a", "b"], [{"text": "no id"}]]
            for arguments in wrong:
                for event in ("enter", "say", "older"):
                    if event == "older" and arguments == ["a", "b"]:
                        continue
                    assert (await ada.call(event, *arguments))["error"] == "invalid_arguments", (event, arguments)
            assert (await ada.call("say", {"id": "short", "text": "x"}))["error"] == "invalid_id"
            assert ada.all("said") == []

    asyncio.run(main())


def test_a_flood_is_slowed_down() -> None:
    """Beyond the burst messages are refused with the time to wait, and work after it; the connection stays."""

    async def main() -> None:
        async with chatting(1) as (_, (ada,)):
            await ada.call("enter", who("Ada"))
            answers = await asyncio.gather(*(ada.call("say", saying(number)) for number in range(30)))
            refused = [answer for answer in answers if answer]
            assert 15 <= len(refused) <= 20
            assert {answer["error"] for answer in refused} == {"rate_limited"}
            await asyncio.sleep(refused[-1]["wait"] + 0.05)
            assert await ada.call("say", saying(99)) == {}

    asyncio.run(main())


def test_a_room_can_be_named_like_a_socket() -> None:
    """A room named like somebody's socket id does not receive anything that is sent to that socket."""

    async def main() -> None:
        async with chatting(2) as (namespace, (ada, eve)):
            await eve.call("enter", who("Eve", ada.id))
            namespace.to(ada.id).emit("secret")
            await ada.hears("secret")
            await eve.call("say", saying(1))
            assert eve.all("secret") == []

    asyncio.run(main())


@pytest.mark.check
def test_the_setting_turns_it_off(tmp_path: Path) -> None:
    """With `chat = false` neither the page nor its namespaces are there."""

    async def main() -> None:
        for arguments, status in (((), 200), (("--set", "chat=false"), 404)):
            async with serving(*arguments) as server, connected(server.url) as peer:
                for path in ("/", "/chat.js"):
                    await peer.send(request("GET", path))
                    assert (await peer.answer()).status == status, path
                for namespace in ("/chat", "/stranger"):
                    url = server.url.replace("http", "ws") + "/socket.io/?EIO=4&transport=websocket"
                    async with connect(url) as line:
                        await line.recv()
                        await line.send(f"40{namespace},")
                        assert (str(await line.recv()).startswith(f"40{namespace},")) is (status == 200)
                assert server.facts["chat"] == (f"{server.url}/" if status == 200 else "off")

    asyncio.run(main())
