"""Networks as plain data: what was written down computes the same, trains, and needs no code; damage and bombs are refused."""

from __future__ import annotations

import copy
import json
import pickle
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import nas
from examples.own_space import own_space
from examples.sequence_space import sequence_space
from examples.unet import unet
from nas.export import write_graph
from nas.graphs import Indescribable, build_graph, describe, parse_graph
from nas.graphs.description import Constant, packed, unpacked
from nas.graphs.operators import MODES, NAMES, OF_PYTHON, function
from nas.pruning import pruned_space
from nas.runtime import write_json
from search_spaces import SearchSpace
from search_spaces.core import save_tensors
from tests.pruners.networks import NETWORKS, build
from tests.subnets import images

ROOT = Path(__file__).parents[3]
SPACES: dict[str, Callable[[], SearchSpace]] = {
    "own": own_space,
    "unet": lambda: unet(image_size=32),
    "sequence": sequence_space,
    "pruned": lambda: pruned_space("pruned:tests.nas.graphs.test_graphs:classifier", input="1x3x16x16"),
}
BEYOND = {"normed", "recurrent", "projected recurrent", "rows written in turn", "frequencies", "rotated tail"}
"""Networks of operators that no file may name."""


def classifier() -> nn.Module:
    torch.manual_seed(0)
    body = (nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 8, 3), nn.ReLU(), nn.Dropout(0.2))
    return nn.Sequential(*body, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 5)).eval()


def network(space: SearchSpace, seed: int) -> nn.Module:
    arch = space.sample(np.random.default_rng(seed))
    found = space.build(arch, seed)
    with torch.no_grad():
        for buffer in found.buffers():
            if buffer.is_floating_point():
                buffer += torch.rand(buffer.shape)
    return found.eval()


def again(module: nn.Module, inputs: Tensor) -> nn.Module:
    """The network that its description, through JSON, and its weights make."""
    data = json.loads(describe(module, inputs).model_dump_json())
    return build_graph(parse_graph(data), {name: x.clone() for name, x in module.state_dict().items()})


