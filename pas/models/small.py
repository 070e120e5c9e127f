"""Small networks for small images, made of timm's own blocks and registered with timm.

RepVGG (Ding et al., arXiv 2101.03697) as a table of depths, widths and strides, one of them (and RepVGG-B1, for ImageNet)
without branches, and a MobileNetV2 (Sandler et al., arXiv 1801.04381). The stem halves the image; all widths are multiples of
eight, as ByobNet wants.
"""

from dataclasses import dataclass, replace
from typing import Any

from timm.models import build_model_with_cfg, generate_default_cfgs, register_model
from timm.models._efficientnet_builder import decode_arch_def
from timm.models.byobnet import ByoBlockCfg, ByobNet, ByoModelCfg, LayerFn, model_cfgs, register_block
from timm.models.efficientnet import EfficientNet
from torch import nn

IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


@dataclass(frozen=True)
class RepVggTable:
    """One row a stage: how many blocks, how wide, and the stride of the first."""

    stem: int
    depths: tuple[int, ...]
    widths: tuple[int, ...]
    strides: tuple[int, ...]

    def config(self) -> ByoModelCfg:
        stages = zip(self.depths, self.widths, self.strides, strict=True)
        blocks = tuple(ByoBlockCfg(type="rep", d=depth, c=width, s=stride) for depth, width, stride in stages)
        return ByoModelCfg(blocks=blocks, stem_type="rep", stem_chs=self.stem)


#                               stem  depths        widths              strides
REPVGG = {
    "repvgg_nano": RepVggTable(16, (1, 2, 3, 1), (16, 32, 48, 64), (1, 2, 2, 1)),
    "repvgg_micro": RepVggTable(16, (2, 2, 3, 1), (16, 32, 64, 128), (1, 2, 2, 1)),
    "repvgg_mini": RepVggTable(32, (2, 3, 3, 1), (32, 64, 128, 256), (1, 2, 2, 1)),
}

PLAIN = "plain"
"""A block that is trained as it is deployed: one convolution, its norm, ReLU."""

#                 type_repeats_kernel_stride_expansion_channels, one row a stage
MOBILENETV2_MINI = [
    ["ds_r1_k3_s1_c16"],
    ["ir_r2_k3_s1_e6_c24"],
    ["ir_r3_k3_s2_e6_c32"],
    ["ir_r3_k3_s2_e6_c64"],
    ["ir_r2_k3_s1_e6_c96"],
]


def _cfg(first_conv: str | tuple[str, ...], classifier: str) -> dict[str, Any]:
    return {
        "num_classes": 10, "input_size": (3, 32, 32), "pool_size": (4, 4), "crop_pct": 1.0,
        "mean": IMAGENET_MEAN, "std": IMAGENET_STD, "first_conv": first_conv, "classifier": classifier,
    }  # fmt: skip


default_cfgs = generate_default_cfgs(
    {
        **{name: _cfg(("stem.conv_kxk.conv", "stem.conv_1x1.conv"), "head.fc") for name in REPVGG},
        "vgg_nano": _cfg("stem.conv", "head.fc"),
        "vgg_b1": {
            **_cfg("stem.conv", "head.fc"), "num_classes": 1000, "input_size": (3, 224, 224), "pool_size": (7, 7), "crop_pct": 0.875,
        },
        "mobilenetv2_mini": _cfg("conv_stem", "classifier"),
    }
)


def _repvgg(variant: str, pretrained: bool, **kwargs: Any) -> ByobNet:
    model = build_model_with_cfg(ByobNet, variant, pretrained, model_cfg=REPVGG[variant].config(), **kwargs)
    # timm starts these norms at about 0.1, which suits deep networks and long trainings; ones learn in a tenth of it
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.reset_parameters()
    return model


@register_model
def repvgg_nano(pretrained: bool = False, **kwargs: Any) -> ByobNet:
    """Eight blocks, 2.9 M MACs at 32 px fused: trains on the digits in seconds."""
    return _repvgg("repvgg_nano", pretrained, **kwargs)


@register_model
def repvgg_micro(pretrained: bool = False, **kwargs: Any) -> ByobNet:
    """Nine blocks, 4.8 M MACs at 32 px fused."""
    return _repvgg("repvgg_micro", pretrained, **kwargs)


@register_model
def repvgg_mini(pretrained: bool = False, **kwargs: Any) -> ByobNet:
    """Ten blocks, 21 M MACs at 32 px fused."""
    return _repvgg("repvgg_mini", pretrained, **kwargs)


def _plain_block(in_chs: int, out_chs: int, stride: int, layers: LayerFn, **_: Any) -> nn.Module:
    return layers.conv_norm_act(in_chs, out_chs, 3, stride=stride)


register_block(PLAIN, _plain_block)  # type: ignore[arg-type] # timm's hint says a module, and means what makes one


def _without_branches(variant: str, pretrained: bool, config: ByoModelCfg, **kwargs: Any) -> ByobNet:
    """A RepVGG whose blocks and stem have their 3x3 convolution alone, with one norm."""
    blocks = []
    for block in config.blocks:
        assert isinstance(block, ByoBlockCfg)  # stages of several kinds of blocks are tuples
        blocks.append(replace(block, type=PLAIN))
    plain = replace(config, blocks=tuple(blocks), stem_type="", stem_pool="")
    return build_model_with_cfg(ByobNet, variant, pretrained, model_cfg=plain, **kwargs)


@register_model
def vgg_nano(pretrained: bool = False, **kwargs: Any) -> ByobNet:
    """`repvgg_nano` without the branches that re-parameterisation merges: as deep, wide and costly when deployed."""
    return _without_branches("vgg_nano", pretrained, REPVGG["repvgg_nano"].config(), **kwargs)


@register_model
def vgg_b1(pretrained: bool = False, **kwargs: Any) -> ByobNet:
    """RepVGG-B1 without branches: 11.8 G MACs at 224 px."""
    return _without_branches("vgg_b1", pretrained, model_cfgs["repvgg_b1"], **kwargs)


@register_model
def mobilenetv2_mini(pretrained: bool = False, **kwargs: Any) -> EfficientNet:
    """Eleven inverted residuals at 16, 8 and 4 px for an image of 32, 12 M MACs."""
    return build_model_with_cfg(
        EfficientNet,
        "mobilenetv2_mini",
        pretrained,
        block_args=decode_arch_def(MOBILENETV2_MINI),
        stem_size=16,
        num_features=256,
        act_layer=nn.ReLU6,
        norm_layer=nn.BatchNorm2d,
        **kwargs,
    )
