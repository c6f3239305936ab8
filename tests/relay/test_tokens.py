"""Tokens over real sockets: every way in, what a token may do, how it ends, and what a revocation ends."""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import sqlite3
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, InvalidStatus

from partyline import ConfigError, Settings, running
from partyline.app import build
from partyline.checking import check
from partyline.entries import ApiKey, JwtKey
from partyline.errors import StoreUnavailable
from partyline.metrics import exposition
from partyline.relay.v1.events import EventStream
from partyline.relay.v1.websocket import V1WebSocket
from partyline.server.websocket import WebSocket
from partyline.trust.keys import key_hash
from tests.calls import call
from tests.relay.v1.test_events import gone, joined, say, stream
from tests.relay.v1.test_websocket import WITHIN, line, run
from tests.tokens import ED, SECRET, claims, jwk, public_pem, sign, token

ROOT_KEY = "root"
KEYS = (JwtKey("HS256", secret=SECRET, admin=True),)


def settings(db: str | Path = ":memory:", **fields: Any) -> Settings:
    """A server that takes tokens, and one API key with all rights."""
    root = ApiKey(key_hash(ROOT_KEY), admin=True)
    defaults: dict[str, Any] = {"api_keys": (root,), "jwt_keys": KEYS, "auth_failures_per_minute": 0}
    return Settings(port=0, db=str(db), **{**defaults, **fields})


def as_bearer(credential: str | None) -> dict[str, str]:
    return {} if credential is None else {"Authorization": f"Bearer {credential}"}


async def ask(url: str, method: str, path: str, body: Any = None, by: str | None = None) -> tuple[int, Any]:
    """One call with a credential. An error is its code."""
    status, found = await call(url + path, method, body, headers=as_bearer(by))
    return status, found["error"]["code"] if status >= 400 else found


async def revoke(url: str, by: str = ROOT_KEY, **what: Any) -> Any:
    status, found = await ask(url, "POST", "/v1/revocations", what, by)
    assert status == 200, found
    return found


async def refused(url: str, **options: Any) -> int:
    """The status with which an upgrade to /v1/ws is refused."""
    with pytest.raises(InvalidStatus) as caught:
        async with connect(url.replace("http", "ws", 1) + "/v1/ws" + options.pop("query", ""), **options):
            pass
    return caught.value.response.status_code


async def ended(socket: ClientConnection) -> tuple[int | None, str | None]:
    """How a classic connection ends; nothing may arrive before that."""
    async with asyncio.timeout(WITHIN):
        with pytest.raises(ConnectionClosed):
            await socket.recv()
    return socket.close_code, socket.close_reason


@contextlib.asynccontextmanager
async def classic(url: str, user: str, by: str, **fields: Any) -> AsyncIterator[tuple[ClientConnection, str]]:
    """A classic connection of a registration made with this credential, and its id."""
    status, body = await ask(url, "POST", "/register", {"user_id": user, "topics": ["cats"], **fields}, by)
    assert status == 200, body
    async with connect(body["url"]) as socket:
        await socket.send("ping")
        assert await socket.recv() == "pong"
        yield socket, body["url"].rpartition("/")[2]


# Each way in


def test_a_token_in_the_header() -> None:
    """Over HTTP and at the upgrade a token is accepted in Authorization: Bearer; `from` is its sub."""

    async def main() -> None:
        async with running(settings()) as (_, url):
            address = url.replace("http", "ws", 1) + "/v1/ws"
            async with connect(address, additional_headers=as_bearer(token("ann"))) as socket:
                await socket.recv()
                await socket.send(json.dumps({"type": "subscribe", "topic": "cats"}))
                await socket.recv()
                message = {"data": 1}
                assert (await ask(url, "POST", "/v1/topics/cats/messages", message, token("bob")))[0] == 200
                frame = json.loads(await socket.recv())
                assert (frame["type"], frame["from"], frame["data"]) == ("message", "bob", 1)
            for wrong in (None, token("ann", -1), sign(claims(), "x" * 40), "a.b.c"):
                assert (await ask(url, "POST", "/v1/topics/cats/messages", message, wrong))[0] == 401
                if wrong is not None:
                    assert await refused(url, additional_headers=as_bearer(wrong)) == 401

    run(main())


