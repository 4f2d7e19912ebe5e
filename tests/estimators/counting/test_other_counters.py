"""Other libraries' counters: equal to ours where they count the same, different where docs/counting.md says so."""

from __future__ import annotations

import copy
import re
import subprocess
import sys
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from estimators import COUNTERS, compare, count_with
from search_spaces import SPACES, make_space

ROOT = Path(__file__).parents[3]
DOCS = ROOT / "docs" / "counting.md"
OTHERS = ("fvcore", "thop")


def small() -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(3, 8, 3),
        nn.BatchNorm2d(8),
        nn.ReLU(),
        nn.BatchNorm2d(8, affine=False),
        nn.AvgPool2d(2),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(8, 5),
    )


POOLING = [(name, {"operators": (op,)}) for name in SPACES if "pooling" in name for op in ("max", "avg", "conv")]
ELASTIC: list[tuple[str, dict[str, object]]] = [
    *((name, {"image_size": 32}) for name in SPACES if "pooling" not in name),
    ("resnet-elastic", {"choices": "width,depth,groups,kernel,pooling,resolution"}),
    ("mobilenet-elastic", {"choices": "se,resolution", "image_size": 32}),
]


@pytest.mark.parametrize(("name", "options"), POOLING + ELASTIC, ids=str)
def test_all_agree_on_convolutions_and_linear_layers(name: str, options: dict[str, object]) -> None:
    space = make_space(name, num_classes=7, **options)
    arch = space.sample(np.random.default_rng(0))
    counts = compare(space.net.build(space.locals(arch)), space.net.input_shape)
    assert list(counts) == list(COUNTERS)
    ours = counts["torch"]
    assert ours.conv_linear_macs == ours.macs > 0
    assert [count.conv_linear_macs for count in counts.values()] == [ours.macs] * 3
    assert [count.params for count in counts.values()] == [ours.params] * 3


def test_where_they_differ_on_purpose() -> None:
    """The arithmetic behind the table of docs/counting.md."""
    counts = compare(small(), (3, 8, 8))
    conv, linear, plane = 6 * 6 * 8 * 3 * 9, 8 * 5, 8 * 6 * 6
    assert counts["torch"].macs == conv + linear
    assert counts["fvcore"].operators == {
        "conv": conv,
        "linear": linear,
        "batch_norm": 2 * plane + plane,
        "adaptive_avg_pool2d": 8 * 3 * 3,
    }
    assert counts["thop"].operators == {
        "Conv2d": conv,
        "Linear": linear,
        "BatchNorm2d": 4 * plane + 2 * plane,
        "AvgPool2d": 8 * 3 * 3,
        "AdaptiveAvgPool2d": 8 * (9 + 1),
    }
    assert all(count.macs == sum(count.operators.values()) for count in counts.values())


def test_attention_is_seen_by_ours_only() -> None:
    counts = compare(Attentive(), (6, 8))
    products = 2 * 6 * 6 * 8
    assert counts["torch"].macs == counts["torch"].conv_linear_macs + products
    assert counts["fvcore"].unsupported == {"aten::scaled_dot_product_attention": 1}
    assert counts["thop"].unsupported == {}
    assert {count.macs for name, count in counts.items() if name in OTHERS} == {6 * 8 * 24}


class Attentive(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.qkv = nn.Linear(8, 24)

    def forward(self, x: Tensor) -> Tensor:
        return nn.functional.scaled_dot_product_attention(*self.qkv(x).chunk(3, -1))


def test_thop_names_modules_without_a_rule() -> None:
    found = count_with("thop", nn.Sequential(nn.Linear(4, 4), nn.GELU(), nn.GELU()), (4,))
    assert (found.macs, found.unsupported) == (16, {"GELU": 2})


@pytest.mark.parametrize("layer", [nn.Conv2d(3, 8, 3), nn.Linear(8, 3)], ids=["conv", "linear"])
def test_a_single_layer(layer: nn.Module) -> None:
    counts = compare(layer, (3, 8, 8))
    assert len({(count.macs, count.params) for count in counts.values()}) == 1
    assert counts["thop"].params > 0


@pytest.mark.parametrize("counter", COUNTERS)
def test_the_module_and_the_terminal_are_left_alone(counter: str, capfd: pytest.CaptureFixture[str]) -> None:
    module = small().train()
    module[1].eval()
    state = copy.deepcopy(module.state_dict())
    before = {name: (part.training, set(vars(part)), len(part._forward_hooks)) for name, part in module.named_modules()}
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        count_with(counter, module, (3, 8, 8))
    assert tuple(capfd.readouterr()) == ("", "")
    after = {name: (part.training, set(vars(part)), len(part._forward_hooks)) for name, part in module.named_modules()}
    assert before == after
    assert state.keys() == module.state_dict().keys()
    assert all(torch.equal(value, state[name]) for name, value in module.state_dict().items())


def test_importing_the_libraries_is_quiet_too() -> None:
    code = "from torch import nn; from estimators import compare; compare(nn.Linear(4, 3), (4,))"
    done = subprocess.run([sys.executable, "-W", "error", "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


@pytest.mark.parametrize("package", OTHERS)
def test_a_missing_package_names_the_extra(package: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    monkeypatch.setitem(sys.modules, f"{package}.nn", None)
    with pytest.raises(ValueError, match=rf'counter {package} needs .* pip install "nas-toolkit\[counters\]"'):
        count_with(package, nn.Linear(4, 3), (4,))


def test_bad_input_is_explained() -> None:
    with pytest.raises(ValueError, match="no counter is named 'fvcor'; did you mean fvcore"):
        count_with("fvcor", nn.Linear(4, 3), (4,))
    for counter in OTHERS:
        with pytest.raises(ValueError, match=rf"{counter} must run Linear on the inputs .*; give others"):
            count_with(counter, nn.Linear(4, 3), (5,))


def test_the_table_of_the_docs_is_what_the_counters_say() -> None:
    found = re.findall(r"^\| (resnet\d+-pooling) (\S+) \| (\w+) \| (.*) \|$", DOCS.read_text(), re.MULTILINE)
    assert len(found) == 2 * len(COUNTERS)
    for name, label, counter, figures in found:
        space = make_space(name)
        count = count_with(counter, space.net.build(space.locals(space.parse(label))), space.net.input_shape)
        norm, pool = (sum(n for key, n in count.operators.items() if part in key.lower()) for part in ("norm", "pool"))
        assert figures == " | ".join(f"{n:,}" for n in (count.macs, count.conv_linear_macs, norm, pool, count.params))


def test_the_example_of_the_docs_prints_what_it_says(capsys: pytest.CaptureFixture[str]) -> None:
    code = re.search(r"```python\n(.*?)```", DOCS.read_text(), re.DOTALL)
    assert code
    exec(code[1], {})
    assert capsys.readouterr().out.splitlines() == re.findall(r"  # (.*)", code[1])
