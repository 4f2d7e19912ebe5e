"""Files, checkpoints, devices, random streams, and reading text, settings and functions."""

from nas.runtime import checkpoint
from nas.runtime.device import half, memory_format, precision, resolve_device
from nas.runtime.environment import environment
from nas.runtime.files import put_tensors, replacing, sweep, write_json, write_text
from nas.runtime.importing import import_function
from nas.runtime.seeding import stream, torch_seed
from nas.runtime.text import floats, names, numbers, pairs, shape, yaml_values

__all__ = [
    "checkpoint",
    "environment",
    "floats",
    "half",
    "import_function",
    "memory_format",
    "names",
    "numbers",
    "pairs",
    "precision",
    "put_tensors",
    "replacing",
    "resolve_device",
    "shape",
    "stream",
    "sweep",
    "torch_seed",
    "write_json",
    "write_text",
    "yaml_values",
]
