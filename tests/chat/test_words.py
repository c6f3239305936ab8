"""What people may say and how often, without a server."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from partyline.chat.words import MOST_TEXT, Pace, Refused, name, text

ANYTHING = st.text(st.characters(codec=None, exclude_categories=()), max_size=60)

FILLERS = set("\u115f\u1160\u3164\uffa0")  # letters that show nothing


@given(ANYTHING)
def test_a_text_that_passes_can_be_sent(said: str) -> None:
    """Any accepted text is UTF-8 without controls except tabs and line ends, and is accepted again unchanged."""
    try:
        passed = text(said)
    except Refused:
        assert not {letter for letter in said if letter.isalnum()} - FILLERS
        return
    passed.encode()
    assert not {letter for letter in passed if letter < " " and letter not in "\n\t"}
    assert not {letter for letter in passed if "\x7f" <= letter <= "\x9f"}
    assert text(passed) == passed


@given(ANYTHING)
def test_a_name_that_passes_is_one_line_of_what_can_be_seen(given: str) -> None:
    """An accepted name is one line without hidden directions, and is accepted again unchanged: there is one
    spelling."""
    try:
        passed = name(given, 40, "name")
    except Refused:
        return
    passed.encode()
    assert passed == " ".join(passed.split()) == name(passed, 40, "name")
    assert not set("\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069\u200e\u200f\ufeff") & set(passed)


@pytest.mark.parametrize(
    ("said", "passed"),
    [
        ("<script>alert(1)</script>", "<script>alert(1)</script>"),
        ("half \ud83d of it", "half \ufffd of it"),
        ("a\x00b\x07c\x1b[31m\x9b", "abc[31m"),
        ("one\r\ntwo\rthree", "one\ntwo\nthree"),
        ("👩‍👩‍👧‍👦 🏳️‍🌈 👍🏽", "👩‍👩‍👧‍👦 🏳️‍🌈 👍🏽"),
        ("שלום عليكم", "שלום عليكم"),
    ],
)
def test_texts(said: str, passed: str) -> None:
    """A text is changed only so that it can be sent and shown, because pages escape it."""
    assert text(said) == passed


def test_lengths() -> None:
    """A text of the greatest length is accepted, one more character is not, and the answer has both numbers."""
    assert text("😀" * MOST_TEXT) == "😀" * MOST_TEXT
    with pytest.raises(Refused, match="at most 4,000 characters, and this one has 4,001"):
        text("😀" * (MOST_TEXT + 1))
    with pytest.raises(Refused) as caught:
        name("x" * 41, 40, "name")
    assert caught.value.answer["field"] == "name"
    assert name("  Ada \u202e\t Lovelace ", 40, "name") == "Ada Lovelace"
    assert name("e\u0301", 1, "name") == "é"
    assert name("Ada\U000e0041\U000e007f", 40, "name") == "Ada"
    for unseen in ("", " \t", "\u200b", "\u200d\ufe0f", "\u3164\u2800", "\u0301", "\U000e0041"):
        with pytest.raises(Refused, match="at least one character that can be seen"):
            name(unseen, 40, "name")
        with pytest.raises(Refused, match="there is nothing in it"):
            text(unseen)


def test_the_pace() -> None:
    """A pace allows a burst, and then a rate per second; a refusal says how long to wait, and after that wait the next
    one passes."""
    now = 100.0
    pace = Pace(2, 3, clock=lambda: now)
    assert [pace.allows() for _ in range(4)] == [True, True, True, False]
    with pytest.raises(Refused) as caught:
        pace.check()
    wait = caught.value.answer["wait"]
    assert caught.value.answer["error"] == "rate_limited"
    assert 0 < wait <= 0.5
    now += wait - 0.01
    assert not pace.allows()
    now += 0.02
    assert pace.allows()
    now += 1000
    assert [pace.allows() for _ in range(4)] == [True, True, True, False]
