"""The sources of token keys: what settings may say, and key sets fetched from an address."""

from __future__ import annotations

import asyncio
import json
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

from partyline import ConfigError, running
from partyline.config import Settings
from partyline.entries import JwtKey
from partyline.relay import signers as module
from partyline.relay.signers import AGAIN, STALE, RemoteKeys, check_keys, fetch_set
from partyline.trust.tokens import Signer
from tests.relay.test_tokens import ask, settings
from tests.relay.v1.test_websocket import run
from tests.tokens import ED, SECRET, claims, ed, jwk, private_pem, public_pem, rsa, sign

MESSAGE = {"topic": "cats", "message": 1}


class Place:
    """A key server's answers, and what it was asked."""

    def __init__(self) -> None:
        self.keys: list[dict[str, Any]] = []
        self.status = 200
        self.location = ""
        self.body: bytes | None = None
        self.asked: list[str] = []
        self.open = threading.Event()
        self.open.set()
        self.url = ""


@contextmanager
def place() -> Iterator[Place]:
    """A key server on this machine."""
    found = Place()

    class Answers(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            found.asked.append(self.path)
            found.open.wait(5)
            body = json.dumps({"keys": found.keys}).encode() if found.body is None else found.body
            self.send_response(found.status)
            if found.location:
                self.send_header("Location", found.location)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Answers)
    found.url = f"http://127.0.0.1:{server.server_port}/keys"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield found
    finally:
        found.open.set()
        server.shutdown()
        thread.join()
        server.server_close()


def named(kid: str, key: Any = ED, **header: Any) -> str:
    return sign(claims(), key, {"alg": "EdDSA", "kid": kid, **header})


# Settings


@pytest.mark.parametrize(
    ("key", "word"),
    [
        (JwtKey("none", secret=SECRET), "algorithm"),
        (JwtKey("HS512", secret=SECRET), "algorithm"),
        (JwtKey("hs256", secret=SECRET), "algorithm"),
        (JwtKey("HS256"), "exactly one"),
        (JwtKey("RS256"), "exactly one"),
        (JwtKey("HS256", secret=SECRET, secret_file="x"), "exactly one"),
        (JwtKey("HS256", public_key=public_pem(ED)), "exactly one"),
        (JwtKey("HS256", jwks_url="https://x.example/"), "exactly one"),
        (JwtKey("RS256", secret=SECRET), "exactly one"),
        (JwtKey("EdDSA", public_key=public_pem(ED), jwks_file="x"), "exactly one"),
        (JwtKey("HS256", secret="short" * 6), "32"),
        (JwtKey("RS256", public_key=public_pem(ED)), "RS256"),
        (JwtKey("RS256", public_key=public_pem(rsa(1024))), "2048"),
        (JwtKey("EdDSA", public_key=private_pem(ED)), "private"),
        (JwtKey("RS256", jwks_url="http://login.example/keys"), "https"),
        (JwtKey("RS256", jwks_url="http://127.0.0.1.example/keys"), "https"),
        (JwtKey("RS256", jwks_url="file:///etc/keys"), "https"),
        (JwtKey("RS256", jwks_url="https://"), "https"),
        (JwtKey("RS256", jwks_url="keys"), "https"),
        (JwtKey("RS256", jwks_url="https://me:pass@login.example/keys"), "password"),
        (JwtKey("RS256", jwks_url="https://login.example/keys", kid="a"), "kid"),
        (JwtKey("HS256", secret=SECRET, leeway=-1), "leeway"),
        (JwtKey("HS256", secret=SECRET, leeway=301), "leeway"),
    ],
)
def test_keys_that_cannot_be_meant(key: JwtKey, word: str) -> None:
    """A key of the settings that is weak, of two kinds at once, or fetched from where anybody may change it is
    refused."""
    with pytest.raises(ConfigError) as caught:
        check_keys(Settings(jwt_keys=(key,)).jwt_keys)
    assert caught.value.field == "jwt_keys"
    assert word in caught.value.message
    for secret in (SECRET, "short" * 6, "BEGIN PRIVATE"):
        assert secret not in caught.value.message


