"""Arguments of EngineIO and SocketIO are checked at once, like values of a settings file."""

from __future__ import annotations

from typing import Any

import pytest

from partyline import ConfigError, EngineIO, SocketIO

ENGINE = ["ping_interval", "ping_timeout", "upgrade_timeout", "max_payload", "compress_from"]
NUMBERS = [
    *ENGINE,
    "connect_timeout",
    "max_attachments",
    "max_pending_events",
    "max_pending_bytes",
    "rooms_per_connection",
    "namespaces_per_connection",
    "max_auth_bytes",
    "disconnect_grace",
    "recovery_window",
    "nodes_timeout",
]


@pytest.mark.parametrize("name", NUMBERS)
@pytest.mark.parametrize("value", [-1, -0.5, "soon", float("nan"), float("inf"), True, [], ...], ids=repr)
def test_numbers(name: str, value: Any) -> None:
    """Each error names the argument, its value and what is wrong with it."""
    for kind in (SocketIO, EngineIO) if name in ENGINE else (SocketIO,):
        with pytest.raises(ConfigError, match=f"^{name}: ") as caught:
            kind(**{name: value})
        assert caught.value.field == name
        assert repr(value)[:20] in caught.value.message or "not shown" in caught.value.message


@pytest.mark.parametrize("name", sorted(set(NUMBERS) - {"disconnect_grace", "compress_from", "max_attachments"}))
def test_nothing_at_all(name: str) -> None:
    """0 is refused if it would let nothing through."""
    with pytest.raises(ConfigError, match=f"^{name}: 0 is below the least value"):
        SocketIO(**{name: 0})


@pytest.mark.parametrize("name", NUMBERS)
def test_none_and_the_least(name: str) -> None:
    """None means the value of the settings, and the least value that the error names is accepted."""
    SocketIO(**{name: None})
    with pytest.raises(ConfigError, match="below the least value") as caught:
        SocketIO(**{name: -1})
    least = float(caught.value.message.rpartition(", ")[2])
    SocketIO(**{name: least if "time" in name or name in ("ping_interval", "recovery_window") else int(least)})


def test_as_in_a_file() -> None:
    """Sizes and times may have units, as in a settings file."""
    io = SocketIO(max_pending_bytes="2MiB", disconnect_grace="500ms", max_payload="1kB")
    assert io.disconnect_grace == 0.5


@pytest.mark.parametrize("kind", [EngineIO, SocketIO])
@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("path", "socket.io"),
        ("path", "/socket.io"),
        ("path", 5),
        ("transports", []),
        ("transports", "websocket"),
        ("transports", ["websocket", "flash"]),
        ("cookie", "a b"),
    ],
)
def test_others(kind: type[EngineIO | SocketIO], name: str, value: Any) -> None:
    """Other arguments than numbers are checked at once, too."""
    with pytest.raises(ConfigError, match=f"^{name}: ") as caught:
        kind(**{name: value})
    assert caught.value.field == name


@pytest.mark.parametrize("parser", ["yaml", "", "JSON"])
def test_a_parser(parser: str) -> None:
    """A parser other than json and msgpack is refused by name."""
    with pytest.raises(ConfigError, match=r"^parser: .* must be json or msgpack"):
        SocketIO(parser=parser)
