"""What a network costs: MACs and parameters, exact and differentiable, and latency under some conditions."""

from pas.cost.conditions import Conditions
from pas.cost.macs import macs, params

__all__ = ["Conditions", "macs", "params"]
