"""The error tree: what each class puts on the wire, and whether its drawing is correct."""

from __future__ import annotations

import re
from http import HTTPStatus

import pytest

from partyline import errors
from partyline.errors import (
    ConfigError,
    HandshakeRefused,
    InvalidValue,
    MethodNotAllowed,
    Overloaded,
    PartylineError,
    RateLimited,
    RequestError,
    ServerError,
    StoreUnavailable,
    Unauthenticated,
    UpgradeRequired,
)

CLASSES = {
    name: found for name, found in vars(errors).items() if isinstance(found, type) and issubclass(found, PartylineError)
}
# docs/reference: what a client may see, RFC 6455 7.4 and our own.
CLOSE_CODES = {1002, 1003, 1007, 1009, 1011, 1012, 1013, 4000, 4001, 4008, 4408, 4429, 4401, 4403}


def make(kind: type[PartylineError], **rest: str) -> PartylineError:
    if issubclass(kind, MethodNotAllowed):
        return kind("what is wrong", allow="GET, POST")
    if issubclass(kind, HandshakeRefused):
        return kind(3, "what is wrong")
    return kind("what is wrong", **rest)


def drawn() -> dict[str, tuple[str | None, int | None]]:
    """The drawing of the module's docstring: each name's parent and status."""
    found: dict[str, tuple[str | None, int | None]] = {}
    parents: dict[int, str] = {}
    for line in (errors.__doc__ or "").splitlines():
        match = re.match(r"^((?:[ │]   )*)(?:[├└]── )?([A-Z]\w+)(?: +(\d{3})\b)?", line.removeprefix("    "))
        if match is None or match[2] not in CLASSES or ("──" not in line and match[2] != "PartylineError"):
            continue
        depth = 0 if match[2] == "PartylineError" else len(match[1]) // 4 + 1
        parents[depth] = match[2]
        found[match[2]] = (parents.get(depth - 1), int(match[3]) if match[3] else None)
    return found


def test_the_drawing_names_every_class() -> None:
    """The tree in the docstring holds every class of the module below its base, and no other."""
    tree = drawn()
    assert set(tree) == set(CLASSES)
    for name, (parent, _) in tree.items():
        assert CLASSES[name].__bases__[0].__name__ == (parent or "Exception")


def test_the_drawing_names_every_status() -> None:
    """The status beside a class in the drawing is its own, and each class that is raised has one there."""
    for name, (_, status) in drawn().items():
        if status is None:
            assert name in {
                "PartylineError",
                "ConfigError",
                "RequestError",
                "ConnectionRefused",
                "CallError",
                "CallTimeout",
                "PeerGone",
                "LineError",
                "Disconnected",
                "NotRecovered",
                "ServerError",
            }
        else:
            assert CLASSES[name].http_status == status


@pytest.mark.parametrize("kind", CLASSES.values(), ids=CLASSES)
def test_every_class_says_what_goes_on_the_wire(kind: type[PartylineError]) -> None:
    """Every class carries a stable word, a registered status, a documented close code and whether a retry is
    worth it."""
    assert re.fullmatch(r"[a-z]+(_[a-z]+)*", kind.code)
    assert 400 <= HTTPStatus(kind.http_status) <= 599
    assert kind.close_code in CLOSE_CODES
    assert isinstance(kind.temporary, bool)


@pytest.mark.parametrize("kind", CLASSES.values(), ids=CLASSES)
def test_the_status_says_whose_fault_it_was(kind: type[PartylineError]) -> None:
    """A RequestError is the caller's fault, 4xx; everything else is not, 5xx."""
    assert kind.http_status // 100 == (4 if issubclass(kind, RequestError) else 5)


def test_codes_tell_classes_apart() -> None:
    """No two raised classes share a code; only errors without a better one are `internal`."""
    named = [kind.code for kind in CLASSES.values() if kind not in (PartylineError, ServerError)]
    assert len(named) == len(set(named))
    assert PartylineError.code == ServerError.code == "internal"


@pytest.mark.parametrize("kind", CLASSES.values(), ids=CLASSES)
def test_an_error_keeps_what_it_was_given(kind: type[PartylineError]) -> None:
    """The message is the exception's text, headers are pairs of text, and nothing is remembered on the class."""
    error = make(kind)
    assert str(error) == error.message == "what is wrong"
    assert error.field is None
    assert error.code == kind.code
    assert all(isinstance(name, str) and isinstance(value, str) for name, value in error.headers())
    assert all(name == name.lower() for name, _ in error.headers())


def test_code_and_field_may_be_narrower() -> None:
    """One error may have a narrower word than its class and name a field, without changing the class."""
    error = InvalidValue("what is wrong", code="invalid_topic", field="topic")
    assert (error.code, error.field, InvalidValue.code) == ("invalid_topic", "topic", "invalid")


def test_temporary_errors_say_when_to_come_back() -> None:
    """An error has Retry-After exactly if a later retry makes sense."""
    for kind in (RateLimited, Overloaded, StoreUnavailable):
        assert kind.temporary
        assert "retry-after" in dict(make(kind).headers())
    for kind in CLASSES.values():
        if not kind.temporary:
            assert "retry-after" not in dict(make(kind).headers())


@pytest.mark.parametrize("seconds", [0.0, 0.01, 0.5, 1.0, 1.4, 2.0, 2.4, 2.5, 3.5, 59.1, 120.0])
def test_who_waits_as_told_is_not_early(seconds: float) -> None:
    """Retry-After is in whole seconds, at least one, and never less than what has to be waited."""
    said = dict(RateLimited("too many", retry_after=seconds).headers())["retry-after"]
    assert said.isdecimal()
    assert seconds <= int(said) <= max(1.0, seconds + 1)


def test_headers_that_the_rfcs_ask_for() -> None:
    """A 401 names its scheme, a 405 the methods, a 426 the protocol and its version."""
    assert Unauthenticated("x").headers() == [("www-authenticate", "Bearer")]
    assert MethodNotAllowed("x", allow="GET, POST").headers() == [("allow", "GET, POST")]
    upgrade = dict(UpgradeRequired("x").headers())
    assert (upgrade["upgrade"], upgrade["sec-websocket-version"]) == ("websocket", "13")


def test_a_config_error_is_nobodys_request() -> None:
    """An unusable setting is not an answer to a client, so it is neither a RequestError nor a ServerError."""
    assert not issubclass(ConfigError, RequestError | ServerError)
