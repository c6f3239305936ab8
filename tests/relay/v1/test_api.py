"""The v1 calls over HTTP: publish, batches, history, presence, topics, connections."""

from __future__ import annotations

import asyncio
import http.client
import itertools
from typing import Any
from urllib.parse import quote, urlsplit

import pytest
from websockets.asyncio.client import connect

from partyline import Partyline, running
from partyline.client import socketio
from partyline.errors import StoreUnavailable
from partyline.models import Draft
from partyline.trust.keys import Principal
from tests.calls import call, register
from tests.relay.v1.test_events import stream
from tests.relay.v1.test_websocket import (
    UNKNOWN,
    WITHIN,
    Frame,
    api_key,
    behind,
    let_in,
    line,
    offset,
    person,
    run,
    settings,
)


async def publish(url: str, topic: str, data: Any, named: str | None = None, **fields: Any) -> tuple[int, Any]:
    """Publish one message; `named` is the Idempotency-Key."""
    headers = {} if named is None else {"Idempotency-Key": named}
    return await call(f"{url}/v1/topics/{quote(topic)}/messages", "POST", {"data": data, **fields}, headers=headers)


async def batch(url: str, *messages: Frame, token: str | None = None) -> tuple[int, Any]:
    headers = {} if token is None else {"Authorization": f"Bearer {token}"}
    return await call(f"{url}/v1/publish", "POST", {"messages": messages}, headers=headers)


async def history(url: str, topic: str, query: str = "", token: str | None = None) -> tuple[int, Any]:
    headers = {} if token is None else {"Authorization": f"Bearer {token}"}
    return await call(f"{url}/v1/topics/{quote(topic)}/messages{query}", headers=headers)


def code(answer: tuple[int, Any]) -> tuple[int, str]:
    """Status and code of an error in the form all errors have."""
    status, body = answer
    assert set(body) == {"error"}
    assert {"code", "message"} <= set(body["error"]) <= {"code", "message", "field"}
    return status, body["error"]["code"]


async def raw(url: str, path: str, body: bytes, *, kind: str = "application/json") -> tuple[int, bytes]:
    """Post these bytes unchanged."""

    def post() -> tuple[int, bytes]:
        connection = http.client.HTTPConnection(urlsplit(url).netloc, timeout=20)
        try:
            connection.request("POST", path, body, {"Content-Type": kind})
            answer = connection.getresponse()
            return answer.status, answer.read()
        finally:
            connection.close()

    return await asyncio.to_thread(post)


def logged(partyline: Partyline) -> list[bytes]:
    """What the log holds."""
    return [message.draft.data for message in partyline.store._log.values()]


# Publishing


def test_publish_is_answered_with_its_place() -> None:
    """A publish is answered 200 with topic, position, id and duplicate; one that names no id gets a new one."""

    async def main() -> None:
        async with running(settings()) as (partyline, url):
            status, first = await publish(url, "cats", {"a": 1})
            assert status == 200
            assert set(first) == {"topic", "position", "id", "duplicate"}
            assert (first["topic"], first["position"]) == ("cats", f"{partyline.store.epoch}-1")
            assert first["duplicate"] is False
            _, second = await publish(url, "cats", {"a": 1})
            assert second["position"] == behind(first["position"], 1)
            assert second["id"] != first["id"]

    run(main())


