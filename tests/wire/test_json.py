"""JSON from strangers: what is read, what is refused with which message, and how values are written."""

from __future__ import annotations

import json
import math
import re
import time
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from partyline.errors import InvalidValue, MalformedRequest
from partyline.wire.json import MAX_DEPTH, compact, decode, mend_surrogates, read, to_json
from partyline.wire.lanes import nests_deeper
from partyline.wire.relay import Topics, decode_command

REPLACED = "\N{REPLACEMENT CHARACTER}"


class Inner(msgspec.Struct):
    data: msgspec.Raw
    name: str


class Outer(msgspec.Struct):
    items: list[Inner]
    user: int | str = 0


def malformed(data: bytes, kind: type[Any] = object) -> MalformedRequest:
    with pytest.raises(MalformedRequest) as caught:
        decode(data, kind)
    assert caught.value.http_status == 400
    return caught.value


# What is JSON


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b" ",
        b"{",
        b'{"topics": ["cats"]',
        b'{"topics": ["cats"]}}',
        b'{"topics": ["cats"]} x',
        b"{'topics': []}",
        b'{"topics": [,]}',
        b'{"topics": ["a",]}',
        b'{"topics": ["a\nb"]}',
        b'{"topics": ["a\x00b"]}',
        b'{"topics": ["\\x41"]}',
        b'{"topics": ["\\ud8"]}',
        b'{"topics": [01]}',
        b'{"topics": [NaN]}',
        b'{"topics": [Infinity]}',
        b'{"topics": [.5]}',
        b'\xef\xbb\xbf{"topics": []}',
        b"nul",
        b"\x00",
    ],
)
def test_what_is_no_json_is_malformed(data: bytes) -> None:
    """Anything that is not JSON, or JSON with something after it, gets 400 `malformed_json`."""
    for kind in (Topics, Any):
        assert malformed(data, kind).code == "malformed_json"


@pytest.mark.parametrize(
    ("data", "at"),
    [
        (b'{"topics": ["\xff"]}', 13),
        (b'{"topics": ["\xc3("]}', 13),
        (b'{"topics": ["\xed\xa0\x80"]}', 13),
        (b'{"topics": ["\xf4\x90\x80\x80"]}', 13),
        (b'{"topics": ["\xc0\xaf"]}', 13),
        (b'{"topics": ["\xe2\x82', 13),
        ('{"topics": ["é"]}'.encode("latin-1"), 13),
        ('{"topics": []}'.encode("utf-16-le"), None),
    ],
)
def test_what_is_no_utf8_is_malformed(data: bytes, at: int | None) -> None:
    """Bytes that are not UTF-8, including surrogates and overlong forms, get 400 with the place of the byte."""
    error = malformed(data, Topics)
    assert error.code == "malformed_json"
    if at is not None:
        assert f"UTF-8 at byte {at}" in error.message


def test_bytes_that_are_copied_are_checked_as_well() -> None:
    """A value that is passed on unread has to be UTF-8 and JSON all the same (hostile 27)."""
    for data in (b'"\xff"', b'"\xed\xa0\x80"', b"[1,]", b"NaN", b'"\\x"', b"01", b'"a\nb"'):
        assert malformed(b'{"items": [{"data": ' + data + b', "name": "a"}]}', Outer).code == "malformed_json"


values = st.recursive(
    st.one_of(
        st.none(),
        st.booleans(),
        st.integers(-(2**63), 2**63 - 1),
        st.floats(allow_nan=False, allow_infinity=False),
        st.text(),
    ),
    lambda inner: st.one_of(st.lists(inner, max_size=4), st.dictionaries(st.text(), inner, max_size=4)),
    max_leaves=20,
)


@given(values, st.booleans())
@settings(deadline=None)
def test_json_is_read_as_it_was_written(value: Any, ascii_only: bool) -> None:
    """Any JSON value is read back as it was written, escaped or not."""
    assert decode(json.dumps(value, ensure_ascii=ascii_only).encode(), Any) == value


@given(
    st.one_of(
        st.binary(max_size=60),
        st.lists(
            st.sampled_from(
                [
                    b"[",
                    b"]",
                    b"{",
                    b"}",
                    b'"',
                    b"\\",
                    b",",
                    b":",
                    b"topics",
                    b"1",
                    b"\\ud800",
                    b"\\udc00",
                    b" ",
                    b"\xff",
                ]
            ),
            max_size=30,
        ).map(b"".join),
    )
)
@settings(deadline=None)
def test_every_bytes_is_read_or_refused(data: bytes) -> None:
    """Reading any bytes gives a value or one of the two documented errors, and nothing else (hostile 45)."""
    for kind in (Topics, Outer):
        try:
            assert isinstance(decode(data, kind), kind)
        except (MalformedRequest, InvalidValue):
            pass


