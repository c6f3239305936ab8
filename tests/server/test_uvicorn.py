"""What uvicorn does not give (docs/decisions/0002-uvicorn-as-the-shell.md), and that Partyline does.

Each test runs one probe twice: against plain uvicorn, where the pitfall shows, and against Partyline, where it must
not. A failure on uvicorn's side is good news: the sentence says which code of ours may go.
"""

from __future__ import annotations

import asyncio
import gc
import inspect
import re
import signal
import sys
import tomllib
import weakref
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import httptools
import pytest
import uvicorn
from uvicorn.lifespan.off import LifespanOff
from uvicorn.protocols.http.flow_control import FlowControl
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle
from uvicorn.server import ServerState

from partyline.config import ApiKey
from partyline.server.http import HttpProtocol
from partyline.server.shell import Shell
from partyline.trust.keys import key_hash
from partyline.wire.websocket.connection import Connection, Limits
from tests import tools
from tests.process import environment, serving
from tests.server.apps import app
from tests.server.conftest import Certificate
from tests.server.peers import WITHIN, connected, request, upgrade, websocket
from tests.server.servers import echo, eventually, nothing_is_held, partyline_server, plain_uvicorn, registered

DEADLINE = 0.2  # what Partyline is given
LONG = 0.7  # what plain uvicorn is watched for, with each deadline it has set to 0.1 s
SECRET = "sesame-0123456789"


def test_head_deadline() -> None:
    """A request's head that does not end is waited for without end by uvicorn, and answered 408 by Partyline."""

    async def main() -> None:
        begun = b"GET /there HTTP/1.1\r\nHost: 127.0.0.1\r\nX-Slow: a"
        async with plain_uvicorn(app, timeout_keep_alive=0.1) as (_, url), connected(url) as peer:
            await peer.send(begun)
            assert await peer.hears_nothing(LONG), "uvicorn has a deadline for heads now: HttpProtocol's may go"
            await peer.send(b"\r\n\r\n")
            assert (await peer.answer()).status == 200
        async with partyline_server(fallback=app, head_timeout=DEADLINE) as (_, url), connected(url) as peer:
            await peer.send(begun)
            assert (await peer.answer()).status == 408
            assert await peer.rest() == b""

    asyncio.run(main())


def test_body_deadline() -> None:
    """A request's body that does not end is waited for without end by uvicorn, and answered 408 by Partyline."""

    async def main() -> None:
        begun = request("POST", "/there", None, "Content-Length: 10") + b"12345"
        async with plain_uvicorn(app, timeout_keep_alive=0.1) as (_, url), connected(url) as peer:
            await peer.send(begun)
            assert await peer.hears_nothing(LONG), "uvicorn has a deadline for bodies now: HttpProtocol's may go"
            await peer.send(b"67890")
            assert (await peer.answer()).json["body"] == "1234567890"
        async with partyline_server(fallback=app, body_timeout=DEADLINE) as (_, url), connected(url) as peer:
            await peer.send(begun)
            assert (await peer.answer()).status == 408
            assert await peer.rest() == b""

    asyncio.run(main())


def test_size_of_heads() -> None:
    """Twenty megabytes of headers are taken by uvicorn, and refused with 431 by Partyline (hostile.md row 30)."""

    async def main() -> None:
        async def probe(url: str) -> Any:
            async with connected(url) as peer:
                sending = asyncio.create_task(peer.send(b"GET /there HTTP/1.1\r\nHost: 127.0.0.1\r\n", *headers))
                answer = await peer.answer()
                await sending
                return answer

        headers = [b"X-%d: %b\r\n" % (number, b"a" * 1_000_000) for number in range(20)] + [b"\r\n"]
        async with plain_uvicorn(app) as (_, url):
            answer = await probe(url)
            assert answer.status == 200, "uvicorn bounds heads now: HttpProtocol's check may go"
            assert answer.json["headers"] == 21
        async with partyline_server(fallback=app) as (_, url):
            assert (await probe(url)).status == 431

    asyncio.run(main())


