"""The files under results/."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pandas as pd

ROOT = Path(__file__).parents[1]


def read(path: str) -> Any:
    """A file under results/: a table, or what a JSON file holds."""
    file = ROOT / "results" / path
    if file.suffix == ".jsonl":
        return pd.DataFrame(map(json.loads, file.read_text().splitlines()))
    return pd.read_csv(file) if file.suffix == ".csv" else json.loads(file.read_text())
