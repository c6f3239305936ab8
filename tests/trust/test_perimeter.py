"""Host, Origin, Sec-Fetch-Site and forwarded headers: for each, one table of what may come in (hostile 34, 34b, 36)."""

from __future__ import annotations

import ipaddress
from collections.abc import Callable
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from partyline.errors import ConfigError, Forbidden, MalformedRequest, MisdirectedRequest, PartylineError
from partyline.trust import addresses
from partyline.trust.perimeter import (
    Peer,
    Perimeter,
    allowed_host,
    allowed_origin,
    canonical_origin,
    trusted_network,
)

CLIENT = "192.0.2.7"
PROXY = "10.0.0.1"

# On loopback without a key, as `partyline serve` starts.
OPEN = Perimeter()
# A public server behind a proxy, with keys, and one other site that may use it.
SITE = Perimeter(
    allowed_hosts=frozenset(("example.org", "chat.example.org")),
    cors_origins=frozenset(("https://app.example.net:443", "http://[2001:db8::5]:8080")),
    own_origins=frozenset(("https://chat.example.org:443",)),
    trusted_proxies=(ipaddress.ip_network("10.0.0.0/8"), ipaddress.ip_network("2001:db8:1::/48")),
    open_mode=False,
)
ANY = replace(SITE, cors_origins=frozenset(("*",)))


def ask(
    perimeter: Perimeter, *headers: tuple[str, str], address: str = CLIENT, scheme: str = "http"
) -> Peer | PartylineError:
    """The admitted peer, or the error."""
    raw = [(name.encode(), value.encode("latin-1")) for name, value in headers]
    try:
        return perimeter.admit(address, scheme, raw)
    except PartylineError as error:
        return error


def lets_in(perimeter: Perimeter, *headers: tuple[str, str], address: str = CLIENT, scheme: str = "http") -> bool:
    return isinstance(ask(perimeter, *headers, address=address, scheme=scheme), Peer)


# Direct clients


@pytest.mark.parametrize(
    ("address", "local"), [("127.0.0.1", True), ("127.8.8.8", True), ("::1", True), (CLIENT, False), ("", False)]
)
def test_a_program_on_this_machine_is_local(address: str, local: bool) -> None:
    """A program on loopback is local; a client that was forwarded is not, whatever the forwarded headers say."""
    trusting = replace(SITE, trusted_proxies=(ipaddress.ip_network("127.0.0.0/8"),))
    for perimeter in (SITE, trusting):
        peer = ask(perimeter, ("host", "example.org"), address=address)
        assert isinstance(peer, Peer)
        assert peer.local is local
        for header in FORWARDED:
            if header[0] != "x-forwarded-host":
                peer = ask(perimeter, ("host", "example.org"), header, address=address)
                assert isinstance(peer, Peer)
                assert not peer.local
        peer = ask(perimeter, ("host", "example.org"), ("x-forwarded-for", "127.0.0.1"), address=address)
        assert isinstance(peer, Peer)
        assert not peer.local


# Host


@pytest.mark.parametrize(
    "host",
    [
        "localhost",
        "localhost:8000",
        "LOCALHOST:8000",
        "LocalHost",
        "127.0.0.1",
        "127.0.0.1:8000",
        "192.168.1.5:8000",
        "[::1]",
        "[::1]:8000",
        "[2001:DB8::1]:80",
        " localhost ",
    ],
)
def test_our_names_and_addresses_are_ours(host: str) -> None:
    """A Host that is one of our names, in any case and with any port, or an IP literal, is admitted as written."""
    assert ask(OPEN, ("host", host)) == Peer(CLIENT, "http", host.strip())


@pytest.mark.parametrize(
    "host",
    [
        "example.org",
        "evil.com",
        "evil-localhost",
        "localhost.evil.com",
        "localhost-evil",
        "xlocalhost",
        "localhostx",
        "localhost.",
        ".localhost",
        "127.0.0.1.evil.com",
        "127.0.0.1.nip.io",
        "1.2.3",
        "1.2.3.4.5",
        "0x7f.0.0.1",
        "256.0.0.1",
        "[localhost]",
        "[::1",
        "::1]",
        "::1x",
        "::1:8000:",
        "::1:80000000",
        "::1:80²",
        ":8000",
        "::1%lo",
        "[::1]x",
        "[::1%25lo]",
        "localhost:",
        "localhost:http",
        "localhost:80:80",
        "localhost:123456",
        "localhost:-1",
        "localhost/",
        "localhost/x",
        "localhost?x",
        "localhost#x",
        "localhost\\x",
        "localhost@evil.com",
        "evil.com@localhost",
        "evil.com:80@localhost",
        "localhost evil.com",
        "localhost,evil.com",
        "http://localhost",
        "",
        " ",
    ],
)
def test_foreign_hosts_are_misdirected(host: str) -> None:
    """A Host that is not ours, also one that only looks like ours, is 421: DNS rebinding ends here (hostile 34b)."""
    error = ask(OPEN, ("host", host))
    assert isinstance(error, MisdirectedRequest)
    assert (error.http_status, error.field) == (421, "host")