def test_bytes_behind_the_upgrade() -> None:
    """A frame in the segment of the handshake is lost by uvicorn, and read by Partyline, on its own and ASGI paths."""

    async def main() -> None:
        async def probe(url: str, path: str) -> list[str]:
            client = Connection(Limits(), client=True)
            async with connected(url) as peer:
                socket = await websocket(peer, path, behind=client.text(b"first"))
                await socket.say("second")
                heard = []
                while not heard or heard[-1] != "second":
                    heard.append(await socket.text())
                return heard

        async with plain_uvicorn(app) as (_, url):
            heard = await probe(url, "/echo")
            assert heard == ["second"], "uvicorn hands on what is behind an upgrade now: _hand_to_application need not"
        async with partyline_server(fallback=app) as (partyline, url):
            assert await probe(url, "/echo") == ["first", "second"]
            partyline.site.route = echo
            assert await probe(url, "/native") == ["first", "second"]

    asyncio.run(main())


@asynccontextmanager
async def uvicorn_process() -> AsyncIterator[tuple[asyncio.subprocess.Process, str]]:
    """`python -m uvicorn` with its defaults, and its address. Both of its outputs come through stdout."""
    command = [sys.executable, "-m", "uvicorn", "tests.server.apps:app", "--port", "0"]
    process = await asyncio.create_subprocess_exec(
        *command,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
        cwd=tools.ROOT,
        env={**environment(), "PYTHONPATH": str(tools.ROOT)},
    )
    assert process.stdout is not None
    try:
        async with asyncio.timeout(WITHIN):
            while not (found := re.search(rb"http://127\.0\.0\.1:\d+", line := await process.stdout.readline())):
                assert line, "uvicorn did not start"
        yield process, found[0].decode()
    finally:
        if process.returncode is None:
            process.kill()
            await process.communicate()


def test_exit_code() -> None:
    """After SIGTERM uvicorn ends by the signal, which looks like a crash; Partyline exits with 0 (row 42)."""

    async def main() -> None:
        async with uvicorn_process() as (process, url), connected(url):
            process.send_signal(signal.SIGTERM)
            await process.communicate()
            assert process.returncode == -signal.SIGTERM, "uvicorn exits with a code now: the shell's signals may go"
        async with serving() as server, connected(server.url):
            assert await server.end(signal.SIGTERM) == 0

    asyncio.run(main())


@pytest.mark.alone
def test_open_stream_at_shutdown() -> None:
    """One answer that does not end keeps uvicorn alive after its stop, Partyline until the drain time (row 42)."""

    async def main() -> None:
        loop = asyncio.get_running_loop()
        async with plain_uvicorn(app) as (server, url), connected(url) as peer:
            await peer.send(request("GET", "/stream"))
            assert " 200 " in await peer.head()
            stopped = asyncio.create_task(until_served(server))
            server.should_exit = True
            await asyncio.wait([stopped], timeout=LONG)
            assert not stopped.done(), "uvicorn ends open answers at its stop now: the shell's drain may be simpler"
            await peer.close()
            await stopped
        async with partyline_server(fallback=app, drain_time=0.4) as (partyline, url), connected(url) as peer:
            await peer.send(request("GET", "/stream"))
            assert " 200 " in await peer.head()
            began = loop.time()
            partyline.shell.stop()
            await peer.rest()
            assert 0.4 <= loop.time() - began < 0.7
            await nothing_is_held(partyline)

    asyncio.run(main())


async def until_served(server: uvicorn.Server) -> None:
    await eventually(lambda: not server.server_state.connections and not server.server_state.tasks, "uvicorn is empty")


