"""Tokens: which are accepted, and the documented errors of all others."""

from __future__ import annotations

import hashlib
import hmac
import json
import math
import sys
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from partyline.errors import ConfigError, Overloaded, Unauthenticated
from partyline.topics import check_pattern
from partyline.trust.keys import Principal, Token
from partyline.trust.tokens import (
    MAX_TOKEN,
    Key,
    Signer,
    Tokens,
    key_set,
    looks_like_token,
    public_key,
    revocation_life,
    secret_key,
    signing_key,
)
from tests.tokens import ED, SECRET, ed, jwk, part, private_pem, public_pem, rsa, sign

NOW = 1_800_000_000.0
LIFE = 86_400.0
GOOD: dict[str, Any] = {"sub": "ann", "iat": NOW - 10, "exp": NOW + 600, "topics": ["chat.*"]}
OTHER = "f" * 40


def hs256(**rules: Any) -> Signer:
    return Signer("HS256", (secret_key(SECRET.encode()),), **rules)


def rs256(**rules: Any) -> Signer:
    return Signer("RS256", (public_key("RS256", public_pem(rsa())),), **rules)


def eddsa(**rules: Any) -> Signer:
    return Signer("EdDSA", (public_key("EdDSA", public_pem(ED)),), **rules)


def verify(token: str, *signers: Signer, now: float = NOW, longest: float | None = None) -> Principal:
    return Tokens(signers or (hs256(),), LIFE).verify(token, now, longest=longest)


def refusal(token: str, *signers: Signer, now: float = NOW, longest: float | None = None) -> Unauthenticated:
    """The error with which a token is refused; it repeats nothing of the token."""
    with pytest.raises(Unauthenticated) as caught:
        verify(token, *signers, now=now, longest=longest)
    error = caught.value
    assert error.message.startswith("this token does not count: ")
    for piece in token.split("."):
        assert len(piece) < 8 or piece not in error.message
    return error


def good(**changes: Any) -> dict[str, Any]:
    """Good claims with changes; None takes one out."""
    return {name: value for name, value in {**GOOD, **changes}.items() if value is not None}


# What counts


@pytest.mark.parametrize(
    ("key", "signer"), [(SECRET, hs256), (rsa(), rs256), (ED, eddsa)], ids=["HS256", "RS256", "EdDSA"]
)
def test_a_good_token_is_its_principal(key: Any, signer: Any) -> None:
    """A token signed with a key of the configuration stands for its sub, with its rights, its end and its id."""
    token = sign(good(jti="t1", topics={"publish": ["a.*"], "subscribe": ["a.>", "b"]}), key)
    who = verify(token, hs256(), signer()) if signer is not hs256 else verify(token)
    assert who == Principal(
        ("a.*",), ("a.>", "b"), user="ann", expires=NOW + 600, token_id="t1", name="user ann", issued=NOW - 10
    )
    assert who.token == Token("ann", "t1", NOW - 10)


@pytest.mark.parametrize(
    ("topics", "publish", "subscribe"),
    [
        (["a", "b.>"], ("a", "b.>"), ("a", "b.>")),
        ({"publish": ["a"]}, ("a",), ()),
        ({"subscribe": ["a"]}, (), ("a",)),
        ({}, (), ()),
        ([], (), ()),
        (None, (), ()),
    ],
)
def test_rights_are_by_action(topics: Any, publish: tuple[str, ...], subscribe: tuple[str, ...]) -> None:
    """`topics` names patterns by action, a list means both, and without any nothing is allowed."""
    who = verify(sign(good(topics=topics)))
    assert (who.publish, who.subscribe, who.admin) == (publish, subscribe, False)


def test_only_a_key_that_may_gives_admin_rights() -> None:
    """`"admin": true` counts only if the key allows it for its tokens."""
    token = sign(good(admin=True))
    assert not verify(token).admin
    assert verify(token, hs256(admin=True)).admin
    assert not verify(sign(good()), hs256(admin=True)).admin
    assert refusal(sign(good(admin="yes")), hs256(admin=True)).field == "admin"


@pytest.mark.parametrize(
    ("sub", "user"), [("ann", "ann"), (1, "1"), ("1", "1"), (2**63 - 1, str(2**63 - 1)), ("é ", "é ")]
)
def test_sub_is_a_user_id(sub: Any, user: str) -> None:
    """`sub` is a user id as everywhere here: an integer or a text, compared as text."""
    assert verify(sign(good(sub=sub))).user == user


