"""A model as a graph of tensor operators, and running it."""

from pruners.tracing.batches import Batch, as_batch, like_example, only_real, real_positions
from pruners.tracing.runner import Repeated, Runner
from pruners.tracing.trace import Trace, trace

__all__ = ["Batch", "Repeated", "Runner", "Trace", "as_batch", "like_example", "only_real", "real_positions", "trace"]
