"""Examples of all kinds come out as the same batches: in any order that is asked for, whole, and the same for the same seed."""

from __future__ import annotations

import random
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, IterableDataset, TensorDataset, WeightedRandomSampler

from nas.data import ImageData
from nas.data import batches as image_batches
from nas.tasks import Batch, Examples, Images
from nas.tasks.batches import unpacked
from nas.tasks.samples import Chained, Samples, Stream, as_examples

COUNT = 23
X, Y = torch.arange(COUNT * 2.0).view(COUNT, 2), torch.arange(COUNT)


class Rows(Dataset[Any]):
    """The same as X and Y, with noise where asked, as augmentation would draw it."""

    def __init__(self, noise: str = "") -> None:
        self.noise = noise

    def __len__(self) -> int:
        return COUNT

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        drawn = {"": 0.0, "torch": float(torch.rand(())), "numpy": np.random.rand(), "python": random.random()}
        return X[index] + drawn[self.noise], index


class Lines(IterableDataset[Any]):
    def __init__(self, count: int = COUNT) -> None:
        self.count = count

    def __iter__(self) -> Iterator[Any]:
        return zip(X[: self.count], Y, strict=False)


def kinds() -> dict[str, Examples]:
    return {
        "arrays": as_examples((X, Y)),
        "numpy": as_examples((X.double().numpy(), Y.int().numpy())),
        "dataset": as_examples(TensorDataset(X, Y)),
        "workers": as_examples(Rows(), workers=2),
        "loader": as_examples(DataLoader(Rows(), batch_size=7, shuffle=True)),
        "chained": Chained(as_examples((X[:9], Y[:9])), as_examples((X[9:], Y[9:]))),
    }


KINDS = list(kinds())


@pytest.fixture(params=KINDS)
def examples(request: pytest.FixtureRequest) -> Examples:
    return kinds()[request.param]


def joined(found: Iterator[Batch]) -> tuple[Tensor, Tensor]:
    batches = list(found)
    assert all(batch.inputs.dtype == torch.float32 and batch.target.dtype == torch.int64 for batch in batches)
    return torch.cat([batch.inputs for batch in batches]), torch.cat([batch.target for batch in batches])


def test_in_order_every_example_comes_once(examples: Examples) -> None:
    assert len(examples) == COUNT
    for found in (examples.batches(5), examples.evenly(5)):
        inputs, target = joined(found)
        assert inputs.equal(X) and target.equal(Y)


