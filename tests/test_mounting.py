"""partyline.Application: when it starts, on which loop, what it serves, and publishing from a program."""

from __future__ import annotations

import asyncio
import json
import logging
import logging.config
from pathlib import Path
from typing import Any

import pytest
import uvicorn.config
from starlette.applications import Starlette
from starlette.routing import Mount
from starlette.testclient import TestClient, WebSocketDenialResponse
from starlette.websockets import WebSocketDisconnect
from websockets.asyncio.client import connect

from partyline import Application, ConfigError, EngineIO, Partyline, Position, Settings, running
from partyline.entries import ApiKey
from partyline.errors import Conflict, InvalidValue, StoreUnavailable
from partyline.interfaces import View
from partyline.trust.keys import key_hash
from tests.calls import call, register
from tests.server.asgi_servers import asgi_server
from tests.server.peers import connected, request
from tests.server.servers import eventually

OPEN = Settings(db=":memory:")
KEYS = Settings(db=":memory:", api_keys=(ApiKey(key_hash("k"), ("cats",), ("cats",), admin=False),))
HERE, WS = "http://localhost", "ws://localhost"


async def get(app: Any, path: str, *, client: Any = ("127.0.0.1", 1), **headers: str) -> tuple[int, Any]:
    """The answer of an ASGI application to a GET, as a server would ask it."""
    sent: list[Any] = []

    async def receive() -> Any:
        return {"type": "http.request", "body": b"", "more_body": False}

    async def send(message: Any) -> None:
        sent.append(message)

    scope = {
        "type": "http",
        "method": "GET",
        "path": path,
        "query_string": b"",
        "headers": [(b"host", b"localhost"), *((n.encode(), v.encode()) for n, v in headers.items())],
        "client": client,
    }
    await app(scope, receive, send)
    return sent[0]["status"], json.loads(b"".join(message.get("body", b"") for message in sent[1:]))


# Starting


def test_the_first_request_starts_it() -> None:
    """Nothing happens before the first request, and simultaneous requests start only one server."""

    async def main() -> None:
        app = Application(OPEN)
        assert app._partyline is None
        answers = await asyncio.gather(*(get(app, "/health") for _ in range(5)))
        assert answers == [(200, {"status": "ok"})] * 5
        server = app._partyline
        assert await app.start() is server
        assert await get(app, "/health") == (200, {"status": "ok"})
        assert app._partyline is server
        await app.close()
        await app.close()

    asyncio.run(main())


def test_the_first_to_come_may_leave() -> None:
    """A request that is cancelled during the start does not cancel the start for the others."""

    async def main() -> None:
        app = Application(OPEN)
        first, second = asyncio.create_task(app.start()), asyncio.create_task(app.start())
        await asyncio.sleep(0)
        first.cancel()
        assert isinstance(await second, Partyline)
        assert first.cancelled()
        await app.close()

    asyncio.run(main())


def test_a_lifespan_of_somebody_elses() -> None:
    """`lifespan` starts and closes it, as `FastAPI(lifespan=app.lifespan)` or inside another one."""
    app = Application(OPEN)
    outer = Starlette(routes=[Mount("/", app)], lifespan=app.lifespan)
    with TestClient(outer, base_url=HERE) as client:
        assert app._partyline is not None
        assert client.get("/health").json() == {"status": "ok"}
    assert app._partyline is None


def test_its_own_lifespan() -> None:
    """As the top application it is started and closed by the server's lifespan."""
    app = Application(OPEN)
    with TestClient(app, base_url=HERE) as client:
        assert app._partyline is not None
        assert client.get("/health").json() == {"status": "ok"}
    assert app._partyline is None


def test_the_hosts_logging_is_left_alone() -> None:
    """Starting changes no handler, level or switch of a logger; a filter is added to those that log addresses."""
    names = ("", "uvicorn", "uvicorn.access", "uvicorn.error", "hypercorn.access", "asyncio")
    loggers = [logging.getLogger(name) for name in names]

    def seen() -> list[tuple[Any, ...]]:
        return [(one.handlers[:], one.propagate, one.level, one.disabled) for one in loggers]

    earlier = [(*state, one.filters[:]) for state, one in zip(seen(), loggers, strict=True)]
    try:
        logging.config.dictConfig(uvicorn.config.LOGGING_CONFIG)
        before = seen()

        async def main() -> None:
            async with Application(OPEN).lifespan():
                assert seen() == before

        asyncio.run(main())
        assert seen() == before
    finally:
        for one, (handlers, propagate, level, disabled, filters) in zip(loggers, earlier, strict=True):
            one.handlers, one.propagate, one.disabled, one.filters = handlers, propagate, disabled, filters
            one.setLevel(level)