def check_same(found: nn.Module, source: nn.Module, inputs: Tensor) -> None:
    with torch.no_grad():
        for batch in (inputs, inputs[:1], torch.cat([inputs, inputs])):
            torch.testing.assert_close(found(batch), source(batch), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("name", SPACES)
def test_networks_of_a_space_compute_and_train_alike(name: str) -> None:
    space = SPACES[name]()
    for seed in range(2):
        source = network(space, seed)
        inputs = images(space, 4, seed)
        found = again(source, inputs)
        check_same(found, source, inputs)
        found.load_state_dict(source.state_dict())
        copies = copy.deepcopy(found), pickle.loads(pickle.dumps(found))
        optimizers = [torch.optim.SGD(module.parameters(), 0.1) for module in (found, source)]
        for module, optimizer in zip((found, source), optimizers, strict=True):
            torch.manual_seed(0)
            module.train()(inputs).square().mean().backward()
            optimizer.step()
        moved = dict(source.named_parameters())
        assert moved.keys() == dict(found.named_parameters()).keys()
        for key, parameter in found.named_parameters():
            torch.testing.assert_close(parameter, moved[key])
        check_same(found.eval(), source.eval(), inputs)  # with the batch norms' statistics
        assert not torch.equal(copies[0](inputs), found(inputs)) and torch.equal(copies[0](inputs), copies[1](inputs))


OF_ONE_INPUT = [name for name in NETWORKS if len(build(name)[1]) == 1]


@pytest.mark.parametrize(
    "name",
    [pytest.param(name, marks=[pytest.mark.slow] if number % 4 else []) for number, name in enumerate(OF_ONE_INPUT)],
)
def test_a_network_is_described_to_its_last_digits_or_not_at_all(name: str) -> None:
    source, (inputs,) = build(name)
    if name in BEYOND:
        with pytest.raises(Indescribable):
            describe(source, inputs)
    else:
        check_same(again(source, inputs), source, inputs)


def test_exports_load_where_their_module_is_not(tmp_path: Path) -> None:
    expected = {}
    for name, make in SPACES.items():
        space = make()
        source, inputs, folder = network(space, 0), images(space), tmp_path / name
        folder.mkdir()
        save_tensors(folder / "model.safetensors", source.state_dict())
        assert write_graph(source, inputs, folder) == []
        described = {"space": {"name": f"absent:{name}", "options": {}}, "choices": {}}
        write_json(folder / "architecture.json", described)
        expected[f"{name}/inputs"], expected[f"{name}/outputs"] = inputs, source(inputs)
    save_tensors(tmp_path / "expected.safetensors", expected)
    code = """
import sys, torch, nas
from pathlib import Path
from safetensors.torch import load_file
root = Path(sys.argv[1])
expected = load_file(root / "expected.safetensors")
for folder in filter(Path.is_dir, root.iterdir()):
    network = nas.load(folder)
    inputs, outputs = (expected[f"{folder.name}/{part}"] for part in ("inputs", "outputs"))
    for size in (1, len(inputs)):
        torch.testing.assert_close(network(inputs[:size]), outputs[:size], rtol=1e-6, atol=1e-6)
    optimizer = torch.optim.SGD(network.train().parameters(), 0.1)
    network(inputs).square().mean().backward()
    optimizer.step()
assert not {"examples", "tests"} & {name.partition(".")[0] for name in sys.modules}
"""
    done = subprocess.run([sys.executable, "-c", code, str(tmp_path)], cwd=ROOT, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")


class Branching(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x * 2 if x.sum() > 0 else x


class Noisy(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x + torch.rand_like(x)


class OfSize(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x * 2 if len(x) > 5 else x + 1


@pytest.mark.parametrize("module", [Branching(), Noisy(), OfSize(), nn.Identity(), nn.LSTM(4, 4)], ids=repr)
def test_what_no_graph_describes_is_said(module: nn.Module, tmp_path: Path) -> None:
    (note,) = write_graph(module.eval(), torch.randn(3, 2, 4), tmp_path)
    assert note.startswith("it loads only with the code of its space") and not list(tmp_path.iterdir())


def test_operators_of_files_write_nothing_and_draw_nothing() -> None:
    for name in NAMES:
        target: Any = function(name)
        if name not in OF_PYTHON:
            assert not target._schema.is_mutable, name
            random = torch.Tag.nondeterministic_seeded in target.tags
            assert not random or name in MODES or "dropout_p" in str(target._schema), name


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.int64, torch.bool])
def test_constants_keep_their_bits(dtype: torch.dtype) -> None:
    for shape in ((), (3,), (2, 3)):
        tensor = (torch.randn(shape) * 9).to(dtype)
        if dtype.is_floating_point and shape:
            tensor[:1] = -torch.inf
        found = unpacked(packed(tensor, str(dtype).removeprefix("torch.")))
        assert found.dtype == dtype and torch.equal(found, tensor)
    with pytest.raises(ValueError, match="must have 12 bytes for its shape and type, got 0"):
        unpacked(Constant(shape=[3], dtype="float32", data=""))


# --- files of others -------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Path:
    space, folder = own_space(), tmp_path_factory.mktemp("export")
    source = network(space, 0)
    save_tensors(folder / "model.safetensors", source.state_dict())
    write_json(folder / "architecture.json", {"space": {"name": "absent:own", "options": {}}, "choices": {}})
    assert write_graph(source, images(space), folder) == []
    return folder


def step(operator: str, **arguments: Any) -> dict[str, Any]:
    return {"operator": operator, "arguments": arguments}


X = {"value": 0}
HUGE = step("aten.expand.default", self=X, size=[2**40, 1, 8, 8])
BOMBS: dict[str, tuple[Any, str]] = {
    "no operator": (step("aten.system.default", command="touch ran"), "no operator of a graph is named 'aten.system.default'"),
    "a dunder": (step("aten.__class__.mro"), "no operator of a graph is named"),
    "an operator that writes": (step("aten.relu_.default", self=X), "no operator of a graph is named"),
    "no argument": (step("aten.relu.default", self=X, out=X), "arguments of aten.relu.default must be among self, got 'out'"),
    "a device": (step("aten.zeros.default", size=[1], device="cuda"), "must be among .*, got 'device'"),
    "a later value": (step("aten.relu.default", self={"value": 99}), "an earlier step's value"),
    "itself": (step("aten.relu.default", self={"value": 1}), "an earlier step's value"),
    "another type": (step("aten.relu.default", self="x"), "must be of arguments that it takes"),
    "an expansion": (HUGE, "must leave at most 268,435,456 numbers in memory"),
    "a range": (step("aten.arange.default", end=2**40), "must leave at most 268,435,456 numbers in memory"),
    "zeros": (step("aten.zeros.default", size=[2**40]), "must leave at most 268,435,456 numbers in memory"),
    "a type as a number": (step("aten.softmax.int", self=X, dim=1, dtype=2**63 - 1), "`dtype` of aten.softmax.int must be of its kind"),
    "a format as a number": (step("aten.clone.default", self=X, memory_format=99), "`memory_format` of aten.clone.default must be"),
    "nothing": (step("aten.slice.Tensor", self=X, dim=1, start=1, end=1), "must compute tensors that hold something"),
    "a number": (step("pow", a=10, b=10**10), "no operator of a graph is named 'pow'"),
    "a large number": (step("mul", a=2**52, b=2**52), "must compute tensors that hold something, or a size"),
    "a division": (step("floordiv", a=1, b=0), "must be of arguments that it takes, got integer"),
    "many tensors": (step("aten.cat.default", tensors=[X] * 300_000), "must have at most 200,000 arguments in all"),
    "text": (step("mul", a="x" * 1000, b=2**50), "mul must be of sizes, got 'xxx"),
    "a list": (step("mul", a=[0], b=2**50), r"mul must be of sizes, got \[0\]"),
    "a format": (step("mod", a="%9999999999d", b=1), "mod must be of sizes, got '%9"),
}  # fmt: skip


@pytest.mark.parametrize("name", BOMBS)
def test_no_step_of_a_file_does_harm(name: str, exported: Path) -> None:
    put, message = BOMBS[name]

    def change(data: dict[str, Any]) -> None:
        data["steps"] = [put, *data["steps"]]

    refuses(exported, change, message)


def renamed(name: str) -> Callable[[dict[str, Any]], None]:
    return lambda data: data["constants"].update({name: {"shape": [], "dtype": "bool", "data": "AA=="}})


def grown(data: dict[str, Any]) -> None:
    first = data["tensors"]["layer1.conv.weight"]
    first["shape"] = [2**20, *first["shape"][1:]]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda data: data.update(version=2), "`version`"),
        (lambda data: data.update(output=10**6), "`output` must be one of"),
        (lambda data: data.update(steps=[]), "`steps`"),
        (lambda data: data.update(steps=[step("add", a=1, b=1)] * 20_001), "`steps`.* at most 20000"),
        (
            lambda data: data.update(steps=[step("add", a=1, b=1)], output=1),
            "is the output and must be a tensor, got 2",
        ),
        (lambda data: data["input"].update(shape=[2**40]), "`input.shape"),
        (lambda data: data["input"].update(shape=[2, 8, 8]), "must be of arguments that it takes"),
        (lambda data: data["input"].update(dtype="quint8"), "no type of a tensor is named 'quint8'; did you mean"),
        (lambda data: data["tensors"].pop("head.2.bias"), "must be of the weights beside it, got 'head.2.bias'"),
        (grown, "must be of the weights beside it, got 'layer1.conv.weight' of"),
        (renamed("forward"), "none of a module's own, got 'forward'"),
        (renamed("a..b"), "words joined by dots"),
        (renamed(".".join("a" * 200)), "words joined by dots"),
        (renamed("layer1"), "a name must be of a tensor or of a module, got 'layer1' for both"),
    ],
)
def test_a_damaged_graph_is_refused(change: Callable[[dict[str, Any]], None], message: str, exported: Path) -> None:
    refuses(exported, change, message)


def refuses(folder: Path, change: Callable[[dict[str, Any]], None], message: str) -> None:
    path = folder / "graph.json"
    kept = path.read_text()
    data = json.loads(kept)
    change(data)
    path.write_text(json.dumps(data))
    try:
        with pytest.raises(ValueError, match=f"graph.json: .*{message}.*export it again"):
            nas.load(folder)
    finally:
        path.write_text(kept)


def test_inputs_of_another_shape_are_refused(exported: Path) -> None:
    with pytest.raises(ValueError, match="must get inputs Nx1x8x8, got 2x1x9x9"):
        nas.load(exported)(torch.zeros(2, 1, 9, 9))
