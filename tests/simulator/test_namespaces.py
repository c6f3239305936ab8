"""Socket.IO namespaces in thousands of interleavings, and mutants of them that the simulator must catch."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import Any, cast

import pytest

from partyline.socketio.journal import Journal
from partyline.socketio.namespace import Namespace
from partyline.socketio.recovery import Recovery

from .hub import Violation
from .namespaces import World, simulate
from .test_hub import seeds, told

STEPS = 300


@pytest.fixture(autouse=True)
def quiet(caplog: pytest.LogCaptureFixture) -> None:
    """What the simulated servers complain about is not the test's."""
    caplog.set_level("CRITICAL", logger="partyline")


@pytest.mark.parametrize("paths", [("/a/",), ("/c/",)], ids=["recovery", "without"])
def test_the_promises_hold_for_namespaces(paths: tuple[str, ...]) -> None:
    """Whoever goes on first, each client reads what was said to it, in order, once, and over drops and kills too; and
    all of it happened."""
    runs = seeds(150)
    tally = told(simulate(runs, STEPS, paths=paths, faults=False, bounded=False, slice_size=512), runs)
    assert tally["steps"] == len(runs) * STEPS
    for event in ("event", "ack", "published", "drop", "refused", "found", "kicked", "kill", "waits to enter"):
        assert tally[event] > 50, event
    if paths == ("/a/",):
        for event in ("recovered", "not recovered", "not kept", "answered"):
            assert tally[event] > 50, event


def test_a_run_is_its_seed() -> None:
    """The same seed gives the same run, another seed another one."""
    runs: list[Counter[str]] = [
        World(seed, paths=("/a/",), faults=False, bounded=False, slice_size=512).run(STEPS) for seed in (1, 1, 2)
    ]
    assert runs[0] == runs[1] != runs[2]


# Mutants. Each breaks one thing.


def changed(owner: type, name: str, make: Callable[[Any], Any]) -> Any:
    """A patch: a method of `owner`, made of the real one."""
    return (owner, name, make(getattr(owner, name)))


MUTANTS: dict[str, tuple[Any, str]] = {
    "tells of no hole": (
        changed(Recovery, "broken", lambda real: lambda self, namespace: None),
        "over a hole|is lost",
    ),
    "lets answers overtake": (
        changed(Namespace, "in_turn", lambda real: lambda self, socket, messages: socket.write(messages)),
        "is lost|was not said",
    ),
    "forgets what is in flight": (
        changed(Journal, "joined", lambda real: lambda self, socket: None),
        "is lost",
    ),
    "replays what was read": (
        changed(
            Recovery,
            "restore",
            lambda real: lambda self, namespace, auth: real(self, namespace, {"pid": auth["pid"]}),
        ),
        "twice",
    ),
}


@pytest.mark.parametrize("name", MUTANTS)
def test_mutants_are_caught(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each way in which namespaces could break a promise is found within a few hundred runs, by the promise's own
    words."""
    (owner, attribute, mutant), broken = MUTANTS[name]
    monkeypatch.setattr(owner, attribute, mutant)
    with pytest.raises(Violation, match=broken):
        simulate(range(400), STEPS, paths=cast("Any", ("/a/",)), faults=False, bounded=False, slice_size=512)
