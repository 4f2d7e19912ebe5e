"""The tables of README and docs/results.md, each from a committed file under results/, rounded here and nowhere else.

`python -m benchmarks.draw_results` writes them between `<!-- table: NAME -->` and `<!-- end -->`.
"""

from __future__ import annotations

import json
import re
import statistics
from collections.abc import Callable

import numpy as np
import pandas as pd

from benchmarks.front_tables import front
from benchmarks.result_files import ROOT, read
from benchmarks.search_tables import strategies

BLOCK = re.compile(r"(<!-- table: ([\w-]+) -->\n).*?(<!-- end -->)", re.DOTALL)

WAYS = {
    "distortion": "`obs`, `distortion` (ours)",
    "iterative": "squared weights in 100 steps (ours)",
    "torch-pruning-inner": "Torch-Pruning, same channels",
    "torch-pruning": "Torch-Pruning, any channels",
    "uniform": "uniform (control)",
    "random": "random (control)",
}
"""Methods of prune_resnet56.csv."""
PLACEMENTS = {
    "macs": "macs, more is better",
    "single": "one supernet",
    "mixture-2": "mixture of 2",
    "mixture-4": "mixture of 4",
    "mixture-8": "mixture of 8",
    "split": "`split`",
    "halving": "no supernet: successive halving",
    "even": "no supernet: each alone for its share",
    "parting": "weights that part",
    "resolution": "weights per resolution",
}
"""Methods of pooling_ranking/ranking.csv that are compared at one budget."""
UNTRAINED = {
    "synflow": "`synflow`",
    "max_entropy": "`max_entropy`",
    "naswot": "`naswot`",
    "gradsign": "`gradsign`",
    "macs": "macs (control)",
    "aggregate without labels": "six scores together",
    "labels, all columns": "learned from 100 labels",
}
"""Scores of zero_cost.json."""

REAL = {
    "defaults": "defaults",
    "distortion": "`obs`, `distortion`",
    "layers": "layers left out",
    "layers-even": "every so many layers",
    "uniform": "uniform",
    "random": "random",
    "torch-pruning": "Torch-Pruning",
    "torch-pruning-uniform": "Torch-Pruning, uniform",
}
"""Methods of prune_real.jsonl; all but the first are controls."""
REAL_METRICS = {
    ("crnn", "words_read"): ("CRNN, words read, %", ".1f"),
    ("crepe-tiny", "within_50_cents"): ("CREPE tiny, pitch within 50 cents, %", ".1f"),
    ("crepe-full", "within_50_cents"): ("CREPE full, pitch within 50 cents, %", ".1f"),
    ("minilm", "cosine"): ("MiniLM, cosine to full embeddings", ".3f"),
    ("minilm", "overlap"): ("MiniLM, overlap of 10 nearest", ".3f"),
    ("smollm2", "perplexity_ratio"): ("SmolLM2, perplexity, dense = 1", ".2f"),
    ("resnet56", "accuracy"): ("ResNet-56, test accuracy, %", ".1f"),
    ("resnet20", "accuracy"): ("ResNet-20, test accuracy, %", ".1f"),
}
"""Figures of prune_real.jsonl, what they are called and how they are rounded."""

# --- tables ---


def pruned(model: str, column: str) -> pd.DataFrame:
    """Means of the seeds with their smallest and largest, one column for each reduction."""
    table = usual(model)
    value = table[column] if column in table else before(table)
    groups = table.assign(value=value).groupby(["method", "speedup_asked"])["value"]
    cells = groups.agg(lambda x: f"{x.mean():.1f} ({x.min():.1f} to {x.max():.1f})").unstack()
    cells = cells.loc[list(WAYS)].rename(index=WAYS)
    cells.columns = [f"{asked:g} times fewer macs" for asked in cells.columns]
    return cells.rename_axis("test accuracy, %").reset_index()


