"""CIFAR-10, a MobileNetV2 of 3 M MACs at 16 px: `pas` against `uniform` at half the MACs.

    python experiments/cifar10_mobilenetv2/run.py        # test split, seeds 0, 1, 2

Two processes of one thread each; `--processes N` for more. Started again, it does what is missing and prints the table.
"""

from __future__ import annotations

import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent))

from table import Experiment, main  # noqa: E402

MAIN = Experiment(
    folder=HERE,
    common=("experiment=cifar10_mobilenetv2",),
    rows={"pas": ("method=pas",), "uniform": ("method=uniform",)},
    cells={"0.5": ("budget.macs=0.5",)},
    seeds=(0, 1, 2),
)

if __name__ == "__main__":
    main(__doc__, {"main": MAIN})
