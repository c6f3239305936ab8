"""`partyline token`: a token for trying things out, signed with a key from the settings."""

from __future__ import annotations

import json
import secrets
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from partyline.cli.output import write
from partyline.config import Settings, load
from partyline.entries import JwtKey
from partyline.errors import ConfigError, InvalidValue
from partyline.notation import duration
from partyline.relay.signers import check_keys, private_key, read_file, read_keys
from partyline.topics import check_pattern
from partyline.trust.tokens import MAX_TOKEN, Algorithm, Key, signature
from partyline.wire.relay import user_text

_NO_KEY: Final = (
    "no key can sign a token: give --secret-file, or --config with settings such as "
    'jwt_keys = [{{algorithm = "HS256", secret = "{secret}"}}]'
)


@dataclass(frozen=True, slots=True)
class Wish:
    """The claims of the token. `expires` is a duration as settings write it."""

    sub: str
    publish: tuple[str, ...]
    subscribe: tuple[str, ...]
    admin: bool
    expires: str


def make_token(
    wish: Wish, assigned: dict[str, str], file: str | None, *, kid: str | None, secret_file: Path | None, as_json: bool
) -> None:
    """Print the token, alone on its line. Raises ConfigError or InvalidValue."""
    settings = load(file=file, assigned=assigned).settings
    check_keys(settings.jwt_keys)
    named = [one for one in settings.jwt_keys if kid is None or one.kid == kid]
    algorithm: Algorithm = "HS256"
    if secret_file is None:
        configured: JwtKey | None = (chosen := _with_secret(named, kid))
        (key,) = read_keys(chosen)
    else:
        algorithm, key = private_key(read_file(str(secret_file)))
        configured = next((one for one in named if one.algorithm == algorithm), None)
    claims = _claims(wish, settings, configured)
    header = {"alg": algorithm, "typ": "JWT"}
    known_as = kid if configured is None else configured.kid
    if known_as is not None:
        header["kid"] = known_as
    token = _signed(header, claims, algorithm, key)
    if len(token) > MAX_TOKEN:
        raise InvalidValue(f"topics: the token would be longer than {MAX_TOKEN} characters: fewer patterns cover more")
    if as_json:
        write(json.dumps({"token": token, "header": header, "claims": claims}) + "\n")
    else:
        write(token + "\n")


def _with_secret(keys: list[JwtKey], kid: str | None) -> JwtKey:
    """The first of these keys that can sign. Raises ConfigError saying what to add."""
    for key in keys:
        if key.algorithm == "HS256":
            return key
    if keys or kid is not None:
        which = f"with the kid {kid[:40]!r} " if kid is not None else ""
        raise ConfigError(
            f"jwt_keys: no key {which}in the settings has a secret to sign with: "
            "give --secret-file, the secret or the private key (PEM) that belongs to it",
            field="jwt_keys",
        )
    raise ConfigError(_NO_KEY.format(secret=secrets.token_urlsafe(32)), field="jwt_keys")


def _claims(wish: Wish, settings: Settings, key: JwtKey | None) -> dict[str, Any]:
    try:
        life = duration(wish.expires)
    except ValueError as error:
        raise InvalidValue(f"--expires: {wish.expires[:40]!r} {error}", field="expires") from None
    if not 0 < life <= settings.jwt_max_life:
        raise InvalidValue(
            f"--expires: {life:g} s is not between 0 and {settings.jwt_max_life:g} s (jwt_max_life)", field="expires"
        )
    if wish.admin and key is not None and not key.admin:
        raise InvalidValue("--admin: the key may not give admin rights; set admin = true in its table", field="admin")
    now = int(time.time())
    claims: dict[str, Any] = {
        "sub": user_text(wish.sub, "--sub"),
        "iat": now,
        "exp": now + max(1, int(life)),
        "jti": secrets.token_hex(8),
        "topics": {
            "publish": [check_pattern(pattern, "--publish") for pattern in dict.fromkeys(wish.publish)],
            "subscribe": [check_pattern(pattern, "--subscribe") for pattern in dict.fromkeys(wish.subscribe)],
        },
    }
    if wish.admin:
        claims["admin"] = True
    if key is not None and key.audience is not None:
        claims["aud"] = key.audience
    if key is not None and key.issuer is not None:
        claims["iss"] = key.issuer
    return claims


def _signed(header: dict[str, str], claims: dict[str, Any], algorithm: Algorithm, key: Key) -> str:
    import jwt

    signature(algorithm)
    return jwt.encode(claims, key.material, algorithm, header)
