"""Scores before training: their exact arithmetic on small networks, and nothing left behind on any model."""

from __future__ import annotations

import math
import random

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from estimators.zero_cost import ZERO_COST, score
from estimators.zero_cost.as_vit import length_distortion
from estimators.zero_cost.entropy import (
    Conv,
    Stage,
    deepmad_score,
    effectiveness,
    layer_entropy,
    mae_score,
    most_effectiveness,
    stage_entropies,
    stages_of,
)
from estimators.zero_cost.separation import correlation_score
from estimators.zero_cost.zen import expressivity
from search_spaces import make_space

pytestmark = pytest.mark.filterwarnings("error")


def _squared(outputs: Tensor, targets: Tensor) -> Tensor:
    return (outputs - targets).square().mean() / 2


def _linear(weights: list[list[float]]) -> nn.Linear:
    layer = nn.Linear(len(weights[0]), len(weights), bias=False)
    layer.weight.data = torch.tensor(weights)
    return layer


def _convnet() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 4, 3, padding=1, bias=False), nn.BatchNorm2d(4), nn.ReLU(inplace=True), nn.Dropout(0.3),
        nn.Conv2d(4, 6, 3, 2, 1, groups=2), nn.BatchNorm2d(6, track_running_stats=False), nn.ReLU6(),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.BatchNorm1d(6), nn.Linear(6, 5),
    )  # fmt: skip


def _batch(samples: int = 6) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    return torch.randn(samples, 3, 8, 8, generator=generator), torch.arange(samples) % 5


class Attention(nn.Module):
    """A small vision transformer with fused attention, as an example of any model."""

    def __init__(self) -> None:
        super().__init__()
        self.patches = nn.Conv2d(3, 8, 4, 4)
        self.block = nn.TransformerEncoderLayer(8, 2, 16, activation="gelu", batch_first=True, norm_first=True)
        self.head = nn.Linear(8, 5)

    def forward(self, images: Tensor, *, scale: float = 1.0) -> dict[str, Tensor]:
        return {"logits": self.head(self.block(self.patches(images).flatten(2).mT).mean(1)) * scale}


class Tokens(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embed, self.head = nn.Embedding(7, 4), nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 5))

    def forward(self, tokens: Tensor) -> Tensor:
        return self.head(self.embed(tokens).mean(1))


# --- exact arithmetic ---


def test_gradsign_of_the_two_by_two_example() -> None:
    """Signs [[+, −], [+, +]] of two weights and two samples: |0| + |2|."""
    model = _linear([[0.0, 0.0]])
    x, y = torch.tensor([[1.0, 1.0], [-2.0, 3.0]]), torch.tensor([[-1.0], [-1.0]])
    for loss in (_squared, lambda o, t: 1e-3 * _squared(o, t)):
        assert score("gradsign", model, (x, y), loss) == 2
    same = x[:1].expand(5, 2), y[:1].expand(5, 1)
    assert score("gradsign", model, same, _squared) == 5 * 2


def test_gradients_of_one_linear_layer_with_squared_loss() -> None:
    w = torch.tensor([0.5, -1.0, 2.0])
    x, y = torch.tensor([[1.0, 2.0, -1.0]]), torch.tensor([[0.5]])
    model = _linear([w.tolist()])
    g = ((w * x).sum() - y[0]) * x[0]
    hessian = x.T @ x
    batch = (x, y)
    assert score("grad_norm", model, batch, _squared) == pytest.approx(g.norm().item())
    assert score("snip", model, batch, _squared) == pytest.approx((w * g).abs().sum().item())
    assert score("grasp", model, batch, _squared) == pytest.approx(-(w @ hessian @ g).item())
    assert score("l2_norm", model, batch, _squared) == pytest.approx(w.norm().item())
    assert score("synflow", model, batch, _squared) == pytest.approx(3.5)
    out = (w * x).sum()
    assert score("fisher", model, batch, _squared) == pytest.approx(((out * (out - y[0])) ** 2 / 2).item())


def test_layers_are_added_up() -> None:
    model = nn.Sequential(_linear([[3.0, 4.0]]), _linear([[2.0]]))
    assert score("l2_norm", model, (torch.ones(1, 2), torch.zeros(1, 1)), _squared) == pytest.approx(5 + 2)
    assert score("synflow", model, (torch.ones(1, 2), torch.zeros(1, 1)), _squared) == pytest.approx(2 * 14)


