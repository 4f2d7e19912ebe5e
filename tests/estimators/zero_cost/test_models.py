"""Scores of models with dropout, masks, gates, unusual parameters and outputs, and where scores are asked for."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from itertools import pairwise

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.parametrizations import weight_norm

from estimators.zero_cost import ZERO_COST, score
from estimators.zero_cost.entropy import stages_of
from estimators.zero_cost.working import weights
from search_spaces.layers.elastic_conv import ElasticConv2d

pytestmark = pytest.mark.filterwarnings("error")
IMAGES = torch.randn(6, 3, 8, 8, generator=torch.Generator().manual_seed(0))
LABELS = torch.arange(6) % 5


class Net(nn.Module):
    """Dropout as a module and as a function, norms with running statistics, positions and a layer scale that change nothing."""

    def __init__(self, dropout: float = 0.0, *, extras: bool = False) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.stem, self.norm = nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8)
        self.conv, self.own_norm = nn.Conv2d(8, 8, 3, padding=1), nn.InstanceNorm2d(8, track_running_stats=True)
        self.head, self.dropout = nn.Linear(8, 5), nn.Dropout(dropout)
        if extras:
            self.positions = nn.Parameter(torch.zeros(1, 8, 8, 8))
            self.scale = nn.Parameter(torch.ones(8, 1, 1))

    def forward(self, images: Tensor) -> Tensor:
        x = self.dropout(torch.relu(self.norm(self.stem(images))))
        if hasattr(self, "scale"):
            x = (x + self.positions) * self.scale
        x = F.dropout(torch.relu(self.own_norm(self.conv(x))), self.dropout.p, self.training)
        return self.head(x.flatten(2).square().mean(2))


class Sequence(nn.Module):
    """Layers with dropout of their own."""

    def __init__(self, layer: Callable[[float], nn.Module], dropout: float) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.layer, self.head = layer(dropout), nn.Linear(8, 5)

    def forward(self, images: Tensor) -> Tensor:
        out = self.layer(images.flatten(1, 2))
        return self.head(out[0] if isinstance(out, tuple) else out)[:, -1]


class Auxiliary(nn.Module):
    """A second output in training mode only."""

    def __init__(self, body: nn.Module) -> None:
        super().__init__()
        self.body = body

    def forward(self, images: Tensor) -> Tensor | tuple[Tensor, Tensor]:
        out = self.body(images)
        return (out, out) if self.training else out


# --- modes ---


@pytest.mark.parametrize("name", ZERO_COST)
def test_dropout_changes_no_score(name: str) -> None:
    assert score(name, Net(0.5), (IMAGES, LABELS), F.cross_entropy) == score(
        name, Net(), (IMAGES, LABELS), F.cross_entropy
    )


@pytest.mark.parametrize("name", ["snip", "grasp", "gradsign", "synflow", "naswot"])
def test_dropout_inside_of_layers_changes_no_score(name: str) -> None:
    layers: list[Callable[[float], nn.Module]] = [
        lambda p: nn.LSTM(8, 8, 2, batch_first=True, dropout=p),
        lambda p: nn.TransformerEncoderLayer(8, 2, 16, dropout=p, batch_first=True),
    ]
    for layer in layers[name == "naswot" :]:
        found = [score(name, Sequence(layer, p), (IMAGES, LABELS), F.cross_entropy) for p in (0.0, 0.5)]
        assert found[0] == found[1] and math.isfinite(found[0])


@pytest.mark.parametrize("name", ZERO_COST)
def test_norms_take_the_statistics_of_the_batch(name: str) -> None:
    model = Net()
    before = score(name, model.eval(), (IMAGES, LABELS), F.cross_entropy)
    for norm in (model.norm, model.own_norm):
        norm.running_mean.fill_(0.3)
        norm.running_var.fill_(5.0)
    assert score(name, model, (IMAGES, LABELS), F.cross_entropy) == before


@pytest.mark.parametrize("name", ZERO_COST)
def test_outputs_of_training_mode_are_not_asked_for(name: str) -> None:
    assert score(name, Auxiliary(Net()), (IMAGES, LABELS), F.cross_entropy) == score(
        name, Net(), (IMAGES, LABELS), F.cross_entropy
    )


@pytest.mark.parametrize("name", ZERO_COST)
def test_inference_mode_changes_no_score(name: str) -> None:
    expected = score(name, Net(), (IMAGES, LABELS), F.cross_entropy)
    with torch.inference_mode():
        assert score(name, Net(), (IMAGES.clone(), LABELS.clone()), F.cross_entropy) == expected
        assert torch.is_inference_mode_enabled()


@pytest.mark.parametrize("name", ZERO_COST)
def test_autocast_changes_no_score(name: str) -> None:
    expected = score(name, Net(), (IMAGES, LABELS), F.cross_entropy)
    with torch.autocast("cpu", torch.bfloat16):
        assert score(name, Net(), (IMAGES, LABELS), F.cross_entropy) == expected
        assert torch.is_autocast_enabled("cpu")


# --- weights ---


@pytest.mark.parametrize("name", ZERO_COST)
def test_positions_and_layer_scales_are_no_weights(name: str) -> None:
    assert score(name, Net(extras=True), (IMAGES, LABELS), F.cross_entropy) == pytest.approx(
        score(name, Net(), (IMAGES, LABELS), F.cross_entropy), rel=1e-6
    )


class Projection(nn.Module):
    """Matrices whose names tell nothing."""

    def __init__(self) -> None:
        super().__init__()
        self.down, self.up = nn.Parameter(torch.randn(4, 2)), nn.Parameter(torch.randn(2, 5))
        self.norm = nn.LayerNorm((2, 4))

    def forward(self, x: Tensor) -> Tensor:
        return self.norm(x).mean(1) @ self.down @ self.up


@pytest.mark.parametrize(
    ("make", "expected"),
    [
        (lambda: nn.MultiheadAttention(4, 2), "in_proj_weight out_proj.weight"),
        (
            lambda: nn.MultiheadAttention(4, 2, kdim=3, add_bias_kv=True),
            "q_proj_weight k_proj_weight v_proj_weight out_proj.weight",
        ),
        (lambda: nn.LSTM(3, 4, proj_size=2), "weight_ih_l0 weight_hh_l0 weight_hr_l0"),
        (lambda: nn.GRUCell(3, 4), "weight_ih weight_hh"),
        (
            lambda: nn.Sequential(nn.Linear(2, 3), weight_norm(nn.Linear(3, 4))),
            "0.weight 1.parametrizations.weight.original0 1.parametrizations.weight.original1",
        ),
        (lambda: ElasticConv2d(3, 4, 3), "weight"),
        (lambda: nn.Sequential(nn.EmbeddingBag(5, 4), nn.LayerNorm((3, 4)), nn.Linear(4, 2)), "2.weight"),
        (lambda: nn.ModuleDict({"weight": nn.ParameterList([torch.ones(2, 2)]), "out": nn.Conv1d(2, 2, 1)}), "out.weight"),
        (Projection, "down up"),
    ],
)  # fmt: skip
def test_weights_are_found_by_their_names(make: Callable[[], nn.Module], expected: str) -> None:
    model = make()
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    assert [names[id(weight)] for weight in weights(model)] == expected.split()


# --- synflow and masks ---


class Masked(nn.Module):
    """Attention that a buffer restricts, and then a linear layer."""

    def __init__(self, mask: Tensor) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.embed, self.head = nn.Linear(8, 8), nn.Linear(8, 5)
        self.register_buffer("mask", mask)

    def forward(self, images: Tensor) -> Tensor:
        x = images.flatten(1, 2) * torch.arange(1, 25).view(24, 1) / 24
        return self.head(F.scaled_dot_product_attention(x, self.embed(x), x, attn_mask=self.mask)).mean(1)


def test_synflow_keeps_masks() -> None:
    seen = torch.ones(24, 24, dtype=torch.bool).tril()
    values = [
        score("synflow", Masked(mask), (IMAGES, LABELS), F.cross_entropy)
        for mask in (seen, torch.zeros(24, 24).masked_fill(~seen, -math.inf), seen | True)
    ]
    assert values[0] == pytest.approx(values[1], rel=1e-12)
    assert math.isfinite(values[0]) and values[0] != pytest.approx(values[2], rel=1e-3)


# --- stages ---


class Gate(nn.Module):
    """Squeeze-and-excitation."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.weigh = nn.Sequential(
            nn.AdaptiveAvgPool2d(1), nn.Conv2d(channels, 2, 1), nn.ReLU(), nn.Conv2d(2, channels, 1), nn.Sigmoid()
        )

    def forward(self, x: Tensor) -> Tensor:
        return x * self.weigh(x)


