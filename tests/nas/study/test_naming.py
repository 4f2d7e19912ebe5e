"""Folders of different labels are different on any file system; those of earlier runs are found if they are surely right."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from nas import Study, configure
from nas.runtime.files import write_json
from nas.study.naming import folder_name, old_folder_name, run_folder
from search_spaces import Architecture, Categorical, SearchSpace
from tests.made_up_studies import try_

LABELS = st.one_of(
    st.text(), st.text(alphabet="aA+*-_. 0", max_size=6), st.from_regex(r"(a-)?[0-9a-f]{12}", fullmatch=True)
)
RESERVED = {"con", "prn", "aux", "nul"} | {f"{name}{digit}" for name in ("com", "lpt") for digit in range(10)}


@given(st.lists(LABELS, unique=True, max_size=20))
@example(["大", "小"])
@example(["a+", "a*", "a", "A", "a_", "a.", folder_name("a+")])
def test_different_labels_have_different_folders_whatever_the_case(labels: list[str]) -> None:
    assert len({folder_name(label).lower() for label in labels}) == len(labels)


@given(LABELS)
@example("")
@example(".")
@example("..")
@example("nul")
@example("con.txt")
@example("CON.a+")
@example("a" * 300)
@example("../../etc/passwd")
def test_a_folder_is_valid_on_windows_and_posix(label: str) -> None:
    name = folder_name(label)
    assert re.fullmatch(r"[A-Za-z0-9._-]{1,100}", name)
    assert name[0] not in ".-" and name[-1] != "." and name.lower().split(".")[0] not in RESERVED


def test_a_plain_label_is_its_folder() -> None:
    assert folder_name("4-3-3") == "4-3-3" and folder_name("1_2.5") == "1_2.5"
    assert re.fullmatch("4-3-3_max-[0-9a-f]{12}", folder_name("4-3-3/max"))


LONG = [f'{{"choice":{"x" * 400}{end}}}' for end in "ab"]


def test_folders_of_long_labels_are_short_and_different() -> None:
    names = [folder_name(label) for label in LONG]
    assert len(set(names)) == 2 and all(len(name) < 100 for name in names)
    assert [old_folder_name(label) for label in LONG] == names


@pytest.fixture
def study(start: Callable[..., Study]) -> Study:
    return start(SearchSpace("own", (Categorical("c", ("a+", "a*", "b", "c")),)), retrain="none")


def by_the_old_naming(study: Study, group: str, arch: Architecture) -> Path:
    folder = study.folder / group / old_folder_name(study.space.label(arch))
    folder.mkdir(parents=True)
    if group == "exports":
        write_json(folder / "architecture.json", {"label": study.space.label(arch)})
    return folder


@pytest.mark.parametrize("group", ["alone", "exports"])
def test_a_folder_by_the_old_naming_is_found(study: Study, group: str) -> None:
    arch, other = try_(study, 0), list(study.space.enumerate())[1]
    folder = by_the_old_naming(study, group, arch)
    assert study.place(group, arch) == folder
    assert study.place(group, other) != folder, "never tried, so that the files are not its own"


@pytest.mark.parametrize("group", ["alone", "exports"])
def test_a_folder_that_two_shared_is_neither_ones(study: Study, group: str) -> None:
    first, second = try_(study, 0), try_(study, 1)
    folder = by_the_old_naming(study, group, second)
    assert folder == study.folder / group / old_folder_name(study.space.label(first))
    places = {study.place(group, arch) for arch in (first, second)}
    assert len(places) == 2 and folder not in places


def test_weights_by_the_old_naming_are_nobodys_who_was_not_tried(study: Study) -> None:
    arch = next(iter(study.space.enumerate()))
    folder = by_the_old_naming(study, "alone", arch)
    assert study.place("alone", arch) != folder
    try_(study, 0)
    assert study.place("alone", arch) == folder


def test_an_export_by_the_old_naming_says_whose_it_is(study: Study) -> None:
    arch = try_(study, 0)
    folder = by_the_old_naming(study, "exports", arch)
    (folder / "architecture.json").write_text(json.dumps({"label": "another"}))
    assert study.place("exports", arch) != folder


def test_a_folder_by_this_naming_comes_first(study: Study) -> None:
    arch = try_(study, 0)
    new = study.place("alone", arch)
    by_the_old_naming(study, "alone", arch)
    new.mkdir(parents=True)
    assert study.place("alone", arch) == new


@pytest.mark.parametrize(
    ("space", "source", "name"),
    [
        ("resnet20-pooling", "digits", "resnet20-pooling-digits"),
        ("mine:make", "datasets:uoft-cs/cifar10", "mine-make-cifar10"),
        ("s", "torchvision:CIFAR10", "s-torchvision-CIFAR10"),
        ("s", "..", "s-above"),
        ("s", ".", "s-here"),
        ("s", "/", "s-root"),
        ("../../s", "a/..", "..-..-s-here"),
    ],
)
def test_a_default_folder_is_one_folder_in_runs(
    space: str, source: str, name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "above" / "here").mkdir(parents=True)
    monkeypatch.chdir(tmp_path / "above" / "here")
    config = configure(space, source)
    assert run_folder(config, "mixture") == Path("runs") / f"{name}-mixture-seed0"
    assert run_folder(config, "train-uniform") == Path("runs") / f"{name}-train-uniform-seed0"