def test_a_retry_is_stored_once() -> None:
    """The same Idempotency-Key or `id` is answered with the first position for the same body, and with 409 for another
    one."""

    async def main() -> None:
        async with running(settings()) as (partyline, url):
            _, first = await publish(url, "cats", 1, "k-1", user_id="ann", key="x")
            assert first["id"] == "k-1"
            for again in (
                publish(url, "cats", 1, "k-1", user_id="ann", key="x"),
                publish(url, "cats", 1, id="k-1", user_id="ann", key="x"),
                publish(url, "cats", 1, "k-1", id="k-1", user_id="ann", key="x"),
            ):
                assert await again == (200, {**first, "duplicate": True})
            for other in (
                publish(url, "cats", 2, "k-1", user_id="ann", key="x"),
                publish(url, "cats", 1, "k-1", user_id="bob", key="x"),
                publish(url, "cats", 1, "k-1", user_id="ann", key="y"),
                publish(url, "cats", 1, "k-1"),
            ):
                assert code(await other) == (409, "id_conflict")
            assert code(await publish(url, "cats", 1, "k-1", id="k-2")) == (422, "invalid")
            assert (await publish(url, "dogs", 2, "k-1"))[1]["duplicate"] is False  # an id belongs to one topic
            assert logged(partyline) == [b"1", b"2"]

    run(main())


def test_hostile_11_racing_retries() -> None:
    """Racing retries of a message make one message: all are answered with the same position."""

    async def main() -> None:
        async with running(settings()) as (partyline, url):
            answers = await asyncio.gather(*(publish(url, "cats", "once", "k") for _ in range(16)))
            assert {status for status, _ in answers} == {200}
            assert len({body["position"] for _, body in answers}) == 1
            assert sorted(body["duplicate"] for _, body in answers) == [False] + [True] * 15
            assert logged(partyline) == [b'"once"']

    run(main())


def test_hostile_10_concurrent_publishers() -> None:
    """Concurrent publishers get unique, contiguous offsets, and every subscriber sees the same order."""

    async def main() -> None:
        async with running(settings()) as (_, url), line(url) as one, line(url) as two:
            start = await one.position()
            await one.ask("subscribe", topic="a")
            await two.ask("subscribe", topic=">")
            answers = await asyncio.gather(*(publish(url, "a", number) for number in range(40)))
            offsets = {offset(body["position"]): number for number, (_, body) in enumerate(answers)}
            assert sorted(offsets) == list(range(offset(start) + 1, offset(start) + 41))
            expected = [offsets[number] for number in sorted(offsets)]
            assert await one.data(40) == await two.data(40) == expected

    run(main())


def test_a_message_lives_as_long_as_its_ttl() -> None:
    """After `ttl` seconds a message is in no history and is not delivered to anybody that resumes."""

    async def main() -> None:
        async with running(settings()) as (partyline, url):
            now = 1_000.0
            partyline.store._clock = lambda: now
            await publish(url, "cats", "short", ttl=0.5)
            await publish(url, "cats", "long", ttl=366 * 86400)
            assert len((await history(url, "cats"))[1]["messages"]) == 2
            now += 0.5
            page = (await history(url, "cats"))[1]
            assert [message["data"] for message in page["messages"]] == ["long"]
            async with line(url) as client:
                reply = await client.ask("subscribe", topic="cats", after="earliest")
                assert reply["recovered"] is True
                assert await client.data(1) == ["long"]

    run(main())


def test_ephemeral_messages_have_no_position() -> None:
    """With `durable: false`, or in an ephemeral topic, the position is null and nothing is kept."""

    async def main() -> None:
        async with running(settings(ephemeral_topics=("typing.*",))) as (partyline, url), line(url) as client:
            await client.ask("subscribe", topic=">")
            for topic, durable in (("cats", False), ("typing.cats", None)):
                status, receipt = await publish(url, topic, 1, "k", durable=durable)
                assert (status, receipt["position"], receipt["id"]) == (200, None, "k")
                assert receipt["duplicate"] is False
                (message,) = await client.messages(1)
                assert (message["position"], message["id"]) == (None, "k")
            assert (await publish(url, "typing.cats", 2, durable=True))[1]["position"] is not None
            assert logged(partyline) == [b"2"]

    run(main())


