"""The models that a client may name: /v1/models and /v1/models/{id}.

Some apps show this list to people, and some ask it before they call. So a name that is not in it is as good as one that
is not answered, and one that is in it and not answered is worse.
"""

from __future__ import annotations

from collections.abc import Iterator

from addons.exchange import Exchange
from addons.state import State
from rules.access import ANONYMOUS
from rules.conditions import Facts, model_name
from rules.names import is_answered, is_meant, spelled
from wire.openai import Json


def list_models(exchange: Exchange, state: State) -> Iterator[Json]:
    """Virtual models, what the local servers have now, the remote models that the rules name or leave open, and the
    names that the file spells out for callers and that are answered; of them those that the client may name."""
    listed: set[str] = set()
    for name, owner in _servers_models(exchange, state):
        if name not in listed and may_name(exchange, name):
            listed.add(name)
            yield _row(name, owner, state)
    known = {model_name(name) for name in listed}
    for name in spelled(exchange.rules.file, _client(exchange)):
        if model_name(name) not in known and may_name(exchange, name):
            known.add(model_name(name))
            if is_answered(exchange.rules, _facts(exchange, state, name)):
                yield _row(name, "unigate", state)


def find_model(exchange: Exchange, state: State, wanted: str) -> Json | None:
    """One of them by its id, or one whose name a pattern of the rules stands for."""
    for model in list_models(exchange, state):
        if model["id"] == wanted or model_name(model["id"]) == model_name(wanted):
            return model
    if may_name(exchange, wanted) and is_meant(exchange.rules, _facts(exchange, state, wanted)):
        return _row(wanted, "unigate", state)
    return None


def may_name(exchange: Exchange, model: str) -> bool:
    client = exchange.client
    return client is None or client.models is None or client.models(model)


def _servers_models(exchange: Exchange, state: State) -> Iterator[tuple[str, str]]:
    """(name, owner) of the virtual models and of those on servers; some maybe twice."""
    file = exchange.rules.file
    for name in file.models:
        yield name, "unigate"
    for provider in file.providers:
        for name in sorted(state.names.get(provider, ())):
            yield name, provider
    used = [entry for model in file.models.values() for entry in model.targets]
    used += [entry for rule in file.rules for entry in rule.use if "/" in entry]
    for entry in used:
        owner, _, name = entry.partition("/")
        row = file.providers[owner]
        if row.dialect == "ollama" or owner in exchange.rules.keyless:
            continue
        if name == "{model}":  # whatever its server has
            for url in row.urls:
                for offered in state.offered.get(url, ()):
                    yield offered, owner
        elif "{" not in name:
            yield name, owner


def _facts(exchange: Exchange, state: State, model: str) -> Facts:
    """Those of a call of which no more than the model's name is known."""
    return Facts(model, client=_client(exchange), servers=state.seen)


def _client(exchange: Exchange) -> str:
    return exchange.client.name if exchange.client is not None else ANONYMOUS


def _row(name: str, owner: str, state: State) -> Json:
    return {"id": name, "object": "model", "created": state.started, "owned_by": owner}
