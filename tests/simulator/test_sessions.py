"""Sessions go from node to node in simulated worlds, and mutants that break a promise are caught."""

from __future__ import annotations

import pytest

from partyline.interfaces import SessionRow
from partyline.nodes import sessions as module
from partyline.nodes.sessions import Sessions

from .hub import Violation
from .sessions import simulate


def test_one_node_has_a_session_and_all_that_is_known_of_it() -> None:
    """However many clients ask for a session at once, and whatever node is killed, one has it at a time, and no living
    node's knowledge is lost."""
    tally = simulate(range(20))
    assert tally["taken over"] > 50
    assert tally["kill"] > 50


@pytest.mark.check
def test_in_many_worlds() -> None:
    """The same, in ten times as many worlds."""
    simulate(range(20, 220))


class Unasked(Sessions):
    """Does not ask the node of before."""

    async def _ask(self, node: str, pid_hash: bytes) -> bytes | None:
        return None


class Untaken(Sessions):
    """Reads the row and does not take it."""

    async def claim(self, pid_hash: bytes) -> tuple[SessionRow, int] | None:
        value = await self._table.get(pid_hash.hex())
        if value is None:
            return None
        answer = await self._ask(module._decode(value).node, pid_hash)
        return None if answer == b"" else module._session(module._decode(answer or value))


class AnybodysRow(Sessions):
    """Does not look whose row it has taken."""

    async def claim(self, pid_hash: bytes) -> tuple[SessionRow, int] | None:
        value = await self._table.get(pid_hash.hex())
        answer = b"" if value is None else await self._ask(module._decode(value).node, pid_hash)
        taken = None if answer == b"" else await self._table.take(pid_hash.hex())
        return None if taken is None else module._session(module._decode(answer or taken))


class StillWriting(Sessions):
    """Hands a session over, and writes what it had to write of it afterwards."""

    async def _asked(self, node: str, pid_hash: bytes) -> bytes:
        for hand_over in self._hand_overs:
            handed = hand_over(pid_hash)
            if handed is not None:
                return module._encode(self._row(*handed))
        return b""


@pytest.mark.parametrize("mutant", [Unasked, Untaken, AnybodysRow, StillWriting])
def test_mutants_are_caught(mutant: type[Sessions]) -> None:
    """Each of them breaks a promise in one of a few worlds."""
    with pytest.raises(Violation):
        simulate(range(60), sessions=mutant)
