"""Families of timm, cut to half of every axis: they train, save, load, and run in ONNX Runtime."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch
from networks import halves, run
from safetensors.torch import load_model, save_model

import pas
from pas import onnx

pytestmark = pytest.mark.no_cover

FAMILIES: dict[str, tuple[int, dict[str, Any]]] = {
    row["model"]: (int(row["size"]), {"img_size": int(row["size"])} if row["img_size"] == "1" else {})
    for row in csv.DictReader((Path(__file__).parent / "files" / "families.csv").read_text().splitlines())
}
"""The smallest variant of each of timm's model modules but deepseek_vit_412m, which is too large; the smallest image that it takes."""
QUICK = (
    "test_resnet", "test_byobnet", "test_efficientnet", "starnet_s050", "test_convnext", "mobilenetv3_small_050",
    "test_mambaout", "fastvit_t8", "test_vit", "test_coatnet", "swiftformer_xs",
)  # fmt: skip
"""One of each kind; the others take minutes."""


@pytest.mark.parametrize("name", [name if name in QUICK else pytest.param(name, marks=pytest.mark.slow) for name in FAMILIES])
def test_a_slice_is_a_network_like_any_other(name: str, tmp_path: Path, exporter: None) -> None:
    size, arguments = FAMILIES[name]
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
    save_model(small, str(tmp_path / "weights.safetensors"))
    again = pas.slice(timm.create_model(name, num_classes=5, **arguments).eval(), signature, architecture)
    load_model(again, tmp_path / "weights.safetensors")
    assert torch.equal(run(again, x), run(small, x))
    plain = pas.fuse(small)
    onnx.export(plain, x, tmp_path / "small.onnx")
    assert onnx.max_error(plain, tmp_path / "small.onnx", x[:3]) < 1e-4
