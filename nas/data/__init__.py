"""Where examples come from."""

from nas.data.batches import batches, normalize
from nas.data.dataset import ImageData, Split, head, load_data, with_normalisation

__all__ = ["ImageData", "Split", "batches", "head", "load_data", "normalize", "with_normalisation"]
