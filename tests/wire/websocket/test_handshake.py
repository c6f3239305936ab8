"""The opening handshake: every way it fails, and what is agreed on when it does not (RFC 6455 4, RFC 7692 7)."""

from __future__ import annotations

import pytest
from websockets.client import ClientProtocol
from websockets.extensions.permessage_deflate import ClientPerMessageDeflateFactory
from websockets.uri import parse_uri

from partyline.errors import MalformedRequest, MethodNotAllowed, RequestError, UpgradeRequired
from partyline.wire.websocket.deflate import Deflate
from partyline.wire.websocket.handshake import (
    Accepted,
    accept,
    accept_value,
    negotiate,
    offered_subprotocols,
    parse_extensions,
)

HeaderList = list[tuple[bytes, bytes]]

KEY = b"dGhlIHNhbXBsZSBub25jZQ=="  # RFC 6455 1.3
GOOD: HeaderList = [
    (b"host", b"server.example.com"),
    (b"upgrade", b"websocket"),
    (b"connection", b"Upgrade"),
    (b"sec-websocket-key", KEY),
    (b"sec-websocket-version", b"13"),
]
PROTOCOL = b"sec-websocket-protocol"
EXTENSIONS = b"sec-websocket-extensions"


def changed(name: str, *values: bytes) -> HeaderList:
    """The good headers with `values`, if any, in place of the header `name`."""
    key = name.encode()
    return [header for header in GOOD if header[0] != key] + [(key, value) for value in values]


def refusal(headers: HeaderList, method: str = "GET", version: str = "1.1") -> RequestError:
    """The error with which a handshake is refused."""
    with pytest.raises(RequestError) as caught:
        accept(method, version, headers, subprotocols=("chat",), deflate=True)
    return caught.value


def test_the_accept_value_of_the_rfc() -> None:
    """The example key of RFC 6455 1.3 gives the example's accept value."""
    assert accept_value(KEY) == b"s3pPLMBiTxaQ9kYGzzhZRbK+xOo="


def test_the_whole_head() -> None:
    """The 101 answer is exactly these bytes, and nothing is agreed on that was not offered."""
    assert accept("GET", "1.1", GOOD, subprotocols=("chat",), deflate=True) == Accepted(
        head=b"HTTP/1.1 101 Switching Protocols\r\n"
        b"Upgrade: websocket\r\n"
        b"Connection: Upgrade\r\n"
        b"Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n"
        b"\r\n",
        subprotocol=None,
        deflate=None,
    )


def test_the_whole_head_with_everything_agreed() -> None:
    """Subprotocol, extension and further headers each have a line in the 101, in this order."""
    headers = [*GOOD, (PROTOCOL, b"soap, chat"), (EXTENSIONS, b"permessage-deflate; server_max_window_bits=10")]
    extra = [(b"Server", b"x"), (b"Set-Cookie", b"a=b")]
    assert accept("GET", "1.1", headers, subprotocols=("chat",), deflate=True, extra=extra) == Accepted(
        head=b"HTTP/1.1 101 Switching Protocols\r\n"
        b"Upgrade: websocket\r\n"
        b"Connection: Upgrade\r\n"
        b"Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n"
        b"Sec-WebSocket-Protocol: chat\r\n"
        b"Sec-WebSocket-Extensions: permessage-deflate; server_no_context_takeover; client_no_context_takeover"
        b"; server_max_window_bits=10\r\n"
        b"Server: x\r\n"
        b"Set-Cookie: a=b\r\n"
        b"\r\n",
        subprotocol="chat",
        deflate=Deflate(10),
    )


@pytest.mark.parametrize("method", ["POST", "HEAD", "OPTIONS", "CONNECT", "get", ""])
def test_405_for_any_method_but_get(method: str) -> None:
    """A handshake with another method gets 405, which says which one is allowed, whatever else is wrong with it."""
    for headers in (GOOD, []):
        error = refusal(headers, method=method)
        assert isinstance(error, MethodNotAllowed)
        assert error.http_status == 405
        assert error.headers() == [("allow", "GET")]


@pytest.mark.parametrize("version", ["1.0", "0.9", "2", "2.0", "3"])
def test_400_for_any_http_but_1_1(version: str) -> None:
    """A handshake over another HTTP version gets 400."""
    assert refusal(GOOD, version=version).http_status == 400