def test_keys_that_are_fine() -> None:
    """Each algorithm with each of its sources is accepted, and so are addresses on this machine."""
    check_keys(
        [
            JwtKey("HS256", secret=SECRET, leeway=300, kid="a", audience="b", issuer="c", admin=True),
            JwtKey("HS256", secret_file="looked at later"),
            JwtKey("RS256", public_key=public_pem(rsa())),
            JwtKey("EdDSA", public_key=public_pem(ED)),
            JwtKey("RS256", jwks_url="https://login.example/keys"),
            JwtKey("RS256", jwks_url="http://localhost:8080/keys"),
        ]
    )


# Addresses


def test_a_set_is_fetched_at_start() -> None:
    """The set is fetched at start. An unknown key id gets 401 as long as it is too soon to fetch again."""

    async def main() -> None:
        with place() as keys:
            keys.keys = [jwk(ED, "one")]
            async with running(settings(jwt_keys=(JwtKey("EdDSA", jwks_url=keys.url),))) as (_, url):
                await until(url, named("one"), 200)
                assert keys.asked == ["/keys"]
                two = ed()
                keys.keys.append(jwk(two, "two"))
                assert await ask(url, "POST", "/publish", MESSAGE, named("two", two)) == (401, "unauthenticated")

    run(main())


async def until(url: str, token: str, status: int) -> None:
    """Ask like a client that was told to come back."""
    async with asyncio.timeout(20):
        while (found := await ask(url, "POST", "/publish", MESSAGE, token)) == (503, "keys_unavailable"):
            await asyncio.sleep(0.01)
    assert found[0] == status, found


def test_a_new_key_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    """An unknown key id makes the set be fetched again, and the token is valid once that is done; until then it gets
    503, so that no client gives up. There is only one fetch at a time."""
    monkeypatch.setattr(module, "AGAIN", 0.0)

    async def main() -> None:
        with place() as keys:
            keys.keys = [jwk(ED, "one")]
            async with running(settings(jwt_keys=(JwtKey("EdDSA", jwks_url=keys.url),))) as (_, url):
                await until(url, named("one"), 200)
                two = ed()
                keys.keys = [jwk(two, "two")]
                keys.open.clear()
                for _ in range(3):
                    answer = await ask(url, "POST", "/publish", MESSAGE, named("two", two))
                    assert answer == (503, "keys_unavailable")
                    assert (await ask(url, "POST", "/publish", MESSAGE, named("one")))[0] == 200
                keys.open.set()
                await until(url, named("two", two), 200)
                assert len(keys.asked) == 2

    run(main())


def test_hostile_35_jwks_only_from_the_pinned_place() -> None:
    """Only the configured address is asked, whatever addresses and keys a token's header names."""

    async def main() -> None:
        with place() as pinned, place() as evil:
            attacker = ed()
            pinned.keys = [jwk(ED, "one")]
            evil.keys = [jwk(attacker, "one"), jwk(attacker, "evil")]
            async with running(settings(jwt_keys=(JwtKey("EdDSA", jwks_url=pinned.url),))) as (_, url):
                await until(url, named("one"), 200)
                for header in ({"jku": evil.url}, {"x5u": evil.url}, {"jwk": jwk(attacker)}):
                    for kid in ("one", "evil", evil.url):
                        forged = named(kid, attacker, **header)
                        assert await ask(url, "POST", "/publish", MESSAGE, forged) == (401, "unauthenticated")
            assert pinned.asked == ["/keys"]
            assert evil.asked == []

    run(main())


def test_a_redirect_is_not_followed() -> None:
    """A redirect is an error: the address is pinned, and the server there may not name another one."""
    with place() as pinned, place() as evil:
        pinned.status, pinned.location = 302, evil.url
        with pytest.raises(OSError, match="302"):
            fetch_set(pinned.url)
        assert evil.asked == []


def test_a_set_that_is_too_large_is_not_read() -> None:
    """The fetch from a key server that sends without end is given up."""
    with place() as pinned:
        pinned.body = b" " * (1 << 20)
        with pytest.raises(OSError, match="262144"):
            fetch_set(pinned.url)


