"""Counts against hand arithmetic and against torch's own counter, by module and by operator; the user's module stays as it was."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn.attention.flex_attention import flex_attention
from torch.utils.flop_counter import FlopCounterMode

from estimators import Cost, count, measure_latency, peak_memory


class Calls(nn.Module):
    """A module around a function."""

    def __init__(self, function: Callable[..., Any]) -> None:
        super().__init__()
        self.function = function

    def forward(self, *args: Tensor, **kwargs: Tensor) -> Any:
        return self.function(*args, **kwargs)


class Nest(nn.Module):
    """A body called twice and a head that shares no weights with it."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(4, 4, 3, padding=1, bias=False), nn.BatchNorm2d(4), nn.ReLU())
        self.head = nn.Linear(4, 3)
        self.spare = nn.Linear(5, 5)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.body(self.body(x)).mean((2, 3)))


# --- macs and activations by hand ---


@settings(max_examples=40, deadline=None)
@given(
    groups=st.integers(1, 3),
    c_in=st.integers(1, 4),
    c_out=st.integers(1, 4),
    kernel=st.tuples(st.integers(1, 4), st.integers(1, 3)),
    stride=st.integers(1, 3),
    padding=st.integers(0, 2),
    size=st.tuples(st.integers(4, 9), st.integers(4, 9)),
    bias=st.booleans(),
)
def test_convolutions(
    groups: int,
    c_in: int,
    c_out: int,
    kernel: tuple[int, int],
    stride: int,
    padding: int,
    size: tuple[int, int],
    bias: bool,
) -> None:
    layer = nn.Conv2d(c_in * groups, c_out * groups, kernel, stride, padding, groups=groups, bias=bias)
    out = [(n + 2 * padding - k) // stride + 1 for n, k in zip(size, kernel, strict=True)]
    pixels = c_out * groups * out[0] * out[1]
    params = c_out * groups * c_in * kernel[0] * kernel[1] + bias * c_out * groups
    assert count(layer, (c_in * groups, *size)).total == Cost(
        pixels * c_in * kernel[0] * kernel[1], params, pixels, 4 * params
    )


@pytest.mark.parametrize(
    ("module", "shape", "macs", "activations"),
    [
        (nn.Linear(8, 3), (8,), 8 * 3, 3),
        (nn.Linear(8, 3, bias=False), (5, 8), 5 * 8 * 3, 5 * 3),
        (nn.ConvTranspose2d(3, 4, 2, stride=2), (3, 5, 5), 5 * 5 * 3 * 4 * 2 * 2, 4 * 10 * 10),
        (nn.Conv1d(3, 4, 3), (3, 10), 8 * 3 * 4 * 3, 4 * 8),
        (nn.Conv3d(2, 4, 3), (2, 5, 5, 5), 27 * 2 * 4 * 27, 4 * 27),
        (nn.LSTM(3, 4, batch_first=True), (5, 3), 5 * (16 * 3 + 16 * 4), 5 * (16 + 16)),
        (
            nn.MultiheadAttention(8, 2, batch_first=True),
            None,
            5 * 8 * 24 + 2 * (5 * 5 * 8) + 5 * 8 * 8,
            5 * 24 + 2 * 25 + 5 * 8 + 5 * 8,
        ),
        (Calls(lambda x: x @ x.transpose(1, 2)), (6, 7), 6 * 7 * 6, 36),
        (Calls(lambda x: x @ x[0, 0]), (6, 7), 6 * 7, 6),
        (Calls(lambda x: torch.dot(x[0], x[0])), (7,), 7, 1),
        (Calls(lambda x: torch.einsum("bij,bkj->bik", x, x)), (6, 7), 6 * 7 * 6, 36),
        (nn.Sequential(nn.BatchNorm2d(3), nn.ReLU(), nn.AvgPool2d(2), nn.Dropout(), nn.Flatten()), (3, 4, 4), 0, 0),
    ],
    ids=str,
)
def test_operators(module: nn.Module, shape: tuple[int, ...] | None, macs: int, activations: int) -> None:
    x = torch.zeros(1, 5, 8)
    profile = count(module, (x, x, x) if shape is None else shape)
    assert (profile.total.macs, profile.total.activations) == (macs, activations)
    assert profile.total.flops == 2 * macs
    assert not profile.unsupported


def looks_at_values(x: Tensor) -> Tensor:
    return F.scaled_dot_product_attention(x, x, x) * (1 if x.sum() > 0 else 2)


@pytest.mark.parametrize("attention", [lambda x: F.scaled_dot_product_attention(x, x, x), looks_at_values])
def test_fused_attention_counts_as_its_two_products(attention: Callable[[Tensor], Tensor]) -> None:
    """On the meta device torch runs the two products; on the CPU, where the second function forces the count, one fused kernel."""
    profile = count(Calls(attention), torch.zeros(2, 4, 6, 8))
    assert profile.total.macs == 2 * (2 * 4 * 6 * 6 * 8)
    assert profile.total.activations == 2 * 4 * (6 * 6 + 6 * 8)
    assert not profile.unsupported


def test_a_transformer_layer_costs_the_same_where_torch_would_fuse_it() -> None:
    layer = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True)
    forced = nn.Sequential(Calls(lambda x: x if x.sum() > 0 else x + 1), layer)
    plain, fused = count(layer, (5, 8)), count(forced, (5, 8))
    assert plain.total == fused.total
    assert not fused.unsupported
    assert torch.backends.mha.get_fastpath_enabled()


