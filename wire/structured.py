"""Answers that must be JSON, or must fit a schema: judged when they are complete, and asked for once more.

The traps: most servers do not hold a model to a schema, and an answer that almost fits breaks the caller's program far
from here. And a schema is a program of the caller's that runs here: it may name other documents, hold patterns that
take for ever, and branches that double at every step. So nothing is fetched, patterns have a limit, and branches are
counted.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any, NamedTuple

import jsonschema_rs
import orjson

from wire.errors import BadRequest, Fault, NotAsAsked
from wire.openai import ChatRequest, Delta, Finished, Json, ModelRequest, Reading, Reply, encoded

MAX_BRANCHES = 1_000_000
"""How often one value may be looked at by the branches of a schema; a look takes some 30 ns."""
MAX_EXPLAINED = 2_000
"""Branches up to which it is said what does not fit; that takes a thousand times as long."""
MAX_WORDS = 300
"""Characters about what does not fit."""
_SCHEMA = "response_format.json_schema.schema"
_PATTERNS = jsonschema_rs.FancyRegexOptions(backtrack_limit=100_000, size_limit=1_000_000)


class _Schema(NamedTuple):
    validator: jsonschema_rs.Validator
    explained: bool
    """It is cheap to say what does not fit."""


@dataclass(frozen=True, slots=True)
class Expected:
    """What a complete answer must be: JSON; an object, or what fits a schema."""

    schema: _Schema | None = None
    an_object: bool = False

    def why_not(self, text: str) -> str | None:
        """Where and why a text is not what is expected, in words that are short and quote nothing; None where it is."""
        try:
            value = orjson.loads(text)
        except orjson.JSONDecodeError as error:
            return f"it is not JSON: {error.msg} at line {error.lineno}, column {error.colno}"[:MAX_WORDS]
        if self.an_object and not isinstance(value, dict):
            return "it is JSON, but not an object"
        return None if self.schema is None else _misfit(self.schema, value)


_JSON = Expected()
_OBJECT = Expected(an_object=True)


def expected(request: ModelRequest) -> Expected | None:
    """What the answer must be; None for text. Raises BadRequest for a strict schema that is none.

    Without `strict` the schema is a wish, as it is at OpenAI: the answer must be JSON.
    """
    match request.body.get("response_format"):
        case {"type": "json_object"}:
            return _OBJECT
        case {"type": "json_schema", "json_schema": {"strict": True, "schema": dict(schema)}}:
            return Expected(schema=_compiled(encoded(schema)))
        case {"type": "json_schema"}:
            return _JSON
        case _:
            return None


@lru_cache(maxsize=256)
def _compiled(schema: bytes) -> _Schema:
    """By its JSON: apps send the same schema with every call."""
    given: Json = orjson.loads(schema)
    try:
        branches = _Branches(given)
        count = branches.of(given, 0)
        if count > MAX_BRANCHES:
            raise BadRequest(f"'{_SCHEMA}' has too many branches to be checked.", param=_SCHEMA)
        validator = jsonschema_rs.validator_for(given, offline=True, pattern_options=_PATTERNS, mask="the value")
    except jsonschema_rs.ValidationError as error:
        raise _no_schema(f"{_spot(error.instance_path)}: {error.message}") from None
    except ValueError as error:
        raise _no_schema(str(error)) from None
    # Of a tree whose nodes are one of several things, all of them would be explained on every level.
    return _Schema(validator, explained=count <= MAX_EXPLAINED and not (branches.recur and branches.fork))


def _no_schema(why: str) -> BadRequest:
    return BadRequest(f"'{_SCHEMA}' is not a valid JSON Schema: {why[:MAX_WORDS]}.", param=_SCHEMA)


def _spot(path: Sequence[str | int]) -> str:
    """`$.items[2].price`"""
    steps = (f"[{step}]" if isinstance(step, int) else f".{step}" for step in path)
    return "$" + "".join(steps)[: MAX_WORDS // 2]


def _misfit(schema: _Schema, value: Any) -> str | None:
    try:
        if schema.validator.is_valid(value):
            return None
        error = next(schema.validator.iter_errors(value)) if schema.explained else None
    except ValueError as caught:  # values that are nested too deeply
        return f"it cannot be checked: {caught}"[:MAX_WORDS]
    if error is None:
        return "it does not fit the schema"
    return f"{_spot(error.instance_path)}: {error.message[: MAX_WORDS // 2]}"


class _Branches:
    """Counts how often a schema looks at one value, at the most: branches within branches multiply."""

    def __init__(self, root: Json) -> None:
        self._root = root
        self._known: dict[int, int] = {}
        self.recur = False
        """A schema was found within itself."""
        self.fork = False
        """One value was looked at by several schemas."""

    def of(self, schema: Any, depth: int) -> int:
        """Raises ValueError for a chain of schemas that is too long. A schema within itself counts once."""
        if not isinstance(schema, dict):
            return 1
        known = self._known.get(id(schema))
        if known is not None:
            self.recur = self.recur or not known
            return known
        if depth > _MAX_DEPTH:
            raise ValueError("it is nested too deeply")
        self._known[id(schema)] = 0
        forks = _schemas(schema, _IN_PLACE)
        self.fork = self.fork or bool(forks)
        here = [*forks, *self._referred(schema)]
        inside = max((self.of(one, depth + 1) for one in _schemas(schema, _INSIDE)), default=0)
        count = 1 + inside + sum(self.of(one, depth + 1) for one in here)
        self._known[id(schema)] = count
        return count

    def _referred(self, schema: Json) -> list[Any]:
        reference = schema.get("$ref")
        if not isinstance(reference, str) or not reference.startswith("#"):
            return []
        found: Any = self._root
        for step in reference[1:].split("/")[1:]:
            name = step.replace("~1", "/").replace("~0", "~")
            found = found.get(name) if isinstance(found, dict) else None
        return [found]


_MAX_DEPTH = 300
_IN_PLACE = ("allOf", "anyOf", "oneOf", "not", "if", "then", "else", "dependentSchemas")
_INSIDE = (
    "properties",
    "patternProperties",
    "additionalProperties",
    "unevaluatedProperties",
    "propertyNames",
    "items",
    "prefixItems",
    "contains",
    "unevaluatedItems",
)


def _schemas(schema: Json, keywords: tuple[str, ...]) -> list[Any]:
    """The schemas under these keywords, whether there is one, a list or an object of them."""
    found: list[Any] = []
    for keyword in keywords:
        value = schema.get(keyword)
        if isinstance(value, list):
            found += value
        elif isinstance(value, dict) and keyword in ("properties", "patternProperties", "dependentSchemas"):
            found += value.values()
        elif value is not None:
            found.append(value)
    return found


class Fits:
    """The reader of a reply whose answer is judged before it ends: what does not fit ends in a NotAsAsked.

    An answer that was cut short by a limit or a filter, that is a refusal or calls tools, is not judged.
    """

    __slots__ = ("_expected", "_held", "_judged", "_reply", "_said")

    def __init__(self, reply: Reply, expected: Expected) -> None:
        self._reply = reply
        self._expected = expected
        self._said: list[str] = []
        """The text of choice 0."""
        self._held: list[Delta] = []
        """Its last piece, the one with finish_reason `stop`: nothing must look complete before it was judged."""
        self._judged = True
        """False for what is an answer in text."""

    def feed(self, data: bytes) -> list[Reading]:
        return self._read(self._reply.feed(data))

    def close(self) -> list[Reading]:
        return self._read(self._reply.close())

    def _read(self, readings: list[Reading]) -> list[Reading]:
        out: list[Reading] = []
        for reading in readings:
            match reading:
                case Delta(choice=0):
                    self._read_delta(reading, out)
                case Finished() | Fault() if self._held:
                    misfit = self._misfit()
                    if misfit is not None:
                        out.append(misfit)
                        break
                    out += [*self._held, reading]
                    self._held.clear()
                case _:
                    out.append(reading)
        return out

    def _read_delta(self, piece: Delta, out: list[Reading]) -> None:
        text = piece.delta.get("content")
        if text is not None:
            self._said.append(text)
        if not _NO_TEXT.isdisjoint(piece.delta):
            self._judged = False
        if piece.finish_reason == "stop" and self._judged:
            if piece.delta or piece.logprobs is not None:
                out.append(piece._replace(finish_reason=None))
            self._held.append(piece._replace(delta={}, logprobs=None))
        else:
            out.append(piece)

    def _misfit(self) -> NotAsAsked | None:
        text = "".join(self._said)
        why = self._expected.why_not(text)
        return None if why is None else NotAsAsked.of(text, _VERDICT + why)


_VERDICT = "gave an answer that is not what was asked for: "
_NO_TEXT = frozenset({"tool_calls", "function_call", "refusal"})


def repaired(request: ChatRequest, text: str, why: str) -> ChatRequest:
    """The request for another try: with the answer that did not fit, and what is wrong with it (a fault's message)."""
    wrong = why.removeprefix(_VERDICT)
    words = f"This answer is not what was asked for: {wrong}. Answer again, with nothing but the whole corrected JSON."
    tried = [{"role": "assistant", "content": text}, {"role": "user", "content": words}]
    return replace(request, body=request.body | {"messages": [*request.body["messages"], *tried]})
