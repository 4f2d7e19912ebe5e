"""A space of convolutional networks for signals (channels, length): widths, kernels and depths of its stages."""

import torch.nn.functional as F
from torch import nn

from search_spaces import (
    ElasticBatchNorm1d,
    ElasticConv1d,
    ElasticLinear,
    Integer,
    Network,
    SearchSpace,
    elastic_block,
)
from search_spaces.core import code_labels


class Layer(nn.Module):
    """Convolution, normalisation and ReLU; local choice: (channels, kernel)."""

    def __init__(self, c_in, c_out, kernel, stride):
        super().__init__()
        self.conv, self.norm, self.stride = ElasticConv1d(c_in, c_out, kernel), ElasticBatchNorm1d(c_out), stride

    def choose_(self, local, in_shape):
        self.conv.choose_(*local, stride=self.stride)

    def forward(self, x):
        return F.relu(self.norm(self.conv(x)))


def sequence_space(
    in_channels=1, outputs=10, length=128, widths=(16, 32, 64), kernels=(3, 5, 7), depths=(1, 2), ratios=(0.5, 0.75, 1)
):
    """Networks from signals (N, in_channels, length) to logits or values (N, outputs).

    Each stage halves the length, and has a fraction of its channels, a number of layers and a kernel size for each of them.

    Args:
        in_channels, outputs, length: of the signals, and the logits or values.
        widths: the most channels of each stage.
        kernels: sizes to choose from, odd.
        depths: numbers of layers of a stage to choose from.
        ratios: fractions of `widths` to choose from.
    """
    choices, blocks, before = [], [], in_channels
    for at, most in enumerate(widths, start=1):
        depth, width = f"stage{at}.depth", f"stage{at}.width"
        choices.append(Integer(depth, depths, kind="depth"))
        choices.append(Integer(width, tuple(round(most * ratio) for ratio in ratios), kind="width"))
        for number in range(1, max(depths) + 1):
            kernel, deep = f"stage{at}.kernel{number}", tuple(depth for depth in depths if depth >= number)
            choices.append(Integer(kernel, kernels, {} if deep == depths else {depth: deep}, "kernel"))
            sizes = (before, most, max(kernels), 2 if number == 1 else 1)
            blocks.append(elastic_block(f"stage{at}_layer{number}", (width, kernel), lambda s=sizes: Layer(*s)))
            before = most
    pooled = nn.AdaptiveAvgPool1d(1), nn.Flatten()
    blocks.append(elastic_block("head", (), lambda: nn.Sequential(*pooled, ElasticLinear(widths[-1], outputs))))
    return SearchSpace(
        name="sequence",
        choices=tuple(choices),
        labels=code_labels(choices),
        network=Network(tuple(blocks), (in_channels, length), outputs),
        options={"in_channels": in_channels, "outputs": outputs, "length": length, "widths": list(widths)},
    )
