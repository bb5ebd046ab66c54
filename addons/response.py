"""A call's way out: the flow says where it went, and the log gets its one line."""

from __future__ import annotations

from loguru import logger
from mitmproxy.http import HTTPFlow

from addons.account import Account, account_of
from addons.exchange import Exchange, readable
from addons.ledger_content import answer_of, prompt_of
from addons.lines import one_line
from addons.state import State
from rules.limits import dollars
from rules.quota import NANOS
from wire.errors import ClientGone, Fault
from wire.plain_words import logged


class Response:
    def __init__(self, state: State) -> None:
        self.state = state
        state.account_for = self.account_for

    def response(self, flow: HTTPFlow) -> None:
        if flow.request.method == "HEAD" and flow.response is not None:
            flow.response.data.content = b""  # its headers stay as they are: they say what a GET would bring
        exchange = self.state.exchanges.get(flow)
        if exchange is None or exchange.ended:
            return
        status = flow.response.status_code if flow.response is not None else 500
        self._conclude(flow, exchange, status)

    def error(self, flow: HTTPFlow) -> None:
        exchange = self.state.exchanges.get(flow)
        if exchange is None or exchange.ended:
            return
        message = flow.error.msg if flow.error is not None else "the call was broken off"
        exchange.fault = exchange.fault or ClientGone(message)
        self._conclude(flow, exchange, exchange.fault.status)

    def account_for(self, flow: HTTPFlow) -> None:
        """As error(), for a call that came to its end past all hooks. Never raises."""
        try:
            self.error(flow)
        except Exception:
            logger.opt(exception=True).error("a call that broke off could not be concluded")

    def _conclude(self, flow: HTTPFlow, exchange: Exchange, status: int) -> None:
        exchange.ended = True
        self.state.let_go(exchange)
        state = self.state
        now = state.clock()
        took = now - exchange.started
        account = None
        if exchange.client is not None and exchange.to_model:
            account = self._account(exchange, status, now)
        elif exchange.client is None and exchange.fault is not None:
            state.metrics.refused(status)
        flow.comment = comment(exchange)
        if flow.request.data.content is None:
            flow.request.data.content = b""  # refused before its body was read; mitmweb's page fails over None
        flow.metadata["unigate"] = fields = summary(exchange, flow, status, took, account)
        # The log of a bound logger carries the fields; the text is for people.
        logger.bind(**fields).log(level_of(exchange.fault, status), "{}", line(fields))

    def _account(self, exchange: Exchange, status: int, now: float) -> Account | None:
        """Tells all who count what the call came to; None where that is not known. Where one of them fails, the others
        hear of it, and its caller gets the answer.
        """
        state = self.state
        try:
            learned = state.limiter.estimates.prompt
            account = account_of(exchange, status=status, now=now, wall=state.wall(), prompt_tokens=learned)
            state.limiter.settle(exchange, account)
        except Exception:
            logger.opt(exception=True).error("{}: what the call came to is not known", exchange.request_id)
            return None  # what it took of its limits is settled when its stream ends (Limiter.forget)
        if state.content is not None:
            try:
                account = account._replace(
                    prompt=prompt_of(exchange, state.content, state.clean),
                    answer=answer_of(exchange, state.content, state.clean),
                )
            except Exception as error:  # its frames hold the texts
                logger.error("{}: its texts cannot be kept ({})", exchange.request_id, type(error).__name__)
        for tell in state.watchers:
            try:
                tell(account)
            except Exception:
                logger.opt(exception=True).error("{}: somebody who counts calls missed this one", exchange.request_id)
        return account


def level_of(fault: Fault | None, status: int) -> str:
    if fault is None or isinstance(fault, ClientGone) or (status < 500 and fault.status < 500):
        return "INFO"
    return "WARNING"


def comment(exchange: Exchange) -> str:
    """What mitmweb shows beside the flow: rule and target first, its column is narrow, then what was tried before."""
    if exchange.decision is None or exchange.decision.rule is None:
        return exchange.fault.message if exchange.fault is not None else ""
    failed = [
        f"{attempt.target.name} ({attempt.fault.message})" for attempt in exchange.attempts if attempt.fault is not None
    ]
    last = exchange.attempts[-1] if exchange.attempts else None
    answered = last.target.name if last is not None and last.fault is None else "nobody"
    after = f", after {', '.join(failed)}" if failed else ""
    if not exchange.attempts and exchange.fault is not None:
        after = f": {exchange.fault.message}"
    unseen = f" (form of {exchange.spool.size} bytes: not kept)" if exchange.spool is not None else ""
    if exchange.answer is not None and exchange.answer.done and not exchange.answer.shown:
        unseen += " (answer: not kept)"
    return f"{exchange.decision.rule} → {answered}{after}{unseen}"


