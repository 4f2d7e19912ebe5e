"""Stages as residual networks: what they cost, the elastic space below them, and DeepMAD's stages for a budget."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

from estimators.counting import METRICS, CostModel
from estimators.design.deepmad import solve
from estimators.design.deepmad_bound import Problem
from estimators.design.scaling import Stages
from search_spaces import SearchSpace, make_space
from search_spaces.core import largest, unknown_name

CONVOLUTIONS = 2
"""Of a basic block, which the families of `deepmad_stages` are made of."""
STAGES = {20: 3, 18: 4}
"""Stages of these families."""


def residual_space(stages: Stages, family: int = 18, **options: Any) -> SearchSpace:
    """The `resnet-elastic` space whose largest architecture is the residual network of these stages.

    Args:
        stages: depths, widths and side; a group width becomes the one group size.
        family: `depth` of `resnet-elastic`, which says what blocks and stem are used: 20 (3 stages), 18 or 50 (4 stages).
        options: others of `resnet-elastic`; by default width and depth are searched.

    Raises:
        ValueError: another number of stages than the family has, and as `resnet-elastic`.
    """
    grouped = {} if stages.group_width is None else {"group_sizes": (stages.group_width,)}
    usual = {
        "choices": ("width", "depth", *(("groups",) if grouped else ())),
        "depths": [range(max(1, depth - 2), depth + 1) for depth in stages.depths],
        **grouped,
    }
    return make_space(
        "resnet-elastic", depth=family, widths=stages.widths, image_size=stages.side, **{**usual, **options}
    )


def residual_cost(metric: str = "macs", family: int = 18, **options: Any) -> Callable[[Stages], float]:
    """What the residual network of given stages costs, as a function for `scaled_to` and `family`.

    Args:
        metric: one of `estimators.METRICS`.
        family, options: as for `residual_space`, such as `num_classes`; nothing is searched.

    Raises:
        ValueError: no such metric.
    """
    if metric not in METRICS:
        raise unknown_name("metric", metric, METRICS)

    def cost(stages: Stages) -> float:
        choices = "depth" if stages.group_width is None else "depth,groups"
        fixed = {"choices": choices, "depths": [(depth,) for depth in stages.depths]}
        space = residual_space(stages, family, **{**fixed, **options})
        return getattr(CostModel(space).cost(largest(space)), metric)

    return cost


def deepmad_stages(
    max_macs: float,
    max_params: float = math.inf,
    *,
    family: int = 20,
    image_size: int = 32,
    widths: Sequence[int] = range(8, 129, 8),
    blocks: Sequence[int] = range(1, 7),
    effectiveness: float = 0.3,
    **options: Any,
) -> Stages:
    """The residual network with the highest entropy within a budget, as DeepMAD's program `estimators.design.deepmad.solve` finds it.

    The 3 x 3 convolutions of the blocks are the program's layers, and the stem is the first of them. What the program does not know
    (shortcuts, batch norms, the classifier) is counted too: its limits are lowered until the whole network keeps the budget.

    Args:
        max_macs, max_params: of the whole network, at most.
        family: `depth` of `resnet-elastic`: 20 (3 stages) or 18 (4 stages).
        image_size: side of the images, in pixels.
        widths: channels to choose from, the same for each stage.
        blocks: blocks to choose from, the same for each stage.
        effectiveness: most layers per unit of width, as in `estimators.design.deepmad_bound.Problem`.
        options: others of `residual_cost`, such as `num_classes`.

    Raises:
        ValueError: another family, or nothing meets the limits.
    """
    if family not in STAGES:
        raise ValueError(f"`family` must be 20 (3 stages) or 18 (4 stages), which have basic blocks; got {family}")
    layers = tuple(CONVOLUTIONS * count for count in blocks)
    stages = STAGES[family]
    limits = {"macs": float(max_macs), "params": float(max_params)}  # YAML reads 2e6 as text
    costs = {metric: residual_cost(metric, family, stem="small", **options) for metric in limits}
    allowed = dict(limits)
    while True:
        problem = Problem(
            widths=(tuple(widths),) * stages,
            depths=(tuple(1 + count for count in layers), *[layers] * (stages - 1)),
            side=2 * image_size,  # the first stage has the images' own resolution
            max_macs=allowed["macs"],
            max_params=allowed["params"],
            effectiveness=effectiveness,
            weights=(*[1.0] * (stages - 1), 8.0),
        )
        solved = solve(problem)
        found = Stages(tuple(count // CONVOLUTIONS for count in solved.depths), solved.widths, image_size)
        over = {metric: cost(found) - limits[metric] for metric, cost in costs.items()}
        if max(over.values()) <= 0:
            return found
        for metric, excess in over.items():
            if excess > 0:
                allowed[metric] = getattr(solved, metric) - excess


def deepmad_space(
    *,
    max_macs: float,
    max_params: float = math.inf,
    family: int = 20,
    in_channels: int = 3,
    num_classes: int = 10,
    image_size: int = 32,
    choices: str | Sequence[str] = ("width", "depth"),
) -> SearchSpace:
    """The `resnet-elastic` space below `deepmad_stages`, for `--space estimators:deepmad_space`.

    Its largest architecture keeps the budget; the others are narrower and shallower.

    Args:
        max_macs, max_params: of the largest architecture, at most.
        family: 20 (3 stages) or 18 (4 stages).
        in_channels, num_classes, image_size: of the images and classes.
        choices: what is searched, as of `resnet-elastic`.

    Raises:
        ValueError: as `deepmad_stages` and `resnet-elastic`.
    """
    images: dict[str, Any] = {"in_channels": in_channels, "num_classes": num_classes}
    stages = deepmad_stages(max_macs, max_params, family=family, image_size=image_size, **images)
    return residual_space(stages, family, stem="small", choices=choices, **images)
