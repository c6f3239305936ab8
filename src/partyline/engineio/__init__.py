"""Engine.IO: one connection over whatever transports carry it."""