def usual(model: str) -> pd.DataFrame:
    table = read("prune_resnet56_cpu_202611/prune_resnet56.csv")
    return table[(table["model"] == model) & (table["recipe"] == "usual") & table["method"].isin(WAYS)]


def before(table: pd.DataFrame) -> pd.Series:
    """Accuracy before training: after least squares, for Torch-Pruning after BN recalibration."""
    return table["least_squares"].fillna(table["recalibrated"])


def readme_pruning() -> pd.DataFrame:
    """The two of ours and the strongest control at half the macs."""
    both = [pruned("resnet56", column).set_index("test accuracy, %") for column in ("before", "trained")]
    names = [WAYS[name] for name in ("distortion", "iterative", "torch-pruning-inner", "uniform")]
    half = pd.concat([part["2 times fewer macs"] for part in both], axis=1, keys=["before training", "after one epoch"])
    return half.loc[names].rename_axis("ResNet-56 at half the macs, test accuracy (%)").reset_index()


def without_data() -> pd.DataFrame:
    table = read("prune_resnet56_cpu_202611/prune_resnet56.csv")
    table = table[(table["recipe"] == "usual") & table["method"].isin(["distortion", "synthetic", "noise"])]
    names = {"distortion": "1,000 images", "synthetic": "made from batch norms", "noise": "standard normal noise"}
    groups = table.groupby(["model", "speedup_asked", "method"])["least_squares"].mean().unstack("method")
    groups = groups.loc[groups["synthetic"].notna(), list(names)].rename(columns=names)
    cells = groups.map(lambda x: "" if np.isnan(x) else f"{x:.1f}").reset_index()
    named = {"resnet20": "ResNet-20", "resnet56": "ResNet-56"}
    return cells.assign(
        model=cells["model"].map(named), speedup_asked=cells["speedup_asked"].map("{:g} times".format)
    ).rename(columns={"speedup_asked": "fewer macs"})


def zoo() -> pd.DataFrame:
    table = read("prune_zoo_cpu_202611/prune_zoo.csv")
    worst = table[["difference_50", "difference_25"]].max(axis=1)
    groups = table.assign(worst=worst).groupby("source")
    cells = groups.agg(models=("name", "count"), ours=("passed", "sum"), theirs=("tp_finished", "sum"),
                       worst=("worst", "max"), slowest=("seconds", "max"))  # fmt: skip
    cells["worst"], cells["slowest"] = cells["worst"].map("{:.1e}".format), cells["slowest"].map("{:.1f} s".format)
    names = ["library", "models", "proved here", "finished by Torch-Pruning", "largest relative difference", "slowest"]
    return cells.reset_index().set_axis(names, axis=1)


def half_latency() -> pd.DataFrame:
    table = read("prune_latency_cpu_202611/prune_latency.csv").sort_values(["model", "runtime", "round_to"])
    rows = []
    for row in table.to_dict("records"):
        name, kept = row["runtime"], row["macs_after"] / row["macs_before"]
        old, new = (f"{row[f'{name}_{when}_ms']:.1f}" for when in ("before", "after"))
        part = row[f"{name}_after_ms"] / row[f"{name}_before_ms"]
        rows.append([row["model"], {"eager": "PyTorch"}.get(name, "ONNX Runtime"), row["round_to"],
                     old, new, f"{part:.0%}", f"{kept:.0%}"])  # fmt: skip
    names = ["model", "runtime", "channels in multiples of", "ms before", "ms after", "latency kept", "macs kept"]
    return pd.DataFrame(rows, columns=names)


def lever() -> pd.DataFrame:
    table = read("latency_lever_cpu_202611/latency_lever.csv")
    knapsack = table["lever"].map({"latency": "milliseconds", "macs": "macs"})
    return pd.DataFrame({"in the knapsack": knapsack, "latency asked": table["target"].map("{:.0%}".format),
                         "latency kept": table["latency_part"].map("{:.0%}".format),
                         "macs kept": table["macs_part"].map("{:.0%}".format),
                         "test accuracy, %": table["least_squares"].map("{:.1f}".format)})  # fmt: skip


