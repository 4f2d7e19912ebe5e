"""Configurations as YAML files, each of one command."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel

from search_spaces.core import bare, load_yaml

OF_COMMANDS = {"nas search": ("run.yaml", "space"), "nas prune": ("prune.yaml", "cut")}
"""Command to the name of its configuration files, and a key that the files of no other command have."""


def read_yaml(path: Path, command: str) -> Any:
    """What a command's configuration file holds.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is no YAML, beyond the bounds of `load_yaml`, or the file of another command.
    """
    name = OF_COMMANDS[command][0]
    try:
        data = load_yaml(path, f"`{command}` keeps its own as {name}")
    except FileNotFoundError:
        raise FileNotFoundError(f"no configuration at {path}; `{command}` keeps its own as {name}") from None
    for other, (_, key) in OF_COMMANDS.items():
        if other != command and isinstance(data, Mapping) and key in data:
            raise ValueError(f"{path} is a configuration of `{other}`; `{command}` takes its own, such as a {name}")
    return data


def flat(data: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested data by dotted names: `{"a": {"b": 1}}` is `{"a.b": 1}`."""
    found: dict[str, Any] = {}
    for name, value in data.items():
        found |= flat(value, f"{prefix}{name}.") if isinstance(value, dict) else {prefix + name: value}
    return found


def as_yaml(config: BaseModel) -> str:
    """A configuration as YAML, defaults included."""
    return yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False)


def different(a: Mapping[str, Any], b: Mapping[str, Any]) -> list[str]:
    """Where two configurations differ as plain data, as `name: a, not b`."""
    left, right = _flat(a), _flat(b)
    return [
        f"{name}: {bare(left.get(name))}, not {bare(right.get(name))}"
        for name in {**left, **right}
        if left.get(name) != right.get(name)
    ]


def _flat(data: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for name, value in data.items():
        flat |= _flat(value, f"{prefix}{name}.") if isinstance(value, dict) else {prefix + name: value}
    return flat
