"""`nas prune` and `nas groups` as a person uses them, on a network trained for a moment on digits."""

from __future__ import annotations

import json
import pickle
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import nn
from torch.utils._pytree import tree_leaves

from nas import prune
from nas.data.dataset import ImageData
from nas.pruning.inputs import read_targets
from nas.pruning.recovery import RECOVERIES, parse_recovery
from nas.pruning.weights import load_model, read_weights
from nas.report import prune_page
from nas.tasks import Task
from nas.training.alone import Alone
from nas.training.config import TrainingConfig
from nas.training.loop import fit
from nas.training.measure import measure
from pruners import load
from tests.commands import run

TARGET = "tests.nas.test_prune:small"
HALVED = [TARGET, "--input", "1x1x8x8", "--target", "macs=0.5"]
QUICK = ["--no-milliseconds"]
RECOVER = [f"{name}:3" if entry.trains else name for name, entry in RECOVERIES.items()]


def small(width: int = 16) -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(1, width, 3, padding=1),
        nn.BatchNorm2d(width),
        nn.ReLU(),
        nn.Conv2d(width, width, 3, padding=1, stride=2),
        nn.BatchNorm2d(width),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(2),
        nn.Flatten(),
        nn.Linear(4 * width, 10),
    )


class Buckets(nn.Module):
    """An operator without a rule, which touches nothing that could be removed."""

    def __init__(self) -> None:
        super().__init__()
        self.inner, self.outer = nn.Linear(6, 16), nn.Linear(16, 4)

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        return self.outer(self.inner(x).relu()), torch.bucketize(x, torch.linspace(-1, 1, 5))


