"""The example spaces of images to images and of signals: what holds for built-in spaces holds for them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

import nas
from estimators import CostModel, measure_latency
from examples.sequence_space import sequence_space
from examples.unet import unet
from nas.study.spaces import build_space
from nas.supernets.slices import Box, Slices, used
from search_spaces import SearchSpace, Supernet, ensemble, largest, smallest
from tests.subnets import check_costs, check_slice, images, stirred

UNET = {"widths": (4, 8, 12), "image_size": (13, 18)}
SPACES: dict[str, Callable[[], SearchSpace]] = {
    "unet": lambda: unet(**UNET),
    "unet-even": lambda: unet(1, 5, 16, widths=(8, 4), depths=(1, 2, 3)),
    "unet-shallow": lambda: unet(2, 1, (8, 12), widths=(4, 6), kernels=(1, 3), depths=(1,)),
    "sequence": lambda: sequence_space(2, 3, 37, widths=(8, 12)),
    "sequence-values": lambda: sequence_space(1, 1, 16, widths=(4, 8, 4), kernels=(1, 3), depths=(2, 3), ratios=(1,)),
}


@pytest.fixture(params=SPACES)
def space(request: pytest.FixtureRequest) -> SearchSpace:
    return SPACES[request.param]()


def test_random_subnets_are_slices_to_the_last_bit(space: SearchSpace) -> None:
    supernet, rng = stirred(space), np.random.default_rng(0)
    for arch in (smallest(space), largest(space), *(space.sample(rng) for _ in range(6))):
        check_slice(space, supernet, arch)


def test_a_network_of_its_own_with_a_subnet_s_weights_is_the_subnet_to_the_last_bit(space: SearchSpace) -> None:
    supernet, rng, x = stirred(space).eval(), np.random.default_rng(1), images(space)
    for arch in (space.sample(rng) for _ in range(4)):
        own = space.build(arch).eval()
        own.load_state_dict(supernet.extract(space.locals(arch)).state_dict())
        assert torch.equal(own(x), supernet(x, space.locals(arch)))


def test_costs_are_those_counted_on_the_network(space: SearchSpace) -> None:
    rng = np.random.default_rng(2)
    archs = [smallest(space), largest(space), *(space.sample(rng) for _ in range(8))]
    check_costs(space, archs)
    macs = [CostModel(space).cost(arch).macs for arch in archs]
    assert macs[0] == min(macs) < macs[1] == max(macs)


def test_what_a_subnet_uses_is_what_it_extracts(space: SearchSpace) -> None:
    rng = np.random.default_rng(3)
    for arch in (smallest(space), largest(space), *(space.sample(rng) for _ in range(6))):
        for block, _, seen in space.net.parts(space.locals(arch)):
            parts = {
                name.removeprefix("body."): part.mask.sum().item()
                if not isinstance(part, Box)
                else np.prod([stop - start for start, stop in zip(part.start, part.stop, strict=True)])
                for name, part in used(block, *seen).items()
            }
            assert parts == {name: own.numel() for name, own in block.alone(*seen).named_parameters()}


def test_gradients_stay_within_the_slices(space: SearchSpace) -> None:
    supernet, rng = stirred(space).eval(), np.random.default_rng(4)
    slices = Slices(supernet)
    for arch in (smallest(space), space.sample(rng)):
        supernet.zero_grad()
        supernet(images(space), space.locals(arch)).square().sum().backward()
        partial = slices.partial([space.locals(arch)])
        for parameter, part in partial.items():
            outside = parameter.grad.clone()  # type: ignore[union-attr]
            outside[part.slices if isinstance(part, Box) else part.mask] = 0
            assert not outside.any()


def test_labels_and_arrays_read_back(space: SearchSpace) -> None:
    rng = np.random.default_rng(5)
    archs = [space.sample(rng) for _ in range(20)]
    assert [space.parse(space.label(arch)) for arch in archs] == archs
    assert space.decode(space.encode(archs)) == archs
    for arch in archs:
        space.check(space.mutate(arch, rng))


@settings(max_examples=15, deadline=None)
@given(data=st.data())
def test_unets_of_any_size_put_out_logits_of_every_pixel(data: st.DataObject) -> None:
    widths = data.draw(st.lists(st.integers(1, 4).map(lambda half: 2 * half), min_size=1, max_size=4))
    sides = data.draw(st.tuples(st.integers(1, 20), st.integers(1, 20)))
    depths = data.draw(st.sampled_from([(1,), (1, 2), (2, 3)]))
    space = unet(data.draw(st.integers(1, 3)), data.draw(st.integers(1, 4)), sides, widths=widths, depths=depths)
    arch = space.sample(np.random.default_rng(data.draw(st.integers(0, 99))))
    supernet = Supernet(space.net).eval()
    logits = supernet(images(space), space.locals(arch))
    assert logits.shape == (3, space.net.num_classes, *sides)
    assert torch.equal(supernet.extract(space.locals(arch))(images(space)), logits)


def test_a_skip_meets_the_same_weights_at_every_width_of_what_comes_from_below() -> None:
    space = unet(**UNET)
    wide, supernet = dict(largest(space)), Supernet(space.net)
    of_skip = []
    for width in (2, 4):
        arch = space.architecture({**wide, "down1.width": width, "up1.width": width})
        conv = supernet.extract(space.locals(arch)).up1_layer1.conv  # type: ignore[union-attr]
        of_skip.append(conv.weight[:2, width : width + 2])  # type: ignore[union-attr, index]
    assert torch.equal(*of_skip)


def test_a_joining_layer_sees_the_kept_stage_before_what_comes_from_below() -> None:
    space = unet(**UNET)
    seen: dict[str, Tensor] = {}
    net = space.build(smallest(space)).eval()
    for name, module in net.named_children():
        module.register_forward_hook(
            lambda module, given, out, name=name: seen.update({name: out, f"{name}<": given[0]})
        )
    net(images(space))
    for at in (1, 2):
        kept, below = seen[f"down{at}_layer2"], seen[f"up{at}_upsample"]
        height, width = kept.shape[2:]
        assert torch.equal(seen[f"up{at}_layer1<"], torch.cat((kept, below[..., :height, :width]), dim=1))


def test_they_are_named_on_the_command_line_with_their_options() -> None:
    options: dict[str, Any] = {"in_channels": 1, "outputs": 4, "image_size": [8, 12]}
    assert build_space("examples.unet:unet", options).net.input_shape == (1, 8, 12)
    options = {"in_channels": 6, "outputs": 4, "length": 50}
    space = build_space("examples.sequence_space:sequence_space", options)
    assert space.net.input_shape == (6, 50) and space.net.num_classes == 4
    assert space.fingerprint != sequence_space(6, 4, 51).fingerprint


@pytest.mark.parametrize("make", [lambda: unet(**UNET), lambda: sequence_space(2, 3, 20, widths=(4, 8))])
def test_they_are_searched_by_a_function_of_ones_own(make: Callable[[], SearchSpace], tmp_path: Path) -> None:
    space = make()

    def spread(model: nn.Module) -> float:
        with torch.no_grad():
            return float(model.eval()(images(space)).std())

    study = nas.search(
        space, evaluate=spread, objectives={"score": "max", "macs": "min"}, strategy="nsga2", trials=8, out=tmp_path
    )
    assert len(study.trials) == 8 and len(study.front) > 0


def test_an_ensemble_of_networks_for_signals_is_a_slice_to_the_last_bit() -> None:
    space = ensemble(sequence_space(2, 3, 20, widths=(8, 12)), 2)
    supernet, rng = stirred(space), np.random.default_rng(0)
    for arch in (space.sample(rng) for _ in range(3)):
        check_slice(space, supernet, arch)


def test_their_latency_is_measured_and_skips_serve_no_ensemble() -> None:
    space = unet(**UNET)
    assert measure_latency(space.build(smallest(space)), space.net.input_shape).median_ms > 0
    with pytest.raises(ValueError, match="needs a space without skip connections, but 'unet' has some"):
        ensemble(space)
    with pytest.raises(ValueError, match="cannot be cut into chains"):
        space.build(smallest(space))[:2]  # type: ignore[index]
