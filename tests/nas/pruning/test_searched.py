"""A search inside any trained model, for any task: how it is asked for, what it leaves, and what it refuses."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from safetensors.torch import save_file
from torch import Tensor, nn

import nas
import pruners
from nas.pruning import pruned_space
from nas.study import configure, recorded_config, write_recorded
from nas.tasks import Batch, Task, task
from search_spaces.core import put
from tests.commands import ROOT, lines, run

pytestmark = pytest.mark.usefixtures("hurried")
HERE = "tests.nas.pruning.test_searched"
QUICK: dict[str, Any] = {"strategy": "random", "device": "cpu", "steps": 2}


def classifier(width: int = 6, classes: int = 10) -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(1, width, 3, stride=2), nn.BatchNorm2d(width), nn.ReLU(), nn.Conv2d(width, width, 3), nn.ReLU(), nn.Flatten(),
        nn.Linear(width, classes),
    )  # fmt: skip


class Encoder(nn.Module):
    """Texts of any length to a vector each, in a dict, as encoders return it."""

    def __init__(self) -> None:
        super().__init__()
        self.words, self.inner, self.outer = nn.Embedding(20, 8), nn.Linear(8, 16), nn.Linear(16, 8)

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> dict[str, Tensor]:
        x = self.words(input_ids)
        x = x + self.outer(self.inner(x).relu())
        mask = attention_mask[..., None].float()
        return {"vector": (x * mask).sum(1) / mask.sum(1)}


def encoder() -> nn.Module:
    torch.manual_seed(0)
    return Encoder()


def cosine(outputs: Any, target: Tensor) -> float:
    return torch.cosine_similarity(_vector(outputs), target).mean().item()


def broken(outputs: Any, target: Tensor) -> float:
    """Fails for whatever is not the trained model itself."""
    found = cosine(outputs, target)
    if found < 0.999999:
        raise RuntimeError("no figure of this one")
    return found


def _vector(outputs: Any) -> Tensor:
    return outputs["vector"] if "vector" in outputs else outputs.last_hidden_state[:, 0]


def texts(model: nn.Module | None = None, metric: Any = cosine) -> Task:
    """Texts of two lengths, and what the trained encoder makes of them."""
    model, rng, batches = model or encoder(), torch.Generator().manual_seed(1), []
    for length in (6, 9) * 4:
        inputs = {
            "input_ids": torch.randint(1, 20, (4, length), generator=rng),
            "attention_mask": (torch.arange(length) < torch.tensor([[3], [length], [4], [length]])).long(),
        }
        with torch.no_grad():
            batches.append((inputs, _vector(model.eval()(**inputs))))
    rows = _Batches(batches)
    parts = {"validation": rows, "test": rows}
    return task(rows, loss=_distance, metrics={"cosine": (metric, "max")}, **parts)


def _distance(outputs: Any, target: Tensor) -> Tensor:
    return (_vector(outputs) - target).square().mean()


def failing() -> Task:
    return texts(metric=broken)


class _Batches:
    """Batches that can be started anew."""

    def __init__(self, batches: list[Any]) -> None:
        self.batches = batches

    def __iter__(self) -> Any:
        return iter(self.batches)

    def __len__(self) -> int:
        return len(self.batches)


def tokens() -> dict[str, Tensor]:
    return texts().train.head(1).batches(1).__next__().inputs


@pytest.fixture(scope="module")
def found(hurried: None, tmp_path_factory: pytest.TempPathFactory) -> nas.Study:
    """A search inside the encoder, without `input`: the task's first example is the model's."""
    out = tmp_path_factory.mktemp("runs") / "texts"
    settings = {"objectives": ["cosine", "macs"], "trials": 6, **QUICK}
    return nas.search(model=f"{HERE}:encoder", task=f"{HERE}:texts", out=out, **settings)


# --- asking ---


def test_a_model_and_the_short_form_of_its_space_are_one_configuration(tmp_path: Path) -> None:
    options = {"weights": "w.th", "input": "1x1x8x8", "arguments": {"width": 4}, "steps": 4, "ignore": ["1"]}
    long = configure(model=f"{HERE}:classifier", data="digits", **options)
    assert long == configure(f"pruned:{HERE}:classifier", "digits", space_options=options)
    assert long.strategy == "bayesian" and long.alone.which == "none" and long.budget.trials == 200
    further = configure(model="a:b", data="digits", epochs=3, seconds=9)
    assert further.alone.which == "front" and further.alone.training.epochs == 3 and further.budget.trials is None
    save_file(classifier().state_dict(), tmp_path / "w.safetensors")
    common = ["--weights", tmp_path / "w.safetensors", "--data", "digits", "--limit", "100", "--test-limit", "40", "--trials", "2",
              "--device", "cpu", "--strategy", "random", "--steps", "2"]  # fmt: skip
    long_form = ["--model", f"{HERE}:classifier", "--option", "width=6"]
    short_form = ["--space", f"pruned:{HERE}:classifier", "--option", "arguments={width: 6}"]
    runs = []
    for number, words in enumerate([long_form, short_form]):
        assert len(lines(run("search", *words, *common, "--out", tmp_path / f"{number}", "--json"))) >= 1
        runs.append(recorded_config(tmp_path / f"{number}"))
    assert runs[0] == runs[1]
    refused = run("front", tmp_path / "0")
    assert refused.returncode == 2 and "names the function" in refused.stderr
    assert len(lines(run("front", tmp_path / "0", "--trust", "--json"))) >= 1
    again = run("search", "--resume", tmp_path / "0", "--trials", "3", "--trust", "--json")
    assert lines(again) and len(nas.Study.open(tmp_path / "0", trust=True).trials) == 3


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"model": "a:b", "space": "resnet20-pooling"}, "`model` a:b is what is searched, got `space` resnet20-pooling as well"),
        ({"weights": "w.th", "space": "resnet20-pooling"}, "`weights` must come with a trained model, got none; give `model`"),
        ({"model": "a:b", "space_options": {"width": 3}}, "give them as `arguments`"),
        ({"space": "pruned:a:b", "space_options": {"steps": 3}, "steps": 2}, "`steps` stands among the options"),
        ({"model": "a:b", "steps": 99}, "`steps` must be at most 35"),
        ({}, "a search needs a `space`, or a trained `model`"),
    ],
)  # fmt: skip
def test_what_names_no_model_is_refused(given: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        configure(**{"data": "digits", **given})


def test_milliseconds_have_their_unit_where_they_are_milliseconds(found: nas.Study) -> None:
    assert configure(model="a:b", data="digits", limits={"latency_ms": "0.5ms", "macs": "6e7"}).limits == {
        "latency_ms": 0.5,
        "macs": 6e7,
    }
    for limits in ({"macs": "5ms"}, {"latency_ms": "5s"}):
        with pytest.raises(ValueError, match="must be name=number|may be in ms for what is measured in milliseconds"):
            configure(model="a:b", data="digits", limits=limits)
        with pytest.raises(ValueError, match="must be name=number|may be in ms for what is measured in milliseconds"):
            nas.choose(found, limits=limits)
    assert len(nas.choose(found, limits={"latency_ms": "9999ms", "latency_p75_ms": "9999ms"})) == len(found.front)
    bad = run("front", found.folder, "--trust", "--limit", "cosine=3ms")
    assert bad.returncode == 2 and "got cosine=3ms; give a number without a unit" in bad.stderr


# --- any task ---


def test_texts_of_any_length_are_searched_from_the_first_example(found: nas.Study) -> None:
    assert {"cosine", "macs"} <= set(found.front) and len(found.trials) == found.space.size == 3
    first = found.trials.iloc[0]
    assert first["cosine"] == pytest.approx(1, abs=1e-6)  # the trained model itself
    assert "input" not in found.record["space"]["options"]
    assert nas.Study.open(found.folder, trust=True).space.fingerprint == found.space.fingerprint
    assert "network(**inputs)" not in (found.folder / "report.html").read_text()  # none is exported yet


def test_an_exported_encoder_is_the_same_in_another_process(found: nas.Study, tmp_path: Path) -> None:
    label = found.front["architecture"].iloc[0]
    folder = nas.export(found, label, tmp_path / "e", ("safetensors", "onnx"))
    examples = Batch(next(found.task().test.batches(4)).inputs)
    with torch.no_grad():
        expected = examples.call(nas.load(folder, found.space))["vector"]
    torch.save({"inputs": examples.inputs, "expected": expected}, tmp_path / "x.pt")
    code = f"""
