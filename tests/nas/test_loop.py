"""A loop of one's own: asked and told, opened again, and started from another run."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

import nas
from nas import Study
from nas.objectives import losses, non_dominated
from search_spaces import Architecture, Constraint, SearchSpace, make_space

SPACE = "resnet20-pooling"
BOTH = {"score": "max", "macs": "min"}


def worth(arch: Architecture) -> float:
    return float(sum(arch.key.encode()) % 101)


def told(out: Path, count: int, **settings: Any) -> Study:
    with nas.Loop(SPACE, BOTH, out=out, **settings) as loop:
        for _ in range(count):
            (arch,) = loop.ask()
            loop.tell(arch, worth(arch))
    return loop.study


def test_what_is_told_stands_in_tables_with_costs_that_are_known(tmp_path: Path) -> None:
    study = told(tmp_path, 12)
    table = study.trials
    assert len(table) == 12 and table["score"].tolist() == [worth(study.find(key)) for key in table["architecture"]]
    assert table["macs"].gt(0).all() and table["params"].gt(0).all()
    values = table[["score", "macs"]].to_numpy(float)
    assert sorted(study.front["label"]) == sorted(table["label"][non_dominated(losses(values, study.objectives))])
    assert (tmp_path / "report.html").exists() and (tmp_path / "trials.csv").exists()


@pytest.mark.parametrize("strategy", ["random", "nsga2", "evolution", "coarse-to-fine", "exhaustive"])
def test_a_loop_that_is_opened_again_goes_on_and_proposes_nothing_twice(strategy: str, tmp_path: Path) -> None:
    told(tmp_path, 9, strategy=strategy)
    with nas.Loop(SPACE, BOTH, out=tmp_path, strategy=strategy) as loop:
        more = loop.ask(100)
        assert len(more) == 27
        for arch in more:
            loop.tell(arch, {"score": worth(arch), "note": 1.0})
        assert loop.ask() == []
    assert len(loop.study.trials) == len(set(loop.study.trials["architecture"])) == 36


def test_architectures_of_ones_own_failures_and_figures_that_are_missing(tmp_path: Path) -> None:
    space = make_space(SPACE)
    first, second, third, fourth = list(space.enumerate())[:4]
    with nas.Loop(space, ["score:max", "loss:min"], out=tmp_path) as loop:
        loop.tell(first, {"score": 1, "loss": 0.5})
        loop.fail(second, RuntimeError("out of \x1b[1mmemory\nand more"))
        loop.fail(third, "the cluster lost it")
        loop.tell(fourth, {"score": 2})
        asked = loop.ask(100)
        assert len(asked) == 32 and not {first, second, third, fourth} & set(asked)
        with pytest.raises(ValueError, match="was told before; tell each architecture once"):
            loop.tell(first, {"score": 1, "loss": 0.5})
        with pytest.raises(ValueError, match=r"figures` must give numbers by name, got score='much'"):
            loop.tell(asked[0], {"score": "much", "loss": 1})  # type: ignore[dict-item]
        with pytest.raises(ValueError, match="must give figures by name, score, loss, got 3"):
            loop.tell(asked[0], 3)
    study = loop.study
    assert study.failed["reason"].tolist() == ["RuntimeError: out of ?[1mmemory", "the cluster lost it"]
    assert list(study.front["label"]) == [space.label(first)]
    assert study.trials["loss"].isna().tolist() == [False, True]


def test_a_loop_is_not_resumed_by_a_search(tmp_path: Path) -> None:
    study = told(tmp_path / "run", 2)
    with pytest.raises(ValueError, match="is searched by a loop of its own; go on there, with `nas.Loop`"):
        nas.run(study.config, study.folder)
    with nas.Loop(SPACE, BOTH, out=tmp_path / "run"), pytest.raises(ValueError, match="another process is running"):
        told(tmp_path / "run", 1)


# --- starting from another run ---


def space_of(most: int) -> SearchSpace:
    """A placement space of which the smaller ones are parts of the larger ones."""
    space = make_space(SPACE)
    return replace(
        space,
        name="placements",
        constraints=(*space.constraints, Constraint("small", lambda values: max(values["pools"]) <= most)),
        options={"most": most},
    )


def by_worth(arch: Architecture) -> float:
    if worth(arch) % 5 == 0:
        raise RuntimeError("no luck")
    return worth(arch)


@pytest.mark.filterwarnings("ignore:.* trials failed")
def test_a_wider_space_keeps_the_trials_that_are_its_architectures(tmp_path: Path) -> None:
    given: dict[str, Any] = {"evaluate": by_worth, "objectives": BOTH, "strategy": "random"}
    first = nas.search(space_of(6), out=tmp_path / "first", **given)
    narrow = {*first.trials["architecture"], *first.failed["architecture"]}
    wide = nas.search(space_of(9), trials=8, start_from=tmp_path / "first", out=tmp_path / "wide", **given)
    own = wide.trials[wide.trials["origin"].isna()] if "origin" in wide.trials else wide.trials
    assert set(wide.trials["architecture"]) - set(own["architecture"]) == set(first.trials["architecture"])
    assert set(first.failed["architecture"]) <= set(wide.failed["architecture"])
    assert len(wide.trials) + len(wide.failed) == len(narrow) + 8
    again = nas.search(space_of(9), trials=10, start_from=tmp_path / "first", out=tmp_path / "wide", **given)
    assert len(again.trials) + len(again.failed) == len(narrow) + 10
    with pytest.warns(UserWarning, match=rf"\d+ of {len(again.trials) + len(again.failed)} trials of .* are left out"):
        back = nas.search(space_of(6), start_from=tmp_path / "wide", out=tmp_path / "back", **given)
    assert {*back.trials["architecture"], *back.failed["architecture"]} == narrow


def test_a_strategy_learns_from_what_it_starts_with(tmp_path: Path) -> None:
    """Evolution breeds from inherited trials at once, where it would draw at random without them."""
    study = told(tmp_path / "first", 30)
    with nas.Loop(SPACE, BOTH, out=tmp_path / "second", start_from=tmp_path / "first", strategy="nsga2") as loop:
        assert len(loop.study.trials) == 30 and set(loop.study.trials["origin"]) == {str(tmp_path / "first")}
        assert not set(loop.ask(6)) & {study.find(key) for key in study.trials["architecture"]}


@pytest.mark.parametrize(
    ("settings", "different"),
    [
        ({"evaluate": by_worth, "objectives": {"score": "max"}}, "objectives"),
        ({"evaluate": worth, "objectives": BOTH}, "evaluate"),
        ({"data": "digits", "objectives": ["accuracy", "macs"], "limit": 60}, "objectives and evaluate and data"),
    ],
)
def test_figures_that_do_not_compare_are_refused(settings: dict[str, Any], different: str, tmp_path: Path) -> None:
    given: dict[str, Any] = {"evaluate": by_worth, "objectives": BOTH, "trials": 2}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(f"{__name__}.worth", lambda arch: 1.0)
        nas.search(SPACE, out=tmp_path / "first", **given)
    with pytest.raises(
        ValueError, match=rf"figures compare with those of this one, got .*first with other .*{different}"
    ):
        nas.search(SPACE, start_from=tmp_path / "first", out=tmp_path / "run", **settings)
    with pytest.raises(ValueError, match="`start_from` must be a run folder, got .*nothing, which has no run.yaml"):
        nas.search(SPACE, start_from=tmp_path / "nothing", out=tmp_path / "run", **given)
    assert not (tmp_path / "run").exists()
