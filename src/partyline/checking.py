"""What settings must be together, beyond what each of them must be; and what the process leaves them."""

from __future__ import annotations

import contextlib
import re
import resource
from typing import Final
from urllib.parse import urlsplit

from partyline.config import Settings
from partyline.errors import ConfigError, InvalidValue
from partyline.relay.signers import check_keys
from partyline.topics import check_pattern, check_topic
from partyline.trust.addresses import is_loopback
from partyline.trust.perimeter import allowed_host, allowed_origin, trusted_network

_RESERVED_DESCRIPTORS: Final = 256  # for the database, logs and listeners; where there are few, half of them
_LEAST_DESCRIPTORS: Final = 64  # without a connection a server has about 20
_PUBLIC_URL = re.compile(r"(?:https?|wss?)://[!-~]+")


def check(settings: Settings) -> None:
    """What settings must be together. Raises ConfigError naming the setting and the way out."""
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
    for origin in settings.cors_origins:
        allowed_origin(origin)
    if settings.keyfile and not settings.certfile:
        raise ConfigError("keyfile: a key without certfile means nothing: name the certificate too", field="keyfile")
    if settings.public_url is not None:
        url = urlsplit(settings.public_url)
        if not _PUBLIC_URL.fullmatch(settings.public_url) or not url.netloc or url.query or url.fragment:
            raise ConfigError(
                f"public_url: {settings.public_url!r} is not an address such as https://chat.example.org (in ASCII)",
                field="public_url",
            )
    for name in settings.allowed_hosts:
        allowed_host(name)
    for proxy in settings.trusted_proxies:
        trusted_network(proxy)
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
        check_keys(settings.jwt_keys)
    except InvalidValue as error:
        raise ConfigError(error.message, field=error.field) from None
    limit, connections = descriptor_limit(), _connections_at_most()
    if limit < _LEAST_DESCRIPTORS:
        raise ConfigError(
            f"max_connections: this process may open {limit} files, and a server needs {_LEAST_DESCRIPTORS} at least: "
            "raise the limit with `ulimit -n`, or LimitNOFILE= of the service",
            field="max_connections",
        )
    if settings.max_connections is not None and settings.max_connections > connections:
        raise ConfigError(
            f"max_connections: {settings.max_connections} is more than the {connections} that {limit} file descriptors "
            "leave: raise the limit with `ulimit -n`, or LimitNOFILE= of the service, or lower the setting",
            field="max_connections",
        )


def is_open(settings: Settings) -> bool:
    """Whether everybody who reaches the server may do everything: open mode."""
    return not (settings.api_keys or settings.jwt_keys)


def descriptor_limit() -> int:
    """How many file descriptors this process may open; the soft limit is raised to the hard one."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != hard:
        with contextlib.suppress(ValueError, OSError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
            soft = hard
    return 1 << 20 if soft == resource.RLIM_INFINITY else soft


def max_connections(settings: Settings) -> int:
    """The setting, or what the descriptors leave."""
    return settings.max_connections or _connections_at_most()


def _connections_at_most() -> int:
    limit = descriptor_limit()
    return limit - min(_RESERVED_DESCRIPTORS, limit // 2)
