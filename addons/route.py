"""Where a call goes and how it is put there, as far as that can be said without sending anything.

A call and the explanation of one (explain.py) ask the same functions, so that neither can say what the other does not
do.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from types import MappingProxyType
from typing import Any

from mitmproxy.http import HTTPFlow

from addons.models import Models
from addons.thoughts import Thoughts
from rules.conditions import Facts, Seen
from rules.decide import NO_STAND_IN, Decision
from rules.targets import Target
from wire.dialects import DIALECTS, Facets, Operation
from wire.errors import Fault, ModelNotFound, NoRoute, Untranslatable
from wire.openai import ChatRequest, ModelRequest, Translated
from wire.parts import Part
from wire.profiles import PROFILES
from wire.surfaces import Surface

COMES_BACK = 5.0
"""Seconds until a server that is away is looked at again, or about that."""
MOST_NAMED = 8
"""Models in an error's words."""


class HeaderView(Mapping[str, str]):
    """The request's headers as a mapping that is only read where a rule asks for one."""

    def __init__(self, flow: HTTPFlow) -> None:
        self._headers = flow.request.headers

    def __getitem__(self, name: str) -> str:
        value: str = self._headers[name]
        return value

    def __iter__(self):  # type: ignore[no-untyped-def]  # never walked
        return iter(self._headers)

    def __len__(self) -> int:
        return len(self._headers)


def facts_of(request: ModelRequest, *, client: str, headers: Mapping[str, str], servers: Mapping[str, Seen]) -> Facts:
    """What the rules may look at. Header names are in lower case."""
    has = frozenset(name for name, held in (("tools", request.has_tools), ("images", request.has_images)) if held)
    return Facts(
        model=request.model,
        prompt_chars=request.prompt_chars,
        stream=request.stream,
        has=has,
        client=client,
        headers=headers,
        servers=servers,
    )


def no_route(
    model: str,
    decision: Decision,
    servers: Mapping[str, Seen] = MappingProxyType({}),
    names: Mapping[str, frozenset[str]] = MappingProxyType({}),
) -> Fault:
    """The answer to a call for which a decision names no target. `names` are the models of the local servers."""
    if decision.rule is None:
        return ModelNotFound(
            f"The model `{model[:200]}` does not exist or you do not have access to it (no rule matches it).",
            param="model",
        )
    why = "; ".join(f"{skip.target} {skip.why}" for skip in decision.skipped)
    if all(skip.why != NO_STAND_IN for skip in decision.skipped):
        return NoRoute(f"Rule '{decision.rule}' names no target that can be asked for `{model[:200]}`: {why}.")
    away = [name for name, seen in servers.items() if seen.reached and seen.models is None]
    if away:
        return NoRoute(
            f"{', '.join(away)} cannot be reached at the moment, and nothing else can be asked for `{model[:200]}` "
            f"(rule '{decision.rule}': {why}).",
            retry_after=COMES_BACK,
        )
    local = sorted(name for found in names.values() for name in found)
    if local:
        more = f" and {len(local) - MOST_NAMED} more" if len(local) > MOST_NAMED else ""
        return ModelNotFound(
            f"The model `{model[:200]}` does not exist here (rule '{decision.rule}': {why}). There are: "
            f"{', '.join(local[:MOST_NAMED])}{more}. To send it to one of them, make it an alias under `models` in the "
            "rules.",
            param="model",
        )
    return NoRoute(f"Rule '{decision.rule}' names no target that can be asked for `{model[:200]}`: {why}.")


def parts_of(surface: Surface, request: ModelRequest, decision: Decision) -> tuple[Part, ...]:
    """What a request is asked in, where one of the targets cannot be told all of it at once; else nothing."""
    parts = surface.split(request)
    return parts if len(parts) > 1 and asks_one_by_one(request, decision) else ()


def asks_one_by_one(request: ModelRequest, decision: Decision) -> bool:
    """Whether one of the targets cannot be told at once all that is asked for: then all of them are asked in parts."""
    return any(_one_by_one(request, target) for pool in decision.pools for target in pool.targets)


def _one_by_one(request: ModelRequest, target: Target) -> bool:
    operation = DIALECTS[target.dialect].operations.get(request.operation)
    return operation is not None and operation.one_by_one(request, Facets(target.profile))


def dropped_of(surface: Surface, request: ModelRequest, translated: Translated) -> tuple[str, ...]:
    """What of a request the target is not told, in the caller's words."""
    return tuple(surface.param(request, name) for name in (*request.lost, *translated.dropped))


def images_to_fetch(request: ModelRequest, decision: Decision, models: Models) -> tuple[str, ...]:
    """The URLs of its images that some target of the decision cannot be told."""
    if not (isinstance(request, ChatRequest) and request.has_images):
        return ()
    found: dict[str, None] = {}
    for pool in (*decision.pools, *decision.last):
        for target in pool.targets:
            operation = DIALECTS[target.dialect].operations.get(request.operation)
            if operation is not None:
                found |= dict.fromkeys(operation.inlines(request, models.facets(target)))
    return tuple(found)


def with_thoughts(request: ModelRequest, target: Target, thoughts: Thoughts, client: str) -> ModelRequest:
    """The request with what its caller's models thought, for a server that wants it back."""
    if isinstance(request, ChatRequest) and PROFILES[target.profile].thinking_by_default:
        return replace(request, thoughts=thoughts.of(client))
    return request


def operation_at(target: Target, request: ModelRequest) -> Operation[Any]:
    """How the target is asked for it; raises Untranslatable where a server of its kind cannot be."""
    operation = DIALECTS[target.dialect].operations.get(request.operation)
    if operation is None or request.operation in PROFILES[target.profile].lacks:
        raise Untranslatable(
            f"`{request.model[:200]}` leads to {target.name}, and a server of its kind cannot be asked for "
            f"{request.operation}. Name a model, or write a rule, that leads to one which can.",
            param="model",
        )
    return operation
