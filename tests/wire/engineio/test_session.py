"""A session as scenes: what happens to it and what it does, to the millisecond."""

from __future__ import annotations

import pytest

from partyline.wire.engineio.session import (
    Channel,
    Effect,
    HangUp,
    Over,
    Reason,
    Refuse,
    Rules,
    Send,
    Session,
)
from partyline.wire.engineio.states import TRANSITIONS, SessionState, Step

RULES = Rules(ping_interval=0.3, ping_timeout=0.2, upgrade_timeout=1.0, last_poll=2.0)
POLL, WEBSOCKET, CANDIDATE = Channel.POLL, Channel.WEBSOCKET, Channel.CANDIDATE


def session(protocol: int = 4, *, websocket: bool = False) -> Session:
    return Session(protocol, RULES, 0.0, websocket=websocket)


def upgrading(protocol: int = 4) -> Session:
    """A session whose candidate has been probed."""
    one = session(protocol)
    assert one.attach(0.0) == []
    assert one.probe("2probe", 0.0) == [Send(CANDIDATE, ("3probe",))]
    return one


def sends(effects: list[Effect]) -> list[Send]:
    return [effect for effect in effects if isinstance(effect, Send)]


# Polling


def test_a_get_hangs_until_there_is_something() -> None:
    """A GET with nothing to fetch hangs; the packets sent in one turn answer it together."""
    one = session()
    assert one.get(0.0) == []
    assert one.hanging
    assert one.send("4a") == one.send(b"b", "4c") == []
    assert one.flush() == [Send(POLL, ("4a", b"b", "4c"))]
    assert not one.hanging
    assert one.flush() == []


def test_packets_wait_for_a_get() -> None:
    """Packets sent while no GET hangs are fetched by the next one, in order."""
    one = session()
    one.send("4a", "4b")
    assert one.queued == 4
    assert one.flush() == []
    assert one.get(0.0) == [Send(POLL, ("4a", "4b"))]
    assert one.queued == 0


def test_a_body_has_sixteen_packets_at_most() -> None:
    """A body has at most sixteen packets; the others wait for the next GET, in order."""
    one = session()
    packets = [f"4{number}" for number in range(40)]
    one.send(*packets)
    got: list[object] = []
    for size in (16, 16, 8):
        (sent,) = sends(one.get(0.0))
        assert len(sent.packets) == size
        got += sent.packets
    assert got == packets
    assert one.get(0.0) == []


def test_messages_of_a_post() -> None:
    """A POST's messages are received in order, text without its type."""
    assert session().post(["4a", b"\x01", "4", "4b"], 0.0) == ["a", b"\x01", "", "b"]


def test_a_second_get_closes() -> None:
    """A second GET is refused, and the one that hangs is told that the session is over."""
    one = session()
    one.get(0.0)
    assert one.get(0.0) == [Send(POLL, ("1",)), Over(Reason.TRANSPORT_ERROR), Refuse(3)]
    assert one.state is SessionState.CLOSED
    assert one.get(0.0) == one.post(["4a"], 0.0) == one.attach(0.0) == [Refuse(1)]


def test_an_aborted_get_closes() -> None:
    """An aborted GET closes the session, because nobody knows what was lost with it."""
    one = session()
    one.get(0.0)
    assert one.abort(0.0) == [Over(Reason.TRANSPORT_ERROR)]
    assert one.state is SessionState.CLOSED
    assert one.abort(0.0) == []


@pytest.mark.parametrize("packets", [None, ["0"], ["5"], ["2"], ["2probe"], ["4a", "5", "4b"]])
def test_a_malformed_post_closes(packets: list[str | bytes] | None) -> None:
    """A malformed body, or a packet out of place, gets a 400 and ends the session; a GET that hangs is answered."""
    for hanging in (False, True):
        one = session()
        if hanging:
            one.get(0.0)
        effects = one.post(packets, 0.0)
        before: list[Effect] = ["a"] if packets and packets[0] == "4a" else []
        told: list[Effect] = [Send(POLL, ("1",))] if hanging else []
        assert effects == [*before, *told, Over(Reason.PARSE_ERROR), Refuse(3)]
        assert one.state is SessionState.CLOSED


def test_a_client_that_leaves_with_a_get_hanging() -> None:
    """POST `1`: the GET that hangs gets `6`, and the session is unknown."""
    one = session()
    one.get(0.0)
    assert one.post(["4last", "1", "4ignored"], 0.0) == ["last", Send(POLL, ("6",)), Over(Reason.TRANSPORT_CLOSE)]
    assert one.state is SessionState.CLOSED


