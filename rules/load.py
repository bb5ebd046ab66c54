"""rules.yaml -> Rules, or every fault in it at once, each with its line and a hint.

PyYAML alone would take the last of two equal keys and forget the lines, so the file is read as nodes: values are built
from them here, `${NAME}` is filled in, and pydantic's complaints are led back to the line that caused them. Values are
not repeated in a fault where they may be secrets: a mistyped target is, but only where the file itself spells it, and
what stands for a number is, if it is too short for a key (complaints.py).
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import date
from typing import Any, cast

import yaml
from pydantic import ValidationError

from rules.complaints import Path, words_of
from rules.decide import Rules, compile_rules
from rules.prices import is_for
from rules.schema import Provider, RulesFile
from rules.values import day, near

_VARIABLE = re.compile(r"\$\{([^}]*)(\}?)")
_VARIABLE_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_BRACE = """; a `{` begins a mapping here: write the whole text in quotes, as "ollama/{model}" or "${NAME}\""""
_PLACEHOLDER = re.compile(r"[{}]")
_OF_OLLAMA = ("num_ctx", "context_memory", "keep_alive")
_MAX_NODES = 100_000
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

    def __str__(self) -> str:
        place = f"line {self.line}" if self.line else "the file"
        return f"{place}: {self.where}: {self.message}" if self.where else f"{place}: {self.message}"


class RulesError(ValueError):
    """The file cannot be used; `faults` says all that is wrong with it."""

    def __init__(self, name: str, faults: Iterable[FileFault]) -> None:
        self.faults = tuple(sorted(dict.fromkeys(faults), key=lambda fault: (fault.line, fault.where)))
        count = f"{len(self.faults)} faults" if len(self.faults) > 1 else "1 fault"
        super().__init__(f"{name} has {count}:\n" + "\n".join(f"  {fault}" for fault in self.faults))


def load_rules(
    text: str, environment: Mapping[str, str], *, name: str = "rules.yaml", profiles: Iterable[str]
) -> Rules:
    """The rules in `text`; raises RulesError. `profiles` are the names that a provider's `profile` may have."""
    reader = _Reader(environment)
    try:
        node = yaml.compose(text, Loader=yaml.SafeLoader)
        value = reader.build(node, ()) if node is not None else None
    except yaml.YAMLError as error:
        raise RulesError(name, [_syntax_fault(error)]) from None
    except (RecursionError, _TooMuch):
        raise RulesError(
            name, [FileFault(0, "", "it is nested too deeply, or its aliases make it too large")]
        ) from None
    if node is None:
        raise RulesError(name, [FileFault(0, "", "it is empty; a smallest one has `providers:` and `rules:`")])
    if not isinstance(value, dict):
        raise RulesError(
            name, [*reader.faults, FileFault(1, "", "it must be a mapping of proxy, providers, rules, ...")]
        )
    found = [
        *_dangling(value, reader),
        *_of_providers(value, reader, list(profiles)),
        *_meaning(value, reader.lines),
        *_of_strategies(value, reader),
        *_of_prices(value, reader),
    ]
    try:
        file = RulesFile.model_validate(value)
    except ValidationError as error:
        found += [_schema_fault(item, value, reader) for item in error.errors(include_input=False, include_url=False)]
        raise RulesError(name, reader.and_other(found)) from None
    faults = reader.and_other(found)
    if faults:
        raise RulesError(name, faults)
    return compile_rules(file)


class _TooMuch(Exception):
    """More values than any rules file needs."""


