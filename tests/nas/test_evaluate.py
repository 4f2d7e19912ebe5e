"""A search by a function of one's own: figures, directions, failures, growth, and what is refused."""

from __future__ import annotations

import math
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from torch import nn

import nas
from nas.objectives import losses, non_dominated
from nas.scoring import contract
from nas.study import Study
from search_spaces import Architecture, SearchSpace, make_space
from tests.commands import run

SPACE = "resnet20-pooling"
COUNTED: Counter[str] = Counter()


@pytest.fixture
def space() -> SearchSpace:
    return make_space(SPACE, image_size=16)


def by_name(arch: Architecture) -> dict[str, float]:
    """Found by commands; it fails for every third architecture."""
    number = sum(arch.key.encode())
    if number % 3 == 0:
        raise RuntimeError(f"no \x1b]0;luck\nwith {number}")
    return {"score": float(number % 17), "number": number}


def params_of(model: nn.Module, arch: Architecture) -> dict[str, float]:
    COUNTED[arch.key] += 1
    return {"score": sum(p.numel() for p in model.parameters()) % 1009}


def test_the_front_is_that_of_the_figures(space: SearchSpace, tmp_path: Path) -> None:
    COUNTED.clear()
    study = nas.search(space, evaluate=params_of, objectives={"score": "max", "macs": "min"}, trials=30, out=tmp_path)
    table = study.trials
    assert len(table) == 30 and set(COUNTED.values()) == {1}
    values = table[["score", "macs"]].to_numpy(float)
    assert sorted(study.front["label"]) == sorted(table["label"][non_dominated(losses(values, study.objectives))])
    best = nas.choose(study, "best")
    assert best["score"].iloc[0] == table["score"].max()
    middle = study.front["score"].median()
    assert (nas.choose(study, limits={"score": middle})["score"] >= middle).all()
    page = (tmp_path / "report.html").read_text()
    assert "figures given by" in page and "params_of" in page
    assert (tmp_path / "plots" / "front.png").exists()
    assert not (tmp_path / "failed.csv").exists()


def test_a_run_grows_as_if_it_had_been_longer_from_the_start(space: SearchSpace, tmp_path: Path) -> None:
    COUNTED.clear()
    settings: dict[str, Any] = {"evaluate": params_of, "objectives": ["score:max"], "strategy": "random"}
    nas.search(space, trials=7, out=tmp_path / "grown", **settings)
    grown = nas.search(space, trials=20, out=tmp_path / "grown", **settings)
    assert set(COUNTED.values()) == {1} and len(COUNTED) == 20
    whole = nas.search(space, trials=20, out=tmp_path / "whole", **settings)
    assert grown.trials["label"].tolist() == whole.trials["label"].tolist()
    assert grown.config.budget.trials == 20
    assert Study.open(tmp_path / "grown", space).config.budget.trials == 20


@pytest.mark.filterwarnings("ignore:.* trials failed")
def test_what_fails_is_named_and_not_tried_again(space: SearchSpace, tmp_path: Path) -> None:
    COUNTED.clear()

    def fails(arch: Architecture) -> float:
        COUNTED[arch.key] += 1
        return by_name(arch)["score"]

    settings: dict[str, Any] = {"evaluate": fails, "objectives": ["score:max", "params"], "out": tmp_path}
    with pytest.warns(UserWarning, match=r"of 30 trials failed, such as .*: RuntimeError: no \?\]0;luck; failed.csv"):
        study = nas.search(space, trials=30, **settings)
    assert len(study.failed) > 3 and len(study.failed) + len(study.trials) == 30
    assert all(sum(key.encode()) % 3 == 0 for key in study.failed["architecture"])
    assert set(study.failed["label"]) & set(study.trials["label"]) == set()
    assert (tmp_path / "failed.csv").read_text().count("RuntimeError") == len(study.failed)
    assert f"Trials that failed: {len(study.failed)}" in (tmp_path / "report.html").read_text()
    grown = nas.search(space, trials=36, **settings)
    assert len(grown.failed) + len(grown.trials) == 36 and set(COUNTED.values()) == {1}


