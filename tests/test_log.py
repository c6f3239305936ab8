"""Logs: secrets are cut out, peers cannot forge them, and an embedding program controls them."""

from __future__ import annotations

import json
import logging
import os
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from datetime import datetime
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from partyline import log
from tests.tools import one_in

# Put together here, so that no line of source that a stack trace quotes holds them.
ID = "0123456789abcdef" * 2
SECRET = "-".join(("s3cret", "of", "somebody"))
FORGED = "2026-01-01T00:00:00Z [info     ] forged"
CONTROL = [chr(code) for code in (*range(0x20), 0x7F, *range(0x80, 0xA0), 0x2028, 0x2029)]
FORMATS = ("text", "json")


@pytest.fixture
def configured(capsys: pytest.CaptureFixture[str]) -> Iterator[Callable[..., Callable[[], str]]]:
    """`configured(format, level)` sets the logs up and returns a function that returns what was written since."""
    loggers = [logging.getLogger(name) for name in ("partyline", "uvicorn", "asyncio")]
    earlier = [(logger, logger.handlers, logger.level, logger.propagate) for logger in loggers]

    def configure(log_format: Any, level: str = "info") -> Callable[[], str]:
        log.configure(log_format, level)

        def written() -> str:
            log.flush()
            captured = capsys.readouterr()
            assert captured.out == ""
            return captured.err

        return written

    yield configure
    for logger, handlers, level, propagate in earlier:
        logger.handlers, logger.propagate = handlers, propagate
        logger.setLevel(level)


@pytest.fixture
def records() -> Iterator[list[logging.LogRecord]]:
    """The records that an embedding program's own handler sees."""
    seen: list[logging.LogRecord] = []
    handler = logging.Handler()
    handler.emit = seen.append  # type: ignore[method-assign]
    logger = logging.getLogger("partyline")
    earlier = logger.level
    logger.addHandler(handler)
    logger.setLevel(logging.DEBUG)
    yield seen
    logger.removeHandler(handler)
    logger.setLevel(earlier)


# Secrets


TEXTS = [
    f"GET /ws/{ID}",
    f"GET /ws/{ID} HTTP/1.1",
    f"DELETE /register/{ID} HTTP/1.1",
    f"GET /socket.io/?EIO=4&transport=polling&sid={SECRET}&t=1",
    f"/v1/topics?key={SECRET}",
    f"/v1/topics?a&api_key={SECRET}",
    f"wss://chat.example.org/ws/{ID}",
    f"/ws/{ID}?a=b",
    f'"/ws/{ID}"',
    f"/WS/{ID}",
    f"/ws/{ID.upper()}",
    f"/ws/%30{ID[1:]}",
    f"two: /ws/{ID} and /ws/{ID[::-1]}",
    f"/v1/ws?token={SECRET}",
    f"/v1/ws?a=b&token={SECRET}&c=d",
    f"token={SECRET}",
    f"a=b&TOKEN={SECRET}",
    f"Authorization: Bearer {SECRET}",
    f"authorization: bearer {SECRET}",
    f"Bearer   {SECRET}",
    f"sec-websocket-protocol: partyline.v1, bearer.{SECRET}",
]


def tell_tale(output: str) -> list[str]:
    """Which secrets an output holds."""
    low = output.lower()
    return [piece for piece in (ID[1:], ID[::-1], SECRET) if piece.lower() in low]


@pytest.mark.parametrize("text", TEXTS)
def test_secrets_with_a_shape_are_cut_out(text: str) -> None:
    """Ids of /ws/<id>, tokens in a query, bearer tokens: whatever has their shape is cut out of a text."""
    assert tell_tale(text)
    assert not tell_tale(log.redact_text(text))
    assert "[redacted]" in log.redact_text(text)


@pytest.mark.parametrize(
    "text",
    ["a registration was made", "GET /ws/", "GET /health?a=b", "tokens: 5", "/wsx/1", "topic cats"],
)
def test_other_text_stays_as_it_is(text: str) -> None:
    """A text without a secret is not changed."""
    assert not tell_tale(text)
    assert log.redact_text(text) == text


