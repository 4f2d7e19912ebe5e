"""Passes over data stay within memory, time and a number of samples."""

from __future__ import annotations

from collections.abc import Iterator
from types import SimpleNamespace

import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from pruners.importance import passes
from pruners.importance.config import Importance
from pruners.importance.passes import Bounds, bytes_per_sample, held_samples, pieces
from pruners.importance.score import score_groups
from pruners.progress import silent
from pruners.tracing.batches import like_example
from pruners.tracing.trace import Trace, trace
from tests.pruners.importance.test_curvature import opened, two_layers

ROOMY = Bounds(max_seconds=1e9, max_bytes=2**40)


def traced() -> Trace:
    return trace(nn.Sequential(nn.Linear(4, 10), nn.ReLU(), nn.Linear(10, 2)), (torch.randn(3, 4),))


def lengths(sizes: list[int], bounds: Bounds, samples: float = 1e9) -> list[int]:
    """How large the pieces of batches of some sizes are; that nothing is lost, added or mixed up is checked."""
    held = traced()
    batches = list(torch.arange(4 * sum(sizes)).float().view(-1, 4).split(sizes))
    found = [part.inputs[0] for part in pieces(like_example(batches, held), held, bounds, "step", silent, samples)]
    assert torch.equal(torch.cat(found), torch.cat(batches)[: sum(map(len, found))])
    return [len(x) for x in found]


def test_a_sample_takes_what_its_values_take() -> None:
    assert bytes_per_sample(traced()) == 4 * (10 + 10 + 2)


def test_batches_are_cut_where_memory_ends() -> None:
    assert lengths([8, 5], ROOMY) == [8, 5], "batches of any size, whole"
    assert lengths([8, 5], Bounds(max_bytes=88 * 3)) == [3, 3, 2, 3, 2]
    assert lengths([8, 5], Bounds(max_bytes=88 * 4 - 1)) == [3, 3, 2, 3, 2]


def test_too_little_memory_for_a_sample_is_refused_before_any() -> None:
    assert lengths([2, 3], Bounds(max_bytes=88)) == [1] * 5
    with pytest.raises(
        ValueError, match=r"`max_bytes` must hold .* one sample at least, got 87 where .* 88; give more"
    ):
        pieces([], traced(), Bounds(max_bytes=87), "step", silent, 1e9)


@pytest.mark.parametrize(("samples", "seconds", "words"), [
    (1e9, 1e-9, "step: 3 of 13 samples were used, as many as `max_seconds` of 1e-09 allows; more time or faster hardware uses more"),
    (10, 1e9, "step: 10 of 13 samples were used, as many as are computed with in a model of this size"),
    (8, 1e9, "step: 8 of 13 samples were used, as many as are computed with in a model of this size"),
    (13, 1e9, None),
])  # fmt: skip
def test_how_many_samples_were_used_is_told(samples: int, seconds: float, words: str | None) -> None:
    held, given, told = traced(), [torch.randn(8, 4), torch.randn(5, 4)], []
    bounds = Bounds(max_seconds=seconds, max_bytes=88 * 3)
    for _ in pieces(like_example(given, held), held, bounds, "step", silent, samples, held_samples(given), told.append):
        pass
    assert told == ([words] if words else [])


def test_samples_of_lists_and_loaders_are_counted_without_reading_them() -> None:
    x = torch.randn(13, 4)
    assert held_samples([x[:8], (x[8:], None)]) == 13
    assert held_samples([{"x": x[:8]}, {"x": x[8:]}]) == 13
    assert held_samples(DataLoader(TensorDataset(x), batch_size=4)) == 13
    assert held_samples(iter([x])) is None