def test_settings_come_from_the_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Without settings of the program's, environment and file are read when it starts."""
    app = Application()
    file = tmp_path / "partyline.toml"
    file.write_text('default_topics = ["from.the.file"]')
    monkeypatch.setenv("PARTYLINE_CONFIG", str(file))
    monkeypatch.setenv("PARTYLINE_DB", ":memory:")

    async def main() -> None:
        settings = (await app.start()).settings
        assert (settings.db, settings.default_topics) == (":memory:", ("from.the.file",))
        await app.close()

    asyncio.run(main())


def test_one_that_cannot_start(caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch) -> None:
    """Settings that cannot be used fail the start-up, or each request with 500; peers are not told why."""
    monkeypatch.setenv("PARTYLINE_DB", ":memory:")
    monkeypatch.setenv("PARTYLINE_CORS_ORIGINS", "*")
    app = Application()

    async def main() -> None:
        for _ in range(2):
            status, answer = await get(app, "/health")
            assert (status, answer["error"]["code"]) == (500, "internal")
            assert "cors_origins" not in answer["error"]["message"]
        with pytest.raises(ConfigError, match="cors_origins"):
            await app.publish("cats", 1)

        sent: list[Any] = []
        inbox: asyncio.Queue[Any] = asyncio.Queue()

        async def send(message: Any) -> None:
            sent.append(message)

        inbox.put_nowait({"type": "lifespan.startup"})
        await app({"type": "lifespan"}, inbox.get, send)
        assert [message["type"] for message in sent] == ["lifespan.startup.failed"]
        assert "cors_origins" in sent[0]["message"]
        inbox.put_nowait({"type": "websocket.connect"})
        await app({"type": "websocket", "path": "/v1/ws", "headers": []}, inbox.get, send)
        assert sent[-1]["type"] == "websocket.close"

    asyncio.run(main())
    assert "cors_origins: * cannot be used" in caplog.text


def test_a_database_that_is_taken(tmp_path: Path) -> None:
    """Two applications do not share a database: the second says which process has it, and may start once it is free."""
    settings = Settings(db=str(tmp_path / "one.db"))

    async def main() -> None:
        first, second = Application(settings), Application(settings)
        async with first.lifespan():
            with pytest.raises(ConfigError, match="one\\.db"):
                await second.start()
        async with second.lifespan():
            assert await get(second, "/health") == (200, {"status": "ok"})

    asyncio.run(main())


def test_a_loop_that_is_gone(tmp_path: Path) -> None:
    """On a new loop, after the old one is closed, it starts again and has what was accepted before."""
    app = Application(Settings(db=str(tmp_path / "kept.db")))
    first = asyncio.run(app.publish("cats", "one"))
    second = asyncio.run(app.publish("cats", "two"))
    assert first is not None
    assert second == Position(first.epoch, first.offset + 1)
    asyncio.run(app.close())  # of a third loop: it has nothing to close, and does not mind
    asyncio.run(_closed(app))


async def _closed(app: Application) -> None:
    await app.start()
    await app.close()


def test_two_loops_at_once() -> None:
    """While it serves one loop, another one that is to be served, too, gets an error that says so."""
    app = Application(OPEN)

    async def main() -> None:
        await app.start()
        with pytest.raises(ConfigError, match="another event loop"):
            await asyncio.to_thread(asyncio.run, app.start())
        assert await get(app, "/health") == (200, {"status": "ok"})
        await app.close()

    asyncio.run(main())