def test_a_client_that_leaves_before_its_get_comes() -> None:
    """A POST `1` that overtook its GET closes the session, too; what waited for the client is dropped."""
    one = session()
    one.send("4never fetched")
    assert one.post(["1"], 0.0) == [Over(Reason.TRANSPORT_CLOSE)]
    assert one.state is SessionState.REFUSING
    assert one.post(["4a"], 0.0) == [Refuse(3)]
    assert one.get(0.0) == [Send(POLL, ("6",))]
    assert one.state is SessionState.CLOSED
    assert one.get(0.0) == [Refuse(1)]


def test_the_last_get_never_comes() -> None:
    """A session that is over forgets its client after `last_poll`."""
    one = session()
    one.post(["1"], 1.0 - 0.8)
    assert one.next_deadline() == pytest.approx(2.2)
    assert one.on_deadline(2.2) == []
    assert one.state is SessionState.CLOSED
    assert one.next_deadline() == float("inf")


def test_we_close_with_packets_waiting() -> None:
    """Everything sent before the end is fetched, sixteen at a time, and the end after it in a body of its own."""
    one = session()
    packets = [f"4{number}" for number in range(20)]
    one.send(*packets)
    assert one.close(0.0) == [Over(Reason.FORCED_CLOSE)]
    one.send("4too late")
    assert one.get(0.0) == [Send(POLL, tuple(packets[:16]))]
    assert one.state is SessionState.CLOSING
    assert one.get(0.0) == [Send(POLL, tuple(packets[16:]))]
    assert one.state is SessionState.CLOSING
    assert one.get(0.0) == [Send(POLL, ("1",))]
    assert one.state is SessionState.CLOSED
    assert one.close(0.0) == []


def test_a_post_that_crosses_our_end() -> None:
    """A POST that crosses our end is answered and ignored: a refused client would not fetch what was sent before."""
    one = session()
    one.send("4a")
    one.close(0.0)
    for posted in (["4late"], ["1"], ["0"], None):
        assert one.post(posted, 0.0) == []
    assert one.get(0.0) == [Send(POLL, ("4a",))]


def test_a_client_that_is_cut_off() -> None:
    """A client that is cut off fetches what was sent before, and may not post any more; its candidate is dropped."""
    for one in (session(), upgrading()):
        one.attach(0.0)
        one.send("4a")
        assert one.close(0.0, cut=True) == [HangUp(CANDIDATE), Over(Reason.FORCED_CLOSE)]
        assert one.post(["4late"], 0.0) == [Refuse(3)]
        assert one.get(0.0) == [Send(POLL, ("4a",))]
        assert one.get(0.0) == [Send(POLL, ("1",))]
        assert one.state is SessionState.CLOSED
    one = session(websocket=True)
    assert one.close(0.0, cut=True) == [HangUp(WEBSOCKET, Reason.FORCED_CLOSE), Over(Reason.FORCED_CLOSE)]


# Heartbeat


@pytest.mark.parametrize("protocol", [3, 4])
def test_a_client_that_never_fetches(protocol: int) -> None:
    """A client that posts its heartbeat but fetches nothing for interval + timeout counts as gone."""
    one = session(protocol)
    assert one.get(0.0) == []
    one.send("4a")
    one.flush()
    now = 0.0
    while one.state is SessionState.POLLING and now < 5.0:
        now += 0.1
        one.on_deadline(now)
        one.post(["3" if protocol == 4 else "2"], now)
    assert one.state is SessionState.CLOSED
    assert now == pytest.approx(1.0, abs=0.2)


@pytest.mark.parametrize("protocol", [3, 4])
def test_a_client_that_fetches_seldom(protocol: int) -> None:
    """A client that fetches just in time, and answers what it has fetched, stays."""
    one = session(protocol)
    for beat in range(1, 20):
        one.on_deadline(beat * 0.3)
        one.get(beat * 0.3 + 0.1)
        assert one.post(["3" if protocol == 4 else "2"], beat * 0.3 + 0.1) in ([], [Send(POLL, ("3",))])
        one.send("4a")
        one.flush()
    assert one.state is SessionState.POLLING


