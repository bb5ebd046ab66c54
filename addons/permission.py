"""Who calls and what it may: a client's key, its endpoints and its models, as the faults that a caller is told.

What counts of a model is the name that the caller uses: what the rules make of it is no business of the caller's.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from rules.access import Client
from rules.paths import OPENAI, permits
from rules.snapshot import Rules
from wire.errors import EndpointForbidden, KeyMissing, ModelForbidden, NotFound, Unauthorized

MOST_NAMED = 8
"""Models or endpoints in an error's words."""


def identify(rules: Rules, key: str | None, moment: float, misplaced: Callable[[], str] = str) -> Client:
    """Who calls, at a moment in Unix time; raises Unauthorized in OpenAI's words, without the beginning of the key that
    OpenAI shows there. `misplaced` is asked only where there is no key: a sentence on what came in its place, or
    nothing."""
    match rules.keys.identify(key, moment):
        case Client() as client:
            return client
        case denied if not denied.given:
            seen = misplaced()
            raise KeyMissing(
                "You didn't provide an API key. You need to provide your API key in an Authorization header using "
                "Bearer auth (i.e. Authorization: Bearer YOUR_KEY), or as ?api_key=YOUR_KEY." + (seen and f" {seen}")
            )
        case denied if denied.because:
            raise Unauthorized(
                f"The API key *** is not accepted: {denied.because}. Ask whoever runs this gateway for another one."
            )
        case denied:
            raise Unauthorized(
                "Incorrect API key provided: ***. Use a key that this gateway was given in API_KEYS"
                f"{' or under `clients`' if rules.file.clients else ''}."
            )


def check_endpoint(client: Client, path: str, rules: Rules, *, own: bool) -> None:
    """`path` and `own`: as the table of endpoints has them. Raises EndpointForbidden.

    The gateway's own pages name all clients and what they spend: for a client with a name they must be listed.
    """
    if client.endpoints is None:
        if own and client.name in rules.file.clients:
            raise EndpointForbidden(
                f"Client '{client.name}' does not have access to this endpoint, which tells about all clients. To "
                f"allow it, list it in rules.yaml, under `clients`: {client.name}: {{endpoints: [{OPENAI}, {path}]}}"
            )
    elif not permits(client.endpoints, path, own=own):
        listed = rules.file.clients[client.name].endpoints or ()
        raise EndpointForbidden(
            f"Client '{client.name}' does not have access to this endpoint. It may call: {_some(listed)}."
        )


def check_offered(path: str, rules: Rules, *, own: bool) -> None:
    """`path` and `own`: as the table of endpoints has them. Raises NotFound where `proxy.endpoints` lacks it."""
    if rules.endpoints is not None and not permits(rules.endpoints, path, own=own):
        raise NotFound(f"/v1{path} is not among the endpoints that this gateway answers (proxy.endpoints).")


def check_model(client: Client, model: str, rules: Rules) -> None:
    """`model`: as the caller names it. Raises ModelForbidden."""
    if client.models is not None and not client.models(model):
        listed = rules.file.clients[client.name].models or ()
        raise ModelForbidden(
            f"Client '{client.name}' does not have access to model `{model[:200]}`. It may name: {_some(listed)}.",
            param="model",
        )


def _some(listed: Sequence[str]) -> str:
    more = f" and {len(listed) - MOST_NAMED} more" if len(listed) > MOST_NAMED else ""
    return ", ".join(listed[:MOST_NAMED]) + more
