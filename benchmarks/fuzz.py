"""Files of others with random damage: each is read, or refused by an error that names it; for a bounded time, guided by coverage.

    python -m benchmarks.fuzz --seconds 300 --out results/fuzz_cpu_202612

Each target is a file of a run, an export or a pruned model, and what reads it. atheris (`pip install "nas-toolkit[fuzz]"`) changes it
byte by byte, and half of the time one value of it, for the target's share of the time. Each runs in a process that may take 1 GB more
than it has, and 20 s for one input; starting it, with its imports watched for coverage, comes on top.

`targets.jsonl` has a row for each: inputs that were tried, read and refused, and what was found: tracebacks (anything but a ValueError
or a FileNotFoundError that names the file), hangs and crashes. There must be none; `found.jsonl` holds each kind once, with its input
in base64.
"""

from __future__ import annotations

import argparse
import base64
import json
import random
import resource
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import yaml
from torch import nn

from benchmarks.resumable import note

MEMORY = 2**30
HANG = 20
PACKAGES = ["nas", "pruners.surgery", "search_spaces"]
OTHERS: tuple[Any, ...] = (
    None, True, 0, -1, 1.5, 2**31, 2**63, 10**30, float("nan"), float("inf"), "x", "", "a.b", "aten.full.default", "module:function",
    [], {}, [1], {"a": 1}, [[]], {"value": 0}, {"value": 1}, {"float": "nan"}, {"dtype": "int64"}, [2**40, 2**40],
)  # fmt: skip


class Target(NamedTuple):
    """A file below the material, what reads it, and whether errors name it."""

    path: str
    read: Callable[[Path], Any]
    named: bool = True


def network() -> nn.Module:
    """What the plan and the graph are made of."""
    body = (nn.Conv2d(1, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 8, 3), nn.ReLU())
    return nn.Sequential(*body, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 10)).eval()


def targets() -> dict[str, Target]:
    """What is damaged, by name."""
    import nas
    import pruners
    from estimators import read_device
    from estimators.latency import load_table
    from nas import Study
    from nas.pruning.config import read_prune_config
    from nas.runtime import checkpoint
    from nas.study import read_config
    from search_spaces import make_space

    space = make_space("resnet-elastic")
    table_space = make_space("resnet20-pooling", in_channels=1, image_size=8)
    model = network()

    def architecture(path: Path) -> None:
        space.parse(path.read_text(encoding="utf-8"))

    def run(path: Path) -> None:
        study = Study.open(path.parent)
        for name in ("trials", "failed", "alone", "ranked", "front", "latency"):
            getattr(study, name)

    def whole(path: Path) -> None:
        nas.load(path.parent)

    return {
        "label": Target("label.txt", architecture, named=False),
        "architecture.json": Target("export/architecture.json", whole),
        "model.safetensors": Target("export/model.safetensors", whole),
        "graph.json": Target("described/graph.json", whole),
        "plan.json": Target("pruned/plan.json", lambda path: pruners.load(path.parent, model)),
        "journal.log": Target("run/journal.log", run),
        "run.yaml": Target("run/run.yaml", run),
        "config": Target("run/run.yaml", read_config),
        "record.json": Target("run/record.json", run),
        "latency.json": Target("run/latency.json", run),
        "prune.yaml": Target("prune.yaml", read_prune_config),
        "device.yaml": Target("device.yaml", read_device),
        "table.json": Target("table.json", lambda path: load_table(path, table_space)),
        "checkpoint": Target("run/supernets/checkpoint.safetensors", checkpoint.load),
    }


NAMES = (
    "label", "architecture.json", "model.safetensors", "graph.json", "plan.json", "journal.log", "run.yaml", "config", "record.json",
    "latency.json", "prune.yaml", "device.yaml", "table.json", "checkpoint",
)  # fmt: skip


