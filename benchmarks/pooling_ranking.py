"""How well supernets order the 36 pooling placements of ResNet-20, beside what one would do without them; run again to go on.

    python -m benchmarks.pooling_ranking --data ../shared/data/cifar10 --out results/pooling_ranking_cifar10

`alone.csv` gets a line per finished network: each placement trained from scratch on all training images (training and validation
part), with its test accuracy after the last epoch. `scores.csv` gets a line per placement for every method and budget, which is a
number of training steps on the training part, the same for all methods:
    single         one supernet, paths drawn uniformly
    mixture-M      balanced mixture of M supernets
    resolution     one supernet in which a block has weights of its own for each resolution that it computes at
    resolution-M   balanced mixture of M such supernets
    parting        as resolution, the weights for a block's resolutions starting as one and parting in training
    grouped        as resolution, four placements in each step, each on a quarter of the batch (sampler `groups`)
    split          one supernet that splits by gradients into 6 at half of the epochs and into 36 at three quarters
    split-early    the same at a sixth and at a third
    fork           one supernet for a sixth of the epochs, then each placement goes on alone from a copy of it
    even           placements trained alone, each for its share of the steps, by validation accuracy
    halving        placements trained alone, the better half of them longer, by validation accuracy
    macs           more is better; free
`ranking.csv` compares each with training alone: Kendall's tau, Spearman's rho, the true rank and test accuracy of the pick, steps and
seconds; `agreement.csv` does so for each seed of training alone against the mean of the others; `front.csv` holds, for each method,
the accuracy alone of the placements on its front of score against macs. Methods and their settings were fixed before any score was
compared with training alone, but for seven that came after the scores of the others were seen: the control `even`, and `split-early`,
`fork`, `resolution`, `resolution-M` and `grouped`, whose settings were fixed before their own scores were; and `parting`, whose
schedule was the best of two by the mean accuracy that subnets inherit, which looks at no training alone.
"""

from __future__ import annotations

import argparse
import math
import time
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from matplotlib.figure import Figure
from scipy.stats import kendalltau, spearmanr

from benchmarks.on_images import accuracy
from benchmarks.resumable import append, common_options, known, note
from estimators.counting import CostModel
from nas.data import ImageData, Split, load_data
from nas.runtime import half, resolve_device, stream, torch_seed
from nas.scoring import SupernetScorer
from nas.study import RankingConfig
from nas.supernets import Splitting, SupernetConfig, make_learner
from nas.tasks import Images, image_task
from nas.training import Alone, TrainingConfig, fit
from pruners.progress import silent
from search_spaces import Architecture, SearchSpace, make_space

METHODS = (
    "single", "mixture-2", "mixture-4", "mixture-8", "resolution", "resolution-2", "parting", "grouped", "split", "split-early", "fork",
    "even", "halving", "macs",
)  # fmt: skip
SPACE = make_space("resnet20-pooling")
BY_RESOLUTION = make_space("resnet20-pooling", weights="per-resolution")
PARTING = make_space("resnet20-pooling", weights="parting")
ARCHS = tuple(SPACE.enumerate())
PANELS = 5
PARTS = {  # fraction of the epochs -> supernets from then on
    "split": {1 / 2: 6, 3 / 4: 36},
    "split-early": {1 / 6: 6, 1 / 3: 36},
    "fork": {1 / 6: 36},
}


def train_alone(
    space: SearchSpace,
    arch: Architecture,
    part: Split,
    seed: int,
    data: ImageData,
    config: TrainingConfig,
    device: torch.device,
) -> dict[str, object]:
    """An architecture from scratch on a part of the data, measured on test images after the last epoch."""
    module = space.build(arch, torch_seed(seed, "alone", arch.key))
    started = time.perf_counter()
    fit(Alone(module, image_task(data), config, device), Images(data, part), config, seed=seed, device=device)
    return {"accuracy": accuracy(module, data, data.test), "seconds": round(time.perf_counter() - started, 1)}


def by_supernet(method: str, seed: int, data: ImageData, config: TrainingConfig, device: torch.device) -> list[float]:
    """Validation accuracy of every placement from trained supernets."""
    kind, _, number = method.partition("-")
    count = int(number) if number.isdigit() else 1
    space = {"resolution": BY_RESOLUTION, "grouped": BY_RESOLUTION, "parting": PARTING}.get(kind, SPACE)
    sampler = "split" if method in PARTS else "groups" if kind == "grouped" else "uniform"
    shared = SupernetConfig(count=count, training=config, sampler=sampler)
    task = image_task(data)
    learner = make_learner(shared, space, task, seed=seed, device=device, mixture=count > 1)
    if isinstance(learner, Splitting):
        splits = {max(1, int(fraction * config.epochs)): parts for fraction, parts in PARTS[method].items()}
        learner = Splitting(learner.team, task, splits, device)
    fit(learner, task.train, config, seed=seed, device=device, name=method)
    scorer = SupernetScorer(learner, space, task, ["accuracy"], RankingConfig())
    return [figures["accuracy"] for figures in scorer(ARCHS, silent)]