@pytest.mark.parametrize(
    ("fields", "field"),
    [
        ({}, "data"),
        ({"data": 1, "ttl": 0}, "ttl"),
        ({"data": 1, "ttl": -1.5}, "ttl"),
        ({"data": 1, "ttl": 367 * 86400}, "ttl"),
        ({"data": 1, "ttl": "1"}, "ttl"),
        ({"data": 1, "durable": "no"}, "durable"),
        ({"data": 1, "id": ""}, "id"),
        ({"data": 1, "id": "x" * 129}, "id"),
        ({"data": 1, "id": "a\r\nb"}, "id"),
        ({"data": 1, "id": 5}, "id"),
        ({"data": 1, "key": ""}, "key"),
        ({"data": 1, "key": "\0"}, "key"),
        ({"data": 1, "user_id": -1}, "user_id"),
        ({"data": 1, "user_id": 2**63}, "user_id"),
        ({"data": 1, "user_id": True}, "user_id"),
        ({"data": 1, "user_id": "\x1b[2J"}, "user_id"),
        ({"data": 1, "user_id": "x" * 129}, "user_id"),
    ],
)
def test_wrong_values_name_their_field(fields: Frame, field: str) -> None:
    """A value of the wrong shape or range gets 422 with the field's name, alone and in a batch, and nothing is
    stored."""

    async def main() -> None:
        async with running(settings()) as (partyline, url):
            single = await call(f"{url}/v1/topics/cats/messages", "POST", fields)
            several = await batch(url, {"topic": "cats", "data": "good"}, {"topic": "cats", **fields})
            for status, body in (single, several):
                assert status == 422
                assert body["error"]["field"].rpartition(".")[2] == field
                assert body["error"]["message"].isprintable()
            assert logged(partyline) == []

    run(main())


@pytest.mark.parametrize(
    ("body", "status"),
    [
        (b"", 400),
        (b"{", 400),
        (b'{"data":1}x', 400),
        (b'{"data":"\xff"}', 400),
        (b'{"data":"a\nb"}', 400),
        (b'{"data":01}', 400),
        (b'{"data":' + b"[" * 10_000 + b"]" * 10_000 + b"}", 400),
        (b"null", 422),
        (b"[]", 422),
        (b"1", 422),
        (b'{"data":1,"user_id":' + b"9" * 5_000 + b"}", 422),
        (b'{"data":1,"data":2}', 200),
        (b' { "data" : "\\ud800" , "unknown": [] } \r\n', 200),
        (b'{"data":' + b"9" * 5_000 + b"}", 200),
    ],
    ids=lambda value: repr(value)[:40],
)
def test_hostile_29_bodies_of_every_shape(body: bytes, status: int) -> None:
    """Anything that is not JSON gets 400, JSON of another shape 422, and none of it is an error of the server."""

    async def main() -> None:
        async with running(settings()) as (partyline, url):
            for path, sent in (
                ("/v1/topics/cats/messages", body),
                ("/v1/publish", b'{"messages":[' + body.strip().replace(b"{", b'{"topic":"cats",', 1) + b"]}"),
            ):
                if path == "/v1/publish" and not body:
                    continue
                found, text = await raw(url, path, sent)
                assert found == status, text
            assert partyline.counters.errors == 0

    run(main())


def test_bodies_are_bounded_and_json() -> None:
    """A body beyond max_body gets 413, for a batch beyond max_batch_body, and another content type gets 415."""

    async def main() -> None:
        async with running(settings(max_body=1_000, max_batch_body=3_000)) as (partyline, url):
            assert (await publish(url, "cats", "x" * 900))[0] == 200
            assert code(await publish(url, "cats", "x" * 1_000)) == (413, "payload_too_large")
            message = {"topic": "cats", "data": "x" * 900}
            assert (await batch(url, message, message))[0] == 200
            assert code(await batch(url, message, message, message, message)) == (413, "payload_too_large")
            for kind in ("text/plain", "application/x-www-form-urlencoded", "application/jsonx", ""):
                assert (await raw(url, "/v1/topics/cats/messages", b'{"data":1}', kind=kind))[0] == 415
            kind = "Application/JSON; charset=utf-8"
            assert (await raw(url, "/v1/topics/cats/messages", b'{"data":1}', kind=kind))[0] == 200
            assert len(logged(partyline)) == 4

    run(main())