def test_pings_that_nobody_fetches_the_answers_of() -> None:
    """Protocol 3: any number of pings in a body leaves one answer to fetch (hostile 48)."""
    one = session(3)
    one.post(["2"] * 10_000, 0.1)
    one.post(["2"] * 10_000, 0.1)
    assert one.queued == 1
    one.send("4a")
    one.post(["2", "2"], 0.1)
    assert one.get(0.1) == [Send(POLL, ("3", "4a", "3"))]


def test_our_ping_and_its_answer() -> None:
    """Protocol 4: the first ping is sent after the interval, the next one an interval after the answer."""
    one = session(websocket=True)
    assert one.next_deadline() == 0.3
    assert one.on_deadline(0.29) == []
    assert one.on_deadline(0.3) == [Send(WEBSOCKET, ("2",))]
    assert one.next_deadline() == 0.5
    assert one.receive("3", 0.4) == []
    assert one.next_deadline() == pytest.approx(0.7)
    assert one.receive("3", 0.45) == []  # nobody asked
    assert one.next_deadline() == pytest.approx(0.7)


def test_no_answer_to_our_ping() -> None:
    """Without a pong the session is over at interval + timeout, even if the ping was a little late; messages do not
    count as answers."""
    one = session(websocket=True)
    one.on_deadline(0.309)
    assert one.receive("4a", 0.4) == ["a"]
    assert one.on_deadline(0.499) == []
    assert one.on_deadline(0.5) == [HangUp(WEBSOCKET, Reason.PING_TIMEOUT), Over(Reason.PING_TIMEOUT)]


def test_the_clients_ping() -> None:
    """Protocol 3: the client pings and we answer; interval + timeout after its last ping the session is over."""
    one = session(3, websocket=True)
    assert one.next_deadline() == 0.5
    assert one.receive("2", 0.4) == [Send(WEBSOCKET, ("3",))]
    assert one.next_deadline() == pytest.approx(0.9)
    assert one.on_deadline(0.9) == [HangUp(WEBSOCKET, Reason.PING_TIMEOUT), Over(Reason.PING_TIMEOUT)]


@pytest.mark.parametrize(("protocol", "packet"), [(4, "2"), (3, "3")])
def test_a_heartbeat_in_the_wrong_direction(protocol: int, packet: str) -> None:
    """A ping in protocol 4 or a pong in protocol 3 is out of place."""
    one = session(protocol, websocket=True)
    assert one.receive(packet, 0.0) == [HangUp(WEBSOCKET, Reason.PARSE_ERROR), Over(Reason.PARSE_ERROR)]


@pytest.mark.parametrize("protocol", [3, 4])
def test_a_request_at_the_very_deadline(protocol: int) -> None:
    """A request at interval + timeout finds the session dead, whether a timer has fired or not."""
    for request in ("get", "post", "attach"):
        one = session(protocol)
        one.get(0.0)
        if protocol == 4:
            assert one.on_deadline(0.3) == [Send(POLL, ("2",))]
            one.get(0.31)
        effects = one.post(["4a"], 0.5) if request == "post" else getattr(one, request)(0.5)
        assert effects == [Send(POLL, ("1",)), Over(Reason.PING_TIMEOUT), Refuse(1)]


def test_a_stalled_loop_is_not_a_silent_peer() -> None:
    """If the deadline is noticed far too late, unread data is read before the client is judged."""
    one = session(websocket=True)
    one.on_deadline(0.3)
    assert one.on_deadline(5.0) == []
    assert one.receive("3", 5.0) == []
    assert one.next_deadline() == pytest.approx(5.3)
    assert one.on_deadline(9.0) == [Send(WEBSOCKET, ("2",))]
    assert one.next_deadline() == pytest.approx(9.2)  # the client has its whole time to answer a late ping
    assert one.on_deadline(20.0) == []
    assert one.on_deadline(20.1) == [HangUp(WEBSOCKET, Reason.PING_TIMEOUT), Over(Reason.PING_TIMEOUT)]


def test_a_heartbeat_that_stands_still() -> None:
    """While we do not read from a client, its answer has time. We go on pinging, because the client would give up
    otherwise."""
    one = session(websocket=True)
    one.on_deadline(0.3)
    one.hold(0.4)
    for beat in (0.6, 0.9, 1.2):
        assert one.next_deadline() == pytest.approx(beat)
        assert one.on_deadline(beat) == [Send(WEBSOCKET, ("2",))]
        one.hold(beat)
    one.resume(1.4)
    assert one.next_deadline() == pytest.approx(1.5)
    one.resume(2.0)
    assert one.next_deadline() == pytest.approx(1.5)
    assert one.on_deadline(1.5) == [HangUp(WEBSOCKET, Reason.PING_TIMEOUT), Over(Reason.PING_TIMEOUT)]


