"""Pages of the site that no file in docs/ is: README as the first one, and one for each package and room, from its `__all__`."""

from __future__ import annotations

import ast
import re
from functools import cache
from pathlib import Path
from typing import Any

from mkdocs.structure.files import File, Files

ROOT = Path(__file__).parents[1]
PACKAGES = ("nas", "pruners", "estimators", "search_spaces")
PAGES = ("search", "training", "pruning", "estimators", "counting")
PICTURE = re.compile(r"(!\[[^\]]*\]\()(?:\.\./)?(results/[^)]+)\)")


def rooms() -> list[str]:
    """Packages and rooms, a package first and then its rooms."""
    paths = [path for package in PACKAGES for path in sorted((ROOT / package).rglob("__init__.py"), key=str)]
    return [".".join(path.parent.relative_to(ROOT).parts) for path in paths]


@cache
def face(room: str) -> dict[str, str]:
    """Where each name in a room's `__all__` is defined."""
    tree = ast.parse(ROOT.joinpath(*room.split("."), "__init__.py").read_text(encoding="utf-8"))
    origins, names = {}, []
    for node in tree.body:
        if isinstance(node, ast.ImportFrom):
            origins |= {alias.name: f"{node.module}.{alias.name}" for alias in node.names}
        elif isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "__all__":
            names = ast.literal_eval(node.value)
    return {name: _definition(origins.get(name, f"{room}.{name}"), room) for name in names}


def _definition(path: str, room: str) -> str:
    """Follow an import through the faces of other rooms."""
    module, _, name = path.rpartition(".")
    return face(module)[name] if module != room and ROOT.joinpath(*module.split(".")).is_dir() else path


def page(room: str) -> str:
    """Its docstring, then each name; those that an earlier page shows as links to it."""
    earlier = {path for other in rooms()[: rooms().index(room)] for path in face(other).values()}
    tree = ast.parse(ROOT.joinpath(*room.split("."), "__init__.py").read_text(encoding="utf-8"))
    links = [f"[`{name}`][{path}]" for name, path in face(room).items() if path in earlier]
    shown = [f"::: {path}" for path in face(room).values() if path not in earlier]
    parts = [f"# {room}", ast.get_docstring(tree) or "", *([f"Shown elsewhere: {', '.join(links)}."] if links else [])]
    return "\n\n".join([*parts, *shown])


def on_config(config: Any) -> Any:
    """The order of the pages."""
    written = sorted(path.name for path in (ROOT / "docs").glob("*.md"))
    names = [f"{name}.md" for name in PAGES] + [name for name in written if name.removesuffix(".md") not in PAGES]
    reference = [{room: f"reference/{room}.md"} for room in rooms()]
    config["nav"] = [{"nas-toolkit": "index.md"}, *names, {"Reference": reference}]
    return config


def on_files(files: Files, config: Any) -> Files:
    """README, a page for each room, and the pictures that the pages show."""
    readme = (ROOT / "README.md").read_text(encoding="utf-8").replace("](docs/", "](")
    files.append(File.generated(config, "index.md", content=readme))
    for room in rooms():
        files.append(File.generated(config, f"reference/{room}.md", content=page(room)))
    texts = [readme, *(path.read_text(encoding="utf-8") for path in (ROOT / "docs").glob("*.md"))]
    for picture in sorted({path for text in texts for _, path in PICTURE.findall(text)}):
        files.append(File.generated(config, picture, abs_src_path=str(ROOT / picture)))
    return files


def on_page_markdown(markdown: str, **_: Any) -> str:
    """Pictures stand in the site."""
    return PICTURE.sub(r"\1\2)", markdown)