@pytest.mark.parametrize(
    "headers",
    [
        pytest.param(changed("upgrade"), id="no Upgrade"),
        pytest.param(changed("upgrade", b""), id="empty Upgrade"),
        pytest.param(changed("upgrade", b"h2c"), id="another Upgrade"),
        pytest.param(changed("upgrade", b"websocket2"), id="Upgrade begins alike"),
        pytest.param(changed("upgrade", b"web socket"), id="Upgrade in two words"),
        pytest.param(changed("connection"), id="no Connection"),
        pytest.param(changed("connection", b"close"), id="another Connection"),
        pytest.param(changed("connection", b"keep-alive"), id="Connection stays HTTP"),
        pytest.param(changed("connection", b"no-upgrade"), id="Connection ends alike"),
        pytest.param([], id="no headers at all"),
        pytest.param([(b"host", b"a")], id="a plain GET"),
        pytest.param(changed("sec-websocket-version"), id="no version"),
        pytest.param(changed("sec-websocket-version", b""), id="empty version"),
        pytest.param(changed("sec-websocket-version", b"8"), id="version 8"),
        pytest.param(changed("sec-websocket-version", b"12"), id="version 12"),
        pytest.param(changed("sec-websocket-version", b"14"), id="version 14"),
        pytest.param(changed("sec-websocket-version", b"013"), id="version 013"),
        pytest.param(changed("sec-websocket-version", b"13, 8"), id="two versions in one header"),
    ],
)
def test_426_for_no_upgrade_or_another_version(headers: HeaderList) -> None:
    """A request that is not a handshake, or is one of another version, gets 426 with our version (RFC 6455 4.4)."""
    error = refusal(headers)
    assert isinstance(error, UpgradeRequired)
    assert error.http_status == 426
    assert ("sec-websocket-version", "13") in error.headers()
    assert ("upgrade", "websocket") in error.headers()


@pytest.mark.parametrize(
    "headers",
    [
        pytest.param(changed("host"), id="no Host"),
        pytest.param([*GOOD, (b"host", b"b")], id="two Hosts"),
        pytest.param(changed("sec-websocket-version", b"13", b"13"), id="the version twice"),
        pytest.param(changed("sec-websocket-version", b"8", b"13"), id="two versions"),
        pytest.param(changed("sec-websocket-key"), id="no key"),
        pytest.param(changed("sec-websocket-key", KEY, KEY), id="the key twice"),
        pytest.param(changed("sec-websocket-key", KEY + b", " + KEY), id="two keys in one header"),
        pytest.param(changed("sec-websocket-key", b""), id="empty key"),
        pytest.param(changed("sec-websocket-key", b"dGhlIHNhbXBsZSBub25j"), id="key of 15 bytes"),
        pytest.param(changed("sec-websocket-key", b"dGhlIHNhbXBsZSBub25jZWU="), id="key of 17 bytes"),
        pytest.param(changed("sec-websocket-key", b"dGhlIHNhbXBsZSBub25jZQ"), id="key without padding"),
        pytest.param(changed("sec-websocket-key", b"dGhlIHNhbXBsZSBub25jZQ==="), id="key with more padding"),
        pytest.param(changed("sec-websocket-key", b"dGhlIHNhbXBs ZSBub25jZQ=="), id="key with a space"),
        pytest.param(changed("sec-websocket-key", b"dGhlIHNhbXBsZSBub25j!Q=="), id="key outside the alphabet"),
        pytest.param(changed("sec-websocket-key", b"-_hlIHNhbXBsZSBub25jZQ=="), id="key in the URL's alphabet"),
        pytest.param(changed("sec-websocket-key", b"the sample nonce"), id="key not encoded"),
        pytest.param(changed("sec-websocket-key", b"\xff" * 24), id="key beyond ASCII"),
        pytest.param([*GOOD, (PROTOCOL, b"a b")], id="subprotocol with a space"),
        pytest.param([*GOOD, (PROTOCOL, b"chat, a/b")], id="subprotocol with a slash"),
        pytest.param([*GOOD, (PROTOCOL, b'"chat"')], id="subprotocol in quotes"),
        pytest.param([*GOOD, (PROTOCOL, b"chat\xe9")], id="subprotocol beyond ASCII"),
        pytest.param([*GOOD, (PROTOCOL, b"chat\n")], id="subprotocol with a line break"),
        pytest.param([*GOOD, (PROTOCOL, b"chat, chat")], id="subprotocol twice"),
        pytest.param([*GOOD, (PROTOCOL, b"chat"), (PROTOCOL, b"chat")], id="subprotocol twice in two headers"),
        pytest.param([*GOOD, (EXTENSIONS, b"permessage deflate")], id="extension with a space"),
        pytest.param([*GOOD, (EXTENSIONS, b"a"), (EXTENSIONS, b"b;")], id="second extension header"),
    ],
)
def test_400_for_a_malformed_handshake(headers: HeaderList) -> None:
    """A handshake with a missing, repeated or malformed header gets 400."""
    error = refusal(headers)
    assert isinstance(error, MalformedRequest)
    assert error.http_status == 400