@pytest.mark.parametrize(
    "topic", [" ", "a b", "a..b", ".a", "a.", "a\nb", "a\0b", "\u2028", "a?b", "a#b", "a%b", "a\\b", "*", "a.>", "$a"]
    , ids=ascii
)  # fmt: skip
def test_hostile_32_and_38_names_that_are_none(topic: str) -> None:
    """Reserved names, patterns and names with control characters get 422 `invalid_topic` from every call."""

    async def main() -> None:
        async with running(settings()) as (partyline, url):
            path = f"{url}/v1/topics/{quote(topic, safe='')}"
            assert code(await call(f"{path}/messages", "POST", {"data": 1})) == (422, "invalid_topic")
            assert code(await batch(url, {"topic": topic, "data": 1})) == (422, "invalid_topic")
            for what in ("messages", "events", "presence"):
                assert code(await call(f"{path}/{what}")) == (422, "invalid_topic"), what
            assert logged(partyline) == []
            assert partyline.counters.errors == 0

    run(main())


def test_a_log_that_takes_nothing_is_503() -> None:
    """While the log refuses, a publish gets 503 with Retry-After, and nothing is answered 200."""

    async def main() -> None:
        async with running(settings()) as (partyline, url):
            await partyline.store.close()
            assert code(await publish(url, "cats", 1)) == (503, StoreUnavailable.code)
            assert code(await batch(url, {"topic": "cats", "data": 1}, {"topic": "cats", "data": 2})) == (
                503,
                StoreUnavailable.code,
            )
            assert (await call(f"{url}/health"))[0] == 200

    run(main())


# Batches


def test_a_batch_is_stored_together() -> None:
    """A batch is answered with one receipt per message, in order, at successive positions, and reaches subscribers."""

    async def main() -> None:
        async with running(settings()) as (_, url), line(url) as client:
            start = await client.position()
            await client.ask("subscribe", topic=">")
            sent = [{"topic": f"t.{number % 7}", "data": number, "id": f"m{number}"} for number in range(1000)]
            status, body = await batch(url, *sent)
            assert status == 200
            assert body["messages"] == [
                {"topic": one["topic"], "position": behind(start, n), "id": one["id"], "duplicate": False}
                for n, one in enumerate(sent, 1)
            ]
            assert await client.data(1000) == list(range(1000))
            _, again = await batch(url, *sent)
            assert again["messages"] == [{**one, "duplicate": True} for one in body["messages"]]
            assert await client.settle() == []

    run(main())


def test_a_batch_has_one_to_a_thousand_messages() -> None:
    """An empty batch, and one of more than 1,000 messages, gets 422 `batch_size`."""

    async def main() -> None:
        async with running(settings()) as (partyline, url):
            assert code(await batch(url)) == (422, "batch_size")
            assert code(await batch(url, *[{"topic": "cats", "data": 1}] * 1001)) == (422, "batch_size")
            assert logged(partyline) == []

    run(main())