def test_a_configured_name_replaces_localhost() -> None:
    """A server that is configured for other names answers to these and not to localhost."""
    assert lets_in(SITE, ("host", "chat.example.org"))
    assert lets_in(SITE, ("host", "CHAT.example.org:8443"))
    for host in ("localhost", "xchat.example.org", "chat.example.org.evil.com", "org", "sub.example.org"):
        assert isinstance(ask(SITE, ("host", host)), MisdirectedRequest)


@pytest.mark.parametrize(
    ("host", "written"),
    [
        ("::1:8000", "[::1]:8000"),
        ("::1:50000", "[::1]:50000"),
        ("2001:db8::1:80", "[2001:db8::1]:80"),
        ("::ffff:127.0.0.1:80", "[::ffff:127.0.0.1]:80"),
        ("::1", "[::1]"),
        ("2001:db8::1", "[2001:db8::1]"),
    ],
)
def test_an_ipv6_host_without_brackets(host: str, written: str) -> None:
    """An IPv6 address without brackets, as Node's clients write it, is understood and gets the brackets that URLs have,
    so that a page from there is our own."""
    assert ask(OPEN, ("host", host)) == Peer(CLIENT, "http", written)
    assert lets_in(SITE, ("host", host), ("origin", f"http://{written}"))


@pytest.mark.parametrize(
    "hosts", [[], ["localhost", "localhost"], ["localhost", "evil.com"], ["evil.com", "localhost"]]
)
def test_there_is_exactly_one_host(hosts: list[str]) -> None:
    """A request without a Host, or with two of them, also equal ones, is malformed (RFC 9112 3.2)."""
    error = ask(OPEN, *[("host", host) for host in hosts])
    assert isinstance(error, MalformedRequest)
    assert error.http_status == 400


# Origin

HOST = ("host", "example.org")


@pytest.mark.parametrize(
    ("scheme", "host", "origin"),
    [
        ("http", "example.org", "http://example.org"),
        ("http", "example.org", "http://example.org:80"),
        ("http", "example.org", "http://EXAMPLE.org"),
        ("http", "example.org:80", "http://example.org"),
        ("http", "EXAMPLE.org:8000", "http://example.org:8000"),
        ("https", "example.org", "https://example.org"),
        ("https", "example.org", "https://example.org:443"),
        ("https", "example.org:8443", "https://example.org:8443"),
        ("http", "192.0.2.1:8000", "http://192.0.2.1:8000"),
        ("http", "[2001:db8::1]:8000", "http://[2001:DB8::1]:8000"),
        ("http", "[2001:db8::1]", "http://[2001:db8::1]"),
    ],
)
def test_our_own_pages_come_in(scheme: str, host: str, origin: str) -> None:
    """An origin of our scheme, host and port, however it is written, is our own."""
    assert lets_in(SITE, ("host", host), ("origin", origin), scheme=scheme)