def test_fisher_sums_positions_within_a_sample_and_averages_samples() -> None:
    model = nn.Conv2d(1, 2, 1, bias=False)
    model.weight.data = torch.tensor([1.0, 2.0]).view(2, 1, 1, 1)
    x = torch.tensor([[1.0, 2.0], [3.0, -1.0]]).view(2, 1, 1, 2)
    per_sample = [sum(a * a for a in row) for row in ([1.0, 2.0], [3.0, -1.0])]  # ∂L/∂a = a for channel 1
    expected = sum(0.5 * np.mean([(k * k * s) ** 2 for s in per_sample]) for k in (1, 2))
    loss = lambda out, targets: out.square().sum() / 2  # noqa: E731
    assert score("fisher", model, (x, None), loss) == pytest.approx(expected)
    wide = nn.Conv2d(3, 2, 3, padding=1)
    batch = (torch.randn(4, 3, 5, 5), None)
    assert score("fisher_fan_in", wide, batch, loss) == pytest.approx(27 * score("fisher", wide, batch, loss), rel=1e-5)


def test_synflow_ignores_signs_data_and_batch_norm() -> None:
    model, (x, y) = _convnet(), _batch()
    plain = score("synflow", model, (x, y), F.cross_entropy)
    with torch.no_grad():
        model[0].weight.neg_()
        model[1].running_var.fill_(9.0)
        model[1].weight.fill_(0.1)
    assert score("synflow", model, (x + 3, y), F.cross_entropy) == pytest.approx(plain, rel=1e-12)


def test_naswot_of_opposite_codes() -> None:
    model = nn.Sequential(nn.Identity(), nn.ReLU())
    x = torch.tensor([[1.0, -1, 1, -1, 1], [-1.0, 1, -1, 1, -1]])
    assert score("naswot", model, (x, None), _squared) == pytest.approx(2 * math.log(5))
    assert score("naswot", model, (x[:1].expand(2, 5), None), _squared) == -math.inf
    assert score("naswot", nn.Sequential(model, model), (x, None), _squared) == pytest.approx(2 * math.log(10))


def test_jacob_cov_is_best_without_correlation() -> None:
    opposite = torch.tensor([[1.0, -1, 1, -1], [1.0, 1, -1, -1], [1.0, -1, -1, 1]], dtype=torch.float64)
    assert correlation_score(opposite) == pytest.approx(-3, abs=1e-4)
    close = opposite + 0.5 * torch.tensor([1.0, -1, 1, -1])
    assert correlation_score(close) < -3.1
    assert math.isnan(correlation_score(torch.ones(2, 4)))


def test_ntk_condition() -> None:
    model = _linear([[0.3, -0.2]])
    none = torch.zeros(2, 1)
    assert score("ntk_condition", model, (torch.eye(2), none), _squared) == pytest.approx(1)
    assert score("ntk_condition", model, (torch.diag(torch.tensor([1.0, 3.0])), none), _squared) == pytest.approx(9)
    assert score("ntk_condition", model, (torch.ones(2, 2), none), _squared) == pytest.approx(2**23)


def test_zen_grows_with_the_log_of_the_last_weights() -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 3, bias=False), nn.ReLU(), nn.Conv2d(4, 5, 3, bias=False))
    x = torch.randn(4, 3, 8, 8)
    with torch.no_grad():
        before = expressivity(model, x, x + 0.01)
        model[2].weight *= math.e
        assert expressivity(model, x, x + 0.01) - before == pytest.approx(1, abs=1e-4)


def test_zen_adds_back_what_batch_norm_took_out() -> None:
    """With norms after both convolutions, the scale of the weights does not matter but for the term of the norms."""
    model = nn.Sequential(
        nn.Conv2d(3, 4, 3, bias=False), nn.BatchNorm2d(4), nn.Conv2d(4, 5, 3, bias=False), nn.BatchNorm2d(5)
    )
    x = 10 * torch.randn(4, 3, 8, 8)
    with torch.no_grad():
        before = expressivity(model, x, x + 0.01 * torch.randn(x.shape))
        model[2].weight *= 100
        torch.manual_seed(0)
        after = expressivity(model, x, x + 0.01 * torch.randn(x.shape))
    assert after - before == pytest.approx(math.log(100), abs=0.2)


