"""The command `nas`: parse, call, print."""

from nas.cli.search import main

__all__ = ["main"]