@pytest.mark.parametrize(
    ("scheme", "origin"),
    [
        ("http", "null"),
        ("http", ""),
        ("http", "*"),
        ("http", "example.org"),
        ("http", "//example.org"),
        ("http", "http://evil.com"),
        ("http", "http://example.org.evil.com"),
        ("http", "http://evil-example.org"),
        ("http", "http://evilexample.org"),
        ("http", "http://sub.example.org"),
        ("http", "http://example.orgx"),
        ("http", "http://example.org."),
        ("http", "http://org"),
        ("http", "https://example.org"),
        ("http", "http://example.org:443"),
        ("http", "http://example.org:8000"),
        ("http", "http://example.org:"),
        ("http", "http://example.org:080x"),
        ("http", "http://example.org/"),
        ("http", "http://example.org/x"),
        ("http", "http://example.org?x"),
        ("http", "http://example.org#x"),
        ("http", "http://example.org\\"),
        ("http", "http://evil.com/http://example.org"),
        ("http", "http://evil.com#http://example.org"),
        ("http", "http://example.org@evil.com"),
        ("http", "http://evil.com@example.org"),
        ("http", "http://evil.com:80@example.org"),
        ("http", "http://example.org http://evil.com"),
        ("http", "http://evil.com http://example.org"),
        ("http", "http://example.org,http://evil.com"),
        ("http", " http://example.org"),
        ("http", "http://example.org\n"),
        ("http", "ws://example.org"),
        ("http", "file://example.org"),
        ("http", "chrome-extension://example.org"),
        ("http", "http://localhost"),
        ("http", "http://localhost:8000"),
        ("http", "http://127.0.0.1"),
        ("https", "http://example.org"),
        ("https", "http://example.org:443"),
        ("https", "https://example.org:80"),
        ("https", "https://app.example.net.evil.com"),
        ("https", "https://evil-app.example.net"),
        ("https", "https://app.example.net:8443"),
        ("https", "http://app.example.net"),
        ("https", "http://app.example.net:443"),
        ("https", "https://chat.example.org.evil.com"),
        ("https", "http://[2001:db8::5]"),
        ("https", "http://[2001:db8::55]:8080"),
    ],
)
def test_foreign_pages_stay_out(scheme: str, origin: str) -> None:
    """Every origin that is not ours to the letter, `null` and prefixes and suffixes of ours among them, is 403
    (hostile 34)."""
    error = ask(SITE, HOST, ("origin", origin), scheme=scheme)
    assert isinstance(error, Forbidden)
    assert (error.http_status, error.code) == (403, "foreign_origin")


@pytest.mark.parametrize(
    "origin",
    [
        "https://app.example.net",
        "https://app.example.net:443",
        "https://APP.example.net",
        "http://[2001:db8::5]:8080",
        "https://chat.example.org",
    ],
)
def test_named_origins_come_in(origin: str) -> None:
    """The origins of cors_origins and that of public_url are admitted, whatever the request's Host and scheme."""
    assert lets_in(SITE, HOST, ("origin", origin))


APPS = [
    "capacitor://localhost",
    "ionic://localhost",
    "tauri://localhost",
    "app://.",
    "chrome-extension://abcdefghijklmnop",
    "moz-extension://0f5e9a4c-1c1e-4a53-8f3b-1f2a3b4c5d6e",
    "vscode-webview://1a2b",
    "file://",
    "null",
]


@pytest.mark.parametrize("origin", APPS)
def test_pages_of_apps_come_in_by_name(origin: str) -> None:
    """An origin that is not http or https is admitted only if it is named, and not in open mode, either."""
    for perimeter in (SITE, OPEN):
        host = HOST if perimeter is SITE else ("host", "localhost")
        assert isinstance(ask(perimeter, host, ("origin", origin)), Forbidden)
        named = replace(perimeter, cors_origins=frozenset((allowed_origin(origin),)))
        assert lets_in(named, host, ("origin", origin))
        for other in {*APPS, "https://app.example.org", f"{origin}x", f"x{origin}", ""} - {origin}:
            assert isinstance(ask(named, host, ("origin", other)), Forbidden), other


@pytest.mark.parametrize("origin", ["http://evil.com", "https://other.example:8443", *APPS])
def test_a_star_lets_every_page_in(origin: str) -> None:
    """With cors_origins = * the pages of every site and app are admitted, but nothing that is not an origin."""
    assert lets_in(ANY, HOST, ("origin", origin))
    for wrong in ("", "*", "nul", "NULL", f"{origin}/x", f"{origin} {origin}", f"{origin}\n"):
        assert not lets_in(ANY, HOST, ("origin", wrong)), wrong
    assert not lets_in(ANY, ("host", "evil.com"), ("origin", "http://evil.com")), "the Host is checked all the same"


def test_two_origins_are_none() -> None:
    """A request with two Origin headers is foreign, in either order, even if both are ours or all are allowed."""
    assert isinstance(ask(ANY, HOST, ("origin", "null"), ("origin", "null")), Forbidden)
    ours, theirs = ("origin", "http://example.org"), ("origin", "http://evil.com")
    for pair in ((ours, theirs), (theirs, ours), (ours, ours)):
        assert isinstance(ask(SITE, HOST, *pair), Forbidden)


def test_no_origin_is_no_page() -> None:
    """Programs, which do not send an Origin, are admitted."""
    assert lets_in(SITE, HOST)
    assert lets_in(OPEN, ("host", "localhost:8000"))


