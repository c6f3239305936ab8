"""Settings: defaults < file < environment < flags. Every value knows where it came from.

A setting has one name everywhere: `max_body` in the TOML file, `PARTYLINE_MAX_BODY` in the environment, and
`--set max_body=...` on the command line, where the common ones have an option of their own, too. Lists are TOML arrays,
or separated by commas elsewhere; lists of tables are TOML everywhere. Sizes take a suffix (`64KiB`, `1MiB`), durations
too (`500ms`, `30s`, `5m`, `2h`, `7d`).
"""

from __future__ import annotations

import difflib
import os
import re
import tomllib
from collections.abc import Mapping
from dataclasses import Field, dataclass, field, fields
from functools import cached_property
from typing import Any, Final
from urllib.parse import urlsplit

from partyline import notation
from partyline.entries import ApiKey, JwtKey, RetentionRule, api_keys, check_jwt_key, jwt_keys, retention_rules
from partyline.errors import ConfigError, InvalidValue
from partyline.notation import SECONDS, SIZES
from partyline.topics import check_pattern, check_topic
from partyline.trust.addresses import is_loopback
from partyline.trust.perimeter import allowed_host, allowed_origin, trusted_network

_PREFIX: Final = "PARTYLINE_"
_MAX_FILE: Final = 1 << 20  # bytes of a settings file
_PUBLIC_URL: Final = re.compile(r"(?:https?|wss?)://[!-~]+")


def _setting(
    default: Any, about: str, kind: str = "", *, least: float | None = None, choices: tuple[str, ...] = ()
) -> Any:
    return field(default=default, metadata={"about": about, "kind": kind, "least": least, "choices": choices})


