"""`partyline serve MODULE:NAME`: what may be named, how anything else is refused, and what is then served."""

from __future__ import annotations

import asyncio
import dataclasses
import json
import signal
from pathlib import Path

import pytest
from websockets.asyncio.client import connect

from partyline import Settings, load
from partyline.cli.target import under
from partyline.client import socketio
from tests.calls import call, register
from tests.process import serving
from tests.server.peers import connected, request
from tests.tools import one_in

from .commands import run
from .test_command_line import fails

MAIN = """
import contextlib
from pathlib import Path

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Mount, Route

import partyline

relay = partyline.Application(partyline.Settings(db="mine.db", default_topics=("dogs",), resume_window=7.0))
engine = partyline.EngineIO("/engine.io/")
engine.on_message(lambda connection, data: connection.send_message(data))
together = partyline.EngineIO("/together/")
number = 7
text = "text"


@contextlib.asynccontextmanager
async def lifespan(app):
    async with relay.lifespan():
        yield {"cat": "Tom"}
        position = await relay.publish("dogs", "the end")
        Path("ended").write_text(str(position))


async def cat(request: Request) -> JSONResponse:
    position = await relay.publish("dogs", request.state.cat)
    return JSONResponse(str(position))


app = Starlette(routes=[Route("/cat", cat), Mount("/live", relay), Mount("/", relay)], lifespan=lifespan)
plain = Starlette(routes=[Route("/cat", cat)])


def factory():
    return app
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "main.py").write_text(MAIN)
    (tmp_path / "two.py").write_text("import partyline\nfrom main import app\nother = partyline.Application()\n")
    (tmp_path / "engines.py").write_text(
        "import partyline\n"
        "engine = partyline.EngineIO('/mine/')\n"
        "engine.on_message(lambda connection, data: connection.send_message(data))\n"
        "alone = partyline.Application(extras=[engine], relay=False)\n"
    )
    (tmp_path / "events.py").write_text(
        "import partyline\n"
        "io = partyline.SocketIO()\n"
        "io.on('hello', lambda socket: 'mine')\n"
        "live = partyline.Application(extras=[io])\n"
    )
    (tmp_path / "broken.py").write_text("import a_module_that_nobody_has\n")
    (tmp_path / "failing.py").write_text(
        "from main import Starlette\nimport contextlib\n"
        "@contextlib.asynccontextmanager\nasync def lifespan(app):\n    raise RuntimeError('no database')\n    yield\n"
        "app = Starlette(lifespan=lifespan)\n"
    )
    return tmp_path


@pytest.mark.parametrize(
    ("target", "words"),
    [
        ("main", ["'main'", "MODULE:NAME", "main:app"]),
        (":app", ["MODULE:NAME"]),
        ("main:", ["MODULE:NAME"]),
        ("nowhere:app", ["no module 'nowhere'"]),
        ("main.inner:app", ["no module 'main.inner'"]),
        ("main:nothing", ["'main'", "'nothing'"]),
        ("main:number", ["main:number", "int"]),
        ("main:text", ["main:text", "str"]),
        ("main:factory", ["main:factory", "function"]),
        ("main:Starlette", ["main:Starlette", "type"]),
        ("two:app", ["2 instances of partyline.Application"]),
    ],
)
def test_what_cannot_be_served(folder: Path, target: str, words: list[str]) -> None:
    """A name that is missing, or neither an application nor an extra, gives one line that says so before anything
    listens."""
    fails(run("serve", target, "--port", "0", cwd=folder), *words)
    assert not (folder / "mine.db").exists()


def test_a_startup_that_fails(folder: Path) -> None:
    """An application whose start-up fails is not served: exit code 2, and why on the last line of the log."""
    done = run("serve", "failing:app", "--port", "0", cwd=folder)
    assert done.returncode == 2
    assert done.stdout == ""
    last = done.stderr.splitlines()[-1]
    assert last.startswith("partyline: the application's start-up failed: RuntimeError: no database")


def test_what_the_module_raises_is_shown(folder: Path) -> None:
    """An error inside the named module is shown with its stack trace, because its author needs it."""
    done = run("serve", "broken:app", "--port", "0", cwd=folder)
    assert done.returncode == 1
    assert "broken.py" in done.stderr
    assert "a_module_that_nobody_has" in done.stderr


@pytest.mark.check
def test_an_application_that_mounts_the_relay(folder: Path) -> None:
    """The relay of a served application is the native one: its publishes reach native clients, its settings apply, and
    its lifespan is run."""

    async def main() -> None:
        async with serving("main:app", db=folder / "flag.db", cwd=folder) as server:
            address = await register(server.url)
            assert "/live" not in address
            async with connect(address) as line:
                status, position = await call(f"{server.url}/cat")
                assert status == 200
                assert await line.recv() == "Tom"  # from the lifespan's state, on the topic of its settings
                # Below its mount the same relay answers, by ASGI; a path that nobody has is not passed around for ever.
                mounted = await register(f"{server.url}/live", 2)
                assert "/live/ws/" in mounted
                async with connect(mounted) as other:
                    await call(f"{server.url}/publish", "POST", {"topic": "dogs", "message": "both"})
                    assert await line.recv() == await other.recv() == "both"
                for path in ("/nothing", "/live/nothing"):
                    status, answer = await call(f"{server.url}{path}")
                    assert (status, answer["error"]["code"]) == (404, "not_found")
                # The native server can confirm deliveries, so the client may resume.
                await register(server.url, 3, resume=True)
                assert await server.end(signal.SIGTERM) == 0
                await line.wait_closed()
                assert line.close_code == 1012
        epoch, _, offset = position.rpartition("-")
        # Its shutdown ran before the log was closed; the flag overrides the program's setting.
        assert (folder / "ended").read_text() == f"{epoch}-{int(offset) + 2}"
        assert (folder / "flag.db").exists()
        assert not (folder / "mine.db").exists()
        assert "Traceback" not in server.errors.decode()

    asyncio.run(main())


@pytest.mark.parametrize(
    ("target", "path", "relay"),
    one_in(
        3,
        [("engines:alone", "/mine/", False), ("main:engine", "/engine.io/", True), ("engines:engine", "/mine/", True)],
    ),
)
def test_extras(folder: Path, target: str, path: str, relay: bool) -> None:
    """An EngineIO is served beside the relay; an Application with its extras, and without a relay if it says so."""

    async def main() -> None:
        async with serving(target, cwd=folder) as server:
            address = f"{server.url.replace('http', 'ws', 1)}{path}?EIO=4&transport=websocket"
            async with connect(address) as line:
                assert json.loads(str(await line.recv())[1:])["pingInterval"] == 25_000
                await line.send("4hello")
                assert await line.recv() == "4hello"
            assert (await call(f"{server.url}/health"))[0] == (200 if relay else 404)

    asyncio.run(main())


@pytest.mark.check
def test_an_application_without_a_relay_of_its_own(folder: Path) -> None:
    """Any ASGI application is served for the paths that are not ours."""

    async def main() -> None:
        (folder / "other.py").write_text(
            "async def app(scope, receive, send):\n"
            "    assert scope['type'] == 'http'\n"
            "    await send({'type': 'http.response.start', 'status': 200, 'headers': []})\n"
            "    await send({'type': 'http.response.body', 'body': b'\"mine\"'})\n"
        )
        async with serving("other:app", cwd=folder) as server:
            assert await call(f"{server.url}/anything") == (200, "mine")
            assert await call(f"{server.url}/health") == (200, {"status": "ok"})
            assert await server.end(signal.SIGTERM) == 0

    asyncio.run(main())


@pytest.mark.parametrize("transports", one_in(3, [["polling", "websocket"], ["websocket"], ["polling"]]))
@pytest.mark.parametrize("target", one_in(2, ["events:io", "events:live"]))
def test_a_socketio(folder: Path, target: str, transports: list[str]) -> None:
    """A SocketIO, or an Application with one, is reached by every transport; the chat is not in its way."""

    async def main() -> None:
        async with serving(target, cwd=folder) as server:
            async with socketio.connect(server.url, transports=transports) as client:
                assert await client.call("hello") == "mine"
            assert (await call(f"{server.url}/"))[0] == 404
            assert "--set chat=true" in server.facts["chat"]

    asyncio.run(main())


@pytest.mark.check
def test_a_handler_that_does_not_let_itself_be_cancelled(folder: Path) -> None:
    """A handler that cannot be cancelled does not keep the process alive: SIGTERM ends it with exit code 0 and a log
    line."""

    async def main() -> None:
        (folder / "stubborn.py").write_text(
            "import asyncio\nimport partyline\n"
            "io = partyline.SocketIO(disconnect_grace=0.1)\n"
            "@io.on('hang')\n"
            "async def hang(socket):\n"
            "    socket.emit('hangs')\n"
            "    while True:\n"
            "        try:\n"
            "            await asyncio.sleep(3600)\n"
            "        except asyncio.CancelledError:\n"
            "            pass\n"
        )
        async with serving("stubborn:io", "--set", "drain_time=1", cwd=folder) as server:
            hangs = asyncio.Event()
            async with socketio.connect(server.url) as client:
                client.on("hangs", hangs.set)
                client.emit("hang")
                await asyncio.wait_for(hangs.wait(), 10)
            assert await server.end(signal.SIGTERM) == 0
            assert "the process ends without them" in server.errors.decode()

    asyncio.run(main())


def test_two_at_one_path(folder: Path) -> None:
    """Asking for the chat beside a SocketIO at the same path gives one line that names the path and what to do."""
    done = run("serve", "events:io", "--port", "0", "--set", "chat=true", cwd=folder)
    fails(done, "/socket.io/", "give one of them another path")


@pytest.mark.check
def test_the_first_page_is_the_applications(folder: Path) -> None:
    """Beside an application the chat is served only on request: `/` belongs to the application."""

    async def main() -> None:
        (folder / "other.py").write_text(
            "from starlette.applications import Starlette\n"
            "from starlette.responses import JSONResponse\n"
            "from starlette.routing import Route\n"
            "app = Starlette(routes=[Route('/', lambda request: JSONResponse('mine'))])\n"
        )
        async with serving("other:app", cwd=folder) as server:
            assert await call(f"{server.url}/") == (200, "mine")
        async with serving("other:app", "--set", "chat=true", cwd=folder) as server, connected(server.url) as peer:
            await peer.send(request("GET", "/"))
            assert b"<!doctype html>" in (await peer.answer()).body.lower()
            assert server.facts["chat"] == f"{server.url}/"

    asyncio.run(main())


@pytest.mark.check
def test_the_chat_where_there_are_keys() -> None:
    """The chat asks for no key, so a server with keys serves it only on request, and the start-up lines say so."""

    async def main() -> None:
        key = ("--api-key", "a key that is long enough")
        for arguments, status in ((key, 404), ((*key, "--set", "chat=true"), 200)):
            async with serving(*arguments) as server, connected(server.url) as peer:
                await peer.send(request("GET", "/"))
                assert (await peer.answer()).status == status
                assert ("open to everybody" if status == 200 else "--set chat=true") in server.facts["chat"]

    asyncio.run(main())


def test_whose_setting_counts() -> None:
    """Flags, environment and file override the program, which overrides the defaults."""
    mine = Settings(port=1, db="mine.db", max_body=5)
    loaded = load({"port": 2}, environ={"PARTYLINE_DB": "env.db"})
    assert under(loaded, mine) == dataclasses.replace(mine, port=2, db="env.db")
    assert under(loaded, None) is loaded.settings
    open_host = load(environ={"PARTYLINE_HOST": "0.0.0.0"})  # which would be refused without the program's key
    assert under(open_host, Settings(api_keys=("sha256:" + "0" * 64,))).host == "0.0.0.0"