@pytest.mark.parametrize(
    "headers",
    [
        pytest.param(changed("upgrade", b"WebSocket"), id="Upgrade in capitals"),
        pytest.param(changed("upgrade", b"h2c, websocket"), id="Upgrade in a list"),
        pytest.param(changed("upgrade", b"h2c", b"websocket"), id="Upgrade in two headers"),
        pytest.param(changed("connection", b"UPGRADE"), id="Connection in capitals"),
        pytest.param(changed("connection", b"keep-alive, Upgrade"), id="Connection in a list"),
        pytest.param(changed("connection", b"keep-alive ,\tUpgrade ,"), id="Connection among blanks"),
        pytest.param(changed("connection", b"keep-alive", b"upgrade"), id="Connection in two headers"),
        pytest.param(changed("sec-websocket-version", b" 13\t"), id="version among blanks"),
        pytest.param(changed("sec-websocket-key", b"\t" + KEY + b" "), id="key among blanks"),
        pytest.param([*GOOD, (b"origin", b"null"), (b"cookie", b"a"), (b"cookie", b"b")], id="other headers"),
        pytest.param(list(reversed(GOOD)), id="another order"),
    ],
)
def test_what_is_as_good(headers: HeaderList) -> None:
    """Case, order, blanks, lists and further headers make no difference to the answer."""
    assert accept("GET", "1.1", headers) == accept("GET", "1.1", GOOD)


@pytest.mark.parametrize(
    ("ours", "offers", "chosen"),
    [
        pytest.param((), [b"chat"], None, id="we have none"),
        pytest.param(("chat",), [], None, id="none offered"),
        pytest.param(("chat",), [b""], None, id="an empty header"),
        pytest.param(("chat",), [b"soap"], None, id="another one"),
        pytest.param(("chat",), [b"Chat"], None, id="another case"),
        pytest.param(("chat",), [b"chat"], "chat", id="the one"),
        pytest.param(("chat",), [b"soap, chat"], "chat", id="one of two"),
        pytest.param(("chat",), [b"soap", b"chat"], "chat", id="in the second header"),
        pytest.param(("new", "old"), [b"old, new"], "new", id="our order counts"),
        pytest.param(("new", "old"), [b" old ,, x"], "old", id="the less wanted one"),
        pytest.param(("v1.json", "a!#$%&'*+-.^_`|~9"), [b"a!#$%&'*+-.^_`|~9"], "a!#$%&'*+-.^_`|~9", id="odd tokens"),
    ],
)
def test_the_subprotocol(ours: tuple[str, ...], offers: list[bytes], chosen: str | None) -> None:
    """The offered subprotocol that we prefer is chosen and answered; having none in common is not an error."""
    answer = accept("GET", "1.1", [*GOOD, *((PROTOCOL, offer) for offer in offers)], subprotocols=ours)
    assert answer.subprotocol == chosen
    line = f"\r\nSec-WebSocket-Protocol: {chosen}\r\n".encode()
    assert (line in answer.head) == (chosen is not None)
    assert (b"Sec-WebSocket-Protocol" in answer.head) == (chosen is not None)


def test_offered_subprotocols_keep_their_order() -> None:
    """All offers of all headers are read in order, without the empty ones."""
    assert offered_subprotocols([b"c, a", b"", b",b ,"]) == ["c", "a", "b"]