def material(folder: Path) -> None:
    """Whole files to begin with."""
    import torch

    import nas
    import pruners
    from estimators.latency import measure_table
    from nas.export import write_graph
    from nas.runtime import write_json
    from search_spaces import make_space
    from search_spaces.core import save_tensors

    small = {"epochs": 1, "limit": 100, "test_limit": 40, "batch_size": 25, "alone_epochs": 1}
    study = nas.search("resnet20-pooling", "digits", out=folder / "run", strategy="one-shot", trials=3, **small)
    key = study.front["architecture"].iloc[0]
    if not (folder / "run" / "latency.json").exists():
        measured = {"latency_ms": 1.5, "latency_p25_ms": 1.25, "latency_p75_ms": 1.75}
        write_json(folder / "run" / "latency.json", {key: measured})
    nas.export(study, study.front["label"].iloc[0], folder / "export")
    model, example = network(), torch.randn(2, 1, 8, 8)
    pruners.prune(model, example, {"macs": 0.5}).save(folder / "pruned")
    (folder / "described").mkdir()
    write_json(folder / "described/architecture.json", {"space": {"name": "absent:f", "options": {}}, "choices": {}})
    save_tensors(folder / "described/model.safetensors", model.state_dict())
    write_graph(model, example, folder / "described")
    space = make_space("resnet20-pooling", in_channels=1, image_size=8)
    measure_table(space, [next(space.enumerate())], warmup_s=0.01, runs=5).save(folder / "table.json")
    (folder / "label.txt").write_text(next(make_space("resnet-elastic").enumerate()).key)
    device = {"name": "phone", "macs_per_second": 1e9, "bytes_per_second": 1e9, "joules_per_mac": 1e-12}
    (folder / "device.yaml").write_text(yaml.safe_dump({**device, "joules_per_byte": 1e-10, "bytes_per_word": 4}))
    prune = {"model": "torchvision:resnet18", "input": "1x3x32x32", "targets": {"macs": 0.5, "latency_ms": "0.8ms"}}
    (folder / "prune.yaml").write_text(yaml.safe_dump(prune))


# --- damage ----------------------------------------------------------------------------------------------------------


def changed(data: Any, rng: random.Random) -> Any:
    """Data with one value left out, copied from elsewhere in it, under another name, or of another type."""
    places = list(inner(data, ()))
    if not places:
        return rng.choice(OTHERS)
    *outside, key = rng.choice(places)
    holder = data
    for name in outside:
        holder = holder[name]
    how = rng.randrange(5)
    if how == 0:
        del holder[key]
    elif how == 1 and isinstance(holder, dict):
        holder[f"{key}x"] = holder.pop(key)
    elif how == 2:
        other = data
        for name in rng.choice(places):
            other = other[name]
        holder[key] = json.loads(json.dumps(other))
    elif how == 3 and type(holder[key]) in (int, float):
        holder[key] = rng.choice([0, -1, 1, 2, 10]) * holder[key] + rng.choice([-1, 0, 1, 2**31])
    else:
        holder[key] = rng.choice(OTHERS)
    return data


def inner(data: Any, at: tuple[Any, ...]) -> Any:
    """Where values stand in data, as keys from the outside in."""
    found = data.items() if isinstance(data, dict) else enumerate(data) if isinstance(data, list) else ()
    for key, value in found:
        yield (*at, key)
        yield from inner(value, (*at, key))


def damaged(data: bytes, path: Path, rng: random.Random) -> bytes:
    """A file with one value changed; ValueError and others where it is none of its kind any more."""
    if path.suffix == ".yaml":
        return yaml.safe_dump(changed(yaml.safe_load(data), rng)).encode()
    if path.suffix == ".safetensors":
        size = int.from_bytes(data[:8], "little")
        header = json.dumps(changed(json.loads(data[8 : 8 + size]), rng)).encode()
        return len(header).to_bytes(8, "little") + header + data[8 + size :]
    if path.suffix == ".log":
        lines = data.splitlines()
        at = rng.randrange(len(lines))
        lines[at] = json.dumps(changed(json.loads(lines[at]), rng)).encode()
        return b"\n".join(lines) + b"\n"
    return json.dumps(changed(json.loads(data), rng)).encode()


# --- one target ------------------------------------------------------------------------------------------------------


