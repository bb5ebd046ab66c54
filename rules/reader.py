"""rules.yaml as values: YAML's nodes with their lines, and `${NAME}` and `${secrets:NAME}` filled in.

PyYAML alone would take the last of two equal keys and forget the lines, so values are built from nodes here. Values are
not repeated in a fault where they may be secrets: a mistyped target is, but only where the file itself spells it, and
what stands where no secret belongs is, if it is too short for a key (complaints.py).
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, cast

import yaml

from rules.complaints import Path, may_be_secret
from rules.values import is_short, near

_VARIABLE = re.compile(r"\$\{([^}]*)(\}?)")
_VARIABLE_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*|secrets:[A-Za-z0-9_][A-Za-z0-9_.-]*")
SECRETS = "secrets:"
"""Before the name of a secret, between the braces and in the environment that the file is read with."""
_DAY = re.compile(r"\d{4}-\d")
_NO_NUMBER = re.compile(r"[+-]?(0[0-9_]+|.*:.*)")
"""What YAML takes for a number that nobody means: 010 for eight, 12:30 for 750."""
MOST_VALUES = 100_000
_UNREADABLE = (yaml.YAMLError, ValueError, LookupError, AttributeError, OverflowError)
"""What PyYAML raises for a value that its tag does not fit: `!!bool maybe` is a KeyError."""


@dataclass(frozen=True, slots=True)
class FileFault:
    """One thing wrong with the file."""

    line: int
    """Counted from 1; 0 where the file as a whole is meant."""
    where: str
    """The path of keys, as `rules[1].when.model`."""
    message: str
    variables: tuple[str, ...] = ()
    """Where the value came from, if the file does not say it itself."""

    def __str__(self) -> str:
        place = f"line {self.line}" if self.line else "the file"
        where = f"{place}: {self.where}" if self.where else place
        return f"{where}{f' (from {" and ".join(self.variables)})' if self.variables else ''}: {self.message}"


def filled_in(text: str, environment: Mapping[str, str]) -> str:
    """A text of a sound file with its variables filled in."""
    return str(Reader(environment).build(yaml.ScalarNode("tag:yaml.org,2002:str", text, _NOWHERE, _NOWHERE), ()))


def variables_named(text: str) -> frozenset[str]:
    """The variables that a file may ask for, as it names them: those of secrets with SECRETS before them."""
    names = (match[1].partition(":-")[0] for match in _VARIABLE.finditer(text))
    return frozenset(name for name in names if _VARIABLE_NAME.fullmatch(name))


def secrets_named(text: str) -> frozenset[str]:
    """The names of the secrets that a file may ask for."""
    return frozenset(name.removeprefix(SECRETS) for name in variables_named(text) if name.startswith(SECRETS))


def secrets_folder(environment: Mapping[str, str]) -> str:
    """Where mounted secrets are: where Docker mounts those of a service, or where SECRETS_DIR says."""
    return environment.get("SECRETS_DIR") or "/run/secrets"


def places_of(name: str) -> tuple[str, ...]:
    """Where a variable is looked for, in this order. A secret may also be an environment variable: by its own name, or
    as such names are spelled."""
    if not name.startswith(SECRETS):
        return (name,)
    plain = name.removeprefix(SECRETS)
    return tuple(dict.fromkeys((name, plain, re.sub("[.-]", "_", plain).upper())))


_NOWHERE = yaml.Mark("", 0, 0, 0, None, 0)


class TooMuch(Exception):
    """More values than any rules file needs."""


class Reader:
    """Builds values from nodes, remembering the line of each and collecting faults on the way."""

    def __init__(self, environment: Mapping[str, str]) -> None:
        self.lines: dict[Path, int] = {}
        self.faults: list[FileFault] = []
        self.filled: dict[Path, list[str]] = {}
        """Values that may come, at least in part, from the environment, and the variables that they did come from."""
        self._holes: list[str] = []
        """Places whose value could not be had: one complaint about each is enough."""
        self._environment = environment
        self._scalars = yaml.SafeLoader("")
        self._open: set[int] = set()
        self._count = 0

    def build(self, node: yaml.Node, path: Path) -> Any:
        line = node.start_mark.line + 1
        self.lines.setdefault(path, line)
        self._count += 1
        if self._count > MOST_VALUES:
            raise TooMuch
        if id(node) in self._open:
            self._hole(line, path, "an alias must not contain itself")
            return None
        self._open.add(id(node))
        try:
            match node:
                case yaml.MappingNode():
                    return self._mapping(node, path)
                case yaml.SequenceNode():
                    return [self.build(item, (*path, number)) for number, item in enumerate(node.value)]
                case _:
                    return self._scalar(node, path)
        finally:
            self._open.discard(id(node))

    def fault(self, path: Path, message: str) -> FileFault:
        """One at a place, with the line of the nearest one that the file has: a path may end in what is not there."""
        written = path
        while written and written not in self.lines:
            written = written[:-1]
        variables = tuple(dict.fromkeys(self.filled.get(path, ())))
        return FileFault(self.lines[written] if written else 0, dotted(path), message, variables)

    def and_other(self, faults: Iterable[FileFault]) -> list[FileFault]:
        """The faults of reading, and those others that do not only follow from them."""
        places = tuple(end for hole in self._holes for end in (f"{hole}.", f"{hole}["))
        return [*self.faults, *(fault for fault in faults if not f"{fault.where}.".startswith(places))]

    def read_all(self, key: str) -> bool:
        """Whether every value below a key at the top could be had."""
        return not any(f"{hole}.".startswith((f"{key}.", f"{key}[")) for hole in self._holes)

    def _mapping(self, node: yaml.MappingNode, path: Path) -> dict[str, Any]:
        value: dict[str, Any] = {}
        for key_node, value_node in node.value:
            line = key_node.start_mark.line + 1
            if not isinstance(key_node, yaml.ScalarNode):
                self._say(line, path, "what stands before a colon must be a plain word")
                continue
            key = key_node.value
            spot = (*path, key)
            if key in value:
                self._say(line, spot, f"this name stands here a second time; the first is on line {self.lines[spot]}")
                continue
            self.lines[spot] = line
            value[key] = self.build(value_node, spot)
        return value

    def _scalar(self, node: yaml.Node, path: Path) -> Any:
        try:
            value = cast(Any, self._scalars).construct_object(node)
        except _UNREADABLE:
            said, why = "this value", "; leave out its tag, the word that begins with !"
            if _DAY.match(node.value):
                why = ": there is no such day"
                said = f"'{node.value}'" if is_short(node.value) and not may_be_secret(path) else said
            self._hole(node.start_mark.line + 1, path, f"{said} cannot be read{why}")
            return None
        if isinstance(value, int) and _NO_NUMBER.fullmatch(node.value):
            return node.value
        if isinstance(value, str) and "${" in value:
            self.filled[path] = []
            return _VARIABLE.sub(lambda match: self._variable(match, node.start_mark.line + 1, path), value)
        return value

    def _variable(self, match: re.Match[str], line: int, path: Path) -> str:
        name, separator, default = match[1].partition(":-")
        if not match[2] or not _VARIABLE_NAME.fullmatch(name) or "${" in default:
            message = "a variable is written ${NAME} or ${NAME:-default} or ${secrets:NAME}, and not one inside another"
            self._hole(line, path, message)
            return ""
        value = self._found(name)
        if value:
            self.filled[path].append(name)
        if separator:
            return value or default
        if value is None:
            self._hole(line, path, self._missing(name))
            return ""
        if not value and name.startswith(SECRETS):
            self._hole(line, path, self._empty(name))
            return ""
        return value

    def _found(self, name: str) -> str | None:
        """The first that is not empty, of all that a name may stand for."""
        known = [self._environment[place] for place in places_of(name) if place in self._environment]
        return next((value for value in known if value), known[0] if known else None)

    def _missing(self, name: str) -> str:
        if not name.startswith(SECRETS):
            return f"the environment variable {name} is not set{near(name, self._environment)}{_optional(name)}"
        _, *variables = places_of(name)
        plain = name.removeprefix(SECRETS)
        return (
            f"the secret {plain} is nowhere: there is no file {secrets_folder(self._environment)}/{plain} (SECRETS_DIR "
            f"says where), and the environment has no {' and no '.join(variables)}{_optional(name)}"
        )

    def _empty(self, name: str) -> str:
        plain = name.removeprefix(SECRETS)
        empty = [place for place in places_of(name) if place in self._environment]
        where = f"the file {secrets_folder(self._environment)}/{plain}" if name in empty else f"the variable {empty[0]}"
        return f"the secret {plain} is empty: {where} holds nothing{_optional(name)}"

    def _hole(self, line: int, path: Path, message: str) -> None:
        self._holes.append(dotted(path))
        self._say(line, path, message)

    def _say(self, line: int, path: Path, message: str) -> None:
        self.faults.append(FileFault(line, dotted(path), message))


def _optional(name: str) -> str:
    return f"; ${{{name}:-}} makes it optional"


def dotted(path: Path) -> str:
    text = ""
    for step in path:
        text += f"[{step}]" if isinstance(step, int) else f".{step}" if text else step
    return text
