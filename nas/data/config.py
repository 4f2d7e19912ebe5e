"""Which images, and what they are normalised by."""

from __future__ import annotations

import os
from typing import Literal

from pydantic import model_validator

from nas.data.dataset import ImageData, load_data, with_normalisation
from search_spaces.core import MOST_WORKERS, Part, setting


class DataConfig(Part):
    """What `nas.load_data` is called with, and what the images are normalised by if not by their own statistics."""

    source: str = setting(
        "digits",
        name="data",
        help="`digits`, an image folder, a folder of parquet, torchvision:NAME or datasets:NAME.",
    )
    limit: int | None = setting(None, gt=0, help="Training and validation images to use.", otherwise="all")
    test_limit: int | None = setting(None, gt=0, help="Test images to use.", otherwise="all")
    validation_fraction: float = setting(0.5, gt=0, lt=1, help="Part of the training images that is not trained on.")
    image_size: int | None = setting(
        None, gt=0, help="Resize images to this many pixels a side.", otherwise="as they are"
    )
    flip: bool | None = setting(None, help="Mirror images at random in training.", otherwise="colour images alone")
    crop: int | None = setting(
        None,
        ge=0,
        help="Pixels of padding before random crops in training; 0 for none.",
        otherwise="an eighth of a side",
    )
    damaged: Literal["refuse", "leave-out"] = setting(
        "refuse", help="Images that cannot be read: refuse, which names them, or leave-out."
    )
    stream: bool = setting(
        False, help="Read images from disk when they are needed, by `workers`, for data that exceed memory."
    )
    workers: int = setting(2, ge=0, le=MOST_WORKERS, help="Processes that read streamed images.")
    mean: tuple[float, ...] | None = setting(
        None, help="What images are normalised by, such as 0.5,0.5,0.5.", otherwise="the data's own"
    )
    std: tuple[float, ...] | None = setting(None, help="Goes with mean.", otherwise="the data's own")

    @model_validator(mode="after")
    def _normalised_by_both(self) -> DataConfig:
        if (self.mean is None) != (self.std is None):
            raise ValueError("`mean` and `std` go together; give both, or neither")
        return self


def load_configured(config: DataConfig, seed: int) -> ImageData:
    """The images of a configuration, in memory; the seed decides the splits."""
    settings = config.model_dump(exclude={"stream", "workers"})
    mean, std = settings.pop("mean"), settings.pop("std")
    data = load_data(settings.pop("source"), seed=seed, **settings)
    return with_normalisation(data, mean, std) if mean and std else data


def named_data(data: object) -> tuple[str, ImageData | None]:
    """What data are called, and the images themselves where these are given.

    Raises:
        ValueError: they are neither a name or path nor loaded images.
    """
    if isinstance(data, ImageData):
        return data.name, data
    if isinstance(data, (str, os.PathLike)):
        return os.fspath(data), None
    raise ValueError(
        f"`data` must be what `nas.load_data` takes (a path, or a name such as digits), or what it returned, got a "
        f"{type(data).__name__}; make a task of other data, such as `nas.tasks.classification(data)`"
    )