class _Reader:
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
        if self._count > _MAX_NODES:
            raise _TooMuch
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
                self._fault(line, path, "a key must be a plain word")
                continue
            key = key_node.value
            spot = (*path, key)
            if key in value:
                self._fault(line, spot, f"the key stands here a second time; the first is on line {self.lines[spot]}")
                continue
            self.lines[spot] = line
            value[key] = self.build(value_node, spot)
        return value

    def _scalar(self, node: yaml.Node, path: Path) -> Any:
        try:
            value = cast(Any, self._scalars).construct_object(node)
        except _UNREADABLE:
            self._hole(node.start_mark.line + 1, path, "this value cannot be read")
            return None
        if isinstance(value, str) and "${" in value:
            self.filled[path] = []
            return _VARIABLE.sub(lambda match: self._variable(match, node.start_mark.line + 1, path), value)
        return value

    def _variable(self, match: re.Match[str], line: int, path: Path) -> str:
        name, separator, default = match[1].partition(":-")
        if not match[2] or not _VARIABLE_NAME.fullmatch(name) or "${" in default:
            self._hole(line, path, "a variable is written ${NAME} or ${NAME:-default}, and not one inside another")
            return ""
        value = self._environment.get(name)
        if value:
            self.filled[path].append(name)
        if separator:
            return value or default
        if value is None:
            meant = near(name, self._environment)
            self._hole(
                line,
                path,
                f"the environment variable {name} is not set{meant}; ${{{name}:-}} makes it optional",
            )
            return ""
        return value

    def _hole(self, line: int, path: Path, message: str) -> None:
        self._holes.append(_dotted(path))
        self._fault(line, path, message)

    def _fault(self, line: int, path: Path, message: str) -> None:
        self.faults.append(FileFault(line, _dotted(path), message))


def _syntax_fault(error: yaml.YAMLError) -> FileFault:
    if isinstance(error, yaml.MarkedYAMLError) and error.problem_mark is not None:
        reason = ", ".join(part for part in (error.context, error.problem) if part)
        hint = _BRACE if reason.endswith("got '{'") else ""
        return FileFault(error.problem_mark.line + 1, "", f"this is not YAML: {reason}{hint}")
    return FileFault(0, "", "this is not YAML text")


def _schema_fault(item: Any, value: dict[str, Any], reader: _Reader) -> FileFault:
    """One of pydantic's complaints, in the words of the file."""
    path: Path = tuple(item["loc"])
    if path[-1:] == ("[key]",) and path not in reader.lines:  # pydantic's way to say that the key itself is meant
        path = path[:-1]
    written: Any = value
    place: Path = ()
    for step in path:
        if not isinstance(written, dict if isinstance(step, str) else list) or (*place, step) not in reader.lines:
            break  # one entry where a list would do as well, or what is missing
        written, place = cast(Any, written)[step], (*place, step)
    message = words_of(item, path, written, reader.filled.get(place, ()))
    return FileFault(_line(path, reader.lines), _dotted(path), message)


def _dangling(value: dict[str, Any], reader: _Reader) -> list[FileFault]:
    """Targets whose provider or virtual model does not exist. Looks at raw values: it must work beside other faults."""
    providers = value.get("providers")
    models = value.get("models")
    known = providers if isinstance(providers, dict) else {}
    virtual = models if isinstance(models, dict) else {}
    faults: list[FileFault] = []
    for path, entry, may_be_model in _entries(value, virtual):
        name, slash, model = entry.partition("/")
        if slash and name in known and model:
            if path[0] != "prices" and _PLACEHOLDER.search(model.replace("{model}", "")):
                said = "it" if path in reader.filled else f"'{entry}'"
                message = f"{said} has another placeholder than {{model}}; the only placeholder is {{model}}"
                faults.append(FileFault(_line(path, reader.lines), _dotted(path), message))
            continue
        if not slash and may_be_model and entry in virtual:
            continue
        if path in reader.filled:
            message = "it names nothing that stands under providers or models; a target is provider/model"
        elif slash and not model:
            message = f"'{entry}' names no model; write {name}/MODEL"
        elif slash or not may_be_model:
            message = f"there is no provider '{name}'{near(name, known)}" if name else f"'{entry}' names no provider"
            message += "" if slash else "; a target is written provider/model"
        elif entry in known:
            message = f"'{entry}' is a provider; write {entry}/MODEL or {entry}/{{model}}"
        else:
            message = f"there is no model '{entry}' under models{near(entry, virtual)}; a target is provider/model"
        faults.append(FileFault(_line(path, reader.lines), _dotted(path), message))
    return faults


