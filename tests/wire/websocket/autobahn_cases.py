"""Cases that follow the numbering of the Autobahn test suite, as data: what a client sends and a server answers.

Nothing here touches a socket or the code under test. To replay a case: open a connection with `case.offer` as its
Sec-WebSocket-Extensions, write each chunk of `case.send()` on its own, feed what comes back to an `OutputReader`, and
compare `told(outputs)` with `told(case.expect())`. The server has to echo messages, and to allow `MAX_MESSAGE` bytes
and `MAX_FRAGMENTS` frames in one.

The numbers mean what they mean in the suite; the cases are our own. Groups 12 and 13 send a few messages for each of
the suite's thousand.
"""

from __future__ import annotations

import hashlib
import json
import random
import zlib
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import lru_cache
from typing import Final, TypeAlias

KIB: Final = 1 << 10
MIB: Final = 1 << 20
MAX_MESSAGE: Final = 16 * MIB
MAX_FRAGMENTS: Final = 4 * MIB // 64

CONTINUATION, TEXT, BINARY, CLOSE, PING, PONG = 0x0, 0x1, 0x2, 0x8, 0x9, 0xA


@dataclass(frozen=True, slots=True)
class Ponged:
    """The server answered a ping with this payload."""

    payload: bytes


@dataclass(frozen=True, slots=True)
class Closed:
    """The server sent a close frame with one of these codes; 1005 stands for a frame without any."""

    codes: frozenset[int]


Output: TypeAlias = str | bytes | Ponged | Closed


@dataclass(frozen=True, slots=True)
class Case:
    """One numbered case.

    `send` gives the chunks, each a write of its own; `expect` what the server sends back, in order, and after which it
    sends nothing. `fail_by`, if set, is the number of chunks at which the server must have failed the
    connection, neither earlier nor later: the rest of them may then be left unsent.
    """

    id: str
    claim: str
    send: Callable[[], Iterable[bytes]]
    expect: Callable[[], Iterable[Output]]
    fail_by: int | None = None
    offer: str | None = None
    answer: str | None = None  # the Sec-WebSocket-Extensions of the handshake's answer
    window_bits: int = 15  # the window that must suffice to inflate what the server sends


def closed(*codes: int) -> Closed:
    return Closed(frozenset(codes))


def told(outputs: Iterable[Output]) -> list[str]:
    """Outputs as short lines that can be compared and read, however large the messages are."""
    lines: list[str] = []
    for output in outputs:
        if isinstance(output, Closed):
            lines.append("close " + " or ".join(str(code) for code in sorted(output.codes)))
            continue
        if isinstance(output, Ponged):
            kind, payload = "pong", output.payload
        elif isinstance(output, str):
            kind, payload = "text", output.encode()
        else:
            kind, payload = "binary", output
        shown = payload.hex() if len(payload) <= 64 else hashlib.sha1(payload, usedforsecurity=False).hexdigest()
        lines.append(f"{kind} of {len(payload)} bytes {shown}")
    return lines


def settled(outputs: Iterable[Output], expected: Iterable[Output]) -> list[Output]:
    """The outputs, with a close code that is among the expected ones replaced by all of them."""
    wanted = next((output for output in expected if isinstance(output, Closed)), closed())
    return [wanted if isinstance(output, Closed) and output.codes <= wanted.codes else output for output in outputs]


