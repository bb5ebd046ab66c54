"""The shape of rules.yaml, second half: who may call, how much, what it costs, and what is kept of it."""

from __future__ import annotations

from datetime import date
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BeforeValidator, ByteSize, Field, SecretStr

from rules.quota import parse_limit
from rules.values import Names, Noun, Number, Seconds, Size, as_list, day, split_keys


def _limit(value: str) -> str:
    parse_limit(value)
    return value


def _limits(value: Any) -> Any:
    """An entry that is empty, or lacks its amount, comes from a variable that is not set: it is no limit."""
    given = [value] if isinstance(value, str) else value
    if not isinstance(given, list):
        return given
    return [item for item in given if not (isinstance(item, str) and not item.partition("/")[0].strip())]


LimitText = Annotated[str, AfterValidator(_limit)]
Limits = Annotated[tuple[LimitText, ...], BeforeValidator(_limits)]
Day = Annotated[date, BeforeValidator(day)]
Patterns = Annotated[tuple[str, ...], BeforeValidator(as_list), Field(min_length=1)]


class Caller(Noun):
    """One of `clients`: somebody who may call, by name."""

    key: SecretStr | None = None
    """In plain, from the environment, or as `sha256:` and the digest that `unigate keys new` prints."""
    keys: Annotated[tuple[SecretStr, ...], BeforeValidator(split_keys)] = ()
    """Several, while one takes the place of another."""
    models: Patterns | None = None
    """Which models it may name, by pattern; left out: all."""
    endpoints: Names | None = None
    """Which paths it may call, as in `proxy.endpoints`; left out: all."""
    tags: Annotated[dict[str, str], Field(max_length=16)] = {}
    """Kept in the ledger with each of its calls."""
    expires: Day | None = None
    """The last day, in UTC, on which its keys are accepted."""
    disabled: bool = False
    limits: Limits | None = None
    """Left out: `limits.each_client`. An empty list: none."""


class Quotas(Noun):
    """How much may be asked. A call must fit all limits that it falls under, or takes nothing of any."""

    overall: Limits = ()
    """Of all clients together."""
    each_client: Limits = ()
    """Of each client for itself, where `clients` says nothing else."""
    models: dict[str, Limits] = {}
    """pattern of the name that is asked for -> of all such calls together."""
    store: str = "memory"
    """`memory`, or the URL of a Redis server that several gateways share."""
    if_away: Literal["open", "closed"] = "open"
    """What becomes of calls while the store cannot be reached: they pass unlimited, or get a 503."""


class Cors(Noun):
    """Which web pages may call from a browser."""

    enabled: bool | None = None
    """Left out: on as soon as there is an origin."""
    origins: Annotated[tuple[str, ...], BeforeValidator(as_list)] = ()
    """As `https://app.example`; `*` stands for one or more labels of a host's name, or alone for every origin."""

    @property
    def on(self) -> bool:
        return bool(self.origins) if self.enabled is None else self.enabled


class Peak(Noun):
    """Hours of the week in which a price is another one."""

    utc: Annotated[tuple[str, ...], BeforeValidator(as_list), Field(min_length=1)]
    """As `mon-fri 01:00-04:00`; without days, every day."""
    times: Number
    """How many times the usual price."""
    but: Annotated[
        tuple[Day, ...], BeforeValidator(lambda value: [value] if isinstance(value, str | date) else value)
    ] = ()
    """Days without a peak, such as holidays."""


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


class Ledger(Noun):
    """What is kept of each call."""

    url: str = "sqlite:///ledger.db"
    """Of a database, as SQLAlchemy writes it; a relative path is one beside the rules file."""
    compare_to: str | None = None
    """The priced model that savings are counted against."""
    content: Size | None = None
    """How much of a prompt and of an answer is kept, each; left out: nothing of either."""
    keep: Seconds = 90 * 86400.0
    """How long rows are kept."""
    size: Size = ByteSize(1024**3)
    """What the rows may take; the oldest ones go first."""