@given(count=st.integers(1, 60), size=st.integers(1, 70))
def test_even_batches_differ_by_one(count: int, size: int) -> None:
    sizes = [batch.size for batch in as_examples((torch.zeros(count, 1), torch.zeros(count))).evenly(size)]
    assert sum(sizes) == count and max(sizes) - min(sizes) <= 1 and max(sizes) <= size
    assert len(sizes) == -(-count // size)


def test_shuffled_every_example_comes_once_by_the_seed(examples: Examples) -> None:
    passes = [joined(examples.batches(5, rng=np.random.default_rng(seed))) for seed in (1, 1, 2)]
    for inputs, target in passes:
        assert sorted(target.tolist()) == Y.tolist() and inputs.equal(X[target])
    assert passes[0][1].equal(passes[1][1]) and not passes[0][1].equal(passes[2][1])


def test_a_training_pass_has_the_full_batches_that_it_says(examples: Examples) -> None:
    found = list(examples.batches(5, rng=np.random.default_rng(0), drop_last=True))
    assert len(found) == examples.steps(5) and all(batch.size == 5 for batch in found)


@pytest.mark.parametrize("kind", ["arrays", "dataset", "chained"])
def test_some_of_them(kind: str) -> None:
    examples = kinds()[kind]
    inputs, target = joined(examples.take(torch.tensor([20, 3, 9])).batches(2))
    assert set(target.tolist()) == {20, 3, 9} and inputs.equal(X[target])
    assert joined(examples.head(4).batches(9))[1].tolist() == [0, 1, 2, 3] and len(examples.head(99)) == COUNT


def test_joined_parts_of_one_source_are_mixed() -> None:
    whole = as_examples((X, Y))
    both = whole.take(torch.arange(5)).joined(whole.take(torch.arange(5, COUNT)))
    assert isinstance(both, Samples) and joined(both.batches(4))[1].equal(Y)
    other = whole.joined(as_examples((X + 1, Y)))
    order = [batch.target[0].item() for batch in other.batches(1, rng=np.random.default_rng(0))]
    assert len(order) == 2 * COUNT and order[:COUNT] != order[COUNT:]


@pytest.mark.parametrize("noise", ["torch", "numpy", "python"])
@pytest.mark.parametrize("workers", [0, 1])
def test_what_a_dataset_draws_follows_the_seed_and_nothing_else_does(noise: str, workers: int) -> None:
    examples = as_examples(Rows(noise), workers=workers)
    states = random.getstate(), torch.get_rng_state(), np.random.get_state()[1].tolist()
    first, again, other = (joined(examples.batches(5, rng=np.random.default_rng(seed)))[0] for seed in (1, 1, 2))
    assert first.equal(again) and not first.sort(0)[0].equal(other.sort(0)[0])
    assert states[0] == random.getstate() and states[1].equal(torch.get_rng_state())
    assert states[2] == np.random.get_state()[1].tolist()
    assert joined(examples.evenly(5))[0].equal(joined(examples.evenly(5))[0])


def test_a_loader_with_a_sampler_of_its_own_keeps_it() -> None:
    sampler = WeightedRandomSampler([0.0] * 20 + [1.0] * 3, 40)
    examples = as_examples(DataLoader(Rows(), batch_size=8, sampler=sampler))
    assert isinstance(examples, Stream) and examples.steps(99) == 5
    target = joined(examples.batches(1, rng=np.random.default_rng(0)))[1]
    assert len(target) == 40 and set(target.tolist()) == {20, 21, 22}


def test_an_iterable_that_ends_early_starts_again_in_training_and_ends_in_measuring() -> None:
    examples = as_examples(DataLoader(Lines(10), batch_size=5), steps=5)
    assert len(list(examples.batches(1, rng=np.random.default_rng(0)))) == 5
    assert len(list(examples.evenly(1))) == 2


def test_an_iterable_without_a_length_or_without_examples_is_refused() -> None:
    with pytest.raises(ValueError, match="needs `steps`"):
        as_examples(DataLoader(Lines(), batch_size=5))
    with pytest.raises(ValueError, match="at least one each time"):
        list(as_examples(DataLoader(Lines(0), batch_size=5), steps=2).batches(1))
    with pytest.raises(ValueError, match="at least one example"):
        as_examples((X[:0], Y[:0]))
    with pytest.raises(ValueError, match="started again"):
        as_examples(iter([(X, Y)]))
    with pytest.raises(ValueError, match="same length"):
        as_examples((X, Y[:5]))
    with pytest.raises(ValueError, match="examples must be"):
        as_examples(7)


def test_what_a_batch_is() -> None:
    assert unpacked(X).target is None and unpacked([X]).target is None
    both = unpacked(((X, Y), Y))
    assert isinstance(both.inputs, tuple) and both.target.equal(Y) and both.size == COUNT
    named = unpacked({"input_ids": Y, "attention_mask": Y, "labels": Y.int()})
    assert list(named.inputs) == ["input_ids", "attention_mask"] and named.target.dtype == torch.int64
    assert unpacked(torch.tensor([0, 51, 255], dtype=torch.uint8)).inputs.tolist() == pytest.approx([0, 0.2, 1])
    assert unpacked((X, {"boxes": X.double()})).target["boxes"].dtype == torch.float32
    with pytest.raises(ValueError, match="a row of 3"):
        unpacked((X, X, Y))
    assert unpacked((X, X, Y), lambda raw: ((raw[0], raw[1]), raw[2])).target.equal(Y)


@given(size=st.integers(1, 30), count=st.integers(1, 8))
def test_a_batch_is_split_as_tensors_are(size: int, count: int) -> None:
    batch = Batch({"x": torch.arange(size), "flag": torch.tensor(3)}, (torch.arange(size),))
    parts = batch.split(count)
    assert [p.inputs["x"].tolist() for p in parts] == [x.tolist() for x in torch.arange(size).tensor_split(count)]
    assert all(p.target[0].equal(p.inputs["x"]) and p.inputs["flag"] == 3 for p in parts)


def test_a_batch_calls_a_model_as_its_inputs_say() -> None:
    def model(*args: Any, **kwargs: Any) -> Any:
        return args, kwargs

    assert Batch(X).call(model, 1)[0][1] == 1  # type: ignore[arg-type]
    assert Batch((X, Y)).call(model, 1) == ((X, Y, 1), {})  # type: ignore[arg-type]
    assert Batch({"a": X}).call(model, 1) == ((1,), {"a": X})  # type: ignore[arg-type]


def test_digests_tell_examples_apart() -> None:
    found = {kind: part.fingerprint for kind, part in kinds().items()}
    assert found == {kind: part.fingerprint for kind, part in kinds().items()}
    assert as_examples((X + 1, Y)).fingerprint != found["arrays"]
    assert as_examples((X, Y)).take(torch.tensor([1])).fingerprint != found["arrays"]


def test_images_are_those_of_the_fast_path(digits: ImageData) -> None:
    ours = Images(digits, digits.train).batches(32, rng=np.random.default_rng(3), augment=True, drop_last=True)
    theirs = image_batches(digits.train, digits, 32, rng=np.random.default_rng(3), augment=True, drop_last=True)
    for batch, (images, labels) in zip(ours, theirs, strict=True):
        assert batch.inputs.equal(images) and batch.target.equal(labels)