def test_forwarded_headers() -> None:
    """uvicorn believes forwarded headers from loopback; Partyline only those of trusted_proxies (row 36)."""
    forged = ("X-Forwarded-For: 203.0.113.7", "X-Forwarded-Proto: https", "X-Forwarded-Host: evil.example")
    key = "a key"
    keys = (ApiKey(key_hash(key), admin=True),)

    async def main() -> None:
        async def probe(url: str) -> Any:
            async with connected(url) as peer:
                await peer.send(request("GET", "/there", None, *forged))
                facts = (await peer.answer()).json
                return facts["client"], facts["scheme"]

        async def register(url: str) -> Any:
            host = url.partition("//")[2]
            async with connected(url) as peer:
                authorization = f"Authorization: Bearer {key}"
                await peer.send(request("POST", "/register", b'{"user_id": 1}', *forged, authorization, host=host))
                return await peer.answer()

        async with plain_uvicorn(app) as (_, url):
            believed = await probe(url)
            assert believed == ("203.0.113.7", "https"), "uvicorn does not believe loopback any more"
        async with partyline_server(fallback=app, api_keys=keys) as (_, url):
            assert await probe(url) == ("127.0.0.1", "http")
            assert (await register(url)).json["url"].startswith(f"ws://{url.partition('//')[2]}/ws/")
        async with partyline_server(api_keys=keys, trusted_proxies=("127.0.0.1",), allowed_hosts=("evil.example",)) as (
            _,
            url,
        ):
            assert (await register(url)).json["url"].startswith("wss://evil.example/ws/")
        async with partyline_server() as (_, url):
            refused = await register(url)
            assert (refused.status, refused.code) == (403, "forwarded_in_open_mode")

    asyncio.run(main())


def test_tokens_in_logs() -> None:
    """uvicorn logs a request with its `?token=`; Partyline logs neither that nor an id in /ws/<id> (row 39)."""

    async def main() -> None:
        def asks(path: str) -> list[bytes]:
            query = f"{path}?token={SECRET}"
            return [
                request("GET", query),
                upgrade(query),
                request("GET", query, None, "Connection: Upgrade", "Upgrade: h2c"),
                request("GET", query, None, f"Authorization: Bearer {SECRET}", host="foreign.example"),
                request("GET", query).replace(b"\r\n", b"\n"),
            ]

        async with uvicorn_process() as (process, url):
            async with connected(url) as peer:
                await peer.send(asks("/there")[0])
                assert (await peer.answer()).status == 200
            process.terminate()
            output, _ = await process.communicate()
            assert SECRET.encode() in output, "uvicorn keeps queries out of its log now: access_log may be on again"
        async with serving("--log-level", "debug") as server:
            known = await registered(server.url)
            statuses = []
            for path in ("/health", "/there", known, f"/ws/{SECRET}"):
                for ask in asks(path):
                    async with connected(server.url) as peer:
                        await peer.send(ask)
                        statuses.append((await peer.answer()).status)
            assert set(statuses) == {101, 200, 400, 404, 421, 426}
            server.process.terminate()
            output, errors = await server.process.communicate()
            assert errors.count(b'"refused"') >= 7, "nothing was logged, so that the test shows nothing"
            for secret in (SECRET, known.removeprefix("/ws/")):
                assert secret.encode() not in output + errors

    asyncio.run(main())


H2C = ("Connection: Upgrade, HTTP2-Settings", "Upgrade: h2c", "HTTP2-Settings: AAEAAEAAAAIAAAABAAMAAABk")


