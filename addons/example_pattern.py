"""A text that fits a regular expression, for the patterns that people put into schemas.

The trap: an expression is the caller's, and to run one can take for ever. So it is never run: what is made of it is
right by its making, and of what is not understood (look-around, back references) nothing is made.
"""

from __future__ import annotations

MAX_LENGTH = 1_000
_ANY = "sandbox-0 _ABC"
"""Characters to choose from, the likeliest first."""
_CLASSES: dict[str, list[tuple[str, str]]] = {
    "d": [("0", "9")],
    "w": [("a", "z"), ("A", "Z"), ("0", "9"), ("_", "_")],
    "s": [(" ", " "), ("\t", "\r")],
}
_CONTROLS = {"n": "\n", "r": "\r", "t": "\t"}


class _NotUnderstood(Exception):
    """Nothing can be made of it."""


def example_of(pattern: str, least: int = 0, most: int = MAX_LENGTH) -> str | None:
    """A text in which the pattern is found, of `least` to `most` characters; None where none was found."""
    try:
        shortest = _Reader(pattern, 0).all()
        made = shortest if len(shortest) >= least else _Reader(pattern, least - len(shortest)).all()
    except (_NotUnderstood, IndexError, ValueError, RecursionError):
        return None
    if len(made) < least and not pattern.endswith("$"):
        made = made.ljust(least, ".")
    return made if least <= len(made) <= min(most, MAX_LENGTH) else None


class _Reader:
    """Makes the shortest text, with as many repetitions more as `spare` says."""

    def __init__(self, pattern: str, spare: int) -> None:
        self._pattern = pattern
        self._spare = spare
        self._at = 0

    def all(self) -> str:
        made = self._choice()
        if self._at < len(self._pattern):
            raise _NotUnderstood
        return made

    def _next(self) -> str:
        return self._pattern[self._at : self._at + 1]

    def _take(self) -> str:
        char = self._pattern[self._at]
        self._at += 1
        return char

    def _choice(self) -> str:
        """The first of the alternatives."""
        made = self._sequence()
        while self._next() == "|":
            self._at += 1
            spare = self._spare
            self._sequence()
            self._spare = spare
        return made

    def _sequence(self) -> str:
        made: list[str] = []
        length = 0
        while self._next() not in ("", "|", ")"):
            one = self._one()
            made.append(one * self._times(len(one)))
            length += len(made[-1])
            if length > MAX_LENGTH:
                raise _NotUnderstood
        return "".join(made)

    def _one(self) -> str:
        match self._take():
            case "^" | "$":
                return ""
            case ".":
                return "s"
            case "(":
                return self._group()
            case "[":
                return self._set()
            case "\\":
                return self._escaped()
            case "*" | "+" | "?" | "{":
                raise _NotUnderstood
            case char:
                return char

    def _group(self) -> str:
        if self._next() == "?":
            self._at += 1
            if self._take() != ":":
                raise _NotUnderstood
        made = self._choice()
        self._take()  # its end: nothing else ends a choice
        return made

    def _escaped(self) -> str:
        """A character for what follows a backslash."""
        char = self._next()
        if char.lower() in _CLASSES:
            self._at += 1
            return _of([*_CLASSES[char.lower()]], negated=char.isupper())
        return self._literal()

    def _literal(self) -> str:
        char = self._take()
        if char in _CONTROLS:
            return _CONTROLS[char]
        if char.isalnum():
            raise _NotUnderstood
        return char

    def _set(self) -> str:
        """A character of a set."""
        negated = self._next() == "^"
        self._at += negated
        ranges: list[tuple[str, str]] = []
        while self._next() != "]" or not ranges:
            if self._next() == "\\" and self._pattern[self._at + 1] in _CLASSES:
                ranges += _CLASSES[self._pattern[self._at + 1]]
                self._at += 2
                continue
            first = self._member()
            if self._next() == "-" and self._pattern[self._at + 1] != "]":
                self._at += 1
                ranges.append((first, self._member()))
            else:
                ranges.append((first, first))
        self._at += 1
        return _of(ranges, negated=negated)

    def _member(self) -> str:
        char = self._take()
        return char if char != "\\" else self._literal()

    def _times(self, length: int) -> int:
        """How often what comes before, of that length, is repeated."""
        least, most = 1, 1
        match self._next():
            case "*":
                least, most = 0, MAX_LENGTH
            case "+":
                least, most = 1, MAX_LENGTH
            case "?":
                least, most = 0, 1
            case "{":
                end = self._pattern.index("}", self._at)
                low, comma, high = self._pattern[self._at + 1 : end].partition(",")
                least = int(low or 0)
                most = int(high) if high else MAX_LENGTH if comma else least
                self._at = end
            case _:
                return 1
        self._at += 1
        if self._next() == "?":
            self._at += 1
        more = min(-(-self._spare // max(length, 1)), max(most - least, 0))
        self._spare = max(self._spare - more * length, 0)
        if least + more > MAX_LENGTH:
            raise _NotUnderstood
        return least + more


def _of(ranges: list[tuple[str, str]], *, negated: bool) -> str:
    """A character within one of these ranges, or of none of them."""
    found = (char for char in _ANY if negated != any(first <= char <= last for first, last in ranges))
    char = next(found, "" if negated else ranges[0][0])
    if not char:
        raise _NotUnderstood
    return char
