"""Find the width of every layer of a network under a budget."""

from pas import cost
from pas.architecture import Architecture
from pas.errors import PasError
from pas.surgery.forms import signature
from pas.surgery.fuse import fuse
from pas.surgery.mask import mask
from pas.surgery.slice import slice

__all__ = ["Architecture", "PasError", "cost", "fuse", "mask", "signature", "slice"]
__version__ = "0.1.0"
