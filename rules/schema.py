"""The shape of rules.yaml, noun by noun: where calls can go, and what decides. Who may call and what it costs is
terms.py's. What neither has is refused, with its line (load.py).

Values are what a person writes (`5s`, `32MiB`, `> 500`); values.py makes of them what we count with.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import AfterValidator, BeforeValidator, ByteSize, Field, SecretStr

from rules.health import DEFAULT_ON
from rules.hosts import listener, open_host
from rules.paths import Paths
from rules.terms import GIVEN, Caller, ClientName, Cors, Ledger, Price, Quotas, Secrets
from rules.values import (
    Contexts,
    Count,
    Kind,
    Names,
    Noun,
    Number,
    Real,
    Seconds,
    Size,
    Url,
    Whole,
    as_list,
    as_text,
    is_comparison,
    rule_name,
    sendable,
    span,
)


def _key(value: SecretStr | None) -> SecretStr | None:
    if value is not None:
        sendable(value.get_secret_value())
    return value


class Auth(Noun):
    enabled: bool | None = None
    """Left out: on as soon as there is a token or a client."""
    method: Literal["bearer"] = "bearer"
    tokens: Secrets = ()
    """Keys without a name of their own."""


class Proxy(Noun):
    host: Annotated[str, AfterValidator(listener)] = "127.0.0.1"
    port: Annotated[Whole, Field(ge=0, le=65535)] = 8080
    endpoints: Paths | None = None
    """The paths that are answered, as `/v1/models`; left out: all. `/health` is answered in any case."""
    auth: Auth = Auth()
    cors: Cors = Cors()


class Provider(Noun):
    dialect: Literal["ollama", "openai", "sandbox"]
    urls: Annotated[tuple[Url, ...], BeforeValidator(as_list)] = ()
    """Several servers that can stand in for each other: the least busy one is asked first."""
    profile: str = "compat"
    key: Annotated[SecretStr | None, AfterValidator(_key)] = None
    """Written but empty: the provider needs a key and has none yet, so its targets are skipped."""
    num_ctx: Contexts = {"*": "auto"}
    """Tokens of context that an Ollama server is asked for, by pattern of the model's name; the first that fits counts.
    `auto`: what the model can have and its memory allows; `none`: not sent, the server's own default holds."""
    context_memory: Size = ByteSize(2 * 1024**3)
    """What the context of one model may take where its `num_ctx` is `auto`."""
    keep_alive: Annotated[str | None, BeforeValidator(span)] = None
    """How long an Ollama server keeps a model loaded after a call, as Go writes durations; left out: its default."""
    parallel: Count | None = None
    """Calls that each of its models on each of its servers is given at once; left out: that of `admission`."""
    patience: Seconds | None = None
    """The first-token limit while the server shows signs of life; left out: its profile's."""
    window: Count | None = None
    """Tokens of context; left out: what is known of the model, or unknown."""


class Model(Noun):
    targets: Names
    aliases: Annotated[tuple[str, ...], BeforeValidator(as_list)] = ()
    capability: str | None = None
    strategy: Literal["in_order", "round_robin", "least_busy", "fastest", "cheapest", "weighted"] = "in_order"
    """Which target comes first. The strategies are in balance.py."""
    weights: Annotated[tuple[Annotated[Real, Field(gt=0, le=1e6)], ...], Field(min_length=1)] | None = None
    """One per target, exactly where the strategy is `weighted`: how often it comes first, compared with the others."""
    mid_stream: Literal["continue", "error"] | None = None
    """Left out: that of `failover`."""


class When(Noun):
    """What must hold, all of it. A condition is a function in conditions.py."""

    model: Names | None = None
    prompt_chars: Annotated[str, BeforeValidator(as_text), AfterValidator(is_comparison)] | None = None
    available: str | None = None
    stream: bool | None = None
    has: Annotated[tuple[Literal["tools", "images"], ...], BeforeValidator(as_list), Field(min_length=1)] | None = None
    client: Names | None = None
    header: Annotated[dict[str, str], Field(min_length=1)] | None = None