def test_a_token_is_over_at_exp_and_not_before() -> None:
    """A token is invalid from `exp` on, later by `leeway`, and before `nbf`, earlier by it."""
    token = sign(good(nbf=NOW, iat=NOW))
    for leeway in (0.0, 5.0):
        signer = hs256(leeway=leeway)
        assert verify(token, signer, now=NOW - leeway).expires == NOW + 600 + leeway
        assert refusal(token, signer, now=NOW - leeway - 0.001).field == "nbf"
        verify(token, signer, now=NOW + 599.999 + leeway)
        over = refusal(token, signer, now=NOW + 600 + leeway)
        assert (over.code, over.http_status, over.close_code) == ("token_expired", 401, 4401)


def test_clocks_may_differ_a_little_at_iat() -> None:
    """An issuer whose clock is less than a minute ahead is believed."""
    verify(sign(good(iat=NOW + 59)))
    assert refusal(sign(good(iat=NOW + 61))).field == "iat"


def test_keys_are_found_by_kid() -> None:
    """A token that names a kid is signed with the key of that name, or with one that has none; of several keys in a
    set, one has to be named."""
    first, second = ED, ed()
    signer = Signer("EdDSA", key_set("EdDSA", json.dumps({"keys": [jwk(first, "a"), jwk(second, "b")]}).encode()))
    assert verify(sign(GOOD, first, {"alg": "EdDSA", "kid": "a"}), signer).user == "ann"
    assert verify(sign(GOOD, second, {"alg": "EdDSA", "kid": "b"}), signer).user == "ann"
    refusal(sign(GOOD, first, {"alg": "EdDSA", "kid": "b"}), signer)
    refusal(sign(GOOD, first), signer)
    alone = Signer("EdDSA", signer.keys[:1])
    assert verify(sign(GOOD, first), alone).user == "ann"
    refusal(sign(GOOD, first, {"alg": "EdDSA", "kid": "c"}), alone)
    assert verify(sign(GOOD, ED, {"alg": "EdDSA", "kid": "any"}), eddsa()).user == "ann"


def test_two_secrets_stand_side_by_side() -> None:
    """Several keys of one algorithm are tried in turn: that is how a secret is replaced."""
    old = Signer("HS256", (secret_key(OTHER.encode()),), admin=True)
    assert not verify(sign(good(admin=True)), old, hs256()).admin
    assert verify(sign(good(admin=True), OTHER), old, hs256()).admin


# Hostile 35


def test_hostile_35_alg_none() -> None:
    """A token without a signature is refused, whatever it calls that."""
    for name in ("none", "None", "NONE", "nOnE", ""):
        for mark in ("", "AA", part(b"x" * 32)):
            refusal(f"{part({'alg': name})}.{part(GOOD)}.{mark}", hs256(), rs256(), eddsa())
    refusal(f"{part({'alg': 'HS256'})}.{part(GOOD)}.")
    refusal(f"{part({'alg': 'HS256'})}.{part(GOOD)}")


def test_hostile_35_algorithm_confusion() -> None:
    """A public key is not a secret: a token signed with it as for HS256, or with another key's algorithm, is
    refused."""
    for pem in (public_pem(rsa()), public_pem(rsa()).rstrip("\n")):
        signed = f"{part({'alg': 'HS256', 'typ': 'JWT'})}.{part(GOOD)}"
        forged = f"{signed}.{part(hmac.digest(pem.encode(), signed.encode(), hashlib.sha256))}"
        assert "alg" in refusal(forged, rs256()).message
        assert "signature" in refusal(forged, rs256(), hs256()).message
    for header in ({"alg": "RS256"}, {"alg": "EdDSA"}, {"alg": "HS512"}, {"alg": "hs256"}, {"alg": "ES256"}):
        refusal(sign(GOOD, SECRET, header), hs256(), rs256(), eddsa())
    refusal(sign(GOOD, rsa(), {"alg": "HS256"}), hs256(), rs256())
    refusal(sign(GOOD, ED, {"alg": "RS256"}), eddsa(), rs256())


def test_hostile_35_wrong_key() -> None:
    """Another key of the same kind signs nothing here."""
    refusal(sign(GOOD, OTHER))
    refusal(sign(GOOD, rsa(2048, 1)), rs256())
    refusal(sign(GOOD, ed()), eddsa())