def test_pinged_while_the_heartbeat_stands_still() -> None:
    """The answer to the first ping sent meanwhile is due ping_timeout after we read again; all answers count as one."""
    one = session(websocket=True)
    one.hold(0.1)
    assert one.on_deadline(0.3) == one.on_deadline(0.6) == [Send(WEBSOCKET, ("2",))]
    one.resume(0.7)
    assert one.next_deadline() == pytest.approx(0.9)
    one.receive("3", 0.8)
    one.receive("3", 0.8)
    assert one.next_deadline() == pytest.approx(1.1)


def test_held_for_less_than_a_heartbeat() -> None:
    """If we do not read for less than a heartbeat, the next ping is sent at its usual time."""
    one = session(websocket=True)
    one.hold(0.1)
    one.resume(0.2)
    assert one.next_deadline() == pytest.approx(0.3)


def test_pongs_while_the_heartbeat_stands_still() -> None:
    """A client of protocol 3 gets pongs soon enough for any ping that we have not read."""
    one = session(3, websocket=True)
    one.hold(0.4)
    for beat in (0.5, 0.6, 0.7):
        assert one.next_deadline() == pytest.approx(beat)
        assert one.on_deadline(beat) == [Send(WEBSOCKET, ("3",))]
    one.resume(0.7)
    assert one.next_deadline() == pytest.approx(0.8)


def test_only_a_websocket_stands_still() -> None:
    """Polling requests keep arriving, so the heartbeat is only suspended on a WebSocket; across an upgrade it goes
    on."""
    one = session()
    one.hold(0.1)
    one.resume(0.2)
    one.get(0.2)
    assert one.on_deadline(0.3) == [Send(POLL, ("2",))]
    assert one.on_deadline(0.5) == [Over(Reason.PING_TIMEOUT)]


def test_an_answer_while_the_heartbeat_stands_still() -> None:
    """After an answer while we do not read, the next ping is sent one interval after the last."""
    one = session(websocket=True)
    one.on_deadline(0.3)
    one.hold(0.3)
    one.on_deadline(0.6)
    one.on_deadline(0.9)
    one.receive("3", 1.0)
    one.resume(1.0)
    assert one.next_deadline() == pytest.approx(1.2)


# WebSocket


@pytest.mark.parametrize("protocol", [3, 4])
def test_a_websocket_session(protocol: int) -> None:
    """On a WebSocket messages are sent and received at once."""
    one = session(protocol, websocket=True)
    assert one.writable
    assert one.send("4a", b"b") == [Send(WEBSOCKET, ("4a", b"b"))]
    assert one.receive("4x", 0.0) == ["x"]
    assert one.receive(b"\x00", 0.0) == [b"\x00"]
    assert one.receive("6", 0.0) == []
    assert one.get(0.0) == one.post(["4a"], 0.0) == one.attach(0.0) == [Refuse(3)]
    assert one.state is SessionState.WEBSOCKET
    assert one.close(0.0) == [HangUp(WEBSOCKET, Reason.FORCED_CLOSE), Over(Reason.FORCED_CLOSE)]
    assert one.receive("4x", 0.0) == one.broken(0.0) == one.lose(0.0) == one.send("4a") == []


def test_ends_of_a_websocket() -> None:
    """The client's close packet, an invalid packet and the loss of the WebSocket each end the session with their
    reason."""
    one = session(websocket=True)
    assert one.receive("1", 0.0) == [HangUp(WEBSOCKET, Reason.TRANSPORT_CLOSE), Over(Reason.TRANSPORT_CLOSE)]
    one = session(websocket=True)
    assert one.broken(0.0) == [HangUp(WEBSOCKET, Reason.PARSE_ERROR), Over(Reason.PARSE_ERROR)]
    one = session(websocket=True)
    assert one.lose(0.0) == [Over(Reason.TRANSPORT_CLOSE)]
    one = session(websocket=True)
    assert one.lose(0.0, Reason.TRANSPORT_ERROR) == [Over(Reason.TRANSPORT_ERROR)]


# The upgrade


