"""Structured logs on the standard library's logging, without secrets.

A program that embeds Partyline sees ordinary `logging` records below the logger `partyline`. Where it has configured no
logging at all, only exceptions are written, to standard error. `partyline serve` calls `configure`: logging never waits
for the reader, a separate thread writes the lines, and those that do not fit its queue are counted.
"""

from __future__ import annotations

import io
import logging
import os
import re
import select
import sys
import threading
import traceback
import weakref
from collections import deque
from collections.abc import MutableMapping
from contextlib import suppress
from typing import Any, Final, Literal, TextIO, cast

import structlog

_SECRET_NAMES = frozenset(("authorization", "token", "key", "api_key", "cookie", "url", "query", "path"))
_LEFT = frozenset(("exc_info", "stack_info", "_record", "_from_structlog", "_logger"))  # structlog's own
_SECRET_TEXT = re.compile(
    r"(/(?:ws|register)/)[^\s\"'?#]+|((?:token|[?&](?:sid|key|api_key))=)[^&\s\"']+|(bearer[.\s]\s*)\S+", re.IGNORECASE
)
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029]")

_LONGEST: Final = 1024 * 1024  # characters of logs that wait to be written
_PATIENCE: Final = 1.0  # seconds that the end of the process waits for them


def redact(_logger: object, _method: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    """Cut ids of /ws/<id>, tokens and keys out of an event, and control characters, which could forge lines."""
    for name, value in event.items():
        if name.lower() in _SECRET_NAMES:
            event[name] = "[redacted]"
        elif isinstance(value, str):
            event[name] = _CONTROL.sub(" ", redact_text(value))
        elif name not in _LEFT and not isinstance(value, int | float | None):
            event[name] = _CONTROL.sub(" ", redact_text(repr(value)))
    return event


def _exception(_logger: object, _method: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    """An exception as text: where it came from and what it says, without anybody's variables, indented so that no line
    of it looks like another event."""
    info = event.pop("exc_info", None)
    if info is True:
        info = sys.exc_info()
    elif isinstance(info, BaseException):
        info = (type(info), info, info.__traceback__)
    if isinstance(info, tuple) and info[0] is not None:
        lines = redact_text("".join(traceback.format_exception(*info))).rstrip("\n").split("\n")
        event["exception"] = "\n".join("  " + _CONTROL.sub(" ", line) for line in lines)
    return event


def redact_text(text: str) -> str:
    """`text` without the secrets that have a shape."""
    return _SECRET_TEXT.sub(lambda match: (match[1] or match[2] or match[3]) + "[redacted]", text)


def get(name: str) -> structlog.stdlib.BoundLogger:
    """The logger `partyline.<name>`: takes an event and keyword values."""
    logger = logging.getLogger(f"partyline.{name}")
    processors = [structlog.stdlib.filter_by_level, redact, structlog.stdlib.render_to_log_kwargs]
    return cast(
        "structlog.stdlib.BoundLogger",
        structlog.wrap_logger(logger, processors=processors, wrapper_class=structlog.stdlib.BoundLogger),
    )


class _Writer(logging.Handler):
    """Writes records to a stream from a thread of its own, in their order.

    Logging never waits. While nobody reads, `_LONGEST` characters are kept and later records dropped; when reading
    goes on, a line says how many. `flush` waits for the queue, for a second at most; logging calls it at the end of
    the process. A forked child begins with an empty queue.
    """

    def __init__(self, stream: TextIO) -> None:
        super().__init__()
        self._stream = stream
        self._dropped = 0
        self._begin()
        _writers.add(self)

    def _begin(self) -> None:
        self._changed = threading.Condition()
        self._lines: deque[str] = deque()
        self._waiting = 0  # characters, of lines and of what is being written
        self._unsaid = 0  # dropped, and no line has said so
        self._thread: threading.Thread | None = None

    @property
    def dropped(self) -> int:
        """Records that were never written."""
        return self._dropped

    def emit(self, record: logging.LogRecord) -> None:
        try:
            line = self.format(record) + "\n"
        except Exception:
            self.handleError(record)
            return
        with self._changed:
            if self._waiting and self._waiting + len(line) > _LONGEST:
                self._dropped += 1
                self._unsaid += 1
                return
            self._lines.append(line)
            self._waiting += len(line)
            if self._thread is None:
                self._thread = self._started()
            self._changed.notify_all()

    def _started(self) -> threading.Thread | None:
        """The thread; None where the process may have no more of them now: the next record tries again."""
        thread = threading.Thread(target=self._run, name="partyline-logs", daemon=True)
        with suppress(RuntimeError):
            thread.start()
            return thread
        return None

    def flush(self) -> None:
        with self._changed:
            self._changed.wait_for(lambda: not self._waiting, _PATIENCE)

    def _run(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._lines)
                text = "".join(self._lines)
                self._lines.clear()
                unsaid, self._unsaid = self._unsaid, 0
            size = len(text)
            if unsaid:
                text += self._gap(unsaid)
            try:
                _write(self._stream, text)
            except (OSError, ValueError):  # nobody reads any more, or it is closed
                with self._changed:
                    self._dropped += text.count("\n")
            with self._changed:
                self._waiting -= size
                self._changed.notify_all()

    def _gap(self, count: int) -> str:
        values = {"name": "partyline.log", "levelno": logging.WARNING, "levelname": "WARNING", "count": count}
        record = logging.makeLogRecord({**values, "msg": "logs were dropped: whatever reads them did not keep up"})
        return self.format(record) + "\n"


_process: dict[str, str] = {}  # its name, if it is one of several
_writers: weakref.WeakSet[_Writer] = weakref.WeakSet()


def _in_child() -> None:
    for writer in list(_writers):
        writer._begin()  # noqa: SLF001 - what waits is the parent's to write


os.register_at_fork(after_in_child=_in_child)


def _write(stream: TextIO, text: str) -> None:
    """Write all of it, waiting as long as it takes. Raises OSError, ValueError."""
    try:
        number = stream.fileno()
    except io.UnsupportedOperation:  # no file: what a program, or a test, has put in its place
        stream.write(text)
        stream.flush()
        return
    left = memoryview(text.encode(stream.encoding or "utf-8", "backslashreplace"))
    while left:  # past the stream's own lock and buffer, which the end of the process would wait for
        try:
            left = left[os.write(number, left) :]
        except BlockingIOError:  # somebody made it non-blocking
            poll = select.poll()
            poll.register(number, select.POLLOUT)
            poll.poll()


def name_process(name: str) -> None:
    """Say in each line which of several processes it comes from."""
    _process["process"] = name


def _named(_logger: object, _method: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    event.update(_process)
    return event


def flush() -> None:
    """Wait until what was logged is written, for a second at most."""
    for writer in list(_writers):
        writer.flush()


def dropped() -> int:
    """How many records of this process were never written."""
    return sum(writer.dropped for writer in list(_writers))


def configure(log_format: Literal["text", "json"], level: str = "info") -> None:
    """Write the logs of Partyline and of what it runs on to standard error. Replaces an earlier configuration."""
    rendered: list[Any] = [structlog.stdlib.ProcessorFormatter.remove_processors_meta, _exception, _named]
    if log_format == "json":
        rendered.append(structlog.processors.JSONRenderer())
    else:
        plain = structlog.dev.plain_traceback
        rendered.append(
            structlog.dev.ConsoleRenderer(colors=sys.stderr.isatty(), pad_event_to=0, exception_formatter=plain)
        )
    formatter = structlog.stdlib.ProcessorFormatter(
        processors=rendered,
        foreign_pre_chain=[
            structlog.stdlib.add_log_level,
            structlog.stdlib.ExtraAdder(),
            structlog.processors.TimeStamper(fmt="iso"),
            redact,
        ],
    )
    handler = _Writer(sys.stderr)
    handler.setFormatter(formatter)
    for name in ("partyline", "uvicorn", "asyncio"):
        logger = logging.getLogger(name)
        logger.handlers = [handler]
        logger.propagate = False
        logger.setLevel(level.upper())


class _Unconfigured(logging.Handler):
    """Writes exceptions to standard error where the program has configured no logging: a handler of its own that fails
    must not fail in silence."""

    _STANDARD = frozenset(vars(logging.makeLogRecord({})))

    def emit(self, record: logging.LogRecord) -> None:
        ours = logging.getLogger("partyline")
        if (
            not record.exc_info
            or sys.stderr is None
            or ours.handlers != [self]
            or not ours.propagate
            or logging.getLogger().handlers
        ):
            return
        values = {name: value for name, value in vars(record).items() if name not in self._STANDARD}
        told = " ".join((record.getMessage(), *(f"{name}={value}" for name, value in values.items())))
        exception = _exception(None, "", {"exc_info": record.exc_info})["exception"]
        try:
            sys.stderr.write(f"{record.name}: {told}\n{exception}\n")
        except (OSError, ValueError):  # nobody reads it, or it is closed
            pass


logging.getLogger("partyline").addHandler(_Unconfigured())
