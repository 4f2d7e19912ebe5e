"""Every pooling operator against its formula, written plainly in float64, and its gradient against finite differences."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from estimators import Cost, count
from search_spaces.pooling import (
    GLOBAL_POOLINGS,
    POOLINGS,
    AdaPool2d,
    GatedPool2d,
    GeMPool2d,
    GeneralisedSumPool,
    GlobalGeMPool,
    MixedPool2d,
    SimPool,
    TreePool2d,
    make_global_pooling,
    make_pooling,
)
from search_spaces.pooling.transport import transport
from search_spaces.pooling.weighted import similarity_mean

Formula = Callable[[np.ndarray, int], float]
Make = Callable[[], nn.Module]
MEANS = ("max", "avg", "mixed", "gated", "softpool", "adapool", "gem", "ggem")


def double(module: nn.Module, seed: int = 0) -> nn.Module:
    """In float64, with every parameter stirred."""
    generator = torch.Generator().manual_seed(seed)
    module = module.double()
    with torch.no_grad():
        for parameter in module.parameters():
            parameter += 0.3 * torch.randn(parameter.shape, generator=generator, dtype=torch.float64)
    return module


def images(*shape: int, seed: int = 0) -> Tensor:
    """Positive values, all different."""
    return 0.1 + torch.rand(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def sigmoid(x: float) -> float:
    return 1 / (1 + np.exp(-x))


def by_windows(module: nn.Module, x: Tensor, formula: Formula, kernel: int, stride: int) -> None:
    """`formula` of each (kernel, kernel) window and its channel is what the module gives."""
    found = module(x).detach().numpy()
    high, wide = ((side - kernel) // stride + 1 for side in x.shape[2:])
    assert found.shape == (*x.shape[:2], high, wide)
    for b, c, i, j in np.ndindex(found.shape):
        window = x[b, c, i * stride : i * stride + kernel, j * stride : j * stride + kernel].numpy()
        np.testing.assert_allclose(found[b, c, i, j], formula(window, c), rtol=1e-10)


# --- local operators ---


def plain(name: str, module: nn.Module) -> Formula:
    """The operator's formula for one window, from the published definition."""
    weights = {key: value.detach().numpy() for key, value in module.state_dict().items()}

    def softmax_mean(window: np.ndarray, scores: np.ndarray) -> float:
        return float((np.exp(scores) * window).sum() / np.exp(scores).sum())

    def gated(window: np.ndarray, c: int) -> float:
        share = sigmoid((weights["gate"][0] * window).sum())
        return share * window.max() + (1 - share) * window.mean()

    def mixed(window: np.ndarray, c: int) -> float:
        share = sigmoid(weights["logit"][0])
        return share * window.max() + (1 - share) * window.mean()

    def tree(window: np.ndarray, c: int) -> float:
        left, right = ((leaf * window).sum() for leaf in weights["leaves"])
        share = sigmoid((weights["gates"][0] * window).sum())
        return share * left + (1 - share) * right

    def adapool(window: np.ndarray, c: int) -> float:
        share, mean = sigmoid(weights["logit"][0]), window.mean()
        likeness = 2 * abs(window * mean) / (window**2 + mean**2)
        return share * softmax_mean(window, likeness) + (1 - share) * softmax_mean(window, window)

    def power(window: np.ndarray, c: int) -> float:
        p = np.exp(weights["log_p"])[c * len(weights["log_p"]) // 8]
        return float((window**p).mean() ** (1 / p))

    return {
        "max": lambda window, c: window.max(),
        "avg": lambda window, c: window.mean(),
        "mixed": mixed,
        "gated": gated,
        "tree": tree,
        "softpool": lambda window, c: softmax_mean(window, window),
        "adapool": adapool,
        "gem": power,
        "ggem": power,
    }[name]


@pytest.mark.parametrize(
    ("kernel", "stride", "height", "width"), [(2, 2, 4, 6), (2, 2, 5, 7), (3, 2, 7, 6), (2, 3, 8, 5)]
)
@pytest.mark.parametrize("name", [name for name in POOLINGS if name != "conv"])
def test_local_operators_follow_their_formula(name: str, kernel: int, stride: int, height: int, width: int) -> None:
    module = double(make_pooling(name, 8, kernel, stride))
    by_windows(module, images(2, 8, height, width), plain(name, module), kernel, stride)


def test_a_strided_convolution_is_the_sum_over_channels_of_filters_times_windows() -> None:
    module, x = double(make_pooling("conv", 3)), images(2, 3, 5, 4)
    weight = module.weight.detach()  # type: ignore[union-attr,operator]
    for b, c, i, j in np.ndindex(2, 3, 2, 2):
        expected = (weight[c] * x[b, :, 2 * i : 2 * i + 2, 2 * j : 2 * j + 2]).sum()
        torch.testing.assert_close(module(x)[b, c, i, j], expected)


def test_a_tree_of_three_levels_mixes_four_leaves() -> None:
    module = double(TreePool2d(levels=3))
    gates, leaves = module.gates.detach().numpy(), module.leaves.detach().numpy()  # type: ignore[union-attr,operator]

    def formula(window: np.ndarray, c: int) -> float:
        a, b, c_, d = ((leaf * window).sum() for leaf in leaves)
        root, left, right = (sigmoid((gate * window).sum()) for gate in gates)
        return root * (left * a + (1 - left) * b) + (1 - root) * (right * c_ + (1 - right) * d)

    by_windows(module, images(2, 3, 4, 5), formula, 2, 2)


@pytest.mark.parametrize(
    "make",
    [
        *(pytest.param(lambda name=name: make_pooling(name, 4), id=name) for name in POOLINGS),
        pytest.param(lambda: make_pooling("ggem", 4, groups=2, p=2.0), id="ggem of 2 groups"),
        pytest.param(lambda: make_pooling("adapool", 4, size=(2, 2)), id="adapool by place"),
        pytest.param(lambda: make_pooling("tree", 4, 3, 1, levels=3), id="tree of 3 levels"),
        *(
            pytest.param(lambda name=name: make_global_pooling(name, 4), id=f"global {name}")
            for name in GLOBAL_POOLINGS
        ),
        pytest.param(lambda: make_global_pooling("simpool", 4, gamma=None), id="global simpool without power"),
    ],
)
def test_gradients(make: Make) -> None:
    torch.manual_seed(0)
    module, x = double(make()), images(2, 4, 4, 5).requires_grad_()
    weights = tuple(module.parameters())
    assert torch.autograd.gradcheck(lambda x, *w: module(x), (x, *weights))


@pytest.mark.parametrize("name", MEANS)
@settings(max_examples=10, deadline=None)
@given(seed=st.integers(0, 999), value=st.floats(0.01, 50))
def test_means_keep_constants_and_stay_within_the_window(name: str, seed: int, value: float) -> None:
    module, x = double(make_pooling(name, 8), seed), 10 * images(2, 8, 4, 6, seed=seed)
    torch.testing.assert_close(module(torch.full_like(x, value)), torch.full((2, 8, 2, 3), value, dtype=x.dtype))
    high, low = nn.MaxPool2d(2)(x), -nn.MaxPool2d(2)(-x)
    assert (module(x) <= high + 1e-9).all() and (module(x) >= low - 1e-9).all()


@pytest.mark.parametrize("name", POOLINGS)
@settings(max_examples=10, deadline=None)
@given(seed=st.integers(0, 999), order=st.permutations(range(4)).filter(lambda order: order != sorted(order)))
def test_the_order_within_a_window_counts_only_where_each_place_has_a_weight(
    name: str, seed: int, order: list[int]
) -> None:
    module, x = double(make_pooling(name, 8), seed), images(2, 8, 4, 6, seed=seed)
    windows = x.unflatten(3, (3, 2)).unflatten(2, (2, 2)).transpose(3, 4).flatten(4)
    mixed = windows[..., order].unflatten(4, (2, 2)).transpose(3, 4).flatten(4).flatten(2, 3)
    assert torch.allclose(module(mixed), module(x), rtol=1e-10) == (name not in ("conv", "gated", "tree"))


def test_published_values() -> None:
    window = torch.arange(4.0, dtype=torch.float64).view(1, 1, 2, 2)
    assert make_pooling("softpool", 1)(window).item() == pytest.approx(2.492653, abs=1e-6)
    assert similarity_mean(window.flatten(2).movedim(2, 0)).item() == pytest.approx(1.725711, abs=1e-6)
    powers = torch.tensor([1.0, 1, 2, 4], dtype=torch.float64).view(1, 1, 2, 2)
    for module in (GeMPool2d(1), GlobalGeMPool(1)):
        assert module.double()(powers).item() == pytest.approx(2.644786, abs=1e-6)


def test_shares_of_one_and_nothing_are_maximum_and_average_bit_for_bit() -> None:
    x = torch.randn(2, 3, 6, 6)
    for module, parameter in ((MixedPool2d(), "logit"), (GatedPool2d(), "gate")):
        positive = x.abs() + 0.1
        for value, expected in ((1e4, nn.MaxPool2d(2)), (-1e4, nn.AvgPool2d(2))):
            nn.init.constant_(getattr(module, parameter), value)
            assert torch.equal(module(positive), expected(positive))
    halves = GatedPool2d()
    nn.init.zeros_(halves.gate)
    torch.testing.assert_close(halves(x), (nn.MaxPool2d(2)(x) + nn.AvgPool2d(2)(x)) / 2)


def test_a_tree_whose_leaves_average_is_average_pooling_for_any_gate() -> None:
    module, x = TreePool2d(levels=3), torch.randn(2, 3, 6, 6)
    nn.init.constant_(module.leaves, 1 / 4)
    torch.testing.assert_close(module(x), nn.AvgPool2d(2)(x))


def test_the_share_of_mixed_pooling_moves_by_maximum_minus_average() -> None:
    module, x = MixedPool2d().double(), images(2, 3, 4, 4)
    module(x).sum().backward()
    slope = (nn.MaxPool2d(2)(x) - nn.AvgPool2d(2)(x)).sum() / 4  # the sigmoid's slope at 0
    torch.testing.assert_close(module.logit.grad, slope.view(1))


def test_softpool_adds_what_is_added_and_bears_large_values() -> None:
    x, module = torch.randn(1, 2, 4, 4), make_pooling("softpool", 2)
    torch.testing.assert_close(module(x + 3), module(x) + 3)
    assert module(1e4 * x).isfinite().all() and module(-1 - x.abs()).max() < -1


def test_adapool_bears_zeros_and_mixes_by_place() -> None:
    zeros = torch.zeros(1, 2, 4, 4, requires_grad=True)
    out = AdaPool2d()(zeros)
    out.sum().backward()
    assert torch.equal(out, torch.zeros(1, 2, 2, 2)) and zeros.grad is not None and zeros.grad.isfinite().all()
    placed, x = AdaPool2d(size=(2, 3)), torch.rand(2, 3, 4, 6)
    with torch.no_grad():
        placed.logit.fill_(-1e4)
        placed.logit[0, 1] = 1e4
    expected = make_pooling("softpool", 3)(x)
    expected[..., 0, 1] = similarity_mean(torch.stack([x[..., i, 2 + j] for i in (0, 1) for j in (0, 1)]))
    torch.testing.assert_close(placed(x), expected)


def test_power_means_from_average_to_maximum() -> None:
    x = images(2, 8, 4, 4)
    torch.testing.assert_close(GeMPool2d(8, p=1.0).double()(x), nn.AvgPool2d(2)(x))
    torch.testing.assert_close(GlobalGeMPool(8, p=1.0).double()(x), x.mean((2, 3)))
    large = GeMPool2d(8, p=2000.0)(1e3 * x.float())
    torch.testing.assert_close(large, 1e3 * nn.MaxPool2d(2)(x.float()), rtol=2e-3, atol=0)


@settings(max_examples=15, deadline=None)
@given(groups=st.sampled_from([1, 2, 4, 8]), seed=st.integers(0, 99))
def test_each_group_of_channels_has_its_own_exponent(groups: int, seed: int) -> None:
    x = images(2, 8, 4, 4, seed=seed)
    local, whole = (double(m, seed) for m in (GeMPool2d(8, groups=groups), GlobalGeMPool(8, groups=groups)))
    for at in range(groups):
        part = slice(8 // groups * at, 8 // groups * (at + 1))
        for module, alone in ((local, GeMPool2d(8 // groups)), (whole, GlobalGeMPool(8 // groups))):
            alone.double().log_p.data[:] = module.log_p[at]  # type: ignore[index]
            torch.testing.assert_close(module(x)[:, part], alone(x[:, part]))


# --- global operators ---


@pytest.mark.parametrize("name", GLOBAL_POOLINGS)
def test_global_operators_take_images_and_tokens_in_any_order_and_keep_images_apart(name: str) -> None:
    module, x = double(make_global_pooling(name, 8)).eval(), images(3, 8, 4, 5)
    tokens = x.flatten(2).transpose(1, 2)
    expected = module(x)
    assert expected.shape == (3, 8)
    torch.testing.assert_close(module(tokens), expected)
    torch.testing.assert_close(module(tokens[:, torch.randperm(20)]), expected)
    torch.testing.assert_close(module(x[1:2]), expected[1:2])


@pytest.mark.parametrize("groups", [1, 2])
def test_global_power_means_follow_their_formula(groups: int) -> None:
    module, x = double(GlobalGeMPool(4, groups=groups)), images(2, 4, 3, 5)
    p = np.exp(module.log_p.detach().numpy()).repeat(4 // groups)[:, None]  # type: ignore[union-attr,operator]
    expected = (x.flatten(2).numpy() ** p).mean(2) ** (1 / p[:, 0])
    np.testing.assert_allclose(module(x).detach().numpy(), expected)


@pytest.mark.parametrize("gamma", [None, 1.25, 2.0])
def test_simpool_follows_its_formula(gamma: float | None) -> None:
    module, x = double(SimPool(4, gamma=gamma)), images(2, 4, 3, 5)
    weights = {key: value.numpy() for key, value in module.state_dict().items()}
    for image, found, seen in zip(x, module(x), module.attention(x), strict=True):  # type: ignore[operator]
        tokens = image.flatten(1).T.numpy()
        spread = np.sqrt(tokens.var(1, keepdims=True) + 1e-6)
        values = (tokens - tokens.mean(1, keepdims=True)) / spread * weights["norm.weight"] + weights["norm.bias"]
        scores = values @ weights["key.weight"].T @ (weights["query.weight"] @ tokens.mean(0)) / np.sqrt(4)
        attention = np.exp(scores) / np.exp(scores).sum()
        np.testing.assert_allclose(seen.detach().numpy(), attention)
        lifted = values if gamma is None else (values - values.min() + 1e-6) ** gamma
        expected = (attention @ lifted) ** (1 if gamma is None else 1 / gamma)
        np.testing.assert_allclose(found.detach().numpy(), expected)


def test_simpool_without_a_query_is_the_average_of_the_normalised_tokens() -> None:
    module, x = SimPool(4, gamma=None), torch.randn(2, 6, 4)
    nn.init.zeros_(module.query.weight)
    torch.testing.assert_close(module(x), module.norm(x).mean(1))


def test_published_simpool() -> None:
    """Values 1 and 2 of a channel above the image's smallest, attended to alike: the square root of (1 + 4) / 2."""
    module = SimPool(2, gamma=2.0).double()
    for parameter, value in (
        (module.query.weight, [[0.0] * 2] * 2),
        (module.norm.weight, [0.5] * 2),
        (module.norm.bias, [1.0, 0]),
    ):
        parameter.data.copy_(torch.tensor(value))
    tokens = torch.tensor([[[0.0, 2], [2, 0]]], dtype=torch.float64)  # normalised to (-1, 1) and (1, -1)
    assert module(tokens)[0, 0].item() == pytest.approx(1.581139, abs=1e-5)


def test_published_transport() -> None:
    cost = torch.tensor([[[0.0], [1], [2]]], dtype=torch.float64)
    weights, attributes = transport(cost, 0.5, 1.0)
    np.testing.assert_allclose(weights[0], [1.46212, 1, 0.53788], atol=1e-5)
    np.testing.assert_allclose((1 - 0.5 * weights[0]) / 3, [0.089647, 0.166667, 0.243686], atol=1e-6)
    torch.testing.assert_close(attributes, torch.ones(1, 1, dtype=torch.float64))


@settings(max_examples=25, deadline=None)
@given(
    seed=st.integers(0, 999),
    mass=st.floats(0.05, 0.95),
    sharpness=st.floats(0.1, 8),
    positions=st.integers(1, 12),
    prototypes=st.integers(1, 5),
)
def test_transport_is_the_published_fixed_point(
    seed: int, mass: float, sharpness: float, positions: int, prototypes: int
) -> None:
    cost = 2 * images(1, positions, prototypes, seed=seed)
    kernel, t = np.exp(-sharpness * cost[0].numpy()).T, 1.0
    for _ in range(3000):
        rho = (1 / positions) / (1 + t * kernel.sum(0))
        t = mass / (rho * kernel.sum(0)).sum()
    plan = t * rho * kernel
    weights, attributes = transport(cost, mass, sharpness)
    np.testing.assert_allclose(weights[0].numpy(), (1 - positions * rho) / mass, rtol=1e-6)
    np.testing.assert_allclose(attributes[0].numpy(), plan.sum(1) / mass, rtol=1e-6)
    assert weights.mean().item() == pytest.approx(1) and attributes.sum().item() == pytest.approx(1)


def test_the_derivative_of_the_transport_is_the_closed_form() -> None:
    """By hand, from the optimum's equations: see the derivation in the paper."""
    mass, sharpness, positions = 0.4, 2.0, 5
    cost = images(1, positions, 3).requires_grad_()
    weights, _ = transport(cost, mass, sharpness)
    upstream = images(1, positions, seed=1)
    (weights * upstream).sum().backward()
    rho = (1 - mass * weights[0].detach()) / positions
    h = -upstream[0] * positions / mass  # the loss by rho; it does not depend on the plan directly
    moved = (1 / positions - rho)[:, None] * (-sharpness * cost[0].detach()).softmax(1)
    b = h * rho
    a = positions * (rho * b).sum() - (h * rho).sum()
    kappa = 1 / (1 - mass - positions * (rho**2).sum())
    torch.testing.assert_close(cost.grad[0], sharpness * moved * positions * (b + a * kappa * rho)[:, None])  # type: ignore[index]


def test_equal_costs_make_generalised_sum_pooling_the_average_and_sharp_ones_stay_finite() -> None:
    x = torch.randn(2, 6, 4)
    module = GeneralisedSumPool(4, prototypes=3)
    same = x[:, :1].expand(2, 6, 4)
    torch.testing.assert_close(module(same), same.mean(1))
    sharp = GeneralisedSumPool(4, sharpness=1e4)
    out = sharp(x)
    out.sum().backward()
    assert out.isfinite().all() and sharp.prototypes.grad is not None and sharp.prototypes.grad.isfinite().all()


# --- costs ---


@pytest.mark.parametrize(
    ("name", "macs", "params"),
    [
        ("max", 0, 0),
        ("avg", 0, 0),
        ("conv", 8 * 12 * 8 * 4, 8 * 8 * 4),
        ("mixed", 0, 1),
        ("gated", 8 * 12 * 4, 4),
        ("tree", 8 * 12 * 3 * 4, 12),
        ("softpool", 0, 0),
        ("adapool", 0, 1),
        ("gem", 0, 1),
        ("ggem", 0, 4),
    ],
)
def test_costs_of_local_operators(name: str, macs: int, params: int) -> None:
    """On 8 channels of 7 x 9 pixels: 12 windows of 4 pixels."""
    counted = count(make_pooling(name, 8), (8, 7, 9))
    assert (counted.total.macs, counted.total.params, counted.unsupported) == (macs, params, {})


@pytest.mark.parametrize(
    ("name", "macs", "params"),
    [
        ("avg", 0, 0),
        ("gem", 0, 1),
        ("ggem", 0, 4),
        ("simpool", 8 * 8 + 20 * 8 * 8 + 2 * 20 * 8, 2 * 8 * 8 + 2 * 8),
        ("gsp", 20 * 64 * 8 + 20 * 64 + 20 * 8, 64 * 8),
    ],
)
def test_costs_of_global_operators(name: str, macs: int, params: int) -> None:
    """On 8 channels of 4 x 5 pixels."""
    counted = count(make_global_pooling(name, 8), (8, 4, 5))
    assert (counted.total.macs, counted.total.params, counted.unsupported) == (macs, params, {})
    assert isinstance(counted.total, Cost)


# --- bad input ---


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: make_pooling("median", 8), "no pooling operator is named 'median'"),
        (lambda: make_pooling("soft", 8), "did you mean softpool"),
        (lambda: make_global_pooling("max", 8), "no global pooling operator is named 'max'.* known: avg, gem, ggem"),
        (lambda: make_pooling("ggem", 6), "`groups` must divide `channels`, got groups=4, channels=6; use 1, 2, 3, 6"),
        (lambda: make_pooling("ggem", 6, groups=0), "`groups` must divide `channels`, got groups=0"),
        (lambda: make_global_pooling("ggem", 10), "got groups=4, channels=10; use 1, 2, 5, 10"),
        (lambda: make_pooling("gem", 8, p=0.0), "`p` of generalised-mean pooling must be positive and finite, got 0.0"),
        (lambda: make_global_pooling("gem", 8, p=-3), "must be positive and finite, got -3; 1 is the average"),
        (lambda: make_pooling("gem", 8, p=float("nan")), "must be positive and finite, got nan"),
        (lambda: make_pooling("mixed", 8, 0), "`kernel` of a pooling operator must be at least 1 pixel, got 0"),
        (lambda: make_pooling("softpool", 8, 2, 0), "`stride` of a pooling operator must be at least 1 pixel, got 0"),
        (lambda: make_pooling("tree", 8, levels=1), "`levels` of tree pooling must be at least 2, got 1"),
        (
            lambda: make_pooling("softpool", 2)(torch.zeros(1, 2, 1, 4)),
            "`kernel` must fit .* got kernel=2 for 1x4 pixels",
        ),
        (lambda: make_pooling("adapool", 2, size=(2, 2))(torch.zeros(1, 2, 6, 4)), r"got size=\(2, 2\) for \(3, 2\)"),
        (lambda: make_global_pooling("simpool", 8, gamma=0), "`gamma` of SimPool must be positive, got 0"),
        (lambda: make_global_pooling("gsp", 8, mass=1), "`mass` must be between 0 and 1, got 1"),
        (lambda: make_global_pooling("gsp", 8, sharpness=0), "`sharpness` must be positive, got 0"),
        (lambda: make_global_pooling("gsp", 8, prototypes=0), "`prototypes` must be at least 1, got 0"),
    ],
)
def test_bad_input_is_explained(make: Make, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()