def test_a_token_beside_the_subprotocol() -> None:
    """A token is accepted as `bearer.<token>` beside partyline.v1, which is the chosen subprotocol; a wrong one gets
    401."""

    async def main() -> None:
        async with running(settings()) as (_, url):
            async with line(url, token("ann")) as client:
                assert client.socket.subprotocol == "partyline.v1"
                assert (await client.ask("publish", topic="cats", data=1))["type"] == "reply"
            assert await refused(url, subprotocols=["partyline.v1", f"bearer.{token('ann', -1)}"]) == 401

    run(main())


def test_a_token_in_the_first_command() -> None:
    """A token is accepted in `auth`, whose reply names the user; an invalid one gets an error and 4401."""

    async def main() -> None:
        async with running(settings()) as (partyline, url):
            async with line(url) as client:
                assert await client.ask("auth", token=token("ann")) == {"type": "reply", "user": "ann"}
                assert (await client.ask("subscribe", topic="cats"))["type"] == "reply"
            for wrong, code in ((token("ann", -1), "token_expired"), (sign(claims(), "x" * 40), "unauthenticated")):
                async with line(url) as client:
                    answer = await client.ask("auth", token=wrong)
                    assert (answer["type"], answer["code"]) == ("error", code)
                    assert await client.ended() == (4401, code)
            assert partyline.counters.refused == 2

    run(main())


def test_a_token_in_the_address() -> None:
    """`?token=` is accepted for /v1/ws and event streams if the token has iat and lives for five minutes at most, but
    not for other calls, not for keys, and not beside another credential."""

    async def main() -> None:
        async with running(settings()) as (partyline, url):
            short = token("ann", 299)
            async with connect(url.replace("http", "ws", 1) + f"/v1/ws?x=1&token={short}") as socket:
                assert json.loads(await socket.recv())["type"] == "welcome"
                await socket.send('{"type": "publish", "topic": "cats", "data": 1}')
                assert json.loads(await socket.recv())["type"] == "reply"
            async with stream(url, "cats", f"?token={short}") as source:
                assert source.status == 200
                await joined(partyline, "cats")
                await say(partyline, "cats", 7)
                assert await source.data(1) == [7]
            now = time.time()
            bad = (
                token("ann", 301),
                sign({"sub": "ann", "exp": now + 60, "topics": [">"]}),
                token("ann", 5, iat=now - 400),
                token("ann", -1),
                sign(claims(life=60), "x" * 40),
                ROOT_KEY,
                "",
                "%00",
            )
            for wrong in bad:
                async with stream(url, "cats", f"?token={wrong}") as source:
                    assert source.status == 401, wrong
                if wrong:
                    assert await refused(url, query=f"?token={wrong}") == 401
            wrong_header = as_bearer(token("ann", -1))
            assert await refused(url, query=f"?token={short}", additional_headers=wrong_header) == 401
            assert (await ask(url, "GET", f"/v1/topics/cats/messages?token={short}"))[0] == 401
            assert (await ask(url, "POST", f"/publish?token={short}", {"topic": "cats", "message": 1}))[0] == 401

    run(main())


def test_keys_and_tokens_stand_side_by_side() -> None:
    """An API key still works where tokens are accepted; anything else gets 401, and so does a token if there are no JWT
    keys."""

    async def main() -> None:
        async with running(settings()) as (_, url):
            assert (await ask(url, "POST", "/publish", {"topic": "cats", "message": 1}, ROOT_KEY))[0] == 200
            assert await ask(url, "POST", "/publish", {"topic": "cats", "message": 1}, "no") == (401, "unauthenticated")
        async with running(settings(jwt_keys=())) as (_, url):
            assert (await ask(url, "POST", "/publish", {"topic": "cats", "message": 1}, token()))[0] == 401
            async with stream(url, "cats", f"?token={token('ann', 60)}") as source:
                assert source.status == 401

    run(main())


def test_jwt_ends_open_mode() -> None:
    """With JWT keys and no API key nobody gets in without a token, and an address beyond loopback may be bound."""

    async def main() -> None:
        async with running(settings(api_keys=())) as (_, url):
            assert await ask(url, "POST", "/register", {"user_id": 1}) == (401, "unauthenticated")
            assert (await ask(url, "POST", "/register", {"user_id": 1}, token(1)))[0] == 200
            async with line(url) as client:
                assert (await client.ask("subscribe", topic="cats"))["code"] == "unauthenticated"

    run(main())
    check(Settings(host="0.0.0.0", jwt_keys=KEYS))
    with pytest.raises(ConfigError, match="jwt_keys"):
        check(Settings(host="0.0.0.0"))