def fuzz(name: str, folder: Path, seconds: float, said: Path) -> None:
    """Damage one file and read it until the time is over; what came of it is written to `said` now and then. It ends the process."""
    import atheris

    with atheris.instrument_imports(include=PACKAGES):
        target = targets()[name]
    path = folder / target.path
    counts: dict[str, Any] = {"executions": 0, "read": 0, "refused": 0, "found": {}}
    last = time.monotonic()
    taken = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (taken + MEMORY, taken + MEMORY))

    def one(data: bytes) -> None:
        nonlocal last
        counts["executions"] += 1
        path.write_bytes(data)
        try:
            target.read(path)
            counts["read"] += 1
        except Exception as error:
            if isinstance(error, (ValueError, FileNotFoundError)) and (path.name in str(error) or not target.named):
                counts["refused"] += 1
            else:
                frame = traceback.extract_tb(error.__traceback__)[-1]
                kind = f"{type(error).__name__} in {Path(frame.filename).name}:{frame.name}"
                found = {"traceback": traceback.format_exc()[-3000:], "input": base64.b64encode(data).decode()}
                counts["found"].setdefault(kind, found)
        if time.monotonic() - last > 0.5:
            said.write_text(json.dumps(counts))
            last = time.monotonic()

    whole = path.read_bytes()

    def mutate(data: bytes, most: int, seed: int) -> bytes:
        rng = random.Random(seed)
        kept = whole if rng.random() < 0.5 else data  # what was found to reach other code is often of no form any more
        if rng.random() < 0.5:
            try:
                for _ in range(rng.choice((1, 1, 2, 3))):
                    kept = damaged(kept, path, rng)
                return kept if len(kept) <= most else data
            except Exception:  # what bytes were changed of is no JSON any more
                pass
        return atheris.Mutate(kept, most)

    corpus = folder / "corpus"
    corpus.mkdir(exist_ok=True)
    (corpus / "whole").write_bytes(whole)
    options = [
        f"-max_total_time={seconds:.0f}",
        f"-timeout={HANG}",
        "-rss_limit_mb=0",
        "-mutate_depth=1",
        f"-max_len={max(4096, 2 * len(whole))}",
    ]
    atheris.Setup([sys.argv[0], *options, f"-artifact_prefix={folder}/", str(corpus)], one, custom_mutator=mutate)
    atheris.Fuzz()


def attempt(name: str, source: Path, seconds: float) -> dict[str, Any]:
    """One target's row, and what was found with it; a process that ends early is found too, and another goes on."""
    row: dict[str, Any] = {
        "target": name,
        "seconds": round(seconds, 1),
        "executions": 0,
        "read": 0,
        "refused": 0,
        "found": {},
    }
    started = time.monotonic()
    while (left := seconds - (time.monotonic() - started)) > 1:
        with tempfile.TemporaryDirectory() as temporary:
            folder, said = Path(temporary) / "material", Path(temporary) / "said.json"
            subprocess.run(["cp", "-r", source, folder], check=True)
            command = [
                sys.executable,
                "-m",
                "benchmarks.fuzz",
                "--target",
                name,
                "--out",
                str(folder),
                "--seconds",
                str(left),
            ]
            done = subprocess.run([*command, "--said", str(said)], capture_output=True, text=True, errors="replace")
            counts = json.loads(said.read_text()) if said.exists() else {}
            for key in ("executions", "read", "refused"):
                row[key] += counts.get(key, 0)
            row["found"] |= counts.get("found", {})
            if done.returncode:
                inputs = [base64.b64encode(path.read_bytes()).decode() for path in folder.glob("*-*") if path.is_file()]
                kind = f"process ended with {done.returncode}"
                row["found"].setdefault(kind, {"traceback": done.stderr[-3000:], "input": (inputs or [""])[0]})
    return row


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="folder to write")
    parser.add_argument("--seconds", type=float, default=60, help="in all, in equal shares")
    parser.add_argument("--targets", nargs="+", choices=NAMES, default=list(NAMES))
    parser.add_argument("--target", help=argparse.SUPPRESS)
    parser.add_argument("--said", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.target:
        fuzz(options.target, options.out, options.seconds, options.said)
        return
    options.out.mkdir(parents=True, exist_ok=True)
    note(options.out / "fuzz.json", "benchmarks.fuzz", options, ["atheris", "pydantic", "PyYAML", "safetensors"])
    with tempfile.TemporaryDirectory() as temporary:
        material(Path(temporary))
        with open(options.out / "targets.jsonl", "w", 1) as rows, open(options.out / "found.jsonl", "w", 1) as kinds:
            for name in options.targets:
                row = attempt(name, Path(temporary), options.seconds / len(options.targets))
                found = row.pop("found")
                print(json.dumps({**row, "found": len(found)}), flush=True)
                rows.write(json.dumps({**row, "found": len(found)}) + "\n")
                for kind, what in found.items():
                    kinds.write(json.dumps({"target": name, "kind": kind, **what}) + "\n")


if __name__ == "__main__":
    main()
