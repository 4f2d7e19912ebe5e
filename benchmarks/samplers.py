"""What each sampler of supernet training gives for the same number of passes through subnets; run again to go on.

    python -m benchmarks.samplers --data ../shared/data/cifar10 --out results/samplers_cifar10

The space is `resnet-elastic` of depth 20 with widths and depths, 3.0 to 40.8 M macs. Every sampler trains one supernet for the whole
number of epochs whose passes of images through subnets come closest to --passes; all else is equal. Then, with the weights of the
supernet and statistics gathered anew, on validation images: the accuracy of the smallest and of the largest subnet, and of
--architectures random ones, the same for all. `alone.csv` gets a line for each of these random ones trained from scratch for
--alone-epochs, with its test accuracy; `samplers.csv` a line per sampler and seed, and `scores.csv` one per architecture.
`summary.csv` adds Kendall's tau between accuracies in the supernet and alone, over all of them and over pairs of similar macs (at
most 1.25 times as many), and the same of macs as the score.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Sequence
from itertools import combinations

import numpy as np
import pandas as pd
import torch
from matplotlib.figure import Figure

from benchmarks.pooling_ranking import train_alone
from benchmarks.resumable import append, common_options, known, note
from estimators.counting import CostModel
from nas.data import ImageData, load_data
from nas.runtime import half, resolve_device, stream
from nas.samplers import extremes
from nas.scoring import SupernetScorer
from nas.study import RankingConfig
from nas.supernets import SAMPLERS as ENTRIES
from nas.supernets import SupernetConfig, make_learner, make_sampler
from nas.tasks import image_task
from nas.training import TrainingConfig, fit
from pruners.progress import silent
from search_spaces import Architecture, make_space

SAMPLERS = (
    "uniform", "fair", "sandwich", "delayed", "progressive", "sorted", "complexity", "performance", "groups",
)  # fmt: skip
SPACE = make_space("resnet-elastic", depth=20, choices="width,depth", width_ratios=[0.25, 0.5, 1])
SIMILAR = 1.25
MOST_EPOCHS = 1_000


def passes(sampler: str, epochs: int, seed: int) -> int:
    """Passes of the training images through subnets in so many epochs; 0 where the sampler needs more epochs."""
    try:
        made = make_sampler(sampler, SPACE, epochs=epochs, seed=seed)
    except ValueError:
        return 0
    if ENTRIES[sampler].shares_batch:
        return epochs
    rng = np.random.default_rng(seed)
    return sum(len(made.draw(epoch, rng)) for epoch in range(epochs))


def epochs_for(sampler: str, wanted: float, seed: int) -> int:
    """The number of epochs whose passes come closest to those wanted, and for which the sampler works."""
    found = {}
    for epochs in range(1, MOST_EPOCHS):
        if count := passes(sampler, epochs, seed):
            found[epochs] = abs(count - wanted)
            if count > 2 * wanted:
                break
    return min(found, key=found.__getitem__)


def train_supernet(
    sampler: str,
    archs: Sequence[Architecture],
    seed: int,
    data: ImageData,
    config: TrainingConfig,
    device: torch.device,
) -> tuple[dict[str, object], list[float]]:
    """What the training took, with the accuracies of the smallest and largest subnet, and those of `archs`."""
    shared = SupernetConfig(count=1, training=config, sampler=sampler)
    task = image_task(data)
    learner = make_learner(shared, SPACE, task, seed=seed, device=device, mixture=False)
    started = time.perf_counter()
    fit(learner, task.train, config, seed=seed, device=device, name=sampler)
    seconds = time.perf_counter() - started
    scorer = SupernetScorer(learner, SPACE, task, ["accuracy"], RankingConfig())
    smallest, largest, *others = (found["accuracy"] for found in scorer([*extremes(SPACE), *archs], silent))
    steps = len(data.train) // config.batch_size * config.epochs
    figures: dict[str, object] = {
        "epochs": config.epochs, "passes": passes(sampler, config.epochs, seed) * len(data.train), "steps": steps,
        "seconds": round(seconds, 1), "ms_per_step": round(1e3 * seconds / steps, 1), "smallest": smallest, "largest": largest,
    }  # fmt: skip
    return figures, others


def agreement(score: Sequence[float], truth: Sequence[float], pairs: Sequence[tuple[int, int]]) -> float:
    """Kendall's tau-a over some pairs of places: the share of pairs in the same order less that of pairs in the other."""
    signs = [np.sign((score[a] - score[b]) * (truth[a] - truth[b])) for a, b in pairs]
    return round(float(np.mean(signs)), 3)


