"""Engine.IO 4 and 3, sans-IO: `handshake` (who asks for what), `packets`, `payloads` (polling bodies), `session`."""
