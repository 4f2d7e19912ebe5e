"""Search spaces by name: built-in, `module:function`, or the smaller models inside a trained one, `pruned:module:function`.

The option `paths` makes ensembles of any of the first two, and `splits` says which blocks they may share; see `search_spaces.ensemble`.
"""

from __future__ import annotations

import inspect
from typing import Any

from nas.data import ImageData
from nas.pruning import PREFIX, known_options, pruned_space
from nas.runtime import import_function
from search_spaces import SPACES, SearchSpace, ensemble, make_space
from search_spaces.core import image_size_of

OF_ENSEMBLES = ("paths", "splits")


def build_space(name: str, options: dict[str, Any]) -> SearchSpace:
    """The search space of that name.

    Args:
        name: a built-in space, `module:function` of a factory that returns a SearchSpace, or `pruned:module:function` of one
            that returns a trained model.
        options: keyword arguments of the factory; of a trained model see `nas.pruning.pruned_space`. Beside them `paths` and
            `splits` of an ensemble.

    Raises:
        ValueError: no such space, function or option.
    """
    if name.startswith(PREFIX):
        return pruned_space(name, **known_options(name, options))
    of_ensemble = {key: value for key, value in options.items() if key in OF_ENSEMBLES}
    if of_ensemble:
        return ensemble(build_space(name, {k: v for k, v in options.items() if k not in of_ensemble}), **of_ensemble)
    if ":" not in name:
        return make_space(name, **options)
    space = import_function(name)(**options)
    if not isinstance(space, SearchSpace):
        raise ValueError(f"{name!r} must return a SearchSpace, got {type(space).__name__}")
    return space


def options_for(name: str, options: dict[str, Any], data: ImageData | None) -> dict[str, Any]:
    """`options` with the image shape and classes of `data`, if there are any, added where the space's factory asks for them."""
    if data is None:
        return options
    if name.startswith(PREFIX):
        return {"input": "x".join(map(str, (1, *data.input_shape))), **options}
    if ":" not in name and name not in SPACES:
        return options
    factory = import_function(name) if ":" in name else SPACES[name].make
    channels, height, width = data.input_shape
    offered = {
        "in_channels": channels,
        "num_classes": data.num_classes,
        "outputs": data.num_classes,
        "image_size": image_size_of(height, width),
    }
    asked = inspect.signature(factory).parameters
    return {**{name: value for name, value in offered.items() if name in asked}, **options}
