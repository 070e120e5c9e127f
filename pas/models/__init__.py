"""Networks by name: everything that timm can make, and our own small ones, which are registered with timm."""

import difflib
from collections.abc import Mapping
from typing import Any

import timm
from torch import nn

from pas.errors import PasError
from pas.models import cifar_resnet, small  # importing them registers their networks
from pas.models.entry import from_entry
from pas.models.onnx_file import from_file
from pas.models.weights import load_weights

__all__ = ["cifar_resnet", "create", "from_entry", "from_file", "load_weights", "names", "small"]


def names(pattern: str = "*") -> list[str]:
    """All known names that match a shell pattern such as `repvgg_*`, in natural order."""
    return timm.list_models(pattern)


def create(
    name: str, *, num_classes: int, in_chans: int = 3, pretrained: bool = False, args: Mapping[str, Any] | None = None
) -> nn.Module:
    """Make the network `name`, (N, in_chans, H, W) -> (N, num_classes), in train mode.

    Args:
        name: a timm name, with or without a tag (`resnet50`, `resnet50.a1_in1k`), or one of ours.
        num_classes: logits of the classifier.
        in_chans: channels of the image.
        pretrained: load timm's weights, from its cache or the network.
        args: further arguments of timm's constructor, such as `{"drop_rate": 0.1}`.

    Raises:
        PasError: the name is unknown, the network doesn't take the arguments, or its weights can't be had.
    """
    if not timm.is_model(timm.models.get_arch_name(name)):
        near = difflib.get_close_matches(name, names(), n=4, cutoff=0.6)
        hint = f"did you mean {', '.join(near)}?" if near else "timm.list_models() lists the known ones"
        if name.endswith(".onnx") or ":" in name:
            hint = "a file is given with --onnx or model.path, a function with --entry or model.entry"
        raise PasError(f"no model is called {name!r}: {hint}")
    try:
        return timm.create_model(name, pretrained=pretrained, num_classes=num_classes, in_chans=in_chans, **args or {})
    except TypeError as error:
        raise PasError(f"{name} can't be made with model.args={dict(args or {})}: {error}") from error
    except (RuntimeError, OSError) as error:
        if not pretrained:
            raise
        raise PasError(f"no pretrained weights for {name}: {str(error).splitlines()[0]}") from error
