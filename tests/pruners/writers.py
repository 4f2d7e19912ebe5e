"""Small models that write to themselves as they run, each in one way."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class Writer(nn.Module):
    """A perceptron that calls `write` with the features between its layers, and adds what that returns."""

    def __init__(self) -> None:
        super().__init__()
        self.inner, self.outer = nn.Linear(6, 16), nn.Linear(16, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.outer(self.inner(x).relu()) + self.write(x)

    def write(self, x: Tensor) -> Any:
        raise NotImplementedError


class Cut(nn.Module):
    """A window that is cut to smaller inputs for good, and a reshape that says how many channels there are."""

    def __init__(self) -> None:
        super().__init__()
        self.window = 7
        self.stem, self.head = nn.Conv2d(3, 12, 3, padding=1), nn.Linear(12, 5)

    def forward(self, x: Tensor) -> Tensor:
        if min(x.shape[-2:]) < self.window:
            self.window = min(x.shape[-2:])
        x = F.avg_pool2d(self.stem(x).relu(), self.window)
        return self.head(x.reshape(len(x), 12, -1).mean(-1))


class Grown(Writer):
    """A table of positions, computed anew for longer inputs."""

    table: Tensor = torch.zeros(0, 3)

    def write(self, x: Tensor) -> Any:
        if len(self.table) < x.shape[1]:
            self.table = torch.arange(3 * x.shape[1]).view(-1, 3) / 10
        return self.table[: x.shape[1]]


class Counter(Writer):
    """Counts its runs by a number, in an object, and by buffers, in place and as a new tensor."""

    class Notes:
        runs = 0

    def __init__(self) -> None:
        super().__init__()
        self.runs, self.notes = 0, Counter.Notes()
        self.register_buffer("seen", torch.zeros(()))
        self.register_buffer("anew", torch.zeros(()))

    def write(self, x: Tensor) -> Any:
        self.runs += 1
        self.notes.runs += 1
        self.seen += 1
        self.anew = self.anew + 1
        return 0


class Appended(Writer):
    """Keeps features in a list, in a queue, and by a hook."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[Tensor] = []
        self.last: deque[tuple[int, ...]] = deque(maxlen=2)
        self.inner.register_forward_hook(self.note)
        self.noted: list[Tensor] = []

    def note(self, module: nn.Module, args: Any, output: Tensor) -> None:
        self.noted.append(output)

    def write(self, x: Tensor) -> Any:
        self.seen.append(x)
        self.last.append(tuple(map(int, x.shape[1:])))
        return 0


class Cached(Writer):
    """A dictionary by shape, inside a dictionary."""

    def __init__(self) -> None:
        super().__init__()
        self.caches: dict[str, dict[Any, Tensor]] = {"steps": {}}

    def write(self, x: Tensor) -> Any:
        steps = self.caches["steps"]
        if (key := x.shape[1]) not in steps:
            steps[key] = torch.arange(key)[:, None] / 10
        return steps[key]


class Accumulated(Writer):
    """Adds to a tensor that is no buffer, which cannot be traced."""

    def __init__(self) -> None:
        super().__init__()
        self.total = torch.zeros(())

    def write(self, x: Tensor) -> Any:
        self.total += 1
        return self.total


class Rescaled(Writer):
    """Shrinks a weight in place and gives another one new memory, behind the back of whoever traces it."""

    def write(self, x: Tensor) -> Any:
        self.inner.weight.data.mul_(0.9)
        self.outer.weight.data = self.outer.weight.data * 0.9
        return 0


def _rows() -> Tensor:
    return torch.randn(2, 4, 6)


WRITERS: dict[str, Callable[[], tuple[nn.Module, Tensor]]] = {
    "cut": lambda: (Cut(), torch.randn(2, 3, 8, 8)),
    "grown": lambda: (Grown(), _rows()),
    "counter": lambda: (Counter(), _rows()),
    "appended": lambda: (Appended(), _rows()),
    "cached": lambda: (Cached(), _rows()),
    "accumulated": lambda: (Accumulated(), _rows()),
    "rescaled": lambda: (Rescaled(), _rows()),
}
UNTRACEABLE = ("accumulated", "rescaled")


def state(model: nn.Module) -> dict[str, Any]:
    """`vars` of every module, as deep as it goes: values, and of tensors which they are, their bytes and what is set on them."""
    return {name: _state(vars(part), {id(part)}) for name, part in model.named_modules()}


def _state(x: Any, above: set[int]) -> Any:
    if id(x) in above:
        return id(x)
    above = above | {id(x)}
    if isinstance(x, Tensor):
        data = x.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes()
        return Held(x), x.data_ptr(), x.shape, x.dtype, x.device, x.requires_grad, x.is_leaf and Held(x.grad), data
    if isinstance(x, dict):
        return Held(x), [(key, _state(value, above)) for key, value in x.items()]
    if isinstance(x, (list, tuple, set, deque)):
        return Held(x), [_state(value, above) for value in x]
    if hasattr(x, "__dict__") and not isinstance(x, (nn.Module, type)) and not callable(x):
        return Held(x), _state(vars(x), above)
    return Held(x) if callable(x) or isinstance(x, nn.Module) else x


class Held:
    """An object that equals nothing but itself, and that stays alive as long as it is compared."""

    def __init__(self, x: Any) -> None:
        self.x = x

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Held) and self.x is other.x
