"""Small models of transformers with random weights, and inputs for them."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from tests.zoo import declare_missing_operators

VOCABULARY = 96


def tiny(name: str, **options: Any) -> Any:
    """A model by the name of its class, in eval mode, with these options of its configuration."""
    declare_missing_operators()
    import transformers

    kind = getattr(transformers, name)
    torch.manual_seed(0)
    model = kind(kind.config_class(**options)).eval()
    assert isinstance(model, nn.Module)
    return model


def language(name: str, **options: Any) -> Any:
    """A small model of tokens."""
    return tiny(name, **{"vocab_size": VOCABULARY, "use_cache": False, **options})


def tokens(*shape: int) -> Tensor:
    """Tokens of the small models, at random."""
    return torch.randint(0, VOCABULARY, shape)
