"""Engine.IO 4 and 3, sans-IO: `handshake` (what a client asks for), `packets`, `payloads`, `session`."""