def test_publishing_from_another_loop() -> None:
    """A publish that is awaited on another loop, in another thread, is made on the loop that is served, started or
    just starting; its errors come back, and one that is cancelled there takes no other with it."""
    app = Application(OPEN)

    async def elsewhere() -> None:
        assert await app.publish("cats", 2) is not None
        with pytest.raises(InvalidValue, match="topic"):
            await app.publish("no topic", 1)
        waiting = asyncio.create_task(app.publish("cats", 3))
        await asyncio.sleep(0)
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting
        assert await app.publish("cats", 4) is not None

    async def main() -> None:
        starting = asyncio.create_task(app.start())
        await asyncio.sleep(0)
        assert app._partyline is None
        assert await asyncio.to_thread(asyncio.run, app.publish("cats", 1)) is not None
        partyline = await starting
        await asyncio.to_thread(asyncio.run, elsewhere())
        page = await partyline.store.read(View(frozenset(("cats",))), 0, 10)
        assert [bytes(message.draft.data) for message in page.messages] in (
            [b"1", b"2", b"3", b"4"],
            [b"1", b"2", b"4"],
        )
        await app.close()

    asyncio.run(main())


def test_publishing_beside_a_loop_that_rests() -> None:
    """A loop that is served but does not run at the moment can do nothing: that is said, not waited for."""
    app = Application(OPEN)
    loop = asyncio.new_event_loop()
    try:
        loop.run_until_complete(app.start())
        with pytest.raises(ConfigError, match="another event loop"):
            asyncio.run(app.publish("cats", 1))
        loop.run_until_complete(app.close())
    finally:
        loop.close()


def test_after_the_end_it_starts_anew() -> None:
    """After it is closed, it starts again with the next request."""

    async def main() -> None:
        app = Application(OPEN)
        await app.publish("cats", 1)
        await app.close()
        position = await app.publish("cats", 2)
        assert position is not None
        assert position.offset == 1
        await app.close()

    asyncio.run(main())


def test_standing_for_a_server_that_runs() -> None:
    """Adopted, it publishes to the native server, and leaves the end to whoever runs that."""

    async def main() -> None:
        app = Application()
        async with running(Settings(port=0, db=":memory:"), fallback=app) as (server, url):
            app.adopt(server)
            async with app.lifespan(), connect(await register(url)) as line:
                assert await app.start() is server
                await app.publish("cats", "hello")
                assert await line.recv() == "hello"
            assert await call(f"{url}/health") == (200, {"status": "ok"})
            assert await app.publish("cats", "still here") is not None
            status, answer = await call(f"{url}/nothing")
            assert (status, answer["error"]["code"]) == (404, "not_found")

    asyncio.run(main())


# Serving


def test_below_a_path() -> None:
    """Mounted below a path, addresses that are given out lead there."""
    app = Application(OPEN)
    with TestClient(Starlette(routes=[Mount("/li ve", app)], lifespan=app.lifespan), base_url=HERE) as client:
        address = client.post("/li ve/register", json={"user_id": 1}).json()["url"]
        assert address.startswith("ws://localhost/li%20ve/ws/")
        with client.websocket_connect(address) as line:
            line.send_text("ping")
            assert line.receive_text() == "pong"
            client.post("/li ve/publish", json={"topic": "cats", "message": "hello"})
            assert line.receive_text() == "hello"
        assert client.get("/li ve/nothing").json()["error"]["code"] == "not_found"
        assert client.get("/health").status_code == 404


def test_public_url_says_it_all() -> None:
    """With public_url the address is that, wherever it is mounted."""
    app = Application(Settings(db=":memory:", public_url="https://chat.example.org/live"))
    with TestClient(Starlette(routes=[Mount("/here", app)], lifespan=app.lifespan), base_url=HERE) as client:
        address = client.post("/here/register", json={"user_id": 1}).json()["url"]
        assert address.startswith("wss://chat.example.org/live/ws/")


def test_answers_have_the_safety_headers() -> None:
    """On a foreign server our answers still have the safety headers."""
    with TestClient(Application(OPEN), base_url=HERE) as client:
        headers = client.get("/health").headers
        assert (headers["x-content-type-options"], headers["cache-control"]) == ("nosniff", "no-store")


