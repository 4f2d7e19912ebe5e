"""What documents and docstrings name can be imported."""

from __future__ import annotations

import ast
import importlib
import re
from functools import reduce

import pytest

import nas
from estimators.zero_cost import ZERO_COST
from tests.test_docs import PAGES
from tests.test_imports import PACKAGES, face, files, module

DOTTED = re.compile(rf"`((?:{'|'.join(PACKAGES)})(?:\.[A-Za-z_]\w*)+)")


def find(name: str) -> object:
    """What stands under a dotted name: a module, or what the module or a class in it has."""
    parts = name.split(".")
    for length in range(len(parts), 0, -1):
        try:
            found = importlib.import_module(".".join(parts[:length]))
        except ModuleNotFoundError:
            continue
        try:
            return reduce(getattr, parts[length:], found)
        except AttributeError:
            continue
    raise AssertionError(f"{name} cannot be imported")


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_dotted_names_in_documents_can_be_imported(page: object) -> None:
    for name in DOTTED.findall(page.read_text(encoding="utf-8")):  # type: ignore[attr-defined]
        find(name)


def test_dotted_names_in_docstrings_can_be_imported() -> None:
    names = {name for path in files() for name in DOTTED.findall(path.read_text(encoding="utf-8"))}
    assert len(names) > 20
    for name in sorted(names):
        find(name)


def test_functions_and_classes_in_documents_stand_in_a_face() -> None:
    """Names with a capital or an underscore; others are words as well. Scores are found by name in a table."""
    rooms = [module(path) for path in files() if path.name == "__init__.py"]
    faces = {name for room in rooms for name in face(room)}
    defined = {
        node.name
        for path in files()
        for node in ast.parse(path.read_text(encoding="utf-8")).body
        if isinstance(node, ast.FunctionDef | ast.ClassDef)
    }
    prose = "\n".join(re.sub(r"```.*?```", "", page.read_text(encoding="utf-8"), flags=re.DOTALL) for page in PAGES)
    named = {name for name in re.findall(r"`(\w+)[^`]*`", prose) if "_" in name or name != name.lower()}
    assert {"tinynet_to", "Predictor", "PrunableSpace"} <= named
    assert not (named & defined) - faces - set(ZERO_COST)


@pytest.mark.parametrize("name", ["tinynet_to", "resnet_rs", "scaled_to", "family", "residual_space", "peak_memory"])
def test_what_the_page_on_estimators_builds_with_comes_from_estimators(name: str) -> None:
    assert name in face("estimators")


def test_nas_shows_the_verbs() -> None:
    assert {"search", "train", "export", "load"} <= set(dir(nas)) == set(face("nas"))