def by_even_shares(seed: int, data: ImageData, config: TrainingConfig, device: torch.device) -> list[float]:
    """Every placement alone, for as many steps as there are for each, with a schedule of that length."""
    images = len(data.train) * config.epochs // len(ARCHS)
    scores = []
    for arch in ARCHS:
        module = SPACE.build(arch, torch_seed(seed, "alone", arch.key))
        part = drawn(data.train, images, stream(seed, "part"))
        share = config.model_copy(update={"epochs": 1})
        fit(Alone(module, image_task(data), share, device), Images(data, part), share, seed=seed, device=device)
        scores.append(accuracy(module, data, data.validation))
    return scores


def drawn(split: Split, count: int, rng: np.random.Generator) -> Split:
    """So many images of a split, at random; all where it has fewer."""
    order = torch.from_numpy(rng.permutation(len(split))[:count])
    return Split(split.images[order], split.labels[order])


def by_halving(seed: int, data: ImageData, config: TrainingConfig, device: torch.device) -> list[float]:
    """Successive halving: the same steps in every rung, half of the placements in each; a rung's place comes before accuracy.

    Reference: Jamieson, Talwalkar, "Non-stochastic Best Arm Identification and Hyperparameter Optimization", AISTATS 2016,
    arXiv:1502.07943.
    """
    per_epoch = len(data.train) // config.batch_size
    rungs = math.ceil(math.log2(len(ARCHS)))
    steps = per_epoch * config.epochs / rungs
    modules = {arch: SPACE.build(arch, torch_seed(seed, "alone", arch.key)) for arch in ARCHS}
    scores = dict.fromkeys(ARCHS, 0.0)
    left = list(ARCHS)
    for rung in range(rungs):
        epochs = math.ceil(steps / len(left) / per_epoch)
        images = max(1, round(steps / len(left) / epochs)) * config.batch_size
        budget = config.model_copy(update={"epochs": epochs})
        for arch in left:
            part = drawn(data.train, images, stream(seed, "part", rung))
            fit(
                Alone(modules[arch], image_task(data), budget, device),
                Images(data, part),
                budget,
                seed=seed + rung,
                device=device,
            )
            scores[arch] = rung + accuracy(modules[arch], data, data.validation)
        left = sorted(left, key=scores.__getitem__, reverse=True)[: math.ceil(len(left) / 2)]
    return [scores[arch] for arch in ARCHS]


ALONE = {"even": by_even_shares, "halving": by_halving}


def compare(alone: pd.DataFrame, scores: pd.DataFrame) -> tuple[pd.DataFrame, pd.DataFrame]:
    """The table of methods and the fronts, against the mean accuracy alone of each placement."""
    truth = alone.groupby("architecture")["accuracy"].mean()
    rank = truth.rank(ascending=False).astype(int)
    macs = alone.groupby("architecture")["macs"].first()
    rows, fronts = [], []
    for (method, seed, steps), part in scores.groupby(["method", "seed", "steps"], sort=False):
        score = part.set_index("architecture")["score"].reindex(truth.index)
        pick = score.idxmax()
        rows.append(
            {
                "method": method, "seed": seed,
                "kendall_tau": round(float(kendalltau(score, truth).statistic), 3),
                "spearman_rho": round(float(spearmanr(score, truth).statistic), 3),
                "pick": pick, "true_rank": rank[pick], "accuracy_alone": round(truth[pick], 4),
                "steps": steps, "seconds": part["seconds"].iloc[0],
            }
        )  # fmt: skip
        best = -math.inf
        for name in macs.sort_values().index:
            if score[name] > best:
                best = score[name]
                fronts.append({"method": method, "seed": seed, "steps": steps, "architecture": name, "macs": macs[name],
                               "score": best, "accuracy_alone": round(truth[name], 4)})  # fmt: skip
    return pd.DataFrame(rows), pd.DataFrame(fronts)


def agreement(alone: pd.DataFrame) -> pd.DataFrame:
    """Each training alone as if it were a method, against the mean of the others: as much as can be expected of any method."""
    tables = []
    for seed in sorted(alone["seed"].unique()):
        own = alone["seed"] == seed
        part = alone[own].rename(columns={"accuracy": "score"})
        part = part.assign(method="alone", steps=0, seconds=round(part["seconds"].sum(), 1))
        tables.append(compare(alone[~own], part)[0])
    return pd.concat(tables).drop(columns="steps")