def _entries(value: dict[str, Any], virtual: dict[str, Any]) -> Iterable[tuple[Path, str, bool]]:
    """(place, text, may it name a virtual model) of everything that names a target."""
    for name, model in virtual.items():
        if isinstance(model, dict):
            yield from _names_in(model.get("targets"), ("models", name, "targets"), may_be_model=False)
    rules = value.get("rules")
    for number, rule in enumerate(rules if isinstance(rules, list) else []):
        if isinstance(rule, dict):
            yield from _names_in(rule.get("use"), ("rules", number, "use"), may_be_model=True)
            when = rule.get("when")
            if isinstance(when, dict):
                yield from _names_in(when.get("available"), ("rules", number, "when", "available"), may_be_model=False)
    for path, price in _prices(value):
        yield from _names_in(price.get("model"), (*path, "model"), may_be_model=False)


def _names_in(value: Any, path: Path, *, may_be_model: bool) -> Iterable[tuple[Path, str, bool]]:
    if isinstance(value, str):
        yield path, value, may_be_model
    elif isinstance(value, list):
        for number, item in enumerate(value):
            if isinstance(item, str):
                yield (*path, number), item, may_be_model


def _of_providers(value: dict[str, Any], reader: _Reader, profiles: Iterable[str]) -> Iterator[FileFault]:
    """Providers that lack something, or say what nobody would read. Looks at raw values, as _dangling() does."""
    named = [profile for profile in profiles if profile != Provider.model_fields["profile"].default]

    def fault(path: Path, message: str) -> FileFault:
        return FileFault(_line(path, reader.lines), _dotted(path), message)

    for name, provider in _mapping(value.get("providers")).items():
        path: Path = ("providers", name)
        facts = _mapping(provider)
        dialect, profile = facts.get("dialect"), facts.get("profile")
        if "/" in name:
            yield fault(path, "a provider's name has no slash")
        if isinstance(profile, str) and profile not in profiles:
            known = f"known: {', '.join(named)}; leave it out for any other server"
            yield fault((*path, "profile"), f"there is no such profile{near(profile, named)}; {known}")
        elif "profile" in facts and dialect in ("ollama", "sandbox"):
            yield fault((*path, "profile"), "only a provider of dialect openai has a profile; leave it out")
        if dialect in ("ollama", "openai") and not facts.get("urls"):
            yield fault((*path, "urls"), "it needs an address, such as urls: [http://127.0.0.1:11434]")
        for key in facts.keys() & _OF_OLLAMA if dialect in ("openai", "sandbox") else ():
            yield fault((*path, key), "only a provider of dialect ollama has it; leave it out")
        for key in facts.keys() & {"urls", "key"} if dialect == "sandbox" else ():
            yield fault((*path, key), "the sandbox is built in: it has no address and no key; leave it out")


def _meaning(value: dict[str, Any], lines: Mapping[Path, int]) -> list[FileFault]:
    """What is well-formed and still cannot be meant. Looks at raw values, as _dangling() does."""
    faults: list[FileFault] = []

    def say(path: Path, message: str) -> None:
        faults.append(FileFault(_line(path, lines), _dotted(path), message))

    providers = _mapping(value.get("providers"))
    written = value.get("rules")
    rules = written if isinstance(written, list) else []
    first: dict[str, int] = {}
    for number, rule in enumerate(rules):
        if not isinstance(rule, dict):
            continue
        name = str(rule.get("name"))
        if name in first and "name" in rule:
            say(("rules", number, "name"), f"rule {first[name] + 1} has the same name")
        first.setdefault(name, number)
        when = _mapping(rule.get("when"))
        for key in (key for key, asked in when.items() if asked is None):
            say(("rules", number, "when", key), "it asks nothing; write what it should be, or leave it out")
        target = when.get("available")
        provider = providers.get(target.partition("/")[0]) if isinstance(target, str) else None
        if _mapping(provider).get("dialect") in ("openai", "sandbox"):
            say(
                ("rules", number, "when", "available"),
                "only a server that speaks Ollama tells which models it has",
            )
        if not rule.get("when") and number < len(rules) - 1:
            say(
                ("rules", number),
                "it matches every call, so the rules after it never apply; move it to the end",
            )
    if not written and not value.get("models"):
        say((), "there are neither `rules` nor `models`: no call could be answered")
    return faults