@pytest.mark.parametrize(
    "module",
    [Nest(), nn.Sequential(nn.Conv2d(4, 8, 3, stride=2), nn.GELU(), nn.Conv2d(8, 8, 3, groups=8), nn.Flatten(1))],
    ids=lambda module: type(module).__name__,
)
def test_torch_counts_twice_as_many_flops_on_real_tensors(module: nn.Module) -> None:
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        copy.deepcopy(module).eval()(torch.randn(1, 4, 9, 9))
    assert count(module, (4, 9, 9)).total.flops == counter.get_total_flops() > 0


class Helped(nn.Module):
    """Has an auxiliary head while it trains."""

    def __init__(self) -> None:
        super().__init__()
        self.body, self.aid = nn.Linear(4, 4), nn.Linear(4, 9)

    def forward(self, x: Tensor) -> Tensor:
        out = self.body(x)
        return out + self.aid(out).sum() if self.training else out


def test_evaluation_mode_is_counted() -> None:
    assert count(Helped().train(), (4,)).total == Cost(16, 20 + 45, 4, 4 * 65)


# --- where it comes from ---


def test_by_module_and_operator() -> None:
    module = Nest()
    profile = count(module, (4, 6, 6))
    conv, linear = 36 * 4 * 4 * 9, 12
    assert {name: cost.macs for name, cost in profile.modules.items()} == {
        "": 2 * conv + linear,
        "body": 2 * conv,
        "body.0": 2 * conv,
        "body.1": 0,
        "body.2": 0,
        "head": linear,
        "spare": 0,
    }
    assert profile.modules["body"].params == 144 + 8
    assert profile.modules["spare"].params == 30
    assert profile.total == profile.modules[""]
    assert profile.operators == {"convolution": 2 * conv, "addmm": linear}


