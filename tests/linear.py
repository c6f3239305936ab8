"""Whether what is read costs what it weighs: eight times the length, at most a little more than eight times the time.

Other programs and the processor itself disturb a measurement, so each is the least of several, and a cost that looks
too great is measured again at greater lengths. What is quadratic takes 64 times as long at any length.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable
from typing import TypeVar

import msgspec

from partyline.chat.words import Refused
from partyline.errors import PartylineError

T = TypeVar("T", str, bytes)

TIMES = 8
MORE = 24
"""What so many times the length may cost: three times as much as a linear cost."""
FLOOR = 100e-6
"""Seconds below which nothing can be said."""


def cost(
    read: Callable[[T], object], value: T, enough: float = 0.0, clock: Callable[[], float] = time.thread_time
) -> float:
    """The CPU seconds that reading takes, as the least of a few runs; less than `enough` needs no more of them."""
    least = float("inf")
    for _ in range(5):
        began = clock()
        with contextlib.suppress(PartylineError, msgspec.MsgspecError, Refused, ValueError, RecursionError):
            read(value)
        least = min(least, clock() - began)
        if least < enough:
            break
    return least


def is_linear(
    read: Callable[[T], object], piece: T, *lengths: int, clock: Callable[[], float] = time.thread_time
) -> bool:
    """Whether so many of this piece cost at most `MORE` times as much as a `TIMES`th of it, at one of these lengths."""
    for length in lengths:
        bound = MORE * max(cost(read, piece * (length // TIMES // len(piece)), clock=clock), FLOOR)
        if cost(read, piece * (length // len(piece)), bound, clock) < bound:
            return True
    return False
