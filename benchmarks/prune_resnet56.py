"""Prune the pretrained CIFAR-10 ResNets by our ways and by others', one row per setting; run again to go on.

    pip install torch-pruning==1.6.1 nni==3.0
    python -m benchmarks.prune_resnet56 --data ../shared/data/cifar10 --weights ../shared/weights --out results/prune_resnet56

Methods, all to the same macs by one counter, and trained alike in the end:
    distortion           importance "obs", allocation "distortion", then least squares
    global               what `prune` does unless told otherwise, squared weights and one ranking of all groups, then least squares
    iterative            the same in 100 steps, each of which scores what is left anew, as Torch-Pruning does
    noise                the first on standard normal noise in place of images
    synthetic            the first on inputs made from the model's batch norms (500, `pruners.synthetic`)
    uniform, random      squared weights or nothing as importance, the same ratio everywhere, then least squares
    torch-pruning        group L2 norms, global, in 400 steps, on a rewrite whose shortcuts are exact 0/1 convolutions
    torch-pruning-inner  the same, held to the channels inside blocks
    nni-l1-inner         NNI's L1 pruner with its speedup, the same ratio in every block, held to the channels inside blocks
    nni-fpgm-inner       the same with its pruner by geometric medians

`--channels inner` holds ours and the controls to the channels inside blocks as well, `all` lets them take any. Test accuracy (%) with
weights as they were (`cut`), after BN recalibration (`recalibrated`), after least squares instead (`least_squares`), and after one
epoch on all 50,000 training images (`trained`, from least squares where there is such, else from recalibration), at its last
step. 1,000 unlabelled training images serve criteria, curves, recalibration and least squares; of `noise` and
`synthetic` recalibration alone, of a copy, for comparison. Nothing is chosen on test images.

With several `--rates` each method has the learning rate that does best for it at that size: the first seed's model is trained on
nine tenths of the training images with each, and the held-out tenth decides (`rates.csv`). Those rows say `chosen` as their `recipe`.
With `--distill` the epoch follows the unpruned model as well as the labels, as `nas prune --recover distill:1` does by default, at the
usual learning rate; those rows say `distilled`.
"""

from __future__ import annotations

import argparse
import copy
import csv
import logging
import time
import warnings
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from itertools import islice, product
from multiprocessing import get_context
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from benchmarks.on_images import accuracy
from benchmarks.resumable import note
from estimators import compare_latency, count
from examples.cifar_resnet import BasicBlock, CifarResNet, pretrained
from nas.data import ImageData, Split, batches, load_data, with_normalisation
from nas.runtime import stream
from nas.tasks import Images, image_task
from nas.training import Alone, Distillation, Distilled, TrainingConfig, fit
from pruners import groups, least_squares_, noise, prune, recalibrate_, synthetic

WEIGHTS = {"resnet20": "resnet20-12fca82f.th", "resnet56": "resnet56-4bfd9763.th"}
OURS = {
    "distortion": ("obs", "distortion"),
    "global": ("l2", "global"),
    "iterative": ("l2", "global"),
    "noise": ("obs", "distortion"),
    "synthetic": ("obs", "distortion"),
    "uniform": ("l2", "uniform"),
    "random": ("random", "uniform"),
}
INPUTS: dict[str, Callable[..., list[Tensor]]] = {
    "noise": lambda model, example, seed: noise(example, seed=seed),
    "synthetic": synthetic,
}
STEPS = {"iterative": 100}
NNI = {"nni-l1-inner": "L1NormPruner", "nni-fpgm-inner": "FPGMPruner"}
METHODS = (*OURS, "torch-pruning", "torch-pruning-inner", *NNI)
SHAPE = (3, 32, 32)
LATENCY_BATCH = 32
USUAL_RATE = 0.02
SETTING = ("model", "speedup_asked", "method", "channels")
KEY = (*SETTING, "seed", "recipe")
COLUMNS = (
    *KEY, "learning_rate", "macs_speedup", "params", "form", "dense", "cut", "recalibrated", "least_squares", "trained",
    "latency_ms", "latency_dense_ms", "latency_speedup", "seconds_prune", "seconds_least_squares", "seconds_training",
)  # fmt: skip


