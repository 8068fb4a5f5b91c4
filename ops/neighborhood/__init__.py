"""Neighborhood attention over groups of heads: one operation, several backends."""

from ops.neighborhood.api import neighborhood_attention_2d
from ops.neighborhood.backends import BACKENDS, backend_names
from ops.neighborhood.problem import HeadGroup

__all__ = ["BACKENDS", "HeadGroup", "backend_names", "neighborhood_attention_2d"]