def test_gates_of_channels_are_in_no_stage() -> None:
    convs = [nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(8, 8, 3, 1, 1), nn.Conv2d(8, 12, 3, 2, 1), nn.Conv2d(12, 12, 1)]
    head = [nn.AdaptiveAvgPool2d(1), nn.Conv2d(12, 20, 1), nn.Flatten(), nn.Linear(20, 5)]
    gated = [part for conv in convs for part in (conv, Gate(conv.out_channels))]
    batch = IMAGES, LABELS
    plain = stages_of(nn.Sequential(*convs, *head), batch)
    assert [(stage.side, stage.depth) for stage in plain] == [(8, 2), (4, 2), (1, 1)]
    assert stages_of(nn.Sequential(*gated, *head), batch) == plain
    for name in ("max_entropy", "deepmad"):
        with_gates, without = (
            score(name, nn.Sequential(*parts, *head), batch, F.cross_entropy) for parts in (gated, convs)
        )
        assert with_gates == without


def test_a_resolution_is_one_stage_wherever_it_appears() -> None:
    conv = nn.Conv2d(3, 3, 3, padding=1)
    model = nn.Sequential(conv, nn.MaxPool2d(2), copy.deepcopy(conv), nn.Upsample(scale_factor=2), copy.deepcopy(conv))
    assert [(stage.side, stage.depth) for stage in stages_of(model, (IMAGES, LABELS))] == [(8, 2), (4, 1)]