def test_failed_tokens_are_rate_limited() -> None:
    """Invalid tokens are failed authentications: after too many of them the address has to wait."""

    async def main() -> None:
        async with running(settings(auth_failures_per_minute=3)) as (_, url):
            wrong = sign(claims(), "x" * 40)
            found = [(await ask(url, "POST", "/publish", {"topic": "cats", "message": 1}, wrong))[0] for _ in range(5)]
            assert found == [401, 401, 401, 429, 429]

    run(main())


# Rights


def test_rights_of_a_token_go_by_pattern() -> None:
    """In every protocol a token may publish, subscribe and administer as its claims say, and no further."""

    async def main() -> None:
        async with running(settings()) as (_, url):
            ann = token("ann", topics={"publish": ["chat.*"], "subscribe": ["chat.>"]})
            async with line(url, ann) as client:
                for kind, topic, allowed in (
                    ("subscribe", "chat.>", True),
                    ("subscribe", "chat.a.b", True),
                    ("subscribe", ">", False),
                    ("subscribe", "news", False),
                    ("publish", "chat.a", True),
                    ("publish", "chat.a.b", False),
                    ("history", "news", False),
                    ("presence", "news", False),
                ):
                    answer = await client.ask(kind, topic=topic, **({"data": 1} if kind == "publish" else {}))
                    assert answer["type"] == ("reply" if allowed else "error"), (kind, topic)
                    assert allowed or answer["code"] == "forbidden"
            message = {"data": 1}
            assert (await ask(url, "POST", "/v1/topics/chat.a/messages", message, ann))[0] == 200
            assert await ask(url, "POST", "/v1/topics/news/messages", message, ann) == (403, "forbidden")
            both = {"messages": [{"topic": "chat.a", "data": 1}, {"topic": "news", "data": 1}]}
            assert await ask(url, "POST", "/v1/publish", both, ann) == (403, "forbidden")
            assert await ask(url, "GET", "/v1/topics/news/messages", None, ann) == (403, "forbidden")
            async with stream(url, "news", token=ann) as source:
                assert source.status == 403
            assert await ask(url, "POST", "/v1/revocations", {"sub": "bob"}, ann) == (403, "forbidden")
            assert (await revoke(url, token("boss", admin=True), sub="bob"))["sub"] == "bob"

    run(main())


def test_classic_calls_are_for_the_tokens_own_user() -> None:
    """Register, unregister, add_topic and remove_topic require the user to be the token's sub, and the patterns of the
    token that made a registration limit its topics for ever; publish requires only the right to the topic."""

    async def main() -> None:
        async with running(settings()) as (_, url):
            ann, bob = token(1, topics=["cats", "dogs"]), token("bob")
            body = {"user_id": 1, "topics": ["cats"]}
            assert await ask(url, "POST", "/register", body, bob) == (403, "forbidden")
            assert await ask(url, "POST", "/register", {**body, "topics": ["birds"]}, ann) == (403, "forbidden")
            async with classic(url, "1", ann) as (socket, own):
                for method, path, what in (
                    ("POST", "/add_topic", {"topic": "dogs", "client_id": own}),
                    ("DELETE", "/remove_topic", {"topic": "dogs", "client_id": own}),
                    ("DELETE", f"/register/{own}", None),
                ):
                    assert await ask(url, method, path, what, bob) == (403, "forbidden")
                    if path == "/add_topic":
                        more = {"topic": "birds", "client_id": own}
                        assert await ask(url, method, path, more, ROOT_KEY) == (403, "forbidden")
                        assert await ask(url, method, path, more, token(1)) == (403, "forbidden")
                        await socket.send('{"topics": ["birds"]}')
                        assert json.loads(await socket.recv())["error"]["code"] == "forbidden"
                    if method == "POST":
                        assert (await ask(url, method, path, what, ann))[0] == 200
                async with line(url, token("eve")) as client:
                    await client.ask("subscribe", topic="cats")
                    message = {"topic": "cats", "message": "hi", "user_id": 1}
                    assert (await ask(url, "POST", "/publish", {**message, "topic": "fish"}, ann))[0] == 403
                    assert (await ask(url, "POST", "/publish", message, bob))[0] == 200
                    assert await socket.recv() == "hi"
                    assert (await ask(url, "POST", "/publish", {"topic": "cats", "message": "all"}, ann))[0] == 200
                    assert (await client.next())["from"] == "1"
                    assert await socket.recv() == "all"
                assert (await ask(url, "DELETE", f"/register/{own}", None, token(1)))[0] == 200
                assert await ended(socket) == (4001, "unregistered")

    run(main())


