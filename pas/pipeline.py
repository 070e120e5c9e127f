"""The main job: prepare -> search -> slice -> fine-tune -> fuse -> evaluate -> bundle.

Fine-tuning runs on the sliced network in its training form, so that a re-parameterised block keeps its branches and
norms while the weights settle; fusing comes after it.
"""

from __future__ import annotations

import copy
import time
from collections.abc import Callable
from typing import Any

import torch
from rich.console import Console
from timm.utils import random_seed
from torch import Tensor, nn

from pas import distributed, onnx
from pas.architecture import Architecture
from pas.axes.capture import forget
from pas.config import Config
from pas.cost.measure import Latency, latency
from pas.data import Data, load
from pas.data.loader import stable_seed
from pas.errors import PasError
from pas.exactness import relative_error
from pas.keys import run_key, source_of
from pas.onnx_read.skeleton import skeleton
from pas.outcome import outcome
from pas.plan import Plan, plan, stand_in
from pas.publish import bundle, sealed
from pas.publish.backbone import Backbone
from pas.publish.card import card
from pas.publish.names import located
from pas.recovery import Recovery
from pas.report import figures
from pas.result import read_result
from pas.runs import Run, open_run, run_folder
from pas.search import Search
from pas.setting import Setting
from pas.stages import dense_epochs, find, finetune, last_recipe, prepare
from pas.start import conditions, make, refuse_early
from pas.surgery.fuse import fuse
from pas.surgery.mask import mask
from pas.surgery.slice import slice
from pas.tracking import Tracker, track


def run(config: Config, console: Console | None = None, *, wait: Callable[[str], None] | None = None) -> dict[str, Any]:
    """Run, or resume, or show what is finished: the content of the run's `result.json`.

    `wait`: takes a line that says whom it waits for while another process holds the run; without it that is refused.

    In a process group all processes call it and get the same; they train and evaluate together, the leader does the rest.

    Raises PasError when data, weights or a model can't be had, the budget can't be met, the loss is not finite, or
    another process holds the run.
    """
    with open_run(config, wait) as this:
        done = distributed.from_leader(this.finished)
        if done is not None:
            return done
        start = _start(config, console)
        with distributed.together():
            data = _data(config)
            device = distributed.device(config.hardware.device)
        with track(this, config) as tracker:
            return _steps(Setting(config, tracker, data, device, console or Console(stderr=True)), start)


def rehearse(config: Config) -> Plan:
    """What `run` would do, from a few steps of each stage; nothing is written. Raises PasError for what `run` refuses."""
    setting, source = _nowhere(config), source_of(config)
    if source is not None and read_result(run_folder(source)) is None:
        return plan(setting, None, first=rehearse(source))
    return plan(setting, _start(config, None))


def refuse(config: Config) -> None:
    """Raise PasError for what `run` would refuse before its first step; nothing is trained, measured or written (but a latency table in the
    cache, where latency is limited).
    """
    setting, source = _nowhere(config), source_of(config)
    network = make(config, setting.data)
    if source is not None and read_result(run_folder(source)) is None:
        refuse(source)
        refuse_early(setting, network, stand_in(setting, network))
    else:
        refuse_early(setting, network, _start(config, None))


def _nowhere(config: Config) -> Setting:
    """A setting that writes nothing and is silent."""
    tracker = Tracker(Run(run_folder(config), run_key(config), None), None)
    return Setting(config, tracker, _data(config), distributed.device(config.hardware.device), Console(quiet=True))


def _data(config: Config) -> Data:
    """The data, read with as many threads as the run has."""
    if config.hardware.threads:
        torch.set_num_threads(config.hardware.threads)
    chosen = config.data
    data = load(
        chosen.name,
        root=chosen.root,
        image_size=chosen.image_size,
        val_fraction=chosen.val_fraction,
        subset=chosen.subset,
    )
    if not len(getattr(data, chosen.split)):
        raise PasError(f"data.split={chosen.split} has no image: raise data.val_fraction={chosen.val_fraction}")
    return data


def _start(config: Config, console: Console | None) -> Architecture | None:
    """The architecture that the search starts from: of a file, or of another method's run, which is made first if need be."""
    source, file = source_of(config), config.options.start
    if source is not None:
        file = str(run_folder(source))
        if distributed.from_leader(lambda: read_result(run_folder(source))) is None:
            say = console or Console(stderr=True)
            run(source, console, wait=lambda line: say.print(line, markup=False, highlight=False, soft_wrap=True))
    return None if file is None else sealed.architecture_of(located(file))


