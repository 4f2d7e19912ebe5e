"""The command `nas`: parse, call, print."""

from nas.cli.app import main

__all__ = ["main"]
