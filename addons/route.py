"""Where a call goes and how it is put there, as far as that can be said without sending anything.

A call and the explanation of one (explain.py) ask the same functions, so that neither can say what the other does not
do.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from mitmproxy.http import HTTPFlow

from rules.conditions import Facts, Seen
from rules.decide import Decision, Target
from wire.dialects import DIALECTS, Operation
from wire.errors import Fault, ModelNotFound, NoRoute, Untranslatable
from wire.openai import ModelRequest


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


def no_route(model: str, decision: Decision) -> Fault:
    """The answer to a call for which a decision names no target."""
    if decision.rule is None:
        return ModelNotFound(
            f"The model `{model[:200]}` does not exist or you do not have access to it (no rule matches it).",
            param="model",
        )
    why = "; ".join(f"{skip.target} {skip.why}" for skip in decision.skipped)
    return NoRoute(f"Rule '{decision.rule}' names no target that can be asked for `{model[:200]}`: {why}.")


def operation_at(target: Target, request: ModelRequest) -> Operation[Any]:
    """How the target is asked for it; raises Untranslatable where a server of its kind cannot be."""
    operation = DIALECTS[target.dialect].operations.get(request.operation)
    if operation is None:
        raise Untranslatable(f"A server of this kind cannot be asked for {request.operation}.")
    return operation
