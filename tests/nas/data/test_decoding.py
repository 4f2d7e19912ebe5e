"""How images of all kinds become pixels, and what is said about those that do not."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import nas.data.decoding as images_module
from nas.data.dataset import load_data
from tests.small_data import class_folder, colours, plain_image, png


def test_gray_stays_gray_and_a_mixture_becomes_colour(tmp_path: Path) -> None:
    gray = load_data(class_folder(tmp_path / "gray", {"a": 10, "b": 10}, mode="L"))
    assert gray.input_shape == (1, 8, 8)
    assert not gray.flip
    root = class_folder(tmp_path / "mixed", {"a": 10, "b": 10}, mode="L")
    (root / "b" / "005.png").write_bytes(png(15))
    mixed = load_data(root)
    assert mixed.input_shape == (3, 8, 8)
    assert mixed.flip
    assert sorted(colours(mixed.training) + colours(mixed.test)) == list(range(20))
    for split in (mixed.train, mixed.validation, mixed.test):
        for image, colour in zip(split.images, colours(split), strict=True):
            assert image[:, 0, 0].tolist() == ([15, 240, 7] if colour == 15 else [colour] * 3)


@pytest.mark.parametrize("kind", ["jpg", "bmp", "webp", "gif"])
def test_other_formats(tmp_path: Path, kind: str) -> None:
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        for number in range(4):
            plain_image(99 + number).save(tmp_path / name / f"{number}.{kind.upper()}")
    data = load_data(tmp_path)
    pixel = data.train.images[0, :, 4, 4].tolist()
    assert np.allclose(pixel, [100, 155, 7], atol=4)


def test_deep_transparent_and_turned_images(tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        for number in range(3):
            deep = np.full((8, 4), 0x80FF, np.uint16)
            deep[0] = 0x7000
            Image.fromarray(deep).save(tmp_path / name / f"{number}.png")
    assert load_data(tmp_path).train.images.unique().tolist() == [0x70, 0x80]
    turned = Image.new("RGB", (8, 4))
    exif = turned.getexif()
    exif[0x0112] = 6
    turned.save(tmp_path / "a" / "0.jpg", exif=exif)
    Image.new("RGBA", (4, 8), (1, 2, 3, 0)).save(tmp_path / "b" / "0.png")
    assert load_data(tmp_path).input_shape == (3, 8, 4)


@pytest.mark.parametrize(
    ("bits", "said"),
    [(8, "values up to 255, .* 8 bits: taken as they are"), (12, "up to 4,095, .* divided by 16"), (16, None)],
)
@pytest.mark.parametrize("image_size", [None, 8])
def test_deep_images_are_scaled_by_the_bits_that_all_need(
    tmp_path: Path, recwarn: pytest.WarningsRecorder, bits: int, said: str | None, image_size: int | None
) -> None:
    ramp = np.linspace(0, 2**bits - 1, 64).astype(np.uint16).reshape(8, 8)
    for name, part in ((name, part) for part in ("train", "test") for name in ("a", "b")):
        (tmp_path / part / name).mkdir(parents=True)
        for number in range(4):  # test images are four times as bright, and clipped
            values = ramp if part == "train" else np.minimum(ramp.astype(np.uint32) * 4, 65535).astype(np.uint16)
            Image.fromarray(values).save(tmp_path / part / name / f"{number}.png")
    data = load_data(tmp_path, image_size=image_size)
    expected = torch.from_numpy((ramp >> (bits - 8)).astype(np.int64))
    for image in data.training.images:
        assert torch.equal(image[0].long(), expected)
    assert data.test.images.max() == 255
    warned = [str(each.message) for each in recwarn]
    assert bool(warned) == (said is not None)
    assert said is None or re.search(said, warned[0])


def test_deep_images_beside_others(tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        for number in range(4):
            (tmp_path / name / f"{number}.png").write_bytes(png(3))
        Image.fromarray(np.full((8, 8), 0xC000, np.uint16)).save(tmp_path / name / "deep.png")
    data = load_data(tmp_path)
    pixels = torch.cat([data.training.images, data.test.images])[:, :, 0, 0].tolist()
    assert sorted(pixels) == [[3, 252, 7]] * 8 + [[0xC0] * 3] * 2


@pytest.mark.parametrize("palette", [False, True])
def test_an_image_that_only_its_transparency_shows(tmp_path: Path, palette: bool) -> None:
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        for number in range(4):
            image = Image.new("RGBA", (8, 8), (0, 0, 0, 0))
            image.paste((0, 0, 0, 255), (number, 0, number + 2, 8))
            (image.quantize(4) if palette else image).save(tmp_path / name / f"{number}.png")
    data = load_data(tmp_path)
    assert data.input_shape == (1, 8, 8)
    assert (data.training.images == 255).sum(dim=(1, 2, 3)).tolist() == [16] * len(data.training)


def test_image_size_resizes_the_short_side_and_crops_the_centre(tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        for number in range(4):
            wide = np.zeros((16, 64), np.uint8)
            wide[:, 20:44] = 200 + number  # the centre, and a margin that the filter reaches into
            Image.fromarray(wide if number % 2 else wide.T).save(tmp_path / name / f"{number}.png")
    data = load_data(tmp_path, image_size=4)
    assert data.input_shape == (1, 4, 4)
    assert torch.cat([data.training.images, data.test.images]).unique().tolist() == [200, 201, 202, 203]


def test_large_jpegs_shrink_to_the_same_picture(tmp_path: Path) -> None:
    ramp = np.tile(np.linspace(0, 255, 512).astype(np.uint8), (512, 1))
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        for number in range(3):
            Image.fromarray(ramp).save(tmp_path / name / f"{number}.jpg", quality=95)
    data = load_data(tmp_path, image_size=32)
    expected = torch.from_numpy(ramp[::16, 8::16].astype(np.int64))
    assert (data.train.images[0, 0].long() - expected).abs().max() <= 8


def test_a_limit_leaves_other_images_undecoded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = class_folder(tmp_path, {"a": 50, "b": 50})
    opened: list[Any] = []
    real = Image.open

    def recording(source: Any) -> Image.Image:
        opened.append(source)
        return real(source)

    monkeypatch.setattr(Image, "open", recording)
    data = load_data(root, limit=10, test_limit=3)
    assert (len(data.train), len(data.validation), len(data.test)) == (5, 5, 3)
    assert len(set(opened)) == 13
    assert len(opened) == 14  # the first one twice: its size decides what memory is needed


@pytest.mark.parametrize("damage", [lambda whole: whole[:46], lambda whole: b"no image", lambda whole: b""])
def test_corrupt_images_are_all_named_or_left_out(tmp_path: Path, damage: Callable[[bytes], bytes]) -> None:
    root = class_folder(tmp_path, {"a": 10, "b": 10})
    for file in (root / "a" / "000.png", root / "b" / "007.png"):
        file.write_bytes(damage(file.read_bytes()))
    with pytest.raises(ValueError, match=r"got 2 that are not: .*replace or remove .*`damaged='leave-out'`") as refused:
        load_data(tmp_path)
    assert "a/000.png' (" in str(refused.value) and "b/007.png' (" in str(refused.value)
    with pytest.warns(UserWarning, match="2 images that cannot be read are left out"):
        data = load_data(tmp_path, damaged="leave-out")
    assert sorted(colours(data.training) + colours(data.test)) == [n for n in range(20) if n not in (0, 17)]
    for split in (data.train, data.validation, data.test):
        assert split.labels.tolist() == [int(colour >= 10) for colour in colours(split)]


def test_sizes_that_differ(tmp_path: Path) -> None:
    file = class_folder(tmp_path, {"a": 10, "b": 10}) / "b" / "003.png"
    file.write_bytes(png(3, size=(12, 9)))
    with pytest.raises(ValueError, match=r"8 x 8 .* and 9 x 12 in '.*b/003\.png'; give `image_size`, such as 8"):
        load_data(tmp_path)
    assert load_data(tmp_path, image_size=8).input_shape == (3, 8, 8)


def test_more_images_than_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = class_folder(tmp_path, {"a": 10, "b": 10})
    assert (images_module.available_memory() or 0) > 2**20
    monkeypatch.setattr(images_module, "available_memory", lambda: 20 * 8 * 8 * 3 - 1)
    with pytest.raises(ValueError, match=r"must fit into memory, got 20 of 8 x 8 x 3 bytes .*`limit` .* `image_size`"):
        load_data(root)
    assert load_data(root, limit=12).input_shape == (3, 8, 8)
    assert load_data(root, image_size=4).input_shape == (3, 4, 4)
    monkeypatch.setattr(images_module, "available_memory", lambda: None)
    assert len(load_data(root).test) == 4


def test_memory_is_checked_again_when_gray_becomes_colour(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = class_folder(tmp_path, {"a": 10, "b": 10}, mode="L")
    (root / "b" / "009.png").write_bytes(png(0))
    monkeypatch.setattr(images_module, "available_memory", lambda: 20 * 8 * 8 * 2)
    with pytest.raises(ValueError, match="must fit into memory, got 20 of 8 x 8 x 3"):
        load_data(root)
