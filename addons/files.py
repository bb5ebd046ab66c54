"""Small files that people name: rules, .env, secrets. What is no such file is said at once, and never waited for.

Opening a pipe waits for somebody to write into it, reading a device may never end, and where a mounted file is missing
a container finds a folder of its name. A pipe can be meant (`--rules <(make-rules)`, a .env that a password manager
hands over): its writer has so long to begin, and to go on.
"""

from __future__ import annotations

import os
import select
import stat
import time
from pathlib import Path

PATIENCE = 10.0
"""Seconds that the writer of a pipe may be silent."""
_PIECE = 65536


class Unreadable(ValueError):
    """The message says why, and goes on from the file's name."""


def read_small(file: Path, most: int, *, pipes: bool = False, patience: float = PATIENCE) -> bytes:
    """All of a file, `most` bytes at the most. `pipes`: it need not be a plain file.

    Raises FileNotFoundError where there is none, IsADirectoryError for a folder, and Unreadable for all else.
    """
    try:
        number = os.open(file, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except (FileNotFoundError, NotADirectoryError) as error:
        raise FileNotFoundError(error.errno, error.strerror) from None
    except OSError as error:
        raise Unreadable(f"cannot be read: {error.strerror}") from None
    try:
        mode = os.fstat(number).st_mode
        if stat.S_ISDIR(mode):
            raise IsADirectoryError
        if not (stat.S_ISREG(mode) or (pipes and (stat.S_ISFIFO(mode) or stat.S_ISCHR(mode)))):
            raise Unreadable("is no plain file, but a pipe or a device")
        os.set_blocking(number, stat.S_ISCHR(mode))
        return _read(number, most, patience if stat.S_ISFIFO(mode) else None)
    except IsADirectoryError:
        raise
    except OSError as error:
        raise Unreadable(f"cannot be read: {error.strerror}") from None
    finally:
        os.close(number)


def _read(number: int, most: int, patience: float | None) -> bytes:
    content = b""
    while len(content) <= most:
        if patience is not None:
            _wait(number, patience)
        piece = os.read(number, _PIECE)
        if not piece:
            return content
        content += piece
    raise Unreadable(f"is too long: {_spelled(most)} at most")


def _wait(number: int, patience: float) -> None:
    """For a pipe to have something in it, or to be at its end."""
    watch = select.poll()
    watch.register(number, select.POLLIN)
    end = time.monotonic() + patience
    while not watch.poll(max(0.0, end - time.monotonic()) * 1000):
        if time.monotonic() >= end:
            raise Unreadable(f"is a pipe into which nobody has written for {patience:g} s")


def as_text(content: bytes, encoding: str = "utf-8") -> str:
    """Raises Unreadable."""
    try:
        return content.decode(encoding)
    except UnicodeDecodeError as error:
        raise Unreadable(f"is not UTF-8 text: see line {content.count(b'\n', 0, error.start) + 1}") from None


def _spelled(size: int) -> str:
    return f"{size // 2**20} MiB" if size % 2**20 == 0 else f"{size // 1024} KiB"
