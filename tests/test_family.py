"""The searched family that comes with the package."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import timm
import torch
from networks import run
from torch import nn

import pas
from pas.publish import sealed
from pas.publish.evaluate import evaluate
from pas.publish.names import FAMILY, published
from pas.publish.plain import plain

MEMBERS = [f"pas_vgg_{size}.e48_cifar10" for size in "tsml"]
IMAGES = torch.randn(4, 3, 32, 32, generator=torch.Generator().manual_seed(0))


def about(name: str) -> dict:
    return sealed.read_config(FAMILY / name)["pas"]


@pytest.mark.parametrize("name", MEMBERS)
def test_a_member_by_its_name(name: str) -> None:
    """One network by three ways: by `pas`, by timm, and by twenty lines of plain torch. A stack of 3x3 convolutions."""
    network = pas.load(name)
    wanted = run(network, IMAGES)
    assert torch.equal(run(timm.create_model(name, pretrained=True).eval(), IMAGES), wanted)
    assert torch.allclose(run(plain(published()[name]), IMAGES), wanted, atol=1e-5)
    convolutions = [layer for layer in network.modules() if isinstance(layer, nn.Conv2d)]
    assert {layer.kernel_size for layer in convolutions} == {(3, 3)}
    assert not any(isinstance(layer, nn.BatchNorm2d) for layer in network.modules())
    assert len(convolutions) == 10


def test_the_arch_alone_is_its_first_tag() -> None:
    assert torch.equal(run(pas.load("pas_vgg_s"), IMAGES), run(pas.load("pas_vgg_s.e48_cifar10"), IMAGES))
    assert set(MEMBERS) <= set(timm.list_models("pas_vgg_*", pretrained=True))


def test_larger_members_cost_more_and_know_more() -> None:
    found = [about(name)["searched"] for name in MEMBERS]
    for what in ("macs", "params", "latency_ms", "top1"):
        values = [one[what] for one in found]
        assert values == sorted(values), what


@pytest.mark.data
@pytest.mark.parametrize("name", MEMBERS)
def test_top1_is_what_the_card_says(name: str, data_root: Path) -> None:
    found = evaluate(name, "cifar10", str(data_root))
    assert found.top1 == pytest.approx(about(name)["searched"]["top1"], abs=0.02)  # two images: sums round otherwise on another CPU


def test_the_family_is_small() -> None:
    assert sum(file.stat().st_size for file in FAMILY.rglob("*")) < 10e6


@pytest.mark.parametrize("name", MEMBERS)
def test_cards_say_how_they_were_made(name: str) -> None:
    text, config = (FAMILY / name / "README.md").read_text(), json.loads((FAMILY / name / "config.json").read_text())
    for words in ("pas search model=repvgg_mini data=cifar10 ", "widths.png", "batch 1, onnxruntime, 1 thread,", "int8", "## Licence"):
        assert words in text
    assert config["pas"]["environment"]["commit"] in text
    assert f"| top-1, % | {config['pas']['int8']['fp32']:.2f} | {config['pas']['int8']['int8']:.2f} |" in text
    assert not config["pas"]["environment"]["dirty"]
