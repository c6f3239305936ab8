"""Several nodes on one log in thousands of interleavings, and mutants that the simulator must catch."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest

from partyline.hub.delivery import Parcel
from partyline.hub.hub import Hub
from partyline.interfaces import Found, News, Outcome, Overrun, Renewed, Standing
from partyline.models import Message
from partyline.stores.shared import SharedStore

from .hub import Violation
from .nodes import Simulation, simulate
from .test_hub import seeds, told

STEPS = 600


@pytest.mark.check
def test_the_promises_hold_across_nodes() -> None:
    """Whatever is lost, late, cut, killed, pruned or failed over, nothing is lost, doubled or out of order on any
    node; and every case happened."""
    runs = seeds(300)
    tally = told(simulate(runs, STEPS), runs)
    assert tally["steps"] == len(runs) * STEPS
    for event in ("live", "caught up", "acknowledged", "duplicate", "refused", "told"):
        assert tally[event] > 1_000, event
    for event in ("resumed", "unreadable", "cut", "kill", "failover", "renewed", "displaced"):
        assert tally[event] > 200, event
    for event in ("overrun", "gap"):
        assert tally[event] > 15, event


@pytest.mark.check
def test_nodes_find_out_that_the_log_has_lost_its_end() -> None:
    """The same holds for a log that does not say that it has failed over, if each node had handed out what it lost."""
    runs = seeds(200)
    tally = told(simulate(runs, STEPS, known=False), runs)
    assert tally["failover"] > 10
    assert tally["renewed"] > 10


def test_a_run_is_its_seed() -> None:
    """The same seed gives the same run, another seed another one."""
    runs = [Simulation(seed).run(STEPS) for seed in (1, 1, 2)]
    assert runs[0] == runs[1] != runs[2]


# Mutants. Each breaks one thing in the store for shared logs, or in the hub.


class AnswersBeforeTheTail(SharedStore):
    def _answers(self) -> list[Outcome]:
        ready, self._placed = list(self._placed), type(self._placed)()
        return ready


class TakesItsOwnForOthers(SharedStore):
    """The tail does not wait for an append that is under way."""

    def _take(self) -> None:
        super()._take()
        self._ids.clear()

    def _answers(self) -> list[Outcome]:
        ready: list[Outcome] = []
        while self._placed and (self._placed[0].message.offset or 0) <= self._reached:  # type: ignore[union-attr]
            ready.append(self._placed.popleft())
        return ready


class ForgetsWhatItAsked(SharedStore):
    """What was under way when the connection broke is never answered."""

    async def _connect(self) -> None:
        await super()._connect()
        self._settle()


class SkipsNothing(SharedStore):
    """It does not say that retention has overtaken it."""

    def _hand_out(self, batch: Sequence[Outcome | News]) -> None:
        super()._hand_out([one for one in batch if not isinstance(one, Overrun)])


class KeepsItsEpoch(SharedStore):
    """A new epoch is nothing that anybody has to know of."""

    def _adopt(self, standing: Standing) -> None:
        super()._adopt(standing)

    def _hand_out(self, batch: Sequence[Outcome | News]) -> None:
        super()._hand_out([one for one in batch if not isinstance(one, Renewed)])


class TrustsTheLog(SharedStore):
    """It does not compare what it has handed out with what is there."""

    async def _connect(self) -> None:
        self._last = None
        self._reached, reached = 0, self._reached
        try:
            await super()._connect()
        finally:
            self._reached = max(self._reached, reached)


class HearsItselfOnly(SharedStore):
    def _hand_out(self, batch: Sequence[Outcome | News]) -> None:
        super()._hand_out([one for one in batch if not isinstance(one, Found)])


class Swaps(SharedStore):
    """Two messages that the tail brings together change their places."""

    def _pass_on(self, messages: Sequence[Message]) -> None:
        super()._pass_on([*messages[1::-1], *messages[2:]])


class StartsAgain(SharedStore):
    """After each connection the tail goes back a little."""

    async def _connect(self) -> None:
        await super()._connect()
        self._reached = max(0, self._reached - 1)


class NeverWaits(SharedStore):
    """A position ahead of this node is not waited for."""

    async def reach(self, offset: int) -> bool:
        return False


class LetsEverybodyStay(Hub):
    """Members that may have missed something go on."""

    def _news(self, news: News) -> Parcel:
        parcel = super()._news(news)
        if not isinstance(news, Found):
            offset = news.oldest - 1 if isinstance(news, Overrun) else news.head
            parcel.served = lambda: setattr(self.delivery, "reached", offset)  # type: ignore[method-assign]
        return parcel


class FansOutOwnOnly(Hub):
    def _news(self, news: News) -> Parcel:
        return Parcel(None, news.message) if isinstance(news, Found) else super()._news(news)


@pytest.mark.parametrize(
    ("parts", "broken"),
    [
        ({"store": AnswersBeforeTheTail}, "before it was handed out|came after"),
        ({"store": TakesItsOwnForOthers}, "came after"),
        ({"store": ForgetsWhatItAsked}, "never answered|answered twice|acknowledged"),
        ({"store": SkipsNothing}, "is lost|before it was handed out"),
        ({"store": KeepsItsEpoch}, "is not|another epoch|came after|is lost"),
        ({"store": TrustsTheLog, "known": False}, "given twice|does not reach|is not"),
        ({"store": HearsItselfOnly}, "is lost|does not reach|before it was handed out"),
        ({"store": Swaps}, "came after|is lost|before it was handed out"),
        ({"store": StartsAgain}, "came after|twice"),
        ({"store": NeverWaits}, "could be recovered"),
        ({"hub": LetsEverybodyStay}, "is lost|is not"),
        ({"hub": FansOutOwnOnly}, "is lost"),
    ],
    ids=lambda value: next(iter(value.values())).__name__ if isinstance(value, dict) else value.partition("|")[0],
)
def test_mutants_are_caught(parts: dict[str, Any], broken: str) -> None:
    """Each mutant that breaks a promise is found within a few hundred runs, with the message of that promise."""
    with pytest.raises(Violation, match=broken):
        simulate(range(300), STEPS, **parts)
