"""Structured logs on the standard library's logging, with what must never be written cut out.

A program that embeds Partyline sees ordinary `logging` records below the logger `partyline`. Where it has configured no
logging at all, exceptions are written to standard error, and nothing else is.
`partyline serve` calls `configure`.
"""

from __future__ import annotations

import logging
import re
import sys
import traceback
from collections.abc import MutableMapping
from typing import Any, Literal, cast

import structlog

_SECRET_NAMES = frozenset(("authorization", "token", "key", "api_key", "cookie", "url", "query", "path"))
_LEFT = frozenset(("exc_info", "stack_info", "_record", "_from_structlog", "_logger"))  # structlog's own
_SECRET_TEXT = re.compile(
    r"(/(?:ws|register)/)[^\s\"'?#]+|((?:token|[?&](?:sid|key|api_key))=)[^&\s\"']+|(bearer[.\s]\s*)\S+", re.IGNORECASE
)
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029]")


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


def configure(log_format: Literal["text", "json"], level: str = "info") -> None:
    """Write the logs of Partyline and of what it runs on to standard error. Replaces an earlier configuration."""
    rendered: list[Any] = [structlog.stdlib.ProcessorFormatter.remove_processors_meta, _exception]
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
    handler = logging.StreamHandler(sys.stderr)
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
