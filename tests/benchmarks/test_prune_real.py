"""The study of real models: what a row says, which rows are measured, and what its controls leave out."""

from __future__ import annotations

import dataclasses
import json
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pandas as pd
import pytest
import torch
from torch import Tensor, nn

import nas.pruning
from benchmarks import (
    prune_real,
    real_controls,
    real_models,
    real_packages,
    real_pictures,
    real_texts,
    real_tones,
    result_tables,
)
from benchmarks.real_models import RealModel


def plain() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 32), nn.ReLU(), nn.Linear(32, 16), nn.ReLU(), nn.Linear(16, 4)).eval()


class Stack(nn.Module):
    """Residual layers with a Hugging Face model's configuration; layer i adds `strengths[i]` times something."""

    def __init__(self, strengths: list[float]) -> None:
        super().__init__()
        self.config = SimpleNamespace(num_hidden_layers=len(strengths))
        self.layers = nn.ModuleList(nn.Linear(6, 6) for _ in strengths)
        for layer, strength in zip(self.layers, strengths, strict=True):
            nn.init.eye_(layer.weight)  # type: ignore[arg-type]
            nn.init.constant_(layer.bias, strength)  # type: ignore[arg-type]

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.layers:
            x = x + layer(x)
        return x


def data(n: int, seed: int) -> list[Tensor]:
    return list(torch.randn(n, 6, generator=torch.Generator().manual_seed(seed)).split(8))


def fake(load: Callable[[], nn.Module]) -> RealModel:
    def score(model: nn.Module) -> dict[str, float]:
        x = torch.cat(data(64, 99))
        return {"words_read": 100 - (model(x) - load()(x)).square().mean().item()}

    return RealModel(load, lambda: torch.ones(1, 6), data, score, ("words_read",), (), 32)


