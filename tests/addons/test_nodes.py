"""What is known of each target: places and queues, breakers of models and of servers, speed, and what is said of it."""

from __future__ import annotations

import gc
from collections.abc import Callable
from dataclasses import dataclass, field, replace

import pytest
from loguru import logger

from addons import nodes as module
from addons.node import Node, Ticket, wait_in_queue, watch
from addons.nodes import KEY_REST, Nodes
from rules.decide import Decision
from rules.load import load_rules
from rules.schema import Defaults, Provider
from rules.snapshot import Rules
from rules.targets import Pool, Target, target_of
from wire.errors import (
    BadRequest,
    ConnectFailed,
    ContextTooLong,
    Fault,
    KeyRefused,
    ModelMissing,
    Overloaded,
    RateLimited,
    TimedOut,
    TlsFailed,
    UpstreamFault,
)
from wire.profiles import PROFILES
from wire.rejections import rejection

ONE, TWO = "http://one.test", "http://two.test"


def target(model: str = "m", url: str = ONE, provider: str = "p") -> Target:
    return target_of(provider, Provider.model_validate({"dialect": "openai", "urls": url}), model, url, Defaults())


def rules(breaker: str = "failures: 2, cool_down: 10s", prices: str = "[]") -> Rules:
    text = f"""
providers: {{p: {{dialect: openai, urls: [{ONE}, {TWO}]}}}}
rules: [{{name: all, use: [p/m]}}]
prices: {prices}
defaults: {{breaker: {{{breaker}}}}}"""
    return load_rules(text, {}, profiles=PROFILES)


@dataclass
class Known:
    """Nodes under a clock that stands still, and everybody who was told something."""

    nodes: Nodes = field(init=False)
    now: float = 1000.0
    refused: list[tuple[str, bool]] = field(default_factory=list)
    told: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.use(rules())

    def use(self, these: Rules) -> None:
        self.nodes = Nodes(these, lambda: self.now)
        self.nodes.refused = lambda provider, refused: self.refused.append((provider, refused))

    def node(self, model: str = "m", url: str = ONE) -> Node:
        return self.nodes.of(target(model, url))

    def call(self, node: Node, fault: Fault | None = None) -> None:
        """One call, from its beginning to its end."""
        probes = node.begin()
        if fault is None:
            self.nodes.went_well(node, 1.0, probes)
        else:
            self.nodes.went_wrong(node, fault, probes)

    def waits(self, name: str, *nodes: Node, limit: int = 100) -> Ticket:
        ticket = wait_in_queue(nodes, limit, lambda: self.told.append(name))
        assert ticket is not None
        return ticket

    def row(self, node: Node) -> dict[str, object]:
        (found,) = [
            row for row in self.nodes.rows() if (row["target"], row["url"]) == (node.name, node.server.url or None)
        ]
        return found


@pytest.fixture
def known() -> Known:
    return Known()


CRASH = UpstreamFault("had an internal error (500)", kind="status_500")
REFUSED = ConnectFailed("could not be reached")


# ---------------------------------------------------------------------------------------------------------
# Which node is whose


def test_a_target_has_one_node_however_often_it_is_built_and_its_server_one_for_all_its_models(known: Known) -> None:
    assert known.node() is known.node()
    assert known.node("other").server is known.node().server
    assert known.node(url=TWO) is not known.node()
    assert known.node(url=TWO).server is not known.node().server
    assert set(known.node().server.nodes) == {"m", "other"}


def test_idle_nodes_are_forgotten_beyond_a_bound_and_one_with_a_call_is_not(
    known: Known, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "REMEMBERED", 3)
    known.use(rules())
    busy = known.node("busy")
    busy.begin()
    for number in range(50):
        known.node(f"thought-up-{number}")
    gc.collect()
    assert len(known.nodes.rows()) == 4
    assert known.node("busy") is busy
    assert busy.in_flight == 1


# ---------------------------------------------------------------------------------------------------------
# Places


