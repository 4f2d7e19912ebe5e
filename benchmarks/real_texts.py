"""Docstrings of the standard library and their words, split into examples and what is measured on."""

from __future__ import annotations

import ast
import re
import sysconfig
import zlib
from functools import cache
from pathlib import Path


def held_out(name: str) -> bool:
    """Whether data of a name is measured on; a quarter of the names are."""
    return zlib.crc32(name.encode()) % 4 == 0


@cache
def docstrings(measured: bool) -> list[str]:
    """Docstrings of at least 60 characters of the standard library's modules held out, or of the others; no text twice."""
    root = Path(sysconfig.get_path("stdlib"))
    found: dict[str, None] = {}
    for path in sorted(root.rglob("*.py")):
        module = path.relative_to(root)
        if {"site-packages", "dist-packages", "test", "tests", "idlelib", "lib2to3"} & set(module.parts):
            continue
        name = ".".join(module.with_suffix("").parts[:2])
        if held_out(name) != measured:
            continue
        for node in ast.walk(ast.parse(path.read_bytes())):
            if isinstance(node, (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)):
                text = ast.get_docstring(node) or ""
                if len(text) >= 60:
                    found[text] = None
    return list(found)


@cache
def words(measured: bool) -> list[str]:
    """Words of 3 to 10 letters of all docstrings."""
    found = {
        word for part in (False, True) for text in docstrings(part) for word in re.findall(r"[A-Za-z]{3,10}", text)
    }
    return sorted(word for word in found if held_out(word.lower()) == measured)
