"""Choices per group and per head: where they are free, where they are not, and that removing equals masking with them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pruners import load
from pruners.groups import ragged
from pruners.groups.dependency import dependency_groups, tie_axes
from pruners.groups.graph import AxisGraph, Group
from pruners.importance.config import Importance
from pruners.importance.distortion import placeholder_values
from pruners.importance.named import CRITERIA
from pruners.importance.reconstruction import second_moments
from pruners.importance.score import score_groups
from pruners.operators.axes import Axis, leaves
from pruners.surgery.masked import compare, difference, run_example
from pruners.surgery.module import build as build_smaller
from pruners.surgery.plan import kept_by, make_plan
from pruners.surgery.rewrite import Removal, rewrite
from pruners.tracing.trace import trace
from tests.pruners.networks import Sequence, build
from tests.pruners.plain import prune
from tests.pruners.test_invariants import random_removal


class Grouped(nn.Module):
    """A random row of grouped, depthwise and plain convolutions, shuffles, norms and shortcuts between two linear maps."""

    def __init__(self, seed: int) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(seed)

        def draw(values: list[int]) -> int:
            return values[int(torch.randint(len(values), (1,), generator=generator))]

        width = draw([8, 12, 16])
        self.stem = nn.Conv2d(3, width, 1)
        self.steps: list[tuple[str, int]] = []
        self.layers = nn.ModuleList()
        for _ in range(4):
            kind = ("grouped", "plain", "depthwise", "norm", "shuffle", "shortcut")[draw([0, 0, 1, 2, 3, 4, 5])]
            groups = draw([n for n in (2, 4, 2, 4, 3) if width % n == 0])
            out = groups * draw([2, 4])
            layer: nn.Module = nn.Identity()
            if kind == "grouped":
                layer, width = nn.Conv2d(width, out, 3, padding=1, groups=groups), out
            elif kind == "plain":
                layer, width = nn.Conv2d(width, 16, 1), 16
            elif kind == "depthwise" and width <= 12:
                layer, width = nn.Conv2d(width, 2 * width, 3, padding=1, groups=width), 2 * width
            elif kind == "norm":
                layer = nn.GroupNorm(groups, width)
            elif kind == "shortcut":
                layer = Sequence(nn.Conv2d(width, width, 1, groups=groups), nn.ReLU(), nn.Conv2d(width, width, 1))
            self.steps.append((kind, groups))
            self.layers.append(layer)
        self.head = nn.Linear(width, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        for (kind, groups), layer in zip(self.steps, self.layers, strict=True):
            y = layer(x).tanh()
            if kind == "shuffle":
                y = y.unflatten(1, (groups, -1)).transpose(1, 2).flatten(1, 2)
            x = x + y if kind == "shortcut" else y
        return self.head(x.mean((2, 3)))


class Heads(nn.Module):
    """x (B, L, 6) projected to 3 heads of 4, something done to them, projected back."""

    def __init__(self, between: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.between = between
        self.into, self.out = nn.Linear(6, 12), nn.Linear(12, 5)
        self.inner, self.outer = nn.Linear(6, 7), nn.Linear(7, 5)

    def forward(self, x: Tensor) -> Tensor:
        heads = self.between(self.into(x).unflatten(-1, (3, 4)))  # (B, L, 3, 4)
        return self.out(heads.flatten(2)) + self.outer(self.inner(x).relu())


class Mixed(nn.Module):
    """A product of heads with themselves: every head meets every other along the width."""

    def forward(self, x: Tensor) -> Tensor:
        return (x @ x.transpose(-2, -1)) @ x


class MixedByEinsum(nn.Module):
    """The same without any tensor that has two heads: both are summed over."""

    def forward(self, x: Tensor) -> Tensor:
        return x * torch.einsum("blgd,blhd->bl", x, x)[..., None, None]


class SquareOverHeads(nn.Module):
    """A linear map from heads to heads, around which there is a shortcut."""

    def __init__(self) -> None:
        super().__init__()
        self.map = nn.Linear(3, 3)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.map(x.transpose(-2, -1)).transpose(-2, -1)


class Scaled(nn.Module):
    """One scale for all heads."""

    def __init__(self, *shape: int) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.rand(shape))

    def forward(self, x: Tensor) -> Tensor:
        return x * self.scale


class PerHead(nn.Module):
    """A map of its own for each head, and a norm over its width without scales."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(3, 4, 4))

    def forward(self, x: Tensor) -> Tensor:
        return F.layer_norm(x + torch.einsum("blhd,hde->blhe", x, self.weight), (4,))


