"""Convolutions in groups of a constant size, beside a constant number of groups, at equal macs; run again to go on.

    python -m benchmarks.group_size --data ../shared/data/cifar10 --out results/group_size_cifar10

Two families of three stages on 32 x 32 images. `resnet`: two residual blocks a stage, 1x1, grouped 3x3 and 1x1 convolutions, half of
the channels inside, as ResNeXt has it. `mobilenet`: two blocks a stage of a grouped 3x3 and a 1x1 convolution, as MobileNetV1 has it
with groups of one channel. Each grouping gets widths that bring its network to the macs of groups of 8 channels at 32, 64 and 128
channels: of all within 2 %, those closest to 1 : 2 : 4. A constant number makes groups wider from stage to stage.

`accuracy.csv` gets a line per network and seed: test accuracy after the last epoch. `networks.csv` has each network's widths, macs,
weights, measured latency and energy by the model of `estimators.energy`, priced with figures for 45 nm and 32 bits (Horowitz,
"Computing's energy problem", ISSCC 2014): 4.6 pJ a multiply-accumulate, 640 pJ a word of DRAM. Measure latency on a quiet machine.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Sequence
from itertools import product
from pathlib import Path

import numpy as np
import pandas as pd
import torch
import torch.nn.functional as F
from matplotlib.figure import Figure
from torch import Tensor, nn

from benchmarks.on_images import accuracy
from benchmarks.resumable import append, common_options, known, note
from estimators import Device, compare_latency, count, estimate_energy
from nas.data import ImageData, load_data
from nas.runtime import half, torch_seed
from nas.tasks import image_task
from nas.training import Alone, TrainingConfig, fit
from search_spaces.layers import Grouping

SHAPE = (3, 32, 32)
KINDS = ("resnet", "mobilenet")
REFERENCE = ("size 8", (32, 64, 128))
GROUPINGS = {
    **{f"size {size}": Grouping(size=size) for size in (1, 2, 4, 8)},
    **{f"number {number}": Grouping(number) for number in (1, 2, 4, 8)},
}
TOLERANCE = 0.02
CPU = torch.device("cpu")
DEVICE = Device(
    "45 nm, 32 bits", macs_per_second=5e10, bytes_per_second=1e10,
    joules_per_mac=4.6e-12, joules_per_byte=160e-12, bytes_per_word=4,
)  # fmt: skip


def layer(c_in: int, c_out: int, kernel: int = 1, stride: int = 1, grouping: Grouping | None = None) -> nn.Sequential:
    """Convolution and batch norm."""
    groups = grouping.groups(c_in, c_out) if grouping else 1
    conv = nn.Conv2d(c_in, c_out, kernel, stride, kernel // 2, groups=groups, bias=False)
    return nn.Sequential(conv, nn.BatchNorm2d(c_out))


class ResNetBlock(nn.Module):
    """1x1, grouped 3x3 and 1x1 convolutions beside a shortcut."""

    def __init__(self, c_in: int, c_out: int, stride: int, grouping: Grouping) -> None:
        super().__init__()
        inside = c_out // 2
        self.reduce = layer(c_in, inside)
        self.spatial = layer(inside, inside, 3, stride, grouping)
        self.expand = layer(inside, c_out)
        self.shortcut = nn.Identity() if (c_in, stride) == (c_out, 1) else layer(c_in, c_out, 1, stride)

    def forward(self, x: Tensor) -> Tensor:
        y = F.relu(self.spatial(F.relu(self.reduce(x))))
        return F.relu(self.expand(y) + self.shortcut(x))


def mobilenet_block(c_in: int, c_out: int, stride: int, grouping: Grouping) -> nn.Module:
    """A grouped 3x3 and a 1x1 convolution."""
    return nn.Sequential(layer(c_in, c_in, 3, stride, grouping), nn.ReLU(), layer(c_in, c_out), nn.ReLU())


def network(kind: str, widths: Sequence[int], grouping: Grouping) -> nn.Sequential:
    """Three stages of two blocks; the later two begin with stride 2."""
    block = ResNetBlock if kind == "resnet" else mobilenet_block
    parts: list[nn.Module] = [layer(3, widths[0], 3), nn.ReLU()]
    c_in = widths[0]
    for stage, width in enumerate(widths):
        parts += [block(c_in, width, 1 + (stage > 0), grouping), block(width, width, 1, grouping)]
        c_in = width
    return nn.Sequential(*parts, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(c_in, 10))


def widths_for(kind: str, grouping: Grouping, budget: int) -> tuple[int, ...]:
    """Widths that the groups divide and that take `budget` macs within 2 %, as near to 1 : 2 : 4 as there are."""
    step = (grouping.size or grouping.number) * (2 if kind == "resnet" else 1)
    found: dict[tuple[int, ...], float] = {}
    for first in range(step, 65, step):
        near = [[round(first * ratio / step + by) * step for by in range(-4, 5)] for ratio in (2, 4)]
        for widths in ((first, *rest) for rest in product(*near)):
            if widths[0] <= widths[1] <= widths[2]:
                found[widths] = sum(abs(np.log(widths[at] / widths[0] / 2**at)) for at in (1, 2))
    for widths in sorted(found, key=found.__getitem__):
        if abs(macs(kind, widths, grouping) / budget - 1) <= TOLERANCE:
            return widths
    raise ValueError(f"no widths take {budget} macs within {TOLERANCE:.0%}, got grouping {grouping}")


def macs(kind: str, widths: Sequence[int], grouping: Grouping) -> int:
    """Of the network, without building its weights: those of its convolutions and its classifier."""
    with torch.device("meta"):
        total, side = 0, SHAPE[1]
        for module in network(kind, widths, grouping).modules():
            if isinstance(module, nn.Conv2d):
                shortcut = kind == "resnet" and module.kernel_size == (1, 1) and module.stride == (2, 2)
                side = side if shortcut else side // module.stride[0]
                total += module.weight.numel() * side**2
            elif isinstance(module, nn.Linear):
                total += module.weight.numel()
    return total


def build(row: pd.Series, seed: int = 0) -> nn.Sequential:
    """The network of a row of `networks.csv`."""
    with torch.random.fork_rng():
        torch.manual_seed(torch_seed(seed, row["kind"], row["grouping"]))
        return network(row["kind"], [int(width) for width in row["widths"].split("-")], GROUPINGS[row["grouping"]])


def design() -> pd.DataFrame:
    """One row a network."""
    rows = []
    for kind, (name, grouping) in product(KINDS, GROUPINGS.items()):
        reference, usual = REFERENCE
        widths = widths_for(kind, grouping, macs(kind, usual, GROUPINGS[reference]))
        module = network(kind, widths, grouping)
        total = count(module, SHAPE).total
        energy = estimate_energy(module, SHAPE, DEVICE)
        rows.append(
            {"kind": kind, "grouping": name, "widths": "-".join(map(str, widths)), "macs": total.macs,
             "params": total.params, "energy_mj": round(1e3 * energy.joules, 4)}
        )  # fmt: skip
    return pd.DataFrame(rows)


def measure(networks: pd.DataFrame, threads: int | None) -> pd.DataFrame:
    """Add the latency of one image, all networks in turns."""
    modules = {index: build(row) for index, row in networks.iterrows()}
    found = compare_latency(modules, SHAPE, threads=threads, runs=100)
    times = [(found[index].median_ms, found[index].p25_ms, found[index].p75_ms) for index in networks.index]
    networks[["latency_ms", "latency_p25_ms", "latency_p75_ms"]] = np.round(times, 3)
    return networks


def train(row: pd.Series, seed: int, data: ImageData, config: TrainingConfig) -> dict[str, object]:
    """Accuracy of one network on test images after the last epoch."""
    module = build(row, seed)
    started = time.perf_counter()
    task = image_task(data)
    fit(Alone(module, task, config, CPU), task.training, config, seed=seed, device=CPU)
    return {"accuracy": accuracy(module, data, data.test), "seconds": round(time.perf_counter() - started, 1)}


def draw(networks: pd.DataFrame, accuracy: pd.DataFrame) -> Figure:
    """Accuracy against latency and against energy; mean and range of seeds."""
    spread = accuracy.groupby(["kind", "grouping"])["accuracy"].agg(["mean", "min", "max"]).reset_index()
    table = networks.merge(spread, on=["kind", "grouping"])
    columns = {"latency_ms": "latency of one image (ms)", "energy_mj": "energy by the model (mJ)"}
    figure = Figure((9, 7), layout="constrained")
    grid = figure.subplots(len(KINDS), len(columns), sharey="row", squeeze=False)
    for (kind, line), (at, (column, title)) in product(zip(KINDS, grid, strict=True), enumerate(columns.items())):
        axes = line[at]
        for rule, colour in (("size", "#1368aa"), ("number", "#d95f02")):
            part = table[(table["kind"] == kind) & table["grouping"].str.startswith(rule)].dropna(subset=[column])
            mean = 100 * part["mean"]
            errors = [mean - 100 * part["min"], 100 * part["max"] - mean]
            label = f"constant {'group size' if rule == 'size' else 'number of groups'}"
            axes.errorbar(part[column], mean, errors, fmt="o", color=colour, label=label, capsize=2)
            for x, y, name in zip(part[column], mean, part["grouping"], strict=True):
                axes.annotate(name.split()[1], (x, y), xytext=(5, 4), textcoords="offset points", fontsize=9)
        axes.set_xlabel(title)
        axes.set_title(kind)
    for line in grid:
        line[0].set_ylabel("test accuracy (%)")
    grid[0][0].legend()
    return figure


def main() -> None:
    """Train and measure what is not there yet."""
    options = parse()
    options.out.mkdir(parents=True, exist_ok=True)
    if options.threads:
        torch.set_num_threads(options.threads)
    files = {name: options.out / f"{name}.csv" for name in ("networks", "accuracy")}
    note(options.out / f"run_{'_'.join(options.parts)}.json", "benchmarks.group_size", options)
    networks = pd.read_csv(files["networks"]) if files["networks"].exists() else design()
    if "latency" in options.parts:
        networks = measure(networks, options.threads)
    networks.to_csv(files["networks"], index=False)
    if "accuracy" in options.parts:
        data = load_data(options.data, seed=0, limit=options.limit)
        config = TrainingConfig(epochs=options.epochs, batch_size=options.batch_size)
        done = known(files["accuracy"], ["kind", "grouping", "seed"])
        with half(options.bfloat16):
            for seed, (_, row) in product(range(options.seeds), networks.iterrows()):
                key = (row["kind"], row["grouping"], seed)
                if key not in done:
                    named = dict(zip(("kind", "grouping", "seed"), key, strict=True))
                    append(files["accuracy"], [{**named, **train(row, seed, data, config)}])
    report(networks, files["accuracy"], options.out)


def report(networks: pd.DataFrame, path: Path, out: Path) -> None:
    """Print the table and draw it, once there is something of both."""
    if path.exists() and "latency_ms" in networks:
        accuracy = pd.read_csv(path)
        draw(networks, accuracy).savefig(out / "group_size.png", dpi=150)
        means = accuracy.groupby(["kind", "grouping"])["accuracy"].agg(["mean", "std", "count"]).reset_index()
        print(networks.merge(means, on=["kind", "grouping"]).to_string(index=False))


def parse() -> argparse.Namespace:
    parser = common_options(__doc__)
    parser.add_argument("--parts", nargs="+", default=["latency", "accuracy"], choices=["latency", "accuracy"])
    parser.add_argument("--seeds", type=int, default=3, help="times that each network is trained")
    parser.add_argument("--epochs", type=int, default=30)
    parser.add_argument("--batch-size", type=int, default=64)
    return parser.parse_args()


if __name__ == "__main__":
    main()
