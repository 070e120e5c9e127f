"""One network through `pas` or through Torch-Pruning, as a line of JSON on standard output. `run.py` starts it, with limits.

    python experiments/coverage/one.py pas NAME
    python experiments/coverage/one.py torch_pruning NAME
"""

from __future__ import annotations

import json
import sys
import time
import warnings
from typing import Any

import numpy as np
import timm
import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

import pas
from pas.axes.capture import BATCH
from pas.cost.macs import build
from pas.surgery.permute import permute


def network(name: str) -> tuple[nn.Module, Tensor]:
    """A network in fp64 and eval mode, whose norms, gains and biases are random so that every channel matters, and an image."""
    torch.manual_seed(0)
    model: Any = timm.create_model(name).double()
    channels, height, width = model.pretrained_cfg["input_size"]
    x = torch.randn(1, channels, height, width, dtype=torch.float64)
    with torch.no_grad():
        for key, parameter in model.named_parameters():
            if parameter.dim() == 1 or key.rpartition(".")[2] in ("gamma", "scale", "gain"):
                parameter.normal_(0, 0.1) if key.endswith("bias") else parameter.uniform_(0.5, 1.5)
            elif not parameter.any():  # a classifier of zeros would hide everything
                parameter.normal_(0, 0.1)
        norms = [m for m in model.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm) and m.running_mean is not None]
        for norm in norms:
            norm.momentum = 1.0
            norm.train()
        try:  # statistics from small images, where the network takes them
            model(torch.randn(2, channels, max(height // 2, 64), max(width // 2, 64)).double())
        except (AssertionError, RuntimeError, ValueError):
            model(torch.cat([x, x.flip(3)]))
        for norm in norms:
            for statistic in (norm.running_mean, norm.running_var):
                statistic *= 1 + 0.2 * (2 * torch.rand_like(statistic) - 1)
            norm.running_var.clamp_(min=1e-3)
    return model.eval(), x


def counted(model: nn.Module, x: Tensor) -> int:
    """Multiply-adds of a batch by torch's own counter."""
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        model(x)
    return counter.get_total_flops() // 2


def counted_each(model: nn.Module, x: Tensor, expected: int) -> int:
    """Multiply-adds of one example: alone or, where examples attend to each other (csatv2), as one of as many as `pas` captures."""
    found = counted(model, x)
    return found if found == expected else counted(model, torch.cat([x] * BATCH)) // BATCH


def run(model: nn.Module, x: Tensor) -> Tensor:
    with torch.no_grad():
        found = model(x)
    return found[0] if isinstance(found, (tuple, list)) else found


def error(a: Tensor, b: Tensor) -> float:
    """max |a - b| / max |a|."""
    return float((a - b).abs().max() / a.abs().max())


def with_pas(name: str) -> dict[str, Any]:
    """Axes, all of them in another order, masked = sliced with half of every exact axis, half of all widths against the counter."""
    model, x = network(name)
    began = time.perf_counter()
    torch.export.export(pas.fuse(model), (torch.cat([x, x]),), strict=False)
    exported = time.perf_counter() - began
    began = time.perf_counter()
    signature = pas.signature(model, x)
    row: dict[str, Any] = {"export_s": round(exported, 2), "signature_s": round(time.perf_counter() - began, 2)}
    row["axes"] = len(signature.prunable)
    row["exact"] = sum(axis.exact for axis in signature.prunable)
    interfaces = ("it is an input of the network", "it is an output of the network", "it has a single channel")
    row["frozen"] = [[a.name, a.size, a.frozen] for a in signature.axes if a.frozen is not None and a.frozen not in interfaces]
    macs = build(signature, "macs")
    row["macs"] = pas.cost.macs(signature, signature.dense())
    least = np.ones(signature.channels, dtype=bool)
    for axis in signature.prunable:
        least[axis.start + 1 : axis.start + axis.size] = False
    row["reachable"] = round(1 - macs.at(least) / row["macs"], 4)
    rng = np.random.default_rng(0)
    orders = {axis.name: rng.permutation(axis.size).tolist() for axis in signature.prunable}
    whole = run(model, x)
    row["permuted"] = error(whole, run(permute(model, signature, orders), x))
    row["rounding"] = error(whole, run(model, x * (1 + 1e-15 * torch.randn_like(x))))
    exact = [axis for axis in signature.prunable if axis.exact]
    if exact:
        architecture = _halves(signature, exact, rng)
        masked, small = pas.mask(model, signature, architecture), pas.slice(model, signature, architecture)
        off = run(masked, x)
        row["moved"], row["error"] = error(whole, off), error(off, run(small, x))
    architecture = _halves(signature, signature.prunable, rng)
    began = time.perf_counter()
    small = pas.slice(model, signature, architecture)
    row["slice_s"] = round(time.perf_counter() - began, 2)
    row["form"] = "graph" if isinstance(small, torch.fx.GraphModule) else "modules"
    plain = pas.fuse(small)
    row["macs_half"] = pas.cost.macs(signature, architecture)
    row["macs_counted"] = counted_each(plain, x, row["macs_half"])
    row["params_right"] = pas.cost.params(signature, architecture) == sum(p.numel() for p in plain.parameters())
    return row


def _halves(signature: Any, axes: Any, rng: np.random.Generator) -> pas.Architecture:
    architecture = signature.dense()
    for axis in axes:
        architecture = architecture.keep(axis.name, rng.choice(axis.size, max(1, axis.size // 2), replace=False))
    return architecture


def with_torch_pruning(name: str) -> dict[str, Any]:
    """Half of all widths by global L2 magnitude, the classifier ignored, as its examples do."""
    import torch_pruning

    torch.manual_seed(0)
    model: Any = timm.create_model(name).eval()
    x = torch.randn(1, *model.pretrained_cfg["input_size"])
    before = counted(model, x)
    began = time.perf_counter()
    classifier = model.get_classifier()
    pruner = torch_pruning.pruner.MagnitudePruner(
        model,
        x,
        importance=torch_pruning.importance.GroupMagnitudeImportance(p=2),
        global_pruning=True,
        pruning_ratio=0.5,
        ignored_layers=[m for m in (classifier if isinstance(classifier, (tuple, list)) else [classifier]) if isinstance(m, nn.Module)],
    )
    pruner.step()
    seconds = time.perf_counter() - began
    return {"seconds": round(seconds, 2), "macs": before, "macs_half": counted(model, x)}


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    which, name = sys.argv[1:]
    print(json.dumps((with_pas if which == "pas" else with_torch_pruning)(name)))
