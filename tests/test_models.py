"""Networks by name: shapes, costs, gradients, the shortcut as the exporter sees it, and what a typing error gets."""

from pathlib import Path

import pytest
import torch
from timm.utils.model import reparameterize_model
from torch.utils.flop_counter import FlopCounterMode

from pas import models
from pas.data import Augment, load, make_loader
from pas.errors import PasError
from pas.models import load_weights
from pas.models.cifar_resnet import ZeroPadShortcut
from pas.tasks.classification import evaluate

# name: parameters, MACs at 32 px and three channels; the ResNets' parameters are those of He et al., table 6
FUSED = {
    "cifar_resnet20": (269_722, 40_551_040),
    "cifar_resnet32": (464_154, 68_862_592),
    "cifar_resnet44": (658_586, 97_174_144),
    "cifar_resnet56": (853_018, 125_485_696),
    "cifar_resnet110": (1_727_962, 252_887_680),
    "repvgg_nano": (100_458, 2_912_896),
    "repvgg_micro": (186_474, 4_830_464),
    "repvgg_mini": (778_506, 21_457_408),
    # of the norm that stays, two numbers a channel, where the fused block has one: 304 channels more than repvgg_nano's
    "vgg_nano": (100_762, 2_912_896),
    "mobilenetv2_mini": (396_746, 12_162_560),
}


@pytest.mark.parametrize("name", FUSED)
def test_parameters_and_macs_of_the_fused_form(name: str) -> None:
    model = reparameterize_model(models.create(name, num_classes=10).eval())
    with FlopCounterMode(display=False) as counter:
        logits = model(torch.randn(1, 3, 32, 32))
    assert logits.shape == (1, 10)
    assert (sum(p.numel() for p in model.parameters()), counter.get_total_flops() // 2) == FUSED[name]


@pytest.mark.parametrize("name", ["cifar_resnet20", "repvgg_nano", "mobilenetv2_mini"])
def test_grey_images_in_double_precision_reach_every_parameter(name: str) -> None:
    model = models.create(name, num_classes=7, in_chans=1).double()
    logits = model(torch.randn(4, 1, 32, 32, dtype=torch.float64))
    assert logits.shape == (4, 7)
    assert logits.dtype == torch.float64
    logits.square().sum().backward()
    without = [name for name, p in model.named_parameters() if p.grad is None or not p.grad.any()]
    assert without == []


def test_shortcut_is_every_second_pixel_between_zero_channels() -> None:
    x = torch.randn(2, 16, 8, 8)
    out = ZeroPadShortcut(8)(x)
    assert out.shape == (2, 32, 4, 4)
    assert torch.equal(out[:, 8:24], x[:, :, ::2, ::2])
    assert not out[:, :8].any()
    assert not out[:, 24:].any()


def test_shortcut_exports_as_slices_and_one_constant_pad() -> None:
    program = torch.export.export(ZeroPadShortcut(8), (torch.randn(2, 16, 8, 8),))
    operators = [str(node.target) for node in program.graph.nodes if node.op == "call_function"]
    assert set(operators) == {"aten.slice.Tensor", "aten.constant_pad_nd.default"}


def test_names_hold_timm_and_ours() -> None:
    assert {"repvgg_a0", "repvgg_nano", "repvgg_mini"} <= set(models.names("repvgg_*"))
    assert len(models.names("cifar_resnet*")) == 5


def test_unknown_name_is_refused_with_near_ones() -> None:
    with pytest.raises(PasError, match=r"did you mean.*repvgg_a0"):
        models.create("repvg_a0", num_classes=10)
    with pytest.raises(PasError, match="no model is called 'qqq'"):
        models.create("qqq", num_classes=10)


def test_wrong_arguments_and_missing_weights_are_refused() -> None:
    with pytest.raises(PasError, match=r"model.args=\{'colour': 1\}"):
        models.create("repvgg_nano", num_classes=10, args={"colour": 1})
    with pytest.raises(PasError, match="no pretrained weights for repvgg_nano"):
        models.create("repvgg_nano", num_classes=10, pretrained=True)


def test_arguments_reach_timm() -> None:
    assert models.create("repvgg_nano", num_classes=10, args={"drop_rate": 0.3}).head.drop.p == 0.3


def test_entry_makes_a_persons_own_network(tmp_path, monkeypatch) -> None:
    (tmp_path / "own_nets.py").write_text(
        "from torch import nn\ndef make(width): return nn.Conv2d(3, width, 3)\ndef wrong(): return 3\n"
    )
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.path", [*__import__("sys").path])
    assert models.from_entry("own_nets:make", {"width": 5}).out_channels == 5
    for entry, message in {
        "own_nets.make": "should read package.module:function",
        "no_such_module:make": "No module named 'no_such_module'",
        "own_nets:absent": "has no function absent",
        "own_nets:wrong": "returned int",
    }.items():
        with pytest.raises(PasError, match=message):
            models.from_entry(entry, {})


def test_weights_of_another_network_or_none_are_refused(tmp_path) -> None:
    model = models.create("cifar_resnet20", num_classes=10)
    with pytest.raises(PasError, match="no weights at"):
        load_weights(model, tmp_path / "absent.th")
    other = models.create("cifar_resnet32", num_classes=10)
    torch.save({"state_dict": other.state_dict()}, tmp_path / "other.th")
    with pytest.raises(PasError, match="doesn't hold the weights"):
        load_weights(model, tmp_path / "other.th")
    (tmp_path / "text.th").write_text("not a checkpoint")
    with pytest.raises(PasError, match="doesn't hold the weights"):
        load_weights(model, tmp_path / "text.th")


@pytest.mark.slow
@pytest.mark.data
@pytest.mark.parametrize(
    ("name", "top1"), [("cifar_resnet20", 91.73), ("cifar_resnet32", 92.63), ("cifar_resnet44", 93.10), ("cifar_resnet56", 93.39)]
)
def test_weights_reach_their_published_accuracy(name: str, top1: float, data_root: Path) -> None:
    assert accuracy(name, data_root, 10_000) == pytest.approx(top1, abs=0.005)


@pytest.mark.data
def test_weights_come_near_their_published_accuracy(data_root: Path) -> None:
    """On every tenth image: three standard deviations of a thousand draws at 0.9173 are 2.6 points."""
    assert accuracy("cifar_resnet20", data_root, 1_000) == pytest.approx(91.73, abs=2.6)


def accuracy(name: str, data_root: Path, images: int) -> float:
    """Top-1 accuracy in percent of the shared weights on so many test images of CIFAR-10."""
    model = models.create(name, num_classes=10)
    load_weights(model, data_root / f"{name.removeprefix('cifar_')}.th")
    data = load("cifar10", root=data_root, val_fraction=0)
    off = Augment(crop_padding=0, flip=False, cutout=0)
    some = data.test.at(torch.arange(0, len(data.test), len(data.test) // images))
    loader = make_loader(data, some, batch_size=500, train=False, augment=off, seed=0, device="cpu", workers=0)
    return evaluate(model, loader, device="cpu", precision="fp32").top1