@dataclass(frozen=True, slots=True)
class Settings:
    """Everything that can be set. None is resolved at start, as described.

    Arguments may be written as in the settings file (`max_body="1MiB"`), and are checked likewise. Raises ConfigError.
    """

    # Where it listens
    host: str = _setting("127.0.0.1", "address to listen on")
    port: int = _setting(8000, "port to listen on; 0 takes a free one", "count", least=0)
    certfile: str | None = _setting(None, "TLS certificate chain (PEM); with it the server speaks https and wss")
    keyfile: str | None = _setting(None, "the certificate's private key (PEM), where it is not in certfile")
    public_url: str | None = _setting(None, "the address clients use, where it is not the request's Host")
    db: str = _setting("./partyline.db", "database file; :memory: keeps nothing")
    log: str | None = _setting(None, "log that several servers share, as a URL; default: in db")
    bus: str | None = _setting(None, "bus between servers, as a URL; default: the log's own engine")
    workers: int = _setting(1, "processes that serve; auto is one for each core", "workers", least=0)

    # Access
    api_keys: tuple[ApiKey, ...] = _setting((), "keys for the HTTP calls; none: open mode, loopback only", "keys")
    jwt_keys: tuple[JwtKey, ...] = _setting((), "keys that tokens (JWT) may be signed with", "jwt_keys")
    jwt_max_life: float = _setting(86400.0, "longest life of a token", "seconds", least=1)
    insecure: bool = _setting(False, "allow open mode on an address others can reach")
    allowed_hosts: tuple[str, ...] = _setting((), "names this server answers to, beside IP addresses", "list")
    cors_origins: tuple[str, ...] = _setting((), "origins of other sites whose pages may use this server", "list")
    cors_credentials: bool = _setting(False, "let those pages send cookies")
    trusted_proxies: tuple[str, ...] = _setting((), "addresses or networks whose forwarded headers count", "list")
    auth_failures_per_minute: float = _setting(30.0, "failed authentications per address; 0 is off", "rate", least=0)
    registrations_per_second: float | None = _setting(
        None, "registrations per address; default 100, off on loopback; 0 is off", "rate", least=0
    )

    # The relay
    default_topics: tuple[str, ...] = _setting(("cats",), "topics of a registration that names none", "list")
    classic_errors: bool = _setting(True, "answer messages that are not a command with an error object")
    ephemeral_topics: tuple[str, ...] = _setting((), "patterns of topics that are not kept in the log", "list")
    drop_oldest_topics: tuple[str, ...] = _setting((), "patterns: a slow consumer loses the oldest of these", "list")
    conflate_topics: tuple[str, ...] = _setting((), "patterns: a slow consumer gets the newest per key", "list")
    permessage_deflate: bool = _setting(True, "compress WebSocket messages for clients that offer it")
    compress_from: int = _setting(1024, "smallest message worth compressing", "bytes", least=126)

    # The chat
    chat: bool | None = _setting(None, "serve the chat at /; by default where there are no keys and no MODULE:NAME")

    # Logs
    log_format: str = _setting("text", "text for people, json for machines", choices=("text", "json"))
    log_level: str = _setting("info", "the least that is logged", choices=("debug", "info", "warning", "error"))

    # Limits of connections and requests
    max_connections: int | None = _setting(None, "connections in all; default: descriptors - 256", "count", least=1)
    max_connections_per_address: int | None = _setting(
        None, "connections per address; default 1000, off on loopback; 0 is off", "count", least=0
    )
    max_head_bytes: int = _setting(32 * 1024, "a request's line and headers", "bytes", least=1024)
    max_headers: int = _setting(100, "headers of a request", "count", least=8)
    max_body: int = _setting(1024 * 1024, "a request's body", "bytes", least=1)
    max_batch_body: int = _setting(8 * 1024 * 1024, "the body of a batch of messages", "bytes", least=1)
    head_timeout: float = _setting(10.0, "for a request's head", "seconds", least=0.001)
    body_timeout: float = _setting(30.0, "for a request's body", "seconds", least=0.001)
    keep_alive_timeout: float = _setting(15.0, "for the next request of a connection", "seconds", least=0.001)
    tls_handshake_timeout: float = _setting(10.0, "for the TLS handshake", "seconds", least=0.001)
    close_timeout: float = _setting(5.0, "for a peer's answer to our close frame", "seconds", least=0.001)
    drain_time: float = _setting(30.0, "for everything in hand when the server stops", "seconds", least=0)

    # Limits of messages
    max_message: int = _setting(1_000_000, "a WebSocket message", "bytes", least=125)
    max_inflated: int | None = _setting(None, "a message after inflating; default: max_message", "bytes", least=125)
    max_fragments: int = _setting(1_024, "frames of a message", "count", least=1)
    ping_interval: float = _setting(25.0, "between heartbeats", "seconds", least=0.001)
    ping_timeout: float = _setting(20.0, "for a heartbeat's answer", "seconds", least=0.001)
    first_command_timeout: float = _setting(10.0, "for a v1 client to authenticate", "seconds", least=0.001)
    outbox_bytes: int = _setting(1024 * 1024, "queued for one slow consumer", "bytes", least=1024)
    events_per_second: float | None = _setting(
        None, "messages from one connection; default 100, off on loopback; 0 is off", "rate", least=0
    )
    events_burst: float = _setting(200.0, "messages from one connection at once", "count", least=1)

    # Limits of Engine.IO and Socket.IO
    upgrade_timeout: float = _setting(10.0, "for a WebSocket to take over from polling", "seconds", least=0.001)
    connect_timeout: float = _setting(45.0, "for a Socket.IO client's first CONNECT", "seconds", least=0.001)
    max_attachments: int = _setting(10, "binary attachments of one packet", "count", least=0)
    max_pending_events: int = _setting(64, "events of one connection that wait for a handler", "count", least=1)
    max_pending_bytes: int = _setting(1024 * 1024, "the same in bytes", "bytes", least=1024)
    rooms_per_connection: int = _setting(1_000, "rooms of one socket", "count", least=1)

    # Limits of registrations and topics
    topics_per_connection: int = _setting(1_000, "topics of one connection", "count", least=1)
    registrations_per_user: int = _setting(100, "registrations of one user", "count", least=1)
    max_registrations: int = _setting(1_000_000, "registrations in all", "count", least=1)
    max_registration_bytes: int = _setting(64 * 1024 * 1024, "topics of all registrations", "bytes", least=1)
    unused_registration_life: float = _setting(300.0, "life of a registration nobody uses", "seconds", least=0.001)
    resume_window: float = _setting(120.0, "life of a registration after its connection", "seconds", least=0)

    # The log
    max_age: float = _setting(7 * 86400.0, "age of a kept message", "seconds", least=0.001)
    max_messages: int = _setting(100_000, "kept messages of one topic", "count", least=1)
    retention: tuple[RetentionRule, ...] = _setting((), "other bounds for the topics of a pattern", "retention")
    max_rooms: int = _setting(1_000_000, "topics in the log", "count", least=1)
    max_log_bytes: int = _setting(64 * 1024 * 1024, "kept messages in all (log in memory)", "bytes", least=1)
    idempotency_window: float = _setting(86400.0, "how long a message id is remembered", "seconds", least=0)
    require_durability: str = _setting(
        "nothing", "what an accepted message must survive", choices=("nothing", "window", "power-cut", "machine")
    )

    def __post_init__(self) -> None:
        for name in FIELDS:
            given = getattr(self, name)
            if (value := checked(name, given)) is not given:
                object.__setattr__(self, name, value)
        _check_together(self)


