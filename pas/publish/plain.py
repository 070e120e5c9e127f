"""A searched network in plain torch: what model cards of chains print, and what every chain is held against before it is published."""

import json
from pathlib import Path

from safetensors.torch import load_file
from torch import nn


def plain(folder: str | Path) -> nn.Sequential:
    """Convolutions, each with a ReLU, a mean over the image and a classifier, in eval mode."""
    weights = load_file(Path(folder, "model.safetensors"))
    chain = json.loads(Path(folder, "config.json").read_text())["pas"]["chain"]
    layers: list[nn.Module] = []
    for name, stride, padding, groups in chain["convolutions"]:
        width, inputs, *kernel = weights[f"{name}.weight"].shape
        layers += [nn.Conv2d(inputs * groups, width, (kernel[0], kernel[1]), stride, padding, groups=groups), nn.ReLU()]
    classes, width = weights[f"{chain['classifier']}.weight"].shape
    network = nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(width, classes))
    names = [*(name for name, *_ in chain["convolutions"]), chain["classifier"]]
    tensors = [weights[f"{name}.{kind}"] for name in names for kind in ("weight", "bias")]
    network.load_state_dict(dict(zip(network.state_dict(), tensors, strict=True)))
    return network.eval()