def test_a_place_that_is_given_back_goes_to_the_first_who_waits(known: Known) -> None:
    node = known.node()
    node.begin()
    first, second = known.waits("first", node), known.waits("second", node)
    node.leave()
    assert (known.told, first.granted, second.granted) == (["first"], node, None)
    assert (node.in_flight, [*node.queue]) == (1, [second])
    node.leave()
    assert (known.told, second.granted) == (["first", "second"], node)
    node.leave()
    assert (node.in_flight, node.queue) == (0, {})


def test_who_waits_for_two_nodes_takes_one_place_and_stands_in_no_queue_after_that(known: Known) -> None:
    one, two = known.node(), known.node(url=TWO)
    one.begin()
    two.begin()
    both, other = known.waits("both", one, two), known.waits("other", one)
    two.leave()
    assert (both.granted, two.in_flight) == (two, 1)
    assert [*one.queue] == [other]
    one.leave()
    assert other.granted is one
    assert known.told == ["both", "other"]


def test_a_queue_that_is_full_takes_nobody_and_another_one_may(known: Known) -> None:
    one, two = known.node(), known.node(url=TWO)
    known.waits("first", one, limit=1)
    assert wait_in_queue([one], 1, lambda: None) is None
    assert wait_in_queue([], 1, lambda: None) is None
    assert known.waits("second", one, two, limit=1).nodes == (two,)
    assert wait_in_queue([one, two], 0, lambda: None) is None
    assert (len(one.queue), len(two.queue)) == (1, 1)


def test_who_leaves_the_queue_is_passed_over(known: Known) -> None:
    node = known.node()
    node.begin()
    first, second = known.waits("first", node), known.waits("second", node)
    first.cancel()
    node.leave()
    assert (first.granted, second.granted, known.told) == (None, node, ["second"])


def test_who_leaves_just_after_it_got_its_place_hands_it_on(known: Known) -> None:
    node = known.node()
    node.begin()
    first, second = known.waits("first", node), known.waits("second", node)
    node.leave()
    first.cancel()
    assert (first.granted, second.granted, node.in_flight) == (None, node, 1)
    second.cancel()
    second.cancel()
    assert (node.in_flight, node.queue) == (0, {})


@pytest.mark.parametrize(("took", "waiting", "parallel", "seconds"), [
    (None, 0, 1, 1.0),
    (4.0, 0, 1, 4.0),
    (4.0, 3, 1, 16.0),
    (4.0, 3, 8, 2.0),
], ids=["nobody knows", "the next one", "behind three", "with eight places"])  # fmt: skip
def test_the_expected_wait_grows_with_the_queue(
    known: Known, took: float | None, waiting: int, parallel: int, seconds: float
) -> None:
    node = known.node()
    node.took = took
    for number in range(waiting):
        known.waits(str(number), node)
    assert node.expected_wait(parallel) == seconds


# ---------------------------------------------------------------------------------------------------------
# Breakers


@pytest.mark.parametrize(("fault", "condemned"), [
    (CRASH, {"m"}),
    (ModelMissing("model 'm' not found"), {"m"}),
    (Overloaded("is overloaded (503)"), {"m"}),
    (REFUSED, {"m", "other"}),
    (TlsFailed("could not be reached securely"), {"m", "other"}),
    (BadRequest("no"), set()),
    (ContextTooLong("too long"), set()),
], ids=["a crash", "a missing model", "too busy", "a refused connection", "no trust", "the caller's fault", "too long"])  # fmt: skip
def test_what_a_failure_condemns(known: Known, fault: Fault, condemned: set[str]) -> None:
    m, other, elsewhere = known.node(), known.node("other"), known.node(url=TWO)
    for _ in range(2):
        assert m.allows(known.now)
        known.call(m, fault)
    assert {node.model for node in (m, other) if not node.allows(known.now)} == condemned
    assert elsewhere.allows(known.now)
    assert m.in_flight == 0


