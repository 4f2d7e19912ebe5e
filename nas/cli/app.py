"""The commands by name, and how they end."""

from __future__ import annotations

import errno
import sys
from collections.abc import Iterator, Mapping
from importlib import import_module
from importlib.metadata import version
from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from nas.cli import terminal
from nas.runtime import Untrusted, names_function, ranks
from nas.stopping import Stopped, raised
from nas.training import NotFinite

COMMANDS = {
    "search": "search.search",
    "train": "train.train",
    "watch": "watch.watch",
    "front": "runs.front",
    "export": "runs.export",
    "report": "runs.report",
    "inspect": "inspect.inspect",
    "prune": "prune.prune",
    "groups": "prune.groups",
    "profile": "profile.profile_command",
    "spaces": "spaces.spaces",
    "list": "list.list_names",
}
"""Where each stands in `nas.cli`."""


class _Imported(Mapping[str, Any]):
    """Commands by name, each imported when it is taken: none waits for what only the others need."""

    def __getitem__(self, name: str) -> Any:
        module, function = COMMANDS[name].split(".")
        alone = typer.Typer(add_completion=False, rich_markup_mode="markdown")
        alone.command(name)(getattr(import_module(f"nas.cli.{module}"), function))
        return typer.main.get_command(alone)

    def __iter__(self) -> Iterator[str]:
        return iter(COMMANDS)

    def __len__(self) -> int:
        return len(COMMANDS)


class _Commands(TyperGroup):
    def __init__(self, **settings: Any) -> None:
        super().__init__(**settings)
        self.commands: Any = _Imported()

    def list_commands(self, ctx: Any) -> list[str]:
        """Their names, in the order of the help."""
        return list(COMMANDS)


app = typer.Typer(
    cls=_Commands,
    help="Search neural architectures or prune a model, and leave with exact, compact, runnable subnets.",
    no_args_is_help=True,
    rich_markup_mode="markdown",
    pretty_exceptions_enable=False,
)


def _print_version(asked: bool) -> None:
    if asked:
        terminal.show(f"nas-toolkit {version('nas-toolkit')}")
        raise typer.Exit


@app.callback()
def _no_command(
    version: Annotated[
        bool, typer.Option("--version", help="Print the version and leave.", callback=_print_version, is_eager=True)
    ] = False,
) -> None:
    # No docstring: the help of `app` stands for `nas` alone.
    pass


def main() -> None:
    """Run a command. Exit codes: 0 done, 1 failed, 2 bad input, 130 stopped by Ctrl-C, 143 by SIGTERM.

    Modules in the current folder are found where a function is named or files are trusted to name one, and not otherwise: the folder
    may be one that somebody else made.
    """
    here = str(Path.cwd())
    if here not in sys.path and ("--trust" in sys.argv or any(map(names_function, sys.argv[1:]))):
        sys.path.insert(0, here)
    with terminal.plain(), raised():
        _run()


def _run() -> None:
    try:
        app()
    except Stopped as stop:
        terminal.say(str(stop))
        sys.exit(stop.code)
    except NotFinite as error:
        _fail(str(error), 1)
    except OSError as error:
        _fail(str(error), 1 if error.errno in (errno.ENOSPC, errno.EFBIG, errno.EDQUOT) else 2)
    except Untrusted as error:
        _fail(f"{error}, on the command line `--trust`", 2)
    except ValueError as error:
        _fail(str(error), 2)


def _fail(message: str, code: int) -> None:
    terminal.say_error(message if ranks.first() else f"process {ranks.started().rank}: {message}")
    sys.exit(code)