class Watch:
    """A clock for pauses between fetches, and what is fetched."""

    def __init__(self) -> None:
        self.now = 5.0
        self.answer: bytes | Exception = json.dumps({"keys": [jwk(ED, "one")]}).encode()
        self.fetches = 0
        self.signer = Signer("EdDSA", ())
        self.remote = RemoteKeys(self.signer, "pinned", fetch=self.fetch, clock=lambda: self.now)

    def fetch(self, url: str) -> bytes:
        assert url == "pinned"
        self.fetches += 1
        if isinstance(self.answer, Exception):
            raise self.answer
        return self.answer

    async def renew(self, missing: bool) -> tuple[bool, int]:
        """Whether keys were being fetched, and how many fetches there were afterwards."""
        coming = self.remote.renew(missing)
        async with asyncio.timeout(20):
            while self.remote._fetching:
                await asyncio.sleep(0.001)
        return coming, self.fetches


def test_fetches_keep_their_pauses() -> None:
    """A set is fetched at first, when it is stale, and for a missing key unless the last fetch was less than 30 seconds
    ago; in between nothing is fetched."""

    async def main() -> None:
        watch = Watch()
        assert await watch.renew(False) == (True, 1)
        assert [key.kid for key in watch.signer.keys] == ["one"]
        assert await watch.renew(False) == (False, 1)
        watch.now += AGAIN - 1
        assert await watch.renew(True) == (False, 1)
        watch.now += 1
        assert await watch.renew(False) == (False, 1)
        assert await watch.renew(True) == (True, 2)
        assert await watch.renew(True) == (False, 2)
        watch.now += STALE - 1
        assert await watch.renew(False) == (False, 2)
        watch.now += 1
        assert await watch.renew(False) == (True, 3)

    run(main())


def test_a_fetch_that_never_ends_is_not_waited_for() -> None:
    """A key server that stalls a fetch is asked again when the set is stale."""

    async def main() -> None:
        watch, stuck = Watch(), threading.Event()
        watch.answer, good = b"", watch.answer
        watch.remote._fetch = lambda url: watch.fetch(url) if stuck.wait(4) else b""
        assert watch.remote.renew(False)
        watch.now += STALE - 1
        assert watch.remote.renew(True)
        watch.remote._fetch, watch.answer = watch.fetch, good
        assert watch.remote.renew(True)
        assert watch.fetches == 0
        watch.now += 1
        assert await watch.renew(True) == (True, 1)
        assert watch.signer.keys
        stuck.set()

    run(main())


@pytest.mark.parametrize(
    "answer", [OSError("no route"), ValueError("unreadable"), b"no JSON", b'{"keys": []}'], ids=ascii
)
def test_a_place_that_fails_leaves_what_was_there(answer: Any, caplog: pytest.LogCaptureFixture) -> None:
    """While the address fails, the earlier keys stay valid and a line is logged; without earlier keys they count as
    being fetched for that long: 503 and not 401."""

    async def main() -> None:
        watch = Watch()
        good, watch.answer = watch.answer, answer
        assert await watch.renew(False) == (True, 1)
        assert watch.signer.keys == ()
        assert await watch.renew(True) == (True, 1)
        assert len(caplog.records) == 1
        watch.now += AGAIN
        watch.answer = good
        assert await watch.renew(False) == (True, 2)
        kept = watch.signer.keys
        assert kept
        watch.answer = answer
        watch.now += STALE
        assert await watch.renew(False) == (True, 3)
        assert watch.signer.keys is kept

    run(main())


@pytest.mark.alone
def test_a_fetch_does_not_hold_up_the_loop() -> None:
    """If a key server does not answer, the server starts and serves; only requests that need its keys wait."""

    async def main() -> None:
        with place() as keys:
            keys.open.clear()
            began = time.monotonic()
            async with running(settings(jwt_keys=(JwtKey("EdDSA", jwks_url=keys.url),))) as (_, url):
                assert (await ask(url, "POST", "/publish", MESSAGE, "root"))[0] == 200
                assert await ask(url, "POST", "/publish", MESSAGE, named("one")) == (503, "keys_unavailable")
                assert time.monotonic() - began < 4
                keys.keys = [jwk(ED, "one")]
                keys.open.set()
                await until(url, named("one"), 200)

    run(main())