import nas, onnxruntime, torch
given = torch.load({str(tmp_path / "x.pt")!r})
inputs, expected = given["inputs"], given["expected"]
model = nas.load({str(folder)!r}, space="pruned:{HERE}:encoder")
with torch.no_grad():
    assert torch.equal(model(**inputs)["vector"], expected)
    longer = {{name: torch.cat([x, x], 1) for name, x in inputs.items()}}
    longer = model(**longer)["vector"], longer
session = onnxruntime.InferenceSession({str(folder / "model.onnx")!r})
(found,) = session.run(["vector"], {{name: x.numpy() for name, x in inputs.items()}})
assert torch.allclose(torch.from_numpy(found), expected, atol=1e-5)
(found,) = session.run(["vector"], {{name: x.numpy() for name, x in longer[1].items()}})
assert torch.allclose(torch.from_numpy(found), longer[0], atol=1e-5)
"""
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "network(**inputs)" in (folder / "README.md").read_text()
    with pytest.raises(ValueError, match="names the function"):
        nas.load(folder)


def test_a_model_of_transformers_stays_one(tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers")
    torch.manual_seed(0)
    sizes = {"hidden_size": 8, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 12}
    config = transformers.BertConfig(vocab_size=20, max_position_embeddings=16, **sizes)
    transformers.BertModel(config).eval().save_pretrained(tmp_path / "bert")
    model = transformers.BertModel.from_pretrained(tmp_path / "bert")
    settings = {"objectives": ["cosine", "params"], "trials": 2, **QUICK}
    study = nas.search(model=f"hf:{tmp_path / 'bert'}", data=texts(model), out=tmp_path / "run", **settings)
    arch = study.trials["architecture"].iloc[-1]
    with pytest.raises(ValueError, match="its first example|`input`|task"):
        nas.Study.open(tmp_path / "run")  # its task was given as an object
    folder = nas.export(study, arch, tmp_path / "e", task=texts(model))
    smaller, batch = nas.load(folder), next(texts(model).test.batches(4))
    assert type(smaller) is type(model)
    smaller.save_pretrained(tmp_path / "saved")
    with torch.no_grad():
        outputs = batch.call(smaller)[0]
        assert torch.equal(outputs, batch.call(pruners.load_pretrained(tmp_path / "saved", type(model)))[0])
        assert sum(x.numel() for x in smaller.parameters()) < sum(x.numel() for x in model.parameters())


def test_examples_of_the_task_are_what_criteria_pass_over() -> None:
    named = {
        name: pruned_space(f"pruned:{HERE}:encoder", texts(), steps=2, importance=name)
        for name in ("auto", "curvature", "l2")
    }
    prints = {name: space.fingerprint for name, space in named.items()}
    assert prints["auto"] == prints["curvature"] != prints["l2"]
    with pytest.raises(ValueError, match="`importance='curvature'` needs `batches`"):
        pruned_space(f"pruned:{HERE}:encoder", input=f"{HERE}:tokens", importance="curvature")


# --- without examples, and what cannot be ---


def test_without_examples_only_costs_are_searched(tmp_path: Path) -> None:
    given: dict[str, Any] = {"model": f"{HERE}:classifier", "input": "1x1x8x8", **QUICK}
    with pytest.raises(
        ValueError, match="accuracy must be measured on examples, got none; give `data` or a `task`, or choose"
    ):
        configure(**given)
    with pytest.raises(ValueError, match="`retrain` front needs examples"):
        configure(**given, objectives=["macs", "params"], epochs=2)
    with pytest.warns(UserWarning, match="knows nothing of what a smaller model still computes"):
        study = nas.search(out=tmp_path / "run", objectives=["macs", "params"], trials=4, **given)
    assert len(study.trials) == 4 and "without examples" in (tmp_path / "run" / "report.html").read_text()
    folder = nas.export(study, study.front["architecture"].iloc[0], tmp_path / "e", ("onnx",))
    assert nas.load(folder)(torch.zeros(3, 1, 8, 8)).shape == (3, 10)  # from its graph
    with pytest.raises(ValueError, match="`input` is missing; give it, or `data` or a `task`"):
        pruned_space(f"pruned:{HERE}:classifier")


def test_data_of_other_classes_are_refused() -> None:
    done = run(
        "search", "--model", f"{HERE}:classifier", "--option", "classes=7", "--data", "digits", "--out", "nowhere"
    )
    assert done.returncode == 2 and "Traceback" not in done.stderr
    said = " ".join(done.stderr.split())
    assert "got 10 classes in 'digits' for the 7 outputs" in said and "whose last layer has 10 outputs" in said
    assert not (ROOT / "nowhere").exists()


def test_a_model_of_which_nothing_can_go_says_why() -> None:
    with pytest.raises(ValueError, match="(?s)classifier|nothing can be removed|protected"):
        pruned_space(f"pruned:{HERE}:classifier", input="1x1x8x8", ignore=["0", "1", "3", "6"])


def test_a_limit_that_what_is_protected_breaks_is_refused_before_any_trial(tmp_path: Path) -> None:
    with pytest.raises(
        ValueError, match=r"has at most params 10: the smallest has params \d+; \d+ groups are protected, such as"
    ):
        nas.search(model=f"{HERE}:classifier", data="digits", limits={"params": 10}, out=tmp_path / "run", **QUICK)
    assert not (tmp_path / "run").exists()


def test_a_candidate_that_fails_is_recorded_and_the_search_goes_on(tmp_path: Path) -> None:
    with pytest.warns(UserWarning, match="trials failed, such as .*no figure of this one"):
        study = nas.search(
            model=f"{HERE}:encoder", task=f"{HERE}:failing", out=tmp_path / "run", objectives=["cosine", "macs"], trials=3, **QUICK
        )  # fmt: skip
    assert len(study.failed) + len(study.trials) == 3 and len(study.trials) == 1
    assert study.failed["reason"].str.contains("no figure of this one").all()


def test_a_function_of_inputs_in_a_file_is_not_imported_unless_trusted(tmp_path: Path) -> None:
    given: dict[str, Any] = {
        "model": f"{HERE}:encoder",
        "input": f"{HERE}:tokens",
        "objectives": ["macs", "params"],
        "trials": 2,
    }
    with pytest.warns(UserWarning, match="without examples"):
        folder = nas.search(out=tmp_path / "run", **given, **QUICK).folder
    with pytest.raises(ValueError, match=f"names the function '{HERE}:tokens'"):
        nas.Study.open(folder, space=f"pruned:{HERE}:encoder")
    assert nas.Study.open(folder, trust=True)
    config = yaml.safe_load((folder / "run.yaml").read_text())
    put(config, ("space", "name"), "pruned:timm:resnet18")
    write_recorded(folder, "run.yaml", yaml.safe_dump(config))
    with pytest.raises(ValueError, match=f"names the function '{HERE}:tokens'"):
        nas.study.read_config(folder / "run.yaml")