def summarise(alone: pd.DataFrame, scores: pd.DataFrame, samplers: pd.DataFrame) -> pd.DataFrame:
    """One row per sampler and seed, and one for macs."""
    truth = alone.groupby("architecture")["accuracy"].mean()
    macs = alone.groupby("architecture")["macs"].first()
    every = list(combinations(range(len(truth)), 2))
    similar = [(a, b) for a, b in every if max(macs.iloc[a] / macs.iloc[b], macs.iloc[b] / macs.iloc[a]) <= SIMILAR]

    def taus(score: pd.Series) -> dict[str, float]:
        values = list(score.reindex(truth.index))
        return {
            "tau": agreement(values, list(truth), every),
            "tau_similar_macs": agreement(values, list(truth), similar),
        }

    rows: list[dict[str, object]] = []
    for row in samplers.to_dict("records"):
        part = scores[(scores["sampler"] == row["sampler"]) & (scores["seed"] == row["seed"])]
        score = part.set_index("architecture")["accuracy"]
        rows.append({**row, "mean": round(float(score.mean()), 4), **taus(score)})  # type: ignore[dict-item]
    rows.append({"sampler": "macs", "seed": 0, **taus(macs)})
    return pd.DataFrame(rows)


def draw(alone: pd.DataFrame, scores: pd.DataFrame) -> Figure:
    """Accuracy against macs: subnets with the weights of each supernet (the first seed), and the same trained alone."""
    truth = alone.groupby("architecture")[["macs", "accuracy"]].mean().sort_values("macs")
    figure = Figure((8, 5), layout="constrained")
    axes = figure.subplots()
    axes.plot(truth["macs"] / 1e6, 100 * truth["accuracy"], "k.-", label="trained alone, test images")
    for sampler, part in scores[scores["seed"] == 0].groupby("sampler", sort=False):
        score = part.set_index("architecture")["accuracy"].reindex(truth.index)
        axes.plot(truth["macs"] / 1e6, 100 * score, ".-", lw=0.8, label=str(sampler))
    axes.set_xlabel("macs (M)")
    axes.set_ylabel("accuracy with weights of the supernet (%)")
    figure.legend(loc="outside lower center", fontsize=8, ncols=5)
    return figure


def main() -> None:
    """Train what is not trained yet, and compare what there is."""
    options = parse()
    options.out.mkdir(parents=True, exist_ok=True)
    device = resolve_device(options.device)
    if options.threads:
        torch.set_num_threads(options.threads)
    data = load_data(options.data, seed=0, limit=options.limit, validation_fraction=options.validation_fraction)
    files = {name: options.out / f"{name}.csv" for name in ("alone", "samplers", "scores", "summary")}
    note(options.out / "run.json", "benchmarks.samplers", options)
    rng = stream(0, "architectures")
    archs = [SPACE.sample(rng) for _ in range(options.architectures)]
    macs = CostModel(SPACE).batch(SPACE.encode(archs))["macs"]

    def config(epochs: int) -> TrainingConfig:
        return TrainingConfig(epochs=epochs, batch_size=options.batch_size, learning_rate=options.learning_rate)

    with half(options.bfloat16):
        if "samplers" in options.parts:
            for seed in range(options.seeds):
                for sampler in options.samplers:
                    if (sampler, seed) in known(files["samplers"], ["sampler", "seed"]):
                        continue
                    epochs = epochs_for(sampler, options.passes / len(data.train), seed)
                    found, scores = train_supernet(sampler, archs, seed, data, config(epochs), device)
                    same = {"sampler": sampler, "seed": seed}
                    labels = map(SPACE.label, archs)
                    rows = [
                        {**same, "architecture": label, "accuracy": score}
                        for label, score in zip(labels, scores, strict=True)
                    ]
                    append(files["scores"], rows)
                    append(files["samplers"], [{**same, **found}])
        if "alone" in options.parts:
            for arch, cost in zip(archs, macs, strict=True):
                label = SPACE.label(arch)
                if (label,) not in known(files["alone"], ["architecture"]):
                    found = train_alone(SPACE, arch, data.train, 0, data, config(options.alone_epochs), device)
                    append(files["alone"], [{"architecture": label, "macs": int(cost), **found}])
    if all(files[name].exists() for name in ("alone", "samplers", "scores")):
        tables = {
            name: pd.read_csv(files[name], dtype={"architecture": str}) for name in ("alone", "scores", "samplers")
        }
        if len(tables["alone"]) == len(set(archs)):
            summary = summarise(**tables)
            summary.to_csv(files["summary"], index=False)
            draw(tables["alone"], tables["scores"]).savefig(options.out / "samplers.png", dpi=150)
            print(summary.to_string(index=False))


def parse() -> argparse.Namespace:
    parser = common_options(__doc__)
    parser.add_argument("--parts", nargs="+", default=["samplers", "alone"], choices=["samplers", "alone"])
    parser.add_argument("--samplers", nargs="+", default=list(SAMPLERS), choices=SAMPLERS)
    parser.add_argument("--seeds", type=int, default=1, help="times that each sampler is run")
    parser.add_argument("--architectures", type=int, default=24, help="random ones, to compare")
    parser.add_argument(
        "--passes", type=int, default=5_000_000, help="images through subnets in the training of a supernet"
    )
    parser.add_argument("--alone-epochs", type=int, default=100)
    parser.add_argument("--validation-fraction", type=float, default=0.1)
    parser.add_argument("--batch-size", type=int, default=128)
    parser.add_argument("--learning-rate", type=float, default=0.1)
    parser.add_argument("--device", default="auto")
    return parser.parse_args()


if __name__ == "__main__":
    main()