def test_one_that_fails_does_not_fail_those_that_are_scored_with_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By whatever gives trials their figures; here by a cost that is computed for many at once."""
    space = make_space(SPACE, image_size=16)
    kept = contract(space)
    real = kept.costs
    broken = {arch.key for arch in list(space.enumerate())[5:8]}

    def costs(archs: Any, progress: Any) -> Any:
        if any(arch.key in broken for arch in archs):
            raise MemoryError("no memory for it")
        return real(archs, progress)

    monkeypatch.setattr(type(kept), "costs", property(lambda self: costs))
    with pytest.warns(UserWarning, match="3 of 36 trials failed, such as .*: MemoryError: no memory for it"):
        study = nas.search(space, evaluate=by_key, objectives=["score:max"], strategy="exhaustive", out=tmp_path)
    assert set(study.failed["architecture"]) == broken


def by_key(arch: Architecture) -> float:
    return float(len(arch.key))


def test_a_search_that_only_fails_ends(space: SearchSpace, tmp_path: Path) -> None:
    def never(model: nn.Module) -> float:
        raise ValueError("never")

    settings: dict[str, Any] = {"evaluate": never, "objectives": ["score:max"]}
    with pytest.raises(
        ValueError, match=r"5 trials in a row failed, the last of them with ValueError: never; mend .*`max_failures`"
    ):
        nas.search(space, trials=30, max_failures=5, out=tmp_path / "a", **settings)
    with pytest.raises(ValueError, match="3 of 3 trials failed, such as .*: ValueError: never; mend what fails"):
        nas.search(space, trials=3, out=tmp_path / "b", **settings)


@pytest.mark.filterwarnings("ignore:.* architectures have no score")
def test_figures_that_are_missing_are_left_out_and_counted(space: SearchSpace, tmp_path: Path) -> None:
    def some(arch: Architecture) -> dict[str, float]:
        kind = sum(arch.key.encode()) % 3
        return {} if kind == 0 else {"score": math.nan} if kind == 1 else {"score": 1.0}

    with pytest.warns(UserWarning, match=r"\d+ of 30 architectures have no score; they are left out of the front"):
        study = nas.search(space, evaluate=some, objectives={"score": "min", "params": "min"}, trials=30, out=tmp_path)
    known = study.trials["score"].notna()
    assert 0 < known.sum() < 30
    assert study.front["score"].notna().all()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"evaluate": by_key, "objectives": ["macs"]}, "must give an objective, got only macs"),
        ({"evaluate": by_key, "objectives": ["score"]}, "no objective is named 'score'.* score:max or score:min"),
        ({"evaluate": by_key, "objectives": ["score:up"]}, "must be max or min, such as score:max, got 'score:up'"),
        ({"evaluate": by_key, "objectives": ["macs:max", "score:max"]}, "macs is to be min, got 'macs:max'"),
        ({"evaluate": by_key, "objectives": ["seconds:min"]}, "none of .*seconds.*, got 'seconds'"),
        ({"evaluate": by_key, "objectives": ["score:max", "score:min"]}, "named once, got 'score' twice"),
        ({"evaluate": by_key, "objectives": ["score:max", "naswot"]}, "got naswot, which need images"),
        ({"evaluate": by_key, "objectives": ["score:max"], "retrain": "front"}, "got `retrain` front as well"),
        ({"evaluate": by_key, "objectives": ["score:max"], "supernets": 2}, "got `supernets` as well"),
        ({"objectives": ["score:max"], "data": "digits"}, "score must come from a `task` or from `evaluate`, got none"),
        ({"objectives": ["macs"]}, "needs `data`, a `task`, or `evaluate`"),
        ({"evaluate": lambda a, b, c: 1, "objectives": ["score:max"]}, r"got one of \(a, b, c\); rename or wrap it"),
    ],
)
def test_what_does_not_fit_is_refused_before_there_is_a_folder(
    settings: dict[str, Any], message: str, tmp_path: Path
) -> None:
    with pytest.raises(ValueError, match=message):
        nas.search(SPACE, out=tmp_path / "run", **settings)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("given", [{"other": 1.0}, "text", {"score": "text"}, None])
def test_what_is_no_number_is_a_failure(given: Any, space: SearchSpace, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="2 of 2 trials failed|no (score|loss); search for another"):
        nas.search(
            space, evaluate=lambda arch: given, objectives=["score:max", "loss:min"], trials=2, out=tmp_path / "run"
        )


@pytest.mark.filterwarnings("ignore:.* trials failed")
def test_by_command(tmp_path: Path) -> None:
    folder, own = tmp_path / "run", f"{__name__}:by_name"
    given = ["--space", SPACE, "--evaluate", own, "--objectives", "score:max,macs", "--strategy", "random"]
    done = run("search", *given, "--trials", "12", "--out", folder)
    assert done.returncode == 0 and "score" in done.stdout
    refused = run("search", "--resume", folder, "--trials", "15")
    assert refused.returncode == 2 and f"names the function '{own}'" in refused.stderr
    assert run("search", "--resume", folder, "--trials", "15", "--trust").returncode == 0
    study = Study.open(folder)
    assert len(study.trials) + len(study.failed) == 15 and len(study.failed)
    assert "without data or weights of its own" in run("export", folder).stderr
    both = run("search", *given, "--data", "digits")
    assert "`--evaluate` takes the place of data and training, got `--data` as well" in both.stderr
