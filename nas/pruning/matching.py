"""Training of a pruned model towards the unpruned one, on inputs without labels."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

import torch
from torch import nn

from estimators.counting import device_of, standing_in
from nas.pruning.nearing import Matching, Nearing
from nas.pruning.states import Watched
from pruners import PruneResult
from pruners.errors import whole_number
from pruners.progress import Progress, silent
from pruners.untouched import untouched


def match_(
    smaller: PruneResult | nn.Module,
    model: nn.Module,
    batches: Iterable[Any],
    *,
    seconds: float | None = None,
    steps: int | None = None,
    epochs: int | None = None,
    rate: float | Literal["auto"] = "auto",
    layers: float = 1.0,
    temperature: float = 1.0,
    batch_size: int = 16,
    device: torch.device | None = None,
    seed: int = 0,
    path: Path | None = None,
    progress: Progress = silent,
) -> Matching:
    """Train a pruned model to compute what the unpruned one computes, on inputs without labels.

    The loss is the relative squared error of every output (of `logits` the divergence), and of what those modules return that both
    models have under one name and in one shape: layers, blocks and attention, wherever pruning left the residual stream alone.
    Dropout and batch statistics stay off, tables of embeddings stay as they are. AdamW warms up, and its rate falls to 0 along half
    a cosine. Texts that are padded behind their ends (an input with `mask` in its name says so) are cut to their lengths and meet
    others that are about as long. What the unpruned model computes is remembered, up to 1 GiB. A tenth of the samples, at most 128,
    is held out: where the outputs are no nearer there in the end, the weights from before come back.

    Args:
        smaller: trained in place, and left in eval mode.
        model: the unpruned model, left untouched.
        batches: of inputs, or of (inputs, targets), as `pruners.prune` takes them; kept in memory.
        seconds: how long all may take; what a run gets done then depends on the machine.
        steps: in place of `seconds`, how many steps.
        epochs: in place of `seconds`, how many passes over the samples.
        rate: the learning rate at its highest; "auto" finds it by a short range test, see `nas.training.safe_rate`.
        layers: weight of the inner states beside the outputs; 0 leaves them out.
        temperature: what logits are divided by.
        batch_size: samples per step.
        device: where both run; by default where `smaller` is.
        seed: decides what is held out and the order of samples.
        path: of a checkpoint, from which a second call on the same model goes on; what was spent counts. It is written now and then.
        progress: called as ("matching", share done, 1).

    Raises:
        ValueError: not exactly one of `seconds`, `steps` and `epochs`, a number that is not above 0, batches that do not fit, or a
            model without an output of real numbers.

    Reference: Hinton, Vinyals, Dean, "Distilling the Knowledge in a Neural Network", 2015, arXiv:1503.02531; for states of layers,
        Jiao et al., "TinyBERT", Findings of EMNLP 2020, arXiv:1909.10351.
    Differs: states keep their shapes, so that nothing is learned between them; errors are relative to the variance of each state.
    """
    began = time.perf_counter()
    lengths = {"seconds": seconds, "steps": steps, "epochs": epochs}
    check_training(lengths, rate, batch_size)
    student = smaller.model if isinstance(smaller, PruneResult) else smaller
    home = device_of(student)
    place = home if device is None else device
    student.to(place)
    teacher = model if device_of(model) == place else standing_in(model, place)
    try:
        with (
            untouched(teacher),
            learning(student, model) as weights,
            Watched(student) as follower,
            Watched(teacher) as leader,
        ):
            args = (layers, temperature, batch_size, place, seed)
            training = Nearing(student, weights, [follower], leader, batches, *args)
            return training.run(lengths, rate, began, path, progress)
    finally:
        student.to(home)


@contextmanager
def learning(student: nn.Module, model: nn.Module) -> Iterator[list[nn.Parameter]]:
    """Put a model in eval mode with gradients for what it trains: all weights but tables of embeddings; in the end without any."""
    tables = {f"{name}.weight" for name, part in model.named_modules() if isinstance(part, nn.Embedding)}
    named = {name: p for name, p in student.named_parameters() if p.is_floating_point()}
    flags = {p: p.requires_grad for p in named.values()}
    free = [p for name, p in named.items() if p.requires_grad and name not in tables]
    chosen = free or [p for name, p in named.items() if name not in tables]
    student.eval()
    for part in student.modules():
        if isinstance(part, nn.RNNBase) and not part.dropout:
            part.train()  # without which cuDNN computes no gradients
    try:
        for p in flags:
            p.requires_grad_(False)
        for p in chosen:
            p.requires_grad_(True)
        yield chosen
    finally:
        student.eval()
        for p, flag in flags.items():
            p.requires_grad_(flag).grad = None


def check_training(lengths: Mapping[str, float | None], rate: float | str, batch_size: int) -> None:
    """Refuse a training that has no length, or two, or a number that is not above 0."""
    given = {name: value for name, value in lengths.items() if value is not None}
    if len(given) != 1:
        raise ValueError(
            f"exactly one of {', '.join(f'`{name}`' for name in lengths)} must be given, got {given or 'none'}"
        )
    for name, value in given.items():
        if not value > 0 or (name != "seconds" and value != int(value)):
            raise ValueError(f"`{name}` must be above 0{'' if name == 'seconds' else ' and whole'}, got {value}")
    if rate != "auto" and not (isinstance(rate, (int, float)) and rate > 0):
        raise ValueError(f"`rate` must be a learning rate above 0 or 'auto', got {rate!r}")
    whole_number("batch_size", batch_size)