@pytest.mark.parametrize(
    "wrap",
    [
        lambda text: text,
        lambda text: [text],
        lambda text: {"deep": (text,)},
        lambda text: text.encode(),
        lambda text: ValueError(text),
    ],
    ids=["text", "list", "dict", "bytes", "exception"],
)
def test_secrets_are_cut_out_of_values(wrap: Callable[[str], Any]) -> None:
    """A value of an event does not show a secret, either, whether it is a text or is written as one."""
    for text in TEXTS:
        event = log.redact(None, "info", {"event": "x", "value": wrap(text)})
        assert not tell_tale(repr(event["value"]))


@pytest.mark.parametrize(
    "name", ["token", "Token", "authorization", "Authorization", "key", "api_key", "cookie", "url", "query", "path"]
)
def test_secrets_are_cut_out_by_name(name: str) -> None:
    """A value whose name says that it is a secret, or may hold one, is cut out whole, whatever it is."""
    for value in (SECRET, SECRET.encode(), [SECRET], 5):
        assert log.redact(None, "info", {"event": "x", name: value})[name] == "[redacted]"


def test_an_embedding_program_gets_no_secrets(records: list[logging.LogRecord]) -> None:
    """The records that a program's own handlers get are redacted, too."""
    for text in TEXTS:
        log.get("test").warning(text, detail=text, path=text)
    assert len(records) == len(TEXTS)
    for record in records:
        assert not tell_tale(record.getMessage())
        assert not tell_tale(str(vars(record)))


@pytest.mark.parametrize("log_format", FORMATS)
def test_no_secret_is_written(configured: Callable[..., Callable[[], str]], log_format: str) -> None:
    """Neither our own events nor what the server below us logs writes a secret."""
    written = configured(log_format)
    for text in TEXTS:
        log.get("test").info(text, detail=text, token=text)
        logging.getLogger("uvicorn.error").info("%s", text)
        logging.getLogger("asyncio").warning(text)
        output = written()
        assert len(output.splitlines()) == 3
        assert not tell_tale(output)


def fail(authorization: str) -> None:
    connection_id = authorization.removeprefix("Bearer ")  # a local that a stack trace must not show
    raise ValueError(f"it went wrong near {len(connection_id)}")


@pytest.mark.parametrize("log_format", FORMATS)
def test_a_stack_trace_shows_no_variables(configured: Callable[..., Callable[[], str]], log_format: str) -> None:
    """An exception is logged with where it came from and its text, and without the values of anybody's variables:
    these are peers' messages, ids and keys (hostile 39)."""
    written = configured(log_format)
    for logger in (log.get("test"), logging.getLogger("partyline.hub"), logging.getLogger("asyncio")):
        try:
            fail(f"Bearer {SECRET}")
        except ValueError:
            logger.exception("failed")
        output = written()
        assert "it went wrong near" in output
        assert "in fail" in output
        assert not tell_tale(output)


@pytest.mark.parametrize("log_format", FORMATS)
def test_an_exceptions_text_is_redacted(configured: Callable[..., Callable[[], str]], log_format: str) -> None:
    """A secret in the text of an exception, or of the one before it, is cut out like any other."""
    written = configured(log_format)
    for text in TEXTS:
        try:
            try:
                raise KeyError(text)
            except KeyError as error:
                raise ValueError(text) from error
        except ValueError:
            log.get("test").exception("failed")
        output = written()
        assert "ValueError" in output
        assert not tell_tale(output)


# Forging


