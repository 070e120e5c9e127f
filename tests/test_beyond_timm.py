"""Networks that aren't timm's: torchvision's with several outputs, a U-Net, a CycleGAN generator, Hugging Face's made from configs."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from networks import halves, holds, randomise
from torch import Tensor, nn
from torchvision import models
from torchvision.models.detection.backbone_utils import resnet_fpn_backbone

import pas


class UNet(nn.Module):
    """Down twice, up twice, with the earlier maps beside the later ones."""

    def __init__(self) -> None:
        super().__init__()
        self.down1, self.down2, self.bottom = self._block(3, 8), self._block(8, 12), self._block(12, 16)
        self.up2, self.side2 = nn.ConvTranspose2d(16, 12, 2, stride=2), self._block(24, 12)
        self.up1, self.side1, self.out = nn.ConvTranspose2d(12, 8, 2, stride=2), self._block(16, 8), nn.Conv2d(8, 2, 1)

    @staticmethod
    def _block(inputs: int, outputs: int) -> nn.Module:
        return nn.Sequential(nn.Conv2d(inputs, outputs, 3, padding=1), nn.BatchNorm2d(outputs), nn.ReLU(inplace=True))

    def forward(self, x: Tensor) -> Tensor:
        one = self.down1(x)
        two = self.down2(nn.functional.max_pool2d(one, 2))
        y = self.bottom(nn.functional.max_pool2d(two, 2))
        y = self.side2(torch.cat([two, self.up2(y)], 1))
        return self.out(self.side1(torch.cat([one, self.up1(y)], 1)))


class Generator(nn.Module):
    """CycleGAN's: reflection padding, instance norms, residual blocks, transposed convolutions."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.ReflectionPad2d(3), nn.Conv2d(3, 8, 7), nn.InstanceNorm2d(8), nn.ReLU(inplace=True))
        self.down = nn.Sequential(nn.Conv2d(8, 16, 3, stride=2, padding=1), nn.InstanceNorm2d(16), nn.ReLU(inplace=True))
        self.blocks = nn.ModuleList(
            nn.Sequential(nn.ReflectionPad2d(1), nn.Conv2d(16, 16, 3), nn.InstanceNorm2d(16), nn.ReLU(inplace=True),
                          nn.ReflectionPad2d(1), nn.Conv2d(16, 16, 3), nn.InstanceNorm2d(16)) for _ in range(2)
        )  # fmt: skip
        self.up = nn.Sequential(nn.ConvTranspose2d(16, 8, 3, stride=2, padding=1, output_padding=1), nn.InstanceNorm2d(8), nn.ReLU(True))
        self.out = nn.Sequential(nn.ReflectionPad2d(3), nn.Conv2d(8, 3, 7), nn.Tanh())

    def forward(self, x: Tensor) -> Tensor:
        x = self.down(self.stem(x))
        for block in self.blocks:
            x = x + block(x)
        return self.out(self.up(x))


def lively(model: nn.Module, size: int) -> tuple[nn.Module, tuple[Tensor, ...]]:
    """In fp64 and eval mode, with norms that matter and no weights of zeros (torchvision's ViT has a head of them); and two images."""
    torch.manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() > 1 and not parameter.any():
                parameter.normal_(0, 0.1)
    images = torch.randn(8, 3, size, size, dtype=torch.float64)
    randomise(model.double(), images, torch.Generator().manual_seed(0))
    return model.eval(), (images[:2],)


NETWORKS: dict[str, tuple[Callable[[], nn.Module], int]] = {
    "U-Net": (UNet, 16),
    "CycleGAN": (Generator, 16),
    "shufflenet_v2_x0_5": (lambda: models.shufflenet_v2_x0_5(num_classes=10), 64),
    "lraspp_mobilenet_v3_large": (lambda: models.segmentation.lraspp_mobilenet_v3_large(weights=None, weights_backbone=None), 64),
    "feature pyramid of Mask R-CNN": (lambda: resnet_fpn_backbone(backbone_name="resnet18", weights=None), 64),
}
SLOW: dict[str, tuple[Callable[[], nn.Module], int]] = {
    "deeplabv3_resnet50": (lambda: models.segmentation.deeplabv3_resnet50(weights=None, weights_backbone=None), 64),
    "swin_t": (lambda: models.swin_t(num_classes=10), 64),
    "vit_b_16": (lambda: models.vit_b_16(num_classes=10, image_size=32), 32),
    "googlenet": (lambda: models.googlenet(num_classes=10, init_weights=False, aux_logits=False), 64),
    "squeezenet1_1": (lambda: models.squeezenet1_1(num_classes=10), 64),
}