def test_after_the_cool_down_one_call_may_try_and_decides(known: Known) -> None:
    node = known.node()
    for _ in range(2):
        known.call(node, CRASH)
    known.now += 9.9
    assert (node.allows(known.now), node.state(known.now)) == (False, "open")
    known.now += 0.1
    assert (node.allows(known.now), node.state(known.now)) == (True, "half_open")
    assert node.begin(), "it is the one that tries"
    assert not node.allows(known.now)
    known.nodes.went_wrong(node, CRASH, True)
    assert (node.state(known.now), node.rests_until(known.now)) == ("open", known.now + 10)
    known.now += 10
    known.call(node)
    assert (node.allows(known.now), node.state(known.now)) == (True, "closed")


@pytest.mark.parametrize("fault", [None, BadRequest("no")], ids=["its caller left", "its caller's own fault"])
@pytest.mark.parametrize("opens", [CRASH, REFUSED], ids=["of a model", "of a server"])
def test_a_probe_that_says_nothing_lets_the_next_one_try(known: Known, opens: Fault, fault: Fault | None) -> None:
    node, other = known.node(), known.node("other")
    for _ in range(2):
        known.call(node, opens)
    known.now += 10
    assert node.begin(), "it is the one that tries"
    assert not node.allows(known.now)
    assert other.allows(known.now) == (opens is CRASH)
    if fault is None:
        known.nodes.left(node, True)
    else:
        known.nodes.went_wrong(node, fault, True)
    assert node.allows(known.now)
    assert other.allows(known.now)


@pytest.mark.parametrize("fault", [None, BadRequest("no")], ids=["its caller left", "its caller's own fault"])
@pytest.mark.parametrize("opens", [CRASH, REFUSED], ids=["of a model", "of a server"])
def test_the_end_of_a_call_from_before_lets_no_second_one_try(known: Known, opens: Fault, fault: Fault | None) -> None:
    node = known.node()
    assert not node.begin(), "a breaker that is closed needs no probe"
    for _ in range(2):
        known.call(node, opens)
    known.now += 10
    assert node.begin()
    if fault is None:
        known.nodes.left(node, False)
    else:
        known.nodes.went_wrong(node, fault, False)
    assert not node.allows(known.now)
    known.nodes.left(node, True)
    assert node.allows(known.now)
    assert node.in_flight == 0


def test_whoever_gets_an_answer_says_that_its_server_can_be_reached(known: Known) -> None:
    node, other = known.node(), known.node("other")
    for _ in range(2):
        known.call(node, REFUSED)
    known.now += 10
    known.call(other)
    assert (node.state(known.now), other.state(known.now)) == ("closed", "closed")


def test_the_first_content_of_the_call_that_tries_lets_the_others_in_again_on_probation(known: Known) -> None:
    node = known.node()
    for _ in range(2):
        known.call(node, CRASH)
    known.now += 10
    probes = node.begin()
    assert (probes, node.allows(known.now)) == (True, False)
    known.nodes.heard(node, 0.1)
    assert node.allows(known.now)
    known.nodes.went_well(node, 1.0, probes)
    known.call(node, CRASH)
    assert node.state(known.now) == "open", "one failure is enough now"


def test_an_answer_without_content_closes_a_breaker_as_well(known: Known) -> None:
    node = known.node()
    for _ in range(2):
        known.call(node, CRASH)
    known.now += 10
    known.call(node)
    assert (node.state(known.now), node.breaker.probing) == ("closed", False)


def test_whoever_waits_for_a_breaker_is_told_when_it_changes(known: Known) -> None:
    node = known.node()
    for _ in range(2):
        known.call(node, CRASH)
    known.now += 10
    ends: tuple[Callable[[], None], ...] = (
        lambda: known.nodes.heard(node, 0.1),
        lambda: known.nodes.went_wrong(node, CRASH, True),
    )
    for end in ends:
        node.breaker = replace(node.breaker, until=known.now, probing=False)
        node.begin()
        ticket = watch([node], lambda: known.told.append("waits"))
        known.told.clear()
        end()
        assert (known.told, ticket.called_off, dict(node.watched)) == (["waits"], True, {})


