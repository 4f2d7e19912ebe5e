"""A trained model as a search space."""

from pruners.space.prunable import PrunableSpace

__all__ = ["PrunableSpace"]
