"""Samplers that keep the subnets of a step at a similar cost, and prefer those that do well.

Reference: Tang et al., "ElasticViT: Conflict-aware Supernet Training for Deploying Fast Vision Transformer on Diverse Mobile Devices",
ICCV 2023, arXiv:2303.09730.
Differs: budgets are equal shares of 4,096 architectures drawn uniformly and ordered by macs, so they suit any space; the smallest
subnet of a step is the cheapest of the budgets in the same third; an architecture's score is renewed when it is trained again, not at
fixed times; banks hold 50 architectures at every budget; subnets but the cheapest learn from the labels, or from one given teacher.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from torch import Tensor

from estimators.counting import CostModel
from nas.runtime import stream
from nas.samplers.basic import Draw, Sampler, alike
from search_spaces import Architecture, SearchSpace
from search_spaces.core import Values, exists

POOL = 4096
BANK = 50
TRIED = 5
WIDE, DEEP = ("width", "expansion"), ("depth",)


class Complexity(Sampler):
    """Complexity-aware sampling: the budget of macs walks up and down by one, and all subnets of a step lie within it.

    Args:
        space: the search space.
        seed: draws the pool of architectures.
        subnets: drawn within the budget at each step, beside the cheapest.
        budgets: how many; fewer where there are not so many architectures.
    """

    def __init__(self, space: SearchSpace, *, seed: int, subnets: int = 3, budgets: int = 8) -> None:
        self.space, self.subnets = space, subnets
        self.model = CostModel(space)
        rng = stream(seed, "budgets")
        pool = list(dict.fromkeys(space.sample(rng) for _ in range(POOL)))
        order = np.argsort(self.model.batch(space.encode(pool))["macs"], kind="stable")
        self.budgets = [[pool[row] for row in rows] for rows in np.array_split(order, min(budgets, len(pool)))]
        self.at = 0

    def draw(self, epoch: int, rng: np.random.Generator) -> list[Draw]:
        self.at = int(np.clip(self.at + rng.integers(-1, 2), 0, len(self.budgets) - 1))
        *children, cheapest = alike([*(self.child(epoch, rng) for _ in range(self.subnets)), self.cheapest()])
        return [*children, cheapest._replace(role="min")]

    def child(self, epoch: int, rng: np.random.Generator) -> Architecture:
        """An architecture within the present budget."""
        return self.within(rng)

    def within(self, rng: np.random.Generator) -> Architecture:
        """Any architecture of the present budget, all equally likely."""
        inside = self.budgets[self.at]
        return inside[rng.integers(len(inside))]

    def cheapest(self) -> Architecture:
        """The cheapest architecture of the third of the budgets that the present one is in."""
        thirds = np.array_split(np.arange(len(self.budgets)), 3)
        first = next(int(third[0]) for third in thirds if self.at in third)
        return self.budgets[first][0]

    def tensors(self) -> dict[str, Tensor]:
        return {"at": torch.tensor(self.at)}

    def restore(self, tensors: Mapping[str, Tensor]) -> None:
        self.at = int(tensors["at"])


class Performance(Complexity):
    """Performance-aware sampling: within the budget, good architectures seen before, or else ones rather wide than deep.

    For each budget a bank keeps up to 50 architectures with minus their training loss as score. With a chance of 0.2, and 0.15 more
    every 100 epochs, one is drawn from it by the softmax of the scores, if the bank is more than half full. Otherwise, of five
    random ones the one is taken whose own widths cost more and own depths less than the best of the cheapest budget. Widths are choices
    of the kind width or expansion, depths those of the kind depth.
    """

    def __init__(self, space: SearchSpace, *, seed: int, subnets: int = 3, budgets: int = 8) -> None:
        super().__init__(space, seed=seed, subnets=subnets, budgets=budgets)
        self.banks: list[dict[Architecture, float]] = [{} for _ in self.budgets]
        self.budget_of = {arch: number for number, inside in enumerate(self.budgets) for arch in inside}

    def chance(self, epoch: int) -> float:
        """Of drawing from a bank."""
        return min(1.0, 0.2 + 0.15 * (epoch // 100))

    def child(self, epoch: int, rng: np.random.Generator) -> Architecture:
        bank = self.banks[self.at]
        if rng.random() < self.chance(epoch) and len(bank) > min(BANK, len(self.budgets[self.at])) / 2:
            scores = np.array(list(bank.values()))
            powers = np.exp(scores - scores.max())
            return list(bank)[rng.choice(len(bank), p=powers / powers.sum())]
        tried = [self.within(rng) for _ in range(TRIED)]
        anchor = max(self.banks[0], key=self.banks[0].__getitem__, default=None)
        return tried[0] if anchor is None else min(tried, key=lambda arch: self.narrowness(arch, anchor))

    def narrowness(self, arch: Architecture, anchor: Architecture) -> int:
        """Macs of `arch` with the anchor's widths, less its macs with the anchor's depths: low for wide and shallow networks."""
        return self._macs(arch, anchor, WIDE) - self._macs(arch, anchor, DEEP)

    def tell(self, draws: Sequence[Draw], losses: Sequence[float]) -> None:
        for draw, loss in zip(draws, losses, strict=True):
            if draw.role != "random":
                continue
            bank = self.banks[self.budget_of[draw.arch]]
            worst = min(bank, key=bank.__getitem__, default=draw.arch)
            if draw.arch not in bank and len(bank) == BANK:
                if -loss <= bank[worst]:
                    continue
                del bank[worst]
            bank[draw.arch] = -loss

    def tensors(self) -> dict[str, Tensor]:
        kept = [arch for bank in self.banks for arch in bank]
        scores = [score for bank in self.banks for score in bank.values()]
        codes = torch.from_numpy(self.space.encode(kept))
        return {**super().tensors(), "bank": codes, "scores": torch.tensor(scores, dtype=torch.float64)}

    def restore(self, tensors: Mapping[str, Tensor]) -> None:
        super().restore(tensors)
        self.banks = [{} for _ in self.budgets]
        for arch, score in zip(self.space.decode(tensors["bank"].numpy()), tensors["scores"].tolist(), strict=True):
            self.banks[self.budget_of[arch]][arch] = score

    def _macs(self, arch: Architecture, anchor: Architecture, kinds: Sequence[str]) -> int:
        """Of `arch` with the anchor's values for choices of these kinds, or where it has none itself."""
        values: Values = {}
        for choice in self.space.choices:
            if exists(choice, values):
                taken = choice.name in anchor and choice.kind in kinds
                donor = anchor if taken or choice.name not in arch else arch
                values[choice.name] = donor[choice.name]
        try:
            return self.model.cost(self.space.architecture(values)).macs
        except ValueError:  # the mix breaks a constraint
            return self.model.cost(arch).macs
