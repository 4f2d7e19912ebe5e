"""The same network through other people's counters. docs/counting.md says what each of them counts."""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, NamedTuple

from torch import nn

from estimators.counting.count import Inputs, count, device_of, example, standing_in
from search_spaces.core import first_line, quiet, unknown_name

INSTALL = 'install the extra with: pip install "nas-toolkit[counters]"'
CONV_LINEAR = frozenset("convolution addmm mm conv linear Conv1d Conv2d Conv3d Linear".split())
"""What the three counters call convolutions and linear layers."""


@dataclass(frozen=True)
class Count:
    """What one counter says of one sample.

    Attributes:
        macs: everything that the counter calls a multiply-accumulate.
        params: as the counter counts them.
        operators: macs by operator (torch, fvcore) or by kind of module (thop), in the counter's own words.
        unsupported: operators or kinds of modules that the counter met and has no rule for, and how often.
    """

    macs: int
    params: int
    operators: Mapping[str, int]
    unsupported: Mapping[str, int]

    @property
    def conv_linear_macs(self) -> int:
        """Macs of convolutions and linear layers, the part on which all counters should agree."""
        return sum(macs for name, macs in self.operators.items() if name in CONV_LINEAR)


def count_with(counter: str, module: nn.Module, inputs: Inputs) -> Count:
    """Count with one of `COUNTERS`.

    Args:
        counter: its name.
        module: left as it was.
        inputs: the shape of one sample, without the batch, or the module's own inputs, see `count`; fvcore and thop take no inputs by
            name.

    Raises:
        ValueError: no such counter, its package is not installed, or the module does not run on such inputs.
    """
    if counter not in COUNTERS:
        raise unknown_name("counter", counter, COUNTERS)
    return COUNTERS[counter].run(module, inputs)


def compare(module: nn.Module, inputs: Inputs, counters: Sequence[str] | None = None) -> dict[str, Count]:
    """One module through several counters, or all, side by side; see `count_with`."""
    return {counter: count_with(counter, module, inputs) for counter in counters or COUNTERS}


def _torch(module: nn.Module, inputs: Inputs) -> Count:
    profile = count(module, inputs)
    return Count(profile.total.macs, profile.total.params, profile.operators, profile.unsupported)


def _positional(module: nn.Module, inputs: Inputs) -> tuple[Any, ...]:
    args, kwargs = example(module, inputs, device_of(module))
    if kwargs:
        raise ValueError(f"inputs by name ({', '.join(kwargs)}) are not taken")
    return args


def _fvcore(module: nn.Module, inputs: Inputs) -> Count:
    with quiet(), _explained("fvcore", module):
        from fvcore.nn import FlopCountAnalysis, parameter_count

        own = standing_in(module, device_of(module))
        analysis = FlopCountAnalysis(own, _positional(module, inputs))
        analysis.unsupported_ops_warnings(False).uncalled_modules_warnings(False).tracer_warnings("none")
        operators = {name: int(macs) for name, macs in analysis.by_operator().items()}
    return Count(int(analysis.total()), parameter_count(own)[""], operators, dict(analysis.unsupported_ops()))


def _thop(module: nn.Module, inputs: Inputs) -> Count:
    with quiet(), _explained("thop", module):
        import thop

        # in a container, because thop counts no parameters of the outermost module
        own = nn.Sequential(standing_in(module, device_of(module)))
        given = _positional(module, inputs)
        if len(given) > 1:
            raise ValueError("it takes one input")  # of the container
        macs, params, children = thop.profile(own, inputs=given, verbose=False, ret_layer_info=True)
    rules = sys.modules["thop.profile"].register_hooks  # `thop.profile` itself is the function
    leaves = [type(part) for part in own.modules() if not list(part.children())]
    unsupported = Counter(kind.__name__ for kind in leaves if kind not in rules)
    operators: Counter[str] = Counter()
    _add_up(own, children, operators)
    return Count(int(macs), int(params), {kind: found for kind, found in operators.items() if found}, dict(unsupported))


def _add_up(
    module: nn.Module, children: Mapping[str, tuple[float, float, Mapping[str, tuple]]], operators: Counter[str]
) -> None:
    """Sort thop's figures, nested as the modules are, by kind of module."""
    for name, (macs, _, below) in children.items():
        part = getattr(module, name)
        if below:
            _add_up(part, below, operators)
        else:
            operators[type(part).__name__] += int(macs)


@contextmanager
def _explained(counter: str, module: nn.Module) -> Iterator[None]:
    try:
        yield
    except ImportError as error:
        raise ValueError(f"counter {counter} needs a package that is missing ({error}); {INSTALL}") from error
    except Exception as error:
        raise ValueError(
            f"{counter} must run {type(module).__name__} on the inputs to count it, and cannot: {first_line(error)}; give others or "
            "use the counter torch"
        ) from error


class CounterEntry(NamedTuple):
    """One counter: what it is, and (module, inputs) -> what it says."""

    help: str
    run: Callable[[nn.Module, Inputs], Count]


COUNTERS: dict[str, CounterEntry] = {
    "torch": CounterEntry("the toolkit's own: every operator of the traced network, and rows by module", _torch),
    "fvcore": CounterEntry("fvcore's FlopCountAnalysis; needs the extra `counters`", _fvcore),
    "thop": CounterEntry("thop's profile, by kinds of modules; needs the extra `counters`", _thop),
}
