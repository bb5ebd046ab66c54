"""Text that others chose, for people's eyes."""

from __future__ import annotations


def one_line(text: str) -> str:
    """Text that a caller may have chosen: it neither breaks its line nor steers a terminal."""
    return text if text.isprintable() else "".join(char if char.isprintable() else "?" for char in text)
