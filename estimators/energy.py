"""Energy and a lower bound on time from a description of the device, and group sizes that balance computing and moving data.

Per layer, energy is what its multiply-accumulates and the words that it moves take; time is at least that of computing and at least
that of moving (the roofline). Words are the inputs, weights and outputs of each convolution, linear layer or matrix product, each
moved once. This orders designs; for joules or milliseconds, measure.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from estimators.counting import Inputs, Tally, run_with
from search_spaces.core import bare, load_yaml, of_file, quoted

ASK = "docs/estimators.md shows one"


@dataclass(frozen=True)
class Device:
    """Costs of a device.

    Attributes:
        name: of the device.
        macs_per_second: peak multiply-accumulates.
        bytes_per_second: bandwidth of the memory where weights and activations are.
        joules_per_mac: energy of one multiply-accumulate.
        joules_per_byte: energy of moving one byte.
        bytes_per_word: size of an element; 1 for int8.
    """

    name: str
    macs_per_second: float
    bytes_per_second: float
    joules_per_mac: float
    joules_per_byte: float
    bytes_per_word: int

    def __post_init__(self) -> None:
        for field in fields(self)[1:]:
            value = getattr(self, field.name)
            if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 < value < float("inf"):
                raise ValueError(
                    f"device {quoted(self.name)}: `{field.name}` must be a positive number, got {quoted(value)}"
                )

    @property
    def balance(self) -> float:
        """Multiply-accumulates per word moved from which on a layer's time is that of computing."""
        return self.macs_per_second / self.bytes_per_second * self.bytes_per_word


@dataclass(frozen=True)
class LayerEnergy:
    """One operator: multiply-accumulates, words moved, joules, and the seconds of computing and of moving."""

    name: str
    macs: int
    words: int
    joules: float
    compute_s: float
    memory_s: float

    @property
    def bound_s(self) -> float:
        """The larger of the two times."""
        return max(self.compute_s, self.memory_s)

    @property
    def intensity(self) -> float:
        """Multiply-accumulates per word."""
        return self.macs / self.words


@dataclass(frozen=True)
class Energy:
    """A network for one sample, or its own inputs.

    Attributes:
        joules: of all layers.
        bound_s: seconds that it takes at least, one layer after the other.
        layers: where they come from, in the order in which they ran.
    """

    joules: float
    bound_s: float
    layers: tuple[LayerEnergy, ...]


def read_device(path: str | Path) -> Device:
    """A device from a YAML file with the fields of `Device`.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: no YAML mapping, fields that are missing or unknown (all are named), or values that are not positive.
    """
    path = Path(path)
    try:
        data = load_yaml(path, ASK)
    except FileNotFoundError:
        raise FileNotFoundError(f"no device file at {path}; {ASK}") from None
    if not isinstance(data, Mapping):
        raise ValueError(f"{path} must describe a device as `field: value` lines, got {type(data).__name__}")
    known = [field.name for field in fields(Device)]
    missing, unknown = (
        [name for name in known if name not in data],
        [bare(name) for name in data if name not in known],
    )
    if missing or unknown:
        wrong = [
            f"{kind} {', '.join(names[:10])}" for kind, names in (("missing", missing), ("unknown", unknown)) if names
        ]
        raise ValueError(f"{path} must give exactly the fields {', '.join(known)}: {'; '.join(wrong)}; {ASK}")
    values: dict[str, Any] = {name: _number(data[name]) for name in known[1:]}
    with of_file(path, ASK):
        return Device(bare(data["name"]), **values)


