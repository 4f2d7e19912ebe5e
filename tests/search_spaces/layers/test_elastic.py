"""Elastic layers: every form is a slice to the last bit, and what the slices of grouped convolutions mean."""

from __future__ import annotations

import re

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from search_spaces import Integer, SearchSpace, Subset, largest, smallest
from search_spaces.core.space import Constraint
from search_spaces.layers.elastic import ElasticBatchNorm2d, ElasticLayerNorm, ElasticLinear
from search_spaces.layers.elastic_block import elastic_block
from search_spaces.layers.elastic_conv import ElasticConv2d
from search_spaces.layers.grouping import DENSE, Grouping, check_groupings
from search_spaces.layers.sorting import sort_channels_


def conv(*args: object, **options: object) -> ElasticConv2d:
    torch.manual_seed(0)
    layer = ElasticConv2d(*args, **options)  # type: ignore[arg-type]
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter.copy_(torch.randn_like(parameter))
    return layer


@st.composite
def groupings(draw: st.DrawFn) -> tuple[Grouping, int, int]:
    """A grouping with an input and an output width, of at most 24, that it divides."""
    groups, size, outputs = draw(st.integers(1, 4)), draw(st.integers(1, 6)), draw(st.integers(1, 6))
    grouping = draw(st.sampled_from([Grouping(number=groups), Grouping(size=size)]))
    return grouping, groups * size, groups * outputs


# --- convolution ---


