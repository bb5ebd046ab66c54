"""What would become of a call, and why: the rule, the targets in order, what each would be sent and cannot be told.

The answer of /gateway/explain, with all that the gateway knows at that moment, and of `unigate explain`, which knows
the rules file alone. Both check, decide and translate by the very functions that a call goes through, and nothing is
sent. The trap: an explanation must leave no trace. It takes no turn among equals and no place at a target.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import orjson

from addons.exchange import Attempt, Exchange
from addons.lines import one_line
from addons.permission import check_endpoint, check_model, check_offered
from addons.responses import with_history
from addons.route import dropped_of, facts_of, images_to_fetch, no_route, operation_at, parts_of, with_thoughts
from addons.state import State
from addons.verdict import in_callers_words, last_words
from rules.access import ANONYMOUS
from rules.conditions import Seen, model_name
from rules.decide import Decision, decide
from rules.reasons import Trial, trials
from rules.snapshot import Rules
from rules.targets import Target
from wire.errors import BadRequest, Fault, fault_object
from wire.openai import ChatRequest, Json, ModelRequest
from wire.responses import EARLIER
from wire.structured import expected
from wire.surfaces import CHAT, COMPLETIONS, EMBEDDINGS, RESPONSES, Surface

SURFACES: Mapping[str, Surface] = {surface.name: surface for surface in (CHAT, RESPONSES, COMPLETIONS, EMBEDDINGS)}
"""What can be explained, by the name of its endpoint."""
NOT_FETCHED = "data:image/png;base64,KG5vdCBmZXRjaGVkKQ=="
"""Stands for an image that is not fetched for an explanation, and says so."""
_EMBEDDING_KEYS = frozenset({"encoding_format", "dimensions"})


class UnknownEndpoint(BadRequest):
    code = "invalid_value"


@dataclass(frozen=True, slots=True)
class Outcome:
    """One target, and what it would be sent."""

    target: Target
    path: str = ""
    calls: int = 1
    """Calls that it takes to answer the one; what is shown is the first of them."""
    body: bytes | None = None
    """None: it cannot be told the request."""
    dropped: tuple[str, ...] = ()
    """What of it, in the caller's words, it is not told."""
    fault: Fault | None = None
    """Why it cannot be told the request."""
    rests: str = ""
    """Why it is not asked at this moment."""
    last: bool = False
    """Asked only where all others have failed."""


@dataclass(frozen=True, slots=True)
class Explained:
    """What would become of one call."""

    endpoint: str
    client: str
    request: ModelRequest | None = None
    """None: it was refused before anything was decided."""
    trials: tuple[Trial, ...] = ()
    decision: Decision | None = None
    outcomes: tuple[Outcome, ...] = ()
    """In the order in which the targets are asked."""
    fault: Fault | None = None
    """Why it would be refused."""
    unknown: tuple[str, ...] = ()
    """What could be different when it is really sent."""
    assumed: tuple[str, ...] = ()
    """The local targets that are taken to be there, as nobody has looked."""

    def as_json(self) -> bytes:
        """All of it. The translated bodies stand in it as they would be sent."""
        request, decision, fault = self.request, self.decision, self.fault
        value: Json = {"endpoint": self.endpoint, "client": self.client}
        if request is not None:
            value["model"] = request.model
            value["stream"] = request.stream
            value["prompt_chars"] = request.prompt_chars
            value["has"] = _has(request)
        value["passed_over"] = [{"rule": trial.rule, "because": trial.failed} for trial in self.trials if trial.failed]
        value["rule"] = decision.rule if decision is not None else None
        value["targets"] = [_row(outcome) for outcome in self.outcomes]
        value["skipped"] = [
            {"target": skip.target, "why": skip.why} for skip in (decision.skipped if decision is not None else ())
        ]
        value["refused"] = {"status": fault.status, **fault_object(fault)["error"]} if fault is not None else None
        value["unknown"] = [*self.unknown, *(f"whether {name} is there: it is taken to be" for name in self.assumed)]
        return orjson.dumps(value, option=orjson.OPT_APPEND_NEWLINE)


def _has(request: ModelRequest) -> list[str]:
    return [name for name, held in (("images", request.has_images), ("tools", request.has_tools)) if held]


def _row(outcome: Outcome) -> Json:
    row: Json = {"target": outcome.target.name, "server": outcome.target.url or None}
    if outcome.last:
        row["last"] = True
    if outcome.rests:
        row["rests"] = outcome.rests
    if outcome.fault is not None:
        row["refused"] = fault_object(outcome.fault)["error"]
    if outcome.body is not None:
        row["path"] = outcome.path
        row["calls"] = outcome.calls
        row["dropped"] = outcome.dropped
        row["body"] = orjson.Fragment(outcome.body)
    return row


def endpoint_of(body: Json) -> str:
    """The endpoint that a body is for, by its keys: a name of SURFACES."""
    match body:
        case {"messages": _}:
            return "chat"
        case {"input": [str() | int() | list(), *_]}:
            return "embeddings"
        case {"input": _, "model": str(model)} if "embed" in model.lower() or _EMBEDDING_KEYS & body.keys():
            return "embeddings"
        case {"input": _} | {"instructions": _} | {"prompt": dict()}:
            return "responses"
        case {"prompt": _}:
            return "completions"
        case _:
            return "chat"