@pytest.mark.parametrize(
    "origin",
    [
        "http://localhost",
        "http://localhost:3000",
        "https://localhost:8443",
        "http://LOCALHOST:3000",
        "http://127.0.0.1:5173",
        "http://127.9.9.9",
        "http://[::1]:3000",
    ],
)
def test_in_open_mode_loopback_is_ours(origin: str) -> None:
    """In open mode the pages of any port on loopback count as own; with a key configured they do not."""
    host = ("host", "localhost:8000")
    assert lets_in(OPEN, host, ("origin", origin))
    assert not lets_in(replace(OPEN, open_mode=False), host, ("origin", origin))


@pytest.mark.parametrize(
    "origin",
    [
        "null",
        "http://evil.com",
        "http://evil-localhost",
        "http://evil-localhost:8000",
        "http://localhost.evil.com",
        "http://localhost.evil.com:8000",
        "http://localhost.",
        "http://localhost@evil.com",
        "http://evil.com:8000",
        "http://127.0.0.1.evil.com",
        "http://127.0.0.1.nip.io",
        "http://127.0.0.1@evil.com",
        "http://128.0.0.1",
        "http://192.168.0.1",
        "http://0.0.0.0:8000",
        "http://127.1",
        "http://2130706433",
        "http://[::2]:8000",
        "http://[::1].evil.com",
        "http://[::1",
        "file://localhost",
        "http://local.host",
    ],
)
def test_in_open_mode_what_looks_like_loopback_is_not(origin: str) -> None:
    """In open mode every page that is not on loopback stays out, whatever its name looks like."""
    assert isinstance(ask(OPEN, ("host", "localhost:8000"), ("origin", origin)), Forbidden)


@given(
    st.text("abz019.-_@", max_size=8),
    st.text("abz019.-_@", max_size=8),
    st.sampled_from(("", ":80")),
)
@settings(deadline=None)
def test_nothing_around_our_name_is_ours(before: str, after: str, port: str) -> None:
    """Whatever stands before or after our name makes it another name: 403 as an origin, 421 as a Host."""
    name = f"{before}example.org{after}"
    own = not before and not after
    assert lets_in(SITE, HOST, ("origin", f"http://{name}{port}")) is own
    assert lets_in(SITE, ("host", f"{name}{port}")) is own


# Sec-Fetch-Site


@pytest.mark.parametrize(
    ("site", "comes_in"), [("cross-site", False), ("same-site", True), ("same-origin", True), ("none", True)]
)
def test_cross_site_without_an_origin_stays_out(site: str, comes_in: bool) -> None:
    """A GET that another site's page makes carries no Origin but says cross-site, and gets 403; others come in."""
    answer = ask(SITE, HOST, ("sec-fetch-site", site))
    assert isinstance(answer, Peer) is comes_in
    if not comes_in:
        assert isinstance(answer, Forbidden)
        assert answer.code == "foreign_origin"


def test_cross_site_of_an_allowed_origin_comes_in() -> None:
    """A page that may use this server is cross-site by nature: its origin decides."""
    cross = ("sec-fetch-site", "cross-site")
    assert lets_in(SITE, HOST, ("origin", "https://app.example.net"), cross)
    assert not lets_in(SITE, HOST, ("origin", "http://evil.com"), cross)
    assert not lets_in(SITE, HOST, ("origin", "http://evil.com"), ("sec-fetch-site", "same-origin"))


def test_one_cross_site_among_several_counts() -> None:
    """One of several Sec-Fetch-Site headers that says cross-site is enough, wherever it is."""
    for sites in (("cross-site", "none"), ("none", "cross-site"), ("none", " cross-site ")):
        assert not lets_in(SITE, HOST, *[("sec-fetch-site", site) for site in sites])


LINK = (("sec-fetch-site", "cross-site"), ("sec-fetch-mode", "navigate"), ("sec-fetch-dest", "document"))


