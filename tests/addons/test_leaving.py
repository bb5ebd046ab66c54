"""Callers who leave, at every moment of a call: the server is let go at once, and nothing of the call stays."""

from __future__ import annotations

import asyncio
import gc
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass

import pytest

from addons.exchange import Exchange
from addons.http1 import UpstreamConnection
from addons.layer import GatewayLayer
from addons.node import Ticket
from addons.stream import GatewayStream
from tests.addons.calls import Http2, clean_log, pieces, rest_no_more, unanswered
from tests.addons.crowd import Caller, as_new, ask, at_rest, room_for_all, row, rows
from tests.gateway import Gateway
from tests.standins import HoldAfter, KeepAliveOnly, OllamaStandIn, Plan, Silence, SilenceAfterHeaders, Status, until

SAID = "Hello from the llama here"
AT_ONCE = 40
"""Calls beside each other."""


@dataclass
class Place:
    """A gateway, a server with room for everybody, one with a single place, and one that takes no connection."""

    gateway: Gateway
    wide: OllamaStandIn
    narrow: OllamaStandIn

    def upstreams(self) -> int:
        """Connections to servers that are not the background's own."""
        return sum(max(0, server.open_connections - 1) for server in (self.wide, self.narrow))


@pytest.fixture(scope="module")
def shared() -> Iterator[Place]:
    with (
        OllamaStandIn(["m"], reply=pieces(SAID)) as wide,
        OllamaStandIn(["m"], reply=pieces(SAID)) as narrow,
        unanswered(looked_at=False) as hole,
        Gateway(f"""
providers:
  wide: {{dialect: ollama, urls: [{wide.url}], parallel: 1000}}
  narrow: {{dialect: ollama, urls: [{narrow.url}], parallel: 1}}
  hole: {{dialect: openai, urls: [{hole}], key: sk-ds-test, parallel: 1000}}
rules:
  - {{name: narrow, when: {{model: narrow}}, use: [narrow/m]}}
  - {{name: hole, when: {{model: hole}}, use: [hole/m]}}
  - {{name: wide, use: [wide/m]}}
{room_for_all("backoff: 10s, attempts: 3")}""") as gateway,
    ):
        yield Place(gateway, wide, narrow)


@pytest.fixture
def place(shared: Place) -> Iterator[Place]:
    as_new(shared.wide, shared.narrow)
    rest_no_more(shared.gateway)
    with clean_log(shared.gateway):
        yield shared
        shared.gateway.until(lambda: at_rest(shared.gateway), f"no place is taken: {rows(shared.gateway)}", 2.0)


KEPT = (Exchange, GatewayLayer, GatewayStream, UpstreamConnection, Ticket)


def left_behind(gateway: Gateway) -> dict[str, int]:
    """What calls leave behind where something is forgotten."""

    async def look() -> dict[str, int]:
        gc.collect()
        found = Counter(type(thing).__name__ for thing in gc.get_objects() if isinstance(thing, KEPT))
        assert gateway.server.master is not None
        connections = gateway.server.master.addons.get("proxyserver").connections
        found.update(tasks=len(asyncio.all_tasks()), connections=len(connections), kept=len(gateway.state.exchanges))
        found.update(places=sum(one["in_flight"] + one["waiting"] for one in gateway.state.nodes.rows()))
        return dict(+found)

    return gateway.run(look())


def nothing_more_than(before: dict[str, int], gateway: Gateway) -> None:
    def more() -> dict[str, int]:
        return {name: count for name, count in left_behind(gateway).items() if count > before.get(name, 0)}

    gateway.until(lambda: not more(), f"nothing is left but what was there before: {before}", 3.0)


@dataclass(frozen=True)
class Moment:
    """Where a call stands when its caller leaves."""

    model: str
    plan: Plan | None = None
    stream: bool = True
    read: bytes = b""

    def reached(self, place: Place, count: int) -> bool:
        """So many calls stand there."""
        gateway = place.gateway
        if self.model == "hole":
            return _row(gateway, "hole/m", "in_flight") == count
        if self.model == "narrow":
            return _row(gateway, "narrow/m", "waiting") == count
        if isinstance(self.plan, Status):  # each has failed once, and pauses
            return len(place.wide.chats) == count and _row(gateway, "wide/m", "in_flight") == 0
        return len(place.wide.chats) == count and _row(gateway, "wide/m", "in_flight") == count


def _row(gateway: Gateway, target: str, field: str) -> int:
    return sum(int(one[field]) for one in rows(gateway) if one["target"] == target)


MOMENTS: dict[str, Moment] = {
    "in the middle of a stream": Moment("m", HoldAfter(2), read=b"data: "),
    "in the queue": Moment("narrow", stream=False),
    "in the pause before another attempt": Moment("m", Status(500)),
    "before the first token": Moment("m", SilenceAfterHeaders()),
    "while the connection opens": Moment("hole"),
}
MORE: dict[str, Moment] = {
    "before the headers": Moment("m", Silence()),
    "among signs of life": Moment("m", KeepAliveOnly()),
    "in the middle of a whole reply": Moment("m", HoldAfter(1), stream=False),
    "in the pause that the server asked for": Moment("m", Status(429, headers={"Retry-After": "9"}), stream=False),
}


