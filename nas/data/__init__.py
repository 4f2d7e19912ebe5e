"""Where examples come from."""

from nas.data.batches import augment, batches, normalize
from nas.data.config import DataConfig, load_configured, named_data
from nas.data.dataset import (
    ImageData,
    Split,
    channel_statistics,
    choose_images,
    load_data,
    with_classes,
    with_normalisation,
)
from nas.data.decoding import Damaged, Images, look_at, read_one

__all__ = [
    "Damaged", "DataConfig", "ImageData", "Images", "Split", "augment", "batches", "channel_statistics",
    "choose_images", "load_configured", "load_data", "look_at", "named_data", "normalize", "read_one",
    "with_classes", "with_normalisation",
]  # fmt: skip
