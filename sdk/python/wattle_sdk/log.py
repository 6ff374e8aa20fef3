"""Notes to whoever runs the host, under the invocation's id in its log.

A call that writes more than its limit ends there.
"""

from wit_world.imports.log import Level, write


def debug(message: str) -> None:
    """Notes something of interest only when looking for a fault."""
    write(Level.DEBUG, message)


def info(message: str) -> None:
    """Notes something of interest."""
    write(Level.INFO, message)


def warn(message: str) -> None:
    """Notes something that looks wrong."""
    write(Level.WARN, message)


def error(message: str) -> None:
    """Notes something that is wrong."""
    write(Level.ERROR, message)
