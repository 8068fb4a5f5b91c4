"""Neighborhood attention over groups of heads, and its two halves: several backends for each."""

from ops.neighborhood.api import neighborhood_attention_2d
from ops.neighborhood.backends import BACKENDS, backend_names
from ops.neighborhood.problem import HeadGroup
from ops.neighborhood.unfused import neighborhood_av, neighborhood_qk
from ops.neighborhood.unfused_backends import UNFUSED_BACKENDS
from ops.neighborhood.unfused_functions import (
    NeighborhoodAttention1DAVAutogradFunction,
    NeighborhoodAttention1DQKAutogradFunction,
    NeighborhoodAttention2DAVAutogradFunction,
    NeighborhoodAttention2DQKAutogradFunction,
    NeighborhoodAttention3DAVAutogradFunction,
    NeighborhoodAttention3DQKAutogradFunction,
)

__all__ = [
    "BACKENDS",
    "UNFUSED_BACKENDS",
    "HeadGroup",
    "NeighborhoodAttention1DAVAutogradFunction",
    "NeighborhoodAttention1DQKAutogradFunction",
    "NeighborhoodAttention2DAVAutogradFunction",
    "NeighborhoodAttention2DQKAutogradFunction",
    "NeighborhoodAttention3DAVAutogradFunction",
    "NeighborhoodAttention3DQKAutogradFunction",
    "backend_names",
    "neighborhood_attention_2d",
    "neighborhood_av",
    "neighborhood_qk",
]
