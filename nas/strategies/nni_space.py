"""Search spaces in the JSON of NNI 3.0."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from search_spaces import Categorical, Choice, Integer, SearchSpace, Subset
from search_spaces.core import Value, conditions, quoted

NAME = "_name"
"""The key of a nested choice that says which of its values is meant."""
MOST = 10_000
"""Parameters at most of a written space, where choices under conditions are repeated for each value that calls for them; and values
at most of a range that is read."""
Document = dict[str, Any]


def write_nni_space(space: SearchSpace) -> Document:
    """What NNI calls the search space of `space`, for `json.dump`: a choice of `_type` choice each, one under a condition inside
    the values that call for it.

    Raises:
        ValueError: the space has what NNI cannot say: constraints, a canonical form, subsets, a choice that depends on several
            others, or on one that depends on a third itself. NNI's format has the last; its tuners raise a KeyError there.
    """
    for what, there in (
        ("constraints", space.constraints),
        ("a canonical form", space.canonical),
        ("subsets", any(isinstance(choice, Subset) for choice in space.choices)),
    ):
        if there:
            raise ValueError(
                f"a search space of NNI has no {what}, and {space.name!r} has; search it here, or leave them out"
            )
    children: dict[str | None, list[Choice]] = {}
    for choice in space.choices:
        children.setdefault(_parent(choice), []).append(choice)
    for below in children.values():
        for choice in below:
            grand = next(
                (inner for middle in children.get(choice.name, ()) for inner in children.get(middle.name, ())), None
            )
            if grand is not None:
                raise ValueError(
                    f"NNI's tuners fail where choices are nested three deep, and {grand.name!r} depends on {_parent(grand)!r}, which "
                    f"depends on {choice.name!r}; search the space here"
                )
    return _written(children, None, None, [MOST])


def _parent(choice: Choice) -> str | None:
    """The choice that this one depends on; ValueError where there are several."""
    parents = {parent for condition in conditions(choice) for parent in condition}
    if not all(conditions(choice)) and choice.when != ():
        return None  # one of them always holds
    if len(parents) > 1 or choice.when == ():
        raise ValueError(
            f"a choice of NNI depends on one other, and {choice.name!r} on {', '.join(sorted(parents)) or 'what never holds'}; search "
            "the space here"
        )
    return next(iter(parents), None)


def _written(
    children: Mapping[str | None, Sequence[Choice]], parent: str | None, value: Value, left: list[int]
) -> Document:
    """The choices that exist at a value of their parent."""
    document: Document = {}
    for choice in children.get(parent, ()):
        if parent is not None and not any(value in condition.get(parent, ()) for condition in conditions(choice)):
            continue
        left[0] -= 1
        if left[0] < 0:
            raise ValueError(
                f"written for NNI, the space has more than {MOST} parameters; make fewer depend on each other"
            )
        values = [choice.value(at) for at in range(choice.size)]
        document[choice.name] = {
            "_type": "choice",
            "_value": [{NAME: each, **_written(children, choice.name, each, left)} for each in values]
            if choice.name in children
            else values,
        }
    return document


def read_nni_space(document: Mapping[str, Any], name: str = "nni") -> SearchSpace:
    """The space behind a search space of NNI.

    `choice`, also nested, `randint`, and `quniform` of whole steps are read. Integers in rising order become `Integer`, others
    `Categorical`. A nested parameter keeps its name, where it is the same in all values that have it and no other has that name; else
    it is named `parent.value.name`.

    Args:
        document: what `json.load` gives.
        name: of the space.

    Raises:
        ValueError: it is no search space of NNI, or one of numbers without end (uniform, normal and their kin).
    """
    parameters = list(_read([(None, document)], None))
    names = Counter(parameter.name for parameter in parameters)
    for parameter in parameters:
        if names[parameter.name] > 1 and parameter.parent is not None:
            parameter.full = f"{parameter.parent.full}.{'/'.join(map(str, parameter.values))}.{parameter.name}"
    return SearchSpace(name, tuple(parameter.choice() for parameter in parameters))


@dataclass
class _Read:
    """A parameter of NNI: what it takes, and the values of which other parameter call for it."""

    name: str
    full: str
    taken: tuple[Value, ...]
    parent: _Read | None
    values: tuple[Value, ...]

    def choice(self) -> Choice:
        when = {} if self.parent is None else {self.parent.full: self.values}
        whole = all(type(value) is int for value in self.taken)
        if whole and list(self.taken) == sorted(self.taken):  # type: ignore[type-var]
            return Integer(self.full, self.taken, when)  # type: ignore[arg-type]
        return Categorical(self.full, self.taken, when)


def _read(branches: Sequence[tuple[Value, Mapping[str, Any]]], parent: _Read | None) -> Iterator[_Read]:
    """The parameters of documents that each stand at a value of their parent; those that are alike are one."""
    alike: dict[str, list[tuple[Any, list[Value]]]] = {}
    for value, document in branches:
        if not isinstance(document, Mapping):
            raise ValueError(f"a search space of NNI must be a JSON object of parameters, got {quoted(document)}")
        for name, given in document.items():
            if name == NAME and parent is not None:
                continue
            kinds = alike.setdefault(name, [])
            same = next((values for other, values in kinds if other == given), None)
            if same is None:
                kinds.append((given, [value]))
            else:
                same.append(value)
    for name, kinds in alike.items():
        for given, values in kinds:
            taken, nested = _values(name, given)
            found = _Read(name, name, taken, parent, tuple(values))
            yield found
            yield from _read(nested, found)


def _values(name: str, given: object) -> tuple[tuple[Value, ...], list[tuple[Value, Mapping[str, Any]]]]:
    """What a parameter takes, and the search space inside each value where it is nested."""
    if not isinstance(given, Mapping) or not {"_type", "_value"} <= set(given) or not isinstance(given["_value"], list):
        raise ValueError(f"parameter {name!r} of NNI must have a `_type` and a list as `_value`, got {quoted(given)}")
    kind, values = given["_type"], given["_value"]
    if kind == "choice":
        nested = [value for value in values if isinstance(value, Mapping)]
        if not nested:
            return tuple(values), []
        if len(nested) < len(values) or any(NAME not in value for value in nested):
            raise ValueError(f"in a nested choice of NNI each value has a `{NAME}`, got {quoted(values)} for {name!r}")
        return tuple(value[NAME] for value in nested), [(value[NAME], value) for value in nested]
    if kind in ("randint", "quniform") and all(isinstance(value, (int, float)) and value % 1 == 0 for value in values):
        low, high, *step = map(int, values) if len(values) > 1 else (0, 0)
        if kind == "randint" and not step and 0 < high - low <= MOST:
            return tuple(range(low, high)), []
        if kind == "quniform" and len(step) == 1 and step[0] > 0 and low % step[0] == high % step[0] == 0:
            whole = range(low, high + 1, step[0])
            if 0 < len(whole) <= MOST:
                return tuple(whole), []
    raise ValueError(
        f"parameter {name!r} must take one of some values: `choice`, `randint` of up to {MOST} integers, or `quniform` between "
        f"multiples of a whole step; got {quoted(given)}; write the values to try as a `choice`"
    )
