"""JSON Web Tokens (RFC 7519): who signed a token, how long it is valid, and what its bearer may do.

The configuration gives each key its algorithm: a token's header only picks among the configured keys (RFC 8725 3.1),
and cannot lead to another. Signatures need PyJWT, which comes with the extra `jwt`; everything else about a token is
checked here.
"""

from __future__ import annotations

import base64
import json
import math
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final, Literal, NoReturn

import msgspec

from partyline.errors import ConfigError, InvalidValue, MalformedRequest, Overloaded, Unauthenticated
from partyline.topics import check_pattern, is_printable
from partyline.trust.keys import Principal
from partyline.wire.json import check_depth
from partyline.wire.relay import user_text

if TYPE_CHECKING:
    from jwt.algorithms import Algorithm as Signature

Algorithm = Literal["HS256", "RS256", "EdDSA"]

MAX_TOKEN: Final = 8_192  # characters
MIN_SECRET: Final = 32  # bytes, RFC 7518 3.2: not smaller than the hash
MAX_QUERY_LIFE: Final = 300.0  # seconds: addresses are written to logs and histories
_MIN_RSA: Final = 2_048  # bits, RFC 7518 3.3
_MAX_SET: Final = 100  # keys
MAX_TOKEN_ID: Final = 256  # characters of a jti
_AHEAD: Final = 60.0  # seconds that an issuer's clock may be ahead of ours

_SHAPE: Final = re.compile(r"[A-Za-z0-9_-]+\.[A-Za-z0-9_-]+\.[A-Za-z0-9_-]+\Z")
_TYPES: Final = ("jwt", "at+jwt")  # RFC 8725 3.11: tokens for other purposes say so
_EXTRA: Final = "jwt_keys: tokens need PyJWT with cryptography: pip install 'partyline-server[jwt]'"


class _Header(msgspec.Struct):
    alg: str
    kid: str | None = None
    typ: str | None = None
    crit: Any = msgspec.UNSET


class _Rights(msgspec.Struct, forbid_unknown_fields=True):
    publish: list[str] = []
    subscribe: list[str] = []


class _Claims(msgspec.Struct):
    sub: int | str
    exp: float
    iat: float | None = None
    nbf: float | None = None
    aud: str | list[str] | None = None
    iss: str | None = None
    jti: str | None = None
    topics: list[str] | _Rights = []
    admin: bool = False


@dataclass(frozen=True, slots=True)
class Key:
    """A key to verify signatures with, and the id by which a token's header may name it."""

    kid: str | None
    material: Any = field(repr=False)


@dataclass(slots=True)
class Signer:
    """An issuer of tokens: its keys, all of one algorithm, and the claims that its tokens must have.

    `audience` and `issuer` are compared with `aud` and `iss` if they are set; `leeway` is in seconds; without
    `admin` no token of these keys has admin rights. `keys` may be replaced while the server runs.

    `renew` is called for each token, with True if no key fits it, and returns whether keys are being fetched.
    """

    algorithm: Algorithm
    keys: tuple[Key, ...]
    audience: str | None = None
    issuer: str | None = None
    leeway: float = 0.0
    admin: bool = False
    renew: Callable[[bool], bool] | None = None

    def fitting(self, kid: str | None) -> Iterator[Key]:
        """The keys that a token naming `kid` may be signed with."""
        for key in self.keys:
            # A token without kid is tried with the key, if there is only one.
            if key.kid in (None, kid) or (kid is None and len(self.keys) == 1):
                yield key


