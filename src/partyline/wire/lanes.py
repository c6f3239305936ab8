"""Looks at a whole text at once: as one integer in which each byte is a lane.

If a loop ran once for each bracket or escape, a stranger would decide how long it takes. Sums, shifts and masks of one
large integer take the same time for any text of the same length: a few milliseconds per megabyte.
"""

from __future__ import annotations

from functools import lru_cache, reduce
from itertools import accumulate
from math import isqrt
from operator import xor
from typing import Final

# The parts of an escape: a bit for each kind of byte.
_U, _BACKSLASH, _D, _HIGH, _LOW, _DIGIT = range(6)
_KINDS: Final = bytes(
    (byte == ord("u")) << _U
    | (byte == ord("\\")) << _BACKSLASH
    | (byte in b"dD") << _D
    | (byte in b"89abAB") << _HIGH
    | (byte in b"cdefCDEF") << _LOW
    | (byte in b"0123456789abcdefABCDEF") << _DIGIT
    for byte in range(256)
)
_ESCAPE: Final = 6 * 8  # bits from one escape to the next
_REPLACEMENT: Final = int.from_bytes(b"fffd", "little")


def replace_lone(data: bytes) -> bytes:
    r"""JSON text with each escaped lone half of a surrogate pair, as in `"\ud800"`, replaced by `\ufffd`."""
    # Without escaped backslashes, each one that is left begins an escape.
    kinds = int.from_bytes(data.replace(rb"\\", b"  ").translate(_KINDS), "little")
    halves = kinds >> _BACKSLASH & kinds >> 8 + _U & kinds >> 16 + _D & _every(1, len(data))
    halves &= kinds >> 32 + _DIGIT & kinds >> 40 + _DIGIT
    high, low = halves & kinds >> 24 + _HIGH, halves & kinds >> 24 + _LOW
    whole = high & low >> _ESCAPE
    lone = high ^ low ^ whole ^ whole << _ESCAPE
    if not lone:
        return data
    text = int.from_bytes(data, "little")
    text ^= (text ^ lone * _REPLACEMENT << 16) & lone * 0xFFFFFFFF << 16
    return text.to_bytes(len(data), "little")


def _every(step: int, size: int) -> int:
    """1 in the first lane and in every `step`th after it, for `size` lanes and more."""
    return _pattern(step, 1 << size.bit_length())


@lru_cache(maxsize=8)
def _pattern(step: int, size: int) -> int:
    return int.from_bytes((b"\1" + b"\0" * (step - 1)) * (size // step), "little")


# The parts of nesting. A bracket counts as its step plus one, so that no lane is negative.
_CLOSES, _STAYS, _OPENS, _QUOTE = 0, 1, 2, 4
_STEPS: Final = bytes.maketrans(b'[]{}"', bytes((_OPENS, _CLOSES, _OPENS, _CLOSES, _STAYS | _QUOTE)))


def nests_deeper(marks: bytes, most: int) -> bool:
    """Whether brackets outside strings nest deeper than `most` (at most 64). `marks` is all brackets and quotes.

    The marks are cut into pieces of equal length; one sum adds the marks at the same place in all pieces.
    """
    length = min(62, isqrt(len(marks)) + 1)  # with 62 no lane overflows
    count = -(-len(marks) // length)
    steps = marks.translate(_STEPS).ljust(count * length, bytes((_STAYS,)))
    rows = [int.from_bytes(steps[place::length], "little") for place in range(length)]
    ones = _every(1, count) & (1 << 8 * count) - 1
    quotes = (reduce(xor, rows) >> 2 & ones).to_bytes(count, "little")
    quoted = int.from_bytes(bytes(accumulate(quotes[:-1], xor, initial=0)), "little")
    for place, row in enumerate(rows):
        rows[place] = row & ~(quoted * 3) & ones * 3 | quoted
        quoted ^= row >> 2 & ones
    sums = sum(rows).to_bytes(count, "little")
    before = [total - length * piece for piece, total in enumerate(accumulate(sums, initial=0))]
    if max(before) > most:
        return True
    # Text that closes more than it opens is not JSON, so the rest does not matter.
    depths, room = int.from_bytes(bytes([max(0, depth) for depth in before[:count]]), "little"), 127 - most
    for place, row in enumerate(rows, 1):
        depths += row
        if depths + ones * (room - place) & ones << 7:
            return True
    return False
