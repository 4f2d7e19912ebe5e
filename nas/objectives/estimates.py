"""Estimates of a whole network that searches and pruning share: peak memory, energy, and a lower bound on time."""

from __future__ import annotations

from collections.abc import Callable, Collection
from pathlib import Path
from typing import Annotated, NamedTuple

from pydantic import BeforeValidator
from torch import nn

from estimators import Device, estimate_energy, peak_memory, read_device
from estimators.counting import Inputs


def element_bytes(device: Device | None) -> int | None:
    """Of an activation on the device; None for that of the network's own dtype."""
    return None if device is None else int(device.bytes_per_word)


Estimate = Callable[[nn.Module, Inputs], float]


class EstimateEntry(NamedTuple):
    """One estimate: its function for a device, and whether there has to be one."""

    make: Callable[[Device | None], Estimate]
    needs_device: bool


def _peak(device: Device | None) -> Estimate:
    return lambda module, inputs: peak_memory(module, inputs, element_bytes=element_bytes(device)).peak_bytes


def _energy_mj(device: Device | None) -> Estimate:
    assert device is not None
    return lambda module, inputs: 1e3 * estimate_energy(module, inputs, device).joules


def _bound_ms(device: Device | None) -> Estimate:
    assert device is not None
    return lambda module, inputs: 1e3 * estimate_energy(module, inputs, device).bound_s


PATCHED = ("patched_peak_bytes", "patched_macs")
"""Estimates of networks of a space whose first blocks may run patch by patch, see `estimators.PatchModel`."""
ESTIMATES: dict[str, EstimateEntry] = {
    "peak_memory_bytes": EstimateEntry(_peak, needs_device=False),
    "energy_mj": EstimateEntry(_energy_mj, needs_device=True),
    "bound_ms": EstimateEntry(_bound_ms, needs_device=True),
}


def _device(given: object) -> object:
    """The device that a file describes, where a file is given; one that cannot be read is a wrong setting, whoever names it."""
    try:
        return read_device(given) if isinstance(given, (str, Path)) else given
    except OSError as error:
        raise ValueError(str(error)) from None


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
    known = (*ESTIMATES, *PATCHED)
    needing = [name for name in wanted if ESTIMATES[name].needs_device]
    if device is None and needing:
        raise ValueError(
            f"{' and '.join(needing)} must be told the device's costs; give `device_file`, a YAML file; "
            "docs/estimators.md shows one"
        )
    if device is not None and not any(name in known for name in names):
        raise ValueError(
            f"a device file is for {', '.join(known)}, got only {', '.join(names)}; name one of them, or leave the file out"
        )
    return {name: ESTIMATES[name].make(device) for name in wanted}
