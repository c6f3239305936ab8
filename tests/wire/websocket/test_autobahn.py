"""The cases of `autobahn_cases`, played without a socket against a server that echoes."""

from __future__ import annotations

from collections import Counter

import pytest

from partyline.wire.websocket.codec import Close, CloseState, Codec, Limits, Ping, Pong, Violation
from partyline.wire.websocket.frames import BINARY, TEXT
from partyline.wire.websocket.handshake import accept
from tests.tools import one_in

from .autobahn_cases import CASES, MAX_FRAGMENTS, MAX_MESSAGE, Case, Closed, Output, OutputReader, masked, settled, told

LIMITS = Limits(max_message=MAX_MESSAGE, max_inflated=MAX_MESSAGE, max_fragments=MAX_FRAGMENTS)
REQUEST = [
    (b"host", b"localhost"),
    (b"upgrade", b"websocket"),
    (b"connection", b"Upgrade"),
    (b"sec-websocket-key", b"dGhlIHNhbXBsZSBub25jZQ=="),
    (b"sec-websocket-version", b"13"),
]


class EchoServer:
    """Answers events as a server does: messages with themselves, pings with pongs, an end with a close frame."""

    def __init__(self, offer: str | None) -> None:
        extensions = [] if offer is None else [(b"sec-websocket-extensions", offer.encode())]
        answer = accept("GET", "1.1", [*REQUEST, *extensions], deflate=True)
        self.extensions = None if answer.deflate is None else answer.deflate.response
        self.connection = Codec(LIMITS, deflate=answer.deflate)

    def receive(self, chunk: bytes) -> bytes:
        """What is sent back for these bytes."""
        sent: list[bytes] = []
        for event in self.connection.receive(chunk):
            match event:
                case str():
                    sent.append(self.connection.compressed(TEXT, event.encode()))
                case bytes():
                    sent.append(self.connection.compressed(BINARY, event))
                case Ping():
                    sent.append(self.connection.pong(event.payload))
                case Pong():
                    pass
                case Close() | Violation():
                    sent.append(self.connection.close(event.code))
        return b"".join(sent)


@pytest.mark.parametrize("case", one_in(8, CASES), ids=lambda case: case.id)
def test_case(case: Case) -> None:
    """The server sends back what the case expects, in order, and nothing after its close frame."""
    server = EchoServer(case.offer)
    assert server.extensions == case.answer
    reader = OutputReader(deflate=case.answer is not None, window_bits=case.window_bits)
    outputs: list[Output] = []
    for count, chunk in enumerate(case.send(), 1):
        outputs += reader.feed(server.receive(chunk))
        if case.fail_by is not None:
            failed = any(isinstance(output, Closed) for output in outputs)
            assert failed == (count >= case.fail_by), f"{case.claim} (after write {count})"
    assert told(settled(outputs, case.expect())) == told(case.expect()), case.claim
    assert server.connection.state is CloseState.CLOSED
    assert server.receive(masked(0x9, b"late")) == b""


def test_every_number_is_there() -> None:
    """The table has every number of the suite's groups 1 to 7, 9, 10, 12 and 13, each once, and three codes more."""
    ids = [case.id for case in CASES]
    assert len(set(ids)) == len(ids)
    assert Counter(id_.split(".")[0] for id_ in ids) == {
        "1": 16,
        "2": 11,
        "3": 7,
        "4": 10,
        "5": 20,
        "6": 145,
        "7": 37 + 3,
        "9": 54,
        "10": 1,
        "12": 90,
        "13": 126,
    }
    assert all(case.claim.endswith(".") for case in CASES)


def read(reader: OutputReader, data: bytes) -> list[Output]:
    return [output for byte in data for output in reader.feed(bytes((byte,)))]


@pytest.mark.parametrize(
    "data",
    [
        pytest.param("8180 00000000", id="masked"),
        pytest.param("817e 0001 61", id="length not in its shortest form"),
        pytest.param("c105 48656c6c6f", id="RSV1 not agreed on"),
        pytest.param("0101 61", id="a fragment"),
        pytest.param("8900", id="a ping"),
        pytest.param("8101 ff", id="text that is not UTF-8"),
        pytest.param("8800 8800", id="a second close"),
    ],
)
def test_the_reader_of_outputs_is_strict(data: str) -> None:
    """The cases' reader refuses what a server must not send, so that no case can pass with it."""
    reader = OutputReader(deflate=False)
    with pytest.raises(ValueError):  # noqa: PT011 - UnicodeDecodeError is one, too
        read(reader, bytes.fromhex(data))


def test_settled_accepts_only_the_expected_codes() -> None:
    """A close code outside the expected ones is not replaced, and makes a case fail."""
    wanted = Closed(frozenset((1000, 1001)))
    assert settled([Closed(frozenset((1001,)))], [wanted]) == [wanted]
    assert settled([Closed(frozenset((1002,)))], [wanted]) != [wanted]
    assert told(["a"]) != told([b"a"])