@pytest.mark.parametrize(
    ("bad", "expected"),
    [
        ([{"topic": "no topic", "data": 1}], (422, "invalid_topic")),
        ([{"topic": "secret", "data": 1}], (403, "forbidden")),
        ([{"data": 1}], (422, "invalid")),
        ([{"topic": "cats"}], (422, "invalid")),
        ([{"topic": "cats", "data": 2, "id": "taken"}], (409, "id_conflict")),
        ([{"topic": "cats", "data": 1, "id": "m"}, {"topic": "cats", "data": 2, "id": "m"}], (409, "id_conflict")),
        ([{"topic": "new.1", "data": 1}, {"topic": "new.2", "data": 1}], (507, "too_many_topics")),
    ],
)
@pytest.mark.parametrize("durable", [True, False])
@pytest.mark.parametrize("first", [True, False])
def test_a_batch_is_all_or_nothing(bad: list[Frame], expected: tuple[int, str], durable: bool, first: bool) -> None:
    """If one message is refused, wherever it is in the batch, none is stored or delivered, not even ephemeral ones."""

    async def main() -> None:
        keys = (api_key("k", publish=("cats", "new.*")),)
        async with running(settings(api_keys=keys, max_rooms=2)) as (partyline, url), line(url, "k") as client:
            await client.ask("publish", topic="cats", data=1, message_id="taken")
            await client.ask("subscribe", topic=">")
            good = [{"topic": "cats", "data": "good", "durable": durable}]
            assert code(await batch(url, *(good + bad if first else bad + good), token="k")) == expected
            assert await client.settle() == []
            assert logged(partyline) == [b"1"]

    run(main())


def test_a_mixed_batch_keeps_its_order() -> None:
    """Receipts are in the order of the messages, also if ephemeral and durable ones are mixed."""

    async def main() -> None:
        async with running(settings()) as (_, url):
            for kept in itertools.product((True, False), repeat=3):
                sent = [{"topic": f"t{n}", "data": n, "durable": durable} for n, durable in enumerate(kept)]
                status, body = await batch(url, *sent)
                assert status == 200
                assert [(one["topic"], one["position"] is not None) for one in body["messages"]] == [
                    (f"t{n}", durable) for n, durable in enumerate(kept)
                ]

    run(main())


# History


def test_history_in_pages() -> None:
    """Pages, each read after the last one's `next`, give each message of the topic once, oldest first, to the end."""

    async def main() -> None:
        async with running(settings()) as (partyline, url):
            for number in range(10):
                await publish(url, "cats", number, key=f"m{number}" if number else None)
                await publish(url, "dogs", "other")
            got: list[Any] = []
            query = "?limit=4"
            for expected in ([0, 1, 2, 3], [4, 5, 6, 7], [8, 9]):
                status, page = await history(url, "cats", query)
                assert status == 200
                assert set(page) == {"topic", "messages", "next", "more", "recovered"}
                assert [message["data"] for message in page["messages"]] == expected
                assert (page["topic"], page["recovered"], page["more"]) == ("cats", True, expected[-1] != 9)
                got += [message["position"] for message in page["messages"]]
                query = f"?limit=4&after={page['next']}"
            assert page["next"] == f"{partyline.store.epoch}-20"
            assert [offset(position) for position in got] == list(range(1, 20, 2))
            assert await history(url, "cats", query) == (
                200,
                {"topic": "cats", "messages": [], "next": page["next"], "more": False, "recovered": True},
            )
            _, last = await history(url, "cats", f"?after={got[-2]}")  # exclusive
            assert [message["position"] for message in last["messages"]] == [got[-1]]
            assert (await history(url, "cats", "?after=latest"))[1]["messages"] == []
            assert len((await history(url, "cats", "?after=earliest"))[1]["messages"]) == 10
            _, none = await history(url, "birds")
            assert (none["messages"], none["more"], none["recovered"]) == ([], False, True)

    run(main())