@pytest.mark.parametrize(
    ("headers", "comes_in"),
    [
        (LINK, True),
        (LINK[::-1], True),
        ((*LINK, ("sec-fetch-user", "?1")), True),
        (LINK[:2], False),
        ((LINK[0], LINK[2]), False),
        (LINK[:1], False),
        ((*LINK[:2], ("sec-fetch-dest", "iframe")), False),
        ((*LINK[:2], ("sec-fetch-dest", "embed")), False),
        ((*LINK, ("sec-fetch-dest", "iframe")), False),
        ((("sec-fetch-dest", "iframe"), *LINK), False),
        ((LINK[0], ("sec-fetch-mode", "no-cors"), ("sec-fetch-dest", "script")), False),
        ((LINK[0], ("sec-fetch-mode", "cors"), ("sec-fetch-dest", "empty")), False),
        ((*LINK, ("origin", "http://evil.com")), False),
        ((*LINK, ("origin", "null")), False),
    ],
)
def test_links_to_pages_come_in(headers: tuple[tuple[str, str], ...], comes_in: bool) -> None:
    """A browser that follows a link to a page comes in; what frames, embeds or fetches the page does not. What is no
    page stays shut to links, too."""
    raw = [(name.encode(), value.encode()) for name, value in (HOST, *headers)]
    if comes_in:
        assert isinstance(SITE.admit(CLIENT, "http", raw, page=True), Peer)
    else:
        with pytest.raises(Forbidden):
            SITE.admit(CLIENT, "http", raw, page=True)
    with pytest.raises(Forbidden):
        SITE.admit(CLIENT, "http", raw)


def test_links_to_pages_are_checked_for_the_rest() -> None:
    """A link does not open a page under a foreign Host, nor through a proxy that open mode does not let in."""
    raw = [(name.encode(), value.encode()) for name, value in LINK]
    with pytest.raises(MisdirectedRequest):
        SITE.admit(CLIENT, "http", [(b"host", b"evil.com"), *raw], page=True)
    with pytest.raises(Forbidden):
        OPEN.admit(CLIENT, "http", [(b"host", b"localhost"), (b"x-real-ip", b"192.0.2.1"), *raw], page=True)


# Forwarded headers

FORWARDED = [
    ("forwarded", "for=198.51.100.9;host=example.org"),
    ("x-forwarded-for", "198.51.100.9"),
    ("x-forwarded-host", "localhost"),
    ("x-forwarded-proto", "https"),
    ("x-forwarded-port", "443"),
    ("x-real-ip", "198.51.100.9"),
]


@pytest.mark.parametrize("header", FORWARDED, ids=[name for name, _ in FORWARDED])
def test_open_mode_is_not_published_by_a_proxy(header: tuple[str, str]) -> None:
    """In open mode a request that a proxy forwarded is refused with the way out, also from loopback; with --insecure
    it is not."""
    error = ask(OPEN, ("host", "localhost"), header, address="127.0.0.1")
    assert isinstance(error, Forbidden)
    assert error.code == "forwarded_in_open_mode"
    assert "key" in error.message
    assert lets_in(replace(OPEN, insecure=True), ("host", "localhost"), header, address="127.0.0.1")


@pytest.mark.parametrize("address", [CLIENT, "127.0.0.1", "11.0.0.1", "2001:db8:2::1", "", "unix:", "10.0.0.1x"])
def test_an_untrusted_peers_words_do_not_count(address: str) -> None:
    """Forwarded headers of a peer that is not a trusted proxy change nothing, on loopback or not (hostile 36)."""
    headers = [
        ("x-forwarded-for", "10.0.0.9"),
        ("x-forwarded-proto", "https"),
        ("x-forwarded-host", "chat.example.org"),
    ]
    assert ask(SITE, HOST, *headers, address=address) == Peer(address, "http", "example.org")
    assert not lets_in(SITE, HOST, ("origin", "https://example.org"), *headers, address=address)


def test_an_untrusted_peer_cannot_name_the_host() -> None:
    """A foreign Host stays foreign whatever an untrusted peer forwards."""
    error = ask(SITE, ("host", "evil.com"), ("x-forwarded-host", "example.org"))
    assert isinstance(error, MisdirectedRequest)


