"""Convolutions of signals and images, plain and transposed, whose subnets are slices of shared weights."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from search_spaces.layers.grouping import DENSE, Grouping
from search_spaces.layers.widths import Sources, checked, copied

PlainConv = nn.Conv1d | nn.Conv2d | nn.ConvTranspose1d | nn.ConvTranspose2d


class ElasticConv(nn.Module):
    """Convolution with elastic input and output widths, kernel, groups and stride; the padding keeps the resolution.

    The shared weight has shape (out_channels, group_size, *kernel), with `kernel_size` along each dimension, and its element
    [p, q mod group_size] joins input q with output p, in every form in which the two are in one group. So with
    `group_size = in_channels` a grouped form is the dense one with the weights between groups left out; and where inputs and outputs
    are as many and groups have a constant size, a narrower form is the first groups of a wider one.

    Args:
        in_channels, out_channels, kernel_size: of the largest form; kernels are odd.
        group_size: the largest number of inputs that one output reads in any form, 1 for a depthwise convolution. Default: all.
        bias: whether outputs have a bias.
        transforms: smaller kernel sizes that are reached by a learned matrix. The centre of the next larger of these kernels (or
            of the largest kernel) is multiplied by it; it belongs to the layer and starts as the identity.
        sources: the largest width of each of several inputs that are concatenated, such as a U-Net's skip and what comes from
            below. Each then keeps its own weights, however narrow the others are. Default: one input.

    Raises:
        ValueError: an even kernel, sources that do not add up to `in_channels`, or several sources of a layer that is not dense.

    Reference: Cai et al., "Once-for-All: Train One Network and Specialize it for Efficient Deployment", ICLR 2020, arXiv:1908.09791,
    for kernels and their transforms.
    """

    dims: ClassVar[int]
    plain: ClassVar[type[PlainConv]]
    operator: ClassVar[Callable[..., Tensor]]

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int = 3,
        *,
        group_size: int | None = None,
        bias: bool = False,
        transforms: Sequence[int] = (),
        sources: Sequence[int] | None = None,
    ) -> None:
        super().__init__()
        for size in (kernel_size, *transforms):
            _check_kernel(size, kernel_size)
        held = group_size or in_channels
        self.in_channels, self.out_channels, self.kernel_size = in_channels, out_channels, kernel_size
        self.sources = Sources(in_channels, sources)
        if self.sources.several and held < in_channels:
            raise ValueError(
                f"a convolution of several sources must be dense, got group_size={held} of {in_channels} inputs; leave out "
                "`group_size` or `sources`"
            )
        self.weight = nn.Parameter(torch.empty(out_channels, held, *[kernel_size] * self.dims))
        self.bias = nn.Parameter(torch.empty(out_channels)) if bias else None
        self.transforms = nn.ParameterDict(
            {str(size): torch.eye(size**self.dims) for size in transforms if size < kernel_size}
        )
        initialise_conv_(self)
        self.choose_()

    def choose_(
        self,
        out_channels: int | None = None,
        kernel_size: int | None = None,
        *,
        grouping: Grouping = DENSE,
        stride: int = 1,
        sources: Sequence[int] | None = None,
    ) -> None:
        """Set the form of the next calls; what is left out is largest, dense and without stride.

        Args:
            sources: the width of each source that comes in, in order.

        Raises:
            ValueError: more outputs, a larger kernel or wider sources than the layer has.
        """
        self.width = self.out_channels if out_channels is None else checked(out_channels, self.out_channels, "outputs")
        self.kernel = self.kernel_size if kernel_size is None else _check_kernel(kernel_size, self.kernel_size)
        self.grouping, self.stride = grouping, stride
        self.sources.choose_(sources)

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, ...) -> (N, chosen outputs, ...), each side divided by the stride and rounded up.

        Raises:
            ValueError: the groups do not divide the channels, more inputs than the layer has weights for, or others than its sources
                have together.
        """
        groups = self.grouping.groups(x.shape[1], self.width)
        bias = None if self.bias is None else self.bias[: self.width]
        weight = self._slice(x.shape[1], groups)
        return type(self).operator(x, weight, bias, self.stride, groups=groups, **self._padding())

    def extract(self, in_channels: int) -> PlainConv:
        """The chosen form on inputs of `in_channels`."""
        groups = self.grouping.groups(in_channels, self.width)
        layer = self.plain(
            in_channels,
            self.width,
            self.kernel,
            self.stride,
            groups=groups,
            bias=self.bias is not None,
            device="meta",
            **self._padding(),
        )
        layer.weight = copied(self._slice(in_channels, groups))
        if self.bias is not None:
            layer.bias = copied(self.bias[: self.width])
        return layer

    def _padding(self) -> dict[str, Any]:
        return {"padding": self.kernel // 2}

    def _slice(self, c_in: int, groups: int) -> Tensor:
        """The weights of the chosen form, shape (width, c_in / groups, *kernel)."""
        checked(c_in, self.in_channels, "inputs")
        weight, size = self.weight[: self.width], c_in // groups
        held = weight.shape[1]
        if groups > 1 and self.sources.several:
            raise ValueError(
                f"a convolution of several sources must be dense, got {groups} groups; leave out `grouping` or `sources`"
            )
        if size > held:
            raise ValueError(
                f"a group must have at most {held} inputs, got {size} ({c_in} inputs in {groups} groups); make the layer with "
                f"group_size={size}"
            )
        if groups == 1:
            weight = self.sources.read(weight, c_in)
        elif size < held:
            inputs = torch.arange(c_in, device=weight.device).view(groups, size) % held
            index = inputs.repeat_interleave(self.width // groups, dim=0).view(self.width, size, *[1] * self.dims)
            weight = weight.gather(1, index.expand(-1, -1, *weight.shape[2:]))
        for size in sorted(map(int, self.transforms), reverse=True):
            if size >= self.kernel:
                weight = self._centre(weight, size)
                weight = (weight.flatten(2) @ self.transforms[str(size)]).view_as(weight)
        return self._centre(weight, self.kernel)

    def _centre(self, weight: Tensor, size: int) -> Tensor:
        """The middle of the kernel, of `size` along each dimension."""
        edge = (weight.shape[-1] - size) // 2
        for dim in range(2, weight.ndim):
            weight = weight.narrow(dim, edge, size)
        return weight


class ElasticConvTranspose(ElasticConv):
    """Transposed convolution as elastic as `ElasticConv`, with the same arguments; the stride multiplies the resolution.

    The shared weight has the shape and meaning of a convolution's, outputs first; a torch layer's has inputs first.
    """

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, ...) -> (N, chosen outputs, ...), each side multiplied by the stride; errors as of `ElasticConv`."""
        return super().forward(x)

    def _padding(self) -> dict[str, Any]:
        return {"padding": self.kernel // 2, "output_padding": self.stride - 1}

    def _slice(self, c_in: int, groups: int) -> Tensor:
        """The weights of the chosen form, shape (c_in, width / groups, *kernel)."""
        weight = super()._slice(c_in, groups).unflatten(0, (groups, -1))
        return weight.transpose(1, 2).flatten(0, 1)


class ElasticConv1d(ElasticConv):
    """`ElasticConv` of signals: (N, C, L) -> (N, chosen outputs, ceil(L / stride))."""

    dims, plain, operator = 1, nn.Conv1d, staticmethod(F.conv1d)


class ElasticConv2d(ElasticConv):
    """`ElasticConv` of images: (N, C, H, W) -> (N, chosen outputs, ceil(H / stride), ceil(W / stride))."""

    dims, plain, operator = 2, nn.Conv2d, staticmethod(F.conv2d)


class ElasticConvTranspose1d(ElasticConvTranspose):
    """`ElasticConvTranspose` of signals: (N, C, L) -> (N, chosen outputs, L * stride)."""

    dims, plain, operator = 1, nn.ConvTranspose1d, staticmethod(F.conv_transpose1d)


class ElasticConvTranspose2d(ElasticConvTranspose):
    """`ElasticConvTranspose` of images: (N, C, H, W) -> (N, chosen outputs, H * stride, W * stride)."""

    dims, plain, operator = 2, nn.ConvTranspose2d, staticmethod(F.conv_transpose2d)


def initialise_conv_(layer: ElasticConv | PlainConv) -> None:
    """Draw a convolution's weights for ReLU (He, fan out), with biases of zero."""
    inputs_first = isinstance(layer, (nn.ConvTranspose1d, nn.ConvTranspose2d))
    nn.init.kaiming_normal_(layer.weight, mode="fan_in" if inputs_first else "fan_out", nonlinearity="relu")
    if layer.bias is not None:
        nn.init.zeros_(layer.bias)


def _check_kernel(size: int, most: int) -> int:
    if not 1 <= size <= most or size % 2 == 0:
        raise ValueError(f"`kernel_size` must be odd and from 1 to {most}, got {size}")
    return size
