"""What a network costs: MACs and parameters, exact and differentiable."""

from pas.cost.macs import macs, params

__all__ = ["macs", "params"]
