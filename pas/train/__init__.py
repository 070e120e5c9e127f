"""Training: a recipe of numbers, one loop, and a checkpoint from which it goes on exactly."""

from pas.train.checkpoint import Checkpoint
from pas.train.loop import Fitted, Loss, fit
from pas.train.recipe import Recipe, make_optimizer, make_schedule, weight_groups
from pas.train.resume import Stateful

__all__ = [
    "Checkpoint", "Fitted", "Loss", "Recipe", "Stateful", "fit", "make_optimizer", "make_schedule", "weight_groups"
]  # fmt: skip