# Depth


def nested(depth: int, opening: str = "[", closing: str = "]", inner: str = "") -> bytes:
    return (opening * depth + inner + closing * depth).encode()


@pytest.mark.parametrize(("opening", "closing", "inner"), [("[", "]", ""), ('{"a":', "}", "1"), ('[{"a":', "}]", "1")])
def test_64_levels_are_read_and_65_are_not(opening: str, closing: str, inner: str) -> None:
    """Arrays and objects may nest 64 levels deep; one more gets 400 `too_deep`, whatever they are made of."""
    levels = MAX_DEPTH // (opening.count("[") + opening.count("{"))
    assert MAX_DEPTH == 64
    decode(nested(levels, opening, closing, inner), Any)
    assert malformed(nested(levels + 1, opening, closing, inner), Any).code == "too_deep"


def test_deep_nesting_costs_no_stack() -> None:
    """Ten thousand and a million levels are refused like 65, closed or not (hostile 29)."""
    for depth in (10_000, 1_000_000):
        assert malformed(nested(depth), Any).code == "too_deep"
        assert malformed(b"[" * depth, Any).code == "too_deep"
        assert malformed(b'{"a":' * depth, Any).code == "too_deep"


def test_wide_is_not_deep() -> None:
    """Any number of arrays and objects side by side is read."""
    data = b"[" + b",".join([b'[{"a":[]}]'] * 1_000) + b"]"
    assert len(decode(data, Any)) == 1_000


@pytest.mark.parametrize(
    "text",
    [
        "[" * 100,
        "{" * 100,
        "[{" * 100,
        '"' + "[" * 100,
        '\\"' + "[" * 100,
        "\\" + "[" * 100,
        "\\\\" + "{" * 100 + '"',
        "[" * 100 + "\\",
        "é" + "[" * 100 + "\n\t",
    ],
    ids=range(9),
)
def test_brackets_in_strings_do_not_nest(text: str) -> None:
    """Brackets in strings are text, whatever quotes and backslashes are next to them, in values and in names."""
    for value in (text, [text], {text: text}, [[text], {"a": text}]):
        assert decode(json.dumps(value).encode(), Any) == value


def test_strings_hide_no_depth() -> None:
    """Nesting is counted after and between strings that end with quotes and backslashes."""
    for text in ("", "]", "\\", '"', '\\"', '"]"', "\\\\"):
        written = json.dumps(text)
        data = (f"[{written}," * 64 + "[]" + "]" * 64).encode()
        assert malformed(data, Any).code == "too_deep"
        data = (f"[{written}," * 63 + "[]" + "]" * 63).encode()
        decode(data, Any)


def test_brackets_that_are_closed_do_not_count() -> None:
    """At a depth of 64 levels arrays and objects side by side are still read, one level deeper they are not."""
    for beside in ("[]", "{}", '{"a":[]}'):
        decode((f"[{beside}," * 62 + '{"a":[]}' + "]" * 62).encode(), Any)
        assert malformed((f"[{beside}," * 63 + '{"a":[]}' + "]" * 63).encode(), Any).code == "too_deep"