def _steps(setting: Setting, start: Architecture | None) -> dict[str, Any]:
    config, this = setting.config, setting.tracker.run
    parent = prepare(setting, start)
    search, searched_for = find(setting, parent.network, start)
    measured_for = _verify(setting, search)
    architecture = search.architecture
    distributed.agree(architecture.to_json(), "the processes came to different widths: run on machines of one kind")
    with distributed.together():  # the leader alone writes, and may find a full disk
        this.write_text("architecture.json", architecture.to_json())
    backbone = search.settled() if search.method.inherits else _fresh(setting)
    small = slice(backbone, search.current, search.remaining)
    masked = mask(backbone, search.current, search.remaining)
    images = _images(setting)
    exactness = {"mask_slice": _error(masked, small, images)}
    recipe, recovery = last_recipe(config, search), Recovery(setting)
    if search.method.inherits:
        setting.say("measuring the cut network")
        recovery.after_cut(small)
    small, tuned_for = finetune(setting, small, recipe, parent.network, recovery.after_epoch)
    wide = forget(copy.deepcopy(small)).cpu().double()
    exactness["slice_fuse"] = _error(wide, fuse(wide), images)
    plain = _as_reloaded(fuse(small))
    top1 = setting.top1(plain, config.train.finetune.precision) if recipe.epochs else recovery.found["cut"]
    assert top1 is not None  # it was just measured: only a network with weights of its own has no cut, and that is trained
    plain.cpu().eval()
    seconds = {"prepare": parent.seconds, "search": searched_for, "finetune": tuned_for}

    def conclude() -> dict[str, Any]:
        setting.say("measuring latencies, writing the bundle")
        began = time.monotonic()
        times = _latencies(setting, fuse(parent.network).cpu(), plain)
        seconds["measure"] = measured_for + time.monotonic() - began
        result = outcome(setting, search, architecture, parent, top1, times, seconds)
        searched = config.train.search.epochs if search.method.learns else 0
        result["epochs"] = {"dense": dense_epochs(config), "search": searched, "finetune": recipe.epochs}
        result["recovery"] = recovery.found
        result["exactness"] = {**exactness, "fuse_onnx": None}
        _publish(setting, plain, architecture, images, result)
        figures.widths_of(architecture, this.figures / "widths.png", title=this.key)
        this.write_json("result.json", result)
        setting.tracker.finish(result)
        return result

    return distributed.from_leader(conclude)


def _verify(setting: Setting, search: Search) -> float:
    """Where latency is limited, measure it and settle the widths, once: a resumed run takes what was found before. The seconds of it."""
    if search.timing is None:
        return 0.0
    this = setting.tracker.run
    before = distributed.from_leader(lambda: this.read_json("latency.json"))
    if before is not None:
        search.recall(before)
        return float(before.get("seconds", 0.0))  # files of earlier versions don't say
    setting.say("measuring the searched network beside the dense one")
    began = time.monotonic()
    search.verify()
    seconds = time.monotonic() - began
    found = search.record()
    assert found is not None
    with distributed.together():
        this.write_json("latency.json", {**found, "seconds": seconds})
    return seconds


def _as_reloaded(network: nn.Module) -> nn.Module:
    """The network with its tensors laid out in memory as a fresh one's: the layout decides the order in which convolutions sum.

    `contiguous` would not do: weights of depth-wise and point-wise convolutions count as contiguous in either layout.
    """
    for tensor in (*network.parameters(), *network.buffers()):
        tensor.data = torch.empty(tensor.shape, dtype=tensor.dtype, device=tensor.device).copy_(tensor.data)
    return network


def _fresh(setting: Setting) -> nn.Module:
    """The dense network with other weights than the parent started from, among which channels were chosen."""
    random_seed(stable_seed(setting.config.seed, 1) % 2**32)
    return make(setting.config, setting.data, fresh=True).to(setting.device)


def _publish(
    setting: Setting, plain: nn.Module, architecture: Architecture, images: Tensor, result: dict[str, Any]
) -> None:
    """Write the bundle, read it back, and complete the result's exactness."""
    config, data, this = setting.config, setting.data, setting.tracker.run
    backbone = Backbone(result["model"], dict(config.model.args), data.num_classes, data.channels, data.image_size)
    about = {name: result[name] for name in ("run_key", "data", "method", "seed", "budget", "dense", "searched")}
    text = card(result, backbone)
    graph = None if config.model.path is None else skeleton(config.model.path)
    bundle.save(this.bundle, plain, backbone, architecture, mean=data.mean, std=data.std, about=about, card=text, graph=graph)
    result["exactness"]["fuse_onnx"] = onnx.max_error(plain, this.bundle / "model.onnx", images)
    if config.model.entry is None and not _equal(bundle.load(this.bundle), plain, images):
        raise PasError(
            f"{this.bundle} does not give back the searched network bit for bit: please report {this.folder}"
        )


def _latencies(setting: Setting, dense: nn.Module, plain: nn.Module) -> dict[str, Latency]:
    """Both fused networks by turns in one process. At the end of a run nothing is refused: how noisy it was is written down."""
    cost, networks = setting.config.cost, {"dense": dense, "searched": plain}
    return latency(networks, setting.example(), conditions(setting), repeats=cost.repeats, warmup=cost.warmup, spread=None)


def _images(setting: Setting) -> Tensor:
    """A few test images on the CPU, for equality checks."""
    x, _ = next(iter(setting.loader("test", 8, train=False, shared=False).epoch(0)))
    return x.float().cpu()


def _error(one: nn.Module, other: nn.Module, images: Tensor) -> float:
    """max |a - b| / max |a| of two networks in eval mode and fp64."""
    with torch.no_grad():
        a, b = (forget(copy.deepcopy(network)).cpu().double().eval()(images.double()) for network in (one, other))
    return relative_error(a, b)


def _equal(one: nn.Module, other: nn.Module, images: Tensor) -> bool:
    with torch.no_grad():
        return torch.equal(one(images), other(images))
