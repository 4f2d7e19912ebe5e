"""Elastic convolutions of signals and images, plain and transposed: every form is torch's own layer to the last bit."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from nas.supernets.slices import Scattered, used
from search_spaces import Block, ElasticBatchNorm1d, ElasticLinear, Grouping, elastic_block
from search_spaces.layers import ElasticConv
from search_spaces.layers.elastic_conv import (
    ElasticConv1d,
    ElasticConv2d,
    ElasticConvTranspose1d,
    ElasticConvTranspose2d,
)
from search_spaces.layers.sorting import sort_channels_
from tests.search_spaces.layers.test_elastic import groupings

KINDS = (ElasticConv1d, ElasticConv2d, ElasticConvTranspose1d, ElasticConvTranspose2d)
TRANSPOSED = (ElasticConvTranspose1d, ElasticConvTranspose2d)
SIDES = (9, 8)


def stirred(layer: nn.Module) -> nn.Module:
    """The layer with other weights, biases and transforms."""
    torch.manual_seed(0)
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter.copy_(torch.randn_like(parameter))
    return layer


def inputs(layer: ElasticConv, channels: int) -> Tensor:
    return torch.randn(2, channels, *SIDES[: layer.dims], generator=torch.Generator().manual_seed(1))


# --- one source ---


@settings(max_examples=150, deadline=None)
@given(
    kind=st.sampled_from(KINDS),
    form=groupings(),
    kernels=st.sampled_from([(1, 1), (3, 1), (3, 3), (5, 3), (7, 5), (7, 3)]),
    stride=st.integers(1, 3),
    bias=st.booleans(),
    transforms=st.booleans(),
    channels_last=st.booleans(),
)
def test_every_form_is_the_plain_layer_to_the_last_bit(
    kind: type[ElasticConv],
    form: tuple[Grouping, int, int],
    kernels: tuple[int, int],
    stride: int,
    bias: bool,
    transforms: bool,
    channels_last: bool,
) -> None:
    grouping, c_in, c_out = form
    layer = kind(24, 24, kernels[0], bias=bias, transforms=(5, 3) if transforms and kernels[0] == 7 else ())
    x = inputs(stirred(layer), c_in)
    if channels_last and layer.dims == 2:
        layer, x = layer.to(memory_format=torch.channels_last), x.to(memory_format=torch.channels_last)
    layer.choose_(c_out, kernels[1], grouping=grouping, stride=stride)
    alone = layer.extract(c_in)
    assert type(alone) is kind.plain and alone.weight.is_contiguous() and (alone.bias is not None) == bias
    assert (alone.in_channels, alone.out_channels, alone.groups) == (c_in, c_out, grouping.groups(c_in, c_out))
    assert torch.equal(alone(x), layer(x))
    sides = [side * stride if kind in TRANSPOSED else -(-side // stride) for side in SIDES[: layer.dims]]
    assert list(layer(x).shape) == [2, c_out, *sides]
    assert {name: t.shape for name, t in alone.state_dict().items()} == {
        name: t.shape for name, t in type(alone)(c_in, c_out, kernels[1], groups=alone.groups, bias=bias).state_dict().items()
    }  # fmt: skip


@pytest.mark.parametrize("kind", KINDS)
def test_one_weight_joins_the_same_channels_in_every_kind(kind: type[ElasticConv]) -> None:
    layer = kind(8, 6, 5)
    with torch.no_grad():
        layer.weight.zero_()
        layer.weight[(3, 2, *[2] * layer.dims)] = 1
    layer.choose_(4, 3)
    x = inputs(layer, 5)
    found = layer(x)
    assert torch.equal(found[:, 3], x[:, 2]) and not found[:, :3].any()


@pytest.mark.parametrize("kind", KINDS)
def test_narrower_forms_use_the_centre_and_the_first_channels(kind: type[ElasticConv]) -> None:
    layer = kind(6, 6, 5)
    layer.choose_(4, 3)
    layer(inputs(layer, 3)).square().sum().backward()
    touched = torch.zeros_like(layer.weight, dtype=torch.bool)
    touched[(slice(4), slice(3), *[slice(1, 4)] * layer.dims)] = True
    assert torch.equal(layer.weight.grad != 0, touched)


@pytest.mark.parametrize("kind", KINDS)
def test_weights_are_drawn_for_the_outputs_that_an_input_reaches(kind: type[ElasticConv]) -> None:
    torch.manual_seed(0)
    layer = kind(200, 100, 3)
    layer.choose_(50)
    alone = elastic_block("b", ("width",), lambda: Alone(kind)).alone((50,), (200, *SIDES[: layer.dims]))
    for weight, outputs in ((layer.weight, 100), (alone.layer.weight, 50)):  # type: ignore[union-attr]
        assert float(weight.detach().std()) == pytest.approx((2 / (outputs * 3**layer.dims)) ** 0.5, rel=0.05)  # type: ignore[operator]


class Alone(nn.Module):
    def __init__(self, kind: type[ElasticConv]) -> None:
        super().__init__()
        self.layer = kind(200, 100, 3)

    def choose_(self, local: tuple[int], in_shape: tuple[int, ...]) -> None:
        self.layer.choose_(*local)

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(x)


@settings(max_examples=30, deadline=None)
@given(width=st.integers(1, 12), length=st.integers(2, 9), features=st.booleans())
def test_normalisation_of_signals_is_a_slice_to_the_last_bit(width: int, length: int, features: bool) -> None:
    layer = stirred(ElasticBatchNorm1d(12))
    x = torch.randn(4, width) if features else torch.randn(4, width, length)
    alone = layer.extract(width)  # type: ignore[operator]
    assert type(alone) is nn.BatchNorm1d
    for training in (True, False):
        layer.train(training), alone.train(training)
        assert torch.equal(alone(x), layer(x))


# --- several sources ---


@st.composite
def several(draw: st.DrawFn) -> tuple[list[int], list[int]]:
    """The largest widths of two or three sources, and a width of each."""
    largest = draw(st.lists(st.integers(1, 6), min_size=2, max_size=3))
    return largest, [draw(st.integers(1, most)) for most in largest]


def split(x: Tensor, widths: list[int], largest: list[int]) -> Tensor:
    """The sources of `x` as wide as they can be, with zeros in the channels that they lack."""
    padded = [
        F.pad(own.movedim(1, -1), (0, most - own.shape[1])).movedim(-1, 1)
        for own, most in zip(x.split(widths, dim=1), largest, strict=True)
    ]
    return torch.cat(padded, dim=1)


@settings(max_examples=80, deadline=None)
@given(kind=st.sampled_from(KINDS), sources=several(), width=st.integers(1, 5), transforms=st.booleans())
def test_each_source_meets_its_own_weights_whatever_the_widths_of_the_others(
    kind: type[ElasticConv], sources: tuple[list[int], list[int]], width: int, transforms: bool
) -> None:
    largest, widths = sources
    layer = kind(sum(largest), 5, 5, sources=largest, bias=True, transforms=(3,) if transforms else ())
    stirred(layer)
    x = inputs(layer, sum(widths))
    layer.choose_(width, 3, sources=widths)
    found, alone = layer(x), layer.extract(sum(widths))
    assert torch.equal(alone(x), found)
    layer.choose_(width, 3)
    torch.testing.assert_close(layer(split(x, widths, largest)), found, rtol=1e-4, atol=1e-4)
    layer.choose_(width, 3, sources=largest)
    whole = kind(sum(largest), 5, 5, bias=True, transforms=(3,) if transforms else ())
    whole.load_state_dict(layer.state_dict())
    whole.choose_(width, 3)
    x = inputs(layer, sum(largest))
    assert torch.equal(whole(x), layer(x))


@settings(max_examples=30, deadline=None)
@given(sources=several(), width=st.integers(1, 5))
def test_each_source_of_a_linear_layer_meets_its_own_weights(sources: tuple[list[int], list[int]], width: int) -> None:
    largest, widths = sources
    layer, x = ElasticLinear(sum(largest), 5, sources=largest), torch.randn(3, sum(widths))
    layer.choose_(width, sources=widths)
    found = layer(x)
    assert torch.equal(layer.extract(sum(widths))(x), found)
    layer.choose_(width)
    torch.testing.assert_close(layer(split(x, widths, largest)), found, rtol=1e-4, atol=1e-5)


class Joined(nn.Module):
    """A layer of two sources, of up to 4 and 6 channels; local choice: (outputs, width of each source)."""

    def __init__(self, kind: type[ElasticConv]) -> None:
        super().__init__()
        self.layer = kind(10, 5, sources=(4, 6))

    def choose_(self, local: tuple[int, tuple[int, int]], in_shape: tuple[int, ...]) -> None:
        self.layer.choose_(local[0], sources=local[1])

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(x)


def joined(kind: type[ElasticConv]) -> Block:
    return elastic_block("joined", ("width", "sources"), lambda: Joined(kind))


@pytest.mark.parametrize("kind", KINDS)
def test_a_step_moves_the_weights_of_the_sources_alone(kind: type[ElasticConv]) -> None:
    part = used(joined(kind), (3, (2, 5)), (7, *SIDES[: kind.dims]))["body.layer.weight"]
    expected = torch.zeros(5, 10, *[3] * kind.dims, dtype=torch.bool)
    expected[:3, :2] = expected[:3, 4:9] = True
    assert isinstance(part, Scattered) and torch.equal(part.mask, expected)


@pytest.mark.parametrize("kind", KINDS)
def test_a_block_of_several_sources_is_the_one_it_extracts(kind: type[ElasticConv]) -> None:
    block = joined(kind)
    shared, local, shape = block.shared(), (3, (2, 5)), (7, *SIDES[: kind.dims])
    subnet, alone, x = shared.extract(local, shape), block.alone(local, shape), torch.randn(2, *shape)
    assert torch.equal(subnet(x), shared(x, local))
    assert [t.shape for t in subnet.parameters()] == [t.shape for t in alone.parameters()]


def test_sources_that_a_layer_does_not_have_are_refused() -> None:
    for sources in ((4, 5), (10, 0), ()):
        with pytest.raises(ValueError, match="`sources` must be widths of at least 1 that add up to the 10 inputs"):
            ElasticConv2d(10, 5, sources=sources)
    with pytest.raises(ValueError, match=r"must be dense, got group_size=2 of 10 inputs; leave out `group_size` or"):
        ElasticConv1d(10, 5, group_size=2, sources=(4, 6))
    layer = ElasticConv1d(10, 10, sources=(4, 6))
    with pytest.raises(ValueError, match=r"a width for each of 2 sources, got \[4\]"):
        layer.choose_(sources=(4,))
    with pytest.raises(ValueError, match="an elastic layer of 4 inputs must be used with 1 to 4, got 5"):
        layer.choose_(sources=(5, 6))
    layer.choose_(sources=(2, 6))
    with pytest.raises(
        ValueError, match=r"sources of 2 \+ 6 channels must be as many inputs, got 7; choose the widths"
    ):
        layer(torch.zeros(1, 7, 3))
    layer.choose_(grouping=Grouping(number=2))
    with pytest.raises(ValueError, match="several sources must be dense, got 2 groups; leave out `grouping`"):
        layer(torch.zeros(1, 10, 3))


def test_inputs_of_several_sources_are_not_sorted() -> None:
    with pytest.raises(ValueError, match="only if they are one source, got 2 sources"):
        sort_channels_(ElasticConv2d(8, 8, sources=(4, 4)), [])


@pytest.mark.parametrize("kind", KINDS)
def test_sorting_keeps_the_largest_form(kind: type[ElasticConv]) -> None:
    before, after = stirred(kind(3, 8)), stirred(kind(8, 5))
    x = inputs(before, 3)  # type: ignore[arg-type]
    expected = after(before(x))
    sort_channels_(after, [before])  # type: ignore[arg-type, list-item]
    torch.testing.assert_close(after(before(x)), expected, rtol=1e-4, atol=1e-4)
    importance = after.weight.abs().transpose(0, 1).flatten(1).sum(1)  # type: ignore[operator, union-attr]
    assert (importance.diff() <= 0).all()
