"""The residual block of elastic ResNets."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch.nn.functional as F
from torch import Tensor, nn

from search_spaces.core import Shape
from search_spaces.layers.elastic import ElasticBatchNorm2d
from search_spaces.layers.elastic_conv import ElasticConv2d
from search_spaces.layers.grouping import DENSE, Grouping
from search_spaces.layers.sorting import sort_channels_
from search_spaces.pooling import make_pooling, stride


class ResidualForm(NamedTuple):
    """A residual block's local choice: output channels, channels inside, size of the spatial kernels, the grouping of each spatial
    convolution, and the operator that halves the resolution at this block, if any."""

    width: int
    inner: int
    kernel: int = 3
    groupings: tuple[Grouping, ...] = (DENSE, DENSE)
    downsample: str | None = None


class ElasticResidual(nn.Module):
    """ReLU(body(x) + shortcut(x)) in every form.

    Body: two spatial convolutions (basic), or a spatial one between two of size 1 (bottleneck), each with a normalisation, and ReLU
    between. Shortcut: 1x1 convolution with normalisation where the channels change, else the input itself (every other pixel of
    it where the convolution is strided).

    Args:
        c_in, c_out, inner, kernel: of the largest form.
        bottleneck: which body.
        group_sizes: the most inputs that an output reads, for each spatial convolution.
        transforms: kernel sizes that have a learned transform.
        projects: whether a shortcut ever needs a convolution.
        operators: what may halve the resolution, see `search_spaces.pooling`.
    """

    def __init__(
        self,
        c_in: int,
        c_out: int,
        inner: int,
        kernel: int = 3,
        *,
        bottleneck: bool = False,
        group_sizes: Sequence[int | None] = (None, None),
        transforms: Sequence[int] = (),
        projects: bool = True,
        operators: Sequence[str] = (),
    ) -> None:
        super().__init__()
        ends = [(inner, inner)] if bottleneck else [(c_in, inner), (inner, c_out)]
        spatial = [
            ElasticConv2d(*widths, kernel, group_size=size, transforms=transforms)
            for widths, size in zip(ends, group_sizes, strict=False)
        ]
        convs = [ElasticConv2d(c_in, inner, 1), *spatial, ElasticConv2d(inner, c_out, 1)] if bottleneck else spatial
        self.spatial = (1,) if bottleneck else (0, 1)
        self.convs = nn.ModuleList(convs)
        self.norms = nn.ModuleList(ElasticBatchNorm2d(layer.out_channels) for layer in convs)
        self.shortcut = (
            nn.Sequential(ElasticConv2d(c_in, c_out, 1), ElasticBatchNorm2d(c_out)) if projects else nn.Sequential()
        )
        in_front = [operator for operator in operators if stride(operator) == 1]
        self.poolings = nn.ModuleDict({operator: make_pooling(operator, c_in) for operator in in_front})

    def choose_(self, local: ResidualForm, in_shape: Shape) -> None:
        self.width, self.downsample = local.width, local.downsample
        self.step = stride(local.downsample)
        outputs = [local.inner] * (len(self.convs) - 1) + [local.width]
        for at, (layer, width) in enumerate(zip(self.convs, outputs, strict=True)):
            assert isinstance(layer, ElasticConv2d)
            if at in self.spatial:
                grouping = local.groupings[self.spatial.index(at)]
                step = self.step if at == self.spatial[0] else 1
                layer.choose_(width, local.kernel, grouping=grouping, stride=step)
            else:
                layer.choose_(width)
        for layer in self.shortcut:
            if isinstance(layer, ElasticConv2d):
                layer.choose_(local.width)

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W) -> (N, width, H', W')."""
        if self.downsample is not None and self.downsample in self.poolings:
            x = self.poolings[self.downsample](x)
        out = x
        for at, (layer, norm) in enumerate(zip(self.convs, self.norms, strict=True)):
            out = norm(layer(F.relu(out) if at else out))
        kept = x[..., :: self.step, :: self.step] if self.step > 1 else x
        return F.relu(out + (kept if x.shape[1] == self.width else self.shortcut(kept)))

    def zero_residuals_(self) -> None:
        """Let the body contribute nothing at first: the scale of its last normalisation is zero."""
        nn.init.zeros_(self.norms[-1].weight)  # type: ignore[arg-type]

    def sort_channels_(self) -> None:
        """Sort the channels inside, between each convolution and the next if that is dense."""
        for before, norm, after in zip(self.convs, self.norms, list(self.convs)[1:], strict=False):
            assert isinstance(before, ElasticConv2d) and isinstance(norm, ElasticBatchNorm2d)
            assert isinstance(after, ElasticConv2d)
            if before.weight.shape[1] == before.in_channels and after.weight.shape[1] == after.in_channels:
                sort_channels_(after, [before, norm])
