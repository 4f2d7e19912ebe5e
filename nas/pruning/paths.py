"""Which way of cutting ends better once labels train what is left: both are tried, and judged on images held out."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import nn

from nas.pruning.recovery import RECOVERIES, Recovery, RecoveryConfig, Repair
from nas.pruning.unfinished import NOTHING, Kept
from nas.runtime import drawing, stream
from nas.tasks import Task
from nas.training import measure
from pruners import CutConfig, PruneResult
from pruners.groups import analyse, dependency_groups, split_inputs, uncompiled
from pruners.half import in_float32, inputs_in_float32
from pruners.importance import AUTO
from pruners.operators import leaves
from pruners.progress import Progress, silent
from pruners.surgery import removable_blocks
from search_spaces.core import first_line

STEPS = 100
"""Times that squared weights are scored anew on what is left."""
SHARE = 5
"""A path is trained on one example of so many."""
FEWEST = 2000
"""Examples that a path is trained on at least, where there are as many."""


class Path(NamedTuple):
    """A way of cutting.

    Attributes:
        cut: its settings.
        why: what they have in place of `auto`, by setting, in words.
    """

    cut: CutConfig
    why: dict[str, str]


def better_path(
    cut: CutConfig,
    steps: Sequence[Recovery],
    carry_out: Callable[[CutConfig, list[Any]], PruneResult],
    model: nn.Module,
    example: Any,
    task: Task,
    recovery: RecoveryConfig,
    *,
    device: torch.device,
    progress: Progress = silent,
    kept: Kept = NOTHING,
) -> Path:
    """What `auto` stands for where a training on labels follows: curvature, or squared weights scored anew in many steps.

    Both are cut and repaired, trained for a fifth of an epoch at the learning rate that the training would take, and measured on
    the validation examples, which they have not seen. The better one is returned, curvature if they are equal; a path that cannot
    be cut is none. It costs two cuts, two repairs and two fifths of an epoch (of fewer than 10,000 examples more, 2,000 each).

    Nothing is tried, and the settings stay as they are, where importance, allocation or steps are named, blocks are asked to go, or no
    training on labels follows.

    Args:
        cut: as it was asked for.
        steps: of the recovery. Those that train without labels are left out of the comparison.
        carry_out: cuts the model by settings, with batches of examples.
        model: the unpruned model.
        example: its inputs.
        task: what the model is for.
        recovery: how training goes.
        device: where it runs.
        progress: told about long steps.
        kept: keeps what each path came to.
    """
    brief = list(_brief(steps))
    asked = (cut.importance.criterion, cut.allocation, cut.steps, bool(cut.depth))
    if asked != (AUTO, AUTO, 1, False) or not brief or RECOVERIES[brief[-1].kind].learner is None:
        return Path(cut, {})
    count = min(len(task.train), max(len(task.train) // SHARE, FEWEST))
    drawn = torch.from_numpy(stream(cut.seed, "paths").permutation(len(task.train))[:count])
    repair = Repair(model, task, task.train.take(drawn), recovery, seed=cut.seed, device=device, progress=progress)
    main, found, said = task.main, dict[str, float](), []
    show = "{:.1%}" if main.unit == "%" else "{:.4g}"
    paths = {"curvature": Path(cut, {}), "many steps": _many_steps(cut, model, example)}

    def tried(path: Path) -> float | str:
        """The figure that a path comes to, or why it cannot be cut."""
        try:
            result = carry_out(path.cut, repair.sample)
            for step in brief:
                repair(step, result)
        except ValueError as error:
            return first_line(error)
        return measure(result.model.to(device), task, task.validation)[main.name]

    for name, path in paths.items():
        with drawing(cut.seed, "paths", name, device=device):
            figure = kept.once(name, partial(tried, path))
        if isinstance(figure, str):
            said.append(f"{name} not to be had ({figure})")
        else:
            found[name] = figure
            said.append(f"{name} {show.format(figure).replace('%', ' %')}")
    sign = 1 if main.higher_is_better else -1
    best = paths[max(found, key=lambda name: sign * found[name], default="curvature")]
    kind = "images" if main.name == "accuracy" else "examples"
    judged = (
        f"{', '.join(said)} {main.name.replace('_', ' ')} on {len(task.validation):,} held-out {kind} after training on "
        f"{count:,} others"
    )
    return best._replace(why={"paths": judged, **best.why})


def _brief(steps: Sequence[Recovery]) -> Iterator[Recovery]:
    """The steps of repair, and the first training on labels for one epoch."""
    for step in steps:
        entry = RECOVERIES[step.kind]
        if entry.learner is not None:
            yield Recovery(step.kind, 1)
            return
        if not entry.trains:
            yield step


def _many_steps(cut: CutConfig, model: nn.Module, example: Any) -> Path:
    """Squared weights in one ranking, scored anew many times, where no channel of a shortcut goes."""
    shared = reaching_shortcuts(model, example)
    why = {
        "importance": "l2: squared weights, scored anew on what is left",
        "allocation": "global: by ranks of scores",
        "steps": f"{STEPS}",
        **({"ignore": f"{', '.join(shared)}: channels that reach a shortcut"} if shared else {}),
    }
    importance = cut.importance.model_copy(update={"criterion": "l2"})
    named = {"importance": importance, "allocation": "global", "steps": STEPS, "ignore": (*cut.ignore, *shared)}
    return Path(cut.model_copy(update=named), why)


def reaching_shortcuts(model: nn.Module, example: Any) -> list[str]:
    """Names of the groups that a residual sum x + f(x) is over; all it computes from and all it is read by share their indices."""
    graph = analyse(in_float32(uncompiled(model)), *split_inputs(inputs_in_float32(example)))
    summed = {leaf for block in removable_blocks(graph) for axis in graph.dims(block.add) for leaf in leaves(axis)}
    return [group.name for group in dependency_groups(graph) if group.axis in summed and not group.protected]
