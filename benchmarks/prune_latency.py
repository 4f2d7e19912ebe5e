"""Prune ResNet-50 and a small vision transformer to a part of their measured latency on this machine; run again to go on.

    python -m benchmarks.prune_latency --out results/prune_latency

One row per model, runtime that the target is measured on (PyTorch eager, ONNX Runtime) and alignment of channels. Weights are
random: latency does not depend on them, and no accuracy is reported. `asked`, `predicted` (the last measurement of the search)
and `measured` (on the result) are milliseconds of the target's runtime for one image. Afterwards both models run on both
runtimes in turns: medians and quartiles in milliseconds. Needs timm and the extra `onnx`. Keep the machine idle.
"""

from __future__ import annotations

import argparse
import csv
import shlex
import sys
import tempfile
import time
import warnings
from collections.abc import Callable
from itertools import product
from pathlib import Path
from typing import Any

import onnxruntime
import torch
from torch import Tensor, nn

from estimators import compare_latency, measure_latency
from nas.runtime import environment, write_json
from pruners import prune
from tests.zoo import declare_missing_operators

MODELS = ("resnet50", "vit_small_patch16_224")
RUNTIMES = ("eager", "onnxruntime")
COLUMNS = (
    "model", "runtime", "round_to", "target", "asked_ms", "predicted_ms", "measured_ms", "macs_before", "macs_after",
    *(f"{runtime}_{which}_{figure}" for runtime in RUNTIMES for which in ("before", "after") for figure in ("ms", "p25", "p75")),
    "threads", "seconds",
)  # fmt: skip


class OnnxRuntime(nn.Module):
    """A model in ONNX Runtime on the CPU, called like the module it was made of."""

    def __init__(self, model: nn.Module, x: Tensor) -> None:
        super().__init__()
        with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
            warnings.simplefilter("ignore")
            path = f"{folder}/model.onnx"
            torch.onnx.export(model.eval(), (x,), path, dynamo=False)
            options = onnxruntime.SessionOptions()
            options.intra_op_num_threads = torch.get_num_threads()
            self.session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])

    def forward(self, x: Tensor) -> Any:
        """Outputs as arrays."""
        return self.session.run(None, {self.session.get_inputs()[0].name: x.numpy()})


def onnxruntime_ms(model: nn.Module, inputs: tuple[Tensor, ...]) -> float:
    """Median milliseconds in ONNX Runtime for one image."""
    x = inputs[0]
    return measure_latency(OnnxRuntime(model, x), x.shape[1:], warmup_s=1.0, runs=25, max_seconds=5.0).median_ms


def make_model(name: str) -> nn.Module:
    """A model with random weights."""
    declare_missing_operators()
    import timm

    torch.manual_seed(0)
    return timm.create_model(name, pretrained=False).eval()


def measure(model: str, runtime: str, round_to: int, target: float) -> dict[str, Any]:
    """One row: prune, then time both models on both runtimes in turns."""
    full, x = make_model(model), torch.randn(1, 3, 224, 224)
    own: dict[str, Callable[..., float]] = {"latency_ms": onnxruntime_ms} if runtime == "onnxruntime" else {}
    started = time.perf_counter()
    result = prune(
        full,
        x,
        {"latency_ms": target},
        estimators=own,
        importance="l2",
        allocation="uniform",
        recover="none",
        round_to=round_to,
    )
    seconds = time.perf_counter() - started
    report = result.summary.targets["latency_ms"]
    both = {"before": full, "after": result.model}
    timed = compare_latency(
        {f"eager_{which}": module for which, module in both.items()}
        | {f"onnxruntime_{which}": OnnxRuntime(module, x) for which, module in both.items()},
        x.shape[1:],
    )
    row = {
        "model": model, "runtime": runtime, "round_to": round_to, "target": target,
        **{f"{key}_ms": round(report[key], 4) for key in ("asked", "predicted", "measured")},
        "macs_before": result.summary.before["macs"], "macs_after": result.summary.after["macs"],
        "threads": torch.get_num_threads(), "seconds": round(seconds, 1),
    }  # fmt: skip
    for name, latency in timed.items():
        figures = {"ms": latency.median_ms, "p25": latency.p25_ms, "p75": latency.p75_ms}
        row |= {f"{name}_{figure}": round(value, 4) for figure, value in figures.items()}
    return row


def main() -> None:
    """Measure what is not measured yet."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("results/prune_latency"), help="folder to write or go on with")
    parser.add_argument("--models", nargs="*", default=MODELS, help="names in timm")
    parser.add_argument(
        "--runtimes", nargs="*", choices=RUNTIMES, default=RUNTIMES, help="what targets are measured on"
    )
    parser.add_argument("--round-to", type=int, nargs="*", default=[1, 8], help="alignments of kept channels")
    parser.add_argument("--target", type=float, default=0.5, help="fraction of the latency that may remain")
    parser.add_argument("--threads", type=int, default=1, help="threads of both runtimes")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    table = options.out / "prune_latency.csv"
    rows: list[dict[str, Any]] = list(csv.DictReader(table.read_text().splitlines())) if table.exists() else []
    done = {tuple(str(row[key]) for key in ("model", "runtime", "round_to", "target", "threads")) for row in rows}
    options.out.mkdir(parents=True, exist_ok=True)
    for model, runtime, round_to in product(options.models, options.runtimes, options.round_to):
        if (model, runtime, str(round_to), str(options.target), str(options.threads)) in done:
            continue
        rows.append(measure(model, runtime, round_to, options.target))
        with table.open("w", newline="") as file:
            writer = csv.DictWriter(file, COLUMNS)
            writer.writeheader()
            writer.writerows(rows)
        command = shlex.join(["python", "-m", "benchmarks.prune_latency", *sys.argv[1:]])
        write_json(options.out / "prune_latency.json", {"command": command, **environment(), "results": rows})
        print(rows[-1])


if __name__ == "__main__":
    main()