def draw(alone: pd.DataFrame, scores: pd.DataFrame, table: pd.DataFrame) -> Figure:
    """Score against accuracy alone, one panel a method and budget (its first seed)."""
    truth = alone.groupby("architecture")["accuracy"].agg(["mean", "min", "max"])
    firsts = table.drop_duplicates(["method", "steps"])
    rows = math.ceil(len(firsts) / PANELS)
    figure = Figure((3 * PANELS, 3 * rows), layout="constrained")
    panels = figure.subplots(rows, PANELS, sharey=True, squeeze=False)
    for axes in panels.flat[len(firsts) :]:
        axes.remove()
    for axes, row in zip(panels.flat, firsts.itertuples(), strict=False):
        own = (scores["method"] == row.method) & (scores["seed"] == row.seed) & (scores["steps"] == row.steps)
        part = scores[own].set_index("architecture")["score"]
        axes.scatter(part.reindex(truth.index), 100 * truth["mean"], s=14, color="#1368aa")
        axes.scatter([part[row.pick]], [100 * truth["mean"][row.pick]], s=40, facecolors="none", edgecolors="#d95f02")
        budget = f", {row.steps:,} steps" if row.steps else ""
        axes.set_title(f"{row.method}{budget}: tau {row.kendall_tau:.2f}", fontsize=9)
        axes.set_xlabel("score")
    figure.supylabel("test accuracy trained alone (%)", fontsize=9)
    return figure


def main() -> None:
    """Train what is not trained yet, and compare what there is."""
    options = parse()
    options.out.mkdir(parents=True, exist_ok=True)
    device = resolve_device(options.device)
    if options.threads:
        torch.set_num_threads(options.threads)
    data = load_data(options.data, seed=0, limit=options.limit, validation_fraction=0.1)
    shared = {"batch_size": options.batch_size, "learning_rate": options.learning_rate}
    macs = CostModel(SPACE).batch(SPACE.encode(ARCHS))["macs"]
    files = {name: options.out / f"{name}.csv" for name in ("alone", "scores", "ranking", "front")}
    note(options.out / f"run_{'_'.join(options.parts)}.json", "benchmarks.pooling_ranking", options)

    with half(options.bfloat16):
        if "alone" in options.parts:
            config = TrainingConfig(epochs=options.alone_epochs, **shared)
            done = known(files["alone"], ["architecture", "seed"])
            for seed in range(options.seeds):
                for arch, cost in zip(ARCHS, macs, strict=True):
                    if (SPACE.label(arch), seed) not in done:
                        found = train_alone(SPACE, arch, data.training, seed, data, config, device)
                        append(
                            files["alone"],
                            [{"architecture": SPACE.label(arch), "seed": seed, "macs": int(cost), **found}],
                        )
        if "methods" in options.parts:
            config = TrainingConfig(epochs=options.epochs, **shared)
            done = known(files["scores"], ["method", "seed", "steps"])
            steps = len(data.train) // config.batch_size * config.epochs
            for seed in range(options.supernet_seeds):
                for method in options.methods:
                    taken = 0 if method == "macs" else steps
                    if (method, seed, taken) in done or (method == "macs" and seed):
                        continue
                    started = time.perf_counter()
                    if method == "macs":
                        scores = macs.tolist()
                    elif method in ALONE:
                        scores = ALONE[method](seed, data, config, device)
                    else:
                        scores = by_supernet(method, seed, data, config, device)
                    same = {"steps": taken, "seconds": round(time.perf_counter() - started, 1)}
                    labels = map(SPACE.label, ARCHS)
                    append(
                        files["scores"],
                        [{"method": method, "seed": seed, "architecture": label, "score": score, **same}
                         for label, score in zip(labels, scores, strict=True)],
                    )  # fmt: skip
    report(files, options.out)


def report(files: dict[str, Path], out: Path) -> None:
    """Compare the methods once every placement was trained alone."""
    if not (files["alone"].exists() and files["scores"].exists()):
        return
    alone, scores = pd.read_csv(files["alone"]), pd.read_csv(files["scores"])
    if alone["architecture"].nunique() < len(ARCHS):
        print(f"{alone['architecture'].nunique()} of {len(ARCHS)} placements are trained alone; run again to go on")
        return
    ranking, front = compare(alone, scores)
    ranking.to_csv(files["ranking"], index=False)
    if alone["seed"].nunique() > 1:
        agreement(alone).to_csv(out / "agreement.csv", index=False)
    front.to_csv(files["front"], index=False)
    draw(alone, scores, ranking).savefig(out / "ranking.png", dpi=150)
    print(ranking.to_string(index=False))


def parse() -> argparse.Namespace:
    parser = common_options(__doc__)
    parser.add_argument("--parts", nargs="+", default=["alone", "methods"], choices=["alone", "methods"])
    parser.add_argument("--methods", nargs="+", default=list(METHODS), choices=METHODS)
    parser.add_argument("--seeds", type=int, default=3, help="times that each placement is trained alone")
    parser.add_argument("--supernet-seeds", type=int, default=1, help="times that each method is run")
    parser.add_argument("--epochs", type=int, default=100, help="of each method, on the training part")
    parser.add_argument("--alone-epochs", type=int, default=100, help="of training alone, on all training images")
    parser.add_argument("--batch-size", type=int, default=128)
    parser.add_argument("--learning-rate", type=float, default=0.1)
    parser.add_argument("--device", default="auto")
    return parser.parse_args()


if __name__ == "__main__":
    main()