def test_body_with_an_upgrade_to_http2() -> None:
    """A POST that offers h2c, as Java's client does, reaches uvicorn's application without its body, ours with it."""

    async def main() -> None:
        async with plain_uvicorn(app) as (_, url), connected(url) as peer:
            await peer.send(request("POST", "/there", b'"a body"', *H2C))
            assert (await peer.answer()).json["body"] == "", "uvicorn serves these now: our second parser may go"
        async with partyline_server(fallback=app) as (partyline, url), connected(url) as peer:
            whole = request("POST", "/there", b'"a body"', *H2C)
            chunked = request("POST", "/there", None, *H2C, "Transfer-Encoding: chunked")
            chunks = b'3\r\n"a \r\n5\r\nbody"\r\n0\r\n\r\n'
            empty = request("GET", "/there", None, *H2C)
            large = b'"%b"' % (b"a" * 300_000)
            for number, (pieces, body) in enumerate(
                [
                    ([whole], b'"a body"'),
                    ([whole[:-4], whole[-4:]], b'"a body"'),
                    ([whole[:-8], whole[-8:]], b'"a body"'),
                    ([bytes((byte,)) for byte in whole], b'"a body"'),
                    ([chunked + chunks], b'"a body"'),
                    ([chunked, chunks[:4], chunks[4:]], b'"a body"'),
                    ([empty], b""),
                    ([request("POST", "/there", large, *H2C)], large),
                    ([request("POST", "/there", b'"a body"')], b'"a body"'),
                ],
                1,
            ):
                await peer.send(*pieces)
                answer = await peer.answer()
                assert answer.status == 200
                assert answer.json["body"].encode() == body
                assert partyline.counters.requests == number
            await peer.send(whole + request("GET", "/behind"))
            assert (await peer.answer()).json["body"] == '"a body"'
            assert (await peer.answer()).json["path"] == "/behind"
            socket = await websocket(peer, await registered(url))
            await socket.say("ping")
            assert await socket.text() == "pong"

    asyncio.run(main())


@asynccontextmanager
async def without_collector() -> AsyncIterator[None]:
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        gc.enable()
        gc.collect()


def parsers() -> int:
    return sum(type(thing) is httptools.HttpRequestParser for thing in gc.get_objects())


def test_what_stays_of_the_request_after_an_upgrade() -> None:
    """uvicorn's protocol and parser outlive an upgrade until the collector comes; ours are freed at once."""

    async def main() -> None:
        async def probe(url: str, connections: set[Any], path: str, kind: type) -> tuple[bool, int]:
            """Whether the HTTP protocol of an upgraded connection still exists, and how many parsers more."""
            before = parsers()
            async with connected(url) as peer:
                await eventually(lambda: any(isinstance(one, kind) for one in connections), "the connection is there")
                protocol = weakref.ref(next(one for one in connections if isinstance(one, kind)))
                socket = await websocket(peer, path)
                await socket.say("ping")
                assert await socket.text() in ("ping", "pong")
                return protocol() is not None, parsers() - before

        async with plain_uvicorn(app) as (server, url), without_collector():
            stays = await probe(url, server.server_state.connections, "/echo", HttpToolsProtocol)
            assert stays == (True, 1), "uvicorn lets go of the request at an upgrade now: _release may be simpler"
        async with partyline_server(fallback=app) as (partyline, url):
            path = await registered(url)
            await nothing_is_held(partyline)
            async with without_collector():
                live: set[Any] = partyline.site.live
                assert await probe(url, live, path, HttpProtocol) == (False, 0)
                assert await probe(url, live, "/echo", HttpProtocol) == (False, 0)

    asyncio.run(main())


@pytest.mark.alone
@pytest.mark.parametrize("hello", [b"", b"\x16\x03\x01\x02\x00\x01\x00"], ids=["silent", "half a hello"])
def test_tls_handshake_deadline(certificate: Certificate, hello: bytes) -> None:
    """uvicorn sets no deadline for the TLS handshake, and waits asyncio's minute; Partyline's cuts (rows 19, 20)."""
    files = {"certfile": certificate.certfile, "keyfile": certificate.keyfile}

    async def main() -> None:
        loop = asyncio.get_running_loop()
        settings = {f"ssl_{name}": value for name, value in files.items()}
        async with plain_uvicorn(app, timeout_keep_alive=0.1, **settings) as (_, url), connected(url) as peer:
            await peer.send(hello)
            assert await peer.hears_nothing(LONG), "uvicorn has a deadline for handshakes now: the shell's may go"
        async with partyline_server(tls_handshake_timeout=0.3, **files) as (partyline, url):
            async with connected(url) as peer:
                began = loop.time()
                await peer.send(hello)
                assert await peer.rest() == b""
                assert 0.29 <= loop.time() - began < 0.6
            async with connected(url, tls=certificate.trust) as peer:
                await peer.send(request("GET", "/health"))
                assert (await peer.answer()).json == {"status": "ok"}
            await nothing_is_held(partyline)

    asyncio.run(main())