class SharedTable(nn.Module):
    """A rotation of pairs of the width, the same in all heads."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("angles", torch.rand(4))

    def forward(self, x: Tensor) -> Tensor:
        a, b = x.chunk(2, -1)
        return x * self.angles.cos() + torch.cat([-b, a], -1) * self.angles.sin()


FREE: dict[str, Callable[[], Callable[[Tensor], Tensor]]] = {
    "nothing": lambda: torch.tanh,
    "a scale per head": lambda: Scaled(3, 1),
    "a scale for each": lambda: Scaled(3, 4),
    "a map per head": PerHead,
    "softmax over positions": lambda: lambda x: x.softmax(1),
    "gated by its mean": lambda: lambda x: x * x.mean(-1, keepdim=True),
    "two widths": lambda: lambda x: torch.cat([x[..., 2:].tanh(), x[..., :2]], -1),
}
TIED: dict[str, Callable[[], Callable[[Tensor], Tensor]]] = {
    "a shared scale": lambda: Scaled(4),
    "heads with heads": Mixed,
    "heads with heads by einsum": MixedByEinsum,
    "a square map over heads": SquareOverHeads,
    "softmax over heads": lambda: lambda x: x.softmax(2),
    "heads rolled": lambda: lambda x: x.roll(1, 2),
    "heads added to others": lambda: lambda x: x.index_add(2, torch.tensor([2, 0, 1]), x),
    "heads scattered": lambda: lambda x: x.scatter_add(2, torch.tensor([2, 0, 1])[:, None].expand_as(x), x),
    "heads gathered": lambda: lambda x: x + x.gather(2, torch.tensor([2, 0, 1])[:, None].expand_as(x)),
    "heads looked up": lambda: lambda x: x + x[:, :, torch.tensor([2, 0, 1])],
    "heads summed up": lambda: lambda x: x.cumsum(2),
    "norm over heads": lambda: lambda x: F.layer_norm(x.transpose(2, 3), (3,)).transpose(2, 3),
    "group norm over heads": lambda: lambda x: F.group_norm(x.transpose(2, 3).flatten(0, 1).flatten(1, 2), 4).view(
        *x.shape[:2], 4, 3
    ).transpose(2, 3),
    "mean over heads": lambda: lambda x: x + x.mean(2, keepdim=True),
    "a shared rotation": SharedTable,
}  # fmt: skip


def analysed(model: nn.Module, *example: Tensor) -> AxisGraph:
    return tie_axes(trace(model.eval(), example))


def heads(between: Callable[[Tensor], Tensor]) -> tuple[AxisGraph, Axis, list[Axis]]:
    """The axes of a model with something between, the axis of its heads and those that a head consists of."""
    torch.manual_seed(0)
    graph = analysed(Heads(between), torch.randn(2, 5, 6))
    head, *widths = leaves(graph.tensors["into.weight"][0])
    return graph, head, widths


@pytest.mark.parametrize("name", FREE)
def test_each_head_chooses(name: str) -> None:
    graph, head, widths = heads(FREE[name]())
    assert all(graph.hosts[width] is head for width in widths)
    for seed in range(2):
        removal = Removal(graph, random_removal(graph, seed))
        assert not compare(removal, rewrite(removal), 1e-4).where


@pytest.mark.parametrize("name", TIED)
def test_all_heads_choose_alike(name: str) -> None:
    graph, _, widths = heads(TIED[name]())
    assert not set(widths) & set(graph.hosts)
    for seed in range(2):
        removal = Removal(graph, random_removal(graph, seed))
        assert not compare(removal, rewrite(removal), 1e-4).where


@pytest.mark.parametrize(
    "name", [name for name in TIED if not any(word in name for word in ("shared", "norm", "mean", "scattered"))]
)
def test_what_is_tied_would_not_equal_masking(name: str) -> None:
    """Made free all the same, the check finds a difference; norms are left out, as the check defines what they should be, and
    scattering, whose indices have no heads that could choose."""
    graph, head, (width,) = heads(TIED[name]())
    graph.hosts = {width: head}
    choice = torch.tensor([[True, True, False, False], [False, True, True, False], [True, False, False, True]])
    removal = Removal(graph, {width: choice})
    assert compare(removal, rewrite(removal), 1e-4).where


@pytest.mark.parametrize("seed", range(16))
def test_grouped_convolutions_at_random(seed: int) -> None:
    torch.manual_seed(seed)
    model = Grouped(seed)
    graph = analysed(model, torch.randn(2, 3, 4, 4))
    assert not graph.unknown
    removal = Removal(graph, random_removal(graph, seed))
    found = compare(removal, rewrite(removal), 1e-4)
    assert not found.where, found.where
    smaller, form, *_ = build_smaller(removal, model, rewrite(removal), 1e-4)
    assert difference(run_example(smaller, graph.trace), run_example(rewrite(removal), graph.trace)) < 1e-4
    if not any(kind == "shuffle" for kind, _ in model.steps):
        assert form == "module"


def test_random_networks_are_ragged_often() -> None:
    found = [len(analysed(Grouped(seed), torch.randn(2, 3, 4, 4)).hosts) for seed in range(16)]
    assert sum(map(bool, found)) >= 8 and max(found) >= 3


def test_channels_inside_each_group_are_free() -> None:
    layers = Sequence(nn.Conv2d(3, 12, 1), nn.Conv2d(12, 20, 3, groups=4), nn.Conv2d(20, 6, 1), nn.Conv2d(6, 2, 1))
    groups = {group.name: group for group in dependency_groups(analysed(layers, torch.randn(2, 3, 5, 5)))}
    assert {name: group.per for name, group in groups.items() if group.per} == {
        "0.weight:0[1]": "0.weight:0[0]",
        "1.weight:0[1]": "0.weight:0[0]",
    }
    assert groups["1.weight:0[1]"].shape == (4, 5)
    assert groups["1.weight:0[1]"].to_dict()["per"] == "0.weight:0[0]"


def test_each_channel_keeps_its_own_multiples() -> None:
    layers = Sequence(nn.Conv2d(3, 6, 1), nn.Conv2d(6, 24, 3, groups=6), nn.BatchNorm2d(24), nn.Conv2d(24, 2, 1))
    groups = {group.name: group for group in dependency_groups(analysed(layers, torch.randn(2, 3, 5, 5)))}
    assert groups["1.weight:0[1]"].per == "0.weight:0" and groups["1.weight:0[1]"].shape == (6, 4)


def test_a_host_is_not_ragged() -> None:
    layers = Sequence(
        nn.Conv2d(3, 16, 1), nn.Conv2d(16, 16, 1, groups=2), nn.Conv2d(16, 16, 1, groups=4), nn.Conv2d(16, 2, 1)
    )
    hosts = analysed(layers, torch.randn(2, 3, 5, 5)).hosts
    assert hosts and not set(hosts) & set(hosts.values())


@pytest.mark.parametrize("forgotten", ["_mixed", "_repeated"])
def test_a_wrong_analysis_is_caught_by_the_check(forgotten: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ragged, forgotten, lambda *_: frozenset())
    graph, head, widths = heads(TIED["softmax over heads" if forgotten == "_mixed" else "heads with heads"]())
    assert graph.hosts == {width: head for width in widths}
    removal = Removal(graph, random_removal(graph, 1))
    assert compare(removal, rewrite(removal), 1e-4).where


# --- through the verb ------------------------------------------------------------------------------------------------


def attention() -> tuple[nn.Module, Tensor]:
    model, example = build("fused qkv")
    return model, example[0]


def convolutions() -> tuple[nn.Module, Tensor]:
    torch.manual_seed(0)
    layers = [nn.Conv2d(3, 24, 1), nn.Conv2d(24, 24, 3, groups=4), nn.BatchNorm2d(24), nn.Conv2d(24, 4, 1)]
    layers += [nn.AdaptiveAvgPool2d(1), nn.Flatten()]
    return Sequence(*layers).eval(), torch.randn(2, 3, 5, 5)


@pytest.mark.parametrize(
    ("make", "allocation", "ignore"),
    [
        (attention, "global", []),
        (convolutions, "uniform", []),
        (convolutions, "isomorphic", []),
        (convolutions, "optimal", ["0.weight:0[0]"]),
    ],
)
def test_saved_with_its_choices_and_pruned_again(
    make: Callable[[], tuple[nn.Module, Tensor]], allocation: str, ignore: list[str], tmp_path: Path
) -> None:
    model, x = make()
    result = prune(model, x, {"macs": 0.5}, allocation=allocation, ignore=ignore)
    rows = [value for value in result.plan.removed.values() if isinstance(value[0], list)]
    assert rows and all(len(set(map(len, value))) == 1 for value in rows)
    assert any(value[0] != value[1] for value in rows)
    assert result.summary.after["macs"] <= 0.5 * result.summary.before["macs"]
    result.save(tmp_path)
    again = load(tmp_path, make()[0])
    with torch.no_grad():
        assert torch.equal(again(x), result.model(x))
    assert prune(result.model, x, {"macs": 0.8}).summary.difference < 1e-4


@pytest.mark.parametrize(("importance", "allocation"), [("obs", "distortion"), ("lrp", "optimal"), ("fpgm", "global")])
@pytest.mark.parametrize("whole_groups", [True, False])
def test_in_steps(importance: str, allocation: str, whole_groups: bool) -> None:
    """What has gone in a step stays gone, in each row, and the plan is of the given model."""
    model, x = convolutions()
    summary = prune(
        model, x, {"params": 0.5}, importance=importance, allocation=allocation, batches=[(x, torch.arange(len(x)))], steps=3,
        ignore=["0.weight:0[1]", "1.weight:0[1]"] if whole_groups else ["0.weight:0[0]"],
    ).summary  # fmt: skip
    assert summary.after["params"] <= 0.5 * summary.before["params"] and summary.difference < 1e-4
    assert set(summary.groups) <= ({"0.weight:0[0]"} if whole_groups else {"0.weight:0[1]", "1.weight:0[1]"})


def test_the_lowest_of_each_group_go() -> None:
    """Where the weight says which channels do nothing, these go and the outputs stay."""
    model, x = convolutions()
    gone = [[0, 1], [2, 5], [1, 3], [0, 4]]
    with torch.no_grad():
        for group, channels in enumerate(gone):
            for channel in channels:
                model[0].weight[6 * group + channel] = model[0].bias[6 * group + channel] = 0
                model[1].weight[6 * group : 6 * group + 6, channel] = 0
    result = prune(model, x, {"params": 0.78}, ignore=["3.weight"])
    name, removed = next(iter(result.plan.removed.items()))
    assert name == "0.weight:0[1]" and removed == gone
    with torch.no_grad():
        torch.testing.assert_close(result.model(x), model(x))


@pytest.mark.parametrize("criterion", CRITERIA)
def test_scores_have_a_row_per_group(criterion: str) -> None:
    """A row's scores add up to what the group would have if all rows chose alike, where a criterion scores each weight."""
    model, x = convolutions()
    graph = analysed(model, x)
    free = [group for group in dependency_groups(graph) if not group.protected]
    alike = [replace(group, host=None) for group in free]

    def scores(groups: list[Group]) -> dict[str, Tensor]:
        moments = second_moments(Removal(graph, {}), placeholder_values(graph.trace, [x], 2))
        return score_groups(
            graph,
            groups,
            Importance(criterion=criterion, normalise="none"),
            model=model,
            batches=[(x, torch.tensor([1, 3]))],
            moments=moments,
        )

    assert {group.shape for group in free} == {(4,), (4, 6)}
    summed = scores(alike)
    for name, found in scores(free).items():
        assert found.shape == next(group.shape for group in free if group.name == name)
        if criterion not in ("random", "fpgm", "lamp", "obs", "curvature") and found.dim() > 1:
            torch.testing.assert_close(found.sum(0), summed[name])