def test_nobody_gets_a_place_at_a_server_that_began_to_rest_while_he_waited(known: Known) -> None:
    full, other = known.node(), known.node("other")
    for _ in range(2):
        known.call(other, REFUSED)
    known.now += 10
    full.begin()
    probes = other.begin()
    known.waits("first", full)
    known.nodes.went_wrong(other, REFUSED, probes)
    assert known.told == ["first"]
    known.nodes.left(full, False)
    assert (full.in_flight, other.in_flight, dict(full.queue)) == (0, 0, {})
    known.now += 10
    assert full.allows(known.now)


def test_a_target_that_nobody_has_tried_since_its_rest_is_no_news_any_more(known: Known) -> None:
    node = known.node()
    for _ in range(2):
        known.call(node, CRASH)
    known.now += 10 + module.FORGOTTEN
    assert known.nodes.not_closed() == {"p/m": "half_open"}
    known.now += 0.1
    assert (known.nodes.not_closed(), known.row(node)["breaker"]) == ({}, "half_open")


def test_a_server_that_was_away_when_it_was_looked_at_is_shown_so(known: Known) -> None:
    known.nodes.away = {TWO}
    one, two = known.node(), known.node(url=TWO)
    assert (known.row(one)["reachable"], known.row(two)["reachable"]) == (True, False)


def test_a_silent_target_is_a_slow_one(known: Known) -> None:
    node = known.node()
    node.begin()
    known.nodes.went_wrong(node, TimedOut("did not begin to answer in time"), False, 60.0)
    assert node.first_token == 60


def test_a_late_success_shortens_no_rest(known: Known) -> None:
    node = known.node()
    for _ in range(3):
        node.begin()
    known.nodes.went_wrong(node, RateLimited("is rate limiting us (429)", retry_after=30.0), False)
    known.nodes.went_well(node, 1.0)
    assert (node.state(known.now), node.rests_until(known.now)) == ("open", known.now + 30)
    known.now += 30
    known.nodes.went_well(node, 1.0)
    assert node.state(known.now) == "closed"
    assert node.in_flight == 0


def test_a_refused_key_opens_at_once_and_is_reported_until_it_is_taken(known: Known) -> None:
    node, other = known.node(), known.node("other")
    known.call(node, KeyRefused("refuses the gateway's key (401)"))
    assert known.refused == [("p", True)]
    assert (node.allows(known.now), other.allows(known.now)) == (False, False)
    assert other.rests_until(known.now) == known.now + KEY_REST
    known.now += KEY_REST
    known.call(other)
    assert known.refused == [("p", True), ("p", False)]
    assert node.allows(known.now)


def test_the_weights_of_the_file_come_before_our_own(known: Known) -> None:
    known.use(rules("failures: 2, cool_down: 10s, weights: {key: 0, status_500: 2, timeout: 0}"))
    node = known.node()
    for _ in range(9):
        known.call(node, KeyRefused("refuses the gateway's key (401)"))
        known.call(node, UpstreamFault("fell silent", kind="idle"))
    assert node.state(known.now) == "closed"
    known.call(node, CRASH)
    assert node.state(known.now) == "open"


def test_those_who_wait_for_a_target_that_is_not_asked_any_more_are_sent_on(known: Known) -> None:
    node, other, elsewhere = known.node(), known.node("other"), known.node(url=TWO)
    for one in (node, other, elsewhere):
        one.begin()
    known.call(node, CRASH)
    waits = known.waits("for the model", node)
    both = known.waits("for either", node, elsewhere)
    beside = known.waits("for the other model", other)
    node.begin()
    known.nodes.went_wrong(node, CRASH, False)
    assert known.told == ["for the model", "for either"]
    assert (waits.called_off, both.called_off, beside.called_off) == (True, True, False)
    assert waits.granted is both.granted is None
    assert (len(node.queue), len(elsewhere.queue), len(other.queue)) == (0, 0, 1)
    assert node.in_flight == 1
    known.call(other, REFUSED)  # gives its place to the one who waits
    assert beside.granted is other
    known.nodes.went_wrong(other, REFUSED, False)
    assert not beside.called_off, "it has its place, and finds out by itself"


