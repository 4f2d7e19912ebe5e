"""A U-Net to search for segmentation: widths, kernels and depths of its stages, with skips by concatenation."""

from functools import partial
from itertools import pairwise

import torch.nn.functional as F
from torch import nn

from search_spaces import (
    ElasticBatchNorm2d,
    ElasticConv2d,
    ElasticConvTranspose2d,
    Integer,
    Network,
    OnSkip,
    SearchSpace,
    elastic_block,
)
from search_spaces.core import code_labels, height_and_width


class Layer(nn.Module):
    """Convolution, normalisation and ReLU; local choice: (channels, kernel, channels of each source if there are several)."""

    def __init__(self, conv, c_in, c_out, kernel, stride=1, sources=None):
        super().__init__()
        self.conv, self.norm = conv(c_in, c_out, kernel, sources=sources), ElasticBatchNorm2d(c_out)
        self.stride = stride

    def choose_(self, local, in_shape):
        width, kernel, sources = local
        self.conv.choose_(width, kernel, stride=self.stride, sources=sources)

    def forward(self, x):
        return F.relu(self.norm(self.conv(x)))


def read(number, keeps, depth, width, kernel, skip=None):
    """What a stage's layer `number` is told; its output may be kept, and it may join a skip connection of `skip` channels."""
    local = (width, kernel, None if skip is None else (skip, width)) if number <= depth else None
    return OnSkip(local, keeps, skip is not None) if keeps or skip is not None else local


def unet(in_channels=3, outputs=2, image_size=64, widths=(16, 32, 64), kernels=(3, 5), depths=(1, 2)):
    """A U-Net from images to logits of the same height and width, (N, outputs, H, W).

    Each stage on the way down halves the resolution, each on the way up doubles it and joins the stage of that resolution. A stage has
    half or all of its channels, a kernel size and a number of layers.

    Args:
        in_channels, outputs: channels of the images and of the logits.
        image_size: height and width of the images, in pixels, as one number or a pair; any size will do.
        widths: the most channels of each stage, from the highest resolution to the lowest.
        kernels: sizes to choose from, odd.
        depths: numbers of layers of a stage to choose from.
    """
    choices, blocks, largest, deepest = [], [], max(kernels), max(depths)

    def stage(name, width, first, keeps=False, joins=None):
        """The choices and layers of a stage; the last layer may be kept for a skip, and the first may join the stage `joins`."""
        columns = f"{name}.depth", f"{name}.width", f"{name}.kernel"
        values = depths, (width // 2, width), kernels
        kinds = "depth", "width", "kernel"
        choices.extend(Integer(column, v, kind=kind) for column, v, kind in zip(columns, values, kinds, strict=True))
        for number in range(1, deepest + 1):
            reads = (*columns, f"{joins}.width") if joins and number == 1 else columns
            make = first if number == 1 else partial(Layer, ElasticConv2d, width, width, largest)
            told = partial(read, number, keeps and number == deepest)
            blocks.append(elastic_block(f"{name}_layer{number}", reads, make, told))

    for at, (before, width) in enumerate(pairwise((in_channels, *widths)), start=1):
        first = partial(Layer, ElasticConv2d, before, width, largest, stride=1 if at == 1 else 2)
        stage(f"down{at}", width, first, keeps=at < len(widths))
    for at in range(len(widths) - 1, 0, -1):
        width, name = widths[at - 1], f"up{at}"
        upsample = partial(Layer, ElasticConvTranspose2d, widths[at], width, largest, stride=2)
        columns = f"{name}.width", f"{name}.kernel"
        blocks.append(elastic_block(f"{name}_upsample", columns, upsample, lambda *local: (*local, None)))
        joint = partial(Layer, ElasticConv2d, 2 * width, width, largest, sources=(width, width))
        stage(name, width, joint, joins=f"down{at}")
    head = partial(ElasticConv2d, widths[0], outputs, 1, bias=True)
    blocks.append(elastic_block("head", (), lambda: nn.Sequential(head())))
    height, width = height_and_width(image_size)
    return SearchSpace(
        name="unet",
        choices=tuple(choices),
        labels=code_labels(choices),
        network=Network(tuple(blocks), (in_channels, height, width), outputs),
        options={"in_channels": in_channels, "outputs": outputs, "image_size": [height, width], "widths": list(widths)},
    )
