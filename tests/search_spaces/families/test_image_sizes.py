"""Images that are not square: every built-in space takes a height and a width, and keeps its contracts."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import nas
from estimators import measure_latency
from nas.data.dataset import ImageData, Split
from nas.study.spaces import build_space, options_for
from nas.tasks import classification, image_task
from search_spaces import SPACES, SearchSpace, Supernet, make_space, smallest
from search_spaces.core import Shape
from search_spaces.layers import Resize
from tests.commands import run
from tests.subnets import check_costs, check_slice, stirred

OPTIONS: dict[str, Mapping[str, Any]] = {
    "resnet20-pooling": {"operators": ("max", "avg", "conv"), "weights": "parting", "bn": "affine"},
    "resnet18-pooling": {"operators": ("conv", "gated"), "bn": "affine"},
    "resnet50-pooling": {"bn": "affine"},
    "nas-bench-macro": {},
    "resnet-elastic": {"choices": "width,depth,kernel,pooling,resolution,head", "width_ratios": (0.25, 0.5)},
    "mobilenet-elastic": {"choices": "kernel,depth,width,resolution,se,head", "width_ratios": (0.125, 0.25), "depths": (1, 2)},
    "channel-bench-macro-resnet": {},
    "nas-bench-201": {"channels": 4, "cells": 1},
}  # fmt: skip
SIZES = [(8, 12), (16, 8)]


def made(name: str, image_size: Any) -> SearchSpace:
    return make_space(name, image_size=image_size, num_classes=5, **OPTIONS[name])


def test_every_built_in_space_is_looked_at() -> None:
    assert set(OPTIONS) == set(SPACES)


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("name", OPTIONS)
def test_subnets_are_slices_and_costs_those_of_the_network(name: str, size: tuple[int, int]) -> None:
    space, rng = made(name, size), np.random.default_rng(0)
    assert space.net.input_shape == (3, *size) and space.options["image_size"] == list(size)
    supernet, archs = stirred(space), [space.sample(rng) for _ in range(2)]
    for arch in archs:
        check_slice(space, supernet, arch)
    check_costs(space, archs, supernet)


@pytest.mark.parametrize("name", OPTIONS)
def test_a_pair_of_equal_sides_is_one_number(name: str) -> None:
    square, pair = made(name, 16), made(name, [16, 16])
    assert square.fingerprint == pair.fingerprint and square.net.input_shape == pair.net.input_shape
    assert made(name, [16, 8]).fingerprint != made(name, [8, 16]).fingerprint


@pytest.mark.parametrize("name", OPTIONS)
def test_sizes_that_images_cannot_have_are_refused(name: str) -> None:
    for size in (0, (8,), (8, 8, 8), (8, 0), (8.0, 8), "8x8", None):
        with pytest.raises(ValueError, match="`image_size` must be an integer of at least 1, or two of them, height"):
            make_space(name, image_size=size)


def test_the_shorter_side_must_survive_the_poolings() -> None:
    for name, least in (("resnet-elastic", 4), ("mobilenet-elastic", 8), ("resnet18-pooling", 8), ("nas-bench-201", 4)):
        with pytest.raises(ValueError, match=f"`image_size` must be at least {least} for . poolings, got {least - 1}"):
            make_space(name, image_size=(64, least - 1))
        assert make_space(name, image_size=(64, least)).net.input_shape == (3, 64, least)
    with pytest.raises(ValueError, match="must be a multiple of 4 for weights per resolution and 2 poolings, got 10"):
        make_space("resnet20-pooling", image_size=(10, 8), weights="per-resolution")


@settings(max_examples=8, deadline=None)
@given(data=st.data())
def test_slices_of_any_height_and_width(data: st.DataObject) -> None:
    name = data.draw(st.sampled_from(["resnet-elastic", "resnet20-pooling", "nas-bench-201"]))
    sides = st.integers(2, 6).map(lambda times: 4 * times) if name == "resnet20-pooling" else st.integers(8, 24)
    space = made(name, (data.draw(sides), data.draw(sides)))
    rng = np.random.default_rng(data.draw(st.integers(0, 99)))
    arch = space.sample(rng)
    check_slice(space, Supernet(space.net), arch)
    check_costs(space, [arch])


@given(st.integers(1, 40), st.integers(1, 40), st.integers(1, 40))
def test_images_keep_their_proportions_where_they_are_resized(height: int, width: int, shorter: int) -> None:
    resize, shape = Resize(), (3, height, width)
    resize.choose_((shorter,), shape)
    found: Shape = tuple(resize(torch.zeros(1, *shape)).shape[2:])
    assert min(found) == shorter
    assert abs(found[0] * width - found[1] * height) <= max(height, width) / 2 + 1e-9 or min(height, width) == 1


def test_latency_is_measured_on_images_that_are_not_square() -> None:
    space = made("resnet-elastic", (8, 12))
    arch = smallest(space)
    assert measure_latency(space.build(arch), space.net.input_shape).median_ms > 0


# --- from data ---


def cut(data: ImageData, height: int, width: int) -> ImageData:
    """The images of `data` without their last rows and columns."""

    def part(split: Split) -> Split:
        return replace(split, images=split.images[..., :height, :width].contiguous())

    return replace(data, train=part(data.train), validation=part(data.validation), test=part(data.test))


@pytest.mark.parametrize("name", [*OPTIONS, "examples.own_space:own_space"])
def test_data_lead_to_their_height_and_width(name: str, digits: ImageData) -> None:
    options = options_for(name, {}, image_task(cut(digits, 8, 6)))
    assert options == {"in_channels": 1, "num_classes": 10, "image_size": [8, 6]}
    assert options_for(name, {"image_size": 8}, image_task(cut(digits, 8, 6)))["image_size"] == 8
    assert options_for(name, {}, image_task(digits))["image_size"] == 8


def test_data_lead_to_the_outputs_of_the_examples(digits: ImageData) -> None:
    options = options_for("examples.unet:unet", {}, image_task(cut(digits, 8, 6)))
    assert options == {"in_channels": 1, "outputs": 10, "image_size": [8, 6]}
    assert build_space("examples.unet:unet", options).net.input_shape == (1, 8, 6)
    signals = classification((torch.zeros(20, 3, 50), torch.arange(20) % 4))
    found = options_for("examples.sequence_space:sequence_space", {}, signals)
    assert found == {"in_channels": 3, "outputs": 4, "length": 50}


def test_data_that_are_not_square_are_searched(digits: ImageData, tmp_path: Path) -> None:
    study = nas.search(
        "resnet-elastic",
        cut(digits, 8, 6),
        strategy="one-shot",
        space_options={"width_ratios": (0.25, 0.5), "depths": (1,)},
        epochs=1,
        alone_epochs=1,
        trials=4,
        batch_size=64,
        out=tmp_path / "run",
    )
    assert study.space.net.input_shape == (1, 8, 6) and len(study.front) > 0


def test_the_command_line_takes_a_height_and_a_width() -> None:
    of_space = "resnet20-pooling", "--arch", "4-3-3", "--json", "--option"
    square, wide = (run("profile", *of_space, f"image_size={size}") for size in ("32", "[32,48]"))
    assert not square.stderr and not wide.stderr
    macs = [json.loads(said.stdout)["macs"] for said in (square, wide)]
    assert 1.49 < macs[1] / macs[0] < 1.5  # all but the classifier
