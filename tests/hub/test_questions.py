"""Whose answers a question waits for: names, or a number."""

from __future__ import annotations

from partyline.hub.questions import Expected


def test_names() -> None:
    """Named nodes are waited for until each has answered or is lost."""
    expected = Expected()
    assert not expected.pending
    expected.name(["a", "b", "c"])
    assert expected.answered("a")
    assert not expected.answered("a")
    assert not expected.answered("stranger")
    expected.lost("b")
    assert (expected.pending, expected.absent) == (True, ["c"])
    assert expected.answered("c")
    assert (expected.pending, expected.absent) == (False, [])


def test_a_number() -> None:
    """Nodes without names are waited for until so many have answered, whenever the number becomes known."""
    expected = Expected()
    expected.unknown()
    assert expected.answered("")
    assert (expected.pending, expected.absent) == (True, ["?"])
    expected.count(3)
    assert (expected.pending, expected.absent) == (True, ["?", "?"])
    assert expected.answered("")
    assert expected.answered("")
    assert not expected.answered("")
    assert (expected.pending, expected.absent) == (False, [])


def test_a_number_that_drops() -> None:
    """A count that has dropped to what has answered ends the wait; one that has risen changes nothing."""
    expected = Expected()
    expected.unknown()
    expected.count(2)
    assert expected.answered("")
    expected.count(5)
    assert expected.absent == ["?"]
    expected.count(1)
    assert (expected.pending, expected.absent) == (False, [])
