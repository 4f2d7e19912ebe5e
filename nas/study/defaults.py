"""The complete configuration behind the settings that are given."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from nas.pruning import OF_MODEL, SearchedModel, as_space, is_pruned
from nas.strategies import STRATEGIES
from nas.study.config import RunConfig, parse_config
from search_spaces.core import nested, takes

PROPOSES = "bayesian"
"""The strategy where no supernet ranks architectures: it needs the fewest trials, see docs/results.md."""
TRIALS = 200
"""Of a search for smaller models inside a trained one, where nothing else ends it: few spaces of these are ever used up."""


@takes(RunConfig, SearchedModel)
def configure(space: str | None = None, data: str | None = None, **settings: Any) -> RunConfig:
    """The complete configuration behind the settings that are given.

    Args:
        space: a built-in space, `module:function`, or `pruned:MODEL`; None with `model`, which means the same as the last.
        data: see `nas.load_data`; None with `task` or `evaluate`, or for a trained model and costs alone.
        settings: the others, by keyword:{settings}

    Raises:
        ValueError: a setting is unknown or out of its range; the message names it.
    """
    given = {name: value for name, value in settings.items() if value is not None}
    of_model = {name: given.pop(name) for name in OF_MODEL if name in given}
    options = given.pop("space_options", None) or {}
    space, options = as_space(space, options, of_model)
    if space is None:
        raise ValueError("a search needs a `space`, or a trained `model` to find smaller ones in; give one of them")
    defaults: dict[str, Any] = {"alone_epochs": given.get("epochs", 100)}
    if trained := is_pruned(space):
        defaults |= _of_trained(given, data)
    if "evaluate" in given:
        defaults |= {"strategy": PROPOSES, "supernets": 0, "retrain": "none"}
    else:
        strategy = STRATEGIES.get({**defaults, **given}.get("strategy", "mixture"))
        defaults["supernets"] = strategy.supernets if strategy and (strategy.ranked or not trained) else 0
    made = nested(
        RunConfig,
        {
            **defaults,
            **given,
            "space": space,
            **({"space_options": options} if options else {}),
            **({} if data is None else {"data": data}),
        },
    )
    return parse_config({"data": None, **made})


def _of_trained(given: Mapping[str, Any], data: str | None) -> dict[str, Any]:
    """Defaults of a search inside a trained model: it ends, and what is found is trained on only where epochs say how long."""
    defaults: dict[str, Any] = {
        "learning_rate": 1e-4 if given.get("optimizer") == "adamw" else 0.01,
        "strategy": PROPOSES,
    }
    if not {"epochs", "alone_epochs"} & given.keys():
        defaults["retrain"] = "none"
    if not {"trials", "seconds", "macs_spent", "patience"} & given.keys() and given.get("strategy") != "exhaustive":
        defaults["trials"] = TRIALS
    return defaults
