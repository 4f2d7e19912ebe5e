"""The pruning of a given model: cut, repaired on data, measured and saved."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from estimators import read_device
from nas.data import ImageData
from nas.objectives import estimates
from nas.pruning import WITHOUT_TRAINING, Recovery, Repair, check_target, parse_recovery, repair_untrained
from nas.runtime import environment, replacing, resolve_device, write_json
from nas.training import Distillation, check_classifies, module_accuracy
from pruners import PruneResult, prune
from pruners.progress import Progress, silent
from pruners.repair import synthetic as synthetic_inputs

CHECKED_IN = {"float32": torch.float32, "float64": torch.float64}


def prune_model(
    model: nn.Module,
    example: Any,
    targets: Mapping[str, float | str],
    *,
    data: ImageData | None = None,
    synthetic: int = 0,
    importance: str = "l2",
    allocation: str = "global",
    aggregate: str = "sum",
    normalise: str | None = None,
    round_to: int = 1,
    min_kept: int = 1,
    max_ratio: float = 0.9,
    steps: int = 1,
    schedule: str = "geometric",
    ignore: Sequence[str] = (),
    check: bool = True,
    check_dtype: str | None = None,
    tolerance: float = 1e-4,
    recover: Sequence[str] = (),
    learning_rate: float = 0.01,
    batch_size: int = 128,
    distillation: Distillation | None = None,
    seed: int = 0,
    device: str = "auto",
    device_file: str | Path | None = None,
    out: str | Path | None = None,
    command: str | None = None,
    progress: Progress = silent,
) -> tuple[PruneResult, dict[str, Any]]:
    """Prune a model, repair it on data, measure it on test images, and save it.

    Args:
        model: left untouched.
        example: inputs of the model, see `pruners.prune`, on which macs are counted.
        targets: see `pruners.prune`; beside those, `peak_memory_bytes`, `energy_mj` and `bound_ms`.
        data: images for criteria, repair and measurement.
        synthetic: without data, how many inputs to make in their place from the model's batch norms, see `pruners.synthetic`; for what
            needs no labels.
        importance, allocation, aggregate, normalise, round_to, min_kept, max_ratio, steps, schedule, ignore, check, tolerance: see
            `pruners.prune`.
        check_dtype: float32 or float64, which the check computes in; the model's own if None.
        recover: steps of repair, in order: `calibrate`, `least-squares`, `finetune:EPOCHS`, `distill:EPOCHS`.
        learning_rate: of fine-tuning and distilling, at their start; it falls to a hundredth along half a cosine.
        batch_size: of fine-tuning and distilling.
        distillation: the unpruned model's share of the loss when distilling, and the temperature.
        seed: decides everything random.
        device: where fine-tuning and measuring run.
        device_file: describes the device that energy_mj and bound_ms are for, see `estimators.read_device`.
        out: folder for `plan.json`, `weights.safetensors` and `summary.json`; `pruners.load` reads it back.
        command: what to write down as the command.
        progress: told about long steps.

    Returns:
        The result with the repaired model, and the summary: costs before and after, the check, and test accuracies.

    Raises:
        ValueError: something does not fit; the message says what.
    """
    for name in targets:
        check_target(name)
    known = estimates(targets, None if device_file is None else read_device(device_file))
    if check_dtype not in (None, *CHECKED_IN):
        raise ValueError(f"`check_dtype` must be {' or '.join(CHECKED_IN)}, got {check_dtype!r}")
    repairs = parse_recovery(recover)
    _check_means(repairs, data, synthetic, example)
    folder = None if out is None else Path(out)
    if folder is not None and folder.exists() and not (folder / "plan.json").exists() and any(folder.iterdir()):
        raise ValueError(f"{folder} is not empty and holds no pruned model; give another folder")
    place = resolve_device(device)
    accuracies: dict[str, float] = {}

    def measure(when: str, module: nn.Module) -> None:
        if data is not None:
            accuracies[when] = module_accuracy(module.to(place), data, data.test)
            module.to("cpu")

    model = model.to("cpu")
    repair = None
    if data is not None:
        check_classifies(model, data, example)
        repair = Repair(
            model,
            data,
            data.training,
            learning_rate=learning_rate,
            batch_size=batch_size,
            distillation=distillation,
            seed=seed,
            device=place,
            progress=progress,
        )
    sample: list[Any] | None = repair.sample if repair else None
    if synthetic:
        sample = synthetic_inputs(model, example, synthetic, seed=seed, progress=progress)
    result = prune(
        model,
        example,
        targets,
        estimators=known,
        importance=importance,
        allocation=allocation,
        aggregate=aggregate,
        normalise=normalise,
        round_to=round_to,
        min_kept=min_kept,
        max_ratio=max_ratio,
        steps=steps,
        schedule=schedule,
        ignore=ignore,
        check=check,
        check_dtype=None if check_dtype is None else CHECKED_IN[check_dtype],
        tolerance=tolerance,
        batches=sample,
        seed=seed,
        progress=progress,
    )
    measure("before", model)
    measure("pruned", result.model)
    for step in repairs:
        if repair:
            repair(step, result)
        else:
            assert sample is not None
            repair_untrained(step, result, model, sample, progress)
        measure(str(step), result.model)
    summary = {
        **result.summary.to_dict(),
        "test_accuracy": accuracies,
        "seed": seed,
        "command": command,
        **environment(),
    }
    if folder is not None:
        with replacing(folder) as temporary:
            result.save(temporary)
            write_json(temporary / "summary.json", summary)
    return result, summary


def _check_means(repairs: Sequence[Recovery], data: ImageData | None, synthetic: int, example: Any) -> None:
    """Refuse repairs that there is nothing for, and synthetic inputs beside data or for a model of several inputs."""
    if synthetic and data is not None:
        raise ValueError(
            "--synthetic (`synthetic` in Python) is for those without data; leave it out, or --data (`data`)"
        )
    if synthetic and not isinstance(example, Tensor):
        raise ValueError(
            "--synthetic (`synthetic` in Python) needs a model of one tensor; give --data (`data`) of your own"
        )
    possible = WITHOUT_TRAINING if synthetic else ()
    missing = [str(step) for step in repairs if step.kind not in possible]
    if missing and data is None:
        raise ValueError(
            f"--recover {','.join(missing)} (`recover` in Python) needs images; give --data (`data`), such as digits, or, to repair "
            "without training, --synthetic 500"
        )


def read_summary(folder: Path) -> dict[str, Any]:
    """What `prune_model` wrote about a pruned model."""
    return json.loads((folder / "summary.json").read_text(encoding="utf-8"))