def test_open_mode_is_for_this_machine() -> None:
    """Without keys other machines are refused, whatever address the server listens on, and so is a proxy's socket."""

    async def main() -> None:
        async with (app := Application(OPEN)).lifespan():
            for client in (("10.0.0.1", 1), ("2001:db8::1", 1), None):
                status, answer = await get(app, "/health", client=client)
                assert (status, answer["error"]["code"]) == (403, "open_mode_is_local")
            status, answer = await get(app, "/health", **{"x-forwarded-for": "10.0.0.1"})
            assert (status, answer["error"]["code"]) == (403, "forwarded_in_open_mode")
            for client in (("127.0.0.1", 1), ("::1", 1), ("testclient", 1)):
                assert (await get(app, "/health", client=client))[0] == 200
        for settings in (KEYS, Settings(db=":memory:", insecure=True)):
            async with (app := Application(settings)).lifespan():
                assert (await get(app, "/health", client=("10.0.0.1", 1)))[0] == 200

    asyncio.run(main())


def test_other_machines_have_limits() -> None:
    """With keys the limits are those of a server that others reach, since nobody knows where it listens."""

    async def main() -> None:
        for settings, per_second in ((OPEN, 0.0), (KEYS, 100.0)):
            app = Application(settings)
            limits = (await app.start()).site.limits
            assert limits.events_per_second == per_second
            assert bool(limits.max_connections_per_address) is bool(per_second)
            await app.close()

    asyncio.run(main())


def test_what_cannot_be_confirmed_cannot_be_resumed() -> None:
    """Registrations with `resume` are refused, since ASGI carries no pings to confirm with."""
    with TestClient(Application(OPEN), base_url=HERE) as client:
        answer = client.post("/register", json={"user_id": 1, "resume": True})
        assert (answer.status_code, answer.json()["error"]["code"]) == (422, "not_supported")
        assert client.post("/register", json={"user_id": 1, "resume": False}).status_code == 200


def test_a_quiet_line_is_heard(monkeypatch: pytest.MonkeyPatch) -> None:
    """If our pings do not reach the client, a quiet /v1/ws gets its position instead, so that the client knows it is
    alive."""
    settings = Settings(db=":memory:", ping_interval=0.05, ping_timeout=0.05)
    with TestClient(Application(settings), base_url=HERE) as client, client.websocket_connect(f"{WS}/v1/ws") as line:
        assert line.receive_json()["type"] == "welcome"
        assert [line.receive_json()["type"] for _ in range(2)] == ["position", "position"]


def test_lists_and_ends_of_connections() -> None:
    """The list of connections includes those over ASGI, and they can be ended there."""
    with TestClient(Application(OPEN), base_url=HERE) as client, client.websocket_connect(f"{WS}/v1/ws") as line:
        public_id = line.receive_json()["connection"]
        listed = client.get("/v1/connections").json()["connections"]
        assert [one["id"] for one in listed] == [public_id]
        assert client.delete(f"/v1/connections/{public_id}").status_code == 200
        with pytest.raises(WebSocketDisconnect) as closed:
            line.receive_json()
        assert closed.value.code == 4001


def test_extras_alone() -> None:
    """`relay=False` serves the extras and no relay."""
    engine = EngineIO("/engine.io/")
    engine.on_message(lambda connection, data: connection.send_message(data))
    app = Application(OPEN, extras=[engine], relay=False)
    with TestClient(app, base_url=HERE) as client:
        assert client.get("/engine.io/?EIO=4&transport=polling").text.startswith('0{"sid"')
        with client.websocket_connect(f"{WS}/engine.io/?EIO=4&transport=websocket") as line:
            assert line.receive_text().startswith("0{")
            line.send_text("4hello")
            assert line.receive_text() == "4hello"
        for path in ("/health", "/v1/topics", "/openapi.json"):
            assert client.get(path).status_code == 404
        with pytest.raises(WebSocketDenialResponse) as refused, client.websocket_connect(f"{WS}/v1/ws"):
            pass
        assert refused.value.status_code == 404


def test_a_foreign_scope() -> None:
    """An unknown kind of scope is an error that names it."""

    async def nothing(*_: Any) -> Any: ...

    with pytest.raises(ValueError, match="'gopher'"):
        asyncio.run(Application(OPEN)({"type": "gopher"}, nothing, nothing))


