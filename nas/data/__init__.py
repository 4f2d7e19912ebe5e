"""Where examples come from."""

from nas.data.batches import batches, normalize
from nas.data.config import DataConfig, load_configured, named_data
from nas.data.dataset import ImageData, Split, head, load_data, with_normalisation

__all__ = [
    "DataConfig", "ImageData", "Split", "batches", "head", "load_configured", "load_data", "named_data", "normalize",
    "with_normalisation",
]  # fmt: skip