class Tokens(nn.Module):
    """What it takes are numbers of tokens and which of them count."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.inner, self.outer = nn.Embedding(50, 12), nn.Linear(12, 24), nn.Linear(24, 3)

    def forward(self, ids: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        return self.outer(self.inner(self.embed(ids)).relu() * mask[..., None])


def tokens() -> dict[str, torch.Tensor]:
    return {"ids": torch.arange(8).view(1, 8), "mask": torch.ones(1, 8)}


def nothing() -> None:
    """No inputs at all."""


class Wrapper(nn.Module):
    """A model with an attribute that is called as in wrapped models."""

    def __init__(self) -> None:
        super().__init__()
        self.module = nn.Linear(4, 3)


class Several(nn.Module):
    """Returns logits among other things."""

    def __init__(self, kind: str) -> None:
        super().__init__()
        self.network, self.kind = small(), kind

    def forward(self, x: torch.Tensor) -> Any:
        logits = self.network(x)
        return {"dict": {"logits": logits}, "tuple": (None, logits), "few": logits[:, :5], "map": logits[..., None]}[
            self.kind
        ]


@pytest.fixture(scope="module")
def trained(task: Task) -> nn.Module:
    torch.manual_seed(0)
    config = TrainingConfig(epochs=15, batch_size=32)
    learner = Alone(small(), task, config, torch.device("cpu"))
    fit(learner, task.training, config, seed=0, device=torch.device("cpu"))
    return learner.module.eval()


@pytest.fixture(scope="module")
def weights(trained: nn.Module, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("weights") / "small.safetensors"
    save_file(trained.state_dict(), path)
    return path


def test_pruned_repaired_measured_and_loaded_again(
    trained: nn.Module, digits: ImageData, task: Task, tmp_path: Path
) -> None:
    before = {name: value.clone() for name, value in trained.state_dict().items()}
    result, summary = prune(
        trained,
        torch.randn(1, 1, 8, 8),
        {"macs": 0.5},
        data=digits,
        recover=RECOVER,
        milliseconds=False,
        out=tmp_path / "pruned",
    )
    assert summary["after"]["macs"] <= 0.5 * summary["before"]["macs"]
    assert summary["metrics"]["accuracy"]["unit"] == "%"
    assert list(summary["test"]) == ["before", "pruned", *RECOVER]
    assert summary["test"]["before"] == measure(trained, task, task.test, list(task.metrics))
    assert summary["test"]["finetune:3"]["accuracy"] > 0.7
    told = {note["step"]: note for note in summary["recovery"]}
    assert list(told) == RECOVER and "learning_rate" not in told["calibrate"]
    for step in ("match:3", "finetune:3", "distill:3"):
        assert told[step]["learning_rate"] in told[step]["tried"]
    again = load(tmp_path / "pruned", small())
    assert measure(again, task, task.test, list(task.metrics)) == summary["test"]["distill:3"]
    assert all(torch.equal(value, before[name]) for name, value in trained.state_dict().items())
    assert result.summary.difference is not None and result.summary.difference < 1e-4


def test_inputs_come_from_a_function_where_they_are_no_tensor_of_random_numbers() -> None:
    inputs = ["--input", "tests.nas.test_prune:tokens"]
    listed = run("groups", "tests.nas.test_prune:Tokens", *inputs, "--json")
    assert {json.loads(line)["name"] for line in listed.stdout.splitlines()} >= {"embed.weight:1", "inner.weight:0"}
    exact = ["--importance", "l2", "--check-dtype", "float64", "--tolerance", "1e-12", *QUICK]
    pruned = run("prune", "tests.nas.test_prune:Tokens", *inputs, "--target", "params=0.6", *exact, "--json")
    summary = json.loads(pruned.stdout)
    assert summary["after"]["params"] <= 0.6 * summary["before"]["params"] and summary["difference"] < 1e-12


def test_the_check_is_as_asked_for() -> None:
    torch.manual_seed(0)
    example, targets = torch.randn(1, 1, 8, 8), {"macs": 0.5}
    plain = {"importance": "l2", "milliseconds": False}
    assert prune(small(), example, targets, check=False, **plain)[1]["difference"] is None
    with pytest.raises(ValueError, match="removing must equal masking to 1e-30"):
        prune(small(), example, targets, tolerance=1e-30, **plain)
    with pytest.raises(ValueError, match="`check_dtype` must be a floating-point type, got 'int8'"):
        prune(small(), example, targets, check_dtype="int8")


@pytest.mark.parametrize("kind", ["dict", "tuple"])
def test_logits_among_other_things_are_judged_as_logits_alone(kind: str, digits: ImageData) -> None:
    several = Several(kind)
    settings = {
        "importance": "l2",
        "recover": ["calibrate", "finetune:1"],
        "learning_rate": 0.01,
        "milliseconds": False,
    }
    pruned = [
        prune(model, torch.randn(1, 1, 8, 8), {"macs": 0.5}, data=digits, **settings)
        for model in (several, several.network)
    ]
    assert pruned[0][1]["test"] == pruned[1][1]["test"]
    assert isinstance(pruned[0][0].model(torch.randn(2, 1, 8, 8)), {"dict": dict, "tuple": tuple}[kind])


@pytest.mark.parametrize(("kind", "found", "why"), [("few", "2x5", "5 classes, of 10 or more"), ("map", "2x10x1", "")])
def test_data_need_logits_of_their_classes(kind: str, found: str, why: str, digits: ImageData) -> None:
    message = f"the loss of 'digits' must fit what the model returns, got outputs {found} float32 for a target 2 int64: .*{why}"
    with pytest.raises(ValueError, match=message):
        prune(Several(kind), torch.randn(1, 1, 8, 8), {"macs": 0.5}, data=digits)


@pytest.mark.parametrize(
    ("make", "example"), [(lambda: nn.Conv2d(3, 8, 3), torch.randn(1, 3, 16, 16)), (Tokens, tokens())]
)
def test_data_must_be_images_that_the_model_takes(make: Any, example: Any, digits: ImageData) -> None:
    shapes = ", ".join(f"{'x'.join(map(str, x.shape))} {str(x.dtype)[6:]}" for x in tree_leaves(example))
    message = (
        f"must take the inputs of 'digits', got 2x1x8x8 float32 for a model of inputs {shapes}: .*or leave the data out"
    )
    with pytest.raises(ValueError, match=message):
        prune(make(), example, {"macs": 0.5}, data=digits)


def test_the_command_prunes_and_says_what_it_did(weights: Path, tmp_path: Path) -> None:
    common = ["--input", "1x1x8x8", "--weights", weights]
    done = run(
        "prune",
        TARGET,
        *common,
        "--target",
        "macs=0.4",
        "--data",
        "digits",
        "--recover",
        "calibrate",
        "--out",
        tmp_path / "out",
    )
    assert done.returncode == 0, done.stderr
    for said in ("macs", "calibrate", "differs from the masked model", "PyTorch", "ONNX Runtime", "round_to auto: "):
        assert said in done.stdout, said
    assert {path.name for path in (tmp_path / "out").iterdir()} == {
        "plan.json",
        "weights.safetensors",
        "summary.json",
        "report.html",
        "prune.yaml",
        "events.jsonl",
    }
    written = json.loads((tmp_path / "out" / "summary.json").read_text())
    assert written["command"].startswith("nas prune tests.nas.test_prune:small") and written["versions"]["torch"]
    assert (tmp_path / "out" / "report.html").read_text() == prune_page(written)
    assert set(written["milliseconds"]) == {"eager", "onnxruntime"}
    assert set(written["chosen"]) == {"importance", "allocation", "round_to"}
    quiet = run("prune", TARGET, *common, "--target", "params=0.5", "--importance", "l1", *QUICK, "--json")
    summary = json.loads(quiet.stdout)
    assert (
        summary["after"]["params"] <= 0.5 * summary["before"]["params"] and summary["test"] == summary["metrics"] == {}
    )
    assert summary["milliseconds"] == {} and set(summary["chosen"]) == {"allocation", "recover"}


def test_the_command_says_why_the_result_is_a_graph() -> None:
    options = [f"--option={name}" for name in ("d_model=16", "nhead=2", "dim_feedforward=32", "batch_first=true")]
    given = [*options, "--input", "1x5x16", "--target", "macs=0.6", *QUICK]
    done = run("prune", "torch.nn:TransformerEncoderLayer", *given)
    assert done.returncode == 0, done.stderr
    assert "as a graph" in done.stdout and "forward cannot express the smaller shapes: " in done.stdout


def test_the_command_takes_steps_relevance_and_optimal_allocation(weights: Path) -> None:
    common = ["prune", TARGET, "--input", "1x1x8x8", "--weights", weights, "--data", "digits", *QUICK, "--json"]
    done = run(
        *common, "--target", "macs=0.5", "--target", "params=0.8", "--importance", "lrp", "--allocation", "optimal",
        "--steps", "2", "--schedule", "linear", "--round-to", "2", "--min-kept", "6", "--max-ratio", "0.6",
        "--aggregate", "max", "--normalise", "sum",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    summary = json.loads(done.stdout)
    assert all(found["measured"] <= found["asked"] for found in summary["targets"].values())
    assert all(after % 2 == 0 and after >= 7 for _, after in summary["groups"].values())
    assert "importance 1/2: 10 done" in done.stderr and "pruning steps: 1 done" in done.stderr
    by_curves = run(*common, "--target", "macs=0.5", "--allocation", "distortion")
    assert by_curves.returncode == 0 and "distortion: " in by_curves.stderr


def test_the_command_repairs_without_data_on_synthetic_inputs(weights: Path) -> None:
    done = run(
        "prune", TARGET, "--input", "1x1x8x8", "--weights", weights, "--target", "macs=0.5", "--synthetic", "40",
        "--importance", "obs", "--allocation", "distortion", "--recover", "least-squares,calibrate", *QUICK, "--json",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "synthetic inputs: 100 done" in done.stderr and "least squares" in done.stderr
    assert json.loads(done.stdout)["test"] == {}


def test_the_command_measures_latency() -> None:
    """To all of the model's latency and more: what this machine measures is not for a test to say."""
    given = ["--target", "latency_ms=1000ms", "--target", "onnxruntime_ms=1000ms", "--target", "macs=0.9"]
    given += ["--importance", "l2"]
    done = run("prune", TARGET, "--input", "1x1x8x8", *given, *QUICK, "--json")
    assert done.returncode == 0, done.stderr
    summary = json.loads(done.stdout)
    for name in ("latency_ms", "onnxruntime_ms"):
        assert summary["targets"][name]["asked"] == 1000
        assert summary["after"][name] == summary["targets"][name]["measured"] > 0


