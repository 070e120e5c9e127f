"""ResNet-20/32/44/56/110 for CIFAR with option-A shortcuts (He et al., arXiv 1512.03385, section 4.2).

The names of modules and parameters follow github.com/akamaster/pytorch_resnet_cifar10, so that its public
checkpoints load as they are. Published top-1 on CIFAR-10 in percent: 91.73, 92.63, 93.10, 93.39 (20 to 56).
"""

from typing import Any

import torch
import torch.nn.functional as F
from timm.models import build_model_with_cfg, generate_default_cfgs, register_model
from torch import Tensor, nn

IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


class ZeroPadShortcut(nn.Module):
    """Option A: every second pixel, and zero channels on both sides. (N, C, H, W) -> (N, C + 2 * padding, H/2, W/2)."""

    def __init__(self, padding: int) -> None:
        super().__init__()
        self.padding = padding

    def forward(self, x: Tensor) -> Tensor:
        return torch.constant_pad_nd(x[:, :, ::2, ::2], (0, 0, 0, 0, self.padding, self.padding), 0.0)


class BasicBlock(nn.Module):
    """relu(x + bn(conv(relu(bn(conv(x)))))), two 3x3 convolutions. The stride is the first one's."""

    def __init__(self, in_chans: int, out_chans: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(in_chans, out_chans, 3, stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(out_chans)
        self.conv2 = nn.Conv2d(out_chans, out_chans, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(out_chans)
        self.shortcut = nn.Identity() if stride == 1 else ZeroPadShortcut((out_chans - in_chans) // 2)

    def forward(self, x: Tensor) -> Tensor:
        out = F.relu(self.bn1(self.conv1(x)))
        return F.relu(self.bn2(self.conv2(out)) + self.shortcut(x))


class CifarResNet(nn.Module):
    """Three stages of `blocks` basic blocks, 16, 32 and 64 channels wide. (N, in_chans, H, W) -> (N, num_classes)."""

    def __init__(self, blocks: int, num_classes: int = 10, in_chans: int = 3) -> None:
        super().__init__()
        self.num_classes = num_classes
        self.conv1 = nn.Conv2d(in_chans, 16, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(16)
        self.layer1 = _stage(16, 16, blocks, stride=1)
        self.layer2 = _stage(16, 32, blocks, stride=2)
        self.layer3 = _stage(32, 64, blocks, stride=2)
        self.linear = nn.Linear(64, num_classes)
        for module in self.modules():
            if isinstance(module, nn.Conv2d | nn.Linear):
                nn.init.kaiming_normal_(module.weight)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.bn1(self.conv1(x)))
        x = self.layer3(self.layer2(self.layer1(x)))
        return self.linear(x.mean((2, 3)))


def _stage(in_chans: int, out_chans: int, blocks: int, stride: int) -> nn.Sequential:
    first = BasicBlock(in_chans, out_chans, stride)
    return nn.Sequential(first, *(BasicBlock(out_chans, out_chans, stride=1) for _ in range(blocks - 1)))


def _create(variant: str, blocks: int, pretrained: bool, **kwargs: Any) -> CifarResNet:
    return build_model_with_cfg(CifarResNet, variant, pretrained, blocks=blocks, **kwargs)


default_cfgs = generate_default_cfgs({
    f"cifar_resnet{depth}": {
        "num_classes": 10, "input_size": (3, 32, 32), "pool_size": (8, 8), "crop_pct": 1.0,
        "mean": IMAGENET_MEAN, "std": IMAGENET_STD, "first_conv": "conv1", "classifier": "linear",
    } for depth in (20, 32, 44, 56, 110)
})  # fmt: skip


@register_model
def cifar_resnet20(pretrained: bool = False, **kwargs: Any) -> CifarResNet:
    """0.27 M parameters, 40.6 M MACs at 32 px."""
    return _create("cifar_resnet20", 3, pretrained, **kwargs)


@register_model
def cifar_resnet32(pretrained: bool = False, **kwargs: Any) -> CifarResNet:
    """0.46 M parameters, 68.9 M MACs at 32 px."""
    return _create("cifar_resnet32", 5, pretrained, **kwargs)


@register_model
def cifar_resnet44(pretrained: bool = False, **kwargs: Any) -> CifarResNet:
    """0.66 M parameters, 97.2 M MACs at 32 px."""
    return _create("cifar_resnet44", 7, pretrained, **kwargs)


@register_model
def cifar_resnet56(pretrained: bool = False, **kwargs: Any) -> CifarResNet:
    """0.85 M parameters, 125.5 M MACs at 32 px."""
    return _create("cifar_resnet56", 9, pretrained, **kwargs)


@register_model
def cifar_resnet110(pretrained: bool = False, **kwargs: Any) -> CifarResNet:
    """1.73 M parameters, 252.9 M MACs at 32 px."""
    return _create("cifar_resnet110", 18, pretrained, **kwargs)
