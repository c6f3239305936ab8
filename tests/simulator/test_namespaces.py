"""Socket.IO namespaces in thousands of interleavings, and mutants of them that the simulator must catch."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest

from partyline.errors import ConfigError
from partyline.hub import delivery
from partyline.hub.delivery import Delivery
from partyline.models import Audience, Payload
from partyline.socketio.held import Held
from partyline.socketio.journal import Journal, KeptEvent
from partyline.socketio.namespace import Namespace
from partyline.socketio.recovery import Recovery
from tests.tools import one_in

from .hub import Violation
from .namespaces import PATHS, World, simulate
from .test_hub import seeds, told

STEPS = 300


@pytest.fixture(autouse=True)
def quiet(caplog: pytest.LogCaptureFixture) -> None:
    """Keep the logged complaints of the simulated servers out of the test's output."""
    caplog.set_level("CRITICAL", logger="partyline")


@pytest.mark.check
@pytest.mark.parametrize("paths", [("/a/",), ("/c/",), PATHS], ids=["recovery", "without", "three servers"])
@pytest.mark.parametrize("size", [1, 512])
def test_the_promises_hold_for_namespaces(paths: tuple[str, ...], size: int) -> None:
    """In whatever order the parties run, each client reads what was said to it, in order, once, even across drops and
    kills; large audiences, broken connections and other servers do not change that; and every case happened."""
    runs = seeds(80)
    tally = told(simulate(runs, STEPS, paths=paths, slice_size=size), runs)
    assert tally["steps"] == len(runs) * STEPS
    for event in ("event", "ack", "published", "drop", "refused", "found", "kicked", "kill", "waits to enter"):
        assert tally[event] > 20, event
    if paths != ("/c/",):
        for event in ("recovered", "not recovered", "not kept", "answered"):
            assert tally[event] > 20, event


def test_a_run_is_its_seed() -> None:
    """The same seed gives the same run, another seed another one."""
    runs: list[Counter[str]] = [World(seed).run(STEPS) for seed in (1, 1, 2)]
    assert runs[0] == runs[1] != runs[2]


# Mutants. Each breaks one thing.


def lets_overtake(self: Namespace, socket: Any, messages: Any, *, must: bool = False) -> None:
    socket._write(messages)


def speaks_at_once(self: Namespace, lane: Any, *arguments: Any) -> None:
    """An event is not in a lane and waits for nothing."""
    SPEAK(self, None, *arguments)


def leaves_at_once(
    self: Journal, event: str, arguments: tuple[Any, ...], audience: Audience, socket: Any = None, **rest: Any
) -> None:
    """An event is sent when it is emitted."""
    body = self.namespace.io.parser.body(event, arguments)
    sockets = self.namespace._select(audience) if socket is None else (socket,)
    self.namespace._post(None, body, list(sockets))  # type: ignore[attr-defined]
    EMIT(self, event, arguments, audience, socket, **rest)


def chooses_late(self: KeptEvent) -> Any:
    """The recipients of an event are decided when it is kept."""
    return [one for one in self.namespace._select(self._audience) if one._reachable] if self.message is not None else ()


def fans_out_in_one_breath(message: Any, members: Any, *rest: Any) -> int:
    """An exception of one member keeps the event from those after it."""
    for member in members:
        member.offer(Payload(member.dialect.encode(message)))
    return len(members)


def serves_without_containment(self: Delivery, what: str) -> None:
    raise RuntimeError(what)


def joined_twice(self: Journal, socket: Any) -> None:
    JOINED(self, socket)
    JOINED(self, socket)


def from_the_beginning(self: Recovery, namespace: Any, auth: dict[str, Any]) -> Any:
    return RESTORE(self, namespace, {"pid": auth["pid"]})


def holds_everything(self: Held, packet: Any) -> bool:
    """There is no bound for what is held for an entering socket."""
    self._packets.append(packet)
    self.size += len(packet) if isinstance(packet, bytes) else sum(map(len, packet))
    return True


SPEAK, EMIT, JOINED, RESTORE = Namespace._post, Journal.emit, Journal.joined, Recovery.restore
MUTANTS: list[tuple[Any, str, Any, str]] = [
    (Recovery, "broken", lambda self, namespace: None, "over a hole|is lost"),
    (Namespace, "_in_turn", lets_overtake, "is lost|was not said|came after"),
    (Namespace, "_post", speaks_at_once, "is lost|came after"),
    (Journal, "emit", leaves_at_once, "twice|is lost|not said"),
    (KeptEvent, "members", chooses_late, "is lost|not said"),
    (Journal, "joined", lambda self, socket: None, "is lost"),
    (Journal, "joined", joined_twice, "twice"),
    (Recovery, "restore", from_the_beginning, "twice"),
    (delivery, "fan_out", fans_out_in_one_breath, "is lost"),
    (Delivery, "_failed", serves_without_containment, "is lost|not let in|failed|does not get in|does not answer"),
    (Namespace, "_key", property(lambda self: self.name), "not said|is lost|goes on|two servers"),
    (Held, "add", holds_everything, "is held"),
    (Namespace, "_broken", lambda self: None, "over a hole|is lost"),
]


@pytest.mark.parametrize(
    ("owner", "name", "mutant", "broken"), one_in(4, MUTANTS), ids=lambda value: getattr(value, "__name__", None)
)
def test_mutants_are_caught(owner: Any, name: str, mutant: Any, broken: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each mutant that breaks a promise is found within a few hundred runs, with the message of that promise."""
    monkeypatch.setattr(owner, name, mutant)
    with pytest.raises((Violation, ConfigError, RuntimeError), match=broken):
        simulate(range(400), STEPS)
