"""What each tensor operator does to the axes of its tensors."""

from pruners.operators import axes, routing, sizes
from pruners.operators.axes import (
    CONCAT,
    ELEMENTARY,
    PRODUCT,
    Axis,
    Misaligned,
    count,
    cut,
    factor,
    find,
    freeze,
    leaves,
    mask,
    units,
)
from pruners.operators.lookups import LOOKUPS
from pruners.operators.moves import slice_bounds
from pruners.operators.nodes import (
    arguments,
    evaluating,
    is_random,
    number,
    of_size,
    operator,
    owner,
    seeded,
    several,
    tensors_in,
)
from pruners.operators.reductions import ALONG, NORMS, along_dims
from pruners.operators.routing import NothingChosen, SomethingChosen, chooses, is_chosen
from pruners.operators.rule import Dims, frozen
from pruners.operators.rules import rule
from pruners.operators.sizes import BATCH, LEAST, Shape, Sizes, TooSlow, Within, sizes_of

__all__ = [
    "ALONG",
    "BATCH",
    "CONCAT",
    "ELEMENTARY",
    "LEAST",
    "LOOKUPS",
    "NORMS",
    "PRODUCT",
    "Axis",
    "Dims",
    "Misaligned",
    "NothingChosen",
    "Shape",
    "Sizes",
    "SomethingChosen",
    "TooSlow",
    "Within",
    "along_dims",
    "arguments",
    "axes",
    "chooses",
    "count",
    "cut",
    "evaluating",
    "factor",
    "find",
    "freeze",
    "frozen",
    "is_chosen",
    "is_random",
    "leaves",
    "mask",
    "number",
    "of_size",
    "operator",
    "owner",
    "routing",
    "rule",
    "seeded",
    "several",
    "sizes",
    "sizes_of",
    "slice_bounds",
    "tensors_in",
    "units",
]  # fmt: skip
