"""A search that also chooses ranks of layers: by the command, exported, and the same in another process."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import nas
from nas.tasks import Batch
from tests.commands import ROOT
from tests.nas.pruning.test_searched import HERE, QUICK, texts

pytestmark = pytest.mark.usefixtures("hurried")


def test_ranks_are_searched_exported_and_the_same_in_another_process(tmp_path: Path) -> None:
    given = {"objectives": ["cosine", "macs"], "trials": 6, **QUICK, "steps": 4, "low_rank": True}
    study = nas.search(model=f"{HERE}:encoder", task=f"{HERE}:texts", out=tmp_path / "run", **given)
    chosen = {choice.name for choice in study.space.choices}
    assert {"inner.rank", "outer.rank"} <= chosen
    arch = next(a for a in map(study.find, study.trials["architecture"]) if a.get("outer.rank") not in (None, 8))
    folder = nas.export(study, arch.key, tmp_path / "e", ("safetensors", "onnx"))
    plan = json.loads((folder / "plan.json").read_text())
    assert plan["ranks"]["outer"] >= 1
    batch = Batch(next(texts().test.batches(4)).inputs)
    with torch.no_grad():
        expected = batch.call(nas.load(folder, study.space))["vector"]
    torch.save({"inputs": batch.inputs, "expected": expected}, tmp_path / "x.pt")
    code = f"""
import nas, onnxruntime, torch
given = torch.load({str(tmp_path / "x.pt")!r})
inputs, expected = given["inputs"], given["expected"]
model = nas.load({str(folder)!r}, space="pruned:{HERE}:encoder")
assert "outer.1.weight" in model.state_dict()
with torch.no_grad():
    assert torch.equal(model(**inputs)["vector"], expected)
session = onnxruntime.InferenceSession({str(folder / "model.onnx")!r})
(found,) = session.run(["vector"], {{name: x.numpy() for name, x in inputs.items()}})
assert torch.allclose(torch.from_numpy(found), expected, atol=1e-5)
"""
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_a_graph_holds_the_factors(tmp_path: Path) -> None:
    given = {"input": "1x1x8x8", "objectives": ["macs", "params"], "trials": 10, **QUICK, "steps": 3, "low_rank": True}
    with pytest.warns(UserWarning, match="without examples"):
        study = nas.search(model=f"{HERE}:classifier", out=tmp_path / "run", **given)
    arch = next(a for a in map(study.find, study.trials["architecture"]) if a["6.rank"] != 6)
    folder = nas.export(study, arch.key, tmp_path / "e")
    described = study.space.build(arch).eval()
    assert "6.1.weight" in described.state_dict()
    with torch.no_grad():
        assert nas.load(folder)(torch.ones(3, 1, 8, 8)).allclose(described(torch.ones(3, 1, 8, 8)), atol=1e-5)