@pytest.mark.parametrize("protocol", [3, 4])
def test_an_upgrade(protocol: int) -> None:
    """Probe, release of the GET that hangs, upgrade; what was sent meanwhile is sent first on the WebSocket."""
    one = session(protocol)
    one.get(0.0)
    assert one.attach(0.1) == []
    assert one.hanging
    assert one.probe("2probe", 0.1) == [Send(CANDIDATE, ("3probe",)), Send(POLL, ("6",))]
    assert one.send("4a", b"b") == one.flush() == []
    assert one.post(["4late"], 0.1) == ["late"]
    assert one.probe("5", 0.1) == [Send(WEBSOCKET, ("4a", b"b"))]
    assert one.state is SessionState.WEBSOCKET
    assert one.queued == 0
    assert one.send("4c") == [Send(WEBSOCKET, ("4c",))]
    assert one.get(0.1) == one.post(["4x"], 0.1) == one.attach(0.1) == [Refuse(3)]
    assert one.next_deadline() == (0.3 if protocol == 4 else 0.5)


def test_a_probe_with_packets_waiting() -> None:
    """A GET that hangs when the probe arrives is released with what waits, a later one at once."""
    one = session()
    one.get(0.0)
    one.attach(0.0)
    one.send("4a")
    assert one.probe("2probe", 0.0) == [Send(CANDIDATE, ("3probe",)), Send(POLL, ("4a",))]
    assert one.get(0.0) == [Send(POLL, ("6",))]
    one.send("4b")
    assert one.get(0.0) == [Send(POLL, ("4b",))]
    assert one.probe("2probe", 0.0) == [Send(CANDIDATE, ("3probe",))]
    assert one.probe("5", 0.0) == []


@pytest.mark.parametrize("packet", ["4a", "2", "3probe", "1", "6", b"x", None])
def test_a_candidate_that_misbehaves(packet: str | bytes | None) -> None:
    """Anything else that arrives on a candidate drops the candidate, and the session goes on with polling."""
    for one in (session(), upgrading()):
        one.attach(0.0)
        assert one.probe(packet, 0.0) == [HangUp(CANDIDATE)]
        assert one.state is SessionState.POLLING
        assert one.probe("5", 0.0) == []
        one.send("4a")
        assert one.get(0.0) == [Send(POLL, ("4a",))]
        assert one.attach(0.0) == []


def test_an_upgrade_without_a_probe() -> None:
    """`5` before `2probe` is out of place."""
    one = session()
    one.attach(0.0)
    assert one.probe("5", 0.0) == [HangUp(CANDIDATE)]
    assert one.state is SessionState.POLLING


def test_an_upgrade_that_is_never_finished() -> None:
    """After `upgrade_timeout` the candidate is closed, and nothing is left of it (hostile 21)."""
    rules = Rules(ping_interval=25.0, upgrade_timeout=1.0)
    for probed in (False, True):
        one = Session(4, rules, 0.0)
        one.attach(0.5)
        if probed:
            one.probe("2probe", 0.6)
        assert one.next_deadline() == 1.5
        assert one.on_deadline(1.5) == [HangUp(CANDIDATE)]
        assert one.state is SessionState.POLLING
        assert one.next_deadline() == 25.0


def test_a_second_candidate() -> None:
    """While one WebSocket is about to take over, another one is refused, and the first goes on."""
    one = session()
    one.attach(0.0)
    assert one.attach(0.0) == [Refuse(3)]
    assert one.probe("2probe", 0.0) == [Send(CANDIDATE, ("3probe",))]
    assert one.attach(0.0) == [Refuse(3)]
    assert one.probe("5", 0.0) == []
    assert one.state is SessionState.WEBSOCKET


def test_the_end_before_an_upgrade() -> None:
    """A candidate that is not probed yet is dropped with its session: the client fetches the rest by polling."""
    one = session()
    one.attach(0.0)
    one.send("4a")
    assert one.close(0.0) == [HangUp(CANDIDATE), Over(Reason.FORCED_CLOSE)]
    assert one.detach() == []
    assert one.get(0.0) == [Send(POLL, ("4a",))]
    assert one.get(0.0) == [Send(POLL, ("1",))]
    assert one.state is SessionState.CLOSED


def test_the_end_during_an_upgrade() -> None:
    """A client between `3probe` and `5` no longer polls: once its WebSocket has taken over, it gets there what was sent
    before the end, and then the end (hostile 58)."""
    one = upgrading()
    one.send("4a", b"b")
    assert one.close(0.0) == [Over(Reason.FORCED_CLOSE)]
    one.send("4too late")
    assert one.post(["4under way", "1"], 0.0) == []
    assert one.post(None, 0.0) == []
    assert one.get(0.0) == [Send(POLL, ("6",))]
    assert one.attach(0.0) == [Refuse(3)]
    assert one.probe("2probe", 0.0) == [Send(CANDIDATE, ("3probe",))]
    assert one.probe("5", 0.0) == [Send(CANDIDATE, ("4a", b"b")), HangUp(CANDIDATE)]
    assert one.state is SessionState.CLOSED
    assert one.next_deadline() == float("inf")


