"""From five values to one figure, and from a figure and a bound to a verdict."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass


def better_quartile(values: Sequence[float]) -> float:
    """The 25th percentile, by linear interpolation; every bound of the bench is an upper one.

    A bound holds if this meets it: on shared cores one disturbed round must not decide, and
    neither must one lucky round.
    """
    if len(values) == 1:
        return values[0]
    return statistics.quantiles(values, n=4, method="inclusive")[0]


@dataclass(frozen=True, slots=True)
class Figure:
    """All values of one row, or all ratios of one pair, in the order of the rounds."""

    values: tuple[float, ...]

    @property
    def median(self) -> float:
        return statistics.median(self.values)

    @property
    def low(self) -> float:
        return min(self.values)

    @property
    def high(self) -> float:
        return max(self.values)

    @property
    def quartile(self) -> float:
        return better_quartile(self.values)

    def meets(self, bound: float) -> bool:
        """Whether the bound (at most) holds."""
        return self.quartile <= bound


def ratios(subject: Sequence[float], peer: Sequence[float]) -> Figure | None:
    """Subject / peer round by round: two runs of one round saw the same machine."""
    pairs = [(mine, theirs) for mine, theirs in zip(subject, peer, strict=False) if theirs > 0]
    return Figure(tuple(mine / theirs for mine, theirs in pairs)) if pairs else None


def three_digits(value: float) -> str:
    """A number with about three significant digits, thousands separated."""
    if value >= 99.95:
        return f"{value:,.0f}"
    return f"{value:.1f}" if value >= 9.995 else f"{value:.2f}"
