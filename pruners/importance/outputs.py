"""How much the outputs of a model change: relative to their own spread, or, of logits of tokens, as a divergence.

Random projections of the outputs have gradients whose squares have the squared change of all outputs as their mean; for logits of
tokens they are the gradients of labels that the model draws itself, whose squares have its Fisher matrix as their mean.

Reference: Hutchinson, A stochastic estimator of the trace of the influence matrix, 1989; Kunstner et al., Limitations of the empirical
    Fisher approximation, NeurIPS 2019 (labels drawn from the model).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from pruners.tracing import Trace, only_real

LOGITS = "logits"
CONSTANT = 1e-12  # of the squares of an output, up to which its variance is rounding


class Measure:
    """Measures changes of what a traced model returns.

    Changes of several outputs add up. That of one is squared, summed and divided by the variance over samples, summed alike; of an
    output that is the same for all samples, but for rounding, by its squares, and of one of zeros by 1. That of "logits" of three
    dimensions or more is the Kullback-Leibler divergence of the next token, averaged over positions and in nats.

    Args:
        trace: of the model.
    """

    def __init__(self, trace: Trace) -> None:
        self.trace = trace
        self.tokens = _token_logits(trace)
        self.spread: dict[int, float] = {}

    def of(self, returned: Sequence[Any]) -> dict[int, Tensor]:
        """The floating-point outputs among what the graph returned, by their place."""
        outputs = self.trace.returned(returned)
        return {at: x for at, x in enumerate(outputs) if isinstance(x, Tensor) and x.is_floating_point() and x.numel()}

    def samples(self, returned: Sequence[Any]) -> int:
        """How many samples there are in what the graph returned."""
        return max((len(x) for x in self.of(returned).values() if x.dim()), default=1)

    def change(self, reference: Sequence[Any], returned: Sequence[Any], real: Tensor | None = None) -> float:
        """How far outputs are from those of reference, per sample, at positions that are `real`, see `pruners.tracing`."""
        return self.changes(reference, real)(returned)

    def changes(self, reference: Sequence[Any], real: Tensor | None = None) -> Callable[[Sequence[Any]], float]:
        """The same for one output after another; what does not depend on them is computed once."""
        each = {at: self._changes_at(at, old, real) for at, old in self.of(reference).items()}

        def change(returned: Sequence[Any]) -> float:
            after = self.of(returned)
            return sum(found(only_real(after[at].float(), real)) for at, found in each.items())

        return change

    def _changes_at(self, at: int, old: Tensor, real: Tensor | None) -> Callable[[Tensor], float]:
        was = only_real(old.float(), real)
        if at not in self.tokens:
            scale = _samples(old) * self._spread(at, old, real)
            return lambda new: float((was - new).square().sum()) / scale
        return _divergence_from(was)

    def projected(self, returned: Sequence[Any], generator: torch.Generator, real: Tensor | None = None) -> Tensor:
        """A random projection of the outputs, a scalar whose gradient squares to the change, per sample."""
        total = torch.zeros(())
        for at, value in self.of(returned).items():
            spread = 1.0 if at in self.tokens else self._spread(at, value, real)
            flat = only_real(value.float(), real)
            if at in self.tokens:
                logs = flat.flatten(0, -2).log_softmax(-1)
                drawn = torch.multinomial(logs.detach().exp().cpu(), 1, generator=generator).to(logs.device)
                positions = len(logs) / _samples(value)
                total = total + logs.gather(1, drawn).sum() / math.sqrt(2 * positions)
            else:
                signs = torch.randint(0, 2, flat.shape, generator=generator).mul_(2).sub_(1).to(flat)
                total = total + (flat * signs).sum() / math.sqrt(spread)
        return total

    def _spread(self, at: int, value: Tensor, real: Tensor | None) -> float:
        """The variance of an output over samples, summed over its entries; that of the first batch for all."""
        if at not in self.spread:
            held = value.detach().double()
            centre = held.mean(0) if held.dim() and len(held) > 1 else torch.zeros(())
            varying = float(only_real(held - centre, real).square().sum()) / max(_samples(held) - 1, 1)
            size = float(only_real(held, real).square().sum()) / _samples(held)
            self.spread[at] = (varying if varying > CONSTANT * size else size) or 1.0
        return self.spread[at]


def _divergence_from(was: Tensor) -> Callable[[Tensor], float]:
    """Kullback-Leibler divergence of other logits from these, averaged over positions and in nats.

    It is computed from how logits move, not as a difference of entropies, whose rounding (1e-4 over 50,000 tokens) would hide small
    changes.
    """
    likely = was.softmax(-1)

    def divergence(new: Tensor) -> float:
        moved = new - was
        moved -= torch.linalg.vecdot(likely, moved).unsqueeze(-1)
        if moved.amax() > 16:  # far apart: nothing cancels, and exponentials might overflow
            return float((likely.log() + moved).logsumexp(-1).mean())
        return float(torch.linalg.vecdot(likely, moved.expm1_()).log1p().mean())

    return divergence


def _samples(value: Tensor) -> int:
    return len(value) if value.dim() else 1


def _token_logits(trace: Trace) -> frozenset[int]:
    """Places of outputs that the model calls logits, with a row for each token."""
    spec = trace.program.call_spec.out_spec
    if spec is None:
        return frozenset()
    named = pytree.tree_unflatten(list(range(spec.num_leaves)), spec)
    place = named.get(LOGITS) if isinstance(named, Mapping) else getattr(named, LOGITS, None)
    if not isinstance(place, int):
        return frozenset()
    returned: Any = next(n for n in trace.nodes if n.op == "output").args[0]
    node = trace.returned(returned)[place]
    return frozenset([place]) if node.meta["val"].dim() >= 3 else frozenset()
