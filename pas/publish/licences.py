"""Under which terms the data comes that networks are trained on, as its makers say, and where; the one place for it."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from timm.models import get_pretrained_cfg

CIFAR = (
    "none stated; its authors ask to cite A. Krizhevsky, Learning Multiple Layers of Features from Tiny Images, 2009 "
    "(https://www.cs.toronto.edu/~kriz/cifar.html)"
)
LICENCES = {
    "digits": "CC BY 4.0 (E. Alpaydin and C. Kaynak, Optical Recognition of Handwritten Digits, UCI Machine Learning Repository, "
    "https://archive.ics.uci.edu/dataset/80/optical+recognition+of+handwritten+digits)",
    "fashion_mnist": "MIT (Zalando SE, Fashion-MNIST, https://github.com/zalandoresearch/fashion-mnist/blob/master/LICENSE)",
    "cifar10": CIFAR,
    "cifar100": CIFAR,
}
UNKNOWN = "not known: ask who made it"


def licence(data: str) -> str:
    """Of the data set `data`."""
    return LICENCES.get(data, UNKNOWN)


def start(model: Mapping[str, Any]) -> str:
    """What the training of a network started from, by the section `model` of its run's `config.yaml`, as a sentence with a blank behind
    it; "" where that was chance.
    """
    if model.get("weights") is not None:
        origin = f"the weights in `{Path(model['weights']).name}`"
    elif model.get("path") is not None:
        origin = f"the network and weights in `{Path(model['path']).name}`"
    elif model.get("pretrained"):
        known = get_pretrained_cfg(model["name"])
        stated = f" (licence as timm states it: {known.license})" if known is not None and known.license else ""
        origin = f"the weights that timm has as `{model['name']}`{stated}"
    else:
        return ""
    return f"The training started from {origin}; their terms hold as well. "