class Tokens:
    """Verifies tokens. `max_life` is the longest that one may live, in seconds.

    That counts from `iat` if a token has one, otherwise from now.
    """

    __slots__ = ("_max_life", "_signatures", "_signers")

    def __init__(self, signers: Sequence[Signer], max_life: float) -> None:
        self._signers = tuple(signers)
        self._max_life = max_life
        self._signatures = {signer.algorithm: signature(signer.algorithm) for signer in signers}

    def verify(self, token: str, now: float, *, longest: float | None = None) -> Principal:
        """The principal that a token stands for. `now` is seconds since 1970. `longest` bounds `exp - iat`, and makes
        both required.

        Raises Unauthenticated, with the code `token_expired` if only its time is over; Overloaded with the code
        `keys_unavailable` while the key that it names is being fetched.
        """
        if len(token) > MAX_TOKEN:
            raise _refusal(f"it is longer than {MAX_TOKEN} characters")
        if not _SHAPE.match(token):
            raise _refusal("it is not three parts of base64url with dots between them")
        head, body, tail = token.split(".")
        header = _read(head, "header", _Header)
        if header.crit is not msgspec.UNSET:
            raise _refusal("its header has crit, but no extension is understood here")  # RFC 7515 4.1.11
        if header.typ is not None and header.typ.lower().removeprefix("application/") not in _TYPES:
            raise _refusal("its header has a typ other than JWT and at+jwt")
        signer = self._signer(header, f"{head}.{body}".encode(), _decoded(tail, "signature"))
        return self._principal(signer, _read(body, "payload", _Claims), now, longest)

    def _signer(self, header: _Header, signed: bytes, mark: bytes) -> Signer:
        """The signer whose signature `mark` is. Raises Unauthenticated."""
        signers = [signer for signer in self._signers if signer.algorithm == header.alg]
        if not signers:
            raise _refusal("no key of this server has the alg in its header")
        fits = False
        for signer in signers:
            if signer.renew is not None:
                signer.renew(False)
            for key in signer.fitting(header.kid):
                fits = True
                if self._signatures[signer.algorithm].verify(signed, key.material, mark):
                    return signer
        if fits:
            raise _refusal("its signature is not by a key of this server")
        coming = [signer.renew(True) for signer in signers if signer.renew is not None]
        if any(coming):
            raise Overloaded("the keys that sign tokens are being fetched: try again", code="keys_unavailable")
        raise _refusal("no key of this server has the kid in its header")

    def _principal(self, signer: Signer, claims: _Claims, now: float, longest: float | None) -> Principal:
        leeway, iat = signer.leeway, claims.iat
        for name in ("exp", "iat", "nbf"):
            value = getattr(claims, name)
            if value is not None and not math.isfinite(value):
                raise _refusal(f"{name} is not a time", name)
        if now >= claims.exp + leeway:
            raise _refusal("its time is over: get a new one", "exp", "token_expired")
        if claims.nbf is not None and now < claims.nbf - leeway:
            raise _refusal("its time has not come (nbf)", "nbf")
        if iat is not None and now < iat - max(leeway, _AHEAD):
            raise _refusal("it was issued in the future (iat)", "iat")
        if claims.exp - (now if iat is None else iat) > self._max_life:
            raise _refusal(f"exp is too far away: it may live {self._max_life:g} s at most (jwt_max_life)", "exp")
        if longest is not None and (iat is None or claims.exp - iat > longest):
            raise _refusal(f"in an address it needs iat, and may live {longest:g} s at most", "exp")
        audience = [claims.aud] if isinstance(claims.aud, str) else claims.aud
        # RFC 7519 4.1.3: a token that names an audience is for nobody else.
        if (audience is not None or signer.audience is not None) and signer.audience not in (audience or ()):
            raise _refusal("it is for another audience (aud)", "aud")
        if signer.issuer is not None and claims.iss != signer.issuer:
            raise _refusal("it is of another issuer (iss)", "iss")
        if claims.jti is not None and not (0 < len(claims.jti) <= MAX_TOKEN_ID and is_printable(claims.jti)):
            raise _refusal(f"jti is not 1-{MAX_TOKEN_ID} printable characters", "jti")
        rights = claims.topics
        publish, subscribe = (rights, rights) if isinstance(rights, list) else (rights.publish, rights.subscribe)
        try:
            user = user_text(claims.sub)
            for pattern in (*publish, *subscribe):
                check_pattern(pattern, "topics")
        except InvalidValue as error:
            name = "topics" if error.field == "topics" else "sub"
            raise _refusal(
                "topics holds something that is not a topic pattern" if name == "topics" else "sub is not a user id",
                name,
            ) from None
        return Principal(
            tuple(publish),
            tuple(subscribe),
            claims.admin and signer.admin,
            user=user,
            expires=claims.exp + leeway,
            token_id=claims.jti,
            name=f"user {user}",
            issued=iat,
        )


def revocation_life(max_life: float, leeways: Iterable[float]) -> float:
    """How long a revocation is kept, in seconds: after that, no token from before it can still be valid."""
    return max_life + max(leeways, default=0.0) + _AHEAD


def looks_like_token(credential: str) -> bool:
    """Whether a credential that is not a known API key looks like a token."""
    return credential.count(".") == 2


# Keys


def signature(algorithm: Algorithm) -> Signature:
    """PyJWT's implementation of an algorithm. Raises ConfigError if PyJWT is not installed."""
    try:
        import cryptography  # noqa: F401 - PyJWT can be imported without it, and fails later
        import jwt
    except ImportError:
        raise ConfigError(_EXTRA, field="jwt_keys") from None
    return jwt.PyJWS().get_algorithm_by_name(algorithm)


def secret_key(secret: bytes, kid: str | None = None) -> Key:
    """A secret for HS256. Raises ConfigError if it is too short, or is another kind of key."""
    if len(secret) < MIN_SECRET:
        raise _unusable(
            f"a secret of {len(secret)} bytes can be guessed: HS256 needs {MIN_SECRET} random bytes at least "
            "(RFC 7518 3.2): `openssl rand -hex 32` makes one"
        )
    method = signature("HS256")
    try:
        return Key(kid, method.prepare_key(secret))
    except _errors():
        raise _unusable("the secret is a public key or a certificate, which everybody may know") from None


