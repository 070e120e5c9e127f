"""Find the width of every layer of a network under a budget."""

from pas import cost
from pas.architecture import Architecture
from pas.budget import Budget
from pas.errors import PasError
from pas.publish.bundle import load
from pas.search import Search
from pas.surgery.forms import signature
from pas.surgery.fuse import fuse
from pas.surgery.mask import mask
from pas.surgery.slice import slice

__all__ = ["Architecture", "Budget", "PasError", "Search", "cost", "fuse", "load", "mask", "signature", "slice"]
__version__ = "0.1.0"