@pytest.mark.parametrize(
    ("forwarded", "client"),
    [
        (["198.51.100.9"], "198.51.100.9"),
        (["203.0.113.1, 198.51.100.9"], "198.51.100.9"),
        (["203.0.113.1, 198.51.100.9, 10.0.0.2"], "198.51.100.9"),
        (["203.0.113.1", "198.51.100.9", "10.1.2.3, 10.0.0.2"], "198.51.100.9"),
        ([" 198.51.100.9 ,10.0.0.2 "], "198.51.100.9"),
        (["2001:db8:9::1"], "2001:db8:9::1"),
        (["198.51.100.9:5678"], "198.51.100.9"),
        (["203.0.113.1:80, 198.51.100.9:5678, 10.0.0.2:443"], "198.51.100.9"),
        (["[2001:DB8:9::1]"], "2001:db8:9::1"),
        (["[2001:db8:9:0::1]:443"], "2001:db8:9::1"),
        (['"[2001:db8:9::1]:80", [2001:db8:1::1]:99'], "2001:db8:9::1"),
        (["::ffff:198.51.100.9, ::ffff:10.0.0.2"], "198.51.100.9"),
        (["[::ffff:198.51.100.9]:1"], "198.51.100.9"),
        (["198.51.100.9, 10.0.0.2:x"], PROXY),
        (["198.51.100.9, 10.0.0.2:123456"], PROXY),
        (["198.51.100.9, [10.0.0.2"], PROXY),
        (["198.51.100.9, fe80::1%eth0"], PROXY),
        (["2001:db8:9::1, 2001:db8:1::1"], "2001:db8:9::1"),
        (["10.0.0.3, 10.0.0.2"], "10.0.0.3"),
        (["10.0.0.2, 198.51.100.9"], "198.51.100.9"),
        (["198.51.100.9, unknown"], PROXY),
        (["198.51.100.9, unknown, 10.0.0.2"], "10.0.0.2"),
        (["198.51.100.9, <script>"], PROXY),
        (["198.51.100.9,"], PROXY),
        (["198.51.100.9, " + ", ".join(["10.0.0.2"] * 31)], "198.51.100.9"),
        (["198.51.100.9, " + ", ".join(["10.0.0.2"] * 32)], "10.0.0.2"),
        ([""], PROXY),
        ([], PROXY),
    ],
)
def test_the_client_is_the_last_that_no_proxy_is(forwarded: list[str], client: str) -> None:
    """Behind a trusted proxy the client is the rightmost address that is not a trusted proxy's. Anybody may have
    written what stands to the left of it, or to the left of something that is not an address."""
    headers = [("x-forwarded-for", value) for value in forwarded]
    assert ask(SITE, HOST, *headers, address=PROXY) == Peer(client, "http", "example.org")


@pytest.mark.parametrize(
    ("proto", "scheme"),
    [
        ("https", "https"),
        ("HTTPS", "https"),
        ("http", "http"),
        ("http, https", "https"),
        ("https, http", "http"),
        ("wss", "https"),
        ("ws", "http"),
        ("http, WSS", "https"),
        ('"https"', "https"),
        ("https, ", "http"),
        ("ftp", "http"),
        ("", "http"),
    ],
)
def test_a_trusted_proxy_says_the_scheme(proto: str, scheme: str) -> None:
    """From a trusted proxy, the last X-Forwarded-Proto is the scheme, and with it decides what is our own origin."""
    headers = [HOST, ("x-forwarded-proto", proto)]
    assert ask(SITE, *headers, address=PROXY) == Peer(PROXY, scheme, "example.org")
    assert lets_in(SITE, *headers, ("origin", f"{scheme}://example.org"), address=PROXY)
    other = {"http": "https", "https": "http"}[scheme]
    assert not lets_in(SITE, *headers, ("origin", f"{other}://example.org"), address=PROXY)


def test_a_trusted_proxy_says_the_host_and_it_is_checked() -> None:
    """From a trusted proxy X-Forwarded-Host replaces Host (the last one if there are several), and must be ours."""
    inner = ("host", "backend.internal")
    assert isinstance(ask(SITE, inner, address=PROXY), MisdirectedRequest)
    for value in ("chat.example.org", "evil.com, chat.example.org"):
        peer = ask(SITE, inner, ("x-forwarded-host", value), address=PROXY)
        assert peer == Peer(PROXY, "http", "chat.example.org")
    for value in ("evil.com", "chat.example.org, evil.com", "chat.example.org.evil.com"):
        assert isinstance(ask(SITE, HOST, ("x-forwarded-host", value), address=PROXY), MisdirectedRequest)


def test_an_ipv6_proxy_is_trusted_like_any_other() -> None:
    """A proxy in a trusted IPv6 network is believed, its neighbour outside is not."""
    headers = [HOST, ("x-forwarded-for", "198.51.100.9")]
    assert ask(SITE, *headers, address="2001:db8:1::7") == Peer("198.51.100.9", "http", "example.org")
    assert ask(SITE, *headers, address="2001:db8:2::7") == Peer("2001:db8:2::7", "http", "example.org")


