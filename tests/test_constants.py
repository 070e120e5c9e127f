"""Costs that were published, at 224 px in the fused form (multiply-adds, parameters with the 1000-class head)."""

from __future__ import annotations

import pytest
import timm
import torch

import pas

pytestmark = pytest.mark.no_cover  # counting lines would take a third of the time, and others run them too


def signature_of(name: str) -> pas.search.Signature:
    with torch.device("meta"):
        model = timm.create_model(name)
    return pas.signature(model, torch.zeros(1, 3, 224, 224, device="meta"))


@pytest.mark.parametrize(
    ("name", "gmacs", "mparams"),
    [
        ("repvgg_a0", 1.361, 8.31), ("repvgg_a1", 2.364, 12.79), ("repvgg_a2", 5.117, 25.50), ("repvgg_b0", 3.058, 14.34),
        ("repvgg_b1", 11.815, 51.83), ("repvgg_b1g4", 7.31, 36.13), ("repvgg_b2", 18.38, 80.32), ("repvgg_b2g4", 11.33, 55.78),
        ("repvgg_b3", 26.21, 110.96),
        ("repvgg_b3g4", 16.06, 75.63),
        ("mobileone_s0", 0.2751, 2.0785), ("mobileone_s1", 0.8251, 4.7648), ("mobileone_s4", 2.9793, 14.8384),
        ("mobilenetv2_100", 0.3008, 3.5049),
    ],
)  # fmt: skip
def test_published_costs(name: str, gmacs: float, mparams: float) -> None:
    signature = signature_of(name)
    dense = signature.dense()
    assert pas.cost.macs(signature, dense) / 1e9 == pytest.approx(gmacs, abs=0.5 * 10 ** -len(str(gmacs).split(".")[1]))
    assert pas.cost.params(signature, dense) / 1e6 == pytest.approx(mparams, abs=0.012 if mparams > 8 else 5e-5)


def test_repvgg_b1_and_the_searched_widths_of_pas() -> None:
    """28 fused 3x3 convolutions of 11.8134 G; the width list that the authors' code holds gives 2.102 G and 18.66 M."""
    signature = signature_of("repvgg_b1")
    assert len(signature.prunable) == 28
    head = 2048 * 1000
    assert (pas.cost.macs(signature, signature.dense()) - head) / 1e9 == pytest.approx(11.8134, abs=5e-5)
    widths = [
        8,
        20,
        16,
        15,
        10,
        49,
        41,
        36,
        34,
        39,
        31,
        125,
        107,
        102,
        97,
        106,
        123,
        127,
        170,
        196,
        202,
        232,
        269,
        315,
        425,
        475,
        450,
        2048,
    ]
    architecture = signature.dense()
    for axis, width in zip(signature.prunable, widths, strict=True):
        architecture = architecture.keep(axis.name, range(width))
    assert (pas.cost.macs(signature, architecture) - head) / 1e9 == pytest.approx(2.102, abs=5e-4)
    assert pas.cost.params(signature, architecture) / 1e6 == pytest.approx(18.66, abs=5e-3)
