"""A graph refuses, in words, inputs that it does not serve, whatever is done with it; a module serves what its forward does."""

from __future__ import annotations

import copy
import io
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from pruners import PruneResult, load, recalibrate_
from pruners.groups.dependency import tie_axes
from pruners.surgery.rewrite import Removal, rewrite
from pruners.tracing.trace import trace
from tests.pruners.plain import prune


class Mean(nn.Module):
    """The mean over a length of features over one more than the root of their number, which the module cannot express for fewer."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = nn.Linear(4, 16), nn.Linear(16, 3)

    def forward(self, x: Tensor) -> Tensor:
        y = self.first(x).relu()
        return self.last(y / (1 + y.shape[-1] ** 0.5)).sum(1) / x.shape[1]


class Both(Mean):
    """Inputs in a dict, with a flag."""

    def forward(self, x: dict[str, Tensor], twice: bool = False) -> Tensor:
        y = super().forward(x["left"]) + super().forward(x["right"])
        return 2 * y if twice else y


@pytest.fixture(scope="module")
def result() -> PruneResult:
    torch.manual_seed(0)
    return prune(Mean(), torch.randn(2, 5, 4), {"macs": 0.5})


def serves(model: nn.Module) -> None:
    assert model(torch.randn(7, 8, 4)).shape == (7, 3)
    for x, given in ((torch.randn(2, 5, 20), ", N = 2, L = 5, got 2x5x20"), (torch.randn(5, 4), ", got 5x4")):
        with pytest.raises(ValueError, match=f"graph must get .* NxLx4 for 'x'{given}; prune with"):
            model(x)


def test_another_width_is_refused(result: PruneResult) -> None:
    assert result.summary.form == "graph" and result.summary.serves == {"x": "NxLx4"}
    serves(result.model)


def test_why_there_is_no_module(result: PruneResult) -> None:
    assert result.summary.reason == "its outputs differ"
    assert (
        prune(nn.Sequential(nn.Linear(4, 8), nn.Linear(8, 3)), torch.randn(2, 4), {"macs": 0.5}).summary.reason is None
    )


def test_loaded_copied_trained_and_repaired(result: PruneResult, tmp_path: Path) -> None:
    result.save(tmp_path)
    again = load(tmp_path, Mean())
    for model in (again, copy.deepcopy(again), again.train(), again.eval()):
        serves(model)
    with pytest.raises(ValueError, match="`batches` must fit the model.* NxLx4 for 'x'"):
        recalibrate_(again, [torch.randn(2, 6, 5)])


def test_exported(result: PruneResult) -> None:
    x, other = torch.randn(2, 5, 4), torch.randn(6, 9, 4)
    free = ({0: torch.export.Dim.DYNAMIC, 1: torch.export.Dim.DYNAMIC},)
    for strict in (False, True):
        program = torch.export.export(result.model, (x,), dynamic_shapes=free, strict=strict)
        torch.testing.assert_close(program.module()(other), result.model(other))
    torch.testing.assert_close(torch.compile(result.model, backend="eager", fullgraph=True)(x), result.model(x))


@pytest.mark.parametrize("dynamo", [False, True])
def test_in_another_runtime(result: PruneResult, dynamo: bool, recwarn: pytest.WarningsRecorder) -> None:
    onnxruntime = pytest.importorskip("onnxruntime")
    x, file = torch.randn(2, 5, 4), io.BytesIO()
    torch.onnx.export(
        result.model,
        (x,),
        file,
        dynamo=dynamo,
        input_names=["x"],
        output_names=["y"],
        dynamic_axes={"x": {0: "n", 1: "l"}},
    )
    session = onnxruntime.InferenceSession(file.getvalue(), providers=["CPUExecutionProvider"])
    other = torch.randn(6, 9 if dynamo else 5, 4)  # TorchScript keeps sizes that are computed with as numbers
    torch.testing.assert_close(torch.from_numpy(session.run(None, {"x": other.numpy()})[0]), result.model(other))
    assert not [w for w in recwarn if issubclass(w.category, torch.jit.TracerWarning)]


def test_kept_in_a_file(result: PruneResult) -> None:
    file = io.BytesIO()
    torch.save(result.model, file)
    file.seek(0)
    x = torch.randn(3, 5, 4)
    assert torch.equal(torch.load(file, weights_only=False)(x), result.model(x))


@pytest.mark.parametrize("more", [{}, {"twice": True}])
def test_inputs_in_any_order(more: dict[str, Any]) -> None:
    left, right = torch.randn(2, 5, 4), torch.randn(2, 6, 4)
    graph = rewrite(Removal(tie_axes(trace(Both(), (), {"x": {"left": left, "right": right}, **more})), {}))
    y = graph(**{**more, "x": {"right": right, "left": left}})
    assert torch.equal(y, graph(x={"left": left, "right": right}, **more))
    with pytest.raises(ValueError, match="Nx6x4 for 'x_right', N = 2, got 2x5x4"):
        graph(x={"left": left, "right": left}, **more)