def placements() -> pd.DataFrame:
    table = ranking()
    return pd.DataFrame({"method": table["method"].map(PLACEMENTS), "seed": table["seed"].astype(str),
                         "Kendall's tau": table["kendall_tau"].map("{:.2f}".format),
                         "its pick": table["pick"], "true rank of 36": table["true_rank"].astype(str),
                         "seconds": table["seconds"].map("{:.0f}".format)})  # fmt: skip


def ranking() -> pd.DataFrame:
    """The methods at the first budget, by their mean tau."""
    table = read("pooling_ranking_cifar10_cpu_202611/ranking.csv")
    budget = table.loc[table["method"] == "single", "steps"].max()
    table = table[table["method"].isin(PLACEMENTS) & ~(table["steps"] > 1.2 * budget)]
    means = table["method"].map(table.groupby("method")["kendall_tau"].mean())
    return table.assign(mean=means).sort_values(["mean", "seed"], kind="stable").drop(columns="mean")


def samplers() -> pd.DataFrame:
    rows = []
    short, long = (
        read(f"samplers{part}_cifar10_cpu_202611/summary.csv").set_index("sampler") for part in ("", "_long")
    )
    for name in short.index:
        row = [f"`{name}`" if name != "macs" else "macs as the score"]
        for table in (short, long):
            found = table.loc[name] if name in table.index else None
            mean = "" if found is None or np.isnan(found["mean"]) else f"{100 * found['mean']:.1f}"
            row += [mean, "" if found is None else f"{found['tau']:.2f}"]
        rows.append(row)
    names = ["sampler", "accuracy, %, 128,000 passes", "tau", "accuracy, %, 512,000 passes", "tau "]
    return pd.DataFrame(rows, columns=names)


def untrained() -> pd.DataFrame:
    results = read("zero_cost_nasbench201_cpu_202611/zero_cost.json")["results"]
    rows = [[title, f"{results[name].get('spearman_mean', results[name]['spearman']):.3f}",
             str(results[name].get("ranked", ""))]
            for name, title in UNTRAINED.items()]  # fmt: skip
    return pd.DataFrame(rows, columns=["score", "Spearman", "cells"])


def block_table() -> pd.DataFrame:
    found = read("latency_table_cpu_202611/latency_table.json")["summary"]
    names = {"table_ms": "sum of measured blocks", "macs_line_ms": "a line through macs"}
    rows = [[names[key], f"{100 * found[key]['median_error']:.1f}", f"{100 * found[key]['worst_error']:.1f}",
             f"{found[key]['spearman']:.3f}"] for key in names]  # fmt: skip
    return pd.DataFrame(rows, columns=["predicted by", "median error, %", "worst error, %", "Spearman"])


def transfer() -> pd.DataFrame:
    means = pd.DataFrame(read("latency_transfer_nasbench201_202611/latency_transfer.json")["means"])
    cells = means.pivot_table(index=["design", "samples"], columns="method", values="mean").map("{:.3f}".format)
    names = {"transfer": "with other devices' tables", "ridge": "ridge regression", "from scratch": "from scratch"}
    cells = cells[list(names)].rename(columns=names).reset_index()
    return cells.rename(columns={"samples": "measurements", "design": "cells measured"})


def costs() -> pd.DataFrame:
    rows = [[f"`{row['space']}`", f"{row['batch_per_second_median'] / 1e6:.1f}", f"{row['lookup_us_median']:.1f}",
             f"{row['remembered_lookup_us_median']:.2f}"]
            for row in read("cost_throughput_cpu_202611/cost_throughput.json")["results"]]  # fmt: skip
    return pd.DataFrame(rows, columns=["space", "million a second, in batches", "µs for a new one", "µs remembered"])


