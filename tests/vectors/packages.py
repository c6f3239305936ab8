"""The npm packages that the vectors come from, and that live tests ask: two generations of each, side by side."""

from __future__ import annotations

PACKAGES = {
    "engine.io-parser": "engine.io-parser@5.2.3",
    "engine.io-parser-3": "engine.io-parser@2.2.1",
    "socket.io-parser": "socket.io-parser@4.2.7",
    "socket.io-parser-4": "socket.io-parser@3.4.5",
    "socket.io-msgpack-parser": "socket.io-msgpack-parser@3.0.2",
}
"""By the name under which they are required; the number after it is the protocol of an old one."""
