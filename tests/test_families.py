"""Families of timm, cut to half of every axis: they train, save, load, and run in ONNX Runtime."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch
from networks import halves, run
from safetensors.torch import load_file, save_file

import pas
from pas import onnx

pytestmark = pytest.mark.no_cover

QUICK: dict[str, tuple[int, dict[str, Any]]] = {
    "test_vit": (64, {"img_size": 64}),
    "test_convnext": (64, {}),
    "test_nfnet": (64, {}),
    "test_mambaout": (64, {}),
    "test_efficientnet": (64, {}),
}
SLOW: dict[str, tuple[int, dict[str, Any]]] = {
    "mobilevit_xxs": (64, {}), "skresnet18": (64, {}), "ghostnet_050": (64, {}),
    "res2net50_14w_8s": (64, {}), "dpn48b": (64, {}), "hrnet_w18_small": (64, {}), "densenet121": (64, {}), "rexnet_100": (64, {}),
    "fastvit_t8": (64, {}), "levit_128s": (224, {}), "swin_tiny_patch4_window7_224": (224, {}), "poolformer_s12": (64, {}),
    "mixer_s16_224": (224, {}), "efficientvit_b0": (64, {}), "edgenext_xx_small": (64, {}), "repghostnet_050": (64, {}),
}  # fmt: skip


@pytest.mark.parametrize("name", [*QUICK, *(pytest.param(name, marks=pytest.mark.slow) for name in SLOW)])
def test_a_slice_is_a_network_like_any_other(name: str, tmp_path: Path, exporter: None) -> None:
    size, arguments = (QUICK | SLOW)[name]
    torch.manual_seed(0)
    model = timm.create_model(name, num_classes=5, **arguments).eval()
    x = torch.randn(4, 3, size, size)
    signature = pas.signature(model, x)
    architecture = halves(signature, np.random.default_rng(0))
    small = pas.slice(model, signature, architecture).train()
    optimizer = torch.optim.SGD(small.parameters(), lr=0.01)
    for _ in range(2):
        loss = torch.nn.functional.cross_entropy(small(x), torch.arange(4))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        assert all(p.grad is not None and torch.isfinite(p.grad).all() for p in small.parameters())
    small.eval()
    save_file({key: value.contiguous() for key, value in small.state_dict().items()}, tmp_path / "weights.safetensors")
    again = pas.slice(timm.create_model(name, num_classes=5, **arguments).eval(), signature, architecture)
    again.load_state_dict(load_file(tmp_path / "weights.safetensors"))
    assert torch.equal(run(again, x), run(small, x))
    plain = pas.fuse(small)
    onnx.export(plain, x, tmp_path / "small.onnx")
    assert onnx.max_error(plain, tmp_path / "small.onnx", x[:3]) < 1e-4
