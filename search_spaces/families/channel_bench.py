"""Channel-Bench-Macro, ResNet part: the channels of seven positions of a small ResNet, 4^7 = 16,384 architectures.

A label has a digit of 1 to 4 for each position: a quarter to all of 256 (the first three positions) or 512 channels.

Reference: the published table of all 16,384 networks trained on CIFAR-10.
"""

from __future__ import annotations

from collections.abc import Mapping

from search_spaces.core import (
    Block,
    ImageSize,
    Integer,
    Labels,
    Local,
    Network,
    SearchSpace,
    Value,
    check_images,
    image_size_of,
    quoted,
)
from search_spaces.layers import ConvNorm, ElasticResidual, ResidualForm, classifier, elastic_block

LARGEST = (256, 256, 256, 512, 512, 512, 512)
QUARTERS = (1, 2, 3, 4)


def channel_bench_macro_resnet(
    *, in_channels: int = 3, num_classes: int = 10, image_size: ImageSize = 32
) -> SearchSpace:
    """The space; choice `c0` to `c6` are channels.

    Args:
        in_channels, num_classes, image_size: of the images (height and width in pixels, one number or a pair) and classes; the table is
            for 3, 10 and 32.

    Raises:
        ValueError: an option that is not allowed.
    """
    height, width = check_images(in_channels, num_classes, image_size)
    blocks = (
        _conv("stem", "c0", in_channels, LARGEST[0], 2),
        _residual("block1", "c0", "c1", LARGEST[0], LARGEST[1]),
        _residual("block2", "c0", "c2", LARGEST[0], LARGEST[2]),
        _conv("down1", "c3", LARGEST[0], LARGEST[3], 2),
        _conv("down2", "c4", LARGEST[3], LARGEST[4], 1),
        _residual("block3", "c4", "c5", LARGEST[4], LARGEST[5]),
        _residual("block4", "c4", "c6", LARGEST[4], LARGEST[6]),
        elastic_block("head", (), lambda: classifier(LARGEST[4], num_classes)),
    )
    return SearchSpace(
        name="channel-bench-macro-resnet",
        choices=tuple(
            Integer(f"c{at}", tuple(most * quarter // 4 for quarter in QUARTERS), kind="width")
            for at, most in enumerate(LARGEST)
        ),
        labels=Labels(_write, _read),
        network=Network(blocks, (in_channels, height, width), num_classes),
        options={"in_channels": in_channels, "num_classes": num_classes, "image_size": image_size_of(height, width)},
    )


def _conv(name: str, column: str, c_in: int, c_out: int, stride: int) -> Block:
    return elastic_block(name, (column,), lambda: ConvNorm(c_in, c_out, 3, stride))


def _residual(name: str, outer: str, inner: str, most: int, most_inner: int) -> Block:
    def read(width: int, inside: int) -> Local:
        return ResidualForm(width, inside)

    return elastic_block(name, (outer, inner), lambda: ElasticResidual(most, most, most_inner, projects=False), read)


def _write(values: Mapping[str, Value]) -> str:
    return "".join(str(4 * values[f"c{at}"] // most) for at, most in enumerate(LARGEST))  # type: ignore[operator]


def _read(text: str) -> Mapping[str, Value]:
    if len(text) != len(LARGEST) or not set(text) <= set(map(str, QUARTERS)):
        raise ValueError(f"a label must be {len(LARGEST)} digits of 1 to 4, as in 4444444; got {quoted(text)}")
    return {f"c{at}": most * int(digit) // 4 for at, (digit, most) in enumerate(zip(text, LARGEST, strict=True))}