def test_a_server_that_is_condemned_sends_on_those_who_wait_for_any_of_its_models(known: Known) -> None:
    node, other = known.node(), known.node("other")
    node.begin()
    waits, beside = known.waits("m", node), known.waits("other", other)
    for _ in range(2):
        known.call(known.node("third"), REFUSED)
    assert waits.called_off
    assert beside.called_off
    assert sorted(known.told) == ["m", "other"]


# ---------------------------------------------------------------------------------------------------------
# What the background sees


def seen(known: Known, *, back: bool = False, accepted: bool = True, url: str = ONE) -> None:
    known.nodes.seen_up("p", url, back=back, accepted=accepted)


LOOKS: list[tuple[str, Fault, Callable[[Known], None], str]] = [
    ("a refused server that answers a look", REFUSED, lambda known: seen(known), "closed"),
    ("another server that answers", REFUSED, lambda known: seen(known, url=TWO), "open"),
    ("a server that nobody has asked", REFUSED, lambda known: seen(known, url="http://three.test"), "open"),
    ("a crashed model whose server was there all the time", CRASH, lambda known: seen(known), "open"),
    ("a crashed model whose server comes back", CRASH, lambda known: seen(known, back=True), "half_open"),
    ("a refused key, and the server answers", KeyRefused("no"), lambda known: seen(known), "open"),
    (
        "a refused key that is refused again",
        KeyRefused("no"),
        lambda known: seen(known, back=True, accepted=False),
        "open",
    ),
    ("a refused key that is taken now", KeyRefused("no"), lambda known: seen(known, back=True), "closed"),
]


@pytest.mark.parametrize(("fault", "look", "state"), [row[1:] for row in LOOKS], ids=[row[0] for row in LOOKS])
def test_what_a_look_in_the_background_changes(
    known: Known, fault: Fault, look: Callable[[Known], None], state: str
) -> None:
    node = known.node()
    known.node(url=TWO)
    for _ in range(2):
        known.call(node, fault)
    assert node.state(known.now) == "open"
    look(known)
    assert node.state(known.now) == state


def test_a_server_that_is_not_asked_is_looked_at_often(known: Known) -> None:
    node = known.node()
    assert not known.nodes.waits_for("p")
    for _ in range(2):
        known.call(node, REFUSED)
    assert known.nodes.waits_for("p")
    assert not known.nodes.waits_for("another")
    seen(known)
    assert not known.nodes.waits_for("p")


# ---------------------------------------------------------------------------------------------------------
# Order


def test_the_first_free_server_comes_first_and_pools_stay_in_their_order(known: Known) -> None:
    pair = Pool("least_busy", (target(), target(url=TWO)), name="p/m")
    alone = Pool("least_busy", (target("other"),), name="p/other")
    known.node().begin()

    def plan() -> list[tuple[str, str, int]]:
        found = known.nodes.plan(rules(), Decision("all", (pair, alone)), 10, 0.0, 0.0)
        return [(one.target.model, one.target.url, one.pool) for one in found]

    assert plan() == plan() == [("m", TWO, 0), ("m", ONE, 0), ("other", ONE, 1)]
    known.waits("one", known.node(url=TWO))
    known.waits("two", known.node(url=TWO))
    assert plan()[0] == ("m", ONE, 0), "who waits counts like who is served"


def test_equals_take_turns(known: Known) -> None:
    pair = Pool("least_busy", (target(), target(url=TWO)), name="p/m")
    firsts = [known.nodes.plan(rules(), Decision("all", (pair,)), 10, 0.0, 0.0)[0].target.url for _ in range(4)]
    assert firsts == [ONE, TWO, ONE, TWO]


