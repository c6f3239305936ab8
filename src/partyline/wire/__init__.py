"""Sans-IO protocols: bytes in, values out. No loop, no socket, no clock; time is an argument."""