def test_a_message_in_history_is_whole() -> None:
    """A message in a page has position, id, time and data, and `from`, `user_id` and `key` if they are set."""

    async def main() -> None:
        async with running(settings(api_keys=(api_key("k"),))) as (partyline, url):
            let_in(partyline, ann=person("ann"))
            partyline.store._clock = lambda: 1_700_000_000.25
            async with line(url, "ann") as ann, line(url, "k") as other:
                await other.ask("publish", topic="cats", data={"n": 1.0}, message_id="m1")
                await ann.ask("publish", topic="cats", data=None, message_id="m2", user_id="ann", key="k")
            _, page = await history(url, "cats", token="ann")
            epoch = partyline.store.epoch
            plain = {
                "position": f"{epoch}-1",
                "id": "m1",
                "time": 1_700_000_000.25,
                "data": {"n": 1.0},
            }
            assert page["messages"] == [
                plain,
                {
                    **plain,
                    "position": f"{epoch}-2",
                    "id": "m2",
                    "data": None,
                    "from": "ann",
                    "user_id": "ann",
                    "key": "k",
                },
            ]
            _, page = await history(url, "cats", token="k")
            assert page["messages"] == [plain]  # a key without a user does not see the other one
            assert (page["next"], page["more"]) == (f"{epoch}-2", False)

    run(main())


def test_history_that_is_gone_is_told() -> None:
    """After an unknown epoch, a pruned position or one ahead of the log, a page is `recovered: false` and begins at the
    oldest."""

    async def main() -> None:
        async with running(settings(max_messages=3)) as (partyline, url):
            epoch = partyline.store.epoch
            for number in range(1, 7):
                await publish(url, "cats", number)
            for after in (f"{epoch}-0", f"{epoch}-2", f"{UNKNOWN}-5", f"{epoch}-7", f"{epoch}-{2**53 - 1}"):
                status, page = await history(url, "cats", f"?after={after}")
                assert (status, page["recovered"]) == (200, False), after
                assert [message["data"] for message in page["messages"]] == [4, 5, 6]
            for after, expected in ((f"{epoch}-3", [4, 5, 6]), (f"{epoch}-6", [])):
                _, page = await history(url, "cats", f"?after={after}")
                assert page["recovered"] is True
                assert [message["data"] for message in page["messages"]] == expected

    run(main())


@pytest.mark.parametrize(
    ("query", "field"),
    [
        ("?limit=0", "limit"),
        ("?limit=1001", "limit"),
        ("?limit=-1", "limit"),
        ("?limit=1.5", "limit"),
        ("?limit=", "limit"),
        ("?limit=ten", "limit"),
        ("?limit=%D9%A1", "limit"),
        ("?limit=" + "9" * 1_000, "limit"),
        ("?after=5", None),
        ("?after=", None),
        (f"?after={UNKNOWN}", None),
        (f"?after={UNKNOWN.upper()}-1", None),
        (f"?after={UNKNOWN}-1%0A", None),
    ],
)
def test_wrong_pages_are_422(query: str, field: str | None) -> None:
    """A limit outside 1 to 1,000 and an `after` that is not a position get 422."""

    async def main() -> None:
        async with running(settings()) as (_, url):
            status, body = await history(url, "cats", query)
            assert (status, body["error"].get("field")) == (422, field)

    run(main())


# Looking and acting


def test_presence_lists_users() -> None:
    """Presence lists each user of a topic once, sorted, however they are connected."""

    async def main() -> None:
        async with running(settings()) as (_, url):
            two, ten, again = [await register(url, user, topic="cats") for user in (2, "ten", 2)]
            async with connect(two), connect(ten) as last, connect(again):
                assert await call(f"{url}/v1/topics/cats/presence") == (200, {"topic": "cats", "users": ["2", "ten"]})
                assert (await call(f"{url}/v1/topics/dogs/presence"))[1]["users"] == []
                await last.close()
                assert (await call(f"{url}/v1/topics/cats/presence"))[1]["users"] == ["2"]

    run(main())


