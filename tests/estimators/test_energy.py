"""Energy and roofline by hand, the card's claims about group sizes, and device files that are wrong."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from estimators import Device, GroupedLayer, best_group_size, count, estimate_energy, group_sizes, read_device

GOOD = """
name: phone
macs_per_second: 2.0e9
bytes_per_second: 1e9
joules_per_mac: 1e-12
joules_per_byte: 1e-10
bytes_per_word: 4
"""
DEVICE = Device("phone", 2e9, 1e9, 1e-12, 1e-10, 4)


def test_one_layer_by_hand() -> None:
    found = estimate_energy(nn.Conv2d(8, 16, 3, padding=1, bias=False), (8, 10, 10), DEVICE)
    (layer,) = found.layers
    assert (layer.macs, layer.words) == (100 * 9 * 8 * 16, 8 * 100 + 9 * 8 * 16 + 16 * 100)
    assert found.joules == pytest.approx(layer.macs * 1e-12 + 4 * layer.words * 1e-10)
    assert (layer.compute_s, layer.memory_s) == (pytest.approx(layer.macs / 2e9), pytest.approx(4 * layer.words / 1e9))
    assert found.bound_s == max(layer.compute_s, layer.memory_s)
    assert DEVICE.balance == 8


def test_a_network_adds_up_and_names_its_layers() -> None:
    network = nn.Sequential(
        nn.Conv2d(3, 8, 3, groups=1),
        nn.BatchNorm2d(8),
        nn.ReLU(),
        nn.Conv2d(8, 8, 3, groups=8),
        nn.Flatten(),
        nn.Linear(128, 5),
    )
    found = estimate_energy(network, (3, 8, 8), DEVICE)
    assert [layer.name for layer in found.layers] == ["convolution of 0", "convolution of 3", "addmm of 5"]
    assert sum(layer.macs for layer in found.layers) == count(network, (3, 8, 8)).total.macs
    assert found.joules == pytest.approx(sum(layer.joules for layer in found.layers))
    assert found.layers[1].memory_s > found.layers[1].compute_s  # depthwise is bound by memory


@given(pixels=st.integers(1, 4000), kernel=st.sampled_from([1, 3, 5]), power=st.integers(0, 6))
def test_group_size_figures(pixels: int, kernel: int, power: int) -> None:
    channels, size = 64, 2**power
    layer = GroupedLayer(channels, pixels, kernel)
    found = group_sizes([layer], DEVICE)
    assert [each.group_size for each in found] == [1, 2, 4, 8, 16, 32, 64]
    assert found[0].macs == pixels * kernel**2 * channels  # depthwise
    assert found[-1].macs == pixels * kernel**2 * channels**2  # dense
    intensities = [each.intensity for each in found]
    assert intensities == sorted(intensities) and intensities[-1] < pixels
    assert found[power].intensity == pytest.approx(pixels * kernel**2 * size / (2 * pixels + kernel**2 * size))
    assert group_sizes([GroupedLayer(2 * channels, pixels, kernel)], DEVICE)[power].macs == 2 * found[power].macs


@given(pixels=st.integers(9, 4000), kernel=st.sampled_from([1, 3, 5]))
def test_the_best_size_is_where_the_roofline_bends(pixels: int, kernel: int) -> None:
    bend = 2 * pixels * DEVICE.balance / (kernel**2 * (pixels - DEVICE.balance))
    assert pixels * kernel**2 * bend / (2 * pixels + kernel**2 * bend) == pytest.approx(DEVICE.balance)
    best = best_group_size([GroupedLayer(2**20, pixels, kernel)], DEVICE)
    assert best >= bend - 1e-6 and (best == 1 or best / 2 < bend + 1e-6)


def test_small_maps_and_odd_channels() -> None:
    assert best_group_size([GroupedLayer(64, 4, 3)], DEVICE) == 64
    assert best_group_size([GroupedLayer(24, 4, 3), GroupedLayer(36, 4, 3)], DEVICE) == 4
    with pytest.raises(ValueError, match="at least one convolution, got none"):
        best_group_size([], DEVICE)


def test_a_device_file(tmp_path: Path) -> None:
    path = tmp_path / "phone.yaml"
    path.write_text(GOOD)
    assert read_device(path) == DEVICE


def test_no_device_file(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="no device file at .*none.yaml; docs/estimators.md shows one"):
        read_device(tmp_path / "none.yaml")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "name: a\nmacs_per_second: 1\njoules_per_mac: 1\nbytes_per_word: 4",
            "missing bytes_per_second, joules_per_byte; docs",
        ),
        (GOOD + "watts: 3", "exactly the fields name, .*: unknown watts; docs"),
        (
            GOOD.replace("bytes_per_word: 4", "bytes_per_words: 4"),
            "missing bytes_per_word; unknown bytes_per_words; docs",
        ),
        (GOOD.replace("1e-12", "0"), "device 'phone': `joules_per_mac` must be a positive number, got 0"),
        (GOOD.replace("1e-12", "many"), "`joules_per_mac` must be a positive number, got 'many'"),
        ("- 1", "must describe a device as `field: value` lines, got list"),
        ("a: [", "must be YAML"),
    ],
)
def test_wrong_device_files(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "device.yaml"
    path.write_text(text)
    with pytest.raises(ValueError, match=message):
        read_device(path)