class Padding(nn.Module):
    """The zero-padded shortcut as a convolution of stride 2 whose weights are 0 and 1: the same function."""

    def __init__(self, c_in: int, c_out: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(c_in, c_out, 1, 2, bias=False)
        pad = (c_out - c_in) // 2
        with torch.no_grad():
            self.conv.weight.copy_(F.pad(torch.eye(c_in), (0, 0, pad, c_out - c_in - pad))[:, :, None, None])

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(x)


def with_convolutions(model: CifarResNet) -> CifarResNet:
    """The same function with convolutions as shortcuts where channels are padded."""
    result = copy.deepcopy(model)
    for block in result.modules():
        if isinstance(block, BasicBlock) and not isinstance(block.shortcut, nn.Identity):
            block.shortcut = Padding(block.conv1.in_channels, block.conv1.out_channels)
    return result


def inner(model: nn.Module) -> list[nn.Module]:
    """Layers whose outputs stay inside a block."""
    return [block.conv1 for block in model.modules() if isinstance(block, BasicBlock)]


def shared_channels(model: nn.Module, x: Tensor) -> list[str]:
    """Groups that reach a shortcut: those that the first convolution or a block's last norm takes part in."""
    found = [group for group in groups(model, x) if not group.protected]
    return [g.name for g in found if any("bn2" in m.tensor or m.tensor.startswith("conv1") for m in g.members)]


def by_torch_pruning(model: CifarResNet, budget: float, within_blocks: bool) -> nn.Module:
    """Torch-Pruning's global group L2 in small steps, as its CIFAR recipe does, until the macs are within the budget."""
    import torch_pruning as tp  # type: ignore[import-not-found]

    smaller = with_convolutions(model)
    ignored: list[nn.Module] = [smaller.linear]
    if within_blocks:
        kept = set(inner(smaller))
        ignored += [m for m in smaller.modules() if isinstance(m, nn.Conv2d) and m not in kept]
    pruner = tp.pruner.BasePruner(
        smaller, torch.randn(1, *SHAPE), tp.importance.GroupMagnitudeImportance(p=2),
        global_pruning=True, pruning_ratio=1.0, iterative_steps=400, ignored_layers=ignored,
    )  # fmt: skip
    while count(smaller, SHAPE).total.macs > budget:
        pruner.step()
    return smaller


def by_nni(model: CifarResNet, budget: float, pruner: str) -> nn.Module:
    """A pruner of NNI with its speedup: the least ratio, the same for the first convolution of every block, within the budget.

    Its own tracer fails on functions of today's torch that have no module (`AttributeError` in `concrete_tracer`), so its speedup is
    given the graph of `torch.fx`, as it allows. Where all convolutions are named, it leaves channels that reach a shortcut as they are.
    It works in a process of its own, as importing it changes how torch takes its containers apart.
    """
    shortcuts = with_convolutions(model)
    with ProcessPoolExecutor(1, get_context("spawn")) as process:
        low, high, smaller = 0, 64, None  # in parts of 64, the most channels of a layer
        while high - low > 1:
            middle = (low + high) // 2
            found = process.submit(sped_up, shortcuts, pruner, middle / 64, SHAPE).result()
            if count(found, SHAPE).total.macs > budget:
                low = middle
            else:
                high, smaller = middle, found
    if smaller is None:
        raise ValueError(f"{pruner} has no ratio below 1 within {budget:.0f} macs; ask for less")
    return smaller


def sped_up(model: nn.Module, pruner: str, ratio: float, shape: tuple[int, ...]) -> nn.Module:
    """A model after a pruner of NNI and its speedup."""
    warnings.simplefilter("ignore")
    from nni.compression import pruning
    from nni.compression.speedup import ModelSpeedup

    logging.getLogger("nni").setLevel(logging.CRITICAL)
    model.eval()
    at = {module: name for name, module in model.named_modules()}
    made = getattr(pruning, pruner)(model, [{"op_names": [at[layer] for layer in inner(model)], "sparse_ratio": ratio}])
    _, masks = made.compress()
    made.unwrap_model()
    graph = torch.fx.symbolic_trace(model)
    ModelSpeedup(model, torch.zeros(2, *shape), masks, graph_module=graph).speedup_model()
    return model


def trained(
    model: nn.Module, rate: float, split: Split, seed: int, data: ImageData, teacher: nn.Module | None = None
) -> nn.Module:
    """A copy of a model after one epoch on a part of the data, on labels or towards a teacher as well."""
    config = TrainingConfig(epochs=1, learning_rate=rate, final_learning_rate=rate / 100)
    result, device = copy.deepcopy(model), torch.device("cpu")
    task = image_task(data)
    alone = Alone(result, task, config, device)
    learner = alone if teacher is None else Distilled(result, task, teacher, config, Distillation(), device)
    fit(learner, Images(data, split), config, seed=seed, device=device)
    return result


def held_out(model: nn.Module, rates: Sequence[float], seed: int, data: ImageData) -> dict[float, float]:
    """Learning rate -> accuracy (%) on the held-out images after an epoch on the others."""
    return {
        rate: round(100 * accuracy(trained(model, rate, data.train, seed, data), data, data.validation), 2)
        for rate in rates
    }


def measure(
    model: CifarResNet,
    speedup: float,
    method: str,
    channels: str,
    seed: int,
    data: ImageData,
    rate_for: Callable[[nn.Module], float] | None,
    distill: bool = False,
) -> dict:
    """One row; `rate_for` gives the learning rate of the epoch of training, None leaves training out; `model` teaches it or not."""

    def score(network: nn.Module) -> str:
        return f"{100 * accuracy(network, data, data.test):.2f}"

    sample = [x for x, _ in islice(batches(data.training, data, 100, rng=stream(seed, "calibration")), 10)]
    row: dict[str, object] = {"dense": score(model)}
    macs = count(model, SHAPE).total.macs
    start = time.perf_counter()
    seen = INPUTS[method](model, sample[0], seed=seed) if method in INPUTS else sample
    if method in OURS:
        importance, allocation = OURS[method]
        result = prune(
            model, sample[0][:2], {"macs": 1 / speedup}, importance=importance, allocation=allocation, batches=seen, seed=seed,
            recover="none", depth=False, max_ratio=0.95, steps=STEPS.get(method, 1),
            ignore=shared_channels(model, sample[0][:2]) if channels == "inner" else [],
        )  # fmt: skip
        smaller, row["form"] = result.model, result.summary.form
    elif method in NNI:
        smaller = by_nni(model, macs / speedup, NNI[method])
    else:
        smaller = by_torch_pruning(model, macs / speedup, method.endswith("inner"))
    row["seconds_prune"] = f"{time.perf_counter() - start:.1f}"
    total = count(smaller, SHAPE).total
    row |= {"macs_speedup": f"{macs / total.macs:.3f}", "params": total.params, "cut": score(smaller)}
    latency = compare_latency(
        {"dense": model, "smaller": smaller}, SHAPE, batch_size=LATENCY_BATCH, warmup_s=1.0, runs=30
    )
    row |= {
        "latency_ms": f"{latency['smaller'].median_ms:.2f}",
        "latency_dense_ms": f"{latency['dense'].median_ms:.2f}",
    }
    row["latency_speedup"] = f"{latency['dense'].median_ms / latency['smaller'].median_ms:.2f}"
    recalibrated = copy.deepcopy(smaller)
    recalibrate_(recalibrated, sample)
    row["recalibrated"] = score(recalibrated)
    if method in OURS:
        start = time.perf_counter()
        least_squares_(smaller, model, result.plan, seen)
        row |= {"seconds_least_squares": f"{time.perf_counter() - start:.1f}", "least_squares": score(smaller)}
    else:
        smaller = recalibrated
    if rate_for is not None:
        row["learning_rate"] = rate = rate_for(smaller)
        start = time.perf_counter()
        after = trained(smaller, rate, data.training, seed, data, teacher=model if distill else None)
        row |= {"seconds_training": f"{time.perf_counter() - start:.1f}", "trained": score(after)}
    return row


def best_rate(
    tried: Path, setting: dict[str, str], model: nn.Module, rates: Sequence[float], seed: int, data: ImageData
) -> float:
    """The learning rate that does best on held-out images, of those in the file for the setting; they are tried if there are none."""
    rows = read(tried)
    own = [row for row in rows if all(row[k] == v for k, v in setting.items())]
    if not own:
        found = held_out(model, rates, seed, data)
        own = [{**setting, "learning_rate": str(rate), "held_out": str(score)} for rate, score in found.items()]
        write(tried, rows + own)
    return float(max(own, key=lambda row: float(row["held_out"]))["learning_rate"])


def read(path: Path) -> list[dict[str, str]]:
    """The rows of a table; none where there is no table."""
    return list(csv.DictReader(path.read_text().splitlines())) if path.exists() else []


def write(path: Path, rows: Sequence[dict[str, str]]) -> None:
    """Write a table anew."""
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)


