"""Images that are streamed come out as those in memory, bit by bit: the same parts, order, crops and normalisation for a seed."""

from __future__ import annotations

import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from nas import load_data
from nas.data import DataConfig
from nas.runtime import Share
from nas.tasks import Examples, Task, image_task, streamed_task, task
from nas.tasks.samples import Stream
from nas.training import Alone, TrainingConfig, fit
from tests.small_data import class_folder, png

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("streamed")
    rng = np.random.default_rng(0)
    for part, count in (("train", 30), ("test", 8)):
        for kind in ("cat", "dog"):
            (root / part / kind).mkdir(parents=True)
            for number in range(count):
                pixels = rng.integers(0, 255, (10, 8, 3), dtype=np.uint8)
                Image.fromarray(pixels).save(root / part / kind / f"{number:03}.png")
    return root


def both(folder: Path, workers: int = 0, **settings: object) -> tuple[Task, Task]:
    config = DataConfig(source=str(folder), stream=True, workers=workers, **settings)  # type: ignore[arg-type]
    settings.pop("mean", None), settings.pop("std", None)
    return streamed_task(config, 0), image_task(load_data(folder, seed=0, **settings))  # type: ignore[arg-type]


def same(ours: Examples, theirs: Examples, size: int = 7) -> None:
    for how in ({}, {"drop_last": True}, {"augment": True}):
        rngs = [np.random.default_rng(5) if how else None for _ in range(2)]
        found = [list(part.batches(size, rng=rng, **how)) for part, rng in zip((ours, theirs), rngs, strict=True)]
        assert len(found[0]) == len(found[1]) > 0
        for one, other in zip(*found, strict=True):
            assert one.inputs.equal(other.inputs) and one.target.equal(other.target)
    for one, other in zip(ours.evenly(size), theirs.evenly(size), strict=True):
        assert one.inputs.equal(other.inputs) and one.target.equal(other.target)


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("settings", [{}, {"image_size": 6, "limit": 20}, {"flip": False, "crop": 3}])
def test_streamed_images_are_those_in_memory(folder: Path, workers: int, settings: dict[str, object]) -> None:
    ours, theirs = both(folder, workers, **settings)
    for part in ("train", "validation", "test"):
        same(getattr(ours, part), getattr(theirs, part))
    same(ours.training, theirs.training)
    same(ours.train.head(9), theirs.train.head(9))
    assert ours.described == theirs.described and ours.outputs == 2 and ours.input_shape == theirs.input_shape


def test_a_training_on_a_stream_ends_with_the_weights_of_one_in_memory(folder: Path, tmp_path: Path) -> None:
    config = TrainingConfig(epochs=3, batch_size=8, learning_rate=0.01)

    def trained(task: Task, epochs: int, path: Path | None = None) -> torch.Tensor:
        torch.manual_seed(0)
        model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(240, 2))
        shorter = config.model_copy(update={"epochs": epochs})
        fit(Alone(model, task, shorter, CPU), task.train, config, seed=0, device=CPU, path=path)
        return model[1].weight

    ours, theirs = both(folder)
    assert trained(ours, 3).equal(trained(theirs, 3))


def test_nothing_else_is_drawn_from(folder: Path) -> None:
    task = both(folder)[0]
    before = torch.get_rng_state()
    list(task.train.batches(7, rng=np.random.default_rng(0), augment=True))
    assert before.equal(torch.get_rng_state())


def test_readers_can_be_sent_to_other_processes(folder: Path) -> None:
    task = both(folder)[0]
    again = pickle.loads(pickle.dumps(task.training))
    same(again, task.training)


def test_digests_tell_data_apart(folder: Path, tmp_path: Path) -> None:
    ours = both(folder)[0]
    assert ours.fingerprint == both(folder)[0].fingerprint != both(folder, limit=20)[0].fingerprint
    assert ours.fingerprint != both(class_folder(tmp_path, {"a": 5, "b": 5}))[0].fingerprint


def test_gray_images_of_many_bits_are_read_as_in_memory(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    for kind in ("a", "b"):
        (tmp_path / kind).mkdir()
        for number in range(12):
            pixels = rng.integers(0, 4096, (6, 6)).astype(np.uint16)
            pixels[0, 0] = 4095
            Image.fromarray(pixels).save(tmp_path / kind / f"{number}.png")
    with pytest.warns(UserWarning, match="read as 12 bits"):
        ours, theirs = both(tmp_path)
    same(ours.train, theirs.train)


def test_damaged_images_are_named_or_left_out(tmp_path: Path) -> None:
    class_folder(tmp_path, {"a": 12, "b": 12})
    broken = tmp_path / "a" / "005.png"
    broken.write_bytes(png(3)[:40])
    with pytest.raises(ValueError, match=r"005\.png.*`damaged='leave-out'`"):
        found = streamed_task(DataConfig(source=str(tmp_path), stream=True, workers=0), 0)
        list(found.training.evenly(4)), list(found.test.evenly(4))
    task = streamed_task(DataConfig(source=str(tmp_path), stream=True, workers=0, damaged="leave-out"), 0)
    parts = [sum(batch.size for batch in part.evenly(4)) for part in (task.train, task.validation, task.test)]
    assert sum(parts) == 23


def test_images_of_other_sizes_or_colours_are_refused(tmp_path: Path) -> None:
    class_folder(tmp_path, {"a": 12, "b": 12})
    (tmp_path / "a" / "000.png").write_bytes(png(3, size=(5, 8)))
    with pytest.raises(ValueError, match="images must have one size, got 8 x 5 and 8 x 8"):
        streamed_task(DataConfig(source=str(tmp_path), stream=True, workers=0), 0)


@pytest.mark.parametrize("processes", [2, 3])
def test_shares_are_the_batches_of_all_once_dealt_out(folder: Path, processes: int) -> None:
    streamed, in_memory = (made.train for made in both(folder))
    own = task(in_memory.split.images.float(), loss=lambda outputs, target: outputs.mean()).train  # type: ignore[attr-defined]
    of_a_loader = Stream(list(own.head(18).batches(7)))
    for part in (streamed, in_memory, own, of_a_loader, own.joined(of_a_loader)):
        how = {"rng": np.random.default_rng(3), "augment": True, "drop_last": True}
        whole = [batch.inputs for batch in part.batches(7, **how)]
        shares = []
        for rank in range(processes):
            how["rng"] = np.random.default_rng(3)
            shares.append([batch.inputs for batch in part.batches(7, share=Share(rank, processes), **how)])
        for dealt, every in zip(zip(*shares, strict=True), whole, strict=True):
            assert all(mine.equal(every[rank::processes]) for rank, mine in enumerate(dealt))
