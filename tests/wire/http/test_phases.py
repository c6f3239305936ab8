"""The table of phases."""

from __future__ import annotations

from partyline.wire.http.phases import TRANSITIONS, Phase, Step


def test_every_phase_comes_to_an_end() -> None:
    """From each phase a path leads to closing or to a WebSocket; from those two nothing leads back."""
    ends = {Phase.CLOSING, Phase.SWITCHED}
    assert {phase for phase, _ in TRANSITIONS} == set(Phase) - ends
    assert {step for _, step in TRANSITIONS} == set(Step)
    reaching = set(ends)
    for _ in Phase:
        reaching |= {phase for (phase, _), after in TRANSITIONS.items() if after in reaching}
    assert reaching == set(Phase)
