"""Published networks as names of timm: `timm.create_model("pas_vgg_s", pretrained=True)`, also with a tag, and any bundle by its folder,
`timm.create_model("local-dir:FOLDER", pretrained=True)`.

An arch of timm is one structure with weights by tag; here each tag has widths of its own, which its bundle tells. Called when timm is
imported, so everything heavy is imported by the functions that need it.
"""

from __future__ import annotations

import warnings
from collections import deque
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from timm.models import DefaultCfg, PretrainedCfg, build_model_with_cfg, is_model, register_model, resolve_pretrained_cfg
from torch import nn

from pas.disk import parse_json
from pas.errors import PasError
from pas.publish.names import published

WEIGHTS = "model.safetensors"
ANY = "pas_network"
"""The arch of every bundle's config.json, whose network is what its folder says."""

TOLD = ("input_size", "fixed_input_size", "num_classes", "mean", "std", "interpolation", "crop_pct", "first_conv", "classifier")
"""What of a config.json is believed; where weights come from isn't said by it."""

default_cfgs: dict[str, DefaultCfg] = {}  # where timm's `register_model` looks
_folders: dict[str, dict[str, Path]] = {}


def register() -> None:
    """Make every published network a name of timm, with its tags; again, after PAS_MODELS has changed. Names that timm has stay timm's."""
    if not is_model(ANY):
        register_model(pas_network)
    found: dict[str, dict[str, Path]] = {}
    for name, folder in published().items():
        arch, _, tag = name.partition(".")
        found.setdefault(arch, {})[tag] = folder
    for arch, tags in found.items():
        if _folders.get(arch) == tags or taken(arch):
            continue
        cfgs = {tag: cfg for tag, folder in tags.items() if (cfg := _cfg(folder)) is not None}
        if not cfgs:
            continue
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # that an arch of ours is replaced by what lies there now
            default_cfgs[arch] = DefaultCfg(deque(cfgs), cfgs, is_pretrained=any(cfg.has_weights for cfg in cfgs.values()))
            register_model(_entry(arch))
        _folders[arch] = tags


def taken(arch: str) -> bool:
    """Whether timm knows another network by that name, which a published one can't have."""
    return is_model(arch) and arch not in _folders


def pas_network(pretrained: bool = False, **kwargs: Any) -> nn.Module:
    """The network of a bundle, by `local-dir:FOLDER` or `hf-hub:USER/NAME`. Raises PasError without one of these."""
    return _create(ANY, pretrained, **kwargs)


def _entry(arch: str) -> Callable[..., nn.Module]:
    """timm registers functions by their names."""

    def create(pretrained: bool = False, **kwargs: Any) -> nn.Module:
        return _create(arch, pretrained, **kwargs)

    create.__name__ = create.__qualname__ = arch
    create.__doc__ = f"A network that `pas` searched; {', '.join(filter(None, default_cfgs[arch].tags)) or 'without tags'}."
    return create


def _cfg(folder: Path) -> PretrainedCfg | None:
    """What timm is told of a bundle. One that can't be read is passed over: it may not keep anybody from importing timm."""
    try:
        found = parse_json((folder / "config.json").read_bytes())["pretrained_cfg"]
        weights = str(folder / WEIGHTS) if (folder / WEIGHTS).is_file() else None
        return PretrainedCfg(file=weights, **{field: found[field] for field in TOLD if field in found})
    except (OSError, ValueError, KeyError, TypeError) as error:
        warnings.warn(f"the published network in {folder} is passed over: {type(error).__name__}: {error}", stacklevel=2)
        return None


def _create(
    arch: str,
    pretrained: bool,
    *,
    pretrained_cfg: Any = None,
    pretrained_cfg_overlay: dict[str, Any] | None = None,
    cache_dir: str | Path | None = None,
    features_only: bool = False,
    **kwargs: Any,
) -> nn.Module:
    """What timm's own entry functions do, with the structure from a bundle. `kwargs`: of the dense network that it is cut from.

    Raises PasError when there is no bundle, it is damaged, or weights are to be fitted to images or classes that they aren't for.
    """
    from pas.publish import bundle, sealed

    if features_only or kwargs.get("num_classes") == 0:
        raise PasError(f"{arch}: features_only and num_classes=0 aren't for searched networks, whose widths timm doesn't know: use hooks")
    cfg = resolve_pretrained_cfg(arch, pretrained_cfg, pretrained_cfg_overlay)
    folder = _folder(arch, cfg, cache_dir)
    if pretrained:
        sealed.weights_of(folder)  # timm reads it without looking at digests
        for given, (name, own) in {
            "in_chans": (cfg.first_conv, cfg.input_size[0]),
            "num_classes": (cfg.classifier, cfg.num_classes),
        }.items():
            if name is None and kwargs.get(given, own) != own:
                raise PasError(f"{arch}: {given}={kwargs[given]}: its weights are for {own}, and can't be fitted: leave it out")
    return build_model_with_cfg(
        partial(bundle.structure, folder),
        arch,
        pretrained,
        pretrained_cfg=cfg.to_dict(),
        cache_dir=cache_dir,
        **kwargs,
    ).train()


def _folder(arch: str, cfg: PretrainedCfg, cache_dir: str | Path | None) -> Path:
    if arch in _folders:
        tags = _folders[arch]
        return tags.get(cfg.tag or "", next(iter(tags.values())))
    if cfg.source == "local-dir" and cfg.file:
        return Path(cfg.file)
    if cfg.source == "hf-hub" and cfg.hf_hub_id:
        from pas.publish.hub import snapshot

        return snapshot(cfg.hf_hub_id, cache_dir=cache_dir)
    raise PasError(f"{arch} is made from a bundle: timm.create_model('local-dir:FOLDER')")