def test_as_vit_of_a_linear_map() -> None:
    matrix, plane = torch.randn(3, 4, dtype=torch.float64), torch.linalg.qr(torch.randn(4, 2, dtype=torch.float64)).Q
    model = nn.Sequential(nn.LayerNorm(4), nn.Linear(4, 3, bias=False)).double()
    model[1].weight.data = matrix
    theta = 2 * math.pi * torch.arange(10, dtype=torch.float64) / 10
    expected = sum((matrix @ plane @ torch.stack([-t.sin(), t.cos()])).norm().item() for t in theta)
    assert length_distortion(model, torch.zeros(1, 4, dtype=torch.float64), plane, 10) == pytest.approx(expected)


# --- entropy ---


def test_entropy_of_layers_and_stages() -> None:
    assert layer_entropy(16, 9) == pytest.approx(2.484907, abs=1e-6)
    assert layer_entropy(16, 9, groups=16) == pytest.approx(math.log(9) / 2)
    assert effectiveness([144] * 3) == pytest.approx(0.0208333, abs=1e-7)
    assert effectiveness([144] * 6) == pytest.approx(2 * effectiveness([144] * 3))
    conv = Conv(16, 9)
    stages = [Stage(16, 8, (conv,) * 2, 2), Stage(32, 4, (conv, Conv(32, 9)), 2)]
    h = [2 * layer_entropy(16, 9), 3 * layer_entropy(16, 9) + layer_entropy(32, 9)]
    assert stage_entropies(stages) == pytest.approx(h)
    assert deepmad_score(stages) == pytest.approx(math.log(16 * 64) * h[0] + 8 * math.log(32 * 16) * h[1] - 10)
    assert mae_score(stages) == pytest.approx(h[0] + math.log(16) + 6 * (h[1] + math.log(32)))
    wider = [Stage(s.channels * 2, s.side, tuple(Conv(2 * c.c_in, 9) for c in s.layers), s.depth) for s in stages]
    assert stage_entropies(wider)[1] - h[1] == pytest.approx(4 * math.log(2) / 2)
    assert most_effectiveness(stages) == pytest.approx(max(2 / 144, effectiveness([144, 144, 144, 288])))


def test_depths_that_differ_cost_entropy() -> None:
    conv = Conv(16, 9)
    even = [Stage(16, 8, (conv,) * n, n) for n in (1, 3, 3)]
    uneven = [Stage(16, 8, (conv,) * n, d) for n, d in ((1, 1), (3, 2), (3, 4))]
    assert deepmad_score(even) - deepmad_score(uneven) == pytest.approx(10 * math.e - 10)


def test_stages_are_read_off_a_model() -> None:
    model = nn.Sequential(
        nn.Conv2d(3, 16, 3, padding=1), nn.Conv2d(16, 16, 5, padding=2, groups=16), nn.Conv2d(16, 32, 3, 2, 1)
    )
    batch = torch.randn(2, 3, 8, 8), None
    expected = [Stage(16, 8.0, (Conv(3, 9), Conv(16, 25, 16)), 2), Stage(32, 4.0, (Conv(16, 9),), 1)]
    assert stages_of(model, batch) == expected
    assert score("max_entropy", model, batch, _squared) == pytest.approx(mae_score(expected))
    assert score("deepmad", model, batch, _squared, max_effectiveness=1.0) == pytest.approx(deepmad_score(expected))
    assert score("deepmad", model, batch, _squared, max_effectiveness=0.01) == -math.inf


# --- any model, left as it was ---


@pytest.mark.parametrize("name", ZERO_COST)
def test_a_score_leaves_everything_as_it_was(name: str) -> None:
    model, batch = _convnet(), _batch()
    model[0].weight.requires_grad_(False)
    model[1].eval()
    F.cross_entropy(model(batch[0]), batch[1]).backward()
    before = {k: v.clone() for k, v in model.state_dict().items()}
    grads = {k: None if p.grad is None else p.grad.clone() for k, p in model.named_parameters()}
    modes = [(part.training, getattr(part, "inplace", None)) for part in model.modules()]
    hooks = [len(part._forward_hooks) + len(part._forward_pre_hooks) for part in model.modules()]
    states = torch.get_rng_state(), random.getstate(), np.random.get_state()[1].tolist()
    images = batch[0].clone()
    first = score(name, model, batch, F.cross_entropy, seed=1)
    assert isinstance(first, float) and math.isfinite(first)
    assert score(name, model, batch, F.cross_entropy, seed=1) == first
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())
    for key, parameter in model.named_parameters():
        old = grads[key]
        assert parameter.grad is None if old is None else torch.equal(parameter.grad, old)
    assert not model[0].weight.requires_grad and torch.equal(batch[0], images) and not batch[0].requires_grad
    assert modes == [(part.training, getattr(part, "inplace", None)) for part in model.modules()]
    assert hooks == [len(part._forward_hooks) + len(part._forward_pre_hooks) for part in model.modules()]
    assert torch.equal(torch.get_rng_state(), states[0])
    assert (random.getstate(), np.random.get_state()[1].tolist()) == states[1:]