@pytest.fixture
def known(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(prune_real, "RUNS", 1)
    for name, load in {"plain": plain, "stack": lambda: Stack([0.5, 0.1, 0.9, 0.2])}.items():
        monkeypatch.setitem(real_models.MODELS, name, fake(load))


def key(model: str, method: str, **others: Any) -> dict[str, Any]:
    return {"model": model, "method": method, "target": "macs=0.5", "seed": 0, "train": ""} | others


@pytest.mark.parametrize("method", ["defaults", "uniform", "random"])
def test_a_row_is_of_a_model_within_the_target(known: None, method: str) -> None:
    row = prune_real.measure(key("plain", method))
    assert 0 < row["macs_after"] <= 0.5 * row["macs_before"] and row["params_after"] < row["params_before"]
    assert row["form"] == "module" and row["words_read"] < 100
    assert row["peak_mib"] >= row["before_mib"] > 0 and row["eager_after_ms"] > 0


def test_defaults_are_given_a_target_and_examples_and_nothing_else(
    known: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    given: dict[str, Any] = {}
    prune = prune_real.prune
    monkeypatch.setattr(prune_real, "prune", lambda *args, **kw: given.update(kw) or prune(*args, **kw))
    prune_real.measure(key("plain", "defaults", seed=3))
    batches = given.pop("batches")
    assert torch.equal(torch.cat(batches), torch.cat(data(32, 3)))
    assert given == {"seed": 3}


def test_training_goes_on_from_the_row_on_more_examples(known: None, monkeypatch: pytest.MonkeyPatch) -> None:
    def match(smaller: nn.Module, model: nn.Module, batches: list[Tensor], *, seconds: float, seed: int) -> Any:
        assert seconds == 0.5 and len(torch.cat(batches)) == 320
        smaller[-1].bias.data += 1  # type: ignore[index]
        return SimpleNamespace(steps=7, rate=0.1)

    monkeypatch.setattr(nas.pruning, "match_", match, raising=False)
    row = prune_real.measure(key("plain", "random", train="distill:0.5"))
    assert row["trained_words_read"] < row["words_read"] and (row["steps_training"], row["learning_rate"]) == (7, 0.1)


def test_the_dense_model_has_the_full_score(known: None) -> None:
    row = prune_real.measure(key("plain", "dense"))
    assert row["words_read"] == 100 and row["macs_after"] == row["macs_before"]


def test_what_goes_wrong_is_the_rows_error(known: None) -> None:
    assert prune_real.attempt(key("plain", "layers")) == {"error": "NoLayers: no layers that can be left out"}


# --- which rows ---


@pytest.fixture
def run(known: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    measured: list[dict[str, Any]] = []

    def call(*options: str) -> list[dict[str, Any]]:
        measured.clear()
        fixed = ["prune_real", "--out", str(tmp_path / "out"), "--models", "crnn"]
        monkeypatch.setattr(sys, "argv", [*fixed, *options])
        monkeypatch.setattr(prune_real, "missing", lambda packages: [])
        monkeypatch.setattr(
            prune_real, "in_own_process", lambda key, threads, limit: measured.append(key) or {"words_read": 90.0}
        )
        prune_real.main()
        return list(measured)

    call.table = tmp_path / "out" / "prune_real.jsonl"  # type: ignore[attr-defined]
    return call


def test_rows_are_measured_once(run: Any) -> None:
    assert [row["seed"] for row in run("--methods", "defaults")] == [0, 1, 2]
    assert run("--methods", "defaults") == []
    assert [row["target"] for row in run("--methods", "defaults", "--targets", "macs=0.8", "--seeds", "0")] == [
        "macs=0.8"
    ]
    assert len(run.table.read_text().splitlines()) == 4
    record = json.loads(run.table.with_suffix(".json").read_text())
    assert len(record["commands"]) == 2 and "torch" in record["versions"]


def test_the_dense_model_is_measured_once_for_all_seeds_and_targets(run: Any) -> None:
    assert len(run("--methods", "dense", "--targets", "macs=0.5", "macs=0.3")) == 1


def test_a_trained_row_serves_as_the_untrained_one_and_not_the_other_way_round(run: Any) -> None:
    assert len(run("--methods", "layers", "--seeds", "0")) == 1
    assert len(run("--methods", "layers", "--seeds", "0", "1", "--train", "distill:480")) == 2
    assert run("--methods", "layers", "--seeds", "0", "1") == []


def test_errors_are_kept_unless_asked_for_again(run: Any) -> None:
    run("--methods", "uniform", "--seeds", "0")
    run.table.write_text(json.dumps(json.loads(run.table.read_text()) | {"error": "killed"}) + "\n")
    assert run("--methods", "uniform", "--seeds", "0") == []
    assert len(run("--methods", "uniform", "--seeds", "0", "--again")) == 1
    assert "error" not in json.loads(run.table.read_text())


def test_packages_that_are_missing_leave_a_model_out(run: Any, monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    wanted = dataclasses.replace(real_models.MODELS["crnn"], packages=("no_such_package",))
    monkeypatch.setitem(real_packages.PACKAGES, "no_such_package", "no-such-package==1")
    assert real_packages.missing(wanted.packages) == ["no-such-package==1"]
    with pytest.raises(ModuleNotFoundError, match="pip install --no-deps --target FOLDER no-such-package==1"):
        real_packages.folder_of("no_such_package")


def test_a_process_that_takes_too_long_is_an_error() -> None:
    assert prune_real.in_own_process(key("crnn", "dense"), 1, 0.01) == {"error": "not done after 0.01 s"}


# --- controls ---


def test_layers_go_by_the_harm_that_their_absence_does() -> None:
    model = Stack([0.5, 0.1, 0.9, 0.2])
    assert real_controls.by_damage(model, data(16, 0))[-1] == "layers.2"
    met = lambda smaller: len(smaller.layers) <= 2  # noqa: E731
    smaller = real_controls.drop_by_damage(model, data(16, 0), met)
    kept = {round(layer.bias[0].item(), 1) for layer in smaller.layers}  # type: ignore[union-attr]
    assert len(kept) == 2 and 0.9 in kept and smaller.config.num_hidden_layers == 2  # type: ignore[union-attr]
    assert len(model.layers) == model.config.num_hidden_layers == 4


def test_the_full_model_is_run_once_on_each_judged_batch(monkeypatch: pytest.MonkeyPatch) -> None:
    model, seen = Stack([0.5, 0.1, 0.9, 0.2]), []
    run = real_controls.run
    monkeypatch.setattr(real_controls, "run", lambda net, x: seen.append(len(net.layers)) or run(net, x))
    batches = data(8 * (real_controls.JUDGED + 1), 0)
    real_controls.by_damage(model, batches)
    assert sorted(seen, reverse=True) == [4] * real_controls.JUDGED + [3] * 4 * real_controls.JUDGED


def test_even_distances_keep_the_first_and_the_last_layer() -> None:
    model = Stack([float(i) for i in range(12)])
    smaller = real_controls.drop_evenly(model, [], lambda m: len(m.layers) <= 4)
    assert [layer.bias[0].item() for layer in smaller.layers] == [0, 4, 7, 11]  # type: ignore[union-attr]


def test_keys_and_values_may_have_fewer_heads() -> None:
    class Attention(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.config = SimpleNamespace(num_attention_heads=4, num_key_value_heads=2)
            self.q_proj, self.k_proj, self.out_proj = nn.Linear(8, 8), nn.Linear(8, 4), nn.Linear(8, 8)

    model = Attention()
    assert real_controls.heads_of(model) == {model.q_proj: 4, model.k_proj: 2}
    assert real_controls.heads_of(plain()) == {}


def test_padding_does_no_harm() -> None:
    class Masked(nn.Module):
        def forward(self, x: Tensor, attention_mask: Tensor) -> Tensor:
            return x

    class Other(Masked):
        def forward(self, x: Tensor, attention_mask: Tensor) -> Tensor:
            return x + 1 + 9 * (1 - attention_mask[..., None])

    mask = torch.tensor([[1.0, 1, 0], [1, 0, 0]])
    inputs = {"x": torch.randn(2, 3, 5), "attention_mask": mask}
    assert real_controls.harm(Other(), real_controls.judges(Masked(), [inputs])) == pytest.approx(1.0)


# --- data ---


def test_words_and_docstrings_held_out_are_not_examples(monkeypatch: pytest.MonkeyPatch) -> None:
    texts = {True: ["Alpha beta gamma delta"], False: ["Beta epsilon zeta Alpha theta"]}
    monkeypatch.setattr(real_texts, "docstrings", lambda measured: texts[measured])
    real_texts.words.cache_clear()
    measured, given = real_texts.words(True), real_texts.words(False)
    real_texts.words.cache_clear()
    assert not {word.lower() for word in measured} & {word.lower() for word in given}
    assert len(measured) + len(given) == 8


def test_pictures_and_tones_are_the_same_every_time() -> None:
    import random

    first, second = (real_pictures.rendered("word", random.Random(1)) for _ in range(2))
    assert torch.equal(first, second) and first.shape == (1, 64, 256) and first.abs().max() <= 1 and first.std() > 0.05
    x, pitch = real_tones.tones(5, 0, measured=True)
    again = real_tones.tones(5, 0, measured=True)
    assert torch.equal(x, again[0]) and not torch.equal(x, real_tones.tones(5, 0, measured=False)[0])
    assert torch.allclose(x.mean(1), torch.zeros(5), atol=1e-5) and torch.allclose(x.std(1), torch.ones(5), atol=1e-2)
    assert ((pitch > 98) & (pitch < 820)).all()


def test_letters_are_read_without_repeats_and_blanks() -> None:
    scores = torch.nn.functional.one_hot(torch.tensor([[0, 1, 1, 0, 1, 2, 2, 0]]), 3).float()
    assert real_pictures.letters(scores, "ab") == ["aab"]


def test_stand_ins_leave_no_trace() -> None:
    from types import ModuleType

    with real_packages.standing_in(a_name_of_no_module=ModuleType("a"), torch=ModuleType("b")):
        assert "a_name_of_no_module" in sys.modules and sys.modules["torch"] is torch
    assert "a_name_of_no_module" not in sys.modules


# --- tables ---


def test_tables_are_means_of_seeds_and_say_what_does_not_run(monkeypatch: pytest.MonkeyPatch) -> None:
    rows = [key("crnn", "defaults", seed=seed) | {"words_read": 90.0 + seed} for seed in (0, 1, 2)]
    rows += [
        key("crnn", "defaults", train="distill:9") | {"words_read": 90.0, "trained_words_read": 99.0}
    ]  # seed 0 again
    rows += [key("crnn", "dense") | {"words_read": 94.0}, key("crnn", "torch-pruning") | {"error": "RuntimeError"}]
    rows += [key("crnn", "layers", target="macs=0.8") | {"error": "not done after 3 s"}]
    rows += [key("crnn", "defaults", target="onnxruntime_ms=0.5") | {"words_read": 70.0}]
    monkeypatch.setattr(result_tables, "read", lambda path: pd.DataFrame(rows))
    table = result_tables.real("macs").set_index("may remain")
    assert table.loc["50%", "defaults"] == "91.0 (90.0 to 92.0)" and table.loc["50%", "dense"] == "94.0"
    assert table.loc["50%", "Torch-Pruning"] == "does not run" and table.loc["80%", "layers left out"] == "too slow"
    assert "random" not in table.columns
    assert result_tables.real("onnxruntime_ms")["defaults"].tolist() == ["70.0"]
