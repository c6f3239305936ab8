"""IP addresses: one spelling for each, however sockets, proxies and settings write it (hostile 59)."""

from __future__ import annotations

import pytest

from partyline.trust.addresses import is_loopback, network, node, plain, source


@pytest.mark.parametrize(
    ("text", "spelt"),
    [
        ("192.0.2.1", "192.0.2.1"),
        ("::ffff:192.0.2.1", "192.0.2.1"),
        ("2001:DB8:0::1", "2001:db8::1"),
        ("fe80::1%eth0", "fe80::1"),
        ("", ""),
        ("testclient", "testclient"),
        ("unix:", "unix:"),
    ],
)
def test_a_peer_has_one_spelling(text: str, spelt: str) -> None:
    """An address is spelt in one way, IPv4-mapped or not; the name of a test client stays."""
    assert plain(text) == spelt


@pytest.mark.parametrize(
    ("text", "counted"),
    [
        ("192.0.2.1", "192.0.2.1"),
        ("::ffff:192.0.2.1", "192.0.2.1"),
        ("2001:db8:1:2::1", "2001:db8:1:2::/64"),
        ("2001:DB8:1:2:ffff:ffff:ffff:ffff", "2001:db8:1:2::/64"),
        ("2001:db8:1:3::1", "2001:db8:1:3::/64"),
        ("fe80::1%eth0", "fe80::/64"),
        ("::1", "::/64"),
        ("", ""),
        ("testclient", "testclient"),
        ("unix:", "unix:"),
        (":" * 5_000, ":" * 5_000),
    ],
)
def test_what_limits_count(text: str, counted: str) -> None:
    """Limits for an address count an IPv4 address, mapped or not, and of IPv6 the /64, all of which is one peer's."""
    assert source(text) == counted


@pytest.mark.parametrize(
    ("text", "address"),
    [
        ("192.0.2.1", "192.0.2.1"),
        (" 192.0.2.1:5678 ", "192.0.2.1"),
        ("192.0.2.1:_port", "192.0.2.1"),
        ("[2001:db8::1]", "2001:db8::1"),
        ('"[2001:db8::1]:80"', "2001:db8::1"),
        ("2001:db8::1", "2001:db8::1"),
        ("[::ffff:192.0.2.1]:80", "192.0.2.1"),
        ("::1", "::1"),
        ("[192.0.2.1]:80", "192.0.2.1"),
        ("192.0.2.1:", None),
        ("192.0.2.1:80:80", None),
        ("192.0.2.256", None),
        ("192.0.2", None),
        ("[2001:db8::1", None),
        ("2001:db8::1]", None),
        ("[fe80::1%eth0]", None),
        ("fe80::1%<script>", None),
        ('"', None),
        ('""', None),
        ("unknown", None),
        ("_hidden", None),
        ("\u0661.2.3.4", None),
        ("1" * 10_000, None),
        ("", None),
    ],
)
def test_a_node_names_an_address_or_none(text: str, address: str | None) -> None:
    """What proxies write for an address, with ports, brackets and quotes, is that address; anything else is not one
    (hostile 59)."""
    assert node(text) == address


@pytest.mark.parametrize(
    ("text", "covers", "misses"),
    [
        ("10.0.0.0/8", "10.1.2.3", "11.0.0.1"),
        ("10.0.0.5/8", "10.1.2.3", "11.0.0.1"),
        ("10.0.0.5", "10.0.0.5", "10.0.0.6"),
        ("::ffff:10.0.0.0/104", "10.1.2.3", "11.0.0.1"),
        ("::ffff:10.0.0.5", "10.0.0.5", "10.0.0.6"),
        ("2001:db8::/32", "2001:db8:1::1", "2001:db9::1"),
        ("::/0", "2001:db8::1", "10.0.0.1"),
    ],
)
def test_a_network_covers_addresses_as_they_are_spelt(text: str, covers: str, misses: str) -> None:
    """A network that is written as IPv4-mapped covers the IPv4 addresses it means."""
    parsed = [plain(f"::ffff:{one}") if "." in one else one for one in (covers, misses)]
    assert [_in(one, text) for one in parsed] == [True, False]


def _in(address: str, text: str) -> bool:
    return network(address).subnet_of(network(text)) if network(address).version == network(text).version else False  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("host", "loopback"),
    [
        ("localhost", True),
        ("LOCALHOST", True),
        ("127.0.0.1", True),
        ("127.255.255.254", True),
        ("::1", True),
        ("::ffff:127.0.0.1", True),
        ("[::1]", True),
        ("0.0.0.0", False),
        ("::", False),
        ("192.168.0.1", False),
        ("localhost.evil.com", False),
        ("", False),
        ("example.org", False),
    ],
)
def test_loopback_is_this_machine(host: str, loopback: bool) -> None:
    """`localhost` and the addresses of loopback are this machine's own; every other name and address is not."""
    assert is_loopback(host) is loopback
