"""Structured logs on the standard library's logging, with what must never be written cut out.

A program that embeds Partyline sees ordinary `logging` records below the logger `partyline`, silent by default;
`partyline serve` calls `configure`.
"""

from __future__ import annotations

import logging
import re
import sys
from collections.abc import MutableMapping
from typing import Any, Literal, cast

import structlog

_SECRET_NAMES = frozenset(("authorization", "token", "key", "api_key", "cookie", "url", "query", "path"))
_SECRET_TEXT = re.compile(r"(/ws/)[0-9a-f]{8,}|([?&]token=)[^&\s\"']+|(Bearer\s+)\S+", re.IGNORECASE)
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029]")

logging.getLogger("partyline").addHandler(logging.NullHandler())


def redact(_logger: object, _method: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    """Cut ids of /ws/<id>, tokens and keys out of an event, and control characters, which could forge lines."""
    for name, value in event.items():
        if name.lower() in _SECRET_NAMES:
            event[name] = "[redacted]"
        elif isinstance(value, str) and name not in ("exception", "stack"):
            event[name] = _CONTROL.sub(" ", redact_text(value))
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
    rendered: list[Any] = [structlog.stdlib.ProcessorFormatter.remove_processors_meta]
    if log_format == "json":
        rendered += [structlog.processors.format_exc_info, structlog.processors.JSONRenderer()]
    else:
        rendered.append(structlog.dev.ConsoleRenderer(colors=sys.stderr.isatty(), pad_event_to=0))
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
