"""`partyline key`: a new API key."""

from __future__ import annotations

import json
import secrets

from partyline.cli.output import write
from partyline.trust.keys import key_hash


def make_key(*, as_json: bool) -> None:
    """Print a key of 256 random bits and its hash. The key is shown once and stored nowhere."""
    key = "pl_" + secrets.token_urlsafe(32)
    hashed = key_hash(key)
    if as_json:
        write(json.dumps({"key": key, "hash": hashed}) + "\n")
        return
    write(
        f"key   {key}\n"
        f"hash  {hashed}\n\n"
        "Clients send the key: Authorization: Bearer KEY\n"
        "The server gets the hash: --api-key HASH, or in the settings file:\n\n"
        f'[[api_keys]]\nhash = "{hashed}"\npublish = [">"]\nsubscribe = [">"]\nadmin = false\n'
    )