@pytest.mark.parametrize("name", [*NETWORKS, *(pytest.param(name, marks=pytest.mark.slow) for name in SLOW)])
def test_masked_is_sliced(name: str) -> None:
    make, size = (NETWORKS | SLOW)[name]
    holds(*lively(make(), size), 1e-10, dead=0.25)


def test_names_of_several_outputs_stay() -> None:
    """A feature pyramid returns a dictionary; its slice, which comes back as a graph or not, returns one with the same names and sizes."""
    model, (x,) = lively(resnet_fpn_backbone(backbone_name="resnet18", weights=None), 64)
    signature = pas.signature(model, x)
    small = pas.slice(model, signature, signature.dense().keep("body.layer1.0.conv1", range(20)))
    before, after = model(x), small(x)
    assert list(before) == list(after)
    assert [value.shape for value in before.values()] == [value.shape for value in after.values()]


class Dense(nn.Module):
    """What of a RetinaNet is a function of images alone: features, and the logits and boxes at every place of these."""

    def __init__(self, detector: models.detection.RetinaNet) -> None:
        super().__init__()
        self.backbone, self.head = detector.backbone, detector.head

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        return self.head(list(self.backbone(images).values()))


@pytest.mark.slow
def test_a_detector_is_cut_without_what_picks_its_boxes() -> None:
    """Heads that are shared by all levels of the pyramid; anchors, matching and suppression depend on the data, and stay as they are."""
    torch.manual_seed(0)
    detector = models.detection.RetinaNet(resnet_fpn_backbone(backbone_name="resnet18", weights=None), num_classes=4)
    dense, (x,) = lively(Dense(detector), 64)
    signature = holds(dense, (x,), 1e-10, dead=0.25)
    half = halves(signature, np.random.default_rng(0))
    assert pas.cost.macs(signature, half) < 0.3 * pas.cost.macs(signature, signature.dense())
    small = pas.slice(dense, signature, half)
    detector.backbone, detector.head = small.backbone, small.head
    found = detector.float().eval()([torch.rand(3, 64, 64)])
    assert set(found[0]) == {"boxes", "scores", "labels"}


def test_squeezenet_keeps_its_classes() -> None:
    """Its classifier is a convolution: the classes are an output, however they are pooled."""
    signature = pas.signature(models.squeezenet1_1(num_classes=10), torch.randn(1, 3, 64, 64))
    assert signature.axis("classifier.1").frozen == "it is an output of the network"


def encoder() -> tuple[nn.Module, dict[str, Tensor]]:
    transformers = pytest.importorskip("transformers", reason="needs transformers: pip install -e '.[peers]'")
    config = transformers.BertConfig(
        vocab_size=50, hidden_size=24, num_hidden_layers=2, num_attention_heads=3, intermediate_size=40, max_position_embeddings=16
    )
    ids = torch.randint(50, (2, 7))
    return transformers.BertModel(config), {"input_ids": ids, "attention_mask": torch.ones_like(ids)}


def decoder() -> tuple[nn.Module, dict[str, Tensor]]:
    transformers = pytest.importorskip("transformers", reason="needs transformers: pip install -e '.[peers]'")
    config = transformers.GPT2Config(vocab_size=50, n_positions=16, n_embd=24, n_layer=2, n_head=3, use_cache=False)
    return transformers.GPT2LMHeadModel(config), {"input_ids": torch.randint(50, (2, 7))}


@pytest.mark.parametrize("make", [encoder, decoder])
def test_hugging_face(make: Callable[[], tuple[nn.Module, dict[str, Tensor]]]) -> None:
    """Two layers: in each the heads, their size (one for queries and keys, one for values where these are apart) and the MLP's width."""
    torch.manual_seed(0)
    model, example = make()
    signature = holds(model.double().eval(), example, 1e-10)
    inner = [axis.size for axis in signature.prunable if axis.size in (40, 96)]
    assert len(inner) == 2
    assert sum(axis.size == 8 for axis in signature.prunable) >= 2
    assert sum(axis.size == 3 for axis in signature.prunable) >= 2
