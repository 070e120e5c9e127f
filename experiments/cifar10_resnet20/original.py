"""The rows of Torch-Pruning in the table of all methods: its importances and its pruners, on the same network, to the same MACs, with the
same recipe, images and seeds.

    pip install torch-pruning
    python experiments/cifar10_resnet20/original.py [--seeds 0 1 2] [--rows "Torch-Pruning, L2" ...]

It takes a share of channels, so the largest one that meets the budget is looked for by bisection. What it hands back is trained and
measured by the stages of `pas search`; results go to methods/beside/, where `pas compare experiment=cifar10_resnet20_methods
--table-only` finds them.

Of shortcuts that pad channels with zeros, Torch-Pruning 1.6.1 doesn't follow the shift: it cuts channel i of a stage together with
channel i of the next one, where the padding puts it at i + 8 (then i + 16). The network that comes back runs, but adds channels that
don't belong together.
"""

from __future__ import annotations

import argparse
import copy
import json
import time
from collections.abc import Callable
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path

import torch
import torch.nn.functional as F
import torch_pruning as tp
from rich.console import Console
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from pas import distributed
from pas.compose import compose
from pas.config import Config
from pas.data import load
from pas.environment import environment
from pas.recovery import Recovery
from pas.runs import open_folder
from pas.setting import Setting
from pas.stages import finetune
from pas.start import make
from pas.surgery.fuse import fuse
from pas.tracking import Tracker
from pas.train.recipe import Recipe

HERE = Path(__file__).resolve().parent
EXAMPLES = 128
Prune = Callable[[nn.Module, float, Setting], None]
"""Cuts a share of the channels out of a network."""


def by(importance: Callable[[], tp.importance.Importance], *, data: bool = False, pruner: type = tp.pruner.BasePruner) -> Prune:
    """Global pruning by one of Torch-Pruning's importances, with its defaults; `data`: whether that takes gradients."""

    def prune(network: nn.Module, share: float, setting: Setting) -> None:
        x = setting.example()
        classifier = [module for module in network.modules() if isinstance(module, nn.Linear)]
        made = pruner(network, x, importance=importance(), pruning_ratio=share, global_pruning=True, ignored_layers=classifier,
                      max_pruning_ratio=0.9)  # fmt: skip
        if data:
            images, labels = next(setting.examples(EXAMPLES))
            F.cross_entropy(network.eval()(images), labels).backward()
        made.step()
        network.zero_grad()

    return prune


ROWS: dict[str, Prune] = {
    "Torch-Pruning, L1": by(lambda: tp.importance.GroupMagnitudeImportance(p=1)),
    "Torch-Pruning, L2": by(lambda: tp.importance.GroupMagnitudeImportance(p=2)),
    "Torch-Pruning, norm scale": by(tp.importance.BNScaleImportance, pruner=tp.pruner.BNScalePruner),
    "Torch-Pruning, Taylor": by(tp.importance.GroupTaylorImportance, data=True),
    "Torch-Pruning, random": by(tp.importance.RandomImportance),
}


def macs(network: nn.Module, setting: Setting) -> int:
    """Multiply-adds of one image, by torch's own counter."""
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        network.eval()(setting.example())
    return counter.get_total_flops() // 2


def pruned(dense: nn.Module, prune: Prune, target: float, setting: Setting) -> nn.Module:
    """The largest network that costs no more than the target, by bisection of the share."""
    low, high, best = 0.0, 0.9, None
    for _ in range(12):
        share = (low + high) / 2
        network = copy.deepcopy(dense)
        torch.manual_seed(setting.config.seed)
        prune(network, share, setting)
        if macs(network, setting) <= target:
            high, best = share, network
        else:
            low = share
    assert best is not None
    return best


def run(row: str, seed: int) -> None:
    config: Config = compose(["experiment=cifar10_resnet20_methods", f"seed={seed}"])
    out = HERE / "methods" / "beside" / f"{''.join(c if c.isalnum() else '_' for c in row)}-s{seed}.json"
    if out.exists():
        return
    torch.set_num_threads(1)
    chosen = config.data
    data = load(chosen.name, root=chosen.root, image_size=chosen.image_size, val_fraction=chosen.val_fraction, subset=chosen.subset)
    with open_folder(Path(config.paths.runs) / f"original-{out.stem}") as folder:
        setting = Setting(config, Tracker(folder, None), data, distributed.device("cpu"), Console(stderr=True))
        dense = make(config, data)
        whole = macs(dense, setting)
        began = time.monotonic()
        small = pruned(dense, ROWS[row], float(config.budget.macs) * whole, setting).train()
        searched_for = time.monotonic() - began
        recovery = Recovery(setting)
        recovery.after_cut(small)
        train = config.train
        recipe = replace(Recipe(**{**vars(train.finetune), "milestones": tuple(train.finetune.milestones)}),
                         epochs=train.search.epochs + train.finetune.epochs)  # fmt: skip
        small, tuned_for = finetune(setting, small, recipe, dense, recovery.after_epoch)
        top1 = setting.top1(fuse(small), "fp32")
        counts = [sum(p.numel() for p in network.parameters()) for network in (dense, small)]
        result = {
            "row": row, "cell": "", "seed": seed, "run_key": f"torch-pruning-{version('torch-pruning')}-{out.stem}",
            "model": config.model.label, "data": config.data.name, "split": config.data.split,
            "budget": {"kind": "macs", "target": float(config.budget.macs) * whole, "achieved": macs(small, setting), "dense": whole},
            "dense": {"top1": setting.top1(fuse(dense), "fp32"), "macs": whole, "params": counts[0], "latency_ms": None},
            "searched": {"top1": top1, "macs": macs(small, setting), "params": counts[1], "latency_ms": None},
            "recovery": recovery.found, "seconds": {"prepare": 0.0, "search": searched_for, "finetune": tuned_for},
            "environment": environment("cpu"),
        }  # fmt: skip
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(json.dumps(result, indent=1) + "\n")
    share = result["searched"]["macs"] / whole
    print(f"{row}, seed {seed}: {recovery.found}, at the end {top1:.2f} % at {share:.1%} of the MACs", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--rows", nargs="+", default=list(ROWS), choices=list(ROWS))
    options = parser.parse_args()
    for seed in options.seeds:
        for row in options.rows:
            run(row, seed)


if __name__ == "__main__":
    main()
