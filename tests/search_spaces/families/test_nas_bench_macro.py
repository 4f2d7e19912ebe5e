"""NAS-Bench-Macro: the published networks, and one architecture for the strings that describe the same one."""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest
import torch

from estimators import CostModel, count
from nas.tasks import Task
from search_spaces import Supernet, make_space
from tests.conformance import check_round_trips, check_variation
from tests.subnets import classes

SPACE = make_space("nas-bench-macro")
SMALL = make_space("nas-bench-macro", in_channels=1, image_size=8)
STRINGS = ["".join(digits) for digits in product("012", repeat=8)]


def test_the_strings_are_3969_networks() -> None:
    archs = [SPACE.parse(string) for string in STRINGS]
    assert len(STRINGS) == 6561 == SPACE.raw_size
    assert len(set(archs)) == SPACE.size == 3969
    assert set(archs) == set(SPACE.enumerate())
    assert all(SPACE.parse(SPACE.label(arch)) == arch for arch in archs[::50])


@pytest.mark.parametrize(
    ("string", "label"),
    [
        ("00000000", "00000000"),
        ("10201020", "10210020"),
        ("01002002", "01020020"),
        ("22012022", "22012022"),
        ("02100201", "02100210"),
    ],
)
def test_identities_move_to_the_end_of_their_stage(string: str, label: str) -> None:
    assert SPACE.label(SPACE.parse(string)) == label


@pytest.mark.parametrize("string", ["10201020", "01002002", "02100201"])
def test_strings_of_one_architecture_are_one_network(string: str) -> None:
    """Identities draw no weights, so one seed gives both networks the same ones."""
    arch, x = SMALL.parse(string), torch.randn(2, 1, 8, 8)
    as_written = SMALL.net.build((None, *map(int, string), None)).eval()
    assert SMALL.label(arch) != string
    assert torch.equal(as_written(x), SMALL.net.build(SMALL.locals(arch)).eval()(x))


def test_the_space_keeps_the_contract_of_spaces() -> None:
    check_round_trips(SPACE)
    check_variation(SPACE, np.random.default_rng(0))


@pytest.mark.parametrize(
    ("string", "params", "macs"),
    [
        ("00000000", 387_882, 7_713_280),
        ("10000000", 396_298, 12_128_768),
        ("01000000", 415_082, 14_447_104),
        ("00100000", 419_050, 12_018_176),
        ("11111111", 1_588_874, 53_246_464),
        ("22222222", 2_932_586, 105_660_928),
        ("22212220", 1_985_514, 85_164_544),
    ],
)
def test_published_costs(string: str, params: int, macs: int) -> None:
    arch = SPACE.parse(string)
    cost = CostModel(SPACE).cost(arch)
    assert (cost.params, cost.macs) == (params, macs)
    assert count(SPACE.net.build(SPACE.locals(arch)), (3, 32, 32)).total == cost


def test_subnets_are_slices() -> None:
    rng, images = np.random.default_rng(0), torch.randn(4, 1, 8, 8)
    supernet = Supernet(SMALL.net, seed=1).train()
    for _ in range(3):
        supernet(images, SMALL.locals(SMALL.sample(rng)))
    for arch in [SMALL.parse("00000000"), SMALL.parse("22222222"), *(SMALL.sample(rng) for _ in range(8))]:
        chosen = SMALL.locals(arch)
        for training in (False, True):
            subnet = supernet.train(training).extract(chosen)
            assert torch.equal(subnet(images), supernet(images, chosen))
        alone = SMALL.net.build(chosen)
        assert {k: v.shape for k, v in subnet.state_dict().items()} == {
            k: v.shape for k, v in alone.state_dict().items()
        }


@pytest.mark.parametrize("calibrated", [False, True])
def test_shared_prefixes_predict_as_each_subnet_alone(task: Task, calibrated: bool) -> None:
    rng = np.random.default_rng(0)
    supernet = Supernet(SMALL.net, seed=1)
    archs = [SMALL.sample(rng) for _ in range(4)]
    archs += [SMALL.mutate(archs[0], rng) for _ in range(4)] + archs[:1]
    paths, calibration = [SMALL.locals(arch) for arch in archs], task.train if calibrated else None
    together = classes(supernet, paths, task.validation, batch_size=30, calibration=calibration)
    for row, path in zip(together, paths, strict=True):
        alone = classes(supernet, [path], task.validation, batch_size=30, calibration=calibration)
        np.testing.assert_array_equal(row, alone[0])
    assert not calibrated or len(np.unique(together, axis=0)) > 1


@pytest.mark.parametrize("label", ["", "2222222", "222222222", "22222223", "2222-222"])
def test_labels_that_name_no_network_are_refused(label: str) -> None:
    with pytest.raises(ValueError, match=r"a label must be 8 digits, each 0, 1 or 2, as in 22212220; got"):
        SPACE.parse(label)


def test_options_that_are_not_allowed_are_refused() -> None:
    with pytest.raises(ValueError, match="`num_classes` must be an integer of at least 2; got 1"):
        make_space("nas-bench-macro", num_classes=1)
    with pytest.raises(ValueError, match="no option of search space 'nas-bench-macro' is named 'bn'"):
        make_space("nas-bench-macro", bn="paper")
