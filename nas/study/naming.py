"""Names of folders."""

from __future__ import annotations

import re
from pathlib import Path

from nas.study.config import RunConfig


def run_folder(config: RunConfig, how: str) -> Path:
    """`runs/<space>-<data>-<how>-seed<seed>`, where a run stands by default. Runs that share it are told apart by their settings."""
    source = Path(config.data.source)
    data = source.name if source.name not in ("", "..") else source.resolve().name or "root"
    parts = (re.sub(r'[:/\\<>"|?*]', "-", part) for part in (config.space.title, data, how))
    return Path("runs") / f"{'-'.join(parts)}-seed{config.seed}"
