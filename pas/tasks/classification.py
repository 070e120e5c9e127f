"""Classification: cross-entropy with label smoothing, mixup and cutmix; top-1 and top-5."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from timm.data import Mixup
from torch import Tensor, nn

from pas import distributed
from pas.data.loader import Loader
from pas.train.recipe import Recipe


@dataclass(frozen=True)
class Metrics:
    """Over `n` images: top-1 and top-5 in percent, and the mean cross-entropy."""

    top1: float
    top5: float
    loss: float
    n: int


def loss(
    recipe: Recipe, num_classes: int, teacher: nn.Module | None = None
) -> Callable[[nn.Module, Tensor, Tensor], tuple[Tensor, Tensor | None]]:
    """The training loss: (model, x (N, C, H, W), y (N,)) -> (mean loss, hits). Mixed images have no hits.

    With `recipe.distill` = d above 0, ``(1 - d) CE + d T^2 KL(teacher || network)`` at temperature T (Hinton et al.,
    https://arxiv.org/abs/1503.02531); the teacher sees the same (mixed) images and must be in eval mode. Of several
    processes each mixes its own images with one another, in the proportion that all have in common.
    """
    smoothing, share = recipe.label_smoothing, recipe.distill
    if share and teacher is None:
        raise ValueError("distilling needs a teacher")

    def whole(logits: Tensor, target: Tensor, x: Tensor) -> Tensor:
        hard = F.cross_entropy(logits.float(), target, label_smoothing=0.0 if target.is_floating_point() else smoothing)
        if not share or teacher is None:
            return hard
        with torch.no_grad():
            taught = teacher(x)
        return (1 - share) * hard + share * distillation(logits, taught, recipe.temperature)

    def plain(model: nn.Module, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        logits = model(x)
        return whole(logits, y, x), (logits.detach().argmax(1) == y).sum()

    if not (recipe.mixup or recipe.cutmix):
        return plain
    mix = Mixup(recipe.mixup, recipe.cutmix, label_smoothing=smoothing, num_classes=num_classes)

    def mixed(model: nn.Module, x: Tensor, y: Tensor) -> tuple[Tensor, None]:
        even = len(x) // 2 * 2  # timm pairs each image with another
        x, target = mix(x[:even].clone(), y[:even])
        return whole(model(x), target, x), None

    return mixed


def distillation(logits: Tensor, taught: Tensor, temperature: float) -> Tensor:
    """``T^2 KL(softmax(taught / T) || softmax(logits / T))``, a mean over the batch; both (N, classes)."""
    wanted, found = (F.log_softmax(t.float() / temperature, dim=1) for t in (taught, logits))
    return temperature**2 * F.kl_div(found, wanted, reduction="batchmean", log_target=True)


@torch.no_grad()
def evaluate(model: nn.Module, loader: Loader, *, device: torch.device | str, precision: str) -> Metrics:
    """Measure `model` over one epoch of `loader`, in eval mode; it is left in the mode that it had.

    Several processes share the images and all come to the same numbers.
    """
    device = torch.device(device)
    was_training = model.training
    model.to(device).eval()
    sums = torch.zeros(4, dtype=torch.float64, device=device)  # hits, hits among five, loss times images, images
    for x, y in loader.epoch(0):
        x, y = x.to(device, non_blocking=True), y.to(device, non_blocking=True)
        with torch.autocast(device.type, torch.bfloat16, enabled=precision == "bf16"):
            logits = model(x)
        best = logits.topk(min(5, logits.shape[1]), dim=1).indices == y.unsqueeze(1)
        total = F.cross_entropy(logits.float(), y, reduction="sum")
        sums += torch.stack((best[:, 0].sum(), best.sum(), total, total.new_tensor(len(y)))).double()
    model.train(was_training)
    top1, top5, total, n = distributed.total(sums).tolist()
    return Metrics(top1=100 * top1 / n, top5=100 * top5 / n, loss=total / n, n=int(n))
