"""The most that a file or an option may ask for: far above what is real, and far below what exhausts a machine."""

MOST_BYTES = 64 * 2**20
"""Of a JSON file; the plan of a language model, which lists every neuron that goes, takes a few megabytes."""
MOST_YAML_BYTES = 2**20
"""Of a YAML file, which people write; longer ones are slow to read."""
DEEPEST = 100
"""Levels of lists and mappings inside each other; a run's own files have about ten."""
MOST_VALUES = 4_000_000
"""Values in a JSON file, each of which takes up to a hundred bytes once it is read."""
MOST_YAML_VALUES = 100_000
"""Values in a YAML file, with those that its aliases stand for."""
LONGEST_VALUE = 100_000
"""Characters of one value in YAML; the time to read a number of more digits grows with their square."""
LARGEST_INPUT = 2**28
"""Numbers in example inputs, all tensors together: 1 GiB as float32, a hundred images of 1024 x 1024."""
MOST_DIMENSIONS = 64
"""Of a tensor, as torch's own operators take no more."""
MOST_CLASSES = 1_000_000
"""Outputs of a network; the largest classifications of faces have fewer than half as many."""
MOST_CHANNELS = 2**16
"""Of images and layers; the widest published convolutional networks have 2**14."""
LARGEST_KERNEL = 1_001
"""Height and width of a kernel; the largest published ones have 61."""
LARGEST_EXPANSION = 1_000
"""Of the channels inside a block; published ones are up to ten."""
MOST_BLOCKS = 250
"""Blocks of a stage; the deepest published network, of 1,202 layers, has 200."""
MOST_LISTED = 10_000
"""Values of one choice. Each is looked at whenever an architecture is checked."""
MOST_PATHS = 100
"""Of an ensemble; published ones have up to ten."""
MOST_SUPERNETS = 1_000
"""Of a run; mixtures have up to a few dozen."""
MOST_SUBNETS = 10_000
"""Architectures that a step of training draws."""
MOST_SEEDS = 10_000
"""How often a network is trained alone."""
MOST_SYNTHETIC = 100_000
"""Inputs that are made from batch norms; 500 are usual."""
MOST_WORKERS = 1_000
"""Processes that read images."""
MOST_OPERATORS = 20_000
"""Operators, tensors and modules of a graph in a file; the deepest networks have a few thousand of each."""
