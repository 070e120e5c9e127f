"""Fashion-MNIST, a RepVGG of 2.5 M MACs: every row of README.md's tables.

    python experiments/fashion_mnist_repvgg/run.py main        # test split, seeds 0, 1, 2
    python experiments/fashion_mnist_repvgg/run.py ablation    # validation split, seeds 10, 11: what was decided from
    python experiments/fashion_mnist_repvgg/run.py schedule    # the same for where the epochs go
    python experiments/fashion_mnist_repvgg/run.py scarcity    # the same for how fast the worth of further channels falls
    python experiments/fashion_mnist_repvgg/run.py early       # test split: `pas` that cuts after 8 epochs
    python experiments/fashion_mnist_repvgg/run.py scarce      # test split, a tenth of the MACs: where the width decides
    python experiments/fashion_mnist_repvgg/run.py scarce_schedule  # validation split: where the epochs go at a tenth

Two processes of one thread each; `--processes N` for more. Started again, it does what is missing and prints the table.
"""

from __future__ import annotations

import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent))

from table import Experiment, main  # noqa: E402

COMMON = ("experiment=fashion_mnist_repvgg",)
PAPER = ("experiment=[fashion_mnist_repvgg,pas_paper]", "train.finetune.epochs=11", "options.round_to=4")
"""Nine epochs of search, then the published steps of the learning rate; widths on the same grid as in all rows."""

SCRATCH = ("method=scratch", "method@method.source=uniform")
EARLY = ("train.dense.epochs=8", "train.finetune.epochs=28", "train.finetune.lr=0.1")
"""As many epochs in all, but most of them after the cut."""

MAIN = Experiment(
    folder=HERE,
    common=COMMON,
    rows={
        "pas": ("method=pas",),
        "pas_paper": PAPER,
        "uniform, from scratch": SCRATCH,
        "uniform, L1": ("method=uniform", "method.options.criterion=l1"),
        "one-shot Taylor": ("method=taylor",),
        "global magnitude": ("method=magnitude",),
        "pas's widths, random channels": ("method=random",),
        "pas's widths, from scratch": ("method=scratch",),
    },
    cells={"0.5": ("budget.macs=0.5",), "0.25": ("budget.macs=0.25",)},
    seeds=(0, 1, 2),
)

CUT_EARLY = Experiment(
    folder=HERE,
    common=COMMON,
    rows={"pas": MAIN.rows["pas"], "pas, cut early": (*MAIN.rows["pas"], *EARLY)},
    cells=MAIN.cells,
    seeds=MAIN.seeds,
)

SCARCE = Experiment(
    folder=HERE,
    common=COMMON,
    rows={row: MAIN.rows[row] for row in ("pas", "uniform, from scratch", "uniform, L1", "one-shot Taylor", "pas's widths, from scratch")},
    cells={"0.1": ("budget.macs=0.1",)},
    seeds=MAIN.seeds,
)

OURS = ("method=pas_paper", "method.options.decay=0", "method.options.both_sides=1", "method.options.normalise=1",
        "method.options.multiplier=0.01", "method.options.spread=0.25")  # fmt: skip
ABLATION = Experiment(
    folder=HERE / "ablation",
    common=(*COMMON, "data.split=val", "data.val_fraction=0.5"),
    rows={
        "pas": ("method=pas",),
        "pas, gates not learned": ("method=pas", "method.options.gate_lr=0"),
        "pas, stochastic gates": ("method=pas", "method.options.noise=0.1"),
        "constraint, both sides, normalised, no decay, by rank": OURS,
        "... equal initial values": (*OURS, "method.options.spread=0"),
        "... stochastic gates": (*OURS, "method.options.noise=0.05"),
        "... decay on gates": (*OURS, "method.options.decay=1"),
        "... raw cost gradient": (*OURS, "method.options.normalise=0"),
        "... raw cost gradient, to makers only": (*OURS, "method.options.normalise=0", "method.options.both_sides=0"),
        "... penalty of fixed strength": (*OURS, "method.options.multiplier=0"),
        "pas_paper's gates, pas's schedule": ("method=pas_paper",),
        "one-shot Taylor, cost counted anew": ("method=taylor", "method.options.recost=20"),
        "one-shot Taylor": ("method=taylor",),
        "uniform, L1": ("method=uniform", "method.options.criterion=l1"),
        "uniform, from scratch": SCRATCH,
    },
    cells={"0.25": ("budget.macs=0.25",)},
    seeds=(10, 11),
)

SCHEDULE = Experiment(
    folder=ABLATION.folder,  # some of its runs are the ablation's
    common=ABLATION.common,
    rows={
        "pas": ("method=pas",),
        "pas, search on the fine-tuning's schedule": (
            "method=pas", "train.search.lr=0.05", "train.finetune.lr=0.045", "train.finetune.warmup_epochs=0"
        ),
        "pas, 2 + 18 epochs": ("method=pas", "train.search.epochs=2", "train.finetune.epochs=18"),
        "pas, fine-tuning at 0.1": ("method=pas", "train.finetune.lr=0.1"),
        "pas, cut early": ("method=pas", *EARLY),
        "one-shot Taylor": ("method=taylor",),
        "one-shot Taylor, cut early": ("method=taylor", *EARLY),
        "uniform, from scratch": SCRATCH,
    },
    cells={"0.5": ("budget.macs=0.5",), "0.25": ("budget.macs=0.25",)},
    seeds=(10, 11),
)  # fmt: skip

SCARCITY = Experiment(
    folder=ABLATION.folder,
    common=ABLATION.common,
    rows={
        "pas": ("method=pas",),
        "pas, scarcity 2": ("method=pas", "method.options.scarcity=2"),
        "pas, scarcity 4": ("method=pas", "method.options.scarcity=4"),
        "uniform, L1": ABLATION.rows["uniform, L1"],
    },
    cells={"0.1": ("budget.macs=0.1",), "0.25": ("budget.macs=0.25",)},
    seeds=ABLATION.seeds,
)

SCARCE_SCHEDULE = Experiment(
    folder=ABLATION.folder,
    common=ABLATION.common,
    rows={
        "pas": ("method=pas",),
        "pas, cut early": ("method=pas", *EARLY),
        "uniform, L1": ABLATION.rows["uniform, L1"],
        "uniform, L1, cut early": (*ABLATION.rows["uniform, L1"], *EARLY),
        "uniform, from scratch": SCRATCH,
    },
    cells=SCARCE.cells,
    seeds=ABLATION.seeds,
)

if __name__ == "__main__":
    tables = {"main": MAIN, "ablation": ABLATION, "schedule": SCHEDULE, "scarcity": SCARCITY, "early": CUT_EARLY,
              "scarce": SCARCE, "scarce_schedule": SCARCE_SCHEDULE}  # fmt: skip
    main(__doc__, tables)
