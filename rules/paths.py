"""Endpoints as the file names them: `/v1/models` and `/models` are one, and a path means all that is below it too.

Which endpoints there are is not known here: whoever loads the file hands their table in. So is which of them are the
gateway's own, such as /metrics: `/v1` alone means all the others, though each of the own ones has a /v1 as well.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from typing import Annotated

from pydantic import AfterValidator, BeforeValidator, Field

from rules.values import as_list, near

OPENAI = "/v1"
"""All endpoints that OpenAI has too."""


def path(value: str) -> str:
    """A path without its /v1 and without a slash at its end, or OPENAI; raises ValueError for what is none."""
    text = value.strip()
    if not text.startswith("/"):
        raise ValueError("a path begins with a slash, such as /v1/chat/completions")
    if text.endswith("*"):
        raise ValueError("a path means all that is below it too; write it without *")
    text = text.rstrip("/")
    if text == OPENAI:
        return text
    text = text.removeprefix(OPENAI) if text.startswith(f"{OPENAI}/") else text
    if text in ("", OPENAI):
        raise ValueError("this would be every path; write /v1 for all that OpenAI has too, or leave `endpoints` out")
    return text


def meant(written: Iterable[str]) -> frozenset[str]:
    """Paths of a file that was read, as permits() takes them. Raises ValueError, as path()."""
    return frozenset(map(path, written))


def _written(value: str) -> str:
    """A path as it stands in the file: so it is told to people. Raises ValueError, as path()."""
    path(value)
    return value.strip()


Paths = Annotated[tuple[Annotated[str, AfterValidator(_written)], ...], BeforeValidator(as_list), Field(min_length=1)]


def unknown(value: str, known: Collection[str]) -> str | None:
    """What is wrong with a path that path() takes and that means none of `known`, which are without their /v1."""
    wanted = path(value)
    if wanted == OPENAI or any(one == wanted or one.startswith(f"{wanted}/") for one in known):
        return None
    prefix = OPENAI if value.strip().startswith(f"{OPENAI}/") else ""
    plain = [f"{prefix}{one}" for one in known if "{" not in one]
    return f"there is no such endpoint{near(prefix + wanted, plain) or f'; there are {", ".join(plain)}'}"


def permits(listed: frozenset[str], endpoint: str, *, own: bool) -> bool:
    """Whether an endpoint, as its table has it, is one of those that are listed, or below one. `own`: it is one of the
    gateway's own."""
    if OPENAI in listed and not own:
        return True
    while endpoint:
        if endpoint in listed:
            return True
        endpoint = endpoint.rpartition("/")[0]
    return False