@pytest.mark.parametrize("log_format", FORMATS)
def test_control_characters_forge_no_line(configured: Callable[..., Callable[[], str]], log_format: str) -> None:
    """Whatever control characters a peer gets into an event or a value, it stays one line and colours no terminal
    (hostile 32)."""
    written = configured(log_format)
    for character in CONTROL:
        text = f"a{character}{FORGED}"
        log.get("test").info(text, topic=text, topics=[text], raw=text.encode(), error=ValueError(text))
        logging.getLogger("uvicorn.error").info("%s", text)
        lines = written().removesuffix("\n").split("\n")
        assert len(lines) == 2
        for line in lines:
            assert not set(line) & set(CONTROL)
            if log_format == "json":
                json.loads(line)


@given(st.text(), st.text())
@settings(deadline=None)
def test_no_text_keeps_a_control_character(text: str, value: str) -> None:
    """No control character or line separator is left in the text or the values of any event."""
    event = log.redact(None, "info", {"event": text, "value": value})
    assert not set(event["event"] + event["value"]) & set(CONTROL)


@pytest.mark.parametrize("log_format", FORMATS)
def test_an_exceptions_text_forges_no_line(configured: Callable[..., Callable[[], str]], log_format: str) -> None:
    """A line break in the text of an exception does not begin a line that looks like another event."""
    written = configured(log_format)
    try:
        raise ValueError("a\n" + FORGED + "\x1b[31m")
    except ValueError:
        log.get("test").exception("failed")
    output = written()
    assert "ValueError" in output
    assert not any(line.startswith(FORGED[:10] + "T00:00:00Z") for line in output.splitlines())
    assert "\x1b" not in output


# Embedded


@pytest.mark.check
def test_embedded_use_is_silent() -> None:
    """A program that imports Partyline and configures no logging sees nothing on its standard error."""
    code = (
        "import logging, partyline, partyline.log, partyline.app\n"
        "partyline.log.get('test').error('boom')\n"
        "logging.getLogger('partyline.hub').critical('boom')\n"
    )
    answer = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)
    assert (answer.stdout, answer.stderr) == ("", "")


FAILING = """
import logging, partyline.log
{configured}
try:
    raise ValueError("my bug, token=" + "s3cret")
except ValueError:
    partyline.log.get("test").exception("a handler failed", socket="abc", path="/ws/1")
    partyline.log.get("test").warning("no exception")
"""


def embedded(configured: str) -> str:
    """What a program of FAILING writes to its standard error."""
    code = FAILING.format(configured=configured)
    answer = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)
    assert answer.stdout == ""
    return answer.stderr


def test_an_exception_is_seen_without_any_set_up() -> None:
    """If no logging is configured, an exception is written to standard error, with its values and without secrets."""
    lines = embedded("").splitlines()
    assert lines[0] == "partyline.test: a handler failed socket=abc path=[redacted]"
    assert lines[1] == "  Traceback (most recent call last):"
    assert lines[-1] == "  ValueError: my bug, token=[redacted]"


@pytest.mark.parametrize(
    ("configured", "times"),
    one_in(
        5,
        [
            ("logging.basicConfig()", 1),
            ("logging.getLogger('partyline').addHandler(logging.StreamHandler())", 1),
            ("logging.getLogger('partyline').propagate = False", 0),
            ("logging.getLogger('partyline').setLevel(logging.CRITICAL)", 0),
            ("import sys; sys.stderr = None", 0),
        ],
    ),
)
def test_a_programs_own_logging_decides(configured: str, times: int) -> None:
    """If the program has configured its logging, exceptions are logged only there."""
    assert embedded(configured).count("a handler failed") == times


def test_embedded_use_sees_ordinary_records(records: list[logging.LogRecord]) -> None:
    """A program's own handler gets an ordinary record: the logger's name, the level, the event as its message, the
    values as its attributes, and an exception as one."""
    log.get("test").info("a thing happened", topic="cats", count=3)
    try:
        raise ValueError("x")
    except ValueError:
        log.get("test").exception("failed")
    happened, failed = records
    assert (happened.name, happened.levelname, happened.getMessage()) == (
        "partyline.test",
        "INFO",
        "a thing happened",
    )
    assert (vars(happened)["topic"], vars(happened)["count"]) == ("cats", 3)
    assert failed.levelname == "ERROR"
    assert failed.exc_info is not None
    assert failed.exc_info[0] is ValueError


