"""The channels of all axes in another order compute the same, in fp64, for axes that aren't exact as well."""

from __future__ import annotations

import numpy as np
import pytest
import timm
import torch
from networks import error, randomised, run

import pas
from pas.surgery.permute import permute


@pytest.mark.parametrize("name", ["repvgg_a0", "nf_regnet_b0", "convnext_atto"])
def test_another_order_computes_the_same(name: str) -> None:
    model, x = randomised(name, 64, seed=0)
    signature = pas.signature(model, x)
    rng = np.random.default_rng(0)
    orders = {axis.name: rng.permutation(axis.size).tolist() for axis in signature.prunable}
    moved = permute(model, signature, orders)
    changed = [key for key, tensor in pas.fuse(model).state_dict().items() if not torch.equal(tensor, moved.state_dict()[key])]
    assert len(changed) > len(signature.prunable)
    assert error(run(model, x), run(moved, x)) < 1e-12


def test_the_best_come_first() -> None:
    """Sorted by how large they are, the first half of the channels is the half that magnitude keeps."""
    model, x = randomised("resnet18", 64, seed=0)
    signature = pas.signature(model, x)
    axis = signature.axis("layer1.0.conv1")
    weights = dict(pas.fuse(model).named_parameters())["layer1.0.conv1.weight"].detach().flatten(1).norm(dim=1)
    order = weights.argsort(descending=True).tolist()
    moved = permute(model, signature, {axis.name: order})
    kept = pas.slice(model, signature, signature.dense().keep(axis.name, order[: axis.size // 2]))
    first = pas.slice(moved, pas.signature(moved, x), signature.dense().keep(axis.name, range(axis.size // 2)))
    assert error(run(kept, x), run(first, x)) < 1e-12


def test_an_order_lists_each_channel_once() -> None:
    model = timm.create_model("resnet18").eval()
    signature = pas.signature(model, torch.zeros(1, 3, 64, 64))
    with pytest.raises(pas.PasError, match=r"axis 'layer1.0.conv1' has 64 channels: an order lists each of 0 to 63 once"):
        permute(model, signature, {"layer1.0.conv1": [0] * 64})
