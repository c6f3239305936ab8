"""Topic names and patterns: which are valid, and what a pattern covers, against a simple matcher."""

from __future__ import annotations

import itertools
import unicodedata

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from partyline.errors import Forbidden, InvalidValue
from partyline.topics import (
    MAX_LENGTH,
    PRIVATE,
    any_contains,
    any_covers,
    check_pattern,
    check_topic,
    contains,
    covers,
    is_pattern,
    matcher,
    overlap,
)
from partyline.trust.keys import Principal

NAMES = [
    "a",
    "cats",
    "orders.eu",
    "orders.eu.de.7",
    "Groß",
    "日本.語",
    "😀",
    "\U0001fae8",  # a face that this Unicode may not know yet
    "\ue000",
    "a-b_c~d!e",
    "a$b",
    "a.$b",
    "user:1",
    "'quoted'",
    '"',
    "x" * MAX_LENGTH,
    "é" * MAX_LENGTH,
]

NOT_NAMES = [
    "",
    "x" * (MAX_LENGTH + 1),
    ".",
    ".a",
    "a.",
    "a..b",
    "a b",
    " a",
    "a ",
    "a*",
    "*",
    "a.*",
    "a>",
    ">",
    "a/b",
    "a?b",
    "a#b",
    "a%20b",
    "a\\b",
    "$",
    "$sys",
    "$SYS.x",
    "a\tb",
    "a\nb",
    "a\r\n",
    "a\x00",
    "a\x1b[31m",
    "a\x7f",
    "a\x85b",
    "a\u00a0b",
    "a\u2028b",
    "a\u200bb",
    "a\u202eb",
    "a\u3000b",
    "a\ufeff",
    "a\ud800",
]


@pytest.mark.parametrize("name", NAMES)
def test_a_name_is_returned_as_it_is(name: str) -> None:
    """A topic name is accepted and returned unchanged, and is a pattern that covers itself."""
    assert check_topic(name) is name
    assert check_pattern(name) is name
    assert covers(name, name)


@pytest.mark.parametrize("name", NOT_NAMES, ids=ascii)
def test_what_is_no_name_is_refused(name: str) -> None:
    """Anything else is 422 `invalid_topic`, names the field, and its message fits on one line (hostile 32)."""
    with pytest.raises(InvalidValue) as caught:
        check_topic(name, "default_topics")
    error = caught.value
    assert (error.http_status, error.code, error.field) == (422, "invalid_topic", "default_topics")
    assert error.message.startswith("default_topics ")
    assert error.message.isprintable()
    assert len(error.message) < 300


@pytest.mark.parametrize("pattern", ["*", ">", "a.*", "*.a", "*.*", "a.>", "*.>", "a.*.b", "a.*.>", "日本.>"])
def test_tokens_may_be_wild(pattern: str) -> None:
    """In a pattern a whole token may be `*`, and the last one `>`; as a topic name it is refused."""
    assert check_pattern(pattern) is pattern
    with pytest.raises(InvalidValue):
        check_topic(pattern)


@pytest.mark.parametrize(
    "pattern",
    [
        "",
        "a*",
        "*a",
        "**",
        "a.**",
        "a>",
        ">a",
        ">.a",
        "a.>.b",
        ">>",
        ">.>",
        "a..>",
        ".>",
        "a.",
        "$sys.>",
        "a b.*",
        "a/*",
    ],
)
def test_what_is_no_pattern_is_refused(pattern: str) -> None:
    """A wild card within a token, `>` before the end, and what no name may hold is 422 and says what a pattern is."""
    with pytest.raises(InvalidValue, match="is not a pattern") as caught:
        check_pattern(pattern)
    assert (caught.value.code, caught.value.field) == ("invalid_topic", "pattern")


@pytest.mark.parametrize(
    ("pattern", "name", "covered"),
    [
        ("cats", "cats", True),
        ("cats", "Cats", False),
        ("cats", "cats.a", False),
        ("cats.a", "cats", False),
        ("*", "cats", True),
        ("*", "cats.a", False),
        (">", "cats", True),
        (">", "cats.a.b", True),
        ("orders.*.eu", "orders.7.eu", True),
        ("orders.*.eu", "orders.7.us", False),
        ("orders.*.eu", "orders.eu", False),
        ("orders.*.eu", "orders.7.8.eu", False),
        ("sensors.>", "sensors.a", True),
        ("sensors.>", "sensors.a.b.c", True),
        ("sensors.>", "sensors", False),
        ("sensors.>", "sensorsx.a", False),
        ("*.*", "a.b", True),
        ("*.*", "a", False),
        ("*.>", "a", False),
        ("*.>", "a.b.c", True),
    ],
)
def test_a_pattern_covers_what_it_says(pattern: str, name: str, covered: bool) -> None:
    """`*` is one token and a last `>` one or more; nothing else is wild."""
    assert covers(pattern, name) is covered