def explain(
    state: State,
    body: Json,
    *,
    endpoint: str | None = None,
    client: str = ANONYMOUS,
    headers: Mapping[str, str] | None = None,
    live: bool = True,
) -> Explained:
    """What the gateway would do with a body now; never raises for a request that is refused.

    `endpoint`: a name of SURFACES; None: guessed. `headers`: those of the call, in lower case. `live`: the state is a
    gateway's that runs. Raises UnknownEndpoint.
    """
    name = endpoint_of(body) if endpoint is None else endpoint
    surface = SURFACES.get(name) if isinstance(name, str) else None
    if surface is None:
        known = ", ".join(SURFACES)
        raise UnknownEndpoint(f"'endpoint' must be one of {known}, but it is '{str(name)[:40]}'.", param="endpoint")
    explained = Explained(name, client)
    try:
        request = with_history(body, client, state)[0] if surface is RESPONSES and live else surface.check(body)
    except Fault as refusal:
        return replace(explained, fault=refusal)
    rules, caller = state.rules, state.rules.keys.named(client)
    try:
        check_offered(_PATHS[name].removeprefix("/v1"), rules, own=False)
        check_endpoint(caller, _PATHS[name].removeprefix("/v1"), rules, own=False)
        check_model(caller, request.model, rules)
    except Fault as refusal:
        return replace(explained, request=request, fault=refusal)
    facts = facts_of(request, client=client, headers=headers or {}, servers=state.seen)
    decision = decide(rules, facts)
    explained = replace(explained, request=request, trials=tuple(trials(rules, facts)), decision=decision)
    if not decision.pools:
        return replace(explained, fault=no_route(request.model, decision, facts.servers, state.names))
    exchange = Exchange(
        request_id="",
        rules=rules,
        started=state.clock(),
        created=0,
        client=caller,
        surface=surface,
        request=request,
        decision=decision,
    )
    unknown = [f"the conversation before it ({EARLIER})"] if not live and body.get(EARLIER) is not None else []
    urls = images_to_fetch(request, decision, state.models)
    if urls and isinstance(request, ChatRequest):
        request = replace(request, fetched=dict.fromkeys(urls, NOT_FETCHED))
        unknown.append("the images that have a URL: they would be fetched for a server that takes none")
    outcomes = tuple(_outcomes(state, exchange, request))
    fault = None
    if all(outcome.fault is not None for outcome in outcomes):
        exchange.attempts = [Attempt(outcome.target, exchange.started, fault=outcome.fault) for outcome in outcomes]
        fault = last_words(exchange)
    unknown += _not_known(state, decision, outcomes)
    assumed = tuple(dict.fromkeys(target.name for target in _local(outcomes) if _is_assumed(state, target)))
    return replace(explained, outcomes=outcomes, fault=fault, unknown=tuple(unknown), assumed=assumed)


def _outcomes(state: State, exchange: Exchange, request: ModelRequest) -> Iterable[Outcome]:
    decision, client = exchange.decision, exchange.client
    assert decision is not None
    assert client is not None
    parts = parts_of(exchange.surface, request, decision)
    if parts:
        request = parts[0].request
    resting = {(row["target"], row["url"] or ""): row["why"] for row in state.nodes.rows() if row["breaker"] == "open"}
    plan = state.nodes.plan(state.rules, decision, request.prompt_chars, state.chance(), state.wall(), takes_turn=False)
    for candidate in plan:
        target = candidate.target
        outcome = Outcome(
            target,
            rests=resting.get((target.name, target.url), ""),
            calls=len(parts) or 1,
            last=candidate.pool >= len(decision.pools),
        )
        facets = state.facets(target)
        try:
            operation = operation_at(target, request)
            if request.wants_json:
                expected(request)  # refuses a schema that is none
            asked = with_thoughts(request, target, state.thoughts, client.name)
            translated = operation.translate(asked, target.model, facets)
        except BadRequest as fault:
            yield replace(outcome, fault=in_callers_words(exchange, fault))
        else:
            yield replace(
                outcome,
                path=operation.path(target.path, facets),
                body=translated.body,
                dropped=dropped_of(exchange.surface, request, translated),
            )


def _not_known(state: State, decision: Decision, outcomes: Iterable[Outcome]) -> Iterable[str]:
    """What may be different when the call is really made."""
    for pool in decision.pools:
        if len(pool.targets) > 1:
            yield f"which target of {pool.name} is asked first ({pool.strategy}): that changes from call to call"
    for name, target in {target.name: target for target in _local(outcomes)}.items():
        if state.facets(target).capabilities is None:
            yield f"what {name} can do (tools, images, thinking)"


def _local(outcomes: Iterable[Outcome]) -> Iterable[Target]:
    return (outcome.target for outcome in outcomes if outcome.target.dialect == "ollama")


def _is_assumed(state: State, target: Target) -> bool:
    return isinstance(state.seen.get(target.provider, Seen()).models, _Anything)


