"""Names of folders: one for each label, valid and distinct on any file system."""

from __future__ import annotations

import hashlib
import re
from pathlib import Path

from nas.study.config import RunConfig

PLAIN = re.compile(r"[a-z0-9]([a-z0-9._-]{0,98}[a-z0-9_-])?")
LIKE_A_DIGEST = re.compile(r"(.*-)?[0-9a-f]{12}")
RESERVED = re.compile(r"(con|prn|aux|nul|com[0-9]|lpt[0-9])(\..*)?")  # by Windows, with any ending


def folder_name(label: str) -> str:
    """A folder for a label: the label itself where every file system takes it, else what is left of it and a digest of all of it.

    Different labels have different folders, also where capitals do not count. So a label with capitals has a digest too, and one that
    ends as if it had a digest.
    """
    if PLAIN.fullmatch(label) and not LIKE_A_DIGEST.fullmatch(label) and not RESERVED.fullmatch(label):
        return label
    digest = hashlib.sha256(label.encode("utf-8", "surrogatepass")).hexdigest()[:12]
    return f"{re.sub(r'[^A-Za-z0-9-]+', '_', label).strip('_-')[:80]}-{digest}".lstrip("-")


def old_folder_name(label: str) -> str:
    """The folder that runs before this naming gave a label; different labels can share it."""
    name = re.sub(r"[^A-Za-z0-9.-]+", "_", label).strip("_")
    return name if len(name) <= 100 else f"{name[:80]}-{hashlib.sha256(label.encode()).hexdigest()[:12]}"


def run_folder(config: RunConfig, how: str) -> Path:
    """`runs/<space>-<data>-<how>-seed<seed>`, where a run stands by default. Runs that share it are told apart by their settings."""
    parts = (re.sub(r'[:/\\<>"|?*]', "-", part) for part in (config.space.title, _data(config), how))
    return Path("runs") / f"{'-'.join(parts)}-seed{config.seed}"


def study_name(config: RunConfig) -> str:
    """What a shared study is called by default: workers that are started alike meet in it."""
    return " ".join([config.space.title, _data(config), ",".join(config.objectives)])


def _data(config: RunConfig) -> str:
    """What stands for the data in a name: their file or folder, or the function in their place."""
    if config.data is None:
        return str(config.task or config.evaluate)
    source = Path(config.data.source)
    return source.name if source.name not in ("", "..") else source.resolve().name or "root"
