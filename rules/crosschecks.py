"""What is wrong with a rules file though each of its nouns is well-formed: names that lead nowhere, and what cannot be
meant.

All of it looks at raw values, not at the schema's: it must work beside other faults, for all of them are told at once.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Iterator
from contextlib import suppress
from datetime import date
from typing import Any

from pydantic import TypeAdapter, ValidationError

from rules.access import digest_of
from rules.complaints import Path
from rules.paths import unknown
from rules.prices import UNPAID, is_for, one_spelling
from rules.reader import FileFault, Reader
from rules.schema import Provider
from rules.values import day, near, split_keys

_PLACEHOLDER = re.compile(r"[{}]")
_TRUTH = TypeAdapter(bool)
_OF_OLLAMA = ("num_ctx", "context_memory", "keep_alive")


def cross_checks(
    value: dict[str, Any], reader: Reader, profiles: Iterable[str], endpoints: Collection[str]
) -> list[FileFault]:
    """Every such fault in the values of a file; profiles and endpoints as load_rules() has them."""
    return [
        *_of_clients(value, reader),
        *_dangling(value, reader),
        *_of_providers(value, reader, list(profiles)),
        *_meaning(value, reader),
        *_of_strategies(value, reader),
        *_of_prices(value, reader),
        *_of_endpoints(value, reader, endpoints),
    ]


def _of_clients(value: dict[str, Any], reader: Reader) -> Iterator[FileFault]:
    """Clients who cannot be told apart, and keys that are asked for and not there."""
    clients = _mapping(value.get("clients"))
    auth = _mapping(_mapping(value.get("proxy")).get("auth"))
    spelled: dict[str, str] = {}
    for name in clients:
        other = spelled.setdefault(name.lower(), name)
        if other != name:
            message = f"client '{other}' has the same name but for its case; logs and reports would mix them up"
            yield reader.fault(("clients", name), message)
    owners: dict[bytes, str] = {}
    for path, owner, digest in _digests(auth, clients):
        first = owners.setdefault(digest, owner)
        if first != owner:
            yield reader.fault(path, f"this is a key of {first} already; a key says who calls")
    enabled = _truth(auth.get("enabled"))
    if enabled is False and clients:
        message = "there are clients, and nobody would be asked for a key; leave `enabled` out, or take them away"
        yield reader.fault(("proxy", "auth", "enabled"), message)
    if enabled and not owners and reader.read_all("proxy") and reader.read_all("clients"):
        message = "auth is enabled and there is no key; set API_KEYS, list `tokens`, or name `clients`"
        yield reader.fault(("proxy", "auth"), message)
    elif enabled is None and not owners and not clients:
        # Nobody would be asked for a key, and only who wrote nothing can have meant that.
        for path, text in _texts(auth.get("tokens"), ("proxy", "auth", "tokens")):
            if text and not split_keys(text):
                message = "there are only commas and spaces where keys should be; leave it empty where none is needed"
                yield reader.fault(path, message)


def _digests(auth: dict[str, Any], clients: dict[str, Any]) -> Iterator[tuple[Path, str, bytes]]:
    """(place, whose it is, digest) of every key of a caller that can be read."""
    places: list[tuple[Path, str, Any]] = [(("proxy", "auth", "tokens"), "proxy.auth.tokens", auth.get("tokens"))]
    places += [
        (("clients", name, key), f"client '{name}'", _mapping(row).get(key))
        for name, row in clients.items()
        for key in ("key", "keys")
    ]
    for place, owner, found in places:
        for path, text in _texts(found, place):
            for key in split_keys(text):
                with suppress(ValueError):  # a digest that is none; the schema says so
                    yield path, owner, digest_of(key)


def _texts(value: Any, path: Path) -> Iterator[tuple[Path, str]]:
    for spot, text in enumerate(value) if isinstance(value, list) else ((None, value),):
        if isinstance(text, str):
            yield (path if spot is None else (*path, spot)), text


def _truth(value: Any) -> bool | None:
    """A truth as the schema reads it; None for whatever is none."""
    try:
        return _TRUTH.validate_python(value)
    except ValidationError:
        return None


def _dangling(value: dict[str, Any], reader: Reader) -> Iterator[FileFault]:
    """Targets whose provider or virtual model does not exist."""
    known, virtual = _mapping(value.get("providers")), _mapping(value.get("models"))
    for path, entry, may_be_model in _entries(value, virtual):
        name, slash, model = entry.partition("/")
        if slash and name in known and model:
            if path[0] != "prices" and _PLACEHOLDER.search(model.replace("{model}", "")):
                said = "it" if path in reader.filled else f"'{entry}'"
                message = f"{said} has another placeholder than {{model}}; the only placeholder is {{model}}"
                yield reader.fault(path, message)
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
            if path[0] == "prices" and name.isidentifier() and not near(name, known):
                message += f". For a model that others are compared with, write ledger: {{compare_to: {entry}}} too"
        elif entry in known:
            message = f"'{entry}' is a provider; write {entry}/MODEL or {entry}/{{model}}"
        else:
            message = f"there is no model '{entry}' under models{near(entry, virtual)}; a target is provider/model"
        yield reader.fault(path, message)


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
    compared, local = _compared(value), _local(value)
    for path, price in _prices(value):
        model = price.get("model")
        # What others are compared to needs no provider.
        if not (compared and isinstance(model, str) and is_for(model, compared, local)):
            yield from _names_in(model, (*path, "model"), may_be_model=False)


def _names_in(value: Any, path: Path, *, may_be_model: bool) -> Iterable[tuple[Path, str, bool]]:
    if isinstance(value, str):
        yield path, value, may_be_model
    elif isinstance(value, list):
        for number, item in enumerate(value):
            if isinstance(item, str):
                yield (*path, number), item, may_be_model


def _of_providers(value: dict[str, Any], reader: Reader, profiles: Iterable[str]) -> Iterator[FileFault]:
    """Providers that lack something, or say what nobody would read."""
    named = [profile for profile in profiles if profile != Provider.model_fields["profile"].default]

    for name, provider in _mapping(value.get("providers")).items():
        path: Path = ("providers", name)
        facts = _mapping(provider)
        dialect, profile = facts.get("dialect"), facts.get("profile")
        if "/" in name:
            yield reader.fault(path, "a provider's name has no slash")
        if isinstance(profile, str) and profile not in profiles:
            known = f"known: {', '.join(named)}; leave it out for any other server"
            yield reader.fault((*path, "profile"), f"there is no such profile{near(profile, named)}; {known}")
        elif "profile" in facts and dialect in ("ollama", "sandbox"):
            yield reader.fault((*path, "profile"), "only a provider of dialect openai has a profile; leave it out")
        if dialect in ("ollama", "openai") and not facts.get("urls"):
            yield reader.fault((*path, "urls"), "it needs an address, such as urls: [http://127.0.0.1:11434]")
        for key in facts.keys() & _OF_OLLAMA if dialect in ("openai", "sandbox") else ():
            yield reader.fault((*path, key), "only a provider of dialect ollama has it; leave it out")
        for key in facts.keys() & {"urls", "key"} if dialect == "sandbox" else ():
            yield reader.fault((*path, key), "the sandbox is built in: it has no address and no key; leave it out")


def _meaning(value: dict[str, Any], reader: Reader) -> Iterator[FileFault]:
    """What is well-formed and still cannot be meant."""
    providers = _mapping(value.get("providers"))
    written = value.get("rules")
    rules = written if isinstance(written, list) else []
    first: dict[str, int] = {}
    for number, rule in enumerate(rules):
        if not isinstance(rule, dict):
            continue
        name = str(rule.get("name"))
        if name in first and "name" in rule:
            yield reader.fault(("rules", number, "name"), f"rules[{first[name]}] has the same name")
        first.setdefault(name, number)
        when = _mapping(rule.get("when"))
        for key in (key for key, asked in when.items() if asked is None):
            yield reader.fault(
                ("rules", number, "when", key), "it asks nothing; write what it should be, or leave it out"
            )
        target = when.get("available")
        provider = providers.get(target.partition("/")[0]) if isinstance(target, str) else None
        if _mapping(provider).get("dialect") in ("openai", "sandbox"):
            yield reader.fault(
                ("rules", number, "when", "available"),
                "only a server that speaks Ollama tells which models it has",
            )
        if not rule.get("when") and number < len(rules) - 1:
            yield reader.fault(
                ("rules", number),
                "it matches every call, so the rules after it never apply; move it to the end",
            )
    if not written and not value.get("models"):
        yield reader.fault((), "there are neither `rules` nor `models`: no call could be answered")


def _of_strategies(value: dict[str, Any], reader: Reader) -> Iterator[FileFault]:
    """Virtual models whose strategy lacks what it goes by."""

    providers = _mapping(value.get("providers"))
    priced = [price["model"] for _, price in _prices(value) if isinstance(price.get("model"), str)]
    for name, model in _mapping(value.get("models")).items():
        path: Path = ("models", name)
        model = _mapping(model)
        strategy, weights = model.get("strategy"), model.get("weights")
        targets = list(_names_in(model.get("targets"), (*path, "targets"), may_be_model=False))
        if weights is None and strategy == "weighted":
            yield reader.fault((*path, "strategy"), "weighted needs `weights`, one number for each target")
        elif weights is not None and strategy != "weighted":
            yield reader.fault(
                (*path, "weights"), "only the strategy weighted goes by weights; write it, or leave them out"
            )
        elif isinstance(weights, list) and weights and targets and len(weights) != len(targets):
            message = f"needs one number for each target, {len(targets)} and not {len(weights)}"
            yield reader.fault((*path, "weights"), message)
        if strategy == "cheapest" and reader.read_all("prices"):
            for place, entry, _ in targets:
                provider, _, pattern = entry.partition("/")
                costs = _mapping(providers.get(provider)).get("dialect") == "openai"
                if costs and pattern and not any(is_for(price, entry) for price in priced):
                    which = "it" if place in reader.filled else f"'{entry}'"
                    yield reader.fault(place, f"the strategy cheapest needs a price for {which}; write it under prices")


def _of_prices(value: dict[str, Any], reader: Reader) -> Iterator[FileFault]:
    """Prices that can never hold, or that say the same twice."""
    first: dict[tuple[str, date], int] = {}
    local = _local(value)
    for path, price in _prices(value):
        model = str(price.get("model"))
        if "{model}" in model:
            place = (*path, "model")
            message = "a price is for the name that is asked for in the end; write provider/* for all of them"
            yield reader.fault(place, message)
        try:
            key = one_spelling(model, local), day(price.get("from"))
        except ValueError:
            continue
        number = first.setdefault(key, int(path[-1]))
        if number != path[-1] and reader.read_all("prices"):
            message = f"prices[{number}] is for the same model and from the same day"
            yield reader.fault(path, message)
    place = ("ledger", "compare_to")
    compared = _compared(value)
    models = [price.get("model") for _, price in _prices(value)]
    priced = any(isinstance(model, str) and is_for(model, compared, local) for model in models)
    if compared and reader.read_all("prices") and not priced:
        which = "the model" if place in reader.filled else f"'{compared}'"
        message = f"{which} has no price; write one under prices, as {{model: ..., from: 2026-11-15, input: 0.15}}"
        yield reader.fault(place, message)


def _of_endpoints(value: dict[str, Any], reader: Reader, known: Collection[str]) -> Iterator[FileFault]:
    """Paths that no endpoint has."""
    lists: list[tuple[Path, Any]] = [(("proxy", "endpoints"), _mapping(value.get("proxy")).get("endpoints"))]
    for name, client in _mapping(value.get("clients")).items():
        lists.append((("clients", name, "endpoints"), _mapping(client).get("endpoints")))
    for place, listed in lists if known else ():
        for path, text, _ in _names_in(listed, place, may_be_model=False):
            try:
                wrong = unknown(text, known)
            except ValueError:
                continue  # the schema says so
            if wrong is not None:
                yield reader.fault(path, wrong)


def _compared(value: dict[str, Any]) -> str:
    """The model that costs are compared to; empty where there is none."""
    model = _mapping(value.get("ledger")).get("compare_to")
    return model if isinstance(model, str) else ""


def _local(value: dict[str, Any]) -> frozenset[str]:
    """The providers whose models have many spellings (prices.is_for)."""
    providers = _mapping(value.get("providers"))
    return frozenset(name for name, facts in providers.items() if _mapping(facts).get("dialect") in tuple(UNPAID))


def _prices(value: dict[str, Any]) -> Iterator[tuple[Path, dict[str, Any]]]:
    prices = value.get("prices")
    for number, price in enumerate(prices if isinstance(prices, list) else []):
        if isinstance(price, dict):
            yield ("prices", number), price


def _mapping(value: Any) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}