def test_what_nobody_asked_for_is_not_made(records: list[logging.LogRecord]) -> None:
    """Below the level of the logger an event makes no record."""
    logging.getLogger("partyline").setLevel(logging.WARNING)
    log.get("test").info("not this")
    log.get("test").warning("this")
    assert [record.getMessage() for record in records] == ["this"]


# Configured


def test_json_is_an_object_per_line(configured: Callable[..., Callable[[], str]]) -> None:
    """In the format for machines each event is one JSON object with its text, level, time and values, whichever
    library it comes from."""
    written = configured("json")
    log.get("test").warning("a thing happened", topic="cats", count=3)
    logging.getLogger("uvicorn.error").error("below %s", "us")
    ours, below = [json.loads(line) for line in written().splitlines()]
    assert {**ours, "timestamp": ""} == {
        "event": "a thing happened",
        "level": "warning",
        "topic": "cats",
        "count": 3,
        "timestamp": "",
    }
    datetime.fromisoformat(ours["timestamp"])
    assert (below["event"], below["level"]) == ("below us", "error")


def test_text_is_a_line_for_people(configured: Callable[..., Callable[[], str]]) -> None:
    """In the format for people an event is one line with time, level, text and values, without colours off a
    terminal."""
    written = configured("text")
    log.get("test").warning("a thing happened", topic="cats")
    (line,) = written().splitlines()
    assert "warning" in line
    assert "a thing happened" in line
    assert "topic=cats" in line
    assert "\x1b" not in line


def test_configuring_again_replaces(configured: Callable[..., Callable[[], str]]) -> None:
    """A second configuration replaces the first: every event is written once, in the new format."""
    configured("text")
    written = configured("json")
    log.get("test").info("once")
    lines = written().splitlines()
    assert len(lines) == 1
    assert json.loads(lines[0])["event"] == "once"


@pytest.mark.parametrize(("level", "count"), [("debug", 4), ("info", 3), ("warning", 2), ("error", 1)])
def test_the_level_is_the_least_that_is_written(
    configured: Callable[..., Callable[[], str]], level: str, count: int
) -> None:
    """Events below the configured level are not written, neither ours nor those of libraries."""
    written = configured("text", level)
    for logger in (log.get("test"), logging.getLogger("uvicorn.error")):
        for name in ("debug", "info", "warning", "error"):
            getattr(logger, name)("event")
        assert len(written().splitlines()) == count


def test_other_programs_loggers_are_left_alone(
    configured: Callable[..., Callable[[], str]],
) -> None:
    """Configuring touches our loggers and those we run on, and neither the root logger nor anybody else's."""
    root = logging.getLogger()
    before = (list(root.handlers), root.level)
    written = configured("text", "debug")
    assert (list(root.handlers), root.level) == before
    passed_on: list[logging.LogRecord] = []
    handler = logging.Handler()
    handler.emit = passed_on.append  # type: ignore[method-assign]
    root.addHandler(handler)
    for name in ("partyline.test", "uvicorn.error", "asyncio"):
        logging.getLogger(name).error("ours")
    root.removeHandler(handler)
    assert len(written().splitlines()) == 3
    assert passed_on == [], "an event is written once"
    other = logging.getLogger("somebody.else")
    other.addHandler(logging.NullHandler())
    other.propagate = False
    other.error("theirs")
    assert written() == ""


# Nobody reads


@pytest.fixture
def pipe(
    request: pytest.FixtureRequest, configured: Callable[..., Callable[[], str]], monkeypatch: pytest.MonkeyPatch
) -> Iterator[int]:
    """Logs as JSON go into a pipe, which blocks if the parameter says so; what it is read from."""
    reading, writing = os.pipe()
    os.set_blocking(writing, getattr(request, "param", True))
    with os.fdopen(writing, "w", encoding="utf-8") as stream:
        monkeypatch.setattr(sys, "stderr", stream)
        configured("json")
        yield reading
        log.flush()
    os.close(reading)