class Rule(Noun):
    name: Annotated[str, AfterValidator(rule_name)]
    when: When = When()
    use: Names
    mid_stream: Literal["continue", "error"] | None = None
    """Left out: that of `failover`."""


class Timeouts(Noun):
    connect: Seconds = 5.0
    first_token: Seconds = 60.0
    idle: Seconds = 30.0
    total: Seconds = 1800.0
    keep_alive: Seconds = 15.0
    """How long the caller of a stream may hear nothing before a comment tells it that we live."""


class Limits(Noun):
    body: Size = ByteSize(32 * 1024 * 1024)
    headers: Size = ByteSize(64 * 1024)


class Failover(Noun):
    """What follows a failed attempt. The whole call has `timeouts.total`."""

    attempts: Annotated[Whole, Field(ge=1, le=10)] = 2
    """At one target, in one call."""
    on: Annotated[tuple[Kind, ...], BeforeValidator(as_list)] = DEFAULT_ON
    """The kinds of failure that lead on: names, groups and statuses of health.py. Any other one is the answer."""
    mid_stream: Literal["continue", "error"] = "continue"
    """Whether a stream that breaks off after its caller saw text is continued by the next target."""
    backoff: Seconds = 0.25
    """Before the second attempt at one target; doubles with each further one, and varies by chance."""
    wait: Seconds = 30.0
    """The longest that a call waits for a target to be ready again."""
    repair: bool = False
    """Whether a target whose answer is not the JSON that was asked for is asked once more, and told what was wrong."""


class BreakerPolicy(Noun):
    """When a target that fails is left alone for a while."""

    failures: Annotated[Real, Field(gt=0, allow_inf_nan=False)] = 5.0
    """The score that opens the breaker: a failure adds its weight, a success halves it."""
    cool_down: Seconds = 10.0
    """From there to the one call that may try again."""
    wait: Seconds = 2.0
    """How long a call for which every target rests waits until one may be tried again."""
    weights: dict[Kind, Number] = {}
    """By kind of failure, written as in `failover.on`; for those not named health.py has its own."""


class Admission(Noun):
    """How many calls a target is given at once, and what becomes of more."""

    parallel: Count | None = None
    """Left out: 4 for a server that speaks Ollama, 64 for any other."""
    queue: Annotated[Whole, Field(ge=0)] = 100
    """Calls that may wait for one target."""
    wait: Seconds = 30.0
    """The longest that a call waits for its place."""


class Images(Noun):
    """The fetching of images that a message names by their URL, for models that take no URLs."""

    fetch: bool = True
    bytes: Size = ByteSize(20 * 1024**2)
    """Of one image."""
    wait: Seconds = 10.0
    """For all images of a call together."""
    redirects: Annotated[Whole, Field(ge=0, le=10)] = 3
    """That one image may take."""
    allow: Annotated[tuple[Annotated[str, AfterValidator(open_host)], ...], BeforeValidator(as_list)] = ()
    """Host names, addresses and networks that may be asked although they are not public."""


class Defaults(Noun):
    timeouts: Timeouts = Timeouts()
    limits: Limits = Limits()
    refresh: Seconds = 5.0
    """How often a local server is asked for its models."""
    failover: Failover = Failover()
    breaker: BreakerPolicy = BreakerPolicy()
    admission: Admission = Admission()
    images: Images = Images()
    drain: Seconds = 10.0
    """How long calls under way may go on when we are asked to stop."""


class RulesFile(Noun):
    proxy: Proxy = Proxy()
    clients: dict[ClientName, Caller] = {}
    limits: Quotas = Quotas()
    providers: Annotated[dict[str, Provider], Field(min_length=1)]
    models: dict[str, Model] = {}
    rules: tuple[Rule, ...] = ()
    defaults: Defaults = Defaults()
    prices: tuple[Price, ...] = ()
    ledger: Annotated[Ledger | None, GIVEN] = None
    """Left out: nothing is kept."""
