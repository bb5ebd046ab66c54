"""The commands that serve, and `explain`, which reads the rules as a gateway does."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from collections.abc import AsyncIterator, Coroutine
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import httpx
import orjson
import typer
import uvloop
from loguru import logger

from addons.cli_options import RulesOption
from addons.explain import SURFACES, explain, offline, shown
from addons.keys import new_key
from addons.lines import one_line
from addons.local import ENDPOINTS
from addons.logs import set_up_logging
from addons.master import ProxyServer, shown_host
from addons.memory import settle
from addons.sandbox import MODELS, Sandbox
from addons.settings import SettingsError, read_rules
from rules.access import ANONYMOUS, UNNAMED, Keys, is_digest
from rules.callers import idle
from rules.snapshot import Rules
from rules.uncounted import half_priced, not_yet_priced, uncounted
from rules.values import near
from wire.check import parse_body
from wire.errors import BadRequest

if TYPE_CHECKING:
    from loguru import Message

app = typer.Typer(add_completion=False)


def loop(running: Coroutine[Any, Any, None]) -> None:
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(running)


def prepare(rules_file: Path | None, level: str | None = None) -> Rules:
    rules, log = read_rules(rules_file, os.environ, endpoints=ENDPOINTS)
    set_up_logging(level=level or log.level, form=log.form, secrets=rules.secrets)
    for doubt in log.doubts:
        logger.warning("{}", doubt)
    return rules


@app.command()
def run(
    rules: RulesOption = None,
    host: Annotated[str | None, typer.Option(help="Where to listen. Default: proxy.host of the rules.")] = None,
    port: Annotated[int | None, typer.Option(min=0, max=65535, help="0: any free one.")] = None,
    web: Annotated[bool, typer.Option("--web", help="With mitmweb, to watch each call in a browser.")] = False,
    web_port: Annotated[int, typer.Option(min=1, max=65535, help="Where mitmweb's page is.")] = 8081,
) -> None:
    """Serve until stopped (Ctrl-C or SIGTERM)."""
    loaded = prepare(rules)
    loop(_run(ProxyServer, loaded, host, port, web, web_port))


async def _run(
    server: type[ProxyServer], rules: Rules, host: str | None, port: int | None, web: bool, web_port: int
) -> None:
    gateway = server(rules, host=host, port=port, web=web, web_port=web_port)
    await gateway.start()
    settle()
    logger.info("unigate listens on http://{}:{}/v1", shown_host(gateway.host), gateway.port)
    if gateway.web_url is not None:
        logger.info("mitmweb shows every call at {}", gateway.web_url)
    if not rules.keys.required:
        logger.info("no keys are set: only this machine can call, and needs none")
    for name in idle(rules.file):
        logger.warning("client {}: has no key, so nobody can call in its name", name)
    for target in uncounted(rules.file):
        logger.warning("{}: {}", target.name, target.lacks)
    for said in (*half_priced(rules.file), *not_yet_priced(rules.file, datetime.now(UTC).date())):
        logger.warning("the price of {}", said)
    for name, row in rules.file.providers.items():
        health = gateway.state.health().get(name)
        if health == "no key" or (row.dialect == "ollama" and health == "unreachable"):
            logger.info("{}: {}", name, health)
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    await stop.wait()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().remove_signal_handler(number)
        signal.signal(number, signal.SIG_DFL)  # a second one ends us at once
    left = len(gateway.state.in_flight())
    waits = f"; {left} call(s) may finish within {rules.defaults.drain:g} s (once more to stop at once)" if left else ""
    logger.info("stopping{}", waits)
    await gateway.stop()


@app.command(name="try")
def try_(
    prompt: Annotated[str, typer.Argument(help="What to say.")] = "Say hello in one sentence.",
    model: Annotated[str, typer.Option(help="Which model to name.")] = "gpt-4o-mini",
    rules: RulesOption = None,
) -> None:
    """Send one streamed call through a gateway of its own, and show the route it took."""
    loaded = prepare(rules, level="ERROR")
    loop(_try(loaded, prompt, model))


async def _try(rules: Rules, prompt: str, model: str) -> None:
    tokens = (token.get_secret_value().strip() for token in rules.file.proxy.auth.tokens)
    key = next((token for token in tokens if not is_digest(token)), None)
    if key is None:  # the file may hold digests alone: this gateway gets a key of its own
        key = new_key()
        rules = replace(rules, keys=Keys((key,), required=rules.keys.required))
    gateway = ProxyServer(rules, host="127.0.0.1", port=0)
    await gateway.start()
    body = {"model": model, "stream": True, "messages": [{"role": "user", "content": prompt}]}
    failed = False
    ended: asyncio.Future[dict[str, Any]] = asyncio.get_running_loop().create_future()

    def note(message: Message) -> None:
        if not ended.done():
            ended.set_result(message.record["extra"])

    # The log's line of the call has the whole story; the answer's headers were sent at its beginning.
    sink = logger.add(note, level="INFO", filter=lambda record: "request_id" in record["extra"])
    try:
        async with (
            httpx.AsyncClient(timeout=httpx.Timeout(None), trust_env=False) as client,
            client.stream(
                "POST",
                f"http://127.0.0.1:{gateway.port}/v1/chat/completions",
                json=body,
                headers={"authorization": f"Bearer {key}"},
            ) as answer,
        ):
            failed = await _show(answer)
        _show_route(answer, await asyncio.wait_for(ended, 5))
    finally:
        logger.remove(sink)
        await gateway.stop(drain=0)
    if failed:
        raise SystemExit(1)


async def _show(answer: httpx.Response) -> bool:
    """Prints an answer as it comes. True where it failed."""
    failed = answer.status_code != 200
    if failed:
        await answer.aread()
        print(answer.json()["error"]["message"], file=sys.stderr)
    thinking = False
    async for line in answer.aiter_lines() if not failed else _nothing():
        if not line.startswith("data: {"):
            continue
        chunk = orjson.loads(line[6:])
        if "error" in chunk:
            print(f"\n{chunk['error']['message']}", file=sys.stderr)
            failed = True
        for choice in chunk.get("choices", ()):
            delta = choice["delta"]
            thought, text = delta.get("reasoning_content"), delta.get("content")
            if thought:
                print(thought if thinking else f"(thinking) {thought}", end="", flush=True)
                thinking = True
            if text:
                print(f"\n{text}" if thinking else text, end="", flush=True)
                thinking = False
            for call in delta.get("tool_calls", ()):
                print(f"[calls {call['function'].get('name')}({call['function'].get('arguments')})]", end="")
    return failed


def _show_route(answer: httpx.Response, fields: dict[str, Any]) -> None:
    """Prints the way that a call took, by what the log says of it (summary() of addons/response.py)."""
    route = f"route: {fields['rule'] or 'no rule'} → {fields['target'] or 'nobody'}"
    if fields["target"] is not None and "failed" in fields:  # otherwise the error has told it
        route += (
            f", after: {'; '.join(dict.fromkeys(fields['failed']))}{' (continued)' if 'continued' in fields else ''}"
        )
    print(f"\n\n{one_line(route)}")
    for name, label in (("x-gateway-skipped", "skipped"), ("x-gateway-dropped", "dropped")):
        if name in answer.headers:
            print(f"{label}: {answer.headers[name]}")


async def _nothing() -> AsyncIterator[str]:
    for line in tuple[str, ...]():
        yield line


@app.command(name="explain")
def explain_(
    file: Annotated[str, typer.Argument(help="The request's JSON body; - reads it from stdin.")],
    rules: RulesOption = None,
    endpoint: Annotated[
        str | None, typer.Option(help=f"{', '.join(SURFACES)}. Default: guessed from the body's keys.")
    ] = None,
    client: Annotated[str, typer.Option(help="Who calls, as the rules name it.")] = ANONYMOUS,
    header: Annotated[list[str] | None, typer.Option(help="A header of the call, 'name: value'.")] = None,
    available: Annotated[
        list[str] | None,
        typer.Option(help="A local model that is there, provider/model; none: nothing is. Default: all of them."),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON, with the bodies in full.")] = False,
) -> None:
    """Show where a request would go, why, and what would be sent there. Nothing is sent."""
    loaded, _ = read_rules(rules, os.environ, endpoints=ENDPOINTS)
    known = loaded.file.clients
    if known and client not in known and client != ANONYMOUS and not client.startswith(UNNAMED):
        raise SettingsError(f"there is no client '{client}' in the rules{near(client, known)}")
    try:
        body = parse_body(sys.stdin.buffer.read() if file == "-" else Path(file).read_bytes())
        headers = dict(map(_header, header or ()))
        state = offline(loaded, available or ())
        explained = explain(state, body, endpoint=endpoint, client=client, headers=headers, live=False)
    except OSError as error:
        raise SettingsError(f"{file} cannot be read: {error.strerror}") from None
    except BadRequest as fault:
        raise SettingsError(f"{file}: {fault.message}") from None
    except ValueError as error:
        raise SettingsError(str(error)) from None
    if as_json:
        sys.stdout.flush()
        sys.stdout.buffer.write(explained.as_json())
    else:
        print("\n".join(shown(explained)))
    if explained.fault is not None:
        raise SystemExit(1)


def _header(line: str) -> tuple[str, str]:
    name, colon, value = line.partition(":")
    if not colon:
        raise ValueError(f"a header is written 'name: value', not '{line}'")
    return name.strip().lower(), value.strip()


@app.command()
def sandbox(
    port: Annotated[
        int, typer.Option(min=0, max=65535, help="Where on 127.0.0.1; Ollama's own port is 11434.")
    ] = 11434,
) -> None:
    """Serve the built-in sandbox models alone, as an Ollama server would."""
    loop(_sandbox(port))


async def _sandbox(port: int) -> None:
    server = Sandbox()
    try:
        bound = server.start(port)
    except OSError:
        raise SettingsError(f"port {port} is taken; choose another one with --port") from None
    print(f"The sandbox speaks as Ollama does on http://127.0.0.1:{bound}. Its models:")
    for name, model in MODELS.items():
        print(f"  {name:8} {model.does}")
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    await stop.wait()
    await server.stop()