@pytest.mark.parametrize("peer", ["::ffff:10.0.0.1", "::ffff:a00:1", "::FFFF:10.0.0.1"])
def test_a_mapped_address_is_the_ipv4_address(peer: str) -> None:
    """A peer that a socket bound to `::` names as an IPv4-mapped address is in IPv4 networks, and has one address."""
    assert ask(SITE, HOST, address=peer) == Peer(PROXY, "http", "example.org")
    assert ask(SITE, HOST, ("x-forwarded-for", "198.51.100.9"), address=peer) == Peer(
        "198.51.100.9", "http", "example.org"
    )
    local = replace(OPEN, local_only=True)
    assert ask(local, ("host", "localhost"), address="::ffff:127.0.0.1") == Peer("127.0.0.1", "http", "localhost", True)
    assert isinstance(ask(local, ("host", "localhost"), address=peer), Forbidden)


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        (["for=198.51.100.9"], ("198.51.100.9", "http", "example.org")),
        (["For=198.51.100.9;Proto=HTTPS"], ("198.51.100.9", "https", "example.org")),
        (["for=198.51.100.9; proto=wss ;by=10.0.0.1"], ("198.51.100.9", "https", "example.org")),
        (['for="[2001:db8:9::1]:4711";proto=https'], ("2001:db8:9::1", "https", "example.org")),
        (['for="198.51.100.9:80"'], ("198.51.100.9", "http", "example.org")),
        (["for=198.51.100.9;host=chat.example.org"], ("198.51.100.9", "http", "chat.example.org")),
        (['for=198.51.100.9;host="chat.example.org:8443"'], ("198.51.100.9", "http", "chat.example.org:8443")),
        # The element with the client was written by a trusted proxy, and says how the client came.
        (["for=198.51.100.9;proto=https, for=10.0.0.2;proto=http"], ("198.51.100.9", "https", "example.org")),
        (["for=198.51.100.9;proto=https", "for=10.0.0.2;proto=http"], ("198.51.100.9", "https", "example.org")),
        (["for=203.0.113.1;proto=https, for=198.51.100.9"], ("198.51.100.9", "http", "example.org")),
        (["for=198.51.100.9, for=unknown"], (PROXY, "http", "example.org")),
        (["for=198.51.100.9, for=_hidden;proto=https"], (PROXY, "https", "example.org")),
        (["for=198.51.100.9;proto=ftp"], ("198.51.100.9", "http", "example.org")),
        (["for=198.51.100.9,"], ("198.51.100.9", "http", "example.org")),
        (["for=198.51.100.9;;, ,"], ("198.51.100.9", "http", "example.org")),
        # A header that is malformed anywhere is ignored, and so is what is left of it.
        (['for="198.51.100.9'], (PROXY, "http", "example.org")),
        (['proto=https, for="x, for=198.51.100.9'], (PROXY, "http", "example.org")),
        (["for=198.51.100.9", "for = 10.0.0.2"], (PROXY, "http", "example.org")),
        (["for=198.51.100.9;for=10.0.0.2"], (PROXY, "http", "example.org")),
        (["for=2001:db8:9::1"], (PROXY, "http", "example.org")),  # RFC 7239 4: in quotes, since it has colons
        (["198.51.100.9"], (PROXY, "http", "example.org")),
        ([""], (PROXY, "http", "example.org")),
        (["for=198.51.100.9" + ";a=b" * 2_000], (PROXY, "http", "example.org")),
    ],
)
def test_forwarded_is_understood(values: list[str], expected: tuple[str, str, str]) -> None:
    """Forwarded (RFC 7239) of a trusted proxy is read as X-Forwarded-* is, each element as its proxy wrote it
    (hostile 59)."""
    headers = [("forwarded", value) for value in values]
    assert ask(SITE, HOST, *headers, address=PROXY) == Peer(*expected)
    assert ask(SITE, HOST, *headers, address=CLIENT) == Peer(CLIENT, "http", "example.org"), "a stranger's is not"


@pytest.mark.parametrize("both", [("x-forwarded-for", "198.51.100.9"), ("x-forwarded-proto", "http")])
def test_x_forwarded_goes_before_forwarded(both: tuple[str, str]) -> None:
    """If both forms are there, Forwarded is not read, because proxies that write the others pass on a client's."""
    forged = ("forwarded", "for=203.0.113.1;proto=https;host=chat.example.org")
    expected = ask(SITE, HOST, both, address=PROXY)
    assert ask(SITE, HOST, forged, both, address=PROXY) == expected
    assert ask(SITE, HOST, both, forged, address=PROXY) == expected


@given(
    st.sampled_from(("x-forwarded-for", "x-forwarded-proto", "x-forwarded-host", "forwarded", "host", "origin")),
    st.text(st.characters(max_codepoint=255), max_size=60)
    | st.from_regex(r'(for=|proto=|host=)?["\[]?[0-9a-f:.%\]",;=\\ ]{0,40}', fullmatch=True),
)
@settings(deadline=None)
def test_no_value_does_harm(name: str, value: str) -> None:
    """Whatever a header says, the answer is a peer with an address, or a refusal (hostile 45)."""
    answer = ask(SITE, *(() if name == "host" else (HOST,)), (name, value), address=PROXY)
    assert isinstance(answer, PartylineError) or addresses.parse(answer.address) is not None