# The end of a token


@pytest.mark.alone
def test_expiry_ends_live_connections() -> None:
    """When the token expires, and not before, v1 is closed with 4401 and a stream of events ends; coming back gets
    401."""

    async def main() -> None:
        async with running(settings()) as (partyline, url):
            end = time.time() + 1.0
            own = token("ann", 250, exp=end)
            async with line(url, own) as client, stream(url, "cats", token=own) as source:
                await client.ask("subscribe", topic="cats")
                await joined(partyline, "cats", 2)
                await say(partyline, "cats", 1)
                assert await source.data(1) == [1]
                assert await source.rest() == []
                assert 0 <= time.time() - end < 1.5
                assert (await client.next())["data"] == 1
                assert await client.ended() == (4401, "token expired")
                assert 0 <= time.time() - end < 1.5
            assert await refused(url, additional_headers=as_bearer(own)) == 401
            async with stream(url, "cats", token=own) as source:
                assert source.status == 401
                assert (await source.body())["error"]["code"] == "token_expired"

    run(main())


def test_a_registration_outlives_its_token() -> None:
    """A registration made with a token outlives it, and so does its connection; only the calls still need a token."""

    async def main() -> None:
        async with running(settings()) as (_, url):
            own = token("ann", 250, exp=time.time() + 0.6)
            async with classic(url, "ann", own) as (socket, connection_id):
                while (await ask(url, "GET", "/v1/topics/cats/messages", None, own))[0] == 200:
                    await asyncio.sleep(0.05)
                change = {"topic": "dogs", "client_id": connection_id}
                assert await ask(url, "POST", "/add_topic", change, own) == (401, "token_expired")
                await ask(url, "POST", "/publish", {"topic": "cats", "message": "still"}, ROOT_KEY)
                assert await socket.recv() == "still"

    run(main())


# Revocation: hostile 37


@pytest.mark.parametrize("what", [{"sub": "ann"}, {"jti": "t1"}], ids=["sub", "jti"])
def test_hostile_37_revoked_while_connected(what: dict[str, Any]) -> None:
    """Once a revocation is answered, nothing reaches what depended on the token: v1 is closed with 4401, streams end,
    registrations made with it are gone and their connections closed with 4001. Others stay."""

    async def main() -> None:
        async with running(settings()) as (partyline, url):
            own, other = token("ann", jti="t1"), token("bob", jti="t2")
            async with (
                line(url, own) as v1,
                stream(url, "cats", token=own) as events,
                classic(url, "ann", own) as (socket, connection_id),
                line(url, other) as v1_of_bob,
                stream(url, "cats", token=other) as events_of_bob,
                classic(url, "bob", other) as (socket_of_bob, _),
                classic(url, "ann", ROOT_KEY) as (by_key, _),
            ):
                await v1.ask("subscribe", topic="cats")
                await v1_of_bob.ask("subscribe", topic="cats")
                await joined(partyline, "cats", 7)
                answer = await revoke(url, **what)
                assert answer == {**what, "time": answer["time"], "ended": 3}
                assert abs(answer["time"] - time.time()) < WITHIN
                await say(partyline, "cats", 1)
                assert await v1.ended() == (4401, "token revoked")
                assert not v1.heard
                assert await events.rest() == []
                assert await ended(socket) == (4001, "token revoked")
                assert await v1_of_bob.data(1) == [1]
                assert await events_of_bob.data(1) == [1]
                assert await socket_of_bob.recv() == "1"
                assert await by_key.recv() == "1"
            assert await refused(url, additional_headers=as_bearer(own)) == 401
            async with stream(url, "cats", token=own) as source:
                assert (source.status, (await source.body())["error"]["code"]) == (401, "token_revoked")
            for method, path, body in (
                ("POST", "/register", {"user_id": "ann"}),
                ("POST", "/publish", {"topic": "cats", "message": 1}),
                ("POST", "/v1/topics/cats/messages", {"data": 1}),
                ("POST", "/v1/publish", {"messages": [{"topic": "cats", "data": 1}]}),
                ("GET", "/v1/topics/cats/messages", None),
                ("DELETE", f"/register/{connection_id}", None),
            ):
                assert await ask(url, method, path, body, own) == (401, "token_revoked"), path
            assert await ask(url, "DELETE", f"/register/{connection_id}", None, ROOT_KEY) == (404, "unknown_connection")
            assert (await ask(url, "POST", "/publish", {"topic": "cats", "message": 1}, other))[0] == 200
            later = token("ann", jti="t3", iat=time.time() + 1)
            assert (await ask(url, "POST", "/publish", {"topic": "cats", "message": 1}, later))[0] == 200
            assert {name for _, name in partyline.registry._revoker._holders} <= {"bob", "t2"}  # type: ignore[union-attr]

    run(main())