def test_topics_and_connections_are_listed() -> None:
    """Topics are listed with their number of connections, connections with user, topics and an id that is not a
    credential."""

    async def main() -> None:
        async with running(settings()) as (_, url), line(url) as client:
            address = await register(url, "ann", topics=["cats", "birds"])
            async with connect(address):
                for name in ("cats", "dogs", "a.*"):
                    await client.ask("subscribe", topic=name)
                counts = {"birds": 1, "cats": 2, "dogs": 1}
                assert (await call(f"{url}/v1/topics"))[1] == {
                    "topics": [{"topic": name, "connections": count} for name, count in counts.items()]
                }
                _, listed = await call(f"{url}/v1/connections")
                of_line, of_ann = sorted(listed["connections"], key=lambda one: len(one["user_id"] or ""))
                assert (of_ann["user_id"], sorted(of_ann["topics"])) == ("ann", ["birds", "cats"])
                assert (of_line["user_id"], of_line["topics"]) == (None, ["a.*", "cats", "dogs"])
                assert of_ann["id"] not in address
                assert (await call(f"{url}/register/{of_ann['id']}", "DELETE"))[0] == 404

    run(main())


def test_streams_and_sockets_of_relay_are_connections_too() -> None:
    """A stream of server-sent events and a Socket.IO client in /relay are listed with their topics like any subscriber,
    DELETE /v1/connections/{id} ends each, and afterwards neither is listed."""

    async def main() -> None:
        async with (
            running(settings()) as (_, url),
            stream(url, "cats") as events,
            socketio.connect(url, "/relay", transports=("websocket",)) as relay,
        ):
            assert events.status == 200
            closed: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
            relay.on("closed", closed.set_result)
            await relay.call("subscribe", {"topic": "cats"})
            await relay.call("subscribe", {"topic": "dogs"})
            _, topics = await call(f"{url}/v1/topics")
            assert topics["topics"] == [{"topic": "cats", "connections": 2}, {"topic": "dogs", "connections": 1}]
            _, listed = await call(f"{url}/v1/connections")
            of_stream, of_relay = sorted(listed["connections"], key=lambda one: len(one["topics"]))
            assert (of_stream["topics"], of_relay["topics"]) == (["cats"], ["cats", "dogs"])
            for one in (of_stream, of_relay):
                gone = await call(f"{url}/v1/connections/{one['id']}", "DELETE")
                assert gone == (200, {"status": "disconnected"})
            assert await events.rest() == []
            async with asyncio.timeout(WITHIN):
                assert await closed == {"code": 4001, "reason": "disconnected"}
            assert (await call(f"{url}/v1/connections"))[1] == {"connections": []}
            assert (await call(f"{url}/v1/topics"))[1] == {"topics": []}

    run(main())


def test_a_connection_can_be_closed() -> None:
    """DELETE /v1/connections/{id} closes that connection with 4001, v1 or classic; an unknown id gets 404."""

    async def main() -> None:
        async with running(settings()) as (_, url), line(url) as client, line(url) as other:
            address = await register(url, "ann")
            async with connect(address) as classic:
                _, listed = await call(f"{url}/v1/connections")
                ids = {one["id"]: one for one in listed["connections"]}
                assert len(ids) == 3
                (of_ann,) = [public_id for public_id, one in ids.items() if one["user_id"] == "ann"]
                assert await call(f"{url}/v1/connections/{of_ann}", "DELETE") == (200, {"status": "disconnected"})
                await classic.wait_closed()
                assert classic.close_code == 4001
                assert code(await call(f"{url}/v1/connections/{of_ann}", "DELETE")) == (404, "unknown_connection")
                for public_id in ids.keys() - {of_ann}:
                    assert (await call(f"{url}/v1/connections/{public_id}", "DELETE"))[0] == 200
                for one in (client, other):
                    assert await one.ended() == (4001, "disconnected")
                assert (await call(f"{url}/v1/connections"))[1] == {"connections": []}

    run(main())


# Who