def test_hostile_35_audience_and_issuer() -> None:
    """`aud` and `iss` must be those of the key; a token for an audience is refused where none is configured."""
    signer = hs256(audience="chat", issuer="https://id.example/")
    right = {"aud": "chat", "iss": "https://id.example/"}
    verify(sign(good(**right)), signer)
    verify(sign(good(**{**right, "aud": ["mail", "chat"]})), signer)
    for aud in (None, "mail", "Chat", "chat ", "chat/", [], ["mail"], ["cha", "t"]):
        assert refusal(sign(good(**{**right, "aud": aud})), signer).field == "aud", aud
    for iss in (None, "https://id.example", "https://ID.example/", ""):
        assert refusal(sign(good(**{**right, "iss": iss})), signer).field == "iss", iss
    assert refusal(sign(good(aud="chat"))).field == "aud"
    assert refusal(sign(good(aud=[]))).field == "aud"


def test_hostile_35_expired_and_far_future() -> None:
    """A token that has expired, or would live longer than allowed, is refused; so is one without an end."""
    assert refusal(sign(good(exp=NOW))).code == "token_expired"
    assert refusal(sign(good(exp=0))).code == "token_expired"
    verify(sign(good(iat=NOW, exp=NOW + LIFE)))
    verify(sign(good(iat=None, exp=NOW + LIFE)))
    for iat, exp in ((NOW, NOW + LIFE + 1), (None, NOW + LIFE + 1), (NOW - LIFE, NOW + 1), (NOW, 1e300), (0, NOW + 1)):
        assert refusal(sign(good(iat=iat, exp=exp))).field == "exp", (iat, exp)
    assert refusal(sign(good(exp=None))).field == "exp"


def test_hostile_35_key_id_injection() -> None:
    """A kid is compared and nothing else; keys and addresses of keys in a header lead nowhere."""
    for kid in ("../../../../dev/null", "/dev/null", "' OR 1=1 --", "http://evil.example/k", "a\0", "", "x" * 3000):
        refusal(sign(GOOD, "", {"alg": "HS256", "kid": kid}))
        refusal(sign(GOOD, OTHER, {"alg": "HS256", "kid": kid}))
        refusal(sign(GOOD, "", {"alg": "HS256", "kid": kid}), Signer("HS256", (secret_key(SECRET.encode(), "k1"),)))
    for kid in (1, ["a"], {"a": 1}, True):
        refusal(sign(GOOD, SECRET, {"alg": "HS256", "kid": kid}))
    attacker = ed()
    for header in (
        {"jwk": jwk(attacker)},
        {"jku": "http://127.0.0.1:1/keys"},
        {"x5u": "http://127.0.0.1:1/cert"},
        {"x5c": ["AAAA"]},
        {"jku": "http://127.0.0.1:1/keys", "kid": "new"},
    ):
        refusal(sign(GOOD, attacker, {"alg": "EdDSA", **header}), eddsa())


def test_hostile_35_headers() -> None:
    """A header with an extension that must be understood, or of a token for something else, is refused."""
    for header in (
        {"crit": ["b64"], "b64": False},
        {"crit": []},
        {"crit": None},
        {"typ": "logout+jwt"},
        {"typ": "JWE"},
    ):
        refusal(sign(GOOD, SECRET, {"alg": "HS256", **header}))
    for typ in ("JWT", "jwt", "at+jwt", "application/at+jwt"):
        verify(sign(GOOD, SECRET, {"alg": "HS256", "typ": typ}))
    refusal(sign(GOOD, SECRET, b'{"alg":"HS256","alg":"HS256"}'))
    refusal(sign(GOOD, SECRET, b'{"alg":"none","alg":"HS256"}'))
    for raw in (b"[]", b"null", b"1", b'"HS256"', b"{}", b"", b"\xff", b'{"alg":["HS256"]}', b"{" * 300):
        refusal(sign(GOOD, SECRET, raw)) if raw else refusal("." + part(GOOD) + ".AA")


@pytest.mark.parametrize(
    "raw",
    [
        b'{"sub":"ann","sub":"bob","exp":%d}',
        b'{"sub":"ann","exp":%d,"exp":9999999999}',
        b'{"sub":"ann","exp":%d,"topics":{"publish":["a"],"publish":[">"]}}',
        b'{"sub":"ann","exp":%d,"x":{"a":1,"a":2}}',
        b'{"sub":"ann","exp":%d,"s\\u0075b":"bob"}',
    ],
)
def test_hostile_35_duplicate_claims(raw: bytes) -> None:
    """A repeated name in an object, at any depth and however it is written, is refused."""
    refusal(sign(raw % (NOW + 60)))