# --- zen of large features ---


class Amplified(nn.Module):
    def __init__(self, factor: float = 1e30) -> None:
        super().__init__()
        self.factor = factor

    def forward(self, x: Tensor) -> Tensor:
        return x * self.factor


def test_zen_counts_every_factor_and_says_where_it_cannot() -> None:
    def amplified(factors: list[float]) -> float:
        parts = [nn.Conv2d(3, 64, 3), *(Amplified(factor) for factor in factors)]
        return score("zen", nn.Sequential(*parts), (IMAGES, LABELS), F.cross_entropy)

    values = [amplified([1e30] * factors) for factors in range(11)]
    assert all(after - before == pytest.approx(30 * math.log(10), abs=1e-3) for before, after in pairwise(values))
    beyond = [amplified([1e30] * 10 + [10.0] * factors) for factors in range(10)]
    assert not any(math.isinf(value) for value in beyond) and math.isnan(beyond[-1])


def test_zen_of_norms_after_large_features_is_that_of_small_ones() -> None:
    plain, large = (
        nn.Sequential(nn.Conv2d(3, 4, 3, bias=False), *parts, nn.BatchNorm2d(4)) for parts in ([], [Amplified()])
    )
    values = [score("zen", model, (IMAGES, LABELS), F.cross_entropy) for model in (plain, large)]
    assert values[1] - values[0] == pytest.approx(30 * math.log(10), abs=1e-3)


# --- batches ---


@pytest.mark.parametrize("name", ZERO_COST)
def test_an_empty_batch_is_refused(name: str) -> None:
    with pytest.raises(
        ValueError, match="must hold at least one sample, got inputs of length 0 and targets of length 0"
    ):
        score(name, Net(), (IMAGES[:0], LABELS[:0]), F.cross_entropy)


def test_tensors_of_other_lengths_are_refused() -> None:
    for inputs, targets, told in (
        (IMAGES, LABELS[:4], "inputs of length 6 and targets of length 4"),
        ((IMAGES, IMAGES[:2]), LABELS, "inputs of length 6, 2 and targets of length 6"),
        ({"images": IMAGES[:5]}, {"labels": LABELS}, "inputs of length 5 and targets of length 6"),
    ):
        with pytest.raises(ValueError, match=f"`batch` must have its samples along the first .*, got {told}; give as"):
            score("l2_norm", Net(), (inputs, targets), F.cross_entropy)
    scaled = torch.tensor(2.0), None
    assert score("l2_norm", Net(), (IMAGES, scaled), F.cross_entropy) > 0


def test_what_fisher_needs_is_said() -> None:
    with pytest.raises(
        ValueError, match="`fisher` looks at outputs of convolutions and linear layers, got none in Proj"
    ):
        score("fisher", Projection(), (torch.ones(6, 2, 4), LABELS), F.cross_entropy)
