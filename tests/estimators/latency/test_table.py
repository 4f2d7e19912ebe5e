"""A table of blocks: what it sums, how it is fitted, saved and read, and what it refuses; no clock is read but once."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from estimators import Latency, LatencyTable, load_table, measure_table
from estimators.latency import table as latency_table
from estimators.latency.table import covering
from search_spaces import Architecture, SearchSpace, make_space
from search_spaces.core.network import Shape


@pytest.fixture(scope="module")
def space() -> SearchSpace:
    return make_space("resnet20-pooling")


def latency(milliseconds: float, **changed: object) -> Latency:
    found = Latency(milliseconds, milliseconds, milliseconds, 5, 11, True, 1, 1, "cpu", "2.6.0")
    return replace(found, **changed)


@pytest.fixture
def table(space: SearchSpace, monkeypatch: pytest.MonkeyPatch) -> LatencyTable:
    """Every module takes a millisecond, and one more per thousand pixels of its input."""

    def measured(modules: dict[str, object], shape: Shape, **settings: object) -> dict[str, Latency]:
        return {name: latency(1 + shape[-1] * shape[-2] / 1000 if len(shape) > 1 else 1) for name in modules}

    monkeypatch.setattr(latency_table, "compare_latency", measured)
    return measure_table(space, space.enumerate())


def by_hand(space: SearchSpace, arch: Architecture) -> float:
    shapes = space.net.input_shapes(space.locals(arch))
    return sum(1 + shape[-1] * shape[-2] / 1000 if len(shape) > 1 else 1 for shape in shapes)


def test_a_network_is_the_sum_of_its_blocks(space: SearchSpace, table: LatencyTable) -> None:
    archs = list(space.enumerate())
    for arch in archs:
        assert table.predict(space, arch) == pytest.approx(by_hand(space, arch))
    assert len({by_hand(space, arch) for arch in archs}) > 10
    assert len(table.blocks) < len(archs) * len(space.net.blocks) / 4


def test_overhead_and_scale_are_fitted(space: SearchSpace, table: LatencyTable) -> None:
    archs = list(space.enumerate())
    fitted = table.fitted(space, {arch: latency(0.5 + 0.8 * by_hand(space, arch)) for arch in archs[:5]})
    assert (fitted.overhead_ms, fitted.scale) == (pytest.approx(0.5), pytest.approx(0.8))
    assert fitted.predict(space, archs[-1]) == pytest.approx(0.5 + 0.8 * by_hand(space, archs[-1]))


def test_save_and_load(space: SearchSpace, table: LatencyTable, tmp_path: Path) -> None:
    archs = list(space.enumerate())
    fitted = table.fitted(space, {arch: latency(2 + by_hand(space, arch)) for arch in archs[:5]})
    fitted.save(tmp_path / "table.json")
    loaded = load_table(tmp_path / "table.json", space)
    assert [loaded.predict(space, arch) for arch in archs] == [fitted.predict(space, arch) for arch in archs]
    assert loaded.conditions == {
        "batch_size": 1,
        "threads": 1,
        "device": "cpu",
        "torch_version": "2.6.0",
        "runtime": "eager",
    }


def test_a_table_of_another_space_is_refused(space: SearchSpace, table: LatencyTable, tmp_path: Path) -> None:
    table.save(tmp_path / "table.json")
    for other in (make_space("resnet18-pooling"), make_space("resnet20-pooling", num_classes=7)):
        with pytest.raises(ValueError, match="latency table must be of space .*; measure a table of this space"):
            load_table(tmp_path / "table.json", other)
        with pytest.raises(ValueError, match="latency table must be of space"):
            table.predict(other, next(iter(other.enumerate())))
    with pytest.raises(ValueError, match="expected an architecture of 'resnet20-pooling'"):
        table.predict(space, next(iter(make_space("resnet18-pooling").enumerate())))


def test_what_cannot_be_fitted_or_predicted(space: SearchSpace, table: LatencyTable) -> None:
    first, second, third, *_ = space.enumerate()
    with pytest.raises(ValueError, match="needs at least 3 measured networks, got 2; measure more"):
        table.fitted(space, {first: latency(1), second: latency(2)})
    with pytest.raises(ValueError, match="measured as the blocks were, with .*'threads': 1.*'threads': 2"):
        table.fitted(space, {arch: latency(1, threads=2) for arch in (first, second, third)})
    smaller = measure_table(space, [first])
    with pytest.raises(ValueError, match=r"has not been measured; measure a table that covers"):
        smaller.predict(space, third)
    with pytest.raises(ValueError, match="at least one architecture, got none"):
        measure_table(space, [])
    one = replace(table, blocks={key: latency(1) for key in table.blocks})
    with pytest.raises(ValueError, match="must differ, got 3 whose blocks sum to"):
        one.fitted(space, {arch: latency(1) for arch in (first, second, third)})


@pytest.mark.parametrize("text", ["{}", "[]", "not json", json.dumps({"blocks": {"a": {"median_ms": 1}}})])
def test_files_that_are_no_tables(space: SearchSpace, tmp_path: Path, text: str) -> None:
    (tmp_path / "table.json").write_text(text)
    with pytest.raises(ValueError, match="must be a latency table that `save` wrote; measure it again"):
        load_table(tmp_path / "table.json", space)


def test_blocks_are_really_measured(space: SearchSpace) -> None:
    arch = next(iter(space.enumerate()))
    table = measure_table(space, [arch], threads=1, runs=5, warmup_s=0.01, max_seconds=0.01)
    assert table.predict(space, arch) == pytest.approx(sum(found.median_ms for found in table.blocks.values()), rel=0.9)
    assert {found.threads for found in table.blocks.values()} == {1}


def test_a_table_without_blocks_is_refused(space: SearchSpace, tmp_path: Path) -> None:
    LatencyTable(space.name, space.fingerprint, {}).save(tmp_path / "table.json")
    with pytest.raises(ValueError, match="must hold at least one measured block, got none"):
        load_table(tmp_path / "table.json", space)


def test_a_missing_table_is_said_to_be_missing(space: SearchSpace, tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="no latency table at .*; `measure_table` makes one"):
        load_table(tmp_path / "table.json", space)


def test_a_fit_that_tells_no_networks_apart_warns(space: SearchSpace) -> None:
    archs = list(space.enumerate())[:3]
    table = measure_table(space, archs, runs=5, warmup_s=0.01)
    order = sorted(archs, key=lambda arch: table.predict(space, arch))
    with pytest.warns(UserWarning, match="predicts one latency for all; measure both again"):
        fitted = table.fitted(space, {arch: latency(9 - at, **table.conditions) for at, arch in enumerate(order)})
    assert len({fitted.predict(space, arch) for arch in archs}) == 1


def test_a_table_covers_its_space_by_itself(
    space: SearchSpace, table: LatencyTable, monkeypatch: pytest.MonkeyPatch
) -> None:
    some = covering(space)
    assert len(some) < space.size  # a few have every block between them
    assert set(measure_table(space).blocks) == set(table.blocks)
    monkeypatch.setattr(latency_table, "MOST_LISTED", 3)
    drawn = covering(space)
    assert set(measure_table(space, drawn).blocks) == set(table.blocks)
    lacking = replace(table, blocks=dict(list(table.blocks.items())[:-1]))
    table.check_covers(space)
    with pytest.raises(ValueError, match="has not been measured; measure a table that covers"):
        lacking.check_covers(space)


def test_the_options_in_which_a_space_differs_are_named(
    space: SearchSpace, table: LatencyTable, tmp_path: Path
) -> None:
    table.save(tmp_path / "table.json")
    with pytest.raises(
        ValueError, match=r"got one of 'resnet20-pooling' \(\w+\) with num_classes 10 in place of 7; measure"
    ):
        load_table(tmp_path / "table.json", make_space("resnet20-pooling", num_classes=7))
    written = json.loads((tmp_path / "table.json").read_text())
    del written["options"]  # of an earlier version
    (tmp_path / "table.json").write_text(json.dumps(written))
    assert load_table(tmp_path / "table.json", space).blocks == table.blocks
