"""Patch-by-patch inference: the figures of MCUNetV2's worked example, and the same result as on whole maps."""

from __future__ import annotations

import pytest
import torch
from hypothesis import Phase, given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from estimators import choose_patches, count, patched_cost, peak_memory, run_patched
from estimators.memory.patch_stage import Stage

KIB = 1024


class InvertedResidual(nn.Module):
    def __init__(self, c_in: int, c_out: int, expand: int, stride: int, kernel: int = 3) -> None:
        super().__init__()
        inner = c_in * expand
        layers = [conv(c_in, inner, 1)] if expand > 1 else []
        layers += [
            conv(inner, inner, kernel, stride, inner),
            nn.Sequential(nn.Conv2d(inner, c_out, 1, bias=False), nn.BatchNorm2d(c_out)),
        ]
        self.body = nn.Sequential(*layers)
        self.kept = stride == 1 and c_in == c_out

    def forward(self, x: Tensor) -> Tensor:
        return x + self.body(x) if self.kept else self.body(x)


def conv(c_in: int, c_out: int, kernel: int, stride: int = 1, groups: int = 1) -> nn.Module:
    layer = nn.Conv2d(c_in, c_out, kernel, stride, kernel // 2, groups=groups, bias=False)
    return nn.Sequential(layer, nn.BatchNorm2d(c_out), nn.ReLU6())


@pytest.fixture(scope="module")
def mobilenet() -> nn.Sequential:
    """MobileNetV2: stem, 17 blocks, head; 300.8 million macs at 224."""
    blocks, width = [conv(3, 32, 3, 2)], 32
    for expand, c_out, repeats, stride in [
        (1, 16, 1, 1), (6, 24, 2, 2), (6, 32, 3, 2), (6, 64, 4, 2), (6, 96, 3, 1), (6, 160, 3, 2), (6, 320, 1, 1)
    ]:  # fmt: skip
        for at in range(repeats):
            blocks.append(InvertedResidual(width, c_out, expand, stride if at == 0 else 1))
            width = c_out
    head = nn.Sequential(conv(320, 1280, 1), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(1280, 1000))
    return nn.Sequential(*blocks, head).eval()


def sides(stage: nn.Module, tile: int) -> list[int]:
    """Sides of the regions that an inner tile depends on, from the output to the image."""
    graph = Stage.of(stage, (3, 224, 224))
    regions = graph.regions(((tile, 2 * tile), (tile, 2 * tile)))
    spans = [regions[node][0] for node in (*reversed(graph.nodes), graph.image)]
    return list(dict.fromkeys(last - first for first, last in spans))


def test_the_papers_sides_of_a_patch(mobilenet: nn.Sequential) -> None:
    assert sides(mobilenet[:5], 7) == [7, 15, 17, 35, 37, 75]
    redistributed = nn.Sequential(
        conv(3, 32, 3, 2), InvertedResidual(32, 16, 1, 1, 1), InvertedResidual(16, 24, 6, 2), InvertedResidual(24, 24, 6, 1, 1),
        InvertedResidual(24, 32, 6, 2),
    )  # fmt: skip
    assert sides(redistributed, 7) == [7, 15, 31, 63]


def test_the_papers_memory(mobilenet: nn.Sequential) -> None:
    stem = peak_memory(mobilenet[0], (3, 224, 224), element_bytes=1)
    assert stem.peak_bytes == 539 * KIB
    whole = peak_memory(mobilenet, (3, 224, 224), element_bytes=1)
    assert whole.peak_bytes == 1372 * KIB
    assert whole.exact
    patched = patched_cost(mobilenet, (3, 224, 224), 5, 4, element_bytes=1)
    assert patched.stage_bytes == 35**2 * (16 + 96) + 28**2 * 32
    assert patched.rest_bytes == 28**2 * (32 + 192 + 32)  # the paper's 172 KB leaves the residual out here
    assert 6.8 < whole.peak_bytes / patched.peak_bytes < whole.peak_bytes / patched.stage_bytes < 8.7


def test_the_papers_overhead(mobilenet: nn.Sequential) -> None:
    """Of its two figures, +42 % of the stage counts halos outside of the image, and 330 million macs of the network does not."""
    stage, network = (count(part, (3, 224, 224)).total.macs for part in (mobilenet[:5], mobilenet))
    full = patched_cost(mobilenet, (3, 224, 224), 5, 4, clipped=False).extra_macs
    assert full / stage == pytest.approx(0.42, abs=0.005)
    assert stage + full == pytest.approx(130e6, rel=0.005)
    clipped = patched_cost(mobilenet, (3, 224, 224), 5, 4)
    assert clipped.macs == network + clipped.extra_macs == pytest.approx(330e6, rel=0.005)


def test_one_patch_costs_nothing_more(mobilenet: nn.Sequential) -> None:
    network = mobilenet[:4]
    found = patched_cost(network, (3, 64, 64), 2, 1)
    assert found.extra_macs == 0
    assert found.macs == count(network, (3, 64, 64)).total.macs
    assert found.peak_bytes == peak_memory(network, (3, 64, 64)).peak_bytes


class Branched(nn.Module):
    def __init__(self, c_in: int, c_out: int, kernel: int, stride: int, dilation: int, pool: bool) -> None:
        super().__init__()
        padding = dilation * (kernel // 2)
        self.first = nn.Sequential(
            nn.Conv2d(c_in, c_out, kernel, stride, padding, dilation), nn.BatchNorm2d(c_out), nn.Hardswish()
        )
        self.second = nn.MaxPool2d(3, stride, 1) if pool else nn.AvgPool2d(3, stride, 1)

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([self.first(x), self.second(x)], 1)


@settings(max_examples=10, deadline=None, phases=[Phase.generate])
@given(
    side=st.tuples(st.integers(17, 30), st.integers(17, 30)),
    layers=st.lists(
        st.tuples(st.sampled_from([1, 3, 5]), st.sampled_from([1, 2]), st.sampled_from([1, 2]), st.booleans()),
        min_size=1,
        max_size=3,
    ),
    patches=st.integers(2, 3),
    seed=st.integers(0, 1000),
)
def test_patches_give_what_whole_maps_give(
    side: tuple[int, int], layers: list[tuple[int, int, int, bool]], patches: int, seed: int
) -> None:
    torch.manual_seed(seed)
    blocks, width = [], 2
    for kernel, stride, dilation, pool in layers:
        blocks.append(Branched(width, 3, kernel, stride, dilation, pool))
        width += 3
    stage = nn.Sequential(*blocks, InvertedResidual(width, width, 2, 1)).double().eval()
    for norm in (part for part in stage.modules() if isinstance(part, nn.BatchNorm2d)):
        norm.running_mean.uniform_(-1, 1)
        norm.running_var.uniform_(0.5, 2)
    images = torch.randn(2, 2, *side, dtype=torch.double)
    torch.testing.assert_close(run_patched(stage, images, patches), stage(images), rtol=1e-12, atol=1e-12)


def test_choice_of_blocks_and_patches() -> None:
    layers = [
        conv(3, 8, 3, 2),
        conv(8, 16, 3, 2),
        conv(16, 16, 3),
        nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten()),
    ]
    network, shape = nn.Sequential(*layers), (3, 32, 32)
    usual = peak_memory(network, shape, element_bytes=1).peak_bytes
    easy = choose_patches(network, shape, usual, patches=(1, 2), element_bytes=1)
    assert easy.extra_macs == 0 and easy.peak_bytes <= usual
    others = [patched_cost(network, shape, blocks, p, element_bytes=1) for blocks in (1, 2) for p in (2, 3)]
    limit = min(cost.peak_bytes for cost in others if not cost.extra_macs) - 1  # one layer alone computes nothing twice
    tight = choose_patches(network, shape, limit, patches=(2, 3), element_bytes=1)
    assert tight.patches > 1 and tight.extra_macs > 0
    assert tight.macs == min(cost.macs for cost in others if cost.peak_bytes <= limit)
    with pytest.raises(
        ValueError, match="`limit_bytes` must be at least [0-9]+, which . x . patches of . blocks take, got 10"
    ):
        choose_patches(network, shape, 10, patches=(3,), element_bytes=1)


@pytest.mark.parametrize("start", [1, 2, 3])
def test_inference_as_usual_is_always_a_choice(start: int) -> None:
    """Also where no block can run patch by patch, or none follows the first."""
    layers = nn.Conv2d(3, 8, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 2)
    network, shape = nn.Sequential(*layers)[start:], [(8, 6, 6), (8, 1, 1), (8,)][start - 1]
    usual = peak_memory(network, shape).peak_bytes
    found = choose_patches(network, shape, usual)
    assert (found.patches, found.peak_bytes, found.extra_macs) == (1, usual, 0)
    assert found.macs == count(network, shape).total.macs
    with pytest.raises(ValueError, match=f"must be at least {usual}, which 1 x 1 patches of 1 blocks take, got"):
        choose_patches(network, shape, usual - 1)


def test_bad_input(mobilenet: nn.Sequential) -> None:
    pooled = nn.Sequential(nn.Conv2d(3, 8, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 2))
    with pytest.raises(
        ValueError, match=r"must be made of convolutions, .* got (mean|adaptive_avg_pool2d).*; end the stage before"
    ):
        patched_cost(pooled, (3, 16, 16), 2, 2)
    with pytest.raises(ValueError, match="`blocks` must be 1 to 3, one less than the network has, got 4"):
        patched_cost(pooled, (3, 16, 16), 4, 2)
    with pytest.raises(ValueError, match="`patches` must be 1 to the 14 rows or columns of the stage's output, got 15"):
        patched_cost(pooled, (3, 16, 16), 1, 15)
    with pytest.raises(ValueError, match=r"can run in one of \[2, 3\] patches a side .*; add 1 to `patches`"):
        choose_patches(pooled[2:], (8, 1, 1), 10**6, patches=(2, 3))
    with pytest.raises(ValueError, match="avg_pool2d"):
        run_patched(nn.AvgPool2d(3, 2, 1, count_include_pad=False), torch.zeros(1, 3, 8, 8), 2)
