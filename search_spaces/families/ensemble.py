"""Ensembles as a search space: several architectures of one space that share a trunk, as one network.

Reference: Chen et al., "One-Shot Neural Ensemble Architecture Search by Diversity-Guided Search Space Shrinking", CVPR 2021,
arXiv:2104.00597.
Differs: made from any space whose network is a chain of blocks. In a supernet each path has blocks of its own behind the trunk, of
which the first path's are the trunk's, so that any split is a slice of one set of weights and paths are disjoint where they share
nothing. The prediction is the mean of the paths' probabilities. What trunk blocks read, all paths have in common, also behind the
trunk.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, partial
from itertools import islice

import numpy as np

from search_spaces.core import (
    MOST_PATHS,
    SKIPPED,
    Architecture,
    Block,
    Categorical,
    Choice,
    Condition,
    Constraint,
    Labels,
    Local,
    OnPath,
    OnSkip,
    SearchSpace,
    Value,
    Values,
    code_labels,
    conditions,
    is_left_out,
    prefix,
    quoted,
    written,
)

SPLIT = "split"


def ensemble(space: SearchSpace, paths: int = 2, splits: Sequence[int] | None = None) -> SearchSpace:
    """The space of `paths` architectures of `space` that share their first blocks.

    The choice `split` is how many blocks they share; each path goes on with blocks of its own to logits of its own. The first path's
    choices keep their names, those of the second are called `path2.<name>`, and exist where no shared block reads them. Paths
    have no order: the canonical form sorts them, and shares no block that its architectures leave out.

    Args:
        space: has a network that is a chain of blocks, of which the last makes the logits.
        paths: how many; 1 gives `space` itself.
        splits: values of `split`, from 0 to one fewer than there are blocks. Default: all of them.

    Raises:
        ValueError: the space has no such network, or one with skip connections, or is an ensemble itself; or other numbers of paths or
            shared blocks.
    """
    if type(paths) is not int or not 1 <= paths <= MOST_PATHS:
        raise ValueError(
            f"`paths` must be an integer of at least 1, got {quoted(paths)}; 1 is the space itself, {MOST_PATHS} the most"
        )
    if paths == 1:
        if splits is not None:
            raise ValueError("`splits` are for 2 paths or more, got 1; leave them out")
        return space
    blocks = space.net.blocks
    if not blocks or space.net.heads > 1 or SPLIT in {choice.name for choice in space.choices}:
        raise ValueError(
            f"an ensemble needs a space whose network is a chain of blocks to one head, and without a choice {SPLIT!r}; "
            f"{space.name!r} is not; use `paths` with another space"
        )
    if any(isinstance(local, OnSkip) for local in space.locals(space.sample(np.random.default_rng(0)))):
        raise ValueError(
            f"an ensemble needs a space without skip connections, but {space.name!r} has some; use `paths` with another"
        )
    found = tuple(range(len(blocks))) if splits is None else tuple(splits)
    if not found or len(set(found)) < len(found) or any(type(s) is not int or not 0 <= s < len(blocks) for s in found):
        raise ValueError(
            f"`splits` must be different numbers of shared blocks, 0 to {len(blocks) - 1} in {space.name!r}, got {quoted(list(found))}"
        )
    return _Ensemble(space, paths, tuple(sorted(found, reverse=True))).space()


def origin(space: SearchSpace, name: str) -> str:
    """The choice that a choice of an ensemble's path is a form of; in another space the choice itself."""
    head, _, rest = name.partition(".")
    return rest if space.net.heads > 1 and head in {f"path{path}" for path in range(2, space.net.heads + 1)} else name


