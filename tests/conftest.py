"""Small real data and one finished run that many tests look at."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import pytest
import torch

from estimators.latency import compare_latency
from nas import Study, configure, load_data, search
from nas.data.dataset import ImageData
from nas.tasks import Task, image_task
from search_spaces import SearchSpace, make_space
from tests import repeats
from tests.made_up_studies import OPTIONS

QUICK = {"supernets": 2, "epochs": 2, "alone_epochs": 2, "batch_size": 64, "limit": 300, "test_limit": 100}


def pytest_configure(config: pytest.Config) -> None:
    """Trainings of a few steps know nothing yet, and are told so."""
    config.addinivalue_line("filterwarnings", "ignore:.* has .* on .*, no better than .*:UserWarning")


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Before those that are slow are left out."""
    repeats.mark(items)


@pytest.fixture(autouse=True, scope="session")
def _one_thread() -> None:
    """Test processes run side by side, one per core."""
    torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def _torch_is_left_as_it_was(_one_thread: None) -> Iterator[None]:
    """What decides the bits of later tests is the same after each."""
    before = _settings_of_torch()
    yield
    assert _settings_of_torch() == before


def _settings_of_torch() -> dict[str, object]:
    return {
        "threads": torch.get_num_threads(),
        "oneDNN": torch.backends.mkldnn.enabled,
        "fast attention": torch.backends.mha.get_fastpath_enabled(),
        "gradients": torch.is_grad_enabled(),
        "default dtype": torch.get_default_dtype(),
        "precision of products": torch.get_float32_matmul_precision(),
        "deterministic": torch.are_deterministic_algorithms_enabled(),
        "autocast": torch.is_autocast_enabled("cpu"),
    }


@pytest.fixture(scope="module")
def hurried() -> Iterator[None]:
    """Networks of a front are timed at the end of a search by a few runs: how long they take is asked in other tests."""
    quickly = partial(compare_latency, warmup_s=0.01, runs=5, max_seconds=0.1)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys.modules["nas.search"], "compare_latency", quickly)
        yield


@pytest.fixture(scope="session")
def digits() -> ImageData:
    return load_data("digits", limit=300, test_limit=100)


@pytest.fixture(scope="session")
def task(digits: ImageData) -> Task:
    """What networks of the digits are for."""
    return image_task(digits)


@pytest.fixture
def start(tmp_path: Path, task: Task) -> Callable[..., Study]:
    """Makes an empty run folder of a pooling search on digits."""

    def make(space: SearchSpace | None = None, other: Task | None = None, **settings: object) -> Study:
        space = space or make_space("resnet20-pooling", **OPTIONS)
        config = configure(space.name, "digits", **{"epochs": 3, **settings})  # type: ignore[arg-type]
        return Study.create(tmp_path / "run", config, space, other or task, OPTIONS)

    return make


@pytest.fixture(scope="session")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Study:
    """A short mixture search on digits, run to its end. Tests only read it."""
    return search("resnet20-pooling", "digits", out=tmp_path_factory.mktemp("runs") / "finished", **QUICK)


@pytest.fixture(scope="session")
def real_data() -> Path:
    """The folder of real data sets for slow tests: NAS_DATA, or shared/data beside the checkout."""
    folder = Path(os.environ.get("NAS_DATA", Path(__file__).parents[2] / "shared" / "data"))
    if not folder.exists():
        pytest.skip(f"no real data at {folder}; set NAS_DATA to the folder that holds cifar10/")
    return folder
