"""Server-sent events as a browser reads them: the codec against the parser of the specification."""

from __future__ import annotations

import codecs
import re
from dataclasses import dataclass

import pytest
from hypothesis import given
from hypothesis import strategies as st

from partyline.wire import sse


@dataclass(frozen=True, slots=True)
class Event:
    """What a page receives; `id` is the last event id at that time."""

    data: str
    id: str = ""
    type: str = "message"


class Browser:
    """WHATWG HTML 9.2.6, "Interpreting an event stream", implemented from there and from nothing else."""

    def __init__(self) -> None:
        self.last_id = ""
        self.retry: int | None = None
        self.comments = 0
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self._buffer = ""
        self._data = ""
        self._type = ""
        self._id = ""

    def feed(self, data: bytes) -> list[Event]:
        """The events that `data` completes."""
        self._buffer += self._decoder.decode(data)
        events: list[Event] = []
        # A CR at the end may be half of a CR LF, so it waits.
        while (end := re.search(r"\r\n|\n|\r(?!\Z)", self._buffer)) is not None:
            line, self._buffer = self._buffer[: end.start()], self._buffer[end.end() :]
            if line:
                self._field(line)
            elif (event := self._dispatch()) is not None:
                events.append(event)
        return events

    def _field(self, line: str) -> None:
        if line.startswith(":"):
            self.comments += 1
            return
        name, _, value = line.partition(":")
        value = value.removeprefix(" ")
        if name == "event":
            self._type = value
        elif name == "data":
            self._data += value + "\n"
        elif name == "id" and "\0" not in value:
            self._id = value
        elif name == "retry" and re.fullmatch("[0-9]+", value):
            self.retry = int(value)

    def _dispatch(self) -> Event | None:
        self.last_id = self._id
        data, kind = self._data, self._type
        self._data = self._type = ""
        return Event(data.removesuffix("\n"), self.last_id, kind or "message") if data else None


TABLE = [
    (b"1", None, [Event("1")]),
    (b'{"a":"b"}', "0123456789abcdef-7", [Event('{"a":"b"}', "0123456789abcdef-7")]),
    (b"", "x", [Event("", "x")]),
    (b" two spaces: kept ", "x", [Event(" two spaces: kept ", "x")]),
    (b"data: id: event:", "x", [Event("data: id: event:", "x")]),
    (b":no comment", "x", [Event(":no comment", "x")]),
    (b"a\nb", "x", [Event("a\nb", "x")]),
    (b"a\rb", "x", [Event("a\nb", "x")]),
    (b"a\r\nb", "x", [Event("a\nb", "x")]),
    (b"a\n\nevent: forged\nid: forged\n\nb", "x", [Event("a\n\nevent: forged\nid: forged\n\nb", "x")]),
    (b"a\r\r\n\n\rb", "x", [Event("a\n\n\n\nb", "x")]),
    (b"\n", "x", [Event("\n", "x")]),
    (b"a\0b", "x", [Event("a\0b", "x")]),
    ("\ufeff\u2028\u0085\x0b\x0c\U0001f600".encode(), "x", [Event("\ufeff\u2028\u0085\x0b\x0c\U0001f600", "x")]),
    (b"retry: 1\n", "x", [Event("retry: 1\n", "x")]),
]


def read_whole(data: bytes) -> tuple[list[Event], Browser]:
    browser = Browser()
    return browser.feed(data), browser


@pytest.mark.parametrize(("data", "name", "events"), TABLE)
def test_events_as_a_browser_reads_them(data: bytes, name: str | None, events: list[Event]) -> None:
    """An event is read back as written, whole, byte by byte and with a tail after it; no data forges a field."""
    written = sse.event(data, id=name)
    assert read_whole(written)[0] == events
    browser = Browser()
    assert [event for byte in written for event in browser.feed(bytes([byte]))] == events
    behind, browser = read_whole(written + sse.COMMENT + sse.event(b"tail", id="t") + sse.retry(7))
    assert behind == [*events, Event("tail", "t")]
    assert (browser.retry, browser.last_id, browser.comments) == (7, "t", 1)


@pytest.mark.parametrize("name", ["a\nb", "a\rb", "a\r\n", "\0", "a\0b", "\n"])
def test_hostile_31_ids_that_would_end_a_line(name: str) -> None:
    """An id with NUL, CR or LF is left out: the event keeps its data, and the last id does not change."""
    events, browser = read_whole(sse.event(b"1", id="before") + sse.event(b"2", id=name))
    assert events == [Event("1", "before"), Event("2", "before")]
    assert browser.last_id == "before"


def test_an_event_without_data_moves_the_id_alone() -> None:
    """An event without data sets the last event id unseen by the page; one without data and id does nothing."""
    events, browser = read_whole(sse.event(None, id="x-1"))
    assert (events, browser.last_id) == ([], "x-1")
    events, browser = read_whole(sse.event(None))
    assert (events, browser.last_id) == ([], "")


def test_comments_and_retry_are_no_events() -> None:
    """A comment and a retry reach the browser, but not the page."""
    events, browser = read_whole(sse.COMMENT + sse.retry(2_500))
    assert (events, browser.comments, browser.retry, browser.last_id) == ([], 1, 2_500, "")


_TEXT = st.text(st.sampled_from("ab:\r\n\0 \ufeff\u2028") | st.characters(exclude_categories=["Cs"]))


@given(st.lists(st.tuples(_TEXT, st.none() | _TEXT)), st.randoms(use_true_random=False))
def test_any_text_stays_one_event(sent: list[tuple[str, str | None]], random: object) -> None:
    """Whatever data and ids hold, each event is read as exactly one event with its text, its line ends as LF."""
    expected: list[Event] = []
    last = ""
    for data, name in sent:
        if name is not None and not set("\0\r\n") & set(name):
            last = name
        expected.append(Event(data.replace("\r\n", "\n").replace("\r", "\n"), last))
    written = b"".join(sse.event(data.encode(), id=name) for data, name in sent)
    browser = Browser()
    got: list[Event] = []
    while written:
        cut = random.randint(1, 9)  # type: ignore[attr-defined]
        got += browser.feed(written[:cut])
        written = written[cut:]
    assert got == expected