@pytest.mark.parametrize(
    ("offers", "window_bits"),
    [
        pytest.param([b"permessage-deflate"], 15, id="no parameters"),
        pytest.param([b"permessage-deflate; server_no_context_takeover"], 15, id="server_no_context_takeover"),
        pytest.param([b"permessage-deflate; client_no_context_takeover"], 15, id="client_no_context_takeover"),
        *[
            pytest.param([b"permessage-deflate; server_max_window_bits=%d" % bits], bits, id=f"server bits {bits}")
            for bits in range(9, 16)
        ],
        pytest.param([b"permessage-deflate; client_max_window_bits"], 15, id="client bits"),
        *[
            pytest.param([b"permessage-deflate; client_max_window_bits=%d" % bits], 15, id=f"client bits {bits}")
            for bits in range(8, 16)
        ],
        pytest.param(
            [
                b"permessage-deflate;server_no_context_takeover;client_no_context_takeover"
                b";server_max_window_bits=11;client_max_window_bits=9"
            ],
            11,
            id="all four",
        ),
        pytest.param([b'permessage-deflate; server_max_window_bits="12"'], 12, id="quoted"),
        pytest.param([rb'permessage-deflate; server_max_window_bits="1\2"'], 12, id="quoted and escaped"),
        pytest.param([b"permessage-deflate ;\tserver_max_window_bits = 12 "], 12, id="blanks"),
        pytest.param([b"foo, permessage-deflate"], 15, id="after an unknown extension"),
        pytest.param([b'foo; a="1"; b, permessage-deflate; server_max_window_bits=9'], 9, id="after parameters"),
        pytest.param([b", ,permessage-deflate,"], 15, id="among empty elements"),
        pytest.param([b"foo", b"permessage-deflate"], 15, id="in the second header"),
        pytest.param(
            [b"permessage-deflate; server_max_window_bits=8, permessage-deflate; server_max_window_bits=10"],
            10,
            id="fallback in the same header",
        ),
        pytest.param(
            [b"permessage-deflate; unknown", b"permessage-deflate; server_max_window_bits=13"],
            13,
            id="fallback in the next header",
        ),
        pytest.param(
            [b"permessage-deflate; server_max_window_bits=13, permessage-deflate"], 13, id="the first one that can be"
        ),
    ],
)
def test_permessage_deflate_is_agreed(offers: list[bytes], window_bits: int) -> None:
    """The first offer that can be met is agreed on, with the window that it asks for."""
    assert negotiate(offers) == Deflate(window_bits)


DECLINED = [
    pytest.param([], id="no offer"),
    pytest.param([b""], id="an empty header"),
    pytest.param([b"x-webkit-deflate-frame"], id="another extension"),
    pytest.param([b"foo; permessage-deflate"], id="only as a parameter"),
    pytest.param([b"permessage-deflate; unknown"], id="unknown parameter"),
    pytest.param([b"permessage-deflate; unknown=1"], id="unknown parameter with a value"),
    pytest.param([b"permessage-deflate; server_max_window_bits"], id="server bits without a value"),
    *[
        pytest.param([b"permessage-deflate; server_max_window_bits=" + bits], id=f"server bits {bits.decode()}")
        for bits in (b"8", b"7", b"0", b"16", b"09", b"+9", b"1", b"100", b"10.0", b"ten")
    ],
    *[
        pytest.param([b"permessage-deflate; client_max_window_bits=" + bits], id=f"client bits {bits.decode()}")
        for bits in (b"7", b"0", b"16", b"08", b"+8", b"1", b"150", b"ten")
    ],
    pytest.param([b"permessage-deflate; server_no_context_takeover=1"], id="server_no_context_takeover=1"),
    pytest.param([b"permessage-deflate; client_no_context_takeover=true"], id="client_no_context_takeover=true"),
    *[
        pytest.param([b"permessage-deflate; " + parameter + b"; " + parameter], id=parameter.decode() + " twice")
        for parameter in (
            b"server_no_context_takeover",
            b"client_no_context_takeover",
            b"server_max_window_bits=10",
            b"client_max_window_bits",
        )
    ],
    pytest.param(
        [b"permessage-deflate; client_max_window_bits; client_max_window_bits=10"], id="client bits with and without"
    ),
]


@pytest.mark.parametrize("offers", DECLINED)
def test_permessage_deflate_is_declined(offers: list[bytes]) -> None:
    """An offer that cannot be met is declined without an error, and the 101 has no extension (RFC 7692 7)."""
    assert negotiate(offers) is None
    answer = accept("GET", "1.1", [*GOOD, *((EXTENSIONS, offer) for offer in offers)], deflate=True)
    assert answer.deflate is None
    assert answer == accept("GET", "1.1", GOOD)


def test_permessage_deflate_is_ours_to_decline() -> None:
    """Without `deflate` a good offer is not answered."""
    answer = accept("GET", "1.1", [*GOOD, (EXTENSIONS, b"permessage-deflate")], deflate=False)
    assert answer == accept("GET", "1.1", GOOD)


