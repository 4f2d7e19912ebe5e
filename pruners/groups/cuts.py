"""What a removal takes from the dimensions of one tensor, and how it is taken out, silenced and put back."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import torch

from pruners.operators import CONCAT, ELEMENTARY, Axis, Dims, count, find, leaves, mask, units

Keep = Mapping[Axis, torch.Tensor]


class Cut(NamedTuple):
    """The indices that stay in one dimension of n, m of them; where it is ragged, for each index of other dimensions.

    Attributes:
        dim: the dimension.
        across: dimensions whose index decides which indices stay, none unless the hosts are outside `dim`.
        stays: booleans of shape (*sizes of `across`, n).
        places: which index is at each place of the smaller dimension, of shape (*sizes of `across`, m).
    """

    dim: int
    across: tuple[int, ...]
    stays: torch.Tensor
    places: torch.Tensor

    def take(self, tensor: torch.Tensor) -> torch.Tensor:
        """The part of a tensor that stays; the dimensions in `across` must be whole."""
        index = self.places.to(tensor.device)
        if not self.across:
            return tensor.index_select(self.dim, index)
        front = range(index.dim())
        moved = tensor.movedim((*self.across, self.dim), tuple(front))
        return moved[self._addresses(index)].movedim(tuple(front), (*self.across, self.dim)).contiguous()

    def silence(self, tensor: torch.Tensor) -> torch.Tensor:
        """The whole tensor with zeros where it does not stay."""
        gone = ~self.stays.to(tensor.device)
        if not self.across:
            return tensor.index_fill(self.dim, gone.nonzero().flatten(), 0)
        dims = (*self.across, self.dim)
        shape = [size if d in dims else 1 for d, size in enumerate(tensor.shape)]
        order = sorted(range(len(dims)), key=dims.__getitem__)
        gone = gone.permute(order).reshape(shape)
        return tensor.clone().masked_fill_(gone, 0)  # keeps the order in memory, which views need

    def put(self, part: torch.Tensor) -> torch.Tensor:
        """What was taken, back in its places among zeros."""
        index = self.places.to(part.device)
        result = part.new_zeros([self.stays.shape[-1] if d == self.dim else n for d, n in enumerate(part.shape)])
        if not self.across:
            return result.index_copy(self.dim, index, part)
        front = range(index.dim())
        moved = result.movedim((*self.across, self.dim), tuple(front))
        moved[self._addresses(index)] = part.movedim((*self.across, self.dim), tuple(front))
        return result

    def _addresses(self, index: torch.Tensor) -> tuple[torch.Tensor, ...]:
        rows = torch.meshgrid(*(torch.arange(n, device=index.device) for n in index.shape), indexing="ij")[:-1]
        return (*rows, index)


def cuts(dims: Dims, keep: Keep, counts: Mapping[Axis, int], hosts: Mapping[Axis, Axis]) -> list[Cut]:
    """What is taken from each dimension that loses indices, in an order in which one after the other can be taken.

    Args:
        dims: the dimensions of a tensor.
        keep: elementary axis to a boolean vector over its indices, or to a matrix (host's size, size) if it is ragged.
        counts: elementary axis to how many indices stay, of a ragged one per index of its host.
        hosts: ragged axis to its host.
    """
    found = []
    for at, axis in enumerate(dims):
        if count(axis, counts) == find(axis).size:
            continue
        ragged = [leaf for leaf in leaves(axis) if leaf in keep and keep[leaf].dim() > 1]
        if ragged:
            found.append(_ragged_cut(dims, at, dict.fromkeys(ragged), keep, counts, hosts))
        else:
            stays = mask(axis, keep)
            found.append(Cut(at, (), stays, stays.nonzero().flatten()))
    return sorted(found, key=lambda cut: not cut.across)


def kept_per_row(axis: Axis, kept: torch.Tensor, host: Axis | None) -> int:
    """How many indices of an axis stay, of a ragged one per index of its host.

    Raises:
        ValueError: if a matrix is given where there is no host, or its rows keep different numbers.
    """
    if kept.dim() == 1:
        return int(kept.sum())
    rows = kept.sum(1).tolist()
    if host is None or kept.shape != (host.size, axis.size) or len(set(rows)) != 1:
        raise ValueError(
            "what is kept of an axis must be a vector, or a matrix with one row per index of its host that keeps as many as "
            f"the others, got shape {tuple(kept.shape)} keeping {rows[:8]} where the axis has {axis.size} indices and "
            f"{'no host' if host is None else f'a host of {host.size}'}."
        )
    return int(rows[0])


def _ragged_cut(
    dims: Dims,
    at: int,
    ragged: Mapping[Axis, None],
    keep: Keep,
    counts: Mapping[Axis, int],
    hosts: Mapping[Axis, Axis],
) -> Cut:
    axis = dims[at]
    places = {leaf: host_place(dims, at, hosts[leaf]) for leaf in ragged}
    across = tuple(sorted(set(places.values()) - {at}))
    rows = {}
    for leaf, place in places.items():
        row = units(dims[place], hosts[leaf])
        after = len(across) - across.index(place) if place != at else 0
        rows[leaf] = row.view(-1, *[1] * after)
    stays, place_of = _place(axis, torch.arange(axis.size), rows, keep, counts)
    shape = (*(find(dims[place]).size for place in across), find(axis).size)
    stays, place_of = stays.expand(shape), place_of.expand(shape)
    old = torch.arange(shape[-1]).expand(shape)[stays].view(*shape[:-1], -1)
    return Cut(at, across, stays, torch.empty_like(old).scatter(-1, place_of[stays].view_as(old), old))


def host_place(dims: Dims, at: int, host: Axis) -> int:
    """The dimension that a ragged axis in dimension `at` has its host in: the same if it is there too."""
    return at if host in leaves(dims[at]) else next(d for d, axis in enumerate(dims) if host in leaves(axis))


def _place(
    axis: Axis, index: torch.Tensor, rows: Mapping[Axis, torch.Tensor], keep: Keep, counts: Mapping[Axis, int]
) -> tuple[torch.Tensor, torch.Tensor]:
    """Whether indices of a dimension stay, and the place of each in the smaller dimension (of any value if it goes).

    A place is the number of the row, then the rank among what stays in it: rows that keep different indices line up.
    """
    axis = find(axis)
    if axis.kind == ELEMENTARY:
        if axis not in keep:
            return torch.ones_like(index, dtype=torch.bool), index
        where = (rows[axis], index) if keep[axis].dim() > 1 else (index,)
        return keep[axis][where], (keep[axis].cumsum(-1) - 1)[where]
    if axis.kind == CONCAT:
        return _place_in_terms(axis, index, rows, keep, counts)
    stays, place, stride = torch.ones_like(index, dtype=torch.bool), torch.zeros_like(index), axis.size
    for part in axis.parts:
        stride //= part.size
        inside, rank = _place(part, index // stride % part.size, rows, keep, counts)
        stays, place = stays & inside, place * count(part, counts) + rank
    return stays, place


def _place_in_terms(
    axis: Axis, index: torch.Tensor, rows: Mapping[Axis, torch.Tensor], keep: Keep, counts: Mapping[Axis, int]
) -> tuple[torch.Tensor, torch.Tensor]:
    stays, place = torch.zeros_like(index, dtype=torch.bool), torch.zeros_like(index)
    start = offset = 0
    for term in axis.parts:
        here = (index >= start) & (index < start + term.size)
        inside, rank = _place(term, (index - start).clamp(0, term.size - 1), rows, keep, counts)
        stays, place = torch.where(here, inside, stays), torch.where(here, rank + offset, place)
        start, offset = start + term.size, offset + count(term, counts)
    return stays, place