@pytest.mark.parametrize(
    "payload",
    [
        b"",
        b"{}",
        b"[]",
        b"null",
        b"\xff\xfe",
        b"{" * 3000,
        b'{"a":' + b"[" * 70 + b"]" * 70 + b',"sub":"a","exp":1800000060}',
        b'{"sub":"a","exp":NaN}',
        b'{"sub":"a","exp":Infinity}',
        b'{"sub":"a","exp":1e999}',
        b'{"sub":"a","exp":1' + b"0" * 400 + b"}",
        b'{"sub":"a","exp":1' + b"0" * 5000 + b"}",
        b'{"sub":"a","exp":"1800000060"}',
        b'{"sub":"a","exp":true}',
        b'{"sub":"a","exp":null}',
        b'{"sub":"a","exp":[1800000060]}',
        b'{"sub":"a","exp":-1800000060}',
        b'{"sub":"a","exp":1800000060,"iat":1e999}',
        b'{"sub":"a","exp":1800000060,"nbf":-1e999}',
        b'{"sub":"a","exp":1800000060,"iat":"1"}',
        b'{"exp":1800000060}',
        b'{"sub":null,"exp":1800000060}',
        b'{"sub":"","exp":1800000060}',
        b'{"sub":-1,"exp":1800000060}',
        b'{"sub":9223372036854775808,"exp":1800000060}',
        b'{"sub":1.5,"exp":1800000060}',
        b'{"sub":true,"exp":1800000060}',
        b'{"sub":["a"],"exp":1800000060}',
        b'{"sub":"a\\nb","exp":1800000060}',
        b'{"sub":"\\ud800","exp":1800000060}',
        b'{"sub":"' + b"a" * 129 + b'","exp":1800000060}',
        b'{"sub":"a","exp":1800000060,"jti":1}',
        b'{"sub":"a","exp":1800000060,"jti":""}',
        b'{"sub":"a","exp":1800000060,"jti":"\\ud800"}',
        b'{"sub":"a","exp":1800000060,"jti":"' + b"a" * 257 + b'"}',
        b'{"sub":"a","exp":1800000060,"topics":"chat"}',
        b'{"sub":"a","exp":1800000060,"topics":[1]}',
        b'{"sub":"a","exp":1800000060,"topics":["a b"]}',
        b'{"sub":"a","exp":1800000060,"topics":[">.a"]}',
        b'{"sub":"a","exp":1800000060,"topics":[""]}',
        b'{"sub":"a","exp":1800000060,"topics":["$SYS"]}',
        b'{"sub":"a","exp":1800000060,"topics":["a\\ud800"]}',
        b'{"sub":"a","exp":1800000060,"topics":{"publish":"a"}}',
        b'{"sub":"a","exp":1800000060,"topics":{"Publish":["a"]}}',
        b'{"sub":"a","exp":1800000060,"topics":{"publish":["a"],"presence":["a"]}}',
        b'{"sub":"a","exp":1800000060,"topics":null}',
        b'{"sub":"a","exp":1800000060,"aud":1}',
        b'{"sub":"a","exp":1800000060,"iss":1}',
        b'{"sub":"a","exp":1800000060} x',
    ],
    ids=lambda raw: ascii(raw)[:50],
)
def test_hostile_35_claims_of_the_wrong_shape(payload: bytes) -> None:
    """Signed nonsense is nonsense: every claim of a wrong type or value is refused as unauthenticated."""
    refusal(sign(payload) if payload else f"{part({'alg': 'HS256'})}..AA")


