"""The cut: a smaller graph or module, and its proof."""

from pruners.groups import Keep
from pruners.surgery.alike import Governed, governed
from pruners.surgery.blocks import Block, around, inside, removable_blocks, unneeded
from pruners.surgery.cut import Cut, Surgery
from pruners.surgery.folding import Factors, multiplied
from pruners.surgery.huggingface import configure, load_pretrained
from pruners.surgery.lacking import lacks
from pruners.surgery.masked import Masked, difference
from pruners.surgery.module import Built, build
from pruners.surgery.plan import PruningPlan, describe_inputs, fingerprint, unique_state
from pruners.surgery.replay import rebuild, replay, smaller_graph
from pruners.surgery.rewrite import GraphModel, Removal, Scaled, rewrite
from pruners.surgery.served import serves

__all__ = [
    "Block", "Built", "Cut", "Factors", "Governed", "GraphModel", "Keep", "Masked", "PruningPlan", "Removal", "Scaled",
    "Surgery", "around", "build", "configure", "describe_inputs", "difference", "fingerprint", "governed", "inside", "lacks",
    "load_pretrained", "multiplied", "rebuild", "removable_blocks", "replay", "rewrite", "serves", "smaller_graph",
    "unique_state", "unneeded",
]  # fmt: skip