@pytest.mark.parametrize("name", ["m", "M", "m:latest"])
def test_a_server_that_has_the_model_in_memory_comes_first_however_it_is_spelled(known: Known, name: str) -> None:
    pair = Pool("least_busy", (target(name), target(name, TWO)), name="p/m")
    known.nodes.loaded = {TWO: frozenset({"m:latest"})}
    for _ in range(3):
        assert known.nodes.plan(rules(), Decision("all", (pair,)), 10, 0.0, 0.0)[0].target.url == TWO


def test_the_time_to_the_first_token_is_averaged_and_believed_less_and_less(known: Known) -> None:
    node = known.node()
    known.nodes.heard(node, 1.0)
    known.nodes.heard(node, 2.0)
    assert node.first_token == pytest.approx(1.3)
    assert known.nodes._load(target()).first_token == pytest.approx(1.3)
    known.now += 60
    assert known.nodes._load(target()).first_token == pytest.approx(0.65)
    known.nodes.heard(node, 1.3)
    assert known.nodes._load(target()).first_token == pytest.approx(1.3)


def test_the_price_of_the_day_decides_what_a_call_would_cost(known: Known) -> None:
    prices = """
  - {model: p/m, from: 2026-01-01, input: 1, output: 1}
  - {model: p/m, from: 2026-06-01, input: 9, output: 9}
  - {model: p/other, from: 2026-01-01, input: 2, output: 2}"""
    these = rules(prices=prices)
    pool = Pool("cheapest", (target("unpriced"), target("other"), target()), name="v")

    def order(day: float) -> list[str]:
        return [one.target.model for one in known.nodes.plan(these, Decision("all", (pool,)), 10, 0.0, day)]

    february, july = 1_770_000_000.0, 1_783_000_000.0
    assert order(february) == ["m", "other", "unpriced"]
    assert order(july) == ["other", "m", "unpriced"]


# ---------------------------------------------------------------------------------------------------------
# What is said


def test_rows_say_what_is_known_and_why_a_target_rests(known: Known) -> None:
    node, other = known.node(), known.node("other")
    node.begin()
    known.waits("one", node)
    known.nodes.heard(node, 0.12345)
    assert known.row(node) == {
        "target": "p/m", "url": ONE, "reachable": True, "breaker": "closed", "in_flight": 1, "waiting": 1, "first_token_seconds": 0.123,
    }  # fmt: skip
    for _ in range(2):
        known.call(other, CRASH)
    known.now += 4
    shown = known.row(other)
    assert (shown["breaker"], shown["why"], shown["rests_seconds"]) == ("open", "had an internal error (500)", 6.0)
    known.now += 7
    assert (known.row(other)["breaker"], known.row(other)["rests_seconds"]) == ("half_open", 0.0)


def test_what_opened_a_breaker_once_is_not_said_of_its_server_later(known: Known) -> None:
    node, other = known.node(), known.node("other")
    for _ in range(2):
        known.call(node, CRASH)
    known.now += 10
    known.call(node)
    for _ in range(2):
        known.call(other, REFUSED)
    assert known.row(node)["why"] == "could not be reached"


def test_what_a_server_quoted_of_one_caller_is_told_to_no_other(known: Known) -> None:
    """Whoever is refused because the target rests is told why: not in the words of somebody else's prompt."""
    known.use(rules("failures: 2, cool_down: 10s, weights: {unsupported: 1}"))
    lines: list[str] = []
    sink = logger.add(lines.append, format="{message}")
    for _ in range(2):
        known.call(known.node(), rejection(501, b'{"error": "secretword is not supported"}'))
    logger.remove(sink)
    assert known.row(known.node())["why"] == "… is not supported"
    assert lines == ["p/m at http://one.test: … is not supported; it is not asked for 10 s\n"]


def test_of_several_servers_the_worst_state_is_said(known: Known) -> None:
    assert known.nodes.not_closed() == {}
    for _ in range(2):
        known.call(known.node(), CRASH)
    known.now += 10
    assert known.nodes.not_closed() == {"p/m": "half_open"}
    for _ in range(2):
        known.call(known.node(url=TWO), CRASH)
        known.call(known.node("a"), REFUSED)
    assert known.nodes.not_closed() == {"p/a": "open", "p/m": "open"}