def drained(reading: int, until: Callable[[dict[str, Any]], bool]) -> list[dict[str, Any]]:
    """The events that come out, up to the one for which `until` is true."""
    events: list[dict[str, Any]] = []
    rest = b""
    while True:
        *lines, rest = (rest + os.read(reading, 65_536)).split(b"\n")
        for line in lines:
            events.append(json.loads(line))
            if until(events[-1]):
                return events


@pytest.mark.check
def test_a_log_that_nobody_reads_holds_nobody(pipe: int) -> None:
    """While the pipe is full, logging returns at once and keeps a bounded amount; read again, what was kept comes in
    its order, then how many were dropped, then what is new (hostile 57)."""
    logger, before = log.get("test"), log.dropped()
    for number in range(20_000):
        logger.info("event", number=number, filling="x" * 100)
    lost = log.dropped() - before
    assert 10_000 < lost < 20_000
    events = drained(pipe, lambda event: "dropped" in event["event"])
    numbers = [event["number"] for event in events[:-1]]
    assert numbers == list(range(20_000 - lost))
    assert (events[-1]["count"], events[-1]["level"]) == (lost, "warning")
    logger.info("event", number=-1)
    assert drained(pipe, lambda event: event["number"] == -1)[:-1] == []
    assert log.dropped() - before == lost


@pytest.mark.check
def test_a_record_larger_than_the_queue_is_written(pipe: int) -> None:
    """One record is written however large it is, if nothing waits before it."""
    log.get("test").info("event", filling="x" * 3_000_000)
    (event,) = drained(pipe, lambda event: True)
    assert len(event["filling"]) == 3_000_000


def test_a_process_that_may_have_no_thread_more(pipe: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Logging does not raise if its thread cannot be started, and the lines are written once it can (hostile 57)."""

    def start(thread: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    with monkeypatch.context() as patched:
        patched.setattr(threading.Thread, "start", start)
        for number in range(2):
            log.get("test").info("event", number=number)
    log.get("test").info("event", number=2)
    events = drained(pipe, lambda event: event["number"] == 2)
    assert [event["number"] for event in events] == [0, 1, 2]


@pytest.mark.parametrize("pipe", [False], indirect=True)
def test_a_pipe_that_does_not_block(pipe: int) -> None:
    """If somebody has made standard error non-blocking, nothing that fits the queue is lost."""
    for number in range(2_000):
        log.get("test").info("event", number=number, filling="x" * 200)
    events = drained(pipe, lambda event: event["number"] == 1_999)
    assert [event["number"] for event in events] == list(range(2_000))


_LOGGING = """
import os, sys
from partyline import log
log.configure("text")
for number in range(3_000):
    log.get("test").info("event", number=number)
"""


def test_nothing_is_lost_at_the_end() -> None:
    """What was logged before the process ends is written, in its order; so is what its forked child logs, and once."""
    code = (
        _LOGGING
        + "child = os.fork()\nlog.get('test').info('event', number=3_000 if child else 3_001)\nif child: os.wait()\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    numbers = [int(line.rpartition("number=")[2]) for line in done.stderr.splitlines()]
    assert done.returncode == 0
    assert sorted(numbers) == list(range(3_002))
    assert [number for number in numbers if number < 3_001] == list(range(3_001))


@pytest.mark.check
def test_a_log_that_nobody_reads_keeps_no_process() -> None:
    """A process whose logs nobody reads, or whose reader is gone, ends with its own exit code (hostile 57)."""
    for close in (False, True):
        process = subprocess.Popen([sys.executable, "-c", _LOGGING + "sys.exit(3)"], stderr=subprocess.PIPE)
        assert process.stderr is not None
        if close:
            process.stderr.close()
        assert process.wait(60) == 3
        process.stderr.close()