class OutputReader:
    """Reads what a server sends, strictly: whole unmasked frames in their shortest form, RSV1 only where agreed.

    Raises ValueError for anything else, and for anything after a close frame.
    """

    def __init__(self, *, deflate: bool, window_bits: int = 15) -> None:
        self._buffer = bytearray()
        self._deflate = deflate
        self._window_bits = window_bits
        self._closed = False

    def feed(self, data: bytes) -> list[Output]:
        if self._closed and data:
            raise ValueError(f"{len(data)} bytes after the close frame")
        self._buffer += data
        outputs: list[Output] = []
        while (size := self._frame_size()) is not None and not self._closed:
            outputs.append(self._output(bytes(self._buffer[:size])))
            del self._buffer[:size]
        return outputs

    def _head_size(self) -> int:
        return 2 + {126: 2, 127: 8}.get(self._buffer[1], 0)

    def _frame_size(self) -> int | None:
        """The size of the first frame, or None until it has arrived whole."""
        if len(self._buffer) < 2 or len(self._buffer) < (head := self._head_size()):
            return None
        if self._buffer[1] >= 0x80:
            raise ValueError("the server masked a frame")
        size = self._buffer[1] if head == 2 else int.from_bytes(self._buffer[2:head], "big")
        if (head == 4 and size < 126) or (head == 10 and size < 65536):
            raise ValueError("a length is not in its shortest form")
        return head + size if len(self._buffer) >= head + size else None

    def _output(self, frame: bytes) -> Output:
        payload = frame[self._head_size() :]
        first = frame[0]
        if first & 0x40:
            if not self._deflate or first & 0x0F not in (TEXT, BINARY):
                raise ValueError("RSV1 where it was not agreed on")
            inflater = zlib.decompressobj(-self._window_bits)
            payload = inflater.decompress(payload + b"\x00\x00\xff\xff")
        if first & ~0x40 == 0x80 | TEXT:
            return payload.decode()
        if first & ~0x40 == 0x80 | BINARY:
            return payload
        if first == 0x80 | PONG:
            return Ponged(payload)
        if first == 0x80 | CLOSE:
            self._closed = True
            payload[2:].decode()
            return closed(int.from_bytes(payload[:2], "big") if payload else 1005)
        raise ValueError(f"a frame begins with {first:#x}")


# What a client writes