FIELDS: Final = {item.name: item for item in fields(Settings)}


@dataclass(frozen=True)
class Loaded:
    """The values given for settings, by name, and for each setting where its value came from."""

    said: Mapping[str, Any]
    sources: Mapping[str, str]

    @cached_property
    def settings(self) -> Settings:
        """All of them. Raises ConfigError if they do not go together."""
        return Settings(**self.said)

    def value(self, name: str) -> Any:
        """One of them, whatever the others are."""
        return self.said.get(name, FIELDS[name].default)


def load(
    flags: Mapping[str, Any] | None = None,
    *,
    file: str | None = None,
    environ: Mapping[str, str] | None = None,
    assigned: Mapping[str, Any] | None = None,
) -> Loaded:
    """Put the settings together. `flags` and those `assigned` by `--set`, which take precedence, are values or texts
    by setting name; None leaves a setting alone.

    `file` is a TOML file; without one, PARTYLINE_CONFIG may name it. Raises ConfigError, which names the setting, the
    fault, the source and the valid values.
    """
    environ = os.environ if environ is None else environ
    values: dict[str, Any] = {}
    sources = dict.fromkeys(FIELDS, "default")
    path = file or environ.get(_PREFIX + "CONFIG")
    if path:
        for name, value in _read(path).items():
            _known(name, path)
            values[name], sources[name] = checked(name, value, path), path
    for name in FIELDS:
        variable = _PREFIX + name.upper()
        if variable in environ:
            values[name], sources[name] = checked(name, environ[variable], variable), variable
    given = [(name, value, _flag(name)) for name, value in (flags or {}).items()]
    for name, value, flag in (*given, *((name, value, f"--set {name}") for name, value in (assigned or {}).items())):
        if value is not None:
            _known(name, "--set")
            values[name], sources[name] = checked(name, value, flag), flag
    return Loaded(values, sources)


def _flag(name: str) -> str:
    """The option of a setting that has its own. A list's option takes one item, and may be repeated."""
    if name in FIELDS and FIELDS[name].metadata["kind"] in ("keys", "list"):
        name = re.sub("ies$", "y", name).removesuffix("s")
    return "--" + name.replace("_", "-")


def _read(path: str) -> dict[str, Any]:
    try:
        with open(path, "rb") as source:
            data = source.read(_MAX_FILE + 1)
        if len(data) > _MAX_FILE:
            raise ConfigError(
                f"config: {path} is larger than {_MAX_FILE} bytes: name a file of settings", field="config"
            )
        return tomllib.loads(data.decode())
    except FileNotFoundError:
        raise ConfigError(f"config: {path} does not exist", field="config") from None
    except OSError as error:
        raise ConfigError(f"config: {path} cannot be read: {error.strerror}", field="config") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"config: {path} is not TOML: {error}", field="config") from None


def _known(name: str, source: str) -> None:
    if name not in FIELDS:
        close = difflib.get_close_matches(name, FIELDS, 1)
        hint = f"did you mean {close[0]}?" if close else "`partyline config --show` lists all settings"
        raise ConfigError(f"{source}: there is no setting {name!r}: {hint}", field=name)


def checked(name: str, value: Any, source: str = "") -> Any:
    """The setting's value for this input. Raises ConfigError, which names the `source`, if any."""
    item = FIELDS[name]
    if value is None and item.default is None:
        return None
    return _checked(name, value, item, item.metadata["least"], source)


def option(name: str, value: Any, *, like: str = "", least: float | None = None) -> Any:
    """The same for a program's argument, such as an EngineIO's: it is checked like the setting `like`, or the one of
    its own name. None, which mostly follows the setting, stays None. Raises ConfigError."""
    if value is None:
        return None
    item = FIELDS[like or name]
    return _checked(name, value, item, item.metadata["least"] if least is None else least)