def _of_strategies(value: dict[str, Any], reader: _Reader) -> Iterator[FileFault]:
    """Virtual models whose strategy lacks what it goes by. Looks at raw values, as _dangling() does."""

    def fault(path: Path, message: str) -> FileFault:
        return FileFault(_line(path, reader.lines), _dotted(path), message)

    providers = _mapping(value.get("providers"))
    priced = [price["model"] for _, price in _prices(value) if isinstance(price.get("model"), str)]
    for name, model in _mapping(value.get("models")).items():
        path: Path = ("models", name)
        model = _mapping(model)
        strategy, weights = model.get("strategy"), model.get("weights")
        targets = list(_names_in(model.get("targets"), (*path, "targets"), may_be_model=False))
        if weights is None and strategy == "weighted":
            yield fault((*path, "strategy"), "weighted needs `weights`, one number for each target")
        elif weights is not None and strategy != "weighted":
            yield fault((*path, "weights"), "only the strategy weighted goes by weights; write it, or leave them out")
        elif isinstance(weights, list) and weights and targets and len(weights) != len(targets):
            message = f"needs one number for each target, {len(targets)} and not {len(weights)}"
            yield fault((*path, "weights"), message)
        if strategy == "cheapest" and reader.read_all("prices"):
            for place, entry, _ in targets:
                provider, _, pattern = entry.partition("/")
                costs = _mapping(providers.get(provider)).get("dialect") == "openai"
                if costs and pattern and not any(is_for(price, entry) for price in priced):
                    which = "it" if place in reader.filled else f"'{entry}'"
                    yield fault(place, f"the strategy cheapest needs a price for {which}; write it under prices")


def _of_prices(value: dict[str, Any], reader: _Reader) -> Iterator[FileFault]:
    """Prices that can never hold, or that say the same twice. Looks at raw values, as _dangling() does."""
    first: dict[tuple[str, date], int] = {}
    for path, price in _prices(value):
        model = str(price.get("model"))
        if "{model}" in model:
            place = (*path, "model")
            message = "a price is for the name that is asked for in the end; write provider/* for all of them"
            yield FileFault(_line(place, reader.lines), _dotted(place), message)
        try:
            key = model, day(price.get("from"))
        except ValueError:
            continue
        number = first.setdefault(key, int(path[-1]))
        if number != path[-1] and reader.read_all("prices"):
            message = f"price {number + 1} is for the same model and from the same day"
            yield FileFault(_line(path, reader.lines), _dotted(path), message)


def _prices(value: dict[str, Any]) -> Iterator[tuple[Path, dict[str, Any]]]:
    prices = value.get("prices")
    for number, price in enumerate(prices if isinstance(prices, list) else []):
        if isinstance(price, dict):
            yield ("prices", number), price


def _mapping(value: Any) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


def _line(path: Path, lines: Mapping[Path, int]) -> int:
    """The line of the nearest place that the file has: pydantic's path may end in something that is not there."""
    while path and path not in lines:
        path = path[:-1]
    return lines[path] if path else 0


def _dotted(path: Path) -> str:
    text = ""
    for step in path:
        text += f"[{step}]" if isinstance(step, int) else f".{step}" if text else step
    return text