def summary(exchange: Exchange, flow: HTTPFlow, status: int, took: float, account: Account | None) -> dict[str, object]:
    """The call as plain values: for the log and for the flow's metadata. Times in seconds."""
    served = exchange.attempts[-1] if exchange.attempts and exchange.attempts[-1].fault is None else None
    asked = [attempt for attempt in exchange.attempts if attempt.tried]
    fields: dict[str, object] = {
        "request_id": exchange.request_id,
        "client": exchange.client.name if exchange.client is not None else "-",
        "method": readable(flow.request.method)[:20],
        "path": readable(flow.request.path.partition("?")[0])[:200],
        "model": exchange.request.model[:200] if exchange.request is not None else None,
        "rule": exchange.decision.rule if exchange.decision is not None else None,
        "target": served.target.name if served is not None else None,
        "asked": asked[-1].target.name if asked else None,
        "attempts": len(asked),
        "status": status,
        "streamed": exchange.request is not None and exchange.request.stream,
        **came_to(account),
        "finish_reason": exchange.answer.finish_reason if exchange.answer is not None else None,
        "first_token": round(exchange.first_token - exchange.started, 4) if exchange.first_token else None,
        "total": round(took, 4),
    }
    if exchange.spool is not None:
        fields["upload"] = exchange.spool.size
    if exchange.parts:
        fields["parts"] = len(exchange.parts)
    continued = sum(attempt.continues for attempt in asked)
    if continued:
        fields["continued"] = continued
    if exchange.fault is not None:
        fields["fault"] = _logged_fault(exchange, exchange.fault)
    faults = [(attempt.target.name, attempt.fault) for attempt in exchange.attempts if attempt.fault]
    if faults:
        fields["failed"] = [f"{name} {logged(fault)}" for name, fault in faults]
    details = dict.fromkeys(f"{name}: {fault.detail}" for name, fault in faults if fault.detail)
    if details:
        fields["said"] = [*details]
    return fields


def came_to(account: Account | None) -> dict[str, object]:
    """Tokens and money of a call, as they stand in the ledger. None: it was no call to a model.

    `cost_usd` is what is known of it, exact as a decimal up to a million: null where no more is known than that some
    model has no price, which is not 0. What is rarely so (`unpriced`, `estimated`) is only there where it is.
    """
    if account is None:
        return {"prompt_tokens": None, "completion_tokens": None, "cost_usd": None}
    tokens, cost, unpriced = account.tokens, account.cost, account.unpriced
    counted = tokens.prompt or tokens.completion
    fields: dict[str, object] = {
        "prompt_tokens": tokens.prompt if counted else None,
        "completion_tokens": tokens.completion if counted else None,
        "cost_usd": cost / NANOS if cost or not unpriced else None,
    }
    if tokens.cached:
        fields["cached_tokens"] = tokens.cached
    if tokens.reasoning:
        fields["reasoning_tokens"] = tokens.reasoning
    if account.estimated:
        fields["estimated"] = True
    if unpriced:
        fields["unpriced"] = True
    return fields


def _logged_fault(exchange: Exchange, fault: Fault) -> str:
    """Why the call failed, as a log may keep it: a verdict repeats what each attempt failed of."""
    words = logged(fault)
    for failed in (attempt.fault for attempt in exchange.attempts):
        if failed is not None and failed.message and (kept := logged(failed)) != failed.message:
            words = words.replace(failed.message, kept)
    return words


def line(fields: dict[str, object]) -> str:
    """One line for people."""
    words = [f"{fields['status']} {fields['method']} {fields['path']}"]
    if fields["model"] is not None:
        asked = f"{fields['asked']} (failed)" if fields["asked"] else "nobody"
        words.append(f"{fields['model']}: {fields['rule'] or 'no rule'} → {fields['target'] or asked}")
    if fields["prompt_tokens"] is not None:
        about = "≈ " if "estimated" in fields else ""
        words.append(f"{about}{fields['prompt_tokens']}+{fields['completion_tokens']} tokens")
    cost = fields["cost_usd"]
    if isinstance(cost, float) and cost:
        words.append(f"{'≥ ' if 'unpriced' in fields else ''}{dollars(round(cost * NANOS))} USD")
    elif "unpriced" in fields:
        words.append("unpriced")
    if fields["first_token"] is not None:
        words.append(f"first {fields['first_token']}s")
    words.append(f"total {fields['total']}s")
    if "parts" in fields:
        words.append(f"{fields['parts']} parts")
    if fields["attempts"] not in (0, fields.get("parts", 1)):
        words.append(f"{fields['attempts']} attempts" + (", continued" if "continued" in fields else ""))
    words.append(f"{fields['client']} {fields['request_id']}")
    if "fault" in fields:
        words.append(f"- {fields['fault']}")
    elif isinstance(failed := fields.get("failed"), list):
        words.append(f"- after: {'; '.join(failed)}")
    if isinstance(said := fields.get("said"), list):
        words.append(f"({'; '.join(said)})")
    # A caller chooses model names and paths: neither may break the line.
    return one_line(" ".join(words))