def streaming() -> pd.DataFrame:
    """What streamed images cost beside those in memory, and the memory of large folders."""
    steps, passes = (read(f"streaming_cpu_202611/{name}.jsonl").to_dict("records") for name in ("steps", "memory"))
    rows = []
    for step in steps:
        workers = step["workers"]
        held = {row["images"]: row for row in passes if row["workers"] == workers}
        rows.append(
            {
                "workers": workers,
                "step: streamed over memory": f"{step['streamed_over_memory']:.2f}",
                "step: memory over a loop by hand": f"{step['memory_over_by_hand']:.2f}",
                **{f"MiB, {count:,} images": f"{row['peak_mib']} + {row['reader_mib']}" for count, row in held.items()},
            }
        )
    return pd.DataFrame(rows)


def sharing() -> pd.DataFrame:
    """What several workers on one study left after one was killed, and what sharing costs a trial."""
    rows = [[row["storage"], row["trials"], row["architectures"], " + ".join(map(str, row["of_each_worker"])),
             row["begun_twice"], f"{row['seconds']:.0f}", f"{row['overhead_ms']:.0f}"]
            for row in read("shared_study_cpu_202612/shared_study.jsonl").to_dict("records")]  # fmt: skip
    columns = [
        "storage",
        "trials",
        "architectures",
        "trials of each worker",
        "evaluations begun twice",
        "s",
        "between evaluations, ms",
    ]
    return pd.DataFrame(rows, columns=columns)


def faults() -> pd.DataFrame:
    """What was done to searches, and what became of them."""
    signs = {True: "yes", False: "**no**", None: ""}
    rows = [[row["fault"], row["engine"], row["repeats"], row["happened"], signs[row["equal"]], signs[row["as_expected"]],
             f"{row['seconds']:.0f}"]
            for row in map(json.loads, (ROOT / "results/faults_cpu_202612/faults.jsonl").read_text().splitlines())]  # fmt: skip
    columns = ["fault", "engine", "times", "what happened", "ends equal", "as expected", "s"]
    return pd.DataFrame(sorted(rows), columns=columns)


def overhead() -> pd.DataFrame:
    """What a search of costs alone takes, and its command for the front."""
    rows = [[f"`{row['space']}`, {row['strategy']}", f"{row['trials']:,}", f"{row['seconds']:.0f}",
             *(f"{row['seconds_of_each_thousand'][at]:.1f}" for at in (0, 1, -1)), f"{row['peak_mib']:.0f}",
             *(f"{statistics.median(row[f'{name}_seconds']):.1f}" for name in ("front", "version", "torch"))]
            for row in read("search_overhead_cpu_202612/search_overhead.json")["results"]]  # fmt: skip
    columns = [
        "search",
        "trials",
        "s",
        "first thousand, s",
        "second, s",
        "last, s",
        "MiB",
        "`nas front`, s",
        "`nas --version`, s",
        "`import torch`, s",
    ]
    return pd.DataFrame(rows, columns=columns)


def shared() -> pd.DataFrame:
    """Time one by one over time with shared prefixes, and the same for macs, which are all that can be expected."""
    bn = {"paper": "36 placements, batch statistics", "affine": "36 placements, calibrated"}
    sets = {"random": "200 random of NAS-Bench-Macro", "children": "100 children of 10 parents", "all": "all 3,969"}
    rows = [(bn[row["bn"]], row) for row in read("supernet_evaluation_cpu_202611/supernet_evaluation.json")["results"]]
    rows += [(sets[row["set"]], row) for row in read("supernet_step_cpu_202611/evaluation.json")["evaluation"]]
    cells = [[name, f"{row['time_ratio_median']:.1f}", f"{min(row['time_ratios']):.1f} to {max(row['time_ratios']):.1f}",
              f"{row['macs_ratio']:.1f}"] for name, row in rows]  # fmt: skip
    return pd.DataFrame(cells, columns=["subnets", "times faster", "repeats", "times fewer macs"])