def main() -> None:
    """Measure what is not measured yet."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", required=True, help="CIFAR-10, as for `nas search --data`")
    parser.add_argument("--weights", type=Path, required=True, help="folder of the pretrained files")
    parser.add_argument("--out", type=Path, required=True, help="folder to write, or to go on with")
    parser.add_argument("--models", nargs="+", default=["resnet56", "resnet20"], choices=list(WEIGHTS))
    parser.add_argument("--speedups", nargs="+", type=float, default=[2.0, 3.0, 1.5], help="dense macs / pruned macs")
    parser.add_argument("--methods", nargs="+", default=list(METHODS), choices=METHODS)
    parser.add_argument("--channels", nargs="+", default=["inner"], choices=["inner", "all"])
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    training = parser.add_mutually_exclusive_group()
    training.add_argument("--rates", nargs="+", type=float, help="learning rates to choose among; without it, 0.02")
    training.add_argument("--distill", action="store_true", help="train towards the unpruned model, too")
    training.add_argument("--no-training", action="store_true", help="leave out the epoch of training")
    options = parser.parse_args()
    table, tried = options.out / "prune_resnet56.csv", options.out / "rates.csv"
    options.out.mkdir(parents=True, exist_ok=True)
    rows = read(table)
    data = load_data(options.data, seed=0, validation_fraction=0.1)
    data = with_normalisation(data, (0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
    settings = product(options.seeds, options.models, options.speedups, options.methods, options.channels)
    for seed, name, speedup, method, channels in settings:
        if method not in OURS:
            channels = "inner" if method.endswith("inner") else "all"
        setting = dict(zip(SETTING, map(str, (name, speedup, method, channels)), strict=True))
        recipe = "chosen" if options.rates else "distilled" if options.distill else "usual"
        key = {**setting, "seed": str(seed), "recipe": recipe}
        before = next((row for row in rows if all(row[k] == v for k, v in key.items())), None)
        if before and (before["trained"] or options.no_training):
            continue

        def rate_for(model: nn.Module, setting: dict[str, str] = setting, seed: int = seed) -> float:
            return best_rate(tried, setting, model, options.rates, seed, data) if options.rates else USUAL_RATE

        model = pretrained(options.weights / WEIGHTS[name])
        found = measure(
            model, speedup, method, channels, seed, data, None if options.no_training else rate_for, options.distill
        )
        row = {**key, **found}
        rows = [other for other in rows if other is not before] + [{c: str(row.get(c, "")) for c in COLUMNS}]
        write(table, rows)
        note(options.out / "prune_resnet56.json", "benchmarks.prune_resnet56", options)
        print({k: v for k, v in rows[-1].items() if v}, flush=True)


if __name__ == "__main__":
    main()
