"""The cut: a smaller graph or module, and its proof."""

from pruners.groups import Keep
from pruners.surgery.alike import Governed, governed
from pruners.surgery.blocks import Block, around, ignored, inside, removable_blocks, without_those_that_stay
from pruners.surgery.bypass import Bypassed, passed_on, rows_left, unneeded
from pruners.surgery.cut import Cut, Proved, Surgery
from pruners.surgery.every_size import find_again
from pruners.surgery.experts import without_entries
from pruners.surgery.folding import Factors, multiplied
from pruners.surgery.huggingface import configure
from pruners.surgery.lacking import lacks
from pruners.surgery.low_rank import (
    FIRST_OF_TWO,
    Dense,
    Known,
    dense_layers,
    directions,
    factor_,
    saving_rank,
    truncate_,
)
from pruners.surgery.masked import Masked, difference, run_example
from pruners.surgery.module import Built, build, computed_tensors
from pruners.surgery.plan import PruningPlan, describe_inputs, fingerprint, form_of, remember, unique_state
from pruners.surgery.pretrained import load_pretrained
from pruners.surgery.repeats import Twice, between, repeatable
from pruners.surgery.replay import follow, left_out, rebuild, replay, smaller_graph
from pruners.surgery.rewrite import GraphModel, Removal, Scaled, rewrite, traced_name
from pruners.surgery.served import serves
from pruners.surgery.stand_in import LeftOut

__all__ = [
    "FIRST_OF_TWO",
    "Block",
    "Built",
    "Bypassed",
    "Cut",
    "Dense",
    "Factors",
    "Governed",
    "GraphModel",
    "Keep",
    "Known",
    "LeftOut",
    "Masked",
    "Proved",
    "PruningPlan",
    "Removal",
    "Scaled",
    "Surgery",
    "Twice",
    "around",
    "between",
    "build",
    "computed_tensors",
    "configure",
    "dense_layers",
    "describe_inputs",
    "difference",
    "directions",
    "factor_",
    "find_again",
    "fingerprint",
    "follow",
    "form_of",
    "governed",
    "ignored",
    "inside",
    "lacks",
    "left_out",
    "load_pretrained",
    "multiplied",
    "passed_on",
    "rebuild",
    "remember",
    "removable_blocks",
    "repeatable",
    "replay",
    "rewrite",
    "rows_left",
    "run_example",
    "saving_rank",
    "serves",
    "smaller_graph",
    "traced_name",
    "truncate_",
    "unique_state",
    "unneeded",
    "without_entries",
    "without_those_that_stay",
]  # fmt: skip