def test_entries_are_summed_per_row() -> None:
    model, x = convolutions()
    graph = analysed(model, x)
    group = next(group for group in dependency_groups(graph) if group.name == "0.weight:0[1]")
    first, second = graph.trace.tensor("0.weight").detach(), graph.trace.tensor("1.weight").detach()
    expected = first.square().view(4, 6, 3).sum(2) + second.square().view(4, 6, 6, 9).sum((1, 3))
    torch.testing.assert_close(score_groups(graph, [group], Importance(normalise="none"))[group.name], expected)
    vectors = first.view(4, 6, 3), second.view(4, 6, 6, 9).transpose(1, 2).flatten(2)
    apart = sum((v[:, :, None] - v[:, None]).norm(dim=-1).sum(-1) for v in vectors)
    torch.testing.assert_close(
        score_groups(graph, [group], Importance(criterion="fpgm", normalise="none"))[group.name], apart
    )


@pytest.mark.parametrize(
    "rows", [[[0]], [[0], [1], [2], [9]], [[0], [1], [2], [1, 2]], [[0], [1], [2], ["1"]], 3, [*range(6)]]
)
def test_a_plan_whose_rows_do_not_fit_is_refused(rows: object) -> None:
    model, x = convolutions()
    graph = analysed(model, x)
    groups = dependency_groups(graph)
    plan = make_plan(graph, groups, {}, "module")
    (kept,) = kept_by(replace(plan, removed={"0.weight:0[1]": [[0], [1], [2], [3]]}), graph, groups).values()
    assert kept.shape == (4, 6) and kept.sum() == 20
    with pytest.raises(ValueError, match=r"as many for each index of its host, got '0.weight:0\[1\]'"):
        kept_by(replace(plan, removed={"0.weight:0[1]": rows}), graph, groups)  # type: ignore[dict-item]
