"""TLS handshakes that do not end, end badly, or come in numbers (hostile 19, 20, 23)."""

from __future__ import annotations

import asyncio
import contextlib

import pytest

from tests.server.conftest import Certificate, Run
from tests.server.peers import Peer, connected, request
from tests.server.servers import eventually, nothing_is_held, partyline_server

GET = request("GET", "/health")
HALF_A_HELLO = b"\x16\x03\x01\x02\x00\x01\x00"


def files(certificate: Certificate) -> dict[str, str]:
    return {"certfile": certificate.certfile, "keyfile": certificate.keyfile}


async def ended(peer: Peer) -> bool:
    """Whether the server has ended a connection on which it has nothing to say."""
    with contextlib.suppress(ConnectionResetError):
        assert await peer.rest() == b""
    return True


def test_connections_count_before_their_handshake(run: Run, certificate: Certificate) -> None:
    """Peers that never shake hands take no more connections than any others: those beyond the limit are dropped, and
    when they have gone others are served."""

    async def main() -> None:
        async with partyline_server(max_connections=4, **files(certificate)) as (partyline, url):
            async with contextlib.AsyncExitStack() as silent:
                peers = [await silent.enter_async_context(connected(url)) for _ in range(40)]
                dropped = [asyncio.ensure_future(ended(peer)) for peer in peers]
                await eventually(lambda: sum(one.done() for one in dropped) == 40 - 12, "the others are dropped")
                assert partyline.site.connections == 12  # four, and eight that would wait for a refusal
                assert partyline.counters.accepted == 40
                for one in dropped:
                    one.cancel()
            await eventually(lambda: not partyline.site.connections, "they have gone")
            async with connected(url, tls=certificate.trust) as peer:
                await peer.send(GET)
                assert (await peer.answer()).json == {"status": "ok"}
            await nothing_is_held(partyline)

    run(main())


def test_an_address_is_limited_before_the_handshake(run: Run, certificate: Certificate) -> None:
    """A handshake under way counts for max_connections_per_address; a connection beyond it learns that by 429."""

    async def main() -> None:
        async with partyline_server(max_connections_per_address=1, **files(certificate)) as (partyline, url):
            async with connected(url):
                await eventually(lambda: partyline.site.connections == 1, "it is accepted")
                async with connected(url, tls=certificate.trust) as peer:
                    await peer.send(GET)
                    assert (await peer.answer()).status == 429
            await nothing_is_held(partyline)
            assert partyline.counters.accepted == 2

    run(main())


@pytest.mark.parametrize("said", [b"", HALF_A_HELLO, GET, b"\x16\x03\x01\xff\xff" + bytes(70_000)], ids=len)
@pytest.mark.parametrize("end", ["eof", "reset"])
def test_a_handshake_that_fails(run: Run, certificate: Certificate, said: bytes, end: str) -> None:
    """However a handshake ends, nothing is held for it, and it is no error of the server's."""

    async def main() -> None:
        async with partyline_server(**files(certificate)) as (partyline, url):
            async with connected(url) as peer:
                with contextlib.suppress(ConnectionError):
                    await peer.send(said)
                if end == "reset":
                    peer.transport.abort()
                elif peer.transport.can_write_eof():
                    peer.transport.write_eof()
                await nothing_is_held(partyline)
            assert partyline.counters.errors == 0

    run(main())


def test_a_drain_does_not_wait_for_handshakes(run: Run, certificate: Certificate) -> None:
    """A handshake under way when the server stops is dropped at once."""

    async def main() -> None:
        async with contextlib.AsyncExitStack() as silent:
            async with partyline_server(**files(certificate)) as (partyline, url):
                for said in (b"", HALF_A_HELLO):
                    peer = await silent.enter_async_context(connected(url))
                    await peer.send(said)
                await eventually(lambda: partyline.site.connections == 2, "they are accepted")
            assert "drain_time" not in partyline.counters.limits
            assert not partyline.site.live
            assert not partyline.site.connections

    run(main())


def test_failed_handshakes_wait_for_their_turn(run: Run, certificate: Certificate) -> None:
    """An address whose handshakes fail in numbers has to wait in line with its next ones; it is served in the end."""

    async def main() -> None:
        async with partyline_server(**files(certificate)) as (partyline, url):
            for _ in range(60):
                async with connected(url) as peer:
                    await peer.send(GET)
                    await ended(peer)
            assert partyline.site.fair._owing
            async with connected(url) as gone:  # while it waits in line
                await eventually(lambda: partyline.site.connections, "it is accepted")
                gone.transport.abort()
            async with connected(url, tls=certificate.trust) as peer:
                await peer.send(GET)
                assert (await peer.answer()).status == 200
            await nothing_is_held(partyline)

    run(main())
