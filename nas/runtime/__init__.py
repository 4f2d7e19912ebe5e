"""Files, checkpoints, devices, random streams, and reading text, settings and functions."""

from nas.runtime import checkpoint, ranks
from nas.runtime.configs import as_yaml, different, flat, read_yaml
from nas.runtime.device import half, memory_format, precision, resolve_device
from nas.runtime.environment import command_line, environment
from nas.runtime.files import replacing, sweep, sweep_beside, write_json, write_text
from nas.runtime.importing import import_function
from nas.runtime.locking import locked
from nas.runtime.optuna_log import quiet_optuna
from nas.runtime.pt2 import read_pt2
from nas.runtime.ranks import WHOLE, Share
from nas.runtime.seeding import drawing, random_state, restore_random_, stream, torch_seed
from nas.runtime.text import amount, floats, names, numbers, pairs, shape, yaml_values
from nas.runtime.trust import OF_LIBRARIES, Untrusted, check_trust, names_function, teaches_by_function
from nas.runtime.weights import fill, fitting, read_tensors

__all__ = [
    "OF_LIBRARIES", "WHOLE", "Share", "Untrusted", "amount", "as_yaml", "check_trust", "checkpoint", "command_line", "different",
    "drawing", "environment", "fill", "fitting", "flat", "floats", "half", "import_function", "locked", "memory_format", "names",
    "names_function", "numbers", "pairs", "precision", "quiet_optuna", "random_state", "ranks", "read_pt2", "read_tensors",
    "read_yaml", "replacing", "resolve_device", "restore_random_", "shape", "stream", "sweep", "sweep_beside",
    "teaches_by_function", "torch_seed", "write_json", "write_text", "yaml_values",
]  # fmt: skip
