"""The command `unigate`.

A command's module is imported when the command is called: all of mitmproxy takes a second, and a report needs none of
it. To add one, write a Typer app with the command in a module of its own, and a row below.
"""

from __future__ import annotations

import sys
from importlib import import_module

import typer
from typer.core import TyperCommand, TyperGroup
from typer.main import get_command

from addons.settings import SettingsError

COMMANDS = {
    "run": "addons.cli_serve",
    "try": "addons.cli_serve",
    "check": "addons.cli_check",
    "explain": "addons.cli_serve",
    "keys": "addons.cli_keys",
    "report": "addons.cli_report",
    "sandbox": "addons.cli_serve",
}
"""Command -> the module whose `app` has it, in the order of --help."""


class _Commands(TyperGroup):
    def list_commands(self, ctx: object) -> list[str]:
        return [*COMMANDS]

    def get_command(self, ctx: object, cmd_name: str) -> TyperCommand | TyperGroup | None:
        module = COMMANDS.get(cmd_name)
        if module is None:
            return None
        found = get_command(import_module(module).app)
        if isinstance(found, TyperGroup):  # else the command is all that the app has
            found = found.commands[cmd_name]
        assert isinstance(found, TyperCommand | TyperGroup)
        return found


app = typer.Typer(
    cls=_Commands,
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    epilog="scripts/run without a command means run: scripts/run --port 9000. Each command has a --help of its own.",
)


@app.callback()
def unigate() -> None:
    """A gateway where api.openai.com is expected: OpenAI calls to local models and to DeepSeek."""


def main() -> None:
    try:
        app()
    except SettingsError as error:
        print(f"unigate: {error}", file=sys.stderr)
        raise SystemExit(2) from None


if __name__ == "__main__":
    main()
