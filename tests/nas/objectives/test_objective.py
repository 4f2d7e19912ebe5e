"""Objectives: names, directions and the values that are refused."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from estimators.zero_cost import ZERO_COST
from nas.objectives.objective import OBJECTIVES, Objective, losses, parse_objectives


def test_every_objective_is_known_by_its_own_name() -> None:
    costs = [
        "macs",
        "params",
        "activations",
        "weight_bytes",
        "latency_ms",
        "onnxruntime_ms",
        "peak_memory_bytes",
        "patched_peak_bytes",
        "patched_macs",
        "energy_mj",
        "bound_ms",
    ]
    assert list(OBJECTIVES) == ["accuracy", *costs, *ZERO_COST]
    assert all(objective.name == name for name, objective in OBJECTIVES.items())
    rising = {name for name, objective in OBJECTIVES.items() if objective.higher_is_better}
    assert rising == {"accuracy", *ZERO_COST} - {"ntk_condition"}
    with pytest.raises(dataclasses.FrozenInstanceError):
        OBJECTIVES["macs"].unit = "M"  # type: ignore[misc]


def test_losses_negate_what_should_rise() -> None:
    objectives = parse_objectives(["accuracy", "macs"])
    found = losses([[0.9, 40], [0.0, 20]], objectives)
    assert found.tolist() == [[-0.9, 40.0], [0.0, 20.0]]
    assert not np.signbit(found[1, 0])
    assert losses([[3]], [Objective("throughput", "images/s", higher_is_better=True)]).tolist() == [[-3.0]]
    assert losses(np.empty((0, 2)), objectives).shape == (0, 2)


def test_losses_leave_their_input_alone() -> None:
    values = np.array([[0.5, 1.0]])
    losses(values, parse_objectives(["accuracy", "macs"]))[:] = 7
    assert values.tolist() == [[0.5, 1.0]]


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
def test_values_that_are_not_finite_are_refused_where_they_enter(bad: float) -> None:
    with pytest.raises(ValueError, match=f"objective 'macs' must be finite, got {bad} in row 1; leave out trials"):
        losses([[0.5, 1], [0.5, bad]], parse_objectives(["accuracy", "macs"]))


@pytest.mark.parametrize("values", [[0.5, 1.0], [[0.5]], [[0.5, 1.0, 2.0]], 3.0])
def test_losses_need_a_column_for_each_objective(values: object) -> None:
    with pytest.raises(
        ValueError, match=r"`values` must have shape \(n, 2\), a column for each of accuracy, macs; got"
    ):
        losses(values, parse_objectives(["accuracy", "macs"]))  # type: ignore[arg-type]


def test_parsing_keeps_the_order() -> None:
    assert parse_objectives(("macs", "accuracy")) == (OBJECTIVES["macs"], OBJECTIVES["accuracy"])


def test_parsing_explains_what_is_wrong() -> None:
    with pytest.raises(ValueError, match="no objective is named 'acuracy'; did you mean accuracy"):
        parse_objectives(["acuracy"])
    with pytest.raises(ValueError, match=r"no objective is named 'energy'.* known: accuracy, macs, params"):
        parse_objectives(["macs", "energy"])
    with pytest.raises(ValueError, match="got 'macs' twice in macs, accuracy, macs; drop one"):
        parse_objectives(["macs", "accuracy", "macs"])
    with pytest.raises(ValueError, match="at least one objective; choose among accuracy, macs"):
        parse_objectives([])