@dataclass(frozen=True)
class _Ensemble:
    """What ties an ensemble to the space that its paths are of; `splits` fall, from the cheapest to the dearest."""

    base: SearchSpace
    paths: int
    splits: tuple[int, ...]

    def space(self) -> SearchSpace:
        by_path = [[self._choice(choice, path) for choice in self.base.choices] for path in self._numbers]
        split = Categorical(SPLIT, self.splits)
        choices = [choice for of_all_paths in zip(*by_path, strict=True) for choice in of_all_paths if choice]
        net = self.base.net
        return SearchSpace(
            name=f"{self.base.name}-paths{self.paths}",
            choices=(split, *choices),
            constraints=tuple(
                Constraint(f"in each path, {rule.rule}", partial(self._all_keep, rule))
                for rule in self.base.constraints
            ),
            canonical=self._canonical,
            labels=_labels(split, [choice for path in by_path for choice in path if choice]),
            network=replace(net, blocks=tuple(self._blocks()), heads=self.paths),
            options={**self.base.options, "paths": self.paths, "splits": list(self.splits)},
            even_first=True,
        )

    # --- choices ---

    @cached_property
    def _numbers(self) -> range:
        return range(1, self.paths + 1)

    @cached_property
    def _first_reader(self) -> Mapping[str, int]:
        """The number of the first block that reads each choice, or one that exists by it; that of the head where none does."""
        columns = {column.name: choice.name for choice in self.base.choices for column in choice.columns}
        first = {choice.name: len(self.base.net.blocks) - 1 for choice in self.base.choices}
        for at, block in reversed(list(enumerate(self.base.net.blocks))):
            first |= dict.fromkeys((columns[name] for name in block.columns), at)
        for choice in reversed(self.base.choices):
            for parent in (parent for condition in conditions(choice) for parent in condition):
                first[parent] = min(first[parent], first[choice.name])
        return first

    def _shared(self, name: str, split: int) -> bool:
        """Whether all paths have the choice in common."""
        return self._first_reader[name] < split

    def _name(self, name: str, path: int, split: int) -> str:
        """Whose choice decides about `name` in a path."""
        return name if path == 1 or self._shared(name, split) else f"path{path}.{name}"

    def _choice(self, choice: Choice, path: int) -> Choice | None:
        """A path's own form of a choice; None if it always has that of the first path."""
        if path == 1:
            return choice
        own = tuple(split for split in self.splits if not self._shared(choice.name, split))
        if not own:
            return None
        when: list[Condition] = []
        for condition in conditions(choice):
            alternatives: dict[tuple[str, ...], list[int]] = {}
            for split in own:
                parents = tuple(self._name(parent, path, split) for parent in condition)
                alternatives.setdefault(parents, []).append(split)
            when += [
                {SPLIT: tuple(where), **dict(zip(parents, condition.values(), strict=True))}
                for parents, where in alternatives.items()
            ]
        return replace(choice, name=f"path{path}.{choice.name}", when=tuple(when))  # type: ignore[type-var]

    # --- the architectures of the paths ---

    def _bases(self, values: Mapping[str, Value]) -> list[Values]:
        """What each path has of the base space's choices."""
        split = _number(values[SPLIT])
        names = [choice.name for choice in self.base.choices]
        return [
            {name: values[at] for name in names if (at := self._name(name, path, split)) in values}
            for path in self._numbers
        ]

    def _described(self, split: int, bases: Sequence[Values]) -> Values:
        values: Values = {SPLIT: split}
        for choice in self.base.choices:
            for path, base in zip(self._numbers, bases, strict=True):
                if choice.name in base:
                    values[self._name(choice.name, path, split)] = base[choice.name]
        return values

    def _all_keep(self, rule: Constraint, values: Mapping[str, Value]) -> bool:
        return all(map(rule.holds, self._bases(values)))

    def _canonical(self, values: Values) -> Values:
        split, bases = _number(values[SPLIT]), self._bases(values)
        while True:
            lower, tidy = self._lowest(split, bases[0]), [self._tidied(base) for base in bases]
            if not self._agree(lower, tidy):
                tidy = bases
            if (lower, tidy) == (split, bases):
                break
            split, bases = lower, tidy
        return self._described(split, sorted(bases, key=self._order))

    def _tidied(self, base: Values) -> Values:
        return self.base.canonical(dict(base)) if self.base.canonical else base

    def _agree(self, split: int, bases: Sequence[Values]) -> bool:
        shared = [choice.name for choice in self.base.choices if self._shared(choice.name, split)]
        return all(base.get(name) == bases[0].get(name) for base in bases for name in shared)

    def _order(self, base: Values) -> list[int]:
        return self.base.codes(self._architecture(base))

    def _architecture(self, base: Values) -> Architecture:
        items = ((choice.name, base[choice.name]) for choice in self.base.choices if choice.name in base)
        return Architecture(self.base.name, tuple(items))

    def _lowest(self, split: int, base: Values) -> int:
        """The fewest shared blocks that make the same trunk: those before them that are left out need not be shared."""
        locals = self.base.locals(self._architecture(base))
        trunk = list(islice(self.base.net.parts(locals), split))
        while (lower := max((s for s in self.splits if s < split), default=None)) is not None:
            if not all(is_left_out(part.block, *part.seen) for part in trunk[lower:split]):
                break
            split = lower
        return split

    # --- the network ---

    def _blocks(self) -> Iterator[Block]:
        for path in self._numbers:
            for at, block in enumerate(self.base.net.blocks):
                columns, read = self._reading(path, at, block)
                yield replace(block, name=prefix(path) + block.name, columns=columns, read=read)

    def _reading(self, path: int, at: int, block: Block) -> tuple[tuple[str, ...], Callable[..., Local]]:
        """The columns that a path's block reads, and `read` of `Block`."""
        owner = {column.name: choice.name for choice in self.base.choices for column in choice.columns}
        splits = [split for split in self.splits if split <= at or path == 1]
        sources = {
            (name, self._name(owner[name], path, split) != owner[name]): None
            for name in block.columns
            for split in splits
        }
        columns = tuple(f"path{path}.{name}" if own else name for name, own in sources)
        ends = path == self.paths and at == len(self.base.net.blocks) - 1

        def read(split: int, *values: Value) -> Local:
            if split > at:
                return block.read(*values) if path == 1 else SKIPPED
            found = dict(zip(sources, values, strict=True))
            own = (found[name, path > 1 and not self._shared(owner[name], split)] for name in block.columns)
            return OnPath(block.read(*own), self.paths, starts=split == at, ends=ends)

        return (SPLIT, *columns), read


def _labels(split: Categorical, rest: Sequence[Choice]) -> Labels:
    """Labels such as `3-0112-201`: the shared blocks, and the other choices as `code_labels` writes them."""
    coded, length = code_labels([split, *rest]), len(written(split.size - 1))

    def write(values: Mapping[str, Value]) -> str:
        return f"{values[SPLIT]}-{coded.write(values)[length:].removeprefix('-')}"

    def read(text: str) -> Mapping[str, Value]:
        shared, _, code = text.partition("-")
        known = {str(value): written(at).zfill(length) for at, value in enumerate(split.values)}
        if shared not in known:
            raise ValueError(
                f"a label must begin with the number of shared blocks ({', '.join(known)}) and a dash; got {text!r}"
            )
        return coded.read(known[shared] + code)

    return Labels(write, read)


def _number(split: Value) -> int:
    assert isinstance(split, int)
    return split
