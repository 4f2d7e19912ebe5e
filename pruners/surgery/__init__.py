"""The cut: a smaller graph or module, and its proof."""

from pruners.groups import Keep
from pruners.surgery.blocks import Block, Bypassed, around, bypass, bypassed_outputs, inside, removable_blocks, unneeded
from pruners.surgery.every_size import serve_sizes
from pruners.surgery.huggingface import configure
from pruners.surgery.masked import Masked, difference, needs_copies
from pruners.surgery.module import Built, build
from pruners.surgery.plan import PruningPlan, describe_inputs, fingerprint, make_plan, unique_state
from pruners.surgery.proof import prove, prove_in, verify
from pruners.surgery.replay import rebuild, replay, smaller_graph
from pruners.surgery.rewrite import GraphModel, Removal, Scaled, rewrite, to_run, unwritten
from pruners.surgery.served import serves

__all__ = [
    "Block",
    "Built",
    "Bypassed",
    "GraphModel",
    "Keep",
    "Masked",
    "PruningPlan",
    "Removal",
    "Scaled",
    "around",
    "build",
    "bypass",
    "bypassed_outputs",
    "configure",
    "describe_inputs",
    "difference",
    "fingerprint",
    "inside",
    "make_plan",
    "needs_copies",
    "prove",
    "prove_in",
    "rebuild",
    "removable_blocks",
    "replay",
    "rewrite",
    "serve_sizes",
    "serves",
    "smaller_graph",
    "to_run",
    "unique_state",
    "unneeded",
    "unwritten",
    "verify",
]
