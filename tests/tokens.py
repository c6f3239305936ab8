"""Tokens for tests: keys of each kind, and tokens made by hand, so that they can be wrong in every way."""

from __future__ import annotations

import base64
import functools
import json
import time
from typing import Any

import jwt
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey, generate_private_key
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat

SECRET = "0123456789abcdef" * 4
ED = Ed25519PrivateKey.generate()


def ed() -> Ed25519PrivateKey:
    """Another key like ED."""
    return Ed25519PrivateKey.generate()


@functools.cache
def rsa(bits: int = 2048, which: int = 0) -> RSAPrivateKey:
    """An RSA key, made once."""
    return generate_private_key(65537, bits)


def public_pem(key: Any) -> str:
    text: bytes = key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    return text.decode()


def private_pem(key: Any) -> str:
    text: bytes = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    return text.decode()


def jwk(key: Any, kid: str | None = None, **fields: Any) -> dict[str, Any]:
    """A public key as a JWK."""
    algorithm = "RS256" if isinstance(key, RSAPrivateKey) else "EdDSA"
    found = jwt.PyJWS().get_algorithm_by_name(algorithm).to_jwk(key.public_key(), as_dict=True)
    return {**found, **({} if kid is None else {"kid": kid}), **fields}


def part(data: bytes | dict[str, Any]) -> str:
    """One of a token's parts."""
    raw = data if isinstance(data, bytes) else json.dumps(data).encode()
    return base64.urlsafe_b64encode(raw).rstrip(b"=").decode()


def sign(payload: bytes | dict[str, Any], key: Any = SECRET, header: bytes | dict[str, Any] | None = None) -> str:
    """A token with this payload and header, whatever they say, signed as the key is."""
    algorithm = "HS256" if isinstance(key, str | bytes) else "RS256" if isinstance(key, RSAPrivateKey) else "EdDSA"
    signed = f"{part(header if header is not None else {'alg': algorithm, 'typ': 'JWT'})}.{part(payload)}"
    method = jwt.PyJWS().get_algorithm_by_name(algorithm)
    material = key.encode() if isinstance(key, str) else key
    return f"{signed}.{part(method.sign(signed.encode(), material))}"


def claims(sub: Any = "ann", life: float = 600.0, **fields: Any) -> dict[str, Any]:
    """What a token of a while says: everything allowed, from now on. None takes a claim out."""
    now = time.time()
    all_of_it = {"sub": sub, "iat": now, "exp": now + life, "topics": [">"], **fields}
    return {name: value for name, value in all_of_it.items() if value is not None}


def token(sub: Any = "ann", life: float = 600.0, **fields: Any) -> str:
    """A token of `claims`, with the common secret."""
    return sign(claims(sub, life, **fields))
