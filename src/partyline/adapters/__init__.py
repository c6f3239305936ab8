"""Connections to what carries messages between nodes. Each needs a package that is an extra of this one."""