class _Anything(frozenset[str]):
    """The models of a server of which nothing is known: it is taken to have each one."""

    def __contains__(self, name: object) -> bool:
        return True


def offline(rules: Rules, available: Iterable[str]) -> State:
    """A state for explanations without a gateway. `available`: local models, provider/model, or "none" where nothing is
    there; none given: all are taken to be there. Raises ValueError for one that names no local provider.
    """
    state = State(rules)
    local = [name for name, provider in rules.file.providers.items() if provider.dialect == "ollama"]
    models: dict[str, set[str]] = {name: set() for name in local}
    named = False
    for target in available:
        named = True
        if target == "none":
            continue
        provider, _, model = target.partition("/")
        if provider not in models or not model:
            raise ValueError(f"'{target}' names no local model; write provider/model, providers: {', '.join(local)}")
        models[provider].add(model_name(model))
    state.seen = {
        name: Seen(frozenset(names) if named else _Anything(), reached=True) for name, names in models.items()
    }
    return state


# -- for eyes

LONGEST_TEXT = 200
"""Characters of a string in a body that are worth a look; of base64 nothing is."""
_SHOWN_OF_TEXT = 120
_SHOWN_OF_BASE64 = 24
_BASE64 = re.compile(r"(?:data:[^,]{0,200},)?[A-Za-z0-9+/=_-]{200,}")
_PATHS: Mapping[str, str] = {
    "chat": "/v1/chat/completions",
    "responses": "/v1/responses",
    "completions": "/v1/completions",
    "embeddings": "/v1/embeddings",
}


def shown(explained: Explained) -> Iterable[str]:
    """The lines of an explanation for a terminal. Long strings in bodies are shortened, and nothing steers it."""
    yield from map(one_line, _head(explained))
    if explained.outcomes:
        yield ""
        yield "Targets, in the order in which they are asked"
    for number, outcome in enumerate(explained.outcomes, 1):
        yield from _target(number, outcome)
    skipped = explained.decision.skipped if explained.decision is not None else ()
    if skipped:
        yield ""
        yield "Skipped"
        yield from (one_line(f"  {skip.target}: {skip.why}") for skip in skipped)
    if explained.fault is not None:
        fault = explained.fault
        yield ""
        yield one_line(f"Refused with {fault.status}{_about(fault)}: {fault.message}")
    if explained.unknown:
        yield ""
        yield "Not known here"
        yield from (one_line(f"  {words}") for words in explained.unknown)


def _head(explained: Explained) -> Iterable[str]:
    request = explained.request
    yield f"POST {_PATHS[explained.endpoint]}, called by {explained.client}"
    if request is None:
        return
    traits = [f"{request.prompt_chars:,} characters", "streamed" if request.stream else "not streamed"]
    yield f"model {request.model}, {', '.join([*traits, *(f'with {name}' for name in _has(request))])}"
    if explained.decision is None:
        return
    yield ""
    yield "Rules"
    passed = [trial for trial in explained.trials if trial.failed]
    rule = explained.decision.rule
    width = max((len(trial.rule) for trial in passed), default=0)
    for trial in passed:
        yield f"  no   {trial.rule:{width}}  {'; '.join(trial.failed)}"
    if rule is None:
        yield "  none of them holds"
    elif explained.trials:
        yield f"  yes  {rule}"
    else:
        yield f"  yes  {rule}: the name means this virtual model, before all rules"
    if explained.assumed:
        names = ", ".join(explained.assumed)
        yield f"       where {names} is there, as it is taken to be; --available says what is (none: nothing)"


def _target(number: int, outcome: Outcome) -> Iterable[str]:
    target = outcome.target
    yield one_line(f"  {number}. {target.name}{', only where all others have failed' if outcome.last else ''}")
    if outcome.rests:
        yield one_line(f"     rests just now: it {outcome.rests}")
    if outcome.fault is not None:
        yield one_line(f"     cannot be told this{_about(outcome.fault)}: {outcome.fault.message}")
    if outcome.body is not None:
        origin = target.url.removesuffix(target.path) if target.url else "sandbox:"
        yield one_line(f"     POST {origin}{outcome.path}")
        if outcome.calls > 1:
            yield f"     asked in {outcome.calls} calls, of which this is the first"
        if outcome.dropped:
            yield one_line(f"     dropped: {', '.join(outcome.dropped)}")
        body = json.dumps(_short(orjson.loads(outcome.body)), indent=2, ensure_ascii=False)
        yield from (f"     {one_line(line)}" for line in body.split("\n"))


def _about(fault: Fault) -> str:
    return f" ({fault.param})" if fault.param is not None else ""


def _short(value: Any) -> Any:
    match value:
        case str() if len(value) > LONGEST_TEXT:
            kept = _SHOWN_OF_BASE64 if _BASE64.fullmatch(value) else _SHOWN_OF_TEXT
            return f"{value[:kept]}… ({len(value):,} characters)"
        case dict():
            return {key: _short(inner) for key, inner in value.items()}
        case list():
            return [_short(inner) for inner in value]
        case _:
            return value
