"""The findings of `partyline doctor`."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum


class Verdict(Enum):
    """How bad it is: nothing to do, worth knowing, or a server cannot run or keep its promises."""

    OK = "ok"
    WARNING = "warning"
    PROBLEM = "problem"


@dataclass(frozen=True, slots=True)
class Finding:
    """One subject, its state, and what to do about it. `positions` are those of damaged messages."""

    subject: str
    verdict: Verdict
    text: str
    advice: str = ""
    positions: tuple[str, ...] = ()


def ok(subject: str, text: str) -> Finding:
    return Finding(subject, Verdict.OK, text)


def warning(subject: str, text: str, advice: str) -> Finding:
    return Finding(subject, Verdict.WARNING, text, advice)


def problem(subject: str, text: str, advice: str, positions: tuple[str, ...] = ()) -> Finding:
    return Finding(subject, Verdict.PROBLEM, text, advice, positions)