def test_close_tells_the_clients() -> None:
    """Closing tells every client to come back (1012), within drain_time."""

    async def main() -> None:
        app = Application(Settings(db=":memory:", drain_time=1.0))
        sent: list[Any] = []
        inbox: asyncio.Queue[Any] = asyncio.Queue()

        async def send(message: Any) -> None:
            sent.append(message)
            if message["type"] == "websocket.close":
                inbox.put_nowait({"type": "websocket.disconnect", "code": message["code"]})

        inbox.put_nowait({"type": "websocket.connect"})
        scope = {
            "type": "websocket",
            "path": "/v1/ws",
            "headers": [(b"host", b"localhost")],
            "client": ("127.0.0.1", 1),
        }
        serving = asyncio.create_task(app(scope, inbox.get, send))
        await eventually(lambda: len(sent) == 2, "it is welcomed")
        await app.close()
        assert sent[-1] == {"type": "websocket.close", "code": 1012, "reason": "server restarting"}
        await serving

    asyncio.run(main())


# Publishing


def test_publishing_from_the_program() -> None:
    """A publish from the program reaches subscribers, is kept, narrowed to a user, and harmless to repeat."""
    app = Application(OPEN)
    with TestClient(app, base_url=HERE) as client:
        assert client.portal is not None
        run = client.portal.call
        address = client.post("/register", json={"user_id": 7, "topics": ["cats"]}).json()["url"]
        with client.websocket_connect(address) as line:
            first: Any = run(lambda: app.publish("cats", {"n": 1}))
            assert isinstance(first, Position)
            assert line.receive_text() == '{"n":1}'
            run(lambda: app.publish("cats", "not for you", user="8"))
            to_user: Any = run(lambda: app.publish("cats", "for you", user=7, id="once"))
            assert line.receive_text() == "for you"
            again: Any = run(lambda: app.publish("cats", "for you", user=7, id="once"))
            assert again == to_user
            assert run(lambda: app.publish("cats", [None, 1.5, "é"], durable=False)) is None
            assert line.receive_text() == '[null,1.5,"é"]'
        kept = client.get("/v1/topics/cats/messages").json()["messages"]
        assert [message["data"] for message in kept] == [{"n": 1}]  # of those that are for everybody


def test_what_cannot_be_published() -> None:
    """An invalid topic, user, id or JSON value is refused with an error that names it; nothing is published."""

    async def main() -> None:
        async with (app := Application(OPEN)).lifespan():
            server = await app.start()
            with pytest.raises(InvalidValue) as topic:
                await server.publish("cats.*", 1)
            assert topic.value.field == "topic"
            with pytest.raises(InvalidValue) as user:
                await app.publish("cats", 1, user="")
            assert user.value.field == "user"
            with pytest.raises(InvalidValue) as ttl:
                await app.publish("cats", 1, ttl=-1)
            assert ttl.value.field == "ttl"
            with pytest.raises(TypeError):
                await app.publish("cats", object())
            await app.publish("cats", 1, id="one")
            with pytest.raises(Conflict):
                await app.publish("cats", 2, id="one")
            assert server.hub.fanned_out == 1
            await server.store.close()
            with pytest.raises(StoreUnavailable):
                await app.publish("cats", 3)

    asyncio.run(main())


@pytest.mark.parametrize("http", ["httptools", "h11"])
def test_trailer_fields_are_no_headers(http: str) -> None:
    """A trailer field that comes after the request was handed over is not a header: no key for `/relay`, whatever the
    server does with it."""

    async def main() -> None:
        app, asked = Application(KEYS), asyncio.Event()

        async def telling(scope: Any, receive: Any, send: Any) -> None:
            if scope["type"] == "http":
                asked.set()
            await app(scope, receive, send)

        path = "/socket.io/?EIO=4&transport=polling"
        async with asgi_server("uvicorn auto", telling, http=http) as url, connected(url) as peer:
            await peer.send(request("GET", path, None, "Transfer-Encoding: chunked"))
            await asked.wait()
            await peer.send(b"0\r\nAuthorization: Bearer k\r\n\r\n")
            sid = json.loads((await peer.answer()).body[1:])["sid"]
            await peer.send(request("POST", f"{path}&sid={sid}", b"40/relay,", "Content-Type: text/plain"))
            assert (await peer.answer()).status == 200
            await peer.send(request("GET", f"{path}&sid={sid}"))
            assert (await peer.answer()).body.startswith(b"44/relay,")

    asyncio.run(main())