def test_hostile_37_what_is_queued_is_not_sent() -> None:
    """What waits in the outbox of a slow consumer is dropped when its token is revoked or its registration removed."""

    async def main() -> None:
        async with running(settings()) as (partyline, url):
            own = token("ann", jti="t1")
            async with line(url, own, max_queue=1) as client:
                await client.ask("subscribe", topic="cats")
                (socket,) = [
                    one
                    for one in partyline.site.live
                    if isinstance(one, WebSocket) and isinstance(one.session, V1WebSocket)
                ]
                socket.pause_writing()  # as the transport does whose peer does not read
                await say(partyline, "cats", 1, 2)
                assert socket._outbox
                await revoke(url, jti="t1")
                assert not socket._outbox
                socket.resume_writing()
                assert await client.ended() == (4401, "token revoked")
                assert partyline.counters.dropped == 2

    run(main())


def test_hostile_37_a_stream_that_nobody_reads_is_cut() -> None:
    """If a stream's token is revoked while the client does not read, the stream is cut after `close_timeout` and
    nothing more is sent."""

    async def main() -> None:
        rules = settings(close_timeout=0.1, outbox_bytes=1 << 25)
        own = token("ann")
        async with running(rules) as (partyline, url), stream(url, "cats", token=own, buffer=4096) as client:
            await joined(partyline, "cats")
            client.writer.transport.pause_reading()  # type: ignore[attr-defined]
            (source,) = [one for one in partyline.site.live if isinstance(one, EventStream)]
            while len(source._outbox) < 20:
                await say(partyline, "cats", "x" * 100_000)
                for _ in range(5):
                    await asyncio.sleep(0)
            await revoke(url, sub="ann")
            assert not source._outbox
            await say(partyline, "cats", 1)
            assert not source._outbox
            assert source in partyline.site.live
            await gone(partyline)
            assert not partyline.hub.rooms.members("cats")

    run(main())


def test_hostile_37_after_a_restart(tmp_path: Path) -> None:
    """A revocation is on disk when it is answered: after a restart the token is still refused, and a registration made
    with it is not found, even if the process ended before the registrations were written."""

    async def main() -> None:
        db = tmp_path / "party.db"
        own, jti_only, other = token("ann"), token("eve", jti="t9"), token("bob")
        async with running(settings(db)) as (partyline, url):
            ids = {}
            for user, by in (("ann", own), ("eve", jti_only), ("bob", other)):
                _, body = await ask(url, "POST", "/register", {"user_id": user, "topics": ["cats"]}, by)
                ids[user] = body["url"].rpartition("/")[2]
            await partyline.database.flush()
            partyline.registry._table.delete = lambda _hash: None  # type: ignore[method-assign] # as a crash would
            assert (await revoke(url, sub="ann"))["ended"] == 1
            assert (await revoke(url, jti="t9"))["ended"] == 1
        async with running(settings(db)) as (partyline, url):
            for by in (own, jti_only):
                assert await ask(url, "POST", "/publish", {"topic": "cats", "message": 1}, by) == (401, "token_revoked")
            assert (await ask(url, "POST", "/publish", {"topic": "cats", "message": 1}, other))[0] == 200
            for user in ("ann", "eve"):
                status = (await ask(url, "DELETE", f"/register/{ids[user]}", None, ROOT_KEY))[0]
                assert status == 404, user
            # Restored registrations still depend on their tokens.
            async with connect(f"{url.replace('http', 'ws', 1)}/ws/{ids['bob']}") as socket:
                assert (await revoke(url, sub="bob"))["ended"] == 1
                assert await ended(socket) == (4001, "token revoked")

    run(main())