MALFORMED = [
    pytest.param(b";", id="no name"),
    pytest.param(b"permessage-deflate;", id="no parameter after the semicolon"),
    pytest.param(b"permessage-deflate;; client_max_window_bits", id="an empty parameter"),
    pytest.param(b"permessage-deflate=1", id="a name with a value"),
    pytest.param(b'"permessage-deflate"', id="a quoted name"),
    pytest.param(b"permessage-deflate client_max_window_bits", id="no semicolon"),
    pytest.param(b"permessage-deflate; =10", id="a value without a name"),
    pytest.param(b"permessage-deflate; server_max_window_bits=", id="no value after the equals sign"),
    pytest.param(b"permessage-deflate; server_max_window_bits==10", id="two equals signs"),
    pytest.param(b'permessage-deflate; server_max_window_bits=""', id="an empty quoted value"),
    pytest.param(b'permessage-deflate; server_max_window_bits="10', id="a quote without its end"),
    pytest.param(b'permessage-deflate; server_max_window_bits=10"', id="a quote without its start"),
    pytest.param(b'permessage-deflate; server_max_window_bits="', id="nothing but a quote"),
    pytest.param(b'permessage-deflate; server_max_window_bits="1 0"', id="a quoted value that is no token"),
    pytest.param(b'permessage-deflate; a="x, permessage-deflate', id="a quote that swallows the next offer"),
    pytest.param(rb'permessage-deflate; a="x\"', id="an escaped closing quote"),
    pytest.param(b"permessage-deflate; a b", id="a parameter in two words"),
    pytest.param(b"permessage-deflate\xff", id="beyond ASCII"),
    pytest.param(b"permessage-deflate\n", id="a line break"),
    pytest.param(b"permessage-deflate, b@d", id="after a good offer"),
]


@pytest.mark.parametrize("value", MALFORMED)
@pytest.mark.parametrize("deflate", [True, False], ids=["deflate", "no deflate"])
def test_a_malformed_extension_header_is_400(value: bytes, deflate: bool) -> None:
    """A header outside the grammar of RFC 6455 9.1 is refused, whether we would compress or not."""
    with pytest.raises(MalformedRequest):
        parse_extensions(value)
    with pytest.raises(MalformedRequest):
        accept("GET", "1.1", [*GOOD, (EXTENSIONS, value)], deflate=deflate)


@pytest.mark.parametrize("deflate", [True, False], ids=["deflate", "no deflate"])
def test_a_malformed_extension_header_behind_an_agreed_one_is_400(deflate: bool) -> None:
    """Two header lines mean the same as their values joined by a comma, so the second is read just as strictly."""
    headers = [*GOOD, (EXTENSIONS, b"permessage-deflate"), (EXTENSIONS, b"b@d")]
    with pytest.raises(MalformedRequest):
        accept("GET", "1.1", headers, deflate=deflate)


def test_parse_extensions() -> None:
    """Names, parameters and their order are kept; a parameter without a value has None."""
    assert parse_extensions(b'a, b; c; d=e ; f="g", a; c') == [
        ("a", []),
        ("b", [("c", None), ("d", "e"), ("f", "g")]),
        ("a", [("c", None)]),
    ]


@pytest.mark.parametrize(
    ("factory", "window_bits"),
    [
        pytest.param(ClientPerMessageDeflateFactory(), 15, id="the usual offer"),
        pytest.param(ClientPerMessageDeflateFactory(client_max_window_bits=None), 15, id="no parameters"),
        pytest.param(ClientPerMessageDeflateFactory(server_max_window_bits=9), 9, id="a small window of ours"),
        pytest.param(ClientPerMessageDeflateFactory(client_max_window_bits=9), 15, id="a small window of theirs"),
        pytest.param(
            ClientPerMessageDeflateFactory(True, True, server_max_window_bits=12, client_max_window_bits=12),
            12,
            id="everything",
        ),
        pytest.param(None, None, id="no offer"),
    ],
)
def test_another_implementation_takes_our_answer(
    factory: ClientPerMessageDeflateFactory | None, window_bits: int | None
) -> None:
    """A client that we did not write accepts our 101, with the subprotocol and the extension that we chose."""
    client = ClientProtocol(
        parse_uri("ws://server.example.com/chat"),
        extensions=None if factory is None else [factory],
        subprotocols=["soap", "chat"],
    )
    request = client.connect()
    headers = [(name.lower().encode(), value.encode()) for name, value in request.headers.raw_items()]
    answer = accept("GET", "1.1", headers, subprotocols=("chat",), deflate=True)
    assert answer.deflate == (None if window_bits is None else Deflate(window_bits))
    client.send_request(request)
    client.receive_data(answer.head)
    assert client.handshake_exc is None
    assert client.state.name == "OPEN"
    assert client.subprotocol == "chat"
    assert len(client.extensions) == (window_bits is not None)
