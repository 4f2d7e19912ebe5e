"""Models on inputs of any kind in ONNX Runtime: the same outputs, whatever is given and returned, and the model left alone."""

from __future__ import annotations

import io
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from estimators import compare_latency, measure_latency, onnxruntime_ms
from estimators.latency import compare_on_example
from estimators.latency.measure import evaluating
from estimators.latency.runtimes import RUNTIMES, prepare
from estimators.latency.staircase import MAKERS

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
    with evaluating([model]):
        ran = prepare(model, args, kwargs, "onnxruntime", 1)()
    for found, wanted in zip(ran, (expected["logits"], expected["hidden"][0]), strict=True):
        torch.testing.assert_close(torch.from_numpy(found), wanted)
    assert (model.training, model.outer.training, model.norm.training) == (True, True, False)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    torch.testing.assert_close(prepare(model.eval(), args, kwargs, "eager", 1)(), expected)


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
    given = (torch.zeros(1, 3),)
    assert len(prepare(nn.Linear(3, 2).eval(), given, {}, "onnxruntime", 1)()) == 1  # type: ignore[arg-type]
    assert asked == [False, True]
    monkeypatch.setattr("torch.onnx.export", lambda *_, **__: exec("raise RuntimeError('no way\\nat all')"))
    with pytest.raises(ValueError, match="^Linear cannot be exported to ONNX: no way; measure it eager$"):
        prepare(nn.Linear(3, 2), given, {}, "onnxruntime", 1)


def test_a_session_in_turns_leaves_the_processor_to_the_others(monkeypatch: pytest.MonkeyPatch) -> None:
    import onnxruntime

    made, session = [], onnxruntime.InferenceSession

    def recorded(model: bytes, options: Any, **settings: Any) -> Any:
        made.append(options)
        return session(model, options, **settings)

    monkeypatch.setattr(onnxruntime, "InferenceSession", recorded)
    model = nn.Conv2d(3, 4, 3)
    compare_on_example({"a": model, "b": model}, (torch.zeros(1, 3, 8, 8),), {}, "onnxruntime", runs=10)
    MAKERS["onnxruntime"]("conv", (2, 2), torch.device("cpu"), 8)
    assert [options.get_session_config_entry("session.force_spinning_stop") for options in made] == [
        "1"
    ] * 5  # both anew in the second turn
    assert all(options.intra_op_num_threads == torch.get_num_threads() for options in made)


def test_milliseconds_of_a_shape_a_tensor_and_names() -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU())
    for inputs in ((3, 8, 8), torch.zeros(2, 3, 8, 8), (torch.zeros(1, 3, 8, 8),), {"input": torch.zeros(1, 3, 8, 8)}):
        assert onnxruntime_ms(model, inputs) > 0
    assert model.training


def test_runtimes_are_named_and_on_the_cpu() -> None:
    model = nn.Linear(3, 2)
    with pytest.raises(ValueError, match="no runtime is named 'onnx'; did you mean onnxruntime"):
        compare_on_example({"a": model}, (torch.zeros(1, 3),), {}, "onnx")
    with pytest.raises(ValueError, match="onnxruntime is measured on the CPU, got device 'meta'"):
        prepare(model, (torch.zeros(1, 3, device="meta"),), {}, "onnxruntime", 1)


@pytest.mark.parametrize("runtime", [name for name in RUNTIMES if name != "compile"])
def test_networks_take_turns_on_inputs_of_their_own(runtime: str) -> None:
    tokens, options = Tokens(), {"runs": 5, "warmup_s": 1e-3}
    by_name = {"ids": IDS, "mask": torch.ones(1, 8)}
    for inputs in ((IDS,), by_name, (IDS, None, torch.ones(1, 8))):
        found = compare_latency({"a": tokens, "b": tokens}, inputs, runtime=runtime, **options)  # type: ignore[arg-type]
        assert found["a"].median_ms > 0 and found["a"].batch_size == 1 and found["b"].runtime == runtime
    assert tokens.training
    with pytest.raises(ValueError, match="`batch_size` is for the shape of a sample, got 4 beside inputs"):
        measure_latency(tokens, by_name, batch_size=4)
    with pytest.raises(ValueError, match=r"must run on a batch of shape \(2,\), and does not: .* or its own inputs"):
        measure_latency(nn.Linear(3, 2), torch.zeros(2), runs=5)
