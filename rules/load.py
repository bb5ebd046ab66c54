"""rules.yaml -> Rules, or every fault in it at once, each with its line and a hint.

The file is read by reader.py; pydantic's complaints are led back to the line that caused them (complaints.py), and what
no noun can see by itself is crosschecks.py's.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Mapping
from dataclasses import replace
from typing import Any, cast

import yaml
from pydantic import ValidationError

from rules.complaints import Path, words_of
from rules.crosschecks import cross_checks
from rules.reader import MOST_VALUES, FileFault, Reader, TooMuch
from rules.schema import RulesFile
from rules.snapshot import Rules, compile_rules
from rules.tracing import tracing_of
from rules.values import is_short

_UNCLOSED = "a bracket, a brace or a quote is not closed"
_HINTS = (
    ("'\\t'", "YAML takes no tabs between its words: write spaces"),
    ("got '{'", """a `{` begins a mapping here: write the whole text in quotes, as "ollama/{model}" or "${NAME}\""""),
    ("scanning an alias", """a `*` begins an alias: write a pattern in quotes, as "gpt-*\""""),
    ("that cannot start any token", "write a text that begins with this sign in quotes"),
    (
        "mapping values are not",
        "a text with a colon in it needs quotes, or a line before this one is not indented as it should",
    ),
    ("expected <block end>", "lines that belong together begin in the same column"),
    ("end>'", _UNCLOSED),
    ("end of stream", _UNCLOSED),
)
"""What a person most likely did where PyYAML says such a thing; the first that fits is told."""
_ALIAS = re.compile(r"(found undefined alias) '(.*)'")
_OPENS = {
    "while parsing a flow mapping": "the `{`",
    "while parsing a flow sequence": "the `[`",
    "while scanning a quoted scalar": "the quote",
}
"""What PyYAML was in the middle of, when that goes over several lines -> the sign that began it."""


class RulesError(ValueError):
    """The file cannot be used; `faults` says all that is wrong with it."""

    def __init__(self, name: str, faults: Iterable[FileFault]) -> None:
        self.faults = tuple(sorted(dict.fromkeys(faults), key=_place))
        count = f"{len(self.faults)} faults" if len(self.faults) > 1 else "1 fault"
        super().__init__(f"{name} has {count}:\n" + "\n".join(f"  {fault}" for fault in self.faults))


def _place(fault: FileFault) -> tuple[int, list[tuple[int, str]]]:
    """What faults are sorted by: `[2]` stands before `[12]`."""
    parts = re.split(r"([0-9]+)", fault.where)  # every second one a number
    numbers = [part.lstrip("0") if at % 2 else part for at, part in enumerate(parts)]
    return fault.line, [(len(part) if at % 2 else 0, part) for at, part in enumerate(numbers)]


def load_rules(
    text: str,
    environment: Mapping[str, str],
    *,
    name: str = "rules.yaml",
    profiles: Iterable[str],
    endpoints: Collection[str] = (),
) -> Rules:
    """The rules in `text`; raises RulesError.

    `profiles` are the names that a provider's `profile` may have, `endpoints` the paths, without their /v1, that lists
    of `endpoints` may name; without any, nothing is said of those.
    """
    reader = Reader(environment)
    try:
        node = yaml.compose(text, Loader=yaml.SafeLoader)
        value = reader.build(node, ()) if node is not None else None
    except yaml.YAMLError as error:
        raise RulesError(name, [_syntax_fault(error)]) from None
    except RecursionError:
        raise RulesError(name, [FileFault(0, "", "it is nested too deeply")]) from None
    except TooMuch:
        message = f"it has more than {MOST_VALUES:,} values, or has them by aliases that repeat one another"
        raise RulesError(name, [FileFault(0, "", message)]) from None
    if node is None:
        raise RulesError(name, [FileFault(0, "", "it is empty; a smallest one has `providers:` and `rules:`")])
    if not isinstance(value, dict):
        raise RulesError(
            name, [*reader.faults, FileFault(1, "", "it must be a mapping of proxy, providers, rules, ...")]
        )
    found = cross_checks(value, reader, profiles, endpoints)
    try:
        file = RulesFile.model_validate(value)
    except ValidationError as error:
        found += [_schema_fault(item, value, reader) for item in error.errors(include_url=False)]
        raise RulesError(name, reader.and_other(found)) from None
    faults = reader.and_other(found)
    if faults:
        raise RulesError(name, faults)
    return replace(compile_rules(file), tracing=tracing_of(environment))


def _syntax_fault(error: yaml.YAMLError) -> FileFault:
    if isinstance(error, yaml.MarkedYAMLError) and error.problem_mark is not None:
        reason = ", ".join(part for part in (error.context, error.problem) if part)
        hint = next((hint for said, hint in _HINTS if said in reason), "")
        alias = _ALIAS.fullmatch(reason)
        if alias is not None:
            said, name = alias.groups()
            reason, pattern = (reason, f"*{name}") if is_short(name) else (said, "gpt-*")
            hint = f'a text that begins with * needs quotes, as "{pattern}"'
        opened, found = error.context_mark, error.problem_mark
        since = ""
        if opened is not None and opened.line < found.line:
            sign = _OPENS.get(error.context or "") if hint in ("", _UNCLOSED) else None
            if sign is not None:
                hint = f"most likely {sign} that begins on line {opened.line + 1} is not closed"
            else:
                since = f" (since line {opened.line + 1})"
        return FileFault(found.line + 1, "", f"this is not YAML: {reason}{hint and f'; {hint}'}{since}")
    return FileFault(0, "", "this is not YAML text")


def _schema_fault(item: Any, value: dict[str, Any], reader: Reader) -> FileFault:
    """One of pydantic's complaints, in the words of the file."""
    path: Path = tuple(item["loc"])
    of_key = path[-1:] == ("[key]",) and path not in reader.lines  # pydantic's way to say that the key itself is meant
    if of_key:
        path = path[:-1]
    written: Any = value
    place: Path = ()
    for step in path:
        if isinstance(step, int) and isinstance(written, list):
            step = _written_at(step, written, item["input"])
        if not isinstance(written, dict if isinstance(step, str) else list) or (*place, step) not in reader.lines:
            break  # one entry where a list would do as well, or what is missing
        written, place = cast(Any, written)[step], (*place, step)
    path = (*place, *path[len(place) :])
    return reader.fault(path, words_of(item, path, None if of_key else written))


def _written_at(number: int, entries: list[Any], said: Any) -> int:
    """Where the entry of a list stands in the file that pydantic counts as `number`: it counts the keys of one entry
    with commas apart, and no entry that is empty."""
    if not isinstance(said, str):
        return number
    return next((at for at, entry in enumerate(entries) if said == entry or said in _keys_in(entry)), number)


def _keys_in(entry: Any) -> list[str]:
    return entry.split(",") if isinstance(entry, str) else []
