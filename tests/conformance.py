"""Checks that every search space and every search strategy has to pass, in this repository or another one.

A check takes what it checks and raises AssertionError. Spaces are small enough to enumerate.
"""

from __future__ import annotations

import json
import zlib
from collections import Counter
from collections.abc import Callable, Sequence
from multiprocessing import get_context

import numpy as np
import pytest
from scipy.stats import chisquare

from nas.strategies import Strategy, make_strategy
from search_spaces import Architecture, SearchSpace, make_space

MakeStrategy = Callable[[SearchSpace, np.random.Generator], Strategy]


# --- search spaces ---


def check_space(space: SearchSpace, seed: int = 0) -> None:
    """All of the checks of a space."""
    rng = np.random.default_rng(seed)
    check_enumeration(space)
    check_uniform(space, rng)
    check_round_trips(space)
    check_variation(space, rng)


def check_enumeration(space: SearchSpace) -> None:
    """Nothing twice, as many as `size` says, the same every time, all of them valid and canonical."""
    archs = list(space.enumerate())
    assert len(archs) == len(set(archs)) == len({arch.key for arch in archs}) == space.size <= space.raw_size
    assert archs == list(space.enumerate())
    for arch in archs:
        space.check(arch)


def check_uniform(space: SearchSpace, rng: np.random.Generator, each: int = 30, least: float = 1e-7) -> None:
    """Every architecture is sampled about equally often: chi-square with about `each` draws of each one.

    With `even_first` each value of the first choice is drawn as often, whether it has many architectures or few.
    """
    archs = list(space.enumerate())
    counts = Counter(space.sample(rng) for _ in range(each * len(archs)))
    assert set(counts) <= set(archs)
    weights = np.ones(len(archs))
    if space.even_first:
        firsts = Counter(arch[space.choices[0].name] for arch in archs)
        weights = np.array([1 / firsts[arch[space.choices[0].name]] for arch in archs])
    expected = weights * each * len(archs) / weights.sum()
    assert chisquare([counts[arch] for arch in archs], expected).pvalue > least or len(archs) == 1


def check_round_trips(space: SearchSpace) -> None:
    """Arrays, JSON and labels read back what they wrote."""
    archs = list(space.enumerate())
    codes = space.encode(archs)
    assert codes.shape == (len(archs), len(space.columns))
    assert codes.min(initial=0) >= -1
    assert space.decode(codes) == archs
    assert len({tuple(row) for row in codes.tolist()}) == len(archs)
    for arch, row in zip(archs, codes.tolist(), strict=True):
        meant = [c.values[code] if code >= 0 else None for c, code in zip(space.columns, row, strict=True)]
        assert list(space.column_values(arch).values()) == meant
        assert space.from_json(json.loads(json.dumps(arch.to_json()))) == arch
        assert space.parse(arch.key) == space.parse(space.label(arch)) == space.architecture(arch) == arch
    assert len({space.label(arch) for arch in archs}) == len(archs)


def check_variation(space: SearchSpace, rng: np.random.Generator, rounds: int = 30) -> None:
    """Mutation and crossover give architectures of the space, and mutation another one wherever there is another."""
    archs = list(space.enumerate())
    known = set(archs)
    for _ in range(rounds):
        a, b = (archs[rng.integers(len(archs))] for _ in range(2))
        child = space.mutate(a, rng, edits=int(rng.integers(1, 4)))
        assert child in known
        assert (child != a) == (len(archs) > 1)
        assert space.crossover(a, b, rng) in known
        assert space.crossover(a, a, rng) == a


# --- strategies ---


def made_up_losses(archs: Sequence[Architecture], objectives: int = 2) -> np.ndarray:
    """Losses of shape (n, objectives) that look random, repeat, and depend on nothing but the architecture."""
    numbers = [[zlib.crc32(f"{at}{arch.key}".encode()) % 13 for at in range(objectives)] for arch in archs]
    return np.array(numbers, dtype=float).reshape(-1, objectives)


def visited(strategy: Strategy, batches: Sequence[int], objectives: int = 2) -> list[Architecture]:
    """What a strategy asks for, when everything is told before the next ask; ends early where nothing is left."""
    archs: list[Architecture] = []
    for n in batches:
        new = strategy.ask(n)
        assert len(new) <= n
        if not new:
            break
        strategy.tell(new, made_up_losses(new, objectives))
        archs += new
    return archs


def check_strategy(make: MakeStrategy, space: SearchSpace) -> None:
    """All of the checks of a strategy that need no process of their own, on a space that can be enumerated."""
    for batch in (1, 7, space.size + 1):
        for objectives in (1, 2, 3):
            check_exhausts(make, space, batch, objectives)
    check_without_tells(make, space)
    check_replay(make, space)
    check_batches(make, space)
    check_outsiders(make, space)
    check_refuses(make, space)