# The hooks

TESTED = "uvicorn>=0.54,<0.55"

METHODS: dict[type, dict[str, str]] = {
    HttpToolsProtocol: {
        "__init__": "self, config, server_state, app_state, _loop",
        "connection_made": "self, transport",
        "connection_lost": "self, exc",
        "data_received": "self, data",
        "eof_received": "self",
        "pause_writing": "self",
        "resume_writing": "self",
        "shutdown": "self",
        "handle_websocket_upgrade": "self",
        "on_message_begin": "self",
        "on_url": "self, url",
        "on_header": "self, name, value",
        "on_headers_complete": "self",
        "on_body": "self, body",
        "on_message_complete": "self",
        "on_response_complete": "self",
        "timeout_keep_alive_handler": "self",
        "_get_upgrade": "self",
        "_start_asgi_task": "self, cycle, app",
        "_unset_keepalive_if_required": "self",
    },
    RequestResponseCycle: {
        "__init__": "self, scope, transport, flow, logger, access_logger, access_log, default_headers, message_event, "
        "expect_100_continue, keep_alive, on_response",
    },
    FlowControl: {
        "__init__": "self, transport",
        "pause_reading": "self",
        "resume_reading": "self",
        "pause_writing": "self",
        "resume_writing": "self",
    },
    uvicorn.Server: {"__init__": "self, config"},
    LifespanOff: {"__init__": "self, config"},
    ServerState: {"__init__": "self"},
}
CONFIG_ARGUMENTS = [
    "app",
    "http",
    "ws",
    "lifespan",
    "interface",
    "log_config",
    "access_log",
    "proxy_headers",
    "server_header",
    "headers",
    "timeout_keep_alive",
]
ATTRIBUTES: dict[str, list[str]] = {
    "config": ["loaded", "load", "backlog", "encoded_headers", "loaded_app", "ws_protocol_class"],
    "server": ["config", "server_state", "started", "should_exit"],
    "state": ["connections", "tasks", "default_headers"],
    "lifespan": ["state"],
    "protocol": [
        "app_state",
        "client",
        "config",
        "connections",
        "cycle",
        "flow",
        "headers",
        "loop",
        "parser",
        "pipeline",
        "scheme",
        "scope",
        "server",
        "server_state",
        "timeout_keep_alive",
        "transport",
        "ws_protocol_class",
    ],
    "message": ["url", "scope", "headers", "expect_100_continue"],
    "cycle": ["disconnected", "message_event", "response_complete", "response_started", "keep_alive", "transport"],
}


class Objects:
    """One of each of uvicorn's objects that we read or write, made as uvicorn makes them."""

    def __init__(self, methods: dict[type, dict[str, str]] = METHODS) -> None:
        self.methods = methods
        self.config = uvicorn.Config(app, http="httptools", ws="none", lifespan="off", log_config=None)
        self.config.load()
        self.server = uvicorn.Server(self.config)
        self.state = self.server.server_state
        self.lifespan = LifespanOff(self.config)
        self.protocol = HttpToolsProtocol(self.config, self.state, {}, asyncio.get_running_loop())
        self.message = HttpToolsProtocol(self.config, self.state, {}, asyncio.get_running_loop())
        self.message.parser.feed_data(b"GET / HTTP/1.1\r\nConnection: Upgrade\r\nUpgrade: WebSocket\r\nX: y\r\n")
        values: dict[str, Any] = dict.fromkeys(inspect.signature(RequestResponseCycle).parameters)
        self.cycle = RequestResponseCycle(**{**values, "message_event": asyncio.Event()})


