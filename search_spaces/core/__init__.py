"""Choices, architectures, spaces, and the networks that they describe."""

from search_spaces.core.architecture import Architecture, key_of
from search_spaces.core.bounds import (
    LARGEST_EXPANSION,
    LARGEST_INPUT,
    LARGEST_KERNEL,
    MOST_CHANNELS,
    MOST_DIMENSIONS,
    MOST_OPERATORS,
    MOST_PATHS,
    MOST_SEEDS,
    MOST_SUBNETS,
    MOST_SUPERNETS,
    MOST_SYNTHETIC,
    MOST_WORKERS,
)
from search_spaces.core.choices import Categorical, Choice, Condition, Integer, Subset, Value, conditions
from search_spaces.core.config import Keyword, Part, PathText, keywords, nested, parse, put, setting, takes
from search_spaces.core.documents import check_json, load_json, load_yaml, of_file, parse_json, parse_yaml, read_bytes
from search_spaces.core.extremes import composed, described, largest, smallest
from search_spaces.core.labels import code_labels, written
from search_spaces.core.naming import bare, first_line, quoted, unknown_name
from search_spaces.core.network import (
    Block,
    Local,
    Network,
    Shape,
    SharedBlock,
    Supernet,
    blueprint,
    is_left_out,
    output_shape,
    seeded,
)
from search_spaces.core.numbering import Values, exists
from search_spaces.core.options import (
    ImageSize,
    check_images,
    height_and_width,
    image_size_of,
    integers,
    plain,
    stage_depths,
    switched_on,
    usual_resolutions,
    widths,
)
from search_spaces.core.paths import SKIPPED, Flow, FlowShape, OnPath, advance, prefix, seen, shape_of, together
from search_spaces.core.quiet import quiet
from search_spaces.core.reach import Constraint, first_kept
from search_spaces.core.settings import Setting, Settings, fixed, reading
from search_spaces.core.skips import OnSkip
from search_spaces.core.space import COUNTABLE, Labels, SearchSpace
from search_spaces.core.tensors import Stored, load_tensors, save_tensors

__all__ = [
    "COUNTABLE", "LARGEST_EXPANSION", "LARGEST_INPUT", "LARGEST_KERNEL", "MOST_CHANNELS", "MOST_DIMENSIONS", "MOST_OPERATORS",
    "MOST_PATHS", "MOST_SEEDS", "MOST_SUBNETS", "MOST_SUPERNETS", "MOST_SYNTHETIC", "MOST_WORKERS", "SKIPPED",
    "Architecture", "Block", "Categorical", "Choice", "Condition", "Constraint", "Flow", "FlowShape",
    "ImageSize", "Integer", "Keyword", "Labels", "Local", "Network", "OnPath", "OnSkip", "Part", "PathText",
    "SearchSpace", "Setting", "Settings", "Shape", "SharedBlock", "Stored", "Subset", "Supernet", "Value", "Values",
    "advance", "bare", "blueprint", "check_images", "check_json", "code_labels", "composed", "conditions",
    "described", "exists", "first_kept", "first_line", "fixed", "height_and_width", "image_size_of", "integers",
    "is_left_out", "key_of", "keywords", "largest", "load_json", "load_tensors", "load_yaml", "nested", "of_file", "output_shape",
    "parse", "parse_json", "parse_yaml", "plain", "prefix", "put", "quiet", "quoted", "read_bytes", "reading",
    "save_tensors", "seeded", "seen", "setting", "shape_of", "smallest", "stage_depths", "switched_on", "takes", "together",
    "unknown_name", "usual_resolutions", "widths", "written",
]  # fmt: skip
