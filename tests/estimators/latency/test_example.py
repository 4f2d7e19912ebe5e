"""Models on inputs of any kind in ONNX Runtime: the same outputs, whatever is given and returned, and the model left alone."""

from __future__ import annotations

import io
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from estimators import onnxruntime_ms
from estimators.latency import OnExample, OnnxExample, compare_on_example

IDS = torch.arange(8).view(1, 8)


class Tokens(nn.Module):
    """Numbers of tokens, a mask, something that is not used, and several outputs by name."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.norm, self.outer = nn.Embedding(50, 12), nn.BatchNorm1d(8), nn.Linear(12, 3)

    def forward(self, ids: Tensor, unused: Tensor | None = None, mask: Tensor | None = None, scale: int = 1) -> Any:
        hidden = self.norm(self.embed(ids))
        logits = self.outer(hidden) * scale
        return {"logits": logits if mask is None else logits * mask[..., None], "hidden": (hidden, None)}


@pytest.mark.parametrize(
    ("args", "kwargs"),
    [
        ((IDS,), {}),
        ((IDS, torch.ones(3)), {"mask": torch.ones(1, 8)}),
        ((), {"mask": torch.linspace(0, 1, 8).view(1, 8), "ids": IDS, "scale": 3}),
    ],
    ids=["one", "unused", "by name"],
)
def test_the_same_outputs_and_the_model_left_alone(args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
    torch.manual_seed(0)
    model = Tokens().train()
    model.norm.eval()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    with torch.no_grad():
        expected = model.eval()(*args, **kwargs)
    model.train()
    model.norm.eval()
    ran = OnnxExample(model, args, kwargs)(torch.zeros(1))
    for found, wanted in zip(ran, (expected["logits"], expected["hidden"][0]), strict=True):
        torch.testing.assert_close(torch.from_numpy(found), wanted)
    assert (model.training, model.outer.training, model.norm.training) == (True, True, False)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    torch.testing.assert_close(OnExample(model.eval(), args, kwargs)(torch.zeros(1)), expected)


def test_what_cannot_be_traced_is_exported_otherwise(monkeypatch: pytest.MonkeyPatch) -> None:
    export, asked = torch.onnx.export, []

    class Program:
        def __init__(self, *given: Any, **settings: Any) -> None:
            buffer = io.BytesIO()
            export(*given, buffer, **{**settings, "dynamo": False})
            self.model_proto = self
            self.content = buffer.getvalue()

        def SerializeToString(self) -> bytes:
            return self.content

    def only_dynamo(*given: Any, dynamo: bool, **settings: Any) -> Any:
        asked.append(dynamo)
        if not dynamo:
            raise RuntimeError("no such operator\nand more")
        return Program(*given, **settings)

    monkeypatch.setattr(torch.onnx, "export", only_dynamo)
    assert len(OnnxExample(nn.Linear(3, 2).eval(), (torch.zeros(1, 3),), {})(torch.zeros(1))) == 1
    assert asked == [False, True]
    monkeypatch.setattr("torch.onnx.export", lambda *_, **__: exec("raise RuntimeError('no way\\nat all')"))
    with pytest.raises(ValueError, match="^Linear cannot be exported to ONNX: no way; measure it eager$"):
        OnnxExample(nn.Linear(3, 2), (torch.zeros(1, 3),), {})


def test_milliseconds_of_a_shape_a_tensor_and_names() -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU())
    for inputs in ((3, 8, 8), torch.zeros(2, 3, 8, 8), (torch.zeros(1, 3, 8, 8),), {"input": torch.zeros(1, 3, 8, 8)}):
        assert onnxruntime_ms(model, inputs) > 0
    assert model.training


def test_runtimes_are_named_and_on_the_cpu() -> None:
    model = nn.Linear(3, 2)
    with pytest.raises(ValueError, match="no runtime is named 'compile'"):
        compare_on_example({"a": model}, (torch.zeros(1, 3),), {}, "compile")
    with pytest.raises(ValueError, match="onnxruntime is measured on the CPU, got device 'meta'"):
        OnnxExample(model, (torch.zeros(1, 3, device="meta"),), {})