@pytest.mark.parametrize("name", ZERO_COST)
def test_scores_of_a_transformer_that_returns_a_dictionary(name: str) -> None:
    torch.manual_seed(0)
    model, (x, y) = Attention(), _batch()
    loss = lambda outputs, targets: F.cross_entropy(outputs["logits"], targets)  # noqa: E731
    value = score(name, model, (x, y), loss)
    assert math.isfinite(value)
    assert score(name, model, ({"images": x}, y), loss) == value


@pytest.mark.parametrize("name", ["grad_norm", "snip", "grasp", "fisher", "synflow", "naswot", "gradsign", "l2_norm"])
def test_scores_of_a_model_of_tokens(name: str) -> None:
    batch = torch.arange(12).view(4, 3) % 7, torch.arange(4)
    assert math.isfinite(score(name, Tokens(), batch, F.cross_entropy))


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_scores_are_computed_in_float32(dtype: torch.dtype) -> None:
    model, (x, y) = _convnet().to(dtype), _batch()
    assert score("snip", model, (x.to(dtype), y), F.cross_entropy) == score(
        "snip", model.float(), (x.to(dtype).float(), y), F.cross_entropy
    )


def test_a_cell_without_any_path_is_the_worst_or_has_no_score() -> None:
    space = make_space("nas-bench-201", image_size=8, channels=4, cells=1)
    model = space.net.build(space.locals(space.parse("|none~0|+|none~0|none~1|+|none~0|none~1|none~2|")))
    values = {name: score(name, model, _batch(), F.cross_entropy) for name in ZERO_COST}
    assert math.isnan(values["jacob_cov"]) and values["naswot"] == values["zen"] == -math.inf
    assert values["synflow"] == values["gradsign"] == values["grad_norm"] == values["as_vit"] == 0
    assert values["ntk_condition"] == math.inf


def test_directions_and_units_are_told() -> None:
    assert [name for name, known in ZERO_COST.items() if not known.higher_is_better] == ["ntk_condition"]
    assert all(known.unit and known.name == name for name, known in ZERO_COST.items())


# --- bad input ---


def test_what_a_score_cannot_do_is_said() -> None:
    batch = _batch()
    with pytest.raises(ValueError, match="no zero-cost score is named 'gradsing'; did you mean gradsign"):
        score("gradsing", _convnet(), batch, F.cross_entropy)
    with pytest.raises(ValueError, match="`naswot` needs activations such as ReLU or GELU, got a Linear without any"):
        score("naswot", nn.Linear(8, 2), batch, F.cross_entropy)
    with pytest.raises(ValueError, match="a score needs weights of convolutions or linear layers, got none in ReLU"):
        score("snip", nn.ReLU(), batch, F.cross_entropy)
    with pytest.raises(ValueError, match="the entropy of a model is that of its convolutions, got none in Linear"):
        score("max_entropy", nn.Linear(8, 2), batch, F.cross_entropy)
    with pytest.raises(ValueError, match="`jacob_cov` needs one floating-point input, got torch.int64"):
        score("jacob_cov", Tokens(), (torch.zeros(2, 3, dtype=torch.int64), torch.zeros(2)), F.cross_entropy)
    with pytest.raises(ValueError, match="no option of zen is named 'repeat'; did you mean repeats"):
        score("zen", _convnet(), batch, F.cross_entropy, repeat=3)
    with pytest.raises(ValueError, match=r"`batch` must be \(inputs, targets\), got Tensor"):
        score("snip", _convnet(), batch[0], F.cross_entropy)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="snip of Linear cannot be computed: mat1 and mat2 shapes"):
        score("snip", nn.Linear(8, 2), (torch.zeros(2, 3), torch.zeros(2).long()), F.cross_entropy)
    with pytest.raises(
        ValueError, match="snip of Bilinear cannot be computed: .* missing 1 required positional argument"
    ):
        score("snip", nn.Bilinear(8, 8, 2), (torch.zeros(2, 8), torch.zeros(2).long()), F.cross_entropy)
    with pytest.raises(ValueError, match="`widths` must be positive numbers"):
        effectiveness([])
