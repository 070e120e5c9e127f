"""How much a channel matters, judged once: from the weights, or from the weights and some data."""

from pas.criteria.examples import Batch, Loss
from pas.criteria.gate_gradients import taylor
from pas.criteria.grouped import NORMALISERS, REDUCTIONS, grouped
from pas.criteria.norms import l1, magnitude
from pas.criteria.registry import CRITERIA, WITH_DATA, WITHOUT_DATA, from_data, from_weights

__all__ = [
    "CRITERIA",
    "NORMALISERS",
    "REDUCTIONS",
    "WITHOUT_DATA",
    "WITH_DATA",
    "Batch",
    "Loss",
    "from_data",
    "from_weights",
    "grouped",
    "l1",
    "magnitude",
    "taylor",
]