def changed_hooks(objects: Objects) -> list[str]:
    """A sentence for each hook that is not as it was."""
    found = []
    for owner, methods in objects.methods.items():
        for name, parameters in methods.items():
            method: Callable[..., Any] | None = getattr(owner, name, None)
            if method is None:
                found.append(f"{owner.__name__}.{name} is gone")
            elif (now := ", ".join(inspect.signature(method).parameters)) != parameters:
                found.append(f"{owner.__name__}.{name} takes ({now}) instead of ({parameters})")
    arguments = inspect.signature(uvicorn.Config).parameters
    found += [f"Config takes no {name} any more" for name in CONFIG_ARGUMENTS if name not in arguments]
    for owner_name, names in ATTRIBUTES.items():
        owner_object = getattr(objects, owner_name)
        kind = type(owner_object).__name__
        found += [f"{kind}.{name} is gone" for name in names if not hasattr(owner_object, name)]
    if objects.message._get_upgrade() != b"websocket":
        found.append("HttpToolsProtocol._get_upgrade does not return the Upgrade header in lower case any more")
    if not isinstance(objects.state.connections, set) or not isinstance(objects.state.tasks, set):
        found.append("ServerState.connections and .tasks are not sets any more")
    return found


def test_hooks() -> None:
    """Every hook of uvicorn that Partyline uses is as it was in the versions that pyproject.toml allows."""

    async def main() -> None:
        project = tomllib.loads((tools.ROOT / "pyproject.toml").read_text("utf-8"))["project"]
        assert TESTED in project["dependencies"], "pyproject.toml allows other uvicorns than this test knows"
        assert uvicorn.__version__.startswith("0.54."), f"uvicorn {uvicorn.__version__} is not in {TESTED}"
        sentences = changed_hooks(Objects())
        assert not sentences, f"uvicorn {uvicorn.__version__}, tested {TESTED}: {'; '.join(sentences)}"

    asyncio.run(main())


def test_the_check_of_hooks_sees_a_change() -> None:
    """A method that is gone, one with another signature and a missing attribute each make a sentence with the name."""

    async def main() -> None:
        altered = Objects({HttpToolsProtocol: {"on_vanished": "self", "on_body": "self, payload"}})
        del altered.cycle.message_event
        assert changed_hooks(altered) == [
            "HttpToolsProtocol.on_vanished is gone",
            "HttpToolsProtocol.on_body takes (self, body) instead of (self, payload)",
            "RequestResponseCycle.message_event is gone",
        ]

    asyncio.run(main())


def test_no_hook_is_used_without_being_checked() -> None:
    """What server/http.py and server/shell.py take from uvicorn's classes is all in the tables above."""

    def used(ours: type, expression: str) -> set[str]:
        return set(re.findall(rf"\b{expression}\.(\w+)", inspect.getsource(ours)))

    def own(ours: type) -> set[str]:
        made = re.findall(r"self\.(\w+)(?:: [^=]+)? = ", inspect.getsource(ours.__init__))  # type: ignore[misc]
        return {*vars(ours), *made}

    for ours, theirs, attributes in (
        (HttpProtocol, HttpToolsProtocol, [*ATTRIBUTES["protocol"], *ATTRIBUTES["message"]]),
        (Shell, uvicorn.Server, [*ATTRIBUTES["server"], "lifespan"]),  # uvicorn sets it in its own serve
    ):
        methods = set(METHODS[theirs])
        assert used(ours, r"super\(\)") <= methods
        assert used(ours, "self") <= methods | own(ours) | set(attributes)
        overridden = {name for name in vars(ours) if hasattr(theirs, name) and not name.endswith("__")}
        assert overridden <= methods
    assert used(HttpProtocol, "cycle") <= set(ATTRIBUTES["cycle"])