def estimate_energy(module: nn.Module, inputs: Inputs, device: Device) -> Energy:
    """Energy and roofline of one forward pass in evaluation mode.

    Args:
        module: any that `count` can count.
        inputs: as for `count`.
        device: see `read_device`.

    Raises:
        ValueError: the module does not run on these inputs.

    Reference: Jha et al., "E2GC: Energy-efficient Group Convolution in Deep Neural Networks", VLSI Design 2020, arXiv:2006.15100.
    Differs: of the paper only the abstract's claims are confirmed, so the model is the usual one of macs and words with a price each,
    not the paper's metric.
    """
    traffic = run_with(Traffic, module, inputs)
    layers = tuple(_layer(*found, device) for found in traffic.found)
    return Energy(sum(layer.joules for layer in layers), sum(layer.bound_s for layer in layers), layers)


class Traffic(Tally):
    """Notes module and operator, macs, and words of each call that multiplies and accumulates."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[tuple[str, int, int]] = []

    def add(self, operator: Any, macs: int, args: Any, kwargs: Any, out: Any) -> None:
        super().add(operator, macs, args, kwargs, out)
        owner, name = self.running[-1][0], str(operator).removeprefix("aten.")
        tensors = [leaf for leaf in tree_leaves((args, kwargs, out)) if isinstance(leaf, Tensor)]
        words = sum(leaf.numel() for leaf in {id(leaf): leaf for leaf in tensors}.values())
        self.found.append((f"{name} of {owner}" if owner else name, macs, words))


@dataclass(frozen=True)
class GroupedLayer:
    """A convolution with as many channels out as in: channels, pixels of the output map, and side of the kernel."""

    channels: int
    pixels: int
    kernel: int

    def macs(self, group_size: int) -> int:
        return self.pixels * self.kernel**2 * self.channels * group_size

    def words(self, group_size: int) -> int:
        """Input, output and weights, each once."""
        return 2 * self.pixels * self.channels + self.kernel**2 * self.channels * group_size


@dataclass(frozen=True)
class GroupSize:
    """What one group size, shared by all layers, costs."""

    group_size: int
    macs: int
    words: int
    joules: float
    bound_s: float

    @property
    def intensity(self) -> float:
        """Multiply-accumulates per word."""
        return self.macs / self.words


def group_sizes(layers: Sequence[GroupedLayer], device: Device) -> list[GroupSize]:
    """Every power of two that divides all channels, smallest first: the sweep to choose from by measured energy or accuracy.

    Raises:
        ValueError: no layers.
    """
    if not layers:
        raise ValueError("`layers` must hold at least one convolution, got none")
    most = math.gcd(*(layer.channels for layer in layers))
    found, size = [], 1
    while most % size == 0:
        each = [_layer("", layer.macs(size), layer.words(size), device) for layer in layers]
        found.append(
            GroupSize(
                size,
                sum(layer.macs for layer in each),
                sum(layer.words for layer in each),
                sum(layer.joules for layer in each),
                sum(layer.bound_s for layer in each),
            )
        )
        size *= 2
    return found


def best_group_size(layers: Sequence[GroupedLayer], device: Device) -> int:
    """Channels per group, the same in all layers, from which on computing takes longer than moving data.

    The smallest power of two that divides all channels and whose macs per word, over all layers, reach the device's balance; the
    largest one where none does.

    Raises:
        ValueError: no layers.

    Reference: Jha et al., E2GC, VLSI Design 2020, arXiv:2006.15100 (one group size instead of one number of groups).
    Differs: the paper's own expression for the best size is not confirmed; this is the balance point of the roofline.
    """
    sweep = group_sizes(layers, device)
    return next((found.group_size for found in sweep if found.intensity >= device.balance), sweep[-1].group_size)


def _layer(name: str, macs: int, words: int, device: Device) -> LayerEnergy:
    moved = words * device.bytes_per_word
    joules = macs * device.joules_per_mac + moved * device.joules_per_byte
    return LayerEnergy(name, macs, words, joules, macs / device.macs_per_second, moved / device.bytes_per_second)


def _number(value: object) -> Any:
    """YAML reads 1e9 as text."""
    try:
        return float(value) if isinstance(value, str) else value
    except ValueError:
        return value