def test_targets_as_they_are_typed() -> None:
    typed = {"macs": "0.5", "params": "1e6", "latency_ms": "0.8ms", "onnxruntime_ms": "2ms"}
    assert read_targets(typed) == {"macs": 0.5, "params": 1e6, "latency_ms": "0.8ms", "onnxruntime_ms": "2ms"}
    with pytest.raises(ValueError, match="`targets` must be among .*, bound_ms, got 'flops'"):
        prune(small(), torch.randn(1, 1, 8, 8), {"flops": 0.5})
    for name, amount in (("macs", "5ms"), ("latency_ms", "fast"), ("macs", None)):
        with pytest.raises(ValueError, match=f"`targets` must be name=number, .*, got {name}={amount}"):
            read_targets({name: amount})


def test_groups_are_listed() -> None:
    done = run("groups", TARGET, "--input", "1x1x8x8", "--option", "width=4", "--json")
    groups = [json.loads(line) for line in done.stdout.splitlines()]
    assert sum(group["size"] == 4 and not group["protected"] for group in groups) == 2
    assert any(group["protected"] for group in groups)
    assert "protected because" in run("groups", TARGET, "--input", "1x1x8x8").stdout


def test_groups_of_tokens_say_how_inputs_are_given() -> None:
    done = run("groups", "tests.nas.test_prune:Tokens", "--input", "2x5")
    assert (done.returncode, done.stdout) == (2, "") and "Traceback" not in done.stderr
    assert re.search(
        r"`--input` must fit the model, got 2x5: .*give .*module:function", re.sub(r"\s+", " ", done.stderr)
    )