def test_a_long_pass_says_what_it_will_take_from_its_first_piece(monkeypatch: pytest.MonkeyPatch) -> None:
    ticks = clock(1.0)
    monkeypatch.setattr(passes, "time", SimpleNamespace(monotonic=lambda: next(ticks)))
    held, told = traced(), []
    batches = like_example([torch.randn(10, 4)] * 20, held)
    for _ in pieces(batches, held, ROOMY, "step", lambda *given: told.append(given), 1e9, 200):
        pass
    name = "step (about 20 s, 8.8e-07 GB)"
    assert told[:2] == [(name, 0, 200), (name, 10, 200)]
    assert told[-1] == (name, 200, 200) and {step for step, *_ in told} == {name}


def test_a_pass_that_ends_with_the_data_says_that_it_is_done() -> None:
    held, told = traced(), []
    for _ in pieces(like_example([torch.randn(5, 4)], held), held, ROOMY, "step", lambda *given: told.append(given), 9):
        pass
    assert told[-1] == ("step", 5, 5)


def test_no_more_samples_than_asked_for() -> None:
    assert lengths([8, 5], ROOMY, 10) == [8, 2]
    assert lengths([8, 5], Bounds(max_bytes=88 * 3), 4) == [3, 1]
    assert lengths([8, 5], ROOMY, 8) == [8]


def clock(seconds: float) -> Iterator[float]:
    now = 0.0
    while True:
        yield now
        now += seconds


def test_the_pass_ends_when_its_time_is_over_and_says_how_far_it_came(monkeypatch: pytest.MonkeyPatch) -> None:
    ticks = clock(1.0)  # two looks at the clock a piece, one before it and one behind it
    monkeypatch.setattr(passes, "time", SimpleNamespace(monotonic=lambda: next(ticks)))
    held, told = traced(), []
    batches = like_example([torch.randn(10, 4)] * 20, held)
    seen = list(pieces(batches, held, Bounds(max_seconds=6.5), "step", lambda *given: told.append(given), 1e9))
    assert len(seen) == 4
    assert told[-1] == ("step", 10 * len(seen), 10 * len(seen))
    assert told[0][:2] == ("step", 10) and told[0][2] == pytest.approx(65), (
        "from the first piece on what there is time for"
    )


def test_one_piece_is_taken_however_little_time_there_is(monkeypatch: pytest.MonkeyPatch) -> None:
    ticks = clock(100.0)
    monkeypatch.setattr(passes, "time", SimpleNamespace(monotonic=lambda: next(ticks)))
    assert lengths([4, 4, 4], Bounds(max_seconds=1e-3)) == [4]


class OneSize(nn.Module):
    """A model that its example's batch is written into."""

    def __init__(self) -> None:
        super().__init__()
        self.out = nn.Linear(4, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.out(x).view(3, 2)


def test_a_batch_that_cannot_be_cut_is_taken_whole() -> None:
    held = trace(OneSize(), (torch.randn(3, 4),))
    assert not held.batched
    batches = like_example([torch.randn(3, 4)] * 2, held)
    enough = Bounds(max_bytes=bytes_per_sample(held))
    assert [len(part.inputs[0]) for part in pieces(batches, held, enough, "step", silent, 1e9)] == [3, 3]
    with pytest.raises(ValueError, match="one batch, which the model does not let be cut, at least, got 1 where"):
        pieces(batches, held, Bounds(max_bytes=1), "step", silent, 1e9)


def test_scores_within_little_memory_are_those_of_plenty() -> None:
    model, x = two_layers()
    graph, free = opened(model, x[:2])
    x = x[:60]
    plenty, little = (
        score_groups(graph, free, Importance(criterion="curvature"), batches=[x], bounds=given)["0.weight:0"]
        for given in (ROOMY, Bounds(max_bytes=30 * bytes_per_sample(graph.trace)))
    )
    torch.testing.assert_close(little / little.sum(), plenty / plenty.sum(), rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize(("setting", "value"), [("max_seconds", 0), ("max_bytes", 0)])
def test_bounds_are_above_zero(setting: str, value: float) -> None:
    with pytest.raises(ValueError, match=setting):
        Bounds(**{setting: value})