def test_hostile_37_a_removed_registration_stops_live_delivery() -> None:
    """Once DELETE /register/{id} is answered, nothing reaches the connection."""

    async def main() -> None:
        async with (
            running(settings()) as (partyline, url),
            classic(url, "ann", token("ann")) as (socket, connection_id),
        ):
            assert (await ask(url, "DELETE", f"/register/{connection_id}", None, token("ann")))[0] == 200
            await say(partyline, "cats", 1)
            assert await ended(socket) == (4001, "unregistered")

    run(main())


def test_hostile_37_revoked_while_a_call_is_under_way() -> None:
    """An admitted call whose body arrives after its token was revoked gets 401 and changes nothing."""

    async def main() -> None:
        async with running(settings()) as (partyline, url):
            parts = urlsplit(url)
            bodies = {
                "/register": {"user_id": "ann"},
                "/publish": {"topic": "cats", "message": 1},
                "/add_topic": {"topic": "cats", "client_id": "x"},
                "/v1/topics/cats/messages": {"data": 1},
                "/v1/publish": {"messages": [{"topic": "cats", "data": 1}]},
                "/v1/revocations": {"sub": "bob"},
            }
            calls = []
            for path, body in bodies.items():
                data = json.dumps(body).encode()
                reader, writer = await asyncio.open_connection(parts.hostname, parts.port)
                own = token("ann", admin=True)
                writer.write(
                    f"POST {path} HTTP/1.1\r\nHost: {parts.netloc}\r\nAuthorization: Bearer {own}\r\n"
                    f"Content-Type: application/json\r\nContent-Length: {len(data)}\r\n\r\n".encode()
                )
                writer.write(data[:1])
                calls.append((path, data, reader, writer))
            while partyline.counters.requests < len(calls):
                await asyncio.sleep(0.01)
            await revoke(url, sub="ann")
            for path, data, reader, writer in calls:
                writer.write(data[1:])
                async with asyncio.timeout(WITHIN):
                    assert b" 401 " in await reader.readline(), path
                writer.transport.abort()
            assert len(partyline.registry) == 0
            assert partyline.counters.published == 0

    run(main())


def test_a_revocation_is_answered_after_its_commit(tmp_path: Path) -> None:
    """The answer waits for the disk; if the write fails, the answer is 503, and the revocation is in force all the
    same."""

    async def main() -> None:
        async with running(settings(tmp_path / "party.db")) as (partyline, url):
            table = partyline.registry._revoker._table  # type: ignore[union-attr]

            async def fails(*_: Any, **__: Any) -> None:
                raise StoreUnavailable("not now")

            table.save, save = fails, table.save  # type: ignore[method-assign]
            own = token("ann")
            async with line(url, own) as client:
                what = {"sub": "ann"}
                assert await ask(url, "POST", "/v1/revocations", what, ROOT_KEY) == (503, "store_unavailable")
                assert await client.ended() == (4401, "token revoked")
            assert await ask(url, "POST", "/publish", {"topic": "cats", "message": 1}, own) == (401, "token_revoked")
            table.save = save  # type: ignore[method-assign]
            at = (await revoke(url, sub="ann"))["time"]
            assert partyline.database.path
            rows = await asyncio.to_thread(rows_of, tmp_path / "party.db")
            assert rows == [("sub", "ann", at)]

    run(main())


def rows_of(path: Path) -> list[Any]:
    with contextlib.closing(sqlite3.connect(path)) as connection:
        return connection.execute("SELECT kind, name, at FROM revocations").fetchall()


@pytest.mark.parametrize(
    "body",
    [
        {},
        {"sub": None},
        {"sub": "ann", "jti": "t"},
        {"sub": ""},
        {"sub": -1},
        {"sub": "a\n"},
        {"sub": 1.5},
        {"jti": ""},
        {"jti": "x" * 257},
        {"jti": "a\0"},
        {"jti": 1},
        {"user": "ann"},
    ],
)
def test_a_revocation_that_means_nothing_is_refused(body: Any) -> None:
    """Neither or both of sub and jti, or an invalid value, gets 422 and revokes nothing."""

    async def main() -> None:
        async with running(settings()) as (partyline, url):
            status, code = await ask(url, "POST", "/v1/revocations", body, ROOT_KEY)
            assert (status, code in ("invalid", "invalid_user_id")) == (422, True)
            assert len(partyline.registry._revoker._revocations) == 0  # type: ignore[union-attr]

    run(main())