def test_operators_without_a_rule_are_listed_with_the_groups() -> None:
    done = run("groups", "tests.nas.test_prune:Buckets", "--input", "2x6", "--json")
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    assert [line for line in lines if "unknown" in line] == [{"unknown": "aten.bucketize.Tensor", "times": 1}]
    shown = run("groups", "tests.nas.test_prune:Buckets", "--input", "2x6")
    assert "left alone, as its rule is not known: aten.bucketize.Tensor (1 times)" in shown.stderr


@pytest.mark.parametrize("key", ["state_dict", "model", None])
@pytest.mark.parametrize("wrapped", ["", "module.", "_orig_mod.", "module._orig_mod.", "_orig_mod.module."])
@pytest.mark.parametrize("target", ["small", "Wrapper"])
def test_weights_of_wrapped_models_and_checkpoints_are_read(
    key: str | None, wrapped: str, target: str, tmp_path: Path
) -> None:
    """Also of a model with a part called `module`, whose names look like those of a wrapped one."""
    state = globals()[target]().state_dict()
    named = {f"{wrapped}{name}": value for name, value in state.items()}
    torch.save({key: named, "optimizer": {}} if key else named, tmp_path / "w.th")
    model = load_model(f"tests.nas.test_prune:{target}", {}, tmp_path / "w.th")
    assert all(torch.equal(value, state[name]) for name, value in model.state_dict().items())


@pytest.mark.parametrize("suffix", [".th", ".safetensors"])
@pytest.mark.parametrize(
    "content", [b"", b"\0" * 100, b"hello world", b"<!DOCTYPE html>" * 50, b"\x1f\x8b\x08" + b"x" * 50]
)
def test_files_that_are_no_weights_are_said_to_be_none(content: bytes, suffix: str, tmp_path: Path) -> None:
    path = (tmp_path / "w").with_suffix(suffix)
    path.write_bytes(content)
    with pytest.raises(ValueError, match="is no whole weights file"):
        read_weights(path)
    with pytest.raises(ValueError, match="is no whole weights file"):
        read_weights(tmp_path)


def test_weights_in_the_usual_wrapping_are_read(trained: nn.Module, tmp_path: Path) -> None:
    wrapped = {
        "state_dict": {f"module.{name}": value for name, value in trained.state_dict().items()},
        "best_prec1": 91.0,
    }
    torch.save(wrapped, tmp_path / "w.th")
    model = load_model(TARGET, {}, tmp_path / "w.th")
    assert all(torch.equal(value, trained.state_dict()[name]) for name, value in model.state_dict().items())


class Spam:
    def __reduce__(self):
        return (print, ("code ran",))


def test_weights_that_would_run_code_are_refused(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "w.pt").write_bytes(pickle.dumps({"weight": Spam()}, protocol=2))
    with pytest.raises(ValueError, match="is not read, as it could run code"):
        read_weights(tmp_path / "w.pt")
    torch.save({"weight": Spam()}, tmp_path / "v.pt")
    with pytest.raises(ValueError, match="is not read, as it could run code"):
        read_weights(tmp_path / "v.pt")
    assert "code ran" not in capfd.readouterr().out


def test_spoilt_weights_are_refused(weights: Path, trained: nn.Module, tmp_path: Path) -> None:
    (tmp_path / "cut.safetensors").write_bytes(weights.read_bytes()[:-100])
    with pytest.raises(ValueError, match="is no whole weights file"):
        read_weights(tmp_path / "cut.safetensors")
    torch.save(trained.state_dict(), tmp_path / "cut.th")
    (tmp_path / "cut.th").write_bytes((tmp_path / "cut.th").read_bytes()[:-100])
    with pytest.raises(ValueError, match="is no whole weights file"):
        read_weights(tmp_path / "cut.th")
    with pytest.raises(ValueError, match="do not fit 'tests.nas.test_prune:small'"):
        load_model(TARGET, {"width": 8}, weights)
    with pytest.raises(FileNotFoundError, match="no weights at"):
        read_weights(tmp_path / "absent.th")
    torch.save([1, 2], tmp_path / "list.pt")
    with pytest.raises(ValueError, match="must hold a state_dict"):
        read_weights(tmp_path / "list.pt")


