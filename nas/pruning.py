"""`nas prune` and `nas groups`: a model from a function and a weights file, pruned, repaired on data, measured and saved."""

from __future__ import annotations

import json
import pickle
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from estimators import read_device
from estimators.counting import standing_in
from nas.arguments import numbers, pairs, shape
from nas.data import ImageData
from nas.device import resolve_device
from nas.distillation import Distillation
from nas.estimates import ESTIMATES, estimates
from nas.evaluation import check_classifies, module_accuracy
from nas.files import replacing, write_json
from nas.functions import import_function
from nas.progress import Progress, silent
from nas.record import environment
from nas.recovery import WITHOUT_TRAINING, Recovery, Repair, parse_recovery, repair_untrained
from pruners import PruneResult, prune
from pruners.analysis import split_inputs
from pruners.errors import first_line
from pruners.synthetic import synthetic as synthetic_inputs
from pruners.targets import COUNTED, LATENCY
from pruners.untouched import untouched

CHECKPOINT_KEYS = ("state_dict", "model")  # where training scripts keep the weights beside an optimiser
WRAPPER = "module."
TARGETS = (*COUNTED, LATENCY, *ESTIMATES)
CHECKED_IN = {"float32": torch.float32, "float64": torch.float64}


def parse_targets(texts: Sequence[str]) -> dict[str, float | str]:
    """What may remain by name, from `macs=0.5`, `params=1e6` or `latency_ms=0.8ms`.

    Raises:
        ValueError: something else.
    """
    found: dict[str, float | str] = {}
    for name, value in pairs(list(texts), "--target").items():
        _check_target(name)
        timed = name == "latency_ms" and value.endswith("ms")
        found[name] = value if timed else numbers([f"{name}={value}"], "--target")[name]
    return found


def _check_target(name: str) -> None:
    if name not in TARGETS:
        raise ValueError(f"--target (`targets` in Python) must be among {', '.join(TARGETS)}, got {name!r}")


def example_inputs(text: str, seed: int = 0) -> Any:
    """Inputs for a model, from a shape such as `1x3x32x32` or from `module:function`, which returns them.

    Args:
        text: the shape of a tensor of random numbers, batch first, or a function that returns what `pruners.prune` takes: a tensor, a
            sequence of positional inputs, or a dict of keyword inputs.
        seed: of the random numbers.

    Raises:
        ValueError: neither a shape nor a function.
    """
    if ":" in text:
        found = import_function(text)()
        if not isinstance(found, (Tensor, Mapping, list, tuple)):
            raise ValueError(
                f"`--input {text}` must return a tensor, several in a tuple, or a dict by name, got {type(found).__name__}"
            )
        return found
    sizes = shape(text)
    assert sizes is not None
    return torch.randn(*sizes, generator=torch.Generator().manual_seed(seed))


def check_input(model: nn.Module, example: Any, text: str) -> None:
    """Refuse example inputs that a model does not take.

    Args:
        model: left untouched.
        example: what `example_inputs` made of `text`.
        text: as it was typed.

    Raises:
        ValueError: the model does not run on them.
    """
    args, kwargs = split_inputs(example)
    try:
        with untouched(model), torch.no_grad():
            model(*args, **kwargs)
    except Exception as error:
        raise ValueError(
            f"`--input` must fit the model, got {text}: {first_line(error)}; give the shape of a tensor of random numbers, batch "
            "first, or --input module:function, which returns inputs of another kind, such as tokens"
        ) from error


def load_model(target: str, options: Mapping[str, Any], weights: Path | None = None) -> nn.Module:
    """The module that `module:function` returns, with weights from a file.

    Args:
        target: `module:function`.
        options: keyword arguments of the function.
        weights: a safetensors file, or a `torch.save` file, which is read without running any code in it. A dictionary with a
            `state_dict` or `model` is understood, and so are names of a wrapped model, which all start with `module.`.

    Raises:
        ValueError: no such function, no module, or weights that do not fit.
    """
    model = import_function(target)(**options)
    if not isinstance(model, nn.Module):
        raise ValueError(f"{target!r} must return a module, got {type(model).__name__}")
    if weights is not None:
        try:
            model.load_state_dict(_unwrapped(read_weights(weights), model))
        except RuntimeError as error:
            raise ValueError(f"the weights in {weights} do not fit {target!r}: {error}") from error
    return model.eval()


def read_weights(path: Path) -> dict[str, Tensor]:
    """Parameters and buffers by name from a safetensors or `torch.save` file.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the file is damaged, would run code, or holds something else.
    """
    if not path.exists():
        raise FileNotFoundError(f"no weights at {path}")
    try:
        with path.open("rb") as file:
            start = file.read(2)
        if path.suffix == ".safetensors":
            found: Any = load_file(path)
        elif start.startswith((b"PK", b"\x80")):
            found = torch.load(path, map_location="cpu", weights_only=True)
        else:
            raise ValueError("neither of safetensors nor of torch.save")
    except pickle.UnpicklingError as error:
        raise ValueError(
            f"{path} holds more than tensors, or is damaged, and is not read, as it could run code; save its state_dict alone"
        ) from error
    except Exception as error:  # torch.load raises whatever damage leads to
        raise ValueError(f"{path} is no whole weights file: {first_line(error)}") from error
    for key in CHECKPOINT_KEYS:
        if isinstance(found, dict) and isinstance(found.get(key), dict):
            found = found[key]
            break
    if not isinstance(found, dict) or not all(isinstance(value, Tensor) for value in found.values()):
        raise ValueError(f"{path} must hold a state_dict: names and tensors, and nothing else")
    return found


def _unwrapped(weights: dict[str, Tensor], model: nn.Module) -> dict[str, Tensor]:
    """Weights without the prefix that `DataParallel` puts before all names, unless the model's own names have it."""
    own = model.state_dict()
    if all(name.startswith(WRAPPER) for name in weights) and any(name not in own for name in weights):
        return {name.removeprefix(WRAPPER): value for name, value in weights.items()}
    return weights


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
        _check_target(name)
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
            with untouched(module):
                accuracies[when] = module_accuracy(module.to(place), data, data.test)

    model = on_cpu(model)
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


def on_cpu(model: nn.Module) -> nn.Module:
    """A model if it is on the CPU, else a copy there."""
    there = all(x.device.type == "cpu" for x in (*model.parameters(), *model.buffers()))
    return model if there else standing_in(model, torch.device("cpu"))


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
