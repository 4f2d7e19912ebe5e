"""Estimates of a whole network that searches and pruning share: peak memory, energy, and a lower bound on time."""

from __future__ import annotations

from collections.abc import Callable, Collection
from pathlib import Path
from typing import Annotated

from pydantic import BeforeValidator
from torch import nn

from estimators import Device, estimate_energy, peak_memory, read_device
from estimators.counting import Inputs

Estimate = Callable[[nn.Module, Inputs], float]
OF_A_DEVICE = ("energy_mj", "bound_ms")
ESTIMATES = ("peak_memory_bytes", *OF_A_DEVICE)


def _device(given: object) -> object:
    """The device that a file describes, where a file is given."""
    return read_device(given) if isinstance(given, (str, Path)) else given


Hardware = Annotated[Device | None, BeforeValidator(_device)]
"""A setting: a device, or the file that describes it."""


def estimates(names: Collection[str], device: Device | None) -> dict[str, Estimate]:
    """The functions behind those names of objectives or targets that are estimates, each of a module and its inputs as for `count`.

    Args:
        names: any names; the others are left out.
        device: what energy and the bound are for. Peak memory is that of its words; without one, that of the network's own dtypes.

    Raises:
        ValueError: an estimate needs a device and there is none, or there is one that no estimate needs.
    """
    wanted = [name for name in names if name in ESTIMATES]
    if device is None:
        if needing := [name for name in wanted if name in OF_A_DEVICE]:
            raise ValueError(
                f"{' and '.join(needing)} must be told the device's costs; give `device_file`, a YAML file; "
                "docs/estimators.md shows one"
            )
        return dict.fromkeys(wanted, _peak)
    if not wanted:
        raise ValueError(
            f"a device file is for {', '.join(ESTIMATES)}, got only {', '.join(names)}; name one of them, or leave the file out"
        )
    known: dict[str, Estimate] = {
        "peak_memory_bytes": lambda module, inputs: _peak(module, inputs, int(device.bytes_per_word)),
        "energy_mj": lambda module, inputs: 1e3 * estimate_energy(module, inputs, device).joules,
        "bound_ms": lambda module, inputs: 1e3 * estimate_energy(module, inputs, device).bound_s,
    }
    return {name: known[name] for name in wanted}


def _peak(module: nn.Module, inputs: Inputs, element_bytes: int | None = None) -> float:
    return peak_memory(module, inputs, element_bytes=element_bytes).peak_bytes