def test_rights_go_by_pattern() -> None:
    """Publishing, reading and acting each need their own right: no credential gets 401, a missing right 403."""

    async def main() -> None:
        keys = (
            api_key("reader", publish=(), subscribe=("orders.>",)),
            api_key("writer", publish=("orders.*",), subscribe=()),
            api_key("admin", publish=(), subscribe=(), admin=True),
        )
        async with running(settings(api_keys=keys, auth_failures_per_minute=0)) as (partyline, url):
            body = {"data": 1}
            calls: list[tuple[str, str, Any, set[str]]] = [
                ("POST", "/v1/topics/orders.1/messages", body, {"writer"}),
                ("POST", "/v1/topics/orders.1.eu/messages", body, set()),
                ("POST", "/v1/publish", {"messages": [{"topic": "orders.2", **body}]}, {"writer"}),
                ("POST", "/v1/publish", {"messages": [{"topic": "orders.2", **body}, {"topic": "x", **body}]}, set()),
                ("GET", "/v1/topics/orders.1/messages", None, {"reader"}),
                ("GET", "/v1/topics/orders/messages", None, set()),
                ("GET", "/v1/topics/secret/events", None, set()),
                ("DELETE", "/v1/connections/0", None, {"admin"}),
            ]
            for method, path, sent, allowed in calls:
                for token in ("reader", "writer", "admin", "nobody", None):
                    headers = {} if token is None else {"Authorization": f"Bearer {token}"}
                    status, answer = await call(f"{url}{path}", method, sent, headers=headers)
                    if token in (None, "nobody"):
                        assert code((status, answer)) == (401, "unauthenticated")
                    elif token in allowed:
                        assert status in (200, 404), (path, token)
                    else:
                        assert code((status, answer)) == (403, "forbidden"), (path, token)
            assert logged(partyline) == [b"1", b"1"]

    run(main())


def test_lists_want_a_key_beyond_this_machine() -> None:
    """Anybody on this machine may see presence, topics and connections; otherwise it takes a key with admin rights."""

    async def main() -> None:
        keys = (api_key("k"), api_key("admin", admin=True))
        async with running(settings(api_keys=keys, trusted_proxies=("127.0.0.1",))) as (_, url):
            afar = {"X-Forwarded-For": "203.0.113.7"}
            for path in ("/v1/topics/cats/presence", "/v1/topics", "/v1/connections"):
                assert (await call(f"{url}{path}"))[0] == 200
                assert code(await call(f"{url}{path}", headers=afar)) == (401, "unauthenticated")
                for token, expected in (("k", 403), ("admin", 200)):
                    headers = {**afar, "Authorization": f"Bearer {token}"}
                    assert (await call(f"{url}{path}", headers=headers))[0] == expected, path

    run(main())


def test_guessing_keys_is_slowed_down() -> None:
    """An address whose credentials fail too often gets 429, over HTTP and for a WebSocket."""

    async def main() -> None:
        async with running(settings(api_keys=(api_key("k"),), auth_failures_per_minute=5)) as (partyline, url):
            headers = {"Authorization": "Bearer guess"}
            statuses = [(await call(f"{url}/v1/topics/a/messages", headers=headers))[0] for _ in range(8)]
            assert statuses[0] == 401
            assert statuses[-1] == 429
            async with line(url) as client:
                assert (await client.ask("auth", token="k"))["code"] == "rate_limited"
            assert partyline.counters.limits["auth_failures_per_minute"] > 0

    run(main())


def test_a_user_reads_its_own_messages_alone() -> None:
    """A page of history shows messages for all and for the caller; those for others are scanned, but not shown."""

    async def main() -> None:
        async with running(settings(api_keys=(api_key("k"),))) as (partyline, url):
            let_in(partyline, ann=person("ann"), eve=Principal((), (">",), user="eve"))
            for user in ("ann", "eve", "ann"):
                partyline.hub.publish(Draft("cats", b'"for %s"' % user.encode(), user + "x", user))
            for token, expected in (("ann", ["for ann"]), ("eve", ["for eve"]), ("k", [])):
                _, page = await history(url, "cats", "?limit=5", token)
                assert [message["data"] for message in page["messages"]] == expected
                assert (offset(page["next"]), page["more"]) == (2, False)

    run(main())
