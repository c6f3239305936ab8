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
    """Whatever is said, what passes is UTF-8 without controls but tabs and line ends, and passes again unchanged."""
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
    """A name that passes is one line without hidden directions, and passes again unchanged: there is one spelling."""
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
    """Nothing is done to a text but that it becomes one that can be sent and shown: pages escape it."""
    assert text(said) == passed


def test_lengths() -> None:
    """A text of the greatest length passes, of one character more it does not, and the answer says both numbers."""
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
    """So many at once, then so many a second; a refusal says how long to wait, and who waits so long is let through."""
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