def steps() -> pd.DataFrame:
    rows = read("supernet_step_cpu_202611/training.json")["training"]
    cells = [[f"`{row['space']}` {row['architecture']}", f"{row['time_ratio_median']:.2f}",
              f"{min(row['time_ratios']):.2f} to {max(row['time_ratios']):.2f}"] for row in rows]  # fmt: skip
    return pd.DataFrame(cells, columns=["subnet", "time of a step, network alone = 1", "repeats"])


def group_size() -> pd.DataFrame:
    folder = "group_size_cifar10_cpu_202611"
    accuracy = read(f"{folder}/accuracy.csv").pivot_table(index=["kind", "grouping"], columns="seed", values="accuracy")
    table = read(f"{folder}/networks.csv").set_index(["kind", "grouping"]).join(accuracy).reset_index()
    names = {"resnet": "ResNet", "mobilenet": "MobileNet"}
    return pd.DataFrame({"blocks": table["kind"].map(names), "groups of constant": table["grouping"],
                         **{f"accuracy, %, seed {seed}": table[seed].map("{:.1%}".format).str[:-1] for seed in (0, 1)},
                         "latency, ms": table["latency_ms"].map("{:.2f}".format)})  # fmt: skip


def found_by_search() -> pd.DataFrame:
    table = read("pooling_search_cifar10_cpu_202611/trials.csv")
    truth = table["accuracy_alone"]
    rows = [[name, f"{table[column].corr(truth, method='kendall'):.2f}"]
            for name, column in (("four supernets", "accuracy"), ("macs, more is better", "macs"))]  # fmt: skip
    return pd.DataFrame(rows, columns=["ordered by", "Kendall's tau with training alone, 36 placements"])


def real_rows(target: str) -> pd.DataFrame:
    """Rows of pruned real models with a kind of target, and a column with the part that may remain; dense ones have each."""
    table = read("prune_real_cpu_202611/prune_real.jsonl").reindex(
        columns=["model", "method", "target", "seed", "train", "error", *REAL_FIGURES], fill_value=np.nan
    )
    kind, _, part = (table["target"].str.partition("=")[i] for i in range(3))
    return table.assign(part=part.astype(float))[kind == target]


def real(target: str, prefix: str = "") -> pd.DataFrame:
    """A row per model, metric and part that may remain, a column per method: means of the seeds with the smallest and largest."""
    table = real_rows(target)
    if prefix:  # what went wrong before any training stands in the table of what was not trained
        table = table[table["train"] != ""]
    dense = read("prune_real_cpu_202611/prune_real.jsonl").query("method == 'dense'").groupby("model").first()
    rows = []
    for (model, metric), (title, form) in REAL_METRICS.items():
        own = table[(table["model"] == model) & (table["method"] != "dense")]
        for part in sorted(own["part"].unique(), reverse=True):
            cells = {
                name: seeds(own[(own["part"] == part) & (own["method"] == method)], prefix + metric, form)
                for method, name in REAL.items()
            }
            if any(cells.values()):
                full = f"{dense[metric][model]:{form}}" if model in dense.index else ""
                rows.append({"model and metric": title, "may remain": f"{part:.0%}", "dense": full} | cells)
    found = pd.DataFrame(rows, columns=["model and metric", "may remain", "dense", *REAL.values()])
    return found.loc[:, [name not in REAL.values() or (found[name] != "").any() for name in found.columns]]


def seeds(rows: pd.DataFrame, column: str, form: str) -> str:
    """The mean with the smallest and largest, of each seed once; what went wrong where nothing else is there."""
    values = rows.dropna(subset=[column]).drop_duplicates("seed")[column]
    if values.empty:
        failed = rows["error"].dropna()
        return "" if failed.empty else "too slow" if failed.str.startswith("not done").all() else "does not run"
    spread = f" ({values.min():{form}} to {values.max():{form}})" if len(values) > 1 else ""
    return f"{values.mean():{form}}{spread}"