def test_a_user_is_revoked_by_number_or_text() -> None:
    """1 and "1" are one user, in a token and in a revocation."""

    async def main() -> None:
        async with running(settings()) as (_, url):
            for sub, revoked_as in ((1, "1"), ("2", 2)):
                own = token(sub)
                assert (await revoke(url, sub=revoked_as))["sub"] == str(sub)
                assert (await ask(url, "POST", "/publish", {"topic": "cats", "message": 1}, own))[0] == 401

    run(main())


# Keys


def test_each_algorithm_and_a_key_set(tmp_path: Path) -> None:
    """Keys come from PEM text, from files and from a key set; each verifies only tokens of its own algorithm."""
    jwks = tmp_path / "keys.json"
    jwks.write_text(json.dumps({"keys": [jwk(ED, "e1")]}))
    secret = tmp_path / "secret"
    secret.write_text(SECRET + "\n")
    pem = tmp_path / "key.pem"
    pem.write_text(public_pem(ED))

    async def main() -> None:
        by_ed = sign(claims("ed"), ED, {"alg": "EdDSA", "kid": "e1"})
        for keys in (
            (JwtKey("EdDSA", public_key=public_pem(ED)),),
            (JwtKey("EdDSA", public_key_file=str(pem)),),
            (JwtKey("EdDSA", jwks_file=str(jwks)),),
            (JwtKey("HS256", secret_file=str(secret)), JwtKey("EdDSA", public_key=public_pem(ED), kid="e1")),
        ):
            async with running(settings(jwt_keys=keys)) as (_, url):
                message = {"topic": "cats", "message": 1}
                assert (await ask(url, "POST", "/publish", message, by_ed))[0] == 200
                wanted = 200 if keys[0].algorithm == "HS256" else 401
                assert (await ask(url, "POST", "/publish", message, token()))[0] == wanted

    run(main())


def test_a_key_that_cannot_be_used_stops_the_start(tmp_path: Path) -> None:
    """A key file that is missing or holds no key is a ConfigError before anything is opened."""
    (tmp_path / "empty").touch()

    async def main() -> None:
        for key in (
            JwtKey("HS256", secret_file=str(tmp_path / "none")),
            JwtKey("HS256", secret_file=str(tmp_path / "empty")),
            JwtKey("HS256", secret="short"),
            JwtKey("EdDSA", jwks_file=str(tmp_path / "empty")),
            JwtKey("RS256", public_key_file=str(tmp_path)),
            JwtKey("HS256", secret_file=""),
        ):
            with pytest.raises(ConfigError) as caught:
                build(settings(tmp_path / "party.db", jwt_keys=(key,)))
            assert caught.value.field == "jwt_keys"
            file = key.secret_file if key.secret_file is not None else key.public_key_file
            if "cannot be read" in caught.value.message:
                assert f"{file!r} cannot be read" in caught.value.message
            assert not (tmp_path / "party.db").exists()

    run(main())


# Hostile 39


def test_hostile_39_tokens_are_written_nowhere(caplog: pytest.LogCaptureFixture) -> None:
    """Neither a token, whole or in part, nor the secret appears in a log line, an answer or the metrics."""
    caplog.set_level(logging.DEBUG, "partyline")
    good, wrong = token("ann", 250, jti="t1"), sign(claims(life=250), "y" * 40)
    said: list[str] = []

    async def main() -> None:
        async with running(settings(log_level="debug")) as (partyline, url):
            for own in (good, wrong, good[:-2], good + "x"):
                for method, path, body in (
                    ("POST", "/publish", {"topic": "cats", "message": 1}),
                    ("GET", "/v1/topics/cats/messages", None),
                    ("POST", "/v1/revocations", {"jti": own[:200]}),
                ):
                    _, found = await call(url + path, method, body, headers=as_bearer(own))
                    said.append(json.dumps(found) if path != "/v1/revocations" else "")
                async with stream(url, "cats", f"?token={own}") as source:
                    if source.status != 200:
                        said.append(json.dumps(await source.body()))
                async with line(url) as client:
                    said.append(json.dumps(await client.ask("auth", token=own)))
            said.append(exposition(partyline.counters, 1).decode())
            said.append(repr(partyline.settings))

    run(main())
    assert caplog.records
    said.extend([caplog.text, *(str(vars(record)) for record in caplog.records)])
    for text in said:
        for secret in (SECRET, *good.split(".")[1:], *wrong.split(".")[1:]):
            assert secret not in text
