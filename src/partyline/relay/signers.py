"""The keys that verify tokens, as the settings name them: read from files, or fetched from an address."""

from __future__ import annotations

import asyncio
import time
import urllib.request
from collections.abc import Callable, Iterable
from typing import Any, Final, cast

from partyline import log
from partyline.entries import JwtKey
from partyline.errors import ConfigError
from partyline.trust.tokens import (
    Algorithm,
    Key,
    Signer,
    key_set,
    public_key,
    secret_key,
    signature,
    signing_key,
)

_log = log.get("relay")

_MAX_FILE: Final = 256 * 1024  # bytes of a key file or a fetched set
_PATIENCE: Final = 5.0  # seconds for a whole fetch
STALE: Final = 600.0  # seconds after which a set in use is fetched again
AGAIN: Final = 30.0  # seconds between two fetches for a key id that is not in the set


def check_keys(keys: Iterable[JwtKey]) -> None:
    """Raise ConfigError for keys that cannot be used, or if PyJWT is missing. Files are not read."""
    for key in keys:
        signature(_algorithm(key))
        if key.secret is not None or key.public_key is not None:
            read_keys(key)


def read_keys(key: JwtKey) -> tuple[Key, ...]:
    """The keys of one entry. An address has no keys yet: it is fetched later. Raises ConfigError."""
    algorithm = _algorithm(key)
    if key.secret is not None:
        return (secret_key(key.secret.encode(), key.kid),)
    if key.secret_file is not None:
        return (secret_key(read_file(key.secret_file).rstrip(b"\r\n"), key.kid),)
    if key.public_key is not None:
        return (public_key(algorithm, key.public_key, key.kid),)
    if key.public_key_file is not None:
        return (public_key(algorithm, read_file(key.public_key_file).decode("ascii", "replace"), key.kid),)
    if key.jwks_file is not None:
        return key_set(algorithm, read_file(key.jwks_file))
    return ()


def private_key(data: bytes) -> tuple[Algorithm, Key]:
    """The key in a file that signs tokens, and its algorithm: a private key in PEM, or a secret. Raises ConfigError."""
    return signing_key(data) if data.lstrip().startswith(b"-----BEGIN") else ("HS256", secret_key(data.rstrip(b"\r\n")))


def signers(keys: Iterable[JwtKey]) -> list[Signer]:
    """The signers of settings that `check_keys` has accepted. Reads files, and begins to fetch from addresses.

    Runs on the loop. Raises ConfigError.
    """
    found: list[Signer] = []
    for key in keys:
        signer = Signer(_algorithm(key), read_keys(key), key.audience, key.issuer, key.leeway, key.admin)
        if key.jwks_url is not None:
            signer.renew = RemoteKeys(signer, key.jwks_url).renew
        found.append(signer)
    for signer in found:  # only now, since nothing in the settings can be wrong from here on
        if signer.renew is not None:
            signer.renew(False)
    return found


class RemoteKeys:
    """Keeps the keys of a signer up to date with a key set at an address, which is fetched on a thread.

    While the address cannot be reached, the keys that were fetched last stay.
    """

    def __init__(
        self,
        signer: Signer,
        url: str,
        *,
        fetch: Callable[[str], bytes] | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._signer = signer
        self._url = url
        self._fetch = fetch or fetch_set
        self._clock = clock
        self._asked: float | None = None  # when the last fetch began
        self._fetching = False

    def renew(self, missing: bool) -> bool:
        """Start a fetch if one is due, and do not wait for it. `missing`: a token named a key that is not there.

        True if there may be other keys soon, so that a client should try again.
        """
        pause = AGAIN if missing or not self._signer.keys else STALE
        elapsed = None if self._asked is None else self._clock() - self._asked
        # One fetch at a time, unless a server holds it up by sending a byte now and then.
        if elapsed is None or elapsed >= (STALE if self._fetching else pause):
            self._asked, self._fetching = self._clock(), True
            loop = asyncio.get_running_loop()
            loop.run_in_executor(None, self._fetch, self._url).add_done_callback(self._fetched)
        return self._fetching or not self._signer.keys

    def _fetched(self, done: asyncio.Future[bytes]) -> None:
        self._fetching = False
        if done.cancelled():
            return
        try:
            self._signer.keys = key_set(self._signer.algorithm, done.result())
        except ConfigError as error:
            _log.warning("the fetched keys cannot be used", reason=error.message)
        except (OSError, ValueError) as error:
            _log.warning("the keys that sign tokens could not be fetched", reason=str(error))


class _NoRedirects(urllib.request.HTTPRedirectHandler):
    def redirect_request(self, *_: Any) -> None:
        """Follow no redirect: the address is pinned."""


def fetch_set(url: str) -> bytes:
    """Fetch a pinned address. Blocks, for 5 seconds in all. Raises OSError, which URLError is."""
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}), _NoRedirects())
    due = time.monotonic() + _PATIENCE
    body = bytearray()
    with opener.open(url, timeout=_PATIENCE) as answer:
        while piece := answer.read1(65536):
            body += piece
            if len(body) > _MAX_FILE or time.monotonic() > due:
                raise OSError(f"more than {_MAX_FILE} bytes, or slower than {_PATIENCE:g} seconds")
    return bytes(body)


def read_file(path: str) -> bytes:
    """The content of a key file. Raises ConfigError."""
    try:
        with open(path, "rb") as source:
            data = source.read(_MAX_FILE + 1)
    except OSError as error:
        raise _unusable(f"{path!r} cannot be read: {error.strerror}") from None
    if len(data) > _MAX_FILE:
        raise _unusable(f"{path!r} is larger than any key")
    return data


def _algorithm(key: JwtKey) -> Algorithm:
    return cast("Algorithm", key.algorithm)


def _unusable(why: str) -> ConfigError:
    return ConfigError(f"jwt_keys: {why}", field="jwt_keys")