def real_costs() -> pd.DataFrame:
    """What defaults take, and what the smaller models cost: medians of the seeds."""
    rows = []
    for target, of in (("macs", "macs"), ("onnxruntime_ms", "ONNX Runtime's ms")):
        table = real_rows(target)
        table = table[(table["method"] == "defaults") & table["seconds"].notna()]
        for (model, part), own in table.groupby(["model", "part"], sort=False):
            middle = own[list(REAL_COSTS)].median()
            times = [
                f"{middle[f'{runtime}_before_ms']:.1f} → {middle[f'{runtime}_after_ms']:.1f}"
                for runtime in ("eager", "onnxruntime")
            ]
            rows.append([model, f"{part:.0%} of {of}", f"{middle['macs_after'] / middle['macs_before']:.0%}",
                         f"{middle['params_after'] / middle['params_before']:.0%}", " or ".join(sorted(own["form"].unique())),
                         f"{middle['seconds']:.0f}", f"{middle['peak_mib'] / 1024:.1f}", *times])  # fmt: skip
    names = [
        "model",
        "may remain",
        "macs kept",
        "weights kept",
        "form",
        "seconds",
        "peak, GiB",
        "PyTorch, ms",
        "ONNX Runtime, ms",
    ]
    return pd.DataFrame(rows, columns=names)


REAL_COSTS = (
    "seconds", "peak_mib", "macs_before", "macs_after", "params_before", "params_after",
    "eager_before_ms", "eager_after_ms", "onnxruntime_before_ms", "onnxruntime_after_ms",
)  # fmt: skip
REAL_FIGURES = (
    *REAL_COSTS, "form", *dict.fromkeys(metric for _, metric in REAL_METRICS),
    *dict.fromkeys(f"trained_{metric}" for _, metric in REAL_METRICS),
)  # fmt: skip


TABLES: dict[str, Callable[[], pd.DataFrame]] = {
    "readme-pruning": readme_pruning,
    "resnet56-before": lambda: pruned("resnet56", "before"),
    "resnet56-trained": lambda: pruned("resnet56", "trained"),
    "resnet56-recalibrated": lambda: pruned("resnet56", "recalibrated"),
    "resnet20-before": lambda: pruned("resnet20", "before"),
    "resnet20-trained": lambda: pruned("resnet20", "trained"),
    "without-data": without_data,
    "zoo": zoo,
    "half-latency": half_latency,
    "lever": lever,
    "real": lambda: real("macs"),
    "real-trained": lambda: real("macs", "trained_"),
    "real-milliseconds": lambda: real("onnxruntime_ms"),
    "real-costs": real_costs,
    "pretrained-front": lambda: front("pretrained_front"),
    "encoder-front": lambda: front("encoder_front"),
    "strategies-published": lambda: strategies("published"),
    "strategies-relabelled": lambda: strategies("relabelled"),
    "strategies-front": lambda: strategies("front"),
    "placements": placements,
    "search": found_by_search,
    "samplers": samplers,
    "untrained": untrained,
    "block-table": block_table,
    "transfer": transfer,
    "costs": costs,
    "overhead": overhead,
    "sharing": sharing,
    "faults": faults,
    "streaming": streaming,
    "shared": shared,
    "steps": steps,
    "group-size": group_size,
}


def markdown(table: pd.DataFrame) -> str:
    rows = [table.columns, ["---"] * len(table.columns), *table.astype(str).to_numpy().tolist()]
    return "\n" + "".join(f"| {' | '.join(map(str, row))} |\n" for row in rows) + "\n"


def filled(page: str) -> str:
    """The page with every table as results/ have it."""
    return BLOCK.sub(lambda found: found[1] + markdown(TABLES[found[2]]()) + found[3], page)
