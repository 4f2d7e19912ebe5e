"""`nas spaces`."""

from __future__ import annotations

from nas.cli import terminal
from nas.cli.options import Json
from search_spaces import SPACES, make_space


def spaces(json: Json = False) -> None:
    """List the built-in search spaces, with their size and options.

    Example: `nas spaces`
    """
    made = [make_space(name) for name in SPACES]
    if json:
        for space in made:
            terminal.show_json({"space": space.name, "architectures": space.size, "options": dict(space.options)})
        return
    rows = [
        [space.name, str(space.size), ", ".join(f"{name}={value}" for name, value in space.options.items())]
        for space in made
    ]
    terminal.show_table(["space", "architectures", "options and their defaults"], rows)