@settings(max_examples=150, deadline=None)
@given(
    form=groupings(),
    kernels=st.sampled_from([(1, 1), (3, 1), (3, 3), (5, 3), (7, 5), (7, 3)]),
    stride=st.integers(1, 2),
    bias=st.booleans(),
    transforms=st.booleans(),
    channels_last=st.booleans(),
)
def test_every_form_of_a_convolution_is_a_slice_to_the_last_bit(
    form: tuple[Grouping, int, int],
    kernels: tuple[int, int],
    stride: int,
    bias: bool,
    transforms: bool,
    channels_last: bool,
) -> None:
    grouping, c_in, c_out = form
    layer = conv(24, 24, kernels[0], bias=bias, transforms=(5, 3) if transforms and kernels[0] == 7 else ())
    x = torch.randn(2, c_in, 9, 8)
    if channels_last:
        layer, x = layer.to(memory_format=torch.channels_last), x.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    layer.choose_(c_out, kernels[1], grouping=grouping, stride=stride)
    alone = layer.extract(c_in)
    assert type(alone) is nn.Conv2d
    assert (alone.in_channels, alone.out_channels, alone.groups) == (c_in, c_out, grouping.groups(c_in, c_out))
    assert torch.equal(alone(x), layer(x))
    assert alone(x).shape == (2, c_out, -(-9 // stride), -(-8 // stride))


@settings(max_examples=60, deadline=None)
@given(form=groupings())
def test_a_grouped_form_is_the_dense_one_without_the_weights_between_groups(form: tuple[Grouping, int, int]) -> None:
    grouping, c_in, c_out = form
    layer, x = conv(24, 24, 3), torch.randn(2, c_in, 5, 5)
    layer.choose_(c_out, grouping=grouping)
    groups = grouping.groups(c_in, c_out)
    inside = torch.block_diag(*[torch.ones(c_out // groups, c_in // groups)] * groups)
    dense = layer.weight[:c_out, :c_in] * inside[:, :, None, None]
    torch.testing.assert_close(layer(x), F.conv2d(x, dense, padding=1), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("size", [1, 2, 4, 8])
def test_groups_of_constant_size_are_the_same_in_narrow_and_wide_forms(size: int) -> None:
    layer, x = conv(24, 24, 3, group_size=8), torch.randn(2, 24, 5, 5)
    layer.choose_(24, grouping=Grouping(size=size))
    wide = layer(x)
    layer.choose_(16, grouping=Grouping(size=size))
    torch.testing.assert_close(layer(x[:, :16]), wide[:, :16], rtol=1e-5, atol=1e-5)


@settings(max_examples=20, deadline=None)
@given(width=st.integers(1, 4), groups=st.integers(1, 4))
def test_parameters_grow_with_the_square_of_the_width_in_a_constant_number_of_groups(width: int, groups: int) -> None:
    def parameters(channels: int, grouping: Grouping) -> int:
        layer = ElasticConv2d(channels, channels, 3)
        layer.choose_(grouping=grouping)
        return layer.extract(channels).weight.numel()

    narrow, wide = 4 * width * groups, 8 * width * groups
    assert parameters(wide, Grouping(number=groups)) == 4 * parameters(narrow, Grouping(number=groups))
    assert parameters(wide, Grouping(size=groups)) == 2 * parameters(narrow, Grouping(size=groups))


def test_small_groups_read_different_weights() -> None:
    layer = conv(8, 8, 1, group_size=4)
    layer.choose_(8, grouping=Grouping(size=2))
    found, held = layer.extract(8).weight[..., 0, 0], layer.weight[..., 0, 0]
    assert torch.equal(found[:4], torch.stack([held[0, :2], held[1, :2], held[2, 2:], held[3, 2:]]))


def test_smaller_kernels_are_the_centre() -> None:
    layer = conv(4, 6, 7)
    layer.choose_(5, 3)
    assert torch.equal(layer.extract(2).weight, layer.weight[:5, :2, 2:5, 2:5])


def test_kernel_transforms_start_as_the_centre_and_are_chained() -> None:
    torch.manual_seed(0)
    plain, learned = ElasticConv2d(3, 4, 7), ElasticConv2d(3, 4, 7, transforms=(3, 5))
    learned.weight = plain.weight
    for size in (7, 5, 3, 1):
        for layer in (plain, learned):
            layer.choose_(kernel_size=size)
        assert torch.equal(learned.extract(3).weight, plain.extract(3).weight)
    five, three = torch.randn(25, 25), torch.randn(9, 9)
    with torch.no_grad():
        learned.transforms["5"].copy_(five)
        learned.transforms["3"].copy_(three)
    at5 = plain.weight[..., 1:6, 1:6].flatten(2) @ five
    at3 = at5.view(4, 3, 5, 5)[..., 1:4, 1:4].flatten(2) @ three
    for size, expected in ((7, plain.weight), (5, at5.view(4, 3, 5, 5)), (3, at3.view(4, 3, 3, 3))):
        learned.choose_(kernel_size=size)
        torch.testing.assert_close(learned.extract(3).weight, expected)


def test_gradients_reach_the_slice_alone() -> None:
    layer = conv(8, 8, 5)
    layer.choose_(4, 3, grouping=Grouping(number=2))
    layer(torch.randn(2, 6, 5, 5)).square().sum().backward()
    touched = layer.weight.grad[:, :, 2, 2] != 0  # type: ignore[index]
    expected = torch.zeros(8, 8, dtype=torch.bool)
    expected[:2, :3] = expected[2:4, 3:6] = True
    assert torch.equal(touched, expected)
    assert not layer.weight.grad[:, :, 0].any()  # type: ignore[index]


# --- linear and normalisation ---


@settings(max_examples=30, deadline=None)
@given(inputs=st.integers(1, 70), outputs=st.integers(1, 40), rows=st.integers(1, 5), bias=st.booleans())
def test_every_form_of_a_linear_layer_is_a_slice_to_the_last_bit(
    inputs: int, outputs: int, rows: int, bias: bool
) -> None:
    layer, x = ElasticLinear(70, 40, bias=bias), torch.randn(rows, inputs)
    layer.choose_(outputs)
    alone = layer.extract(inputs)
    assert type(alone) is nn.Linear and torch.equal(alone(x), layer(x)) and layer(x).shape == (rows, outputs)
    assert (alone.bias is not None) == (layer.bias is not None) == bias


@settings(max_examples=30, deadline=None)
@given(width=st.integers(1, 20), eps=st.sampled_from([1e-6, 1e-5, 1e-1]), seed=st.integers(0, 99))
def test_layer_normalisation_of_the_first_features_is_a_slice_and_leaves_the_others_out(
    width: int, eps: float, seed: int
) -> None:
    torch.manual_seed(seed)
    layer, x = ElasticLayerNorm(20, eps), torch.randn(2, 3, width)
    nn.init.normal_(layer.weight), nn.init.normal_(layer.bias)
    alone = layer.extract(width)
    assert type(alone) is nn.LayerNorm and torch.equal(alone(x), layer(x))
    masked = F.pad(x, (0, 20 - width))
    kept = (torch.arange(20) < width).double()
    mean = (masked * kept).sum(-1, keepdim=True) / width
    variance = ((masked - mean).square() * kept).sum(-1, keepdim=True) / width
    expected = (masked - mean) / (variance + eps).sqrt() * layer.weight + layer.bias
    torch.testing.assert_close(layer(x), expected[..., :width].float(), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("momentum", [0.1, None])
@pytest.mark.parametrize(("affine", "tracking"), [(True, True), (False, True), (True, False), (False, False)])
def test_every_form_of_a_normalisation_is_a_slice_to_the_last_bit(
    affine: bool, tracking: bool, momentum: float | None
) -> None:
    torch.manual_seed(0)
    layer = ElasticBatchNorm2d(12, affine=affine, track_running_stats=tracking, momentum=momentum)
    for tensor in (layer.weight, layer.bias) if affine else ():
        nn.init.normal_(tensor)
    for width in (12, 5, 1, 12, 7):
        x, alone = torch.randn(4, width, 3, 3) + 2, layer.extract(width)
        assert type(alone) is nn.BatchNorm2d
        for training in (True, False):
            layer.train(training), alone.train(training)
            assert torch.equal(alone(x), layer(x))
            now = layer.extract(width).state_dict()
            assert all(torch.equal(tensor, now[name]) for name, tensor in alone.state_dict().items())
    other = layer.train()(torch.randn(4, 3, 3, 3))
    assert other.isfinite().all()


def test_statistics_beyond_the_width_stay() -> None:
    layer = ElasticBatchNorm2d(6)
    layer(torch.randn(4, 2, 3, 3) + 5)
    assert (layer.running_mean[:2] != 0).all() and not layer.running_mean[2:].any()  # type: ignore[index]
    assert (layer.running_var[2:] == 1).all()  # type: ignore[index]


# --- bad input ---


@pytest.mark.parametrize(
    ("grouping", "widths", "message"),
    [
        (Grouping(number=4), (6, 8), "4 groups must divide the input width, got 6; widths that work: 4, 8, 12, 16, 20, 24"),
        (Grouping(number=4), (8, 30), "4 groups must divide the output width, got 30; widths that work: 16, 20, 24, 28, 32, 36"),
        (Grouping(size=8), (12, 8), "groups of 8 channels must divide the input width, got 12; widths that work: 8, 16, 24"),
        (
            Grouping(size=4),
            (12, 16),
            "groups of 4 channels make 3 groups of 12 inputs, which must divide the output width, got 16; widths that work: 6, 9, 12",
        ),
    ],
)  # fmt: skip
def test_widths_that_groups_do_not_divide_are_refused_with_those_that_work(
    grouping: Grouping, widths: tuple[int, int], message: str
) -> None:
    with pytest.raises(ValueError, match=re.escape(message)):
        grouping.groups(*widths)
    with pytest.raises(ValueError, match=re.escape("conv1: " + message) + ".*; give others"):
        check_groupings("conv1", [(24, 24), widths], [grouping], "; give others")
    layer = conv(40, 40, 1)
    layer.choose_(widths[1], grouping=grouping)
    with pytest.raises(ValueError, match=re.escape(message)):
        layer(torch.zeros(1, widths[0], 1, 1))


def test_groupings_that_mean_the_same_are_refused() -> None:
    check_groupings("conv1", [(16, 16)], [Grouping(size=8), DENSE])
    message = "conv1: no two groupings may mean the same, but groups of 8 channels and 1 groups of 8 inputs are both 1"
    with pytest.raises(ValueError, match=message):
        check_groupings("conv1", [(16, 16), (8, 8)], [Grouping(size=8), DENSE])


def test_forms_that_a_layer_does_not_have_are_refused() -> None:
    layer = conv(8, 8, 5, group_size=2)
    with pytest.raises(ValueError, match="an elastic layer of 8 outputs must be used with 1 to 8, got 9"):
        layer.choose_(9)
    for size in (7, 4, 0):
        with pytest.raises(ValueError, match=f"`kernel_size` must be odd and from 1 to 5, got {size}"):
            layer.choose_(8, size)
    with pytest.raises(ValueError, match=r"at most 2 inputs, got 4 \(8 inputs in 2 groups\); make .* group_size=4"):
        layer.choose_(8, grouping=Grouping(number=2))
        layer(torch.zeros(1, 8, 5, 5))
    with pytest.raises(ValueError, match="an elastic layer of 8 inputs must be used with 1 to 8, got 9"):
        conv(8, 8)(torch.zeros(1, 9, 3, 3))
    with pytest.raises(ValueError, match="an elastic layer of 4 channels must be used with 1 to 4, got 5"):
        ElasticBatchNorm2d(4)(torch.zeros(1, 5, 3, 3))
    with pytest.raises(ValueError, match="an elastic layer of 4 inputs must be used with 1 to 4, got 5"):
        ElasticLinear(4, 4)(torch.zeros(1, 5))


# --- blocks ---


class Detour(nn.Module):
    """A convolution that is called in one of two forms, beside a layer that is not elastic."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm = ElasticConv2d(3, 8), ElasticBatchNorm2d(8)
        self.detour = nn.Sequential(ElasticConv2d(8, 8, 1))
        self.last = nn.PReLU()

    def choose_(self, local: tuple[int, bool], in_shape: tuple[int, ...]) -> None:
        width, self.takes_detour = local
        self.conv.choose_(width)
        self.detour[0].choose_(in_shape[0])

    def forward(self, x: Tensor) -> Tensor:
        out = self.norm(self.conv(x))
        return self.last(self.detour(out) if self.takes_detour else out)


def test_a_block_is_written_once() -> None:
    block = elastic_block("block", ("a", "b"), Detour)
    shared, x = block.shared(), torch.randn(2, 2, 5, 5)
    for local, kinds in (
        ((5, False), [nn.Conv2d, nn.BatchNorm2d]),
        ((4, True), [nn.Conv2d, nn.BatchNorm2d, nn.Conv2d]),
    ):
        subnet, alone = shared.extract(local, (2, 5, 5)), block.alone(local, (2, 5, 5))
        assert torch.equal(subnet(x), shared(x, local))
        for module in (subnet, alone):
            assert [type(layer) for layer in module.modules() if hasattr(layer, "weight")] == [*kinds, nn.PReLU]
        shapes = {name: tensor.shape for name, tensor in subnet.state_dict().items()}
        assert shapes == {name: tensor.shape for name, tensor in alone.state_dict().items()}
    assert shared(x, None) is x
    assert type(block.alone(None, (2, 5, 5))) is type(shared.extract(None, (2, 5, 5))) is nn.Identity  # type: ignore[attr-defined]


class Wide(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = ElasticConv2d(64, 64)

    def choose_(self, local: tuple[int], in_shape: tuple[int, ...]) -> None:
        self.conv.choose_(*local)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(x)


def test_a_block_alone_is_initialised_at_its_own_width() -> None:
    torch.manual_seed(0)
    alone = elastic_block("block", ("a",), Wide).alone((4,), (64, 5, 5))
    assert abs(float(alone.conv.weight.detach().std()) / (2 / (4 * 9)) ** 0.5 - 1) < 0.05  # type: ignore[union-attr, arg-type]


# --- sorting ---


@pytest.mark.parametrize("norm", [True, False])
def test_sorting_keeps_the_largest_form_and_puts_the_most_important_channels_first(norm: bool) -> None:
    before, depthwise, after = conv(3, 16, bias=True), conv(16, 16, group_size=1), conv(16, 5, 1)
    depthwise.choose_(grouping=Grouping(size=1))
    middle = ElasticBatchNorm2d(16).eval() if norm else nn.Identity()
    if norm:
        for tensor in (middle.weight, middle.bias, middle.running_mean, middle.running_var):
            nn.init.uniform_(tensor, 0.5, 2)  # type: ignore[arg-type]
    x = torch.randn(2, 3, 6, 6)
    expected = after(depthwise(middle(before(x))))
    narrow = after(depthwise(middle(before(x)))[:, :8])
    sort_channels_(after, [before, depthwise, *([middle] if norm else [])])  # type: ignore[list-item]
    torch.testing.assert_close(after(depthwise(middle(before(x)))), expected, rtol=1e-4, atol=1e-4)
    assert not torch.allclose(after(depthwise(middle(before(x)))[:, :8]), narrow)
    importance = after.weight.abs().sum((0, 2, 3))
    assert (importance.diff() <= 0).all() and importance[0] > importance[-1]


def test_sorting_a_linear_layer_and_others_that_read_the_channels() -> None:
    torch.manual_seed(0)
    before, after, beside, x = ElasticLinear(4, 9), ElasticLinear(9, 3), ElasticLinear(9, 2), torch.randn(5, 4)
    expected = after(before(x)), beside(before(x))
    sort_channels_(after, [before], [beside])
    for found, known in zip((after(before(x)), beside(before(x))), expected, strict=True):
        torch.testing.assert_close(found, known)
    assert (after.weight.abs().sum(0).diff() <= 0).all()


def test_inputs_of_grouped_convolutions_are_not_sorted() -> None:
    with pytest.raises(ValueError, match="only if its largest form is dense, got groups of at most 2 of 8 inputs"):
        sort_channels_(conv(8, 8, group_size=2), [conv(3, 8)])


# --- extremes ---


def test_the_smallest_and_the_largest_architecture_follow_conditions() -> None:
    space = SearchSpace(
        "s",
        (
            Integer("depth", (1, 2)),
            Integer("width", (4, 8)),
            Integer("second", (2, 3), when={"depth": (2,)}),
            Subset("pools", (1, 2, 3), 2),
        ),
    )
    assert dict(smallest(space)) == {"depth": 1, "width": 4, "pools": (1, 2)}
    assert dict(largest(space)) == {"depth": 2, "width": 8, "second": 3, "pools": (2, 3)}
    rule = Constraint("not wide and deep", lambda values: values["depth"] == 1 or values["width"] == 4)
    with pytest.raises(ValueError, match="must keep the rule: not wide and deep"):
        largest(SearchSpace("s", space.choices, constraints=(rule,)))