def naive(pattern: list[str], name: list[str]) -> bool:
    """The rule, token by token."""
    if pattern == [">"]:
        return len(name) >= 1
    if not pattern or not name:
        return pattern == name
    return pattern[0] in ("*", name[0]) and naive(pattern[1:], name[1:])


tokens = st.sampled_from(("a", "b", "ab", "日"))
names = st.lists(tokens, min_size=1, max_size=5).map(".".join)
patterns = st.tuples(
    st.lists(st.one_of(tokens, st.just("*")), max_size=4), st.one_of(tokens, st.just("*"), st.just(">"))
).map(lambda parts: ".".join([*parts[0], parts[1]]))


@given(patterns, names)
@settings(deadline=None)
def test_covering_is_the_rule(pattern: str, name: str) -> None:
    """On every pattern and name the matcher does what the rule says, read token by token."""
    assert check_pattern(pattern) == pattern
    assert check_topic(name) == name
    assert covers(pattern, name) is naive(pattern.split("."), name.split("."))


@given(st.lists(patterns, max_size=4), names)
@settings(deadline=None)
def test_several_patterns_cover_what_one_of_them_does(several: list[str], name: str) -> None:
    """A list of patterns covers a name if one of them does; an empty list covers nothing."""
    assert any_covers(several, name) is any(naive(pattern.split("."), name.split(".")) for pattern in several)


@given(st.lists(patterns, max_size=20), st.one_of(names, patterns))
@settings(deadline=None)
def test_many_patterns_together(several: list[str], narrow: str) -> None:
    """Many patterns contain a name or a pattern if one of them does, and cover the name then."""
    found = any(contains(pattern, narrow) for pattern in several)
    assert any_contains(tuple(several), narrow) is found
    if not is_pattern(narrow):
        assert any_covers(several * 20, narrow) is found
    assert not any_covers(several * 20, PRIVATE + narrow)


def test_a_thousand_rights_are_not_compared_one_by_one(monkeypatch: pytest.MonkeyPatch) -> None:
    """A token has room for a thousand patterns and a registration for a thousand topics: a million comparisons would
    hold the loop for seconds."""

    def never(wide: str, narrow: str) -> bool:
        raise AssertionError("it compares them one by one")

    monkeypatch.setattr("partyline.topics.contains", never)
    rights = Principal((), tuple(f"a.*.{number}" for number in range(1_000)))
    for number in range(1_000):
        rights.may_subscribe(f"a.b.{number}")
        rights.may_subscribe_pattern(f"a.*.{number}")
    with pytest.raises(Forbidden):
        rights.may_subscribe("a.b.c.1")
    with pytest.raises(Forbidden):
        rights.may_subscribe_pattern("a.*.*")


strange = st.sampled_from(("a", "a+b", "(x)", "[z]", "^", "日", "|", "$1", "{2}"))


@given(
    st.lists(st.lists(st.one_of(strange, st.just("*")), min_size=1, max_size=4), max_size=4),
    st.booleans(),
    st.lists(strange, min_size=1, max_size=4),
)
@settings(deadline=None)
def test_the_matcher_for_many_names(several: list[list[str]], rest: bool, name: list[str]) -> None:
    """The matcher for many names says of each, and of those that are not topics, what `any_covers` says."""
    found = [".".join([*tokens, *(">" if rest else "")]) for tokens in several]
    matches = matcher(found)
    for one in (".".join(name), PRIVATE + ".".join(name), f"{PRIVATE}/x{PRIVATE}a"):
        assert bool(matches(one)) is any_covers(found, one)
    assert matcher((">",))("a.b")
    assert not matcher((">",))(PRIVATE + "a")


@given(st.text(max_size=12))
@settings(deadline=None)
def test_every_text_is_a_name_or_refused(text: str) -> None:
    """`check_topic` returns any text that follows the rule, and raises InvalidValue for any other."""
    is_name = (
        0 < len(text) <= MAX_LENGTH
        and not any(unicodedata.category(character) in ("Cc", "Cf", "Cs", "Zl", "Zp", "Zs") for character in text)
        and not set(text) & set(" *>/?#%\\")
        and not text.startswith("$")
        and all(text.split("."))
    )
    try:
        assert check_topic(text) == text
    except InvalidValue:
        assert not is_name
    else:
        assert is_name


def test_overlap() -> None:
    """Two patterns overlap exactly if some topic is covered by both."""
    topics = [".".join(tokens) for length in range(1, 5) for tokens in itertools.product("abc", repeat=length)]
    patterns = [".".join(tokens) for length in range(1, 4) for tokens in itertools.product("ab*", repeat=length)]
    patterns += [f"{pattern}.>" for pattern in patterns if pattern.count(".") < 2] + [">"]
    covered = {pattern: {topic for topic in topics if covers(pattern, topic)} for pattern in patterns}
    for one, other in itertools.product(patterns, repeat=2):
        assert overlap(one, other) == bool(covered[one] & covered[other]), (one, other)
