"""The shape of rules.yaml, second half: who may call, how much, what it costs, and what is kept of it."""

from __future__ import annotations

from datetime import date
from typing import Annotated, Any, Literal, Self

from pydantic import AfterValidator, BeforeValidator, ByteSize, Field, SecretStr, model_validator

from rules.access import ANONYMOUS, UNNAMED, digest_of
from rules.origins import origin
from rules.paths import Paths
from rules.quota import parse_limit
from rules.stores import LEDGER, MEMORY, ledger
from rules.stores import store as store_url
from rules.values import Noun, Number, Seconds, Size, as_list, day, rule_name, sendable, split_keys
from rules.week import parse_hours


def _limit(value: str) -> str:
    parse_limit(value)
    return value


def _limits(value: Any) -> Any:
    """An entry that is empty, or lacks its amount, comes from a variable that is not set: it is no limit."""
    given = [value] if isinstance(value, str) else value
    if not isinstance(given, list):
        raise ValueError("must be a list of limits, such as [100/minute, 5 USD/day]")
    return [item for item in given if not (isinstance(item, str) and not item.partition("/")[0].strip())]


def _hours(value: str) -> str:
    parse_hours(value)
    return value


def _given(value: Any) -> Any:
    """A key with nothing behind it is no way to say `all of them`: most likely its last entry was taken away."""
    if value is None:
        raise ValueError("is empty; write what it should be, or leave it out")
    return value


def _secret(value: SecretStr) -> SecretStr:
    for part in split_keys(value.get_secret_value()):
        sendable(part, "; several keys have commas between")
        digest_of(part)
    return value


def client_name(value: str) -> str:
    """The name, where a client may have it; raises ValueError."""
    rule_name(value)
    if value.lower() == ANONYMOUS or value.lower().startswith(UNNAMED):
        raise ValueError(f"'{ANONYMOUS}' and names that begin with '{UNNAMED}' are those of callers without a name")
    return value


GIVEN = BeforeValidator(_given)
Secret = Annotated[SecretStr, AfterValidator(_secret)]
Secrets = Annotated[tuple[Secret, ...], BeforeValidator(split_keys)]
ClientName = Annotated[str, AfterValidator(client_name)]
LimitText = Annotated[str, AfterValidator(_limit)]
Limits = Annotated[tuple[LimitText, ...], BeforeValidator(_limits)]
Day = Annotated[date, BeforeValidator(day)]
Patterns = Annotated[tuple[str, ...], BeforeValidator(as_list), Field(min_length=1)]


class Caller(Noun):
    """One of `clients`: somebody who may call, by name."""

    key: Annotated[Secret | None, GIVEN] = None
    """In plain, from the environment, or as `sha256:` and the digest that `unigate keys new` prints; several with
    commas between. Written but empty: nobody can be this client for now."""
    keys: Secrets = ()
    """Several, while one takes the place of another."""
    models: Annotated[Patterns | None, GIVEN] = None
    """Which models it may name, by pattern; left out: all."""
    endpoints: Annotated[Paths | None, GIVEN] = None
    """Which paths it may call, as in `proxy.endpoints`; left out: all that OpenAI has too."""
    tags: Annotated[dict[str, str], Field(max_length=16)] = {}
    """Kept in the ledger with each of its calls."""
    expires: Annotated[Day | None, GIVEN] = None
    """The last day, in UTC, on which its keys are accepted."""
    disabled: bool = False
    limits: Annotated[Limits | None, GIVEN] = None
    """Left out: `limits.each_client`. An empty list: none."""


def _with_unit(value: Any) -> Any:
    """A bare number would be seconds, and whoever writes 90 means days."""
    if isinstance(value, int | float) or (isinstance(value, str) and value.strip().replace(".", "", 1).isdigit()):
        raise ValueError("write its unit, such as 90d or 36h")
    return value


class Quotas(Noun):
    """How much may be asked. A call must fit all limits that it falls under, or takes nothing of any."""

    overall: Limits = ()
    """Of all clients together."""
    each_client: Limits = ()
    """Of each client for itself, where `clients` says nothing else."""
    models: dict[str, Limits] = {}
    """pattern of the name that is asked for -> of all such calls together."""
    store: Annotated[str, AfterValidator(store_url)] = MEMORY
    """`memory`, or the URL of a Redis server that several gateways share."""
    if_away: Literal["open", "closed"] = "open"
    """What becomes of calls while the store cannot be reached: they pass unlimited, or get a 503."""


class Cors(Noun):
    """Which web pages may call from a browser."""

    enabled: bool | None = None
    """Left out: on as soon as there is an origin."""
    origins: Annotated[
        tuple[Annotated[str, AfterValidator(origin)], ...], BeforeValidator(lambda value: split_keys(as_list(value)))
    ] = ()
    """As `https://app.example`; `*` stands for labels where a host begins, for any port, or alone for every page."""

    @property
    def on(self) -> bool:
        return bool(self.origins) if self.enabled is None else self.enabled

    @model_validator(mode="after")
    def _has_origins(self) -> Self:
        if self.on and not self.origins:
            raise ValueError('cors is enabled and there is no origin; list `origins`, or write "*" for every page')
        return self


class Peak(Noun):
    """Hours of the week in which all of a price is another one. An attempt is paid by the hour in which it began."""

    utc: Annotated[tuple[Annotated[str, AfterValidator(_hours)], ...], BeforeValidator(as_list), Field(min_length=1)]
    """As `mon-fri 01:00-04:00`; without days, every day, and without a time, all day."""
    times: Number
    """How many times the usual price."""
    but: Annotated[
        tuple[Day, ...], BeforeValidator(lambda value: [value] if isinstance(value, str | date) else value)
    ] = ()
    """Days, in UTC, without a peak, such as holidays."""


class Price(Noun):
    """USD per million tokens, from a day on."""

    model: str
    """A target, provider/model; `*`, `?` and `[...]` stand for parts of the model's name."""
    since: Day = Field(alias="from")
    """The first day, in UTC."""
    input: Number = 0.0
    cached_input: Number | None = None
    """Left out: as `input`."""
    output: Number = 0.0
    request: Number = 0.0
    """USD for each request, whatever its size."""
    hour: Number = 0.0
    """USD for each hour that a machine of ours works on calls."""
    peak: Peak | None = None

    @model_validator(mode="after")
    def _has_an_amount(self) -> Self:
        if not {"input", "output", "request", "hour"} & self.model_fields_set:
            raise ValueError("it says no amount; write input and output (USD per million tokens), request or hour")
        return self


def _room(value: ByteSize) -> ByteSize:
    if value < 1024**2:
        raise ValueError("so small a ledger would keep next to nothing; write 1MiB or more")
    return value


class Ledger(Noun):
    """What is kept of each call."""

    url: Annotated[str, AfterValidator(ledger)] = LEDGER
    """Of a database, as SQLAlchemy writes it; a relative path is one beside the rules file."""
    compare_to: str | None = None
    """The priced model that savings are counted against."""
    content: Size | None = None
    """How much of a prompt and of an answer is kept, each; left out: nothing of either."""
    keep: Annotated[Seconds, BeforeValidator(_with_unit)] = 90 * 86400.0
    """How long rows are kept."""
    size: Annotated[Size, AfterValidator(_room)] = ByteSize(1024**3)
    """What the rows may take; the oldest ones go first."""