def test_the_end_during_an_upgrade_with_nothing_sent() -> None:
    """The WebSocket is closed as soon as it has taken over."""
    one = upgrading()
    one.close(0.0)
    assert one.probe("5", 0.0) == [HangUp(CANDIDATE)]


def test_the_end_during_an_upgrade_that_fails() -> None:
    """If the WebSocket does not take over after all, the client fetches the rest by polling."""
    for packet in (None, "4a"):
        one = upgrading()
        one.send("4a")
        one.close(0.0)
        assert one.probe(packet, 0.0) == [HangUp(CANDIDATE)]
        assert one.get(0.0) == [Send(POLL, ("4a",))]
        assert one.get(0.0) == [Send(POLL, ("1",))]
        assert one.state is SessionState.CLOSED


def test_the_end_during_an_upgrade_that_is_never_finished() -> None:
    """Nothing is left of an ended session after `last_poll`, or of its unfinished upgrade after `upgrade_timeout`."""
    one = upgrading()
    one.close(0.5)
    assert one.on_deadline(1.0) == [HangUp(CANDIDATE)]
    assert one.state is SessionState.CLOSING
    assert one.on_deadline(2.5) == []
    assert one.state is SessionState.CLOSED
    one = Session(4, Rules(upgrade_timeout=5.0, last_poll=1.0), 0.0)
    one.attach(0.0)
    one.probe("2probe", 0.0)
    one.close(0.0)
    assert one.on_deadline(1.0) == [HangUp(CANDIDATE)]
    assert one.state is SessionState.CLOSED


def test_the_client_ends_during_an_upgrade() -> None:
    """The candidate is dropped with its session when the client ends it, breaks it or falls silent."""
    for one in (session(), upgrading()):
        one.attach(0.0)
        assert one.post(["1"], 0.0) == [HangUp(CANDIDATE), Over(Reason.TRANSPORT_CLOSE)]
    for one in (session(), upgrading()):
        one.attach(0.0)
        assert one.post(None, 0.0) == [HangUp(CANDIDATE), Over(Reason.PARSE_ERROR), Refuse(3)]
    for one in (session(), upgrading()):
        one.attach(0.0)
        one.on_deadline(0.3)
        assert one.on_deadline(0.5) == [HangUp(CANDIDATE), Over(Reason.PING_TIMEOUT)]
        assert one.next_deadline() == float("inf")


@pytest.mark.parametrize("protocol", [3, 4])
def test_a_heartbeat_across_an_upgrade(protocol: int) -> None:
    """An upgrade does not affect the heartbeat: a client that falls silent after it is noticed in time."""
    one = session(protocol)
    one.attach(0.1)
    one.probe("2probe", 0.1)
    one.probe("5", 0.2)
    if protocol == 4:
        assert one.on_deadline(0.3) == [Send(WEBSOCKET, ("2",))]
    assert one.on_deadline(0.5) == [HangUp(WEBSOCKET, Reason.PING_TIMEOUT), Over(Reason.PING_TIMEOUT)]


def test_writable() -> None:
    """A packet would be sent at once on a WebSocket, or if a GET hangs and nothing waits before the packet."""
    one = session()
    assert not one.writable
    one.get(0.0)
    assert one.writable
    one.send("4a")
    assert not one.writable
    one.flush()
    assert not one.writable
    assert session(websocket=True).writable


def test_transitions() -> None:
    """Every state is reached and left except CLOSED, which is final, and each side can close every open state."""
    assert {state for state, _ in TRANSITIONS} == set(SessionState) - {SessionState.CLOSED}
    assert set(TRANSITIONS.values()) == set(SessionState)
    assert {step for _, step in TRANSITIONS} == set(Step)
    over = {SessionState.PARTING, SessionState.CLOSING, SessionState.REFUSING, SessionState.CLOSED}
    for state in set(SessionState) - over:
        for step in (Step.LEAVE, Step.BREAK, Step.SILENCE, Step.END):
            assert TRANSITIONS[state, step] in over