@pytest.mark.parametrize("tail", [b"", b"\\", b'"'], ids=ascii)
@pytest.mark.parametrize("piece", [b'\\"', b'"', b'"[', b'\\\\"', b"\\", b'"\\'], ids=ascii)
def test_checking_depth_takes_linear_time(piece: bytes, tail: bytes) -> None:
    """A body made to be scanned again and again is not: 32 KiB cost milliseconds, with closed strings or not."""
    data = b"[" * (MAX_DEPTH + 1) + b'"' + piece * (32_768 // len(piece)) + tail
    begin = time.thread_time()
    with pytest.raises(MalformedRequest):
        decode(data, Any)
    assert time.thread_time() - begin < 0.2


# Surrogates


@pytest.mark.parametrize(
    ("escaped", "text"),
    [
        (r"\ud83d\ude00", "😀"),
        (r"\uD83D\uDE00", "😀"),
        (r"\ud83d", REPLACED),
        (r"\ude00", REPLACED),
        (r"a\ud83db", f"a{REPLACED}b"),
        (r"\ude00\ud83d", REPLACED * 2),
        (r"\ud83d\ud83d\ude00", f"{REPLACED}😀"),
        (r"\ud83d\ude00\ude00", f"😀{REPLACED}"),
        (r"\ud83dx\ude00", f"{REPLACED}x{REPLACED}"),
        (r"\ud83d\n\ude00", f"{REPLACED}\n{REPLACED}"),
        (r"\ud83d\u0041", f"{REPLACED}A"),
        (r"\uDBFF\uDFFF", "\U0010ffff"),
        (r"\ud800", REPLACED),
        (r"\udfff", REPLACED),
        (r"\ud7ff\ue000", "\ud7ff\ue000"),
        (r"\\ud83d", r"\ud83d"),
        (r"\\\ud83d", "\\" + REPLACED),
        (r"\\\\ud83d", r"\\ud83d"),
        (r"\\\ud83d\ude00", "\\😀"),
        (r"\ud83d\\ude00", REPLACED + r"\ude00"),
        (r"\"\ud83d\"", f'"{REPLACED}"'),
        ("\\ud83d😀", f"{REPLACED}😀"),
        ("é\\ud83d", f"é{REPLACED}"),
    ],
)
def test_half_characters_do_not_cost_the_message(escaped: str, text: str) -> None:
    """An escaped surrogate without its other half is U+FFFD, a pair is its character, and an escaped backslash before
    `u` does not begin an escape."""
    assert decode(f'"{escaped}"'.encode(), str) == text
    assert decode(f'{{"{escaped}": 1}}'.encode(), Any) == {text: 1}


pieces = st.lists(
    st.sampled_from(
        [
            "\\\\",
            '\\"',
            "\\n",
            "\\/",
            r"\ud83d",
            r"\uDBFF",
            r"\ude00",
            r"\uDC00",
            r"\u0041",
            r"\ud7ff",
            "u",
            "d83d",
            "é",
        ]
    ),
    max_size=12,
)


@given(pieces)
@settings(deadline=None)
def test_surrogates_are_mended_as_python_reads_them(parts: list[str]) -> None:
    """Any escapes in any order are read as by Python's own reader, with lone surrogates replaced."""
    literal = '"' + "".join(parts) + '"'
    expected = re.sub("[\ud800-\udfff]", REPLACED, json.loads(literal))
    assert decode(literal.encode(), str) == expected
    item = decode(f'{{"items": [{{"data": {literal}, "name": "a"}}]}}'.encode(), Outer).items[0]
    assert json.loads(compact(bytes(item.data))) == expected


# Shapes


@pytest.mark.parametrize(
    ("data", "kind", "field"),
    [
        (b"null", Topics, None),
        (b"[]", Topics, None),
        (b'"topics"', Topics, None),
        (b"1", Topics, None),
        (b"{}", Topics, "topics"),
        (b'{"topic": []}', Topics, "topics"),
        (b'{"topics": null}', Topics, "topics"),
        (b'{"topics": "cats"}', Topics, "topics"),
        (b'{"topics": {}}', Topics, "topics"),
        (b'{"topics": [1]}', Topics, "topics[0]"),
        (b'{"topics": ["a", "b", null]}', Topics, "topics[2]"),
        (b'{"items": [{"name": "a"}]}', Outer, "data"),
        (b'{"items": [{"data": 1, "name": 2}]}', Outer, "items[0].name"),
        (b'{"items": [{"data": 1, "name": "a"}, 3]}', Outer, "items[1]"),
        (b'{"items": [], "user": 1.5}', Outer, "user"),
        (b'{"items": [], "user": 1e3}', Outer, "user"),
        (b'{"items": [], "user": true}', Outer, "user"),
        (b'{"items": [], "user": null}', Outer, "user"),
        (b'{"items": [], "user": ' + b"9" * 5_000 + b"}", Outer, "user"),
    ],
)
def test_another_shape_is_invalid_and_names_the_field(data: bytes, kind: type[Any], field: str | None) -> None:
    """JSON of another shape gets 422; the error names the field, in its attribute and at the start of the message."""
    with pytest.raises(InvalidValue) as caught:
        decode(data, kind)
    error = caught.value
    assert (error.http_status, error.field) == (422, field)
    if field is not None:
        assert error.message.startswith(f"{error.field}: ")
    assert "`" not in error.message
    assert len(error.message) < 200


def test_unknown_fields_are_left_alone() -> None:
    """An unknown field is ignored, so that newer clients can speak to older servers; if a name is repeated, the last
    value counts."""
    assert decode(b'{"topics": ["a"], "x": [1, {"y": null}]}', Topics).topics == ["a"]
    assert decode(b'{"topics": ["a"], "topics": ["b"]}', Topics).topics == ["b"]


# Writing


@pytest.mark.parametrize(
    ("raw", "text"),
    [
        (b"null", b"null"),
        (b" 1 ", b"1"),
        (b"1.0e5", b"1.0e5"),
        (b"-0.0", b"-0.0"),
        (b"1.10", b"1.10"),
        (b"1e999", b"1e999"),
        (b"9" * 50, b"9" * 50),
        (b'"a  b"', b'"a  b"'),
        (b'"\\u0041\\/\\n"', b'"\\u0041\\/\\n"'),
        ('"é😀"'.encode(), '"é😀"'.encode()),
        (b'{ "b" : 1 ,\n\t"a" : [ 1 , 2 ] }', b'{"b":1,"a":[1,2]}'),
        (b'{"a": 1, "a": 2}', b'{"a":1,"a":2}'),
        (b" [ ] ", b"[]"),
        (b"{ }", b"{}"),
    ],
)
def test_compact_drops_white_space_only(raw: bytes, text: bytes) -> None:
    """Compact JSON has the same tokens in the same order, with numbers, escapes and repeated names as written."""
    assert compact(raw) == text


@given(values, st.sampled_from((None, 1, 4)))
@settings(deadline=None)
def test_compact_means_the_same(value: Any, indent: int | None) -> None:
    """Compacting any JSON, however it is laid out, gives the same value without spaces between tokens, and compacting
    again changes nothing."""
    raw = json.dumps(value, indent=indent).encode()
    done = compact(raw)
    assert json.loads(done) == value
    assert done == json.dumps(value, separators=(",", ":")).encode()
    assert compact(done) == done


def test_our_values_are_compact_json() -> None:
    """Our answers are compact JSON in UTF-8."""
    assert to_json({"a": [1, None], "é": "x"}) == '{"a":[1,null],"é":"x"}'.encode()


# Values of any JSON


@pytest.mark.parametrize(
    ("raw", "value"),
    [
        (b"1e400", math.inf),
        (b"-1e400", -math.inf),
        (b"9" * 4_300, int("9" * 4_300)),
        (b"9" * 4_400, math.inf),
        (b"-" + b"9" * 4_400, -math.inf),
        (b"18446744073709551616", 1 << 64),
        (b"1e-400", 0.0),
        (b'{"a":[1e400,{"b":2}]}', {"a": [math.inf, {"b": 2}]}),
        (b'["1e400","\\ud800",1e999]', ["1e400", REPLACED, math.inf]),
    ],
    ids=range(9),
)
def test_any_number_is_read(raw: bytes, value: Any) -> None:
    """A number that Python cannot hold is read as the nearest double, as in JavaScript; all others, also next to it,
    are exact (hostile 50)."""
    assert read(raw) == value


@given(values)
@settings(deadline=None)
def test_a_number_that_cannot_be_held_changes_nothing_else(value: Any) -> None:
    """Whatever is next to such a number is read as it would be without it."""
    assert read(json.dumps(value).encode()) == value
    assert read(b"[1e400," + json.dumps(value).encode() + b"]") == [math.inf, value]


# What it costs


def test_46_a_refusal_quotes_the_beginning_of_a_long_value() -> None:
    """hostile 46: a value of a megabyte that cannot be read is not sent back: its beginning and its place are named."""
    with pytest.raises(InvalidValue) as caught:
        decode_command('{"type":"' + "?" * 900_000 + '"}')
    assert caught.value.field == "type"
    assert "Invalid value '????" in caught.value.message
    assert len(caught.value.message) < 300


marks = st.text(st.sampled_from('[]{}"'), max_size=400) | st.text(st.sampled_from('[[[]"'), max_size=400)


@given(marks.map(str.encode), st.integers(0, 64))
@settings(deadline=None)
def test_depth_is_that_of_a_count(marks: bytes, most: int) -> None:
    """Brackets nest as deeply as counting them one by one says, as far as they are closed after they were opened."""
    depth, deepest, quoted = 0, 0, False
    for mark in marks.decode():
        quoted ^= mark == '"'
        if mark != '"' and not quoted:
            depth += 1 if mark in "[{" else -1
            deepest = max(deepest, depth)
        if depth < 0:
            return
    assert nests_deeper(marks, most) == (deepest > most)


pieces = st.sampled_from(
    [*("\\", "\\\\", "\\ud800", "\\uDBFF", "\\udc00", "\\uDfFf", "\\ud7ff", "\\ue000", "\\ud8", "ud800", "u", "a", "é")]
)


@given(st.lists(pieces, max_size=30).map("".join))
@settings(deadline=None)
def test_a_lone_half_is_one_for_a_reader(text: str) -> None:
    """Exactly those escapes become U+FFFD that a reader of JSON reads as half a pair; nothing else changes."""
    try:
        read = json.loads(f'"{text}"')
    except ValueError:
        mend_surrogates(text.encode())
        return
    mended = mend_surrogates(f'"{text}"'.encode())
    assert json.loads(mended) == re.sub("[\ud800-\udfff]", REPLACED, read)
    assert len(mended) == len(f'"{text}"'.encode())