def public_key(algorithm: Algorithm, pem: str, kid: str | None = None) -> Key:
    """A public key, from PEM text. Raises ConfigError if it is not a key for this algorithm, or is too short."""
    method = signature(algorithm)
    try:
        material = method.prepare_key(pem)
    except _errors():
        raise _unusable(f"the public key is not one for {algorithm}, as PEM (-----BEGIN PUBLIC KEY-----)") from None
    _check_public(algorithm, material)
    return Key(kid, material)


def signing_key(pem: bytes) -> tuple[Algorithm, Key]:
    """A private key, from PEM, and its algorithm. Raises ConfigError if it is neither RSA nor Ed25519."""
    signature("RS256")
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
    from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey
    from cryptography.hazmat.primitives.serialization import load_pem_private_key

    try:
        material = load_pem_private_key(pem, password=None)
    except _errors():
        raise _unusable("the file holds no private key as PEM without a password") from None
    if isinstance(material, Ed25519PrivateKey):
        return "EdDSA", Key(None, material)
    if isinstance(material, RSAPrivateKey):
        _check_public("RS256", material.public_key())
        return "RS256", Key(None, material)
    raise _unusable("the private key is neither RSA nor Ed25519")


def key_set(algorithm: Algorithm, text: bytes) -> tuple[Key, ...]:
    """The keys in a JWK set (RFC 7517 5) that are for this algorithm. Raises ConfigError if there are none."""
    signature(algorithm)
    import jwt

    try:
        keys = msgspec.json.decode(text, type=_KeySet).keys
    except msgspec.MsgspecError:
        raise _unusable('the key set is not JSON such as {"keys": [...]}') from None
    found: list[Key] = []
    unusable: tuple[type[Exception], ...] = (*_errors(), ConfigError)
    for one in keys[:_MAX_SET]:
        # RFC 7517 4.2, 4.4: the purpose of a key. A private key does not belong in a set for verification.
        if one.get("use", "sig") != "sig" or one.get("alg", algorithm) != algorithm or "d" in one:
            continue
        kid = one.get("kid")
        try:
            material = jwt.PyJWK(one, algorithm).key
            _check_public(algorithm, material)
        except unusable:
            continue
        found.append(Key(kid if isinstance(kid, str) else None, material))
    if not found:
        raise _unusable(f"the key set has no public key for {algorithm}")
    return tuple(found)


class _KeySet(msgspec.Struct):
    keys: list[dict[str, Any]]


def _check_public(algorithm: Algorithm, material: object) -> None:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
    from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey

    wanted = RSAPublicKey if algorithm == "RS256" else Ed25519PublicKey
    if not isinstance(material, wanted):
        raise _unusable(
            f"the key is not a public one for {algorithm}; the private key stays with the issuer of the tokens"
        )
    if isinstance(material, RSAPublicKey) and material.key_size < _MIN_RSA:
        raise _unusable(f"an RSA key of {material.key_size} bits can be broken: RS256 needs {_MIN_RSA} (RFC 7518 3.3)")


def _errors() -> tuple[type[Exception], ...]:
    """The exceptions that PyJWT and cryptography raise for a key that they cannot use."""
    import jwt
    from cryptography.exceptions import UnsupportedAlgorithm

    return (jwt.PyJWTError, UnsupportedAlgorithm, ValueError, TypeError, KeyError, AttributeError)


def _unusable(why: str) -> ConfigError:
    return ConfigError(f"jwt_keys: {why}", field="jwt_keys")


# Reading


def _decoded(part: str, name: str) -> bytes:
    """Decode base64url without padding (RFC 7515 2). Only the canonical spelling of the bytes is accepted."""
    try:
        data = base64.b64decode(part + "=" * (-len(part) % 4), altchars=b"-_", validate=True)
    except ValueError:
        raise _refusal(f"its {name} is not base64url") from None
    if base64.urlsafe_b64encode(data).rstrip(b"=") != part.encode():
        raise _refusal(f"its {name} is not base64url")
    return data


def _read(part: str, name: str, kind: type[Any]) -> Any:
    data = _decoded(part, name)
    try:
        check_depth(data)
        value = json.loads(data.decode(), object_pairs_hook=_once, parse_constant=_no_constant)
        return msgspec.convert(value, kind)
    except msgspec.ValidationError as error:
        found = re.search(r"`\$\.([a-z]+)|field `([a-z]+)`", str(error))
        claim = (found[1] or found[2]) if found else None
        raise _refusal(f"{claim or f'its {name}'} is missing or of the wrong type", claim) from None
    except (ValueError, RecursionError, OverflowError, MalformedRequest):
        raise _refusal(f"its {name} is not a JSON object with each name once") from None


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Refuse a name that occurs twice (RFC 7519 4): an attacker could use that readers disagree on which one counts."""
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("a name stands twice")
    return found


def _no_constant(text: str) -> NoReturn:
    raise ValueError(f"{text} is not JSON")


def _refusal(why: str, claim: str | None = None, code: str | None = None) -> Unauthenticated:
    return Unauthenticated(f"this token does not count: {why}", code=code, field=claim)