def _checked(name: str, value: Any, item: Field[Any], least: float | None, source: str = "") -> Any:
    meta = item.metadata
    where = f" (from {source})" if source else ""
    try:
        parsed = _convert(item, value, meta["kind"])
    except ValueError as error:
        raise ConfigError(f"{name}: {_shown(name, value)}{where} {error}", field=name) from None
    if name == "port" and not 0 <= parsed <= 65535:
        raise ConfigError(f"port: {parsed}{where} is not a port: 0 to 65535", field=name)
    if least is not None and parsed < least:
        raise ConfigError(f"{name}: {_shown(name, value)}{where} is below the least value, {least:g}", field=name)
    if meta["choices"] and parsed not in meta["choices"]:
        choices = ", ".join(meta["choices"])
        raise ConfigError(f"{name}: {_shown(name, value)}{where} is not one of {choices}", field=name)
    return parsed


def _convert(item: Field[Any], value: Any, kind: str) -> Any:
    annotation = str(item.type)
    if kind == "keys":
        return api_keys(value)
    if kind == "jwt_keys":
        return jwt_keys(value)
    if kind == "retention":
        return retention_rules(value)
    if kind == "list":
        items = [item.strip() for item in value.split(",")] if isinstance(value, str) else value
        if not isinstance(items, list | tuple) or not all(isinstance(item, str) for item in items):
            raise ValueError("is not a list of texts")
        return tuple(notation.text(item) for item in items if item)
    if annotation.startswith("bool"):
        return notation.boolean(value)
    if kind == "workers" and value == "auto":
        return 0
    if kind:
        number = notation.number(value, SIZES if kind == "bytes" else SECONDS if kind == "seconds" else {"": 1})
        if annotation.startswith("float"):
            return float(number)
        if number != int(number):
            raise ValueError("is not a whole number")
        return int(number)
    return notation.text(value)


def _shown(name: str, value: Any) -> str:
    """A value as an error shows it; one that may hold a key is not shown."""
    return "[not shown]" if name in ("api_keys", "jwt_keys") or isinstance(value, list | dict) else repr(value)[:80]


# Together


def is_open(settings: Settings) -> bool:
    """Whether everybody who reaches the server may do everything: open mode."""
    return not (settings.api_keys or settings.jwt_keys)


def _check_together(settings: Settings) -> None:
    """Check the settings against each other. Raises ConfigError naming the setting, its value and the way out."""
    open_mode = is_open(settings)
    if open_mode and not settings.insecure and not is_loopback(settings.host):
        raise ConfigError(
            f"host: {settings.host} can be reached by others, and without api_keys or jwt_keys everybody may do "
            "everything: configure a key (`partyline key`), bind 127.0.0.1, or say --insecure if that is meant",
            field="host",
        )
    anybody = next((origin for origin in settings.cors_origins if origin in ("*", "null")), None)
    if anybody is not None and (open_mode or settings.cors_credentials):
        why = "in open mode (no api_keys, no jwt_keys)" if open_mode else "together with cors_credentials"
        raise ConfigError(
            f"cors_origins: {anybody} cannot be used {why}: any page in a visitor's browser could use this server; "
            "name the origins",
            field="cors_origins",
        )
    if settings.keyfile and not settings.certfile:
        raise ConfigError("keyfile: a key is useless without certfile: name the certificate, too", field="keyfile")
    if settings.public_url is not None:
        url = urlsplit(settings.public_url)
        if not _PUBLIC_URL.fullmatch(settings.public_url) or not url.netloc or url.query or url.fragment:
            raise ConfigError(
                f"public_url: {settings.public_url!r} is not an address such as https://chat.example.org (in ASCII)",
                field="public_url",
            )
    for origin in settings.cors_origins:
        allowed_origin(origin)
    for name in settings.allowed_hosts:
        allowed_host(name)
    for proxy in settings.trusted_proxies:
        trusted_network(proxy)
    for jwt_key in settings.jwt_keys:
        check_jwt_key(jwt_key)
    try:
        for topic in settings.default_topics:
            check_topic(topic, "default_topics")
        for name in ("ephemeral_topics", "drop_oldest_topics", "conflate_topics"):
            for pattern in getattr(settings, name):
                check_pattern(pattern, name)
        for rule in settings.retention:
            check_pattern(rule.topic, "retention")
        for key in settings.api_keys:
            for pattern in (*key.publish, *key.subscribe):
                check_pattern(pattern, "api_keys")
    except InvalidValue as error:
        raise ConfigError(error.message, field=error.field) from None
