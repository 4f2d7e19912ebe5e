"""Functions that a file names: importing one runs its module, so each is imported only where the caller says so."""

from __future__ import annotations

from pathlib import Path

from search_spaces.core import quoted

OF_LIBRARIES = ("timm", "torchvision", "hf")
"""What the name of a library's model starts with, before a colon."""


class Untrusted(ValueError):
    """A file names a function that the caller has neither named nor trusted."""


def check_trust(name: str, file: Path, *, named: str | None = None, trust: bool = False) -> None:
    """Refuse a function that stands in a file; built-in names and the caller's own pass.

    Args:
        name: what the file says: a built-in space, `module:function` or `pruned:module:function`.
        file: where it stands.
        named: the name that the caller trusts, if any.
        trust: whether the caller trusts every function that the file names.

    Raises:
        Untrusted: the name is a function's, and the caller did not name it.
        ValueError: the caller named something else.
    """
    if named is not None and named != name:
        raise ValueError(
            f"{file} is of space {quoted(name)}, not of {quoted(named)}; give the name that it says, or none"
        )
    if names_function(name) and named is None and not trust:
        raise Untrusted(
            f"{file} names the function {quoted(name)}, and to import it runs its module; if you trust it, give `trust=True`"
        )


def names_function(name: str) -> bool:
    """Whether a space, a model, or a word of a command, is the name of a function; models of libraries run no code of their own."""
    return ":" in name and not name.removeprefix("pruned:").startswith(tuple(f"{library}:" for library in OF_LIBRARIES))


def teaches_by_function(name: str) -> bool:
    """Whether a teacher is given by the name of a function, and not as a folder."""
    return names_function(name) and not Path(name).exists()
