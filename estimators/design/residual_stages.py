"""Stages as residual networks: what they cost, and the elastic space below them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from estimators.counting import METRICS, CostModel
from estimators.design.scaling import Stages
from search_spaces import SearchSpace, make_space
from search_spaces.core import largest, unknown_name


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