@pytest.mark.parametrize(
    "step",
    [
        "finetune",
        "finetune:0",
        "finetune:x",
        "finetune:3s",
        "distill",
        "calibrate:2",
        "match:",
        "match:0s",
        "match:1.5s",
        "magic",
    ],
)
def test_bad_recovery_steps_are_refused(step: str) -> None:
    with pytest.raises(ValueError, match=f"`recover` must be none alone or among .* got '{step}'"):
        parse_recovery(["calibrate", step])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([TARGET, "--input", "1x1x8x8", "--target", "macs=0.0001"], "macs"),
        ([TARGET, "--input", "1x3x8x8", "--target", "macs=0.5"], "`--input` must fit the model, got 1x3x8x8"),
        ([TARGET, "--input", "1x1x8x8", "--target", "macs=half"], "`--target` must be name=number"),
        (
            [TARGET, "--input", "1x1x8x8", "--target", "macs=0.5", "--importance", "magic"],
            "`--importance` must be one of",
        ),
        ([TARGET, "--input", "1x1x8x8", "--target", "macs=0.5", "--ignore", "nothing"], "`--ignore` must name groups"),
        ([*HALVED, "--recover", "calibrate"], "`--recover` calibrate needs images; give `--data`"),
        ([*HALVED, "--importance", "taylor"], "`--importance` taylor needs images; give `--data`"),
        ([*HALVED, "--allocation", "distortion"], "`--allocation` distortion needs images"),
        ([*HALVED, "--synthetic", "40", "--importance", "taylor"], "`--importance` taylor needs images and labels"),
        (
            [*HALVED, "--synthetic", "40", "--recover", "calibrate,finetune:1"],
            "`--recover` finetune:1 needs images and labels",
        ),
        ([*HALVED, "--synthetic", "40", "--data", "digits"], "is for those without data"),
        ([*HALVED, "--synthetic", "-1"], "--synthetic"),
        (
            [TARGET, "--input", "1x1x8x8", "--target", "flops=0.5"],
            "must be among macs, params, weight_bytes, latency_ms, onnxruntime_ms, peak_memory_bytes, energy_mj, bound_ms, got 'flops'",
        ),
        (
            ["tests.nas.test_prune:Tokens", "--input", "2x5", "--target", "macs=0.5"],
            "or module:function, which returns",
        ),
        (
            [TARGET, "--input", "tests.nas.test_prune:nothing", "--target", "macs=0.5"],
            "or a dict by name, got NoneType",
        ),
        ([TARGET, "--input", "1x1x8x8", "--target", "macs=0.5", "--data", "digits", "--mean", "0.5"], "go together"),
        (
            [TARGET, "--input", "1x1x8x8", "--target", "macs=0.5", "--data", "digits", "--batch-size", "0"],
            "`--batch-size`: input should be greater than 1, got 0",
        ),
        (
            [TARGET, "--input", "1x1x8x8", "--target", "macs=0.5", "--distill-weight", "1.5"],
            "`--distill-weight`: input should be less than or equal to 1, got 1.5",
        ),
        (
            ["json:dumps", "--input", "1x1x8x8", "--target", "macs=0.5", "--option", "obj=1"],
            "must return a module, got str",
        ),
        ([TARGET, "--input", "1x1x8x8"], "`--target` is missing"),
        ([TARGET, "--target", "macs=0.5"], "`--input` is missing"),
        (["--input", "1x1x8x8", "--target", "macs=0.5"], "MODEL is missing"),
        ([*HALVED, "--mean", "0.5", "--std", "0.5"], "`--mean`, `--std` must be of images, got none; give `--data`"),
        (["tests.nowhere:small", "--input", "1x1x8x8", "--target", "macs=0.5"], "cannot import 'tests.nowhere'"),
    ],
)
def test_bad_input_is_one_clear_line_and_exit_code_2(arguments: list[str], message: str) -> None:
    done = run("prune", *arguments)
    assert (done.returncode, done.stdout) == (2, ""), done.stderr
    assert message in re.sub(r"[│\s]+", " ", done.stderr) and "Traceback" not in done.stderr
