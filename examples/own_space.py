"""A search space of your own: depth, widths and kernels of a small network, trained, searched and exported on digits."""

import torch.nn.functional as F
from torch import nn

import nas
from search_spaces import ElasticBatchNorm2d, ElasticConv2d, ElasticLinear, Integer, Network, SearchSpace, elastic_block


class Layer(nn.Module):
    """Convolution, normalisation, ReLU and pooling: up to 16 channels, kernels up to 5."""

    def __init__(self, c_in):
        super().__init__()
        self.conv, self.norm = ElasticConv2d(c_in, 16, kernel_size=5), ElasticBatchNorm2d(16)

    def choose_(self, local, in_shape):
        self.conv.choose_(*local)

    def forward(self, x):
        return F.max_pool2d(F.relu(self.norm(self.conv(x))), 2)


def own_space(in_channels=1, num_classes=10, image_size=8):
    """One or two layers, each with a width and a kernel size: 6 + 6 x 6 architectures."""
    depth, deep = Integer("depth", (1, 2), kind="depth"), {"depth": (2,)}
    first = Integer("width1", (8, 12, 16), kind="width"), Integer("kernel1", (3, 5), kind="kernel")
    second = Integer("width2", (8, 12, 16), deep, "width"), Integer("kernel2", (3, 5), deep, "kernel")
    layer1 = elastic_block("layer1", ("width1", "kernel1"), lambda: Layer(in_channels))
    layer2 = elastic_block("layer2", ("width2", "kernel2"), lambda: Layer(16))
    pooled = nn.AdaptiveAvgPool2d(1), nn.Flatten()
    head = elastic_block("head", (), lambda: nn.Sequential(*pooled, ElasticLinear(16, num_classes)))
    network = Network((layer1, layer2, head), (in_channels, image_size, image_size), num_classes)
    return SearchSpace("own", (depth, *first, *second), network=network)


if __name__ == "__main__":
    print(nas.search(own_space(), "digits", strategy="one-shot", epochs=3, out="runs/own").front)