def check_exhausts(make: MakeStrategy, space: SearchSpace, batch: int, objectives: int) -> None:
    """Every architecture comes once, then nothing, and numpy's global generator is left alone."""
    before = np.random.get_state()[1].tolist()  # type: ignore[index]
    strategy = make(space, np.random.default_rng(1))
    archs = visited(strategy, [batch] * (space.size + 1), objectives)
    assert len(archs) == len(set(archs)) == space.size
    assert set(archs) == set(space.enumerate())
    assert strategy.ask(batch) == strategy.ask(1) == []
    assert np.random.get_state()[1].tolist() == before  # type: ignore[index]


def check_without_tells(make: MakeStrategy, space: SearchSpace) -> None:
    """A strategy that is never told anything still visits the whole space."""
    strategy = make(space, np.random.default_rng(2))
    archs = [arch for _ in range(space.size) for arch in strategy.ask(1)]
    assert set(archs) == set(space.enumerate()) and len(archs) == space.size and not strategy.ask(1)


def check_replay(make: MakeStrategy, space: SearchSpace) -> None:
    """Asked and told the same, with tells late and out of order, a new strategy comes to the same state."""

    def play(rounds: int) -> tuple[Strategy, list[list[Architecture]]]:
        script = np.random.default_rng(3)
        strategy, asked, waiting = make(space, np.random.default_rng(4)), [], []
        for _ in range(rounds):
            asked.append(strategy.ask(int(script.integers(1, 5))))
            waiting += asked[-1]
            now = [waiting.pop(script.integers(len(waiting))) for _ in range(script.integers(len(waiting) + 1))]
            strategy.tell(now, made_up_losses(now))
        return strategy, asked

    (first, asked), (second, again) = play(8), play(8)
    assert asked == again
    assert first.ask(space.size) == second.ask(space.size)
    assert play(5)[1] == asked[:5]


def check_batches(make: MakeStrategy, space: SearchSpace) -> None:
    """Asking for n is asking n times for one, and telling n is telling one n times."""
    whole, split = make(space, np.random.default_rng(5)), make(space, np.random.default_rng(5))
    for n in (3, 1, 6, 2, 9, 4, 5):
        together = whole.ask(n)
        assert together == [arch for _ in range(n) for arch in split.ask(1)]
        whole.tell(together, made_up_losses(together))
        for arch in together:
            split.tell([arch], made_up_losses([arch]))


def check_outsiders(make: MakeStrategy, space: SearchSpace) -> None:
    """What is told without being asked is not proposed any more."""
    known = list(space.enumerate())[::2]
    strategy = make(space, np.random.default_rng(6))
    strategy.tell(known, made_up_losses(known))
    assert set(visited(strategy, [4] * space.size)) == set(space.enumerate()) - set(known)


def check_refuses(make: MakeStrategy, space: SearchSpace) -> None:
    """Bad asks and tells are refused with a sentence, and change nothing."""
    strategy = make(space, np.random.default_rng(7))
    arch = strategy.ask(1)[0]
    stranger = SearchSpace("elsewhere", ()).architecture({})
    for archs, losses, rule in (
        ([arch], [[np.nan, 1.0]], "losses must be finite, got nan"),
        ([arch], [[1.0, np.inf]], "losses must be finite, got inf"),
        ([arch], [1.0], "must have shape"),
        ([arch], [[1.0], [2.0]], "needs a row for each of 1 architectures"),
        ([arch, arch], [[1.0], [2.0]], "was told before"),
        ([stranger], [[1.0]], "expected an architecture of"),
    ):
        with pytest.raises(ValueError, match=rule):
            strategy.tell(archs, losses)
    with pytest.raises(ValueError, match="`n` must be at least 1, got 0"):
        strategy.ask(0)
    strategy.tell([arch], [[1.0, 2.0]])
    strategy.tell([], np.empty((0, 2)))
    with pytest.raises(ValueError, match="was told before"):
        strategy.tell([arch], [[1.0, 2.0]])
    other = strategy.ask(1)
    if other:
        with pytest.raises(ValueError, match="had 2 objectives before"):
            strategy.tell(other, [[1.0]])


def sequences(names: Sequence[str], spaces: Sequence[str], seed: int) -> dict[str, list[str]]:
    """The first keys that each built-in strategy asks for in each built-in space; runs in any process."""
    found = {}
    for name in names:
        for space_name in spaces:
            space = make_space(space_name)
            strategy = make_strategy(name, space, np.random.default_rng(seed))
            found[f"{name} {space_name}"] = [arch.key for arch in visited(strategy, [13] * 12)]
    return found


def sequences_elsewhere(names: Sequence[str], spaces: Sequence[str], seed: int) -> dict[str, list[str]]:
    """`sequences` in a fresh process, with hash seeds of its own."""
    with get_context("spawn").Pool(1) as pool:
        return pool.apply(sequences, (list(names), list(spaces), seed))