def test_hostile_35_texts_that_are_no_token() -> None:
    """Anything but three parts of canonical base64url is refused before decoding, however large it is."""
    token = sign(GOOD)
    head, body, mark = token.split(".")
    wrong = [
        "",
        ".",
        "..",
        "...",
        "a.b",
        token + ".",
        "." + token,
        token + "." + mark,
        token + "=",
        f"{head}=.{body}.{mark}",
        f"{head}.{body}.{mark[:-1]}",
        f"{head}.{body}.{mark}A",
        token.replace(".", ". "),
        token + "\n",
        token + " ",
        f"{head}.{body}.{mark[:5]}+{mark[6:]}",
        f"{head}.{body}.{mark[:5]}é{mark[6:]}",
        "A" * (MAX_TOKEN + 1),
        f"{head}.{'A' * MAX_TOKEN}.{mark}",
        sign(good(pad="x" * MAX_TOKEN)),
    ]
    # 32 bytes are 43 characters, the last of which has two bits that say nothing: only zeros are canonical.
    alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"
    last = alphabet.index(mark[-1])
    assert last % 4 == 0
    wrong += [token[:-1] + alphabet[last + more] for more in (1, 2, 3)]
    for text in wrong:
        refusal(text)
    verify(token)


def test_hostile_35_keys_of_a_set_come_from_the_set_only() -> None:
    """If a set has no key that fits, only its signer is asked to fetch again: the token gets 503 then, and 401
    later."""
    asked: list[bool] = []
    coming = True

    def renew(missing: bool) -> bool:
        asked.append(missing)
        return coming

    signer = Signer("EdDSA", key_set("EdDSA", json.dumps({"keys": [jwk(ED, "a")]}).encode()), renew=renew)
    verify(sign(GOOD, ED, {"alg": "EdDSA", "kid": "a"}), signer)
    assert asked == [False]
    unknown = sign(GOOD, ED, {"alg": "EdDSA", "kid": "b"})
    with pytest.raises(Overloaded) as caught:
        verify(unknown, signer)
    assert (caught.value.code, caught.value.http_status, caught.value.temporary) == ("keys_unavailable", 503, True)
    assert asked == [False, False, True]
    coming = False
    refusal(unknown, signer)
    refusal(sign(GOOD, ed(), {"alg": "EdDSA", "kid": "a"}), signer)
    assert asked[-1] is False  # a wrong signature is no reason to look for keys


# In an address


def test_in_an_address_a_token_lives_for_minutes() -> None:
    """With `longest`, `iat` is needed and `exp` is at most that much later, however much of it is left."""
    verify(sign(good(iat=NOW - 10, exp=NOW + 290)), longest=300)
    for iat, exp in ((NOW - 10, NOW + 291), (None, NOW + 10), (NOW - 1000, NOW + 1)):
        assert refusal(sign(good(iat=iat, exp=exp)), longest=300).field == "exp"


# Whatever comes

_json = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8) | st.floats(NOW - 1e6, NOW + 1e6),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=6), inner, max_size=3),
    max_leaves=6,
)
_names = st.sampled_from(["sub", "exp", "iat", "nbf", "aud", "iss", "jti", "topics", "admin", "x"])


@given(st.dictionaries(_names, _json))
@example({"sub": "ann", "exp": NOW + 5})
def test_any_claims_are_a_principal_or_a_refusal(changes: dict[str, Any]) -> None:
    """Whatever a signed token says, it is refused as unauthenticated, or its principal keeps every rule."""
    try:
        who = verify(sign({**GOOD, **changes}))
    except Unauthenticated:
        return
    assert who.user is not None
    assert 0 < len(who.user) <= 128
    assert who.user.isprintable()
    assert who.expires is not None
    assert NOW < who.expires <= NOW + LIFE + 60
    assert math.isfinite(who.issued or 0.0)
    assert not who.admin
    for pattern in (*who.publish, *who.subscribe):
        check_pattern(pattern)


_TOKENS = [(sign(GOOD, key), signer()) for key, signer in ((SECRET, hs256), (rsa(), rs256), (ED, eddsa))]


@given(st.sampled_from(_TOKENS), st.data())
def test_any_change_of_a_token_is_a_refusal(made: tuple[str, Signer], data: st.DataObject) -> None:
    """A token with characters changed, removed or inserted is refused as unauthenticated, or is the same token."""
    token, signer = made
    at = data.draw(st.integers(0, len(token)))
    cut = data.draw(st.integers(0, 3))
    put = data.draw(st.text(st.characters() | st.sampled_from("ABab01-_.="), max_size=3))
    changed = token[:at] + put + token[at + cut :]
    if changed != token:
        refusal(changed, signer)


@given(st.text() | st.lists(st.binary(max_size=60).map(part), min_size=3, max_size=3).map(".".join))
def test_any_text_is_a_refusal(text: str) -> None:
    """A text that nobody signed is refused as unauthenticated."""
    refusal(text, hs256(), rs256(), eddsa())