@pytest.mark.parametrize("how", ["close", "reset"])
@pytest.mark.parametrize("moment", [*MOMENTS.values(), *MORE.values()], ids=[*MOMENTS, *MORE])
def test_a_caller_who_leaves_takes_everything_along_within_a_second(place: Place, moment: Moment, how: str) -> None:
    gateway = place.gateway
    place.wide.always = moment.plan
    if moment.model == "narrow":
        place.narrow.plan(HoldAfter(0))
    with Caller(gateway, "narrow") as holder:
        if moment.model == "narrow":
            assert until(lambda: place.narrow.holding == 1)
        else:
            assert holder.answer().status == 200
        caller = Caller(gateway, moment.model, moment.stream)
        gateway.until(lambda: moment.reached(place, 1), "the call stands where it should")
        caller.read_until(moment.read)
        open_before = place.wide.open_connections
        caller.leave(how)
        gateway.until(lambda: len(gateway.state.in_flight()) == (moment.model == "narrow"), "the call is over", 1.0)
        gateway.until(lambda: not _stands(place, moment), "and its place is free", 1.0)
        if moment.model == "m" and not isinstance(moment.plan, Status):
            assert until(lambda: place.wide.aborted == 1, 1.0)
            assert until(lambda: place.wide.open_connections == open_before - 1, 1.0)
        if moment.model == "narrow":
            place.narrow.release()
            assert holder.answer().status == 200
            assert len(place.narrow.chats) == 1, "the one that left was never sent"
        holder.leave()


def test_nothing_is_left_of_a_thousand_callers_who_leave(place: Place) -> None:
    gateway = place.gateway
    assert ask(gateway, "narrow").status == ask(gateway, "m").status == 200
    gateway.until(lambda: gateway.server.get_status().active_connections == 0, "nobody is connected")
    before = left_behind(gateway)
    for moment in MOMENTS.values():
        place.wide.always = moment.plan
        place.narrow.plan(HoldAfter(0))
        with Caller(gateway, "narrow") as holder:
            assert until(lambda: place.narrow.holding == 1)
            for turn in range(200 // AT_ONCE):
                place.wide.seen.clear()
                place.wide.aborted = 0
                callers = [Caller(gateway, moment.model, moment.stream) for _ in range(AT_ONCE)]
                gateway.until(lambda: moment.reached(place, AT_ONCE), "all stand where they should")  # noqa: B023
                for number, caller in enumerate(callers):
                    if number % 2:
                        caller.read_until(moment.read)
                    caller.leave("reset" if (number + turn) % 3 == 0 else "close")
                gateway.until(lambda: len(gateway.state.in_flight()) == 1, "all calls but one are over", 1.5)
            place.narrow.release()
            assert holder.answer().status == 200
    gateway.until(lambda: at_rest(gateway), "no place is taken", 1.0)
    gateway.until(lambda: gateway.server.get_status().active_connections == 0, "all connections are closed", 1.0)
    assert until(lambda: place.upstreams() == 0, 1.0)
    nothing_more_than(before, gateway)
    place.wide.always = None
    assert ask(gateway, "m").text == ask(gateway, "narrow").text == SAID


@pytest.mark.parametrize("moment", MOMENTS.values(), ids=MOMENTS.keys())
def test_an_http_2_caller_may_reset_its_streams_at_any_moment_and_go_on_with_others(
    place: Place, moment: Moment
) -> None:
    gateway = place.gateway
    place.wide.always = moment.plan
    if moment.model == "narrow":
        place.narrow.plan(HoldAfter(0))
    with Http2(gateway) as client:
        holder = client.ask("narrow")
        if moment.model == "narrow":
            assert until(lambda: place.narrow.holding == 1)
        else:
            client.read(lambda: holder in client.ended)
        numbers = [client.ask(moment.model, moment.stream) for _ in range(20)]
        gateway.until(lambda: moment.reached(place, 20), "all stand where they should")
        for number in numbers:
            client.h2.reset_stream(number)
        client.flush()
        left = 1 if moment.model == "narrow" else 0
        gateway.until(lambda: len(gateway.state.in_flight()) == left, "the calls are over", 1.0)
        gateway.until(lambda: not _stands(place, moment), "and their places are free", 1.0)
        if moment.model == "m" and not isinstance(moment.plan, Status):
            assert until(lambda: place.wide.aborted == 20, 1.0)
        place.wide.always = None
        place.narrow.release()
        client.read(lambda: holder in client.ended)
        last = client.ask("m")
        client.read(lambda: last in client.ended)
        assert client.answer(last).text == client.answer(holder).text == SAID


def _stands(place: Place, moment: Moment) -> bool:
    target = {"m": "wide/m", "narrow": "narrow/m", "hole": "hole/m"}[moment.model]
    found = row(place.gateway, target)
    return bool(found["waiting"] if moment.model == "narrow" else found["in_flight"])


def test_an_http_2_caller_who_leaves_ends_its_calls_at_every_moment(place: Place) -> None:
    gateway = place.gateway
    before = left_behind(gateway)
    place.wide.always = HoldAfter(2)
    place.narrow.always = HoldAfter(0)
    with Http2(gateway) as client:
        for _ in range(6):
            for model in ("m", "narrow", "hole"):
                client.ask(model, stream=True)
        assert until(lambda: place.wide.holding == 6 and place.narrow.holding == 1)
        gateway.until(lambda: row(gateway, "narrow/m")["waiting"] == 5, "five wait")
        gateway.until(lambda: row(gateway, "hole/m")["in_flight"] == 6, "six are connecting")
    gateway.until(lambda: at_rest(gateway), "all calls are over", 1.0)
    assert until(lambda: place.wide.aborted == 6 and place.narrow.aborted == 1, 1.0)
    assert len(place.narrow.chats) == 1
    nothing_more_than(before, gateway)
