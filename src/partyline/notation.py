"""How settings are written: text, numbers with and without a unit, yes and no."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, Final

SIZES: Final = {"": 1, "b": 1, "kb": 1000, "mb": 1000**2, "gb": 1000**3, "kib": 1024, "mib": 1024**2, "gib": 1024**3}
SECONDS: Final = {"": 1.0, "ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}
_WRITTEN: Final[Mapping[str, Mapping[str, float]]] = {
    "bytes": {"GiB": 1024**3, "MiB": 1024**2, "KiB": 1024, "GB": 1000**3, "MB": 1000**2, "kB": 1000},
    "seconds": {"d": 86400.0, "h": 3600.0, "m": 60.0, "s": 1.0, "ms": 0.001},
}
_NUMBER: Final = re.compile(r"(-?[0-9]+(?:\.[0-9]+)?)\s*([A-Za-z]*)\Z")
_LARGEST: Final = (1 << 53) - 1


def text(value: Any) -> str:
    """Text in one line. Raises ValueError, like all functions here."""
    if not isinstance(value, str):
        raise ValueError("is not a text")
    if not value.isprintable():  # a line break in a header would begin another one
        raise ValueError("has a line break or another character that is not printable")
    return value


def boolean(value: Any) -> bool:
    if isinstance(value, bool):
        return value
    if isinstance(value, str) and value.lower() in ("1", "true", "yes", "on"):
        return True
    if isinstance(value, str) and value.lower() in ("0", "false", "no", "off", ""):
        return False
    raise ValueError("is neither true nor false")


def number(value: Any, units: Mapping[str, float]) -> float:
    if isinstance(value, int | float) and not isinstance(value, bool):
        if value != value or abs(value) > _LARGEST:
            raise ValueError("is out of range")
        return value
    match = _NUMBER.match(value.strip()) if isinstance(value, str) else None
    if match is None or match[2].lower() not in units:
        known = ", ".join(unit for unit in units if unit)
        raise ValueError("is not a number" + (f", nor one with a unit ({known})" if known else ""))
    if len(match[1]) > 30:
        raise ValueError("is out of range")
    found = (float(match[1]) if "." in match[1] else int(match[1])) * units[match[2].lower()]
    if abs(found) > _LARGEST:
        raise ValueError("is out of range")
    return found


def duration(written: str) -> float:
    """A time as settings write it (`90`, `500ms`, `1h`), in seconds. Raises ValueError."""
    return float(number(written, SECONDS))


def written(value: float, kind: str) -> str:
    """A setting's number as a settings file may have it: with the largest unit that makes it a whole number."""
    for unit, size in _WRITTEN.get(kind, {}).items():
        count = value / size
        if count.is_integer() and count >= (2 if unit == "d" else 1):  # one day is 24h
            return f"{count:.0f}{unit}"
    return f"{value:g}" if isinstance(value, float) else str(value)


def engine(url: str | None) -> str:
    """What people call the engine of an address: `redis` for `rediss://...`, empty for none."""
    scheme = "" if url is None else url.partition("://")[0]
    return {"rediss": "redis", "postgresql": "postgres"}.get(scheme, scheme)