# Keys


@pytest.mark.parametrize(
    "make",
    [
        lambda: secret_key(b"x" * 31),
        lambda: secret_key(b""),
        lambda: secret_key(public_pem(rsa()).encode()),
        lambda: secret_key(public_pem(ED).encode()),
        lambda: secret_key(json.dumps(jwk(rsa())).encode()),
        lambda: public_key("RS256", public_pem(ED)),
        lambda: public_key("EdDSA", public_pem(rsa())),
        lambda: public_key("RS256", private_pem(rsa())),
        lambda: public_key("EdDSA", private_pem(ED)),
        lambda: public_key("RS256", public_pem(rsa(1024))),
        lambda: public_key("RS256", "no key"),
        lambda: public_key("EdDSA", ""),
        lambda: public_key("RS256", SECRET),
        lambda: key_set("RS256", b"no JSON"),
        lambda: key_set("RS256", b"[]"),
        lambda: key_set("RS256", b'{"keys": []}'),
        lambda: key_set("RS256", b'{"keys": [1]}'),
        lambda: key_set("RS256", b'{"keys": [{}]}'),
        lambda: key_set("EdDSA", json.dumps({"keys": [jwk(rsa())]}).encode()),
        lambda: key_set("RS256", json.dumps({"keys": [jwk(rsa(1024))]}).encode()),
        lambda: signing_key(b"-----BEGIN nothing"),
        lambda: signing_key(public_pem(ED).encode()),
        lambda: signing_key(private_pem(rsa(1024)).encode()),
    ],
)
def test_weak_and_wrong_keys_are_refused_at_start(make: Any) -> None:
    """A key that is too short, of another kind, private where the public one belongs, or none at all is refused."""
    with pytest.raises(ConfigError) as caught:
        make()
    assert caught.value.field == "jwt_keys"
    assert caught.value.message.startswith("jwt_keys: ")
    assert "BEGIN PRIVATE" not in caught.value.message
    assert SECRET not in caught.value.message


def test_a_secret_of_32_bytes_is_enough() -> None:
    """HS256 takes a secret as long as its hash (RFC 7518 3.2)."""
    assert secret_key(b"x" * 32).material == b"x" * 32


def test_a_set_gives_the_keys_that_fit() -> None:
    """In a key set the public keys for this algorithm count; broken ones and those for something else do not."""
    other = ed()
    private = {**jwk(other, "private"), "d": "AAAA"}
    keys = [
        jwk(ED, "good"),
        jwk(rsa(), "rsa"),
        jwk(other, "encrypts", use="enc"),
        jwk(other, "else", alg="RS256"),
        {**jwk(other, "broken"), "x": "!"},
        {"kty": "oct", "k": "AAAA", "kid": "secret"},
        private,
        jwk(other, "said", use="sig", alg="EdDSA"),
    ]
    found = key_set("EdDSA", json.dumps({"keys": keys}).encode())
    assert [key.kid for key in found] == ["good", "said"]


def test_keys_are_in_no_repr() -> None:
    """Accidentally printed values do not show a secret (hostile 39)."""
    assert SECRET not in repr(hs256())
    assert SECRET not in repr(Key(None, SECRET.encode()))


def test_without_pyjwt_the_way_out_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    """If PyJWT or cryptography is not installed, the error says which extra to install."""
    for name in ("jwt", "cryptography"):
        with monkeypatch.context() as patch:
            patch.setitem(sys.modules, name, None)
            with pytest.raises(ConfigError, match=r"pip install 'partyline-server\[jwt\]'"):
                secret_key(SECRET.encode())


def test_what_is_meant_as_a_token() -> None:
    """A credential with two dots is meant as a token; keys, as `partyline key` makes them, have none."""
    assert looks_like_token(sign(GOOD))
    assert not looks_like_token("pl_abc")
    assert not looks_like_token("a.b")


def test_a_revocation_outlives_every_token() -> None:
    """The time that a revocation is kept covers the longest life, the largest leeway, and clocks that differ."""
    kept = revocation_life(LIFE, (0.0, 5.0))
    latest = sign(good(iat=NOW + 60, exp=NOW + 60 + LIFE))
    assert kept == LIFE + 65
    with pytest.raises(Unauthenticated):
        verify(latest, hs256(leeway=5.0), now=NOW + kept)
    verify(latest, hs256(leeway=5.0), now=NOW + kept - 0.001)
