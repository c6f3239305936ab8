"""What stands in a settings file as a list of tables: API keys, keys that sign tokens, rules of retention."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from typing import Any, Final
from urllib.parse import urlsplit

from partyline import notation
from partyline.errors import ConfigError
from partyline.notation import SECONDS, SIZES
from partyline.trust.addresses import is_loopback

_HASH: Final = re.compile(r"sha256:[0-9a-f]{64}\Z")
ALGORITHMS: Final = ("HS256", "RS256", "EdDSA")
_SOURCES: Final = ("secret", "secret_file", "public_key", "public_key_file", "jwks_file", "jwks_url")
_MAX_LEEWAY: Final = 300.0  # seconds


@dataclass(frozen=True, slots=True)
class ApiKey:
    """A configured key: its hash and its rights by topic pattern."""

    hash: str
    publish: tuple[str, ...] = (">",)
    subscribe: tuple[str, ...] = (">",)
    admin: bool = False


@dataclass(frozen=True, slots=True)
class JwtKey:
    """A configured key that tokens may be signed with. Exactly one of the fields with key material is set. `leeway` is
    in seconds."""

    algorithm: str
    secret: str | None = field(default=None, repr=False)
    secret_file: str | None = None
    public_key: str | None = None
    public_key_file: str | None = None
    jwks_file: str | None = None
    jwks_url: str | None = None
    kid: str | None = None
    audience: str | None = None
    issuer: str | None = None
    leeway: float = 0.0
    admin: bool = False


@dataclass(frozen=True, slots=True)
class RetentionRule:
    """What each topic of a pattern keeps: seconds, messages and bytes. None leaves it to the general settings."""

    topic: str
    max_age: float | None = None
    max_messages: int | None = None
    max_bytes: int | None = None


# Reading. A ValueError says what is wrong with the whole list.


def api_keys(value: Any) -> tuple[ApiKey, ...]:
    """Hashes, separated by commas or in a list, or tables."""
    hashes = value.split(",") if isinstance(value, str) else value
    if not isinstance(hashes, list | tuple):
        raise ValueError("is not a list of keys")
    return tuple(_key(item.strip() if isinstance(item, str) else item) for item in hashes if item != "")


def jwt_keys(value: Any) -> tuple[JwtKey, ...]:
    return tuple(map(_jwt_key, _tables(value, "[{ algorithm = 'HS256', secret_file = '...' }]")))


def retention_rules(value: Any) -> tuple[RetentionRule, ...]:
    return tuple(map(_rule, _tables(value, '[{ topic = "logs.>", max_age = "1h" }]')))


def _tables(value: Any, example: str) -> list[Any]:
    """The items of a list of tables; outside the file they are written inline, as they may be in it."""
    if isinstance(value, str):
        try:
            value = tomllib.loads(f"it = {value}")["it"]
        except tomllib.TOMLDecodeError:
            value = None
    if not isinstance(value, list | tuple):
        raise ValueError(f"is not a list such as {example}")
    return list(value)


def _key(item: Any) -> ApiKey:
    if isinstance(item, ApiKey):
        item = asdict(item)
    if isinstance(item, str):
        item = {"hash": item, "admin": True}
    if not isinstance(item, dict) or not isinstance(item.get("hash"), str) or not _HASH.match(item["hash"]):
        raise ValueError("holds something that is not a key's hash (`partyline key` makes a key and its hash)")
    unknown = set(item) - {"hash", "publish", "subscribe", "admin"}
    if unknown:
        raise ValueError("has a key with fields other than hash, publish, subscribe and admin")
    rights: dict[str, tuple[str, ...]] = {}
    for right in ("publish", "subscribe"):
        patterns = item.get(right, [">"])
        if not isinstance(patterns, list | tuple) or not all(isinstance(pattern, str) for pattern in patterns):
            raise ValueError(f"has a key whose {right} is not a list of topic patterns")
        rights[right] = tuple(patterns)
    return ApiKey(item["hash"], rights["publish"], rights["subscribe"], notation.boolean(item.get("admin", False)))


def _jwt_key(item: Any) -> JwtKey:
    names = [one.name for one in fields(JwtKey)]
    if isinstance(item, JwtKey):
        item = {name: value for name, value in asdict(item).items() if value is not None}
    if not isinstance(item, dict) or not isinstance(item.get("algorithm"), str):
        raise ValueError('has an entry that is not a table with an algorithm: [[jwt_keys]], algorithm = "HS256"')
    if set(item) - set(names):
        raise ValueError(f"has a key with fields other than {', '.join(names)}")
    values = dict(item)
    leeway, admin = values.pop("leeway", 0.0), values.pop("admin", False)
    for name, text in values.items():
        if not isinstance(text, str):
            raise ValueError(f"has a key whose {name} is not a text")
    if (seconds := float(notation.number(leeway, SECONDS))) < 0:
        raise ValueError("has a key whose leeway is below 0")
    return JwtKey(**values, leeway=seconds, admin=notation.boolean(admin))


def _rule(item: Any) -> RetentionRule:
    if isinstance(item, RetentionRule):
        item = {name: value for name, value in asdict(item).items() if value is not None}
    if not isinstance(item, dict) or not isinstance(item.get("topic"), str):
        raise ValueError("has a rule without a topic pattern")
    where = f"has a rule for {item['topic'][:60]!r}"
    kinds: dict[str, Mapping[str, float]] = {
        "max_age": SECONDS,
        "max_messages": {"": 1},
        "max_bytes": SIZES,
    }
    unknown = ", ".join(sorted(set(item) - {"topic", *kinds}))
    if unknown:
        raise ValueError(f"{where} with {unknown[:60]}: a rule has topic, {', '.join(kinds)}")
    if len(item) == 1:
        raise ValueError(f"{where} that bounds nothing: {', '.join(kinds)} are what it may have")
    bounds: dict[str, Any] = {}
    for name, units in kinds.items():
        if name in item:
            try:
                number = notation.number(item[name], units)
            except ValueError as error:
                raise ValueError(f"{where} whose {name} {error}") from None
            if number <= 0 or (name != "max_age" and number != int(number)):
                raise ValueError(f"{where} whose {name} is not {'above 0' if number <= 0 else 'a whole number'}")
            bounds[name] = float(number) if name == "max_age" else int(number)
    return RetentionRule(item["topic"], **bounds)


def check_jwt_key(key: JwtKey) -> None:
    """Raises ConfigError for a key that could not verify tokens, or not safely."""
    if key.algorithm not in ALGORITHMS:
        raise _unusable(f"algorithm {key.algorithm[:20]!r} is not one of {', '.join(ALGORITHMS)}")
    named = [name for name in _SOURCES if getattr(key, name) is not None]
    allowed = _SOURCES[:2] if key.algorithm == "HS256" else _SOURCES[2:]
    if len(named) != 1 or named[0] not in allowed:
        raise _unusable(
            f"a key for {key.algorithm} has exactly one of {', '.join(allowed)}; "
            f"this one has {' and '.join(named) or 'none'}"
        )
    if not 0 <= key.leeway <= _MAX_LEEWAY:
        raise _unusable(f"leeway {key.leeway:g} is not between 0 and {_MAX_LEEWAY:g} seconds")
    if key.jwks_url is not None:
        _check_address(key.jwks_url)
        if key.kid is not None:
            raise _unusable("kid is for a single key: those of a set name themselves")


def _check_address(url: str) -> None:
    parts = urlsplit(url)
    if parts.username is not None:
        raise _unusable("jwks_url holds a user or a password, but public keys need none")
    if parts.scheme == "https" and parts.hostname:
        return
    if parts.scheme != "http" or not parts.hostname or not is_loopback(parts.hostname):
        raise _unusable(
            "jwks_url is not an https address (http is for this machine only): whoever changes the answer signs"
        )


def _unusable(why: str) -> ConfigError:
    return ConfigError(f"jwt_keys: {why}", field="jwt_keys")
