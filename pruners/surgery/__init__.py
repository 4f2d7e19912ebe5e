"""The cut: a smaller graph or module, and its proof."""

from pruners.groups import Keep
from pruners.surgery.blocks import Block, Bypassed, around, inside, passed_on, removable_blocks, unneeded
from pruners.surgery.cut import Surgery
from pruners.surgery.huggingface import configure
from pruners.surgery.layers import LeftOut
from pruners.surgery.masked import Masked, difference
from pruners.surgery.module import Built, build
from pruners.surgery.plan import PruningPlan, describe_inputs, fingerprint, unique_state
from pruners.surgery.replay import rebuild, replay, smaller_graph
from pruners.surgery.rewrite import GraphModel, Removal, Scaled, rewrite
from pruners.surgery.served import serves

__all__ = [
    "Block", "Built", "Bypassed", "GraphModel", "Keep", "LeftOut", "Masked", "PruningPlan", "Removal", "Scaled",
    "Surgery", "around", "build", "configure", "describe_inputs", "difference", "fingerprint", "inside", "passed_on",
    "rebuild", "removable_blocks", "replay", "rewrite", "serves", "smaller_graph", "unique_state", "unneeded",
]  # fmt: skip