def masked(opcode: int, payload: bytes = b"", *, fin: bool = True, rsv: int = 0) -> bytes:
    """A client's frame. The key depends on the payload, so that hardly two frames have the same."""
    size = len(payload)
    key = zlib.crc32(payload[:64], size + 1).to_bytes(4, "big")
    head = bytes((opcode | (0x80 if fin else 0) | rsv << 4,))
    if size < 126:
        head += bytes((0x80 | size,))
    elif size < 65536:
        head += b"\xfe" + size.to_bytes(2, "big")
    else:
        head += b"\xff" + size.to_bytes(8, "big")
    repeated = (key * (size // 4 + 1))[:size]
    hidden = (int.from_bytes(payload, "big") ^ int.from_bytes(repeated, "big")).to_bytes(size, "big")
    return head + key + hidden


def fragmented(opcode: int, payload: bytes, size: int, *, rsv: int = 0) -> Iterator[bytes]:
    """The frames of one message, each with `size` bytes of payload, the last one with what is left."""
    for start in range(0, len(payload), size):
        last = start + size >= len(payload)
        yield masked(
            CONTINUATION if start else opcode, payload[start : start + size], fin=last, rsv=0 if start else rsv
        )


def close_frame(code: int, reason: bytes = b"") -> bytes:
    return masked(CLOSE, code.to_bytes(2, "big") + reason)


def together(*frames: bytes) -> list[bytes]:
    """All frames in one write."""
    return [b"".join(frames)]


def apart(*frames: bytes) -> list[bytes]:
    """Each frame in a write of its own."""
    return list(frames)


def chops(data: bytes, size: int) -> list[bytes]:
    return [data[start : start + size] for start in range(0, len(data), size)]


def bytewise(*frames: bytes) -> list[bytes]:
    """Each byte in a write of its own."""
    return chops(b"".join(frames), 1)


NORMAL: Final = close_frame(1000)
CHOPPINGS: Final = (
    (together, "in one write"),
    (apart, "frame by frame"),
    (bytewise, "byte by byte"),
)


def answers(id_: str, claim: str, chunks: list[bytes], *outputs: Output) -> Case:
    """A legal exchange, which the client ends with 1000."""
    return Case(id_, claim, lambda: [*chunks, NORMAL], lambda: [*outputs, closed(1000)])


def breaks(id_: str, claim: str, chunks: list[bytes], code: int, *outputs: Output, fail_by: int | None = None) -> Case:
    """A violation: the server answers what came before it, and closes with `code`."""
    return Case(id_, claim, lambda: chunks, lambda: [*outputs, closed(code)], fail_by)


# 1 Framing


def _framing() -> Iterator[Case]:
    sizes = (0, 125, 126, 127, 128, 65535, 65536)
    for group, opcode, kind, unit in ((1, TEXT, "text", b"*"), (2, BINARY, "binary", b"\xfe")):
        for number, size in enumerate(sizes, 1):
            payload = unit * size
            echo: Output = payload.decode() if opcode == TEXT else payload
            claim = f"A {kind} message of {size} bytes is echoed."
            yield answers(f"1.{group}.{number}", claim, [masked(opcode, payload)], echo)
        claim = f"A {kind} message of 65536 bytes that arrives 997 bytes at a time is echoed."
        yield answers(f"1.{group}.8", claim, chops(masked(opcode, payload), 997), echo)


# 2 Pings and pongs


def _pings() -> Iterator[Case]:
    longest = b"\xfe" * 125
    for number, payload, kind in (
        (1, b"", "no payload"),
        (2, b"Hello, world!", "a text payload"),
        (3, b"\x00\xff\xfe\xfd\xfc\xfb\x00\xff", "a payload that is not UTF-8"),
        (4, longest, "125 bytes of payload"),
    ):
        yield answers(
            f"2.{number}", f"A ping with {kind} gets a pong with the same.", [masked(PING, payload)], Ponged(payload)
        )
    yield breaks("2.5", "A ping with 126 bytes of payload is a violation.", [masked(PING, b"\xfe" * 126)], 1002)
    yield answers(
        "2.6",
        "The longest ping is answered when it arrives byte by byte.",
        bytewise(masked(PING, longest)),
        Ponged(longest),
    )
    yield answers("2.7", "A pong that nobody asked for is ignored.", [masked(PONG)])
    yield answers("2.8", "A pong with a payload that nobody asked for is ignored.", [masked(PONG, b"not asked for")])
    yield answers(
        "2.9",
        "A ping after a pong that nobody asked for is answered with its own payload.",
        apart(masked(PONG, b"not asked for"), masked(PING, b"ping")),
        Ponged(b"ping"),
    )
    payloads = [b"ping %d" % number for number in range(10)]
    pings, pongs = [masked(PING, payload) for payload in payloads], [Ponged(payload) for payload in payloads]
    yield answers("2.10", "Ten pings get ten pongs, in order.", pings, *pongs)
    yield answers("2.11", "Ten pings that arrive byte by byte get ten pongs, in order.", bytewise(*pings), *pongs)


# 3 Reserved bits


def _reserved_bits() -> Iterator[Case]:
    hello, ping = masked(TEXT, b"Hello, world!"), masked(PING)
    yield breaks("3.1", "A text with reserved bits 1 is a violation.", [masked(TEXT, b"Hello, world!", rsv=1)], 1002)
    for rsv, (chopping, how) in enumerate(CHOPPINGS, 2):
        yield breaks(
            f"3.{rsv}",
            f"Of two texts {how}, the second with reserved bits {rsv}, the first is echoed and the ping is not seen.",
            chopping(hello, masked(TEXT, b"Hello, world!", rsv=rsv), ping),
            1002,
            "Hello, world!",
        )
    yield breaks("3.5", "A binary with reserved bits 5 is a violation.", [masked(BINARY, b"\x00\xff\xfe", rsv=5)], 1002)
    yield breaks("3.6", "A ping with reserved bits 6 is a violation.", [masked(PING, b"Hello, world!", rsv=6)], 1002)
    yield breaks("3.7", "A close with reserved bits 7 is a violation.", [masked(CLOSE, b"\x03\xe8", rsv=7)], 1002)


# 4 Reserved opcodes


def _reserved_opcodes() -> Iterator[Case]:
    hello, ping = masked(TEXT, b"Hello, world!"), masked(PING)
    for group, first, kind in ((1, 3, "data"), (2, 11, "control")):
        for number in range(1, 6):
            opcode = first + number - 1
            payload = b"reserved opcode" if number in (2, 4, 5) else b""
            odd = masked(opcode, payload)
            claim = f"A frame with the reserved {kind} opcode {opcode} and {len(payload)} bytes is a violation"
            if number <= 2:
                yield breaks(f"4.{group}.{number}", f"{claim}.", [odd], 1002)
            else:
                chunks = bytewise(hello, odd, ping) if number == 5 else together(hello, odd, ping)
                claim += "; the message before it is echoed, the ping after it is not seen."
                yield breaks(f"4.{group}.{number}", claim, chunks, 1002, "Hello, world!")


# 5 Fragmentation


def _fragmentation() -> Iterator[Case]:
    for number, opcode, kind in ((1, PING, "ping"), (2, PONG, "pong")):
        frames = together(masked(opcode, b"first half, ", fin=False), masked(CONTINUATION, b"second half"))
        yield breaks(f"5.{number}", f"A {kind} in two fragments is a violation.", frames, 1002)
    start, end, whole = (
        masked(TEXT, b"first half, ", fin=False),
        masked(CONTINUATION, b"second half"),
        "first half, second half",
    )
    ping = masked(PING, b"ping payload")
    hello = masked(TEXT, b"Hello, world!")
    for number, (chopping, how) in enumerate(CHOPPINGS):
        yield answers(f"5.{3 + number}", f"A text in two fragments, {how}, is echoed.", chopping(start, end), whole)
        yield answers(
            f"5.{6 + number}",
            f"A ping between two fragments, {how}, is answered before the message is echoed.",
            chopping(start, ping, end),
            Ponged(b"ping payload"),
            whole,
        )
        for first, fin, form in ((9, True, "final"), (12, False, "unfinished")):
            yield breaks(
                f"5.{first + number}",
                f"A {form} continuation of nothing, {how}, is a violation, and the text after it is not echoed.",
                chopping(masked(CONTINUATION, b"nothing to continue", fin=fin), hello),
                1002,
            )
    yield breaks(
        "5.15",
        "A fragmented text is echoed although an unfinished continuation of nothing follows it in the same write.",
        together(start, end, masked(CONTINUATION, b"nothing to continue", fin=False), hello),
        1002,
        whole,
    )
    for number, fin, form in ((16, False, "an unfinished"), (17, True, "a final")):
        turn = (masked(CONTINUATION, b"first half, ", fin=fin), masked(TEXT, b"second half", fin=False), end)
        claim = f"A connection that begins with {form} continuation fails, and no message after it is echoed."
        yield breaks(f"5.{number}", claim, together(*turn, *turn), 1002)
    yield breaks(
        "5.18",
        "A message whose second fragment says text again is a violation.",
        together(start, masked(TEXT, b"second half")),
        1002,
    )
    parts = [b"part %d, " % number for number in range(1, 6)]
    first, second, third, fourth = (masked(CONTINUATION if at else TEXT, parts[at], fin=False) for at in range(4))
    fifth = masked(CONTINUATION, parts[4])
    one, two = masked(PING, b"one"), masked(PING, b"two")
    for number, chunks, how in (
        (19, [*together(first, second, one), *together(third, fourth, two, fifth)], "in two writes"),
        (20, apart(first, second, one, third, fourth, two, fifth), "frame by frame"),
    ):
        yield answers(
            f"5.{number}",
            f"Two pings inside a text of five fragments, {how}, are answered at once, the text at its end.",
            chunks,
            Ponged(b"one"),
            Ponged(b"two"),
            b"".join(parts).decode(),
        )


# 6 UTF-8

LETTERS: Final = "\u00e9\u20ac\u00f1\u00fc\u00df".encode()  # 11 bytes: the second letter has three, the others two
MIXED: Final = "Gr\u00f6\u00dfe \u2265 \u00bc \u20ac, na\u00efve \u2713".encode()
SPOILED: Final = LETTERS + b"\xed\xa0\x80" + b"tail"  # with a surrogate inside
BEYOND: Final = bytes.fromhex("f4908080")  # U+110000, one more than there is

_CUT_SHORT: Final = "c0 e080 f08080 f8808080 fc80808080 df efbf f7bfbf fbbfbfbf fdbfbfbfbf"

# Number, what the sequences are, and the sequences in hex.
SEQUENCES: Final[list[tuple[int, str, list[str]]]] = [
    (
        5,
        "text with characters of one to four bytes",
        [(b"a " + char.encode() + b" z").hex() for char in ("%", "\xa3", "\u20ac", "\U0001d11e")] + [LETTERS.hex()],
    ),
    (6, "a prefix of a text of five letters", [LETTERS[:size].hex() for size in range(1, 12)]),
    (7, "the first character of its length", ["00", "c280", "e0a080", "f0908080"]),
    (8, "the first sequence of five or six bytes", ["f888808080", "fc8480808080"]),
    (9, "the last character of its length", ["7f", "dfbf", "efbfbf", "f48fbfbf"]),
    (10, "the last sequence of its length", ["f7bfbfbf", "fbbfbfbfbf", "fdbfbfbfbfbf"]),
    (11, "a character at a border", ["ed9fbf", "ee8080", "efbfbd", "f48fbfbf", "f4908080"]),
    (
        12,
        "continuation bytes without a first one",
        ["80", "bf", "80bf", "80bf80", "80bf80bf", "80bf80bf80", "80bf80bf80bf", bytes(range(0x80, 0xBF)).hex()],
    ),
    (
        13,
        "first bytes, each before a space",
        [
            b"".join(bytes((byte, 0x20)) for byte in range(start, end)).hex()
            for start, end in ((0xC0, 0xDF), (0xE0, 0xEF), (0xF0, 0xF7), (0xF8, 0xFB), (0xFC, 0xFD))
        ],
    ),
    (14, "a sequence whose last byte is missing", _CUT_SHORT.split()),
    (15, "all sequences whose last byte is missing", [_CUT_SHORT.replace(" ", "")]),
    (16, "bytes that are in no sequence", ["fe", "ff", "fefeffff"]),
    (17, "an overlong slash", ["c0af", "e080af", "f08080af", "f8808080af", "fc80808080af"]),
    (18, "the last overlong sequence of its length", ["c1bf", "e09fbf", "f08fbfbf", "f887bfbfbf", "fc83bfbfbfbf"]),
    (19, "an overlong NUL", ["c080", "e08080", "f0808080", "f880808080", "fc8080808080"]),
    (20, "a surrogate", ["eda080", "edadbf", "edae80", "edafbf", "edb080", "edbe80", "edbfbf"]),
    (
        21,
        "a pair of surrogates",
        [high + low for high in ("eda080", "edadbf", "edae80", "edafbf") for low in ("edb080", "edbfbf")],
    ),
    (
        22,
        "a code point that is no character",
        [chr(plane << 16 | low).encode().hex() for plane in range(17) for low in (0xFFFE, 0xFFFF)],
    ),
    (23, "one of the specials", [chr(code).encode().hex() for code in range(0xFFF9, 0x10000)]),
]
INVALID_GROUPS: Final = {8, 10, 12, 13, 14, 15, 16, 17, 18, 19, 20, 21}


def is_valid(group: int, number: int) -> bool:
    """Whether sequence `number` of group 6.`group` is UTF-8, by the tables of Unicode and not by a decoder."""
    if group == 6:
        return number in (2, 5, 7, 9, 11)  # a prefix that ends with a letter
    return group not in INVALID_GROUPS and (group, number) != (11, 5)


def _utf8() -> Iterator[Case]:
    def pieces(*payloads: bytes) -> list[bytes]:
        last = len(payloads) - 1
        return [masked(CONTINUATION if at else TEXT, piece, fin=at == last) for at, piece in enumerate(payloads)]

    def singly(payload: bytes) -> list[bytes]:
        return list(fragmented(TEXT, payload, 1))

    yield answers("6.1.1", "An empty text is echoed.", pieces(b""), "")
    yield answers("6.1.2", "A text in three empty fragments is echoed as an empty one.", pieces(b"", b"", b""), "")
    yield answers("6.1.3", "A text between two empty fragments is echoed.", pieces(b"", b"middle", b""), "middle")
    mixed, cut = MIXED.decode(), MIXED.index(b"\xe2\x82\xac")
    yield answers("6.2.1", "A text beyond ASCII is echoed.", pieces(MIXED), mixed)
    yield answers("6.2.2", "A text cut between two characters is echoed.", pieces(MIXED[:cut], MIXED[cut:]), mixed)
    yield answers("6.2.3", "A text in fragments of one byte is echoed.", singly(MIXED), mixed)
    yield answers(
        "6.2.4",
        "Letters of two and three bytes in fragments of one byte are echoed.",
        singly(LETTERS),
        LETTERS.decode(),
    )
    yield breaks("6.3.1", "A text with a surrogate inside is a violation.", pieces(SPOILED), 1007)
    claim = "A text with a surrogate, in fragments of one byte, fails at the surrogate's second byte."
    yield breaks("6.3.2", claim, singly(SPOILED), 1007, fail_by=len(LETTERS) + 2)

    claim = "What is not UTF-8 any more fails at once, {}."
    yield breaks(
        "6.4.1", claim.format("in the second of three frames"), pieces(LETTERS, BEYOND, b"tail"), 1007, fail_by=2
    )
    yield breaks(
        "6.4.2",
        claim.format("at a byte that is the second of its character and the only one of its frame"),
        pieces(LETTERS + BEYOND[:1], BEYOND[1:2], BEYOND[2:] + b"tail"),
        1007,
        fail_by=2,
    )
    head = len(masked(TEXT, LETTERS + BEYOND + b"tail")) - len(LETTERS + BEYOND + b"tail")
    for number, first, second, where in (
        (3, len(LETTERS), len(LETTERS + BEYOND), "in the second of three pieces of a frame"),
        (4, len(LETTERS) + 1, len(LETTERS) + 2, "at a byte inside a frame that has not ended"),
    ):
        frame = masked(TEXT, LETTERS + BEYOND + b"tail")
        chunks = [frame[: head + first], frame[head + first : head + second], frame[head + second :]]
        yield breaks(f"6.4.{number}", claim.format(where), chunks, 1007, fail_by=2)

    for group, kind, sequences in SEQUENCES:
        for number, sequence in enumerate(sequences, 1):
            payload = bytes.fromhex(sequence)
            id_ = f"6.{group}.{number}"
            if is_valid(group, number):
                yield answers(id_, f"{kind.capitalize()} is echoed.", pieces(payload), payload.decode())
            else:
                yield breaks(id_, f"{kind.capitalize()}, which is not UTF-8, is a violation.", pieces(payload), 1007)


# 7 Close handling


def _closing() -> Iterator[Case]:
    hello, ping = masked(TEXT, b"Hello, world!"), masked(PING)
    start, end = masked(TEXT, b"first half, ", fin=False), masked(CONTINUATION, b"second half")
    large = b"*" * (256 * KIB)

    def ends(id_: str, claim: str, chunks: list[bytes], code: int, *outputs: Output) -> Case:
        """The client closes with `code`, which is answered with the same or with 1000."""
        return Case(id_, claim, lambda: chunks, lambda: [*outputs, closed(code, 1000)])

    yield ends("7.1.1", "A message before a close is echoed.", apart(hello, NORMAL), 1000, "Hello, world!")
    yield ends("7.1.2", "Two closes get one answer.", apart(NORMAL, NORMAL), 1000)
    yield ends("7.1.3", "A ping after a close gets no pong.", apart(NORMAL, ping), 1000)
    yield ends("7.1.4", "A text after a close is not echoed.", apart(NORMAL, hello), 1000)
    yield ends("7.1.5", "A close ends a message that has not ended.", apart(start, NORMAL, end), 1000)
    yield ends(
        "7.1.6",
        "A large message and a small one before a close are echoed, and the ping after it gets no pong.",
        apart(masked(TEXT, large), hello, NORMAL, ping),
        1000,
        large.decode(),
        "Hello, world!",
    )
    yield ends("7.3.1", "A close without a payload is answered.", [masked(CLOSE)], 1005)
    yield breaks("7.3.2", "A close with one byte of payload is a violation.", [masked(CLOSE, b"a")], 1002)
    yield ends("7.3.3", "A close with a code is answered.", [NORMAL], 1000)
    yield ends("7.3.4", "A close with a reason is answered.", [close_frame(1000, b"Hello World!")], 1000)
    yield ends("7.3.5", "A close with the longest reason is answered.", [close_frame(1000, b"*" * 123)], 1000)
    yield breaks("7.3.6", "A close with a longer reason is a violation.", [close_frame(1000, b"*" * 124)], 1002)
    yield breaks("7.5.1", "A close with a reason that is not UTF-8 is a violation.", [close_frame(1000, SPOILED)], 1007)
    # The suite ends with 4999; 1012 to 1014 are in the IANA registry since.
    valid = (1000, 1001, 1002, 1003, 1007, 1008, 1009, 1010, 1011, 3000, 3999, 4000, 4999, 1012, 1013, 1014)
    for number, code in enumerate(valid, 1):
        yield ends(f"7.7.{number}", f"A close with the code {code} is answered.", [close_frame(code)], code)
    for number, code in enumerate((0, 999, 1004, 1005, 1006, 1016, 1100, 2000, 2999), 1):
        yield breaks(f"7.9.{number}", f"A close with the code {code} is a violation.", [close_frame(code)], 1002)
    for number, code in enumerate((5000, 65535), 1):
        yield breaks(f"7.13.{number}", f"A close with the code {code} is a violation here.", [close_frame(code)], 1002)


# 9 Large messages, and many


def _payload(opcode: int, size: int) -> bytes:
    return (b"*" if opcode == TEXT else b"\xfe") * size


def _large(
    id_: str, claim: str, opcode: int, size: int, send: Callable[[bytes], Iterable[bytes]], count: int = 1
) -> Case:
    """`count` messages of `size` bytes, made when they are sent: the table itself stays small."""

    def chunks() -> Iterator[bytes]:
        for _ in range(count):
            yield from send(_payload(opcode, size))
        yield NORMAL

    def outputs() -> Iterator[Output]:
        payload = _payload(opcode, size)
        for _ in range(count):
            yield payload.decode() if opcode == TEXT else payload
        yield closed(1000)

    return Case(id_, claim, chunks, outputs)


def _limits() -> Iterator[Case]:
    for offset, opcode, kind in ((0, TEXT, "text"), (1, BINARY, "binary")):

        def whole(payload: bytes, opcode: int = opcode) -> Iterator[bytes]:
            yield masked(opcode, payload)

        for number, size in enumerate((64 * KIB, 256 * KIB, MIB, 4 * MIB, 8 * MIB, 16 * MIB), 1):
            claim = f"A {kind} message of {size} bytes in one frame is echoed."
            yield _large(f"9.{1 + offset}.{number}", claim, opcode, size, whole)

        for number in range(9):
            each = 64 << 2 * number  # 64 bytes to 4 MiB

            def cut(payload: bytes, opcode: int = opcode, each: int = each) -> Iterator[bytes]:
                return fragmented(opcode, payload, each)

            claim = f"A {kind} message of 4 MiB in fragments of {each} bytes is echoed."
            yield _large(f"9.{3 + offset}.{number + 1}", claim, opcode, 4 * MIB, cut)

        for number in range(6):
            each = 64 << number  # 64 to 2048 bytes

            def chopped(payload: bytes, opcode: int = opcode, each: int = each) -> Iterable[bytes]:
                return chops(masked(opcode, payload), each)

            claim = f"A {kind} message of 1 MiB that arrives {each} bytes at a time is echoed."
            yield _large(f"9.{5 + offset}.{number + 1}", claim, opcode, MIB, chopped)

        for number, size in enumerate((0, 16, 64, 256, 1024, 4096), 1):
            claim = f"A thousand {kind} messages of {size} bytes are echoed one by one."
            yield _large(f"9.{7 + offset}.{number}", claim, opcode, size, whole, count=1000)


# 10 Automatic fragmentation


def _fragmented_by_the_library() -> Iterator[Case]:
    claim = "A text of 65536 bytes in fragments of 1300 is echoed."
    yield _large("10.1.1", claim, TEXT, 65536, lambda payload: fragmented(TEXT, payload, 1300))


# 12 and 13 Compression

# Bytes of a message, and of a fragment; 0: in one frame.
MESSAGE_SIZES: Final = [
    *((size, 0) for size in (16, 64, 256, 1024, 4096, 8192, 16384, 32768, 65536, 131072)),
    *((size, 256) for size in (8192, 16384, 32768, 65536, 131072)),
    *((131072, each) for each in (1024, 4096, 32768)),
]
_BYTES_PER_CASE: Final = 128 * KIB
_MESSAGES_PER_CASE: Final = 12
_ANSWER: Final = "permessage-deflate; server_no_context_takeover; client_no_context_takeover"


@lru_cache(maxsize=1)
def _kinds() -> dict[str, bytes]:
    """A little more than the largest message of each kind of data, the same in every run."""
    dice = random.Random(7692)
    size = 160_000
    words = ["".join(dice.choices("etaoinshrdlu", k=dice.randint(2, 9))) for _ in range(2_000)]
    records = [
        {"id": at, "name": dice.choice(words), "price": dice.random(), "tags": words[at : at + 3]}
        for at in range(1_900)
    ]
    rows = "".join(f'<tr class="{dice.choice(words)}"><td>{dice.random():.3f}</td></tr>\n' for _ in range(4_000))
    picture = bytearray(min(255, (x * y >> 10) + dice.randrange(8)) for y in range(400) for x in range(400))
    kinds = {
        "JSON": json.dumps(records, indent=1).encode(),
        "a picture": bytes(picture),
        "prose": " ".join(dice.choices(words, k=30_000)).encode(),
        "HTML": f"<!doctype html><table>{rows}</table>".encode(),
        "packed data": dice.randbytes(size),
    }
    assert all(len(data) >= 131072 for data in kinds.values())
    return kinds


def _messages(kind: str, size: int) -> Iterator[bytes]:
    """Messages of `size` bytes, each beginning where the last one ended."""
    data = _kinds()[kind]
    at = 0
    for _ in range(max(1, min(_MESSAGES_PER_CASE, _BYTES_PER_CASE // size))):
        piece = (data + data)[at : at + size]
        at = (at + size) % len(data)
        yield piece


def _squeezed(payload: bytes) -> bytes:
    squeezer = zlib.compressobj(6, zlib.DEFLATED, -15)
    return (squeezer.compress(payload) + squeezer.flush(zlib.Z_SYNC_FLUSH))[:-4]


def _compressed(id_: str, kind: str, size: int, each: int, offer: str, window_bits: int = 15) -> Case:
    opcode = TEXT if kind in ("JSON", "HTML") else BINARY

    def chunks() -> Iterator[bytes]:
        for message in _messages(kind, size):
            body = _squeezed(message)
            yield from fragmented(opcode, body, each or len(body), rsv=4)
        yield NORMAL

    def outputs() -> Iterator[Output]:
        for message in _messages(kind, size):
            yield message.decode() if opcode == TEXT else message
        yield closed(1000)

    form = f"in fragments of {each} bytes" if each else "in one frame each"
    return Case(
        id_,
        f"Compressed messages of {size} bytes of {kind}, {form}, are echoed (window of {window_bits} bits).",
        chunks,
        outputs,
        offer=offer,
        answer=_ANSWER if window_bits == 15 else f"{_ANSWER}; server_max_window_bits={window_bits}",
        window_bits=window_bits,
    )


def _offer(no_context_takeover: bool = False, window_bits: int = 0) -> str:
    offer = "permessage-deflate; client_no_context_takeover; client_max_window_bits"
    if no_context_takeover:
        offer += "; server_no_context_takeover"
    return f"{offer}; server_max_window_bits={window_bits}" if window_bits else offer


def _compression() -> Iterator[Case]:
    for group, kind in enumerate(("JSON", "a picture", "prose", "HTML", "packed data"), 1):
        for number, (size, each) in enumerate(MESSAGE_SIZES, 1):
            yield _compressed(f"12.{group}.{number}", kind, size, each, _offer())
    offers = [
        (_offer(), 15),
        (_offer(no_context_takeover=True), 15),
        (_offer(window_bits=9), 9),
        (_offer(window_bits=15), 15),
        (_offer(no_context_takeover=True, window_bits=9), 9),
        (_offer(no_context_takeover=True, window_bits=15), 15),
        (", ".join((_offer(no_context_takeover=True, window_bits=9), _offer(no_context_takeover=True), _offer())), 9),
    ]
    for group, (offer, window_bits) in enumerate(offers, 1):
        for number, (size, each) in enumerate(MESSAGE_SIZES, 1):
            yield _compressed(f"13.{group}.{number}", "JSON", size, each, offer, window_bits)


CASES: Final[list[Case]] = [
    *_framing(),
    *_pings(),
    *_reserved_bits(),
    *_reserved_opcodes(),
    *_fragmentation(),
    *_utf8(),
    *_closing(),
    *_limits(),
    *_fragmented_by_the_library(),
    *_compression(),
]
