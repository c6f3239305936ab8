"""The table of a socket's states."""

from __future__ import annotations

from partyline.socketio.states import ANSWERED, OVER, TRANSITIONS, SocketState, Step


def test_every_socket_comes_to_an_end() -> None:
    """Every state is reached from the first one, and from each an end is reached, from which nothing leads back."""
    assert {step for _, step in TRANSITIONS} == set(Step)
    assert {state for state, _ in TRANSITIONS} == set(SocketState) - OVER
    assert set(TRANSITIONS.values()) == set(SocketState) - {SocketState.ENTERING}
    assert all(TRANSITIONS[state, Step.LOST] is SocketState.GONE for state in set(SocketState) - OVER)


def test_no_socket_is_unanswered_again() -> None:
    """Nothing leads from a state in which CONNECT is answered to one in which it is not, and the client of a doomed
    socket is answered before it is disconnected."""
    assert {after for (state, _), after in TRANSITIONS.items() if state in ANSWERED} <= ANSWERED
    for doomed in (SocketState.DOOMED, SocketState.DOOMED_WHOLE):
        assert TRANSITIONS[doomed, Step.WELCOME] is SocketState.CONNECTED
        assert (doomed, Step.DISCONNECT) not in TRANSITIONS