class Listed(nn.Module):
    """Layers in a list in a dictionary, neither of which runs itself."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleDict({"a": nn.ModuleList([nn.Linear(4, 4), nn.Linear(4, 5)]), "b": nn.ModuleList()})

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.layers["a"]:
            x = layer(x)
        return x


def test_lists_cost_what_they_hold() -> None:
    macs = {name: cost.macs for name, cost in count(Listed(), (4,)).modules.items()}
    assert macs == {"": 36, "layers": 36, "layers.a": 36, "layers.a.0": 16, "layers.a.1": 20, "layers.b": 0}
    with pytest.raises(ValueError, match="ModuleDict does not run"):
        count(Listed().layers, (4,))


def test_shared_parameters_count_once_in_what_holds_them() -> None:
    module = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4))
    module[1].weight = module[0].weight
    profile = count(module, (4,))
    assert profile.total == Cost(32, 24, 8, 96)
    assert [profile.modules[name].params for name in "01"] == [20, 20]
    one = nn.Linear(4, 4)
    twice = count(nn.ModuleDict({"a": one, "b": nn.Sequential(one, one)})["b"], (4,))
    assert (twice.total, twice.modules["0"].macs) == (Cost(32, 20, 8, 80), 32)


def test_weight_bytes_follow_the_dtype() -> None:
    cast = Calls(lambda x: x.double())
    module = nn.Sequential(nn.Linear(4, 4).half(), cast, nn.Linear(4, 4).double())
    assert count(module, torch.zeros(1, 4).half()).total == Cost(32, 40, 8, 20 * 2 + 20 * 8)


def test_operators_that_may_compute_are_named_and_trivial_ones_are_not() -> None:
    def compute(x: Tensor) -> Tensor:
        y = torch.fft.rfft2(x).abs() + torch.fft.rfft2(x).real.sigmoid()
        y = F.interpolate(F.max_pool2d(y, 2), scale_factor=2)
        return torch.cdist(y[0], y[0]).softmax(-1).cumsum(-1).argmax(-1).float().sort().values

    assert count(Calls(compute), (2, 8, 8)).unsupported == {"aten._fft_r2c": 2, "aten._cdist_forward": 1}


def test_a_custom_operator_is_named() -> None:
    @torch.library.custom_op("nas_toolkit_tests::mystery", mutates_args=())
    def mystery(x: Tensor) -> Tensor:
        return x @ x.T

    mystery.register_fake(lambda x: torch.empty(x.shape[0], x.shape[0], device=x.device))
    assert count(Calls(lambda x: mystery(x)), torch.zeros(3, 4)).unsupported == {"nas_toolkit_tests.mystery": 1}


# --- inputs ---


def test_given_inputs_are_counted_as_they_are() -> None:
    layer = nn.Linear(4, 3)
    assert count(layer, torch.zeros(7, 4)).total.macs == 7 * count(layer, (4,)).total.macs == 84
    named = Calls(lambda *, a, b: a @ b)
    assert count(named, {"a": torch.zeros(2, 3), "b": torch.zeros(3, 5)}).total.macs == 30
    embedded = nn.Sequential(nn.Embedding(10, 4), layer)
    assert count(embedded, torch.tensor([[1, 2, 3]])).total.macs == 3 * 12


def test_inputs_that_do_not_fit_are_explained() -> None:
    with pytest.raises(ValueError, match=r"Linear does not run on \(1, 5\): .*4x3.*; give the shape of one sample"):
        count(nn.Linear(4, 3), (5,))
    with pytest.raises(ValueError, match=r"Bilinear does not run on .*missing.*input2"):
        count(nn.Bilinear(4, 4, 3), (4,))
    with pytest.raises(ValueError, match="positive sizes, got \\(0, 3\\)"):
        count(nn.Linear(4, 3), (0, 3))


# --- the user's module ---


class Stateful(nn.Module):
    """Looks at values when told to, and writes to buffers, tensors and attributes while it runs."""

    def __init__(self, looks: bool) -> None:
        super().__init__()
        self.conv = nn.utils.parametrizations.weight_norm(nn.Conv2d(2, 2, 3))
        self.norm = nn.BatchNorm2d(2)
        self.register_buffer("runs", torch.zeros(()))
        self.table = [torch.ones(2, 1, 1)]
        self.looks, self.seen = looks, None

    def forward(self, x: Tensor) -> Tensor:
        self.runs += 1
        self.seen = x
        scale = self.table[0] if not self.looks or x.sum() >= 0 else 2
        return self.norm(self.conv(x)) * scale


@pytest.mark.parametrize("looks", [False, True])
def test_the_module_is_left_as_it_was(looks: bool) -> None:
    module = Stateful(looks).train()
    module.norm.eval()
    module(torch.ones(1, 2, 4, 4))
    module.seen = None
    called = []
    module.norm.register_forward_hook(lambda *_: called.append("hook"))
    state = copy.deepcopy(module.state_dict())
    before = {
        name: (part.training, dict(part._forward_hooks), set(vars(part))) for name, part in module.named_modules()
    }
    random = torch.get_rng_state()
    assert count(module, (2, 4, 4)).total.macs == 4 * 2 * 2 * 9
    assert module.seen is None
    assert before == {
        name: (part.training, dict(part._forward_hooks), set(vars(part))) for name, part in module.named_modules()
    }
    assert all(torch.equal(value, state[name]) for name, value in module.state_dict().items())
    assert {tensor.device.type for tensor in module.state_dict().values()} == {"cpu"}
    assert module.table[0].device.type == "cpu"
    assert called
    assert torch.equal(random, torch.get_rng_state())


def test_a_module_on_the_meta_device_can_be_counted() -> None:
    with torch.device("meta"):
        module = Nest()
    assert count(module, (4, 6, 6)).total == count(Nest(), (4, 6, 6)).total


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_a_shape_means_floats_of_the_modules_own_kind(dtype: torch.dtype) -> None:
    network = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU())
    single = count(network, (3, 8, 8)).total, peak_memory(network, (3, 8, 8)).peak_bytes
    own = network.to(dtype)
    found = count(own, (3, 8, 8)).total
    assert (found.macs, found.activations) == (single[0].macs, single[0].activations)
    assert peak_memory(own, (3, 8, 8)).peak_bytes == single[1] * dtype.itemsize // 4
    assert measure_latency(own, (3, 8, 8), runs=5, warmup_s=1e-3).median_ms > 0


class Flexible(nn.Module):
    """Attention over 4 heads of 8, by flex_attention."""

    def __init__(self) -> None:
        super().__init__()
        self.all = nn.Linear(32, 96)

    def forward(self, x: Tensor) -> Tensor:
        query, key, value = (part.view(*part.shape[:2], 4, 8).transpose(1, 2) for part in self.all(x).chunk(3, dim=-1))
        return flex_attention(query, key, value)


@pytest.mark.filterwarnings("ignore:flex_attention called without torch.compile")
def test_flex_attention_counts_both_products() -> None:
    found = count(Flexible(), (16, 32))
    assert found.operators == {"addmm": 16 * 32 * 96, "flex_attention": 2 * 4 * 16 * 16 * 8}
    assert not found.unsupported
    assert found.total.activations == 16 * 96 + 4 * 16 * 16 + 4 * 16 * 8  # the scores too, as of other fused attention


def test_operators_that_take_functions_are_named_where_they_cannot_be_counted() -> None:
    chosen = Calls(lambda x: torch.ops.higher_order.cond(x.sum() > 0, torch.relu, torch.neg, (x,)))
    assert count(chosen, (4, 4)).unsupported == {"cond": 1}


def test_moving_data_and_profiling_cost_nothing() -> None:
    def moves(x: Tensor) -> Tensor:
        with torch.profiler.record_function("moving"):
            y = x.clone().transpose_(1, 2).squeeze_(-1).unsqueeze_(-1)[..., 0]
        return nn.utils.rnn.pack_padded_sequence(y, torch.tensor([y.shape[1]]), batch_first=True).data

    assert not count(Calls(moves), (4, 5, 1)).unsupported


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("make", [torch.jit.script, lambda module: torch.jit.trace(module, torch.zeros(1, 8))])
def test_scripted_modules_are_counted_as_a_whole(make: Callable[[nn.Module], nn.Module]) -> None:
    network = nn.Sequential(nn.Linear(8, 4), nn.ReLU(), nn.Linear(4, 2)).eval()
    assert count(make(network), (8,)).total == count(network, (8,)).total


@pytest.mark.filterwarnings("ignore")
def test_quantised_layers_have_macs_and_params() -> None:
    network = nn.Sequential(nn.Linear(8, 4), nn.ReLU(), nn.Linear(4, 2)).eval()
    small = torch.ao.quantization.quantize_dynamic(network, {nn.Linear}, torch.qint8)
    whole, found = count(network, (8,)).total, count(small, (8,))
    assert (found.total.macs, found.total.params) == (whole.macs, whole.params) == (40, 46)
    assert found.total.weight_bytes == 40 + 4 * 6
    assert found.modules["2"] == Cost(8, 10, 2, 8 + 4 * 2)
    assert not found.unsupported
