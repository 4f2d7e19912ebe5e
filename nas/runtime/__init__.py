"""Files, checkpoints, devices, random streams, and reading text, settings and functions."""

from nas.runtime import checkpoint, ranks
from nas.runtime.configs import as_yaml, flat, read_yaml
from nas.runtime.device import half, memory_format, precision, resolve_device
from nas.runtime.environment import command_line, environment
from nas.runtime.files import replacing, sweep, write_json, write_text
from nas.runtime.importing import import_function
from nas.runtime.pt2 import read_pt2
from nas.runtime.ranks import WHOLE, Share
from nas.runtime.seeding import stream, torch_seed
from nas.runtime.text import floats, names, numbers, pairs, shape, yaml_values
from nas.runtime.trust import OF_LIBRARIES, Untrusted, check_trust, names_function, teaches_by_function
from nas.runtime.weights import fill, fitting, read_tensors

__all__ = [
    "OF_LIBRARIES", "WHOLE", "Share", "Untrusted", "as_yaml", "check_trust", "checkpoint", "command_line", "environment", "fill",
    "fitting", "flat", "floats", "half", "import_function", "memory_format", "names", "names_function", "numbers", "pairs",
    "precision", "ranks", "read_pt2", "read_tensors", "read_yaml", "replacing", "resolve_device", "shape", "stream", "sweep",
    "teaches_by_function", "torch_seed", "write_json", "write_text", "yaml_values",
]  # fmt: skip