# The pieces


@pytest.mark.parametrize(
    ("origin", "canonical"),
    [
        ("http://example.org", "http://example.org:80"),
        ("https://example.org", "https://example.org:443"),
        ("https://EXAMPLE.Org:0443", "https://example.org:443"),
        ("http://[::1]:8000", "http://[::1]:8000"),
        ("null", None),
        ("wss://example.org", None),
        ("http://example.org/", None),
        ("http://", None),
        ("", None),
    ],
)
def test_an_origin_has_one_spelling(origin: str, canonical: str | None) -> None:
    """An origin in its canonical form is in lower case with its port; what is no origin has none."""
    assert canonical_origin(origin) == canonical


@given(st.sampled_from(("http", "https")), st.from_regex(r"[A-Za-z0-9.-]{1,20}", fullmatch=True), st.integers(0, 65535))
@settings(deadline=None)
def test_the_canonical_form_is_final(scheme: str, host: str, port: int) -> None:
    """The canonical form of a canonical form is itself."""
    canonical = canonical_origin(f"{scheme}://{host}:{port}")
    assert canonical is not None
    assert canonical_origin(canonical) == canonical


# Settings


@pytest.mark.parametrize(
    ("origin", "spelt"),
    [
        ("*", "*"),
        ("null", "null"),
        ("https://App.example.org", "https://app.example.org:443"),
        ("HTTPS://app.example.org", "https://app.example.org:443"),
        ("Capacitor://localhost", "capacitor://localhost"),
        ("http://[2001:DB8::1]:8080", "http://[2001:db8::1]:8080"),
    ],
)
def test_an_allowed_origin_has_one_spelling(origin: str, spelt: str) -> None:
    """An origin is allowed as browsers spell it, whatever case it is configured in."""
    assert allowed_origin(origin) == spelt


@pytest.mark.parametrize(
    ("check", "setting", "text", "says"),
    [
        (allowed_origin, "cors_origins", "https://*.example.org", "is a pattern"),
        (allowed_origin, "cors_origins", "https://app.example.org:*", "is a pattern"),
        (allowed_origin, "cors_origins", "capacitor://*", "is a pattern"),
        (allowed_origin, "cors_origins", "**", "is a pattern"),
        (allowed_origin, "cors_origins", "https://b\u00fccher.example", "xn--bcher-kva.example"),
        (allowed_origin, "cors_origins", "https://b\u00fccher.example:8443", "write xn--bcher-kva.example for b"),
        (allowed_origin, "cors_origins", "https://app.example.org/", "without a path"),
        (allowed_origin, "cors_origins", "https://app.example.org:65536", "is not an origin"),
        (allowed_origin, "cors_origins", "https://me@app.example.org", "is not an origin"),
        (allowed_origin, "cors_origins", "wss://app.example.org", "begin with https://"),
        (allowed_origin, "cors_origins", "app.example.org", "is not an origin"),
        (allowed_origin, "cors_origins", "file:///", "is not an origin"),
        (allowed_origin, "cors_origins", "", "is not an origin"),
        (allowed_host, "allowed_hosts", "*", "is a pattern"),
        (allowed_host, "allowed_hosts", "*.example.org", "is a pattern"),
        (allowed_host, "allowed_hosts", ".example.org:80", "without a port"),
        (allowed_host, "allowed_hosts", "b\u00fccher.example", "xn--bcher-kva.example"),
        (allowed_host, "allowed_hosts", "\u00fc" * 300, "xn--..."),
        (trusted_network, "trusted_proxies", "*", "neither an address nor a network"),
        (trusted_network, "trusted_proxies", "proxy.internal", "neither an address nor a network"),
        (trusted_network, "trusted_proxies", "10.0.0.0/33", "neither an address nor a network"),
    ],
)
def test_what_would_match_nothing_is_refused(
    check: Callable[[str], object], setting: str, text: str, says: str
) -> None:
    """An entry that no request could be equal to is refused at start, with the setting, the value and the way out."""
    with pytest.raises(ConfigError) as caught:
        check(text)
    assert caught.value.field == setting
    assert caught.value.message.startswith(f"{setting}: {text!r} ")
    assert says in caught.value.message
