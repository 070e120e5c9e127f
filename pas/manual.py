"""What `pas search --help` and `pas compare --help` print: the verbs whose words are Hydra's."""

from __future__ import annotations

import textwrap
from pathlib import Path

SEARCH = """\
usage: pas search [-m] [GROUP=CHOICE ...] [KEY=VALUE ...]

Train (or take) a dense network, learn which channels to keep under a budget, slice, fine-tune, fuse, measure, and write
a bundle to runs/<run_key>. The same command again resumes an interrupted run, and shows a finished one at once.

without arguments: a small RepVGG on scikit-learn's digits, half the multiply-adds, about a minute

{groups}

  KEY=VALUE sets any value: budget.macs=0.3  seed=1  train.search.epochs=4  options.round_to=8
  budget=params budget.params="50 k"  sets parameters instead of MACs; with budget.macs beside it, both hold
  budget.latency="8 ms"  what a batch may take here (or a share of the dense latency), as measured on the exported
                  network, instead of MACs; cost.runtime, batch and threads say how. cost.table=FILE takes a table of
                  pas profile; without one it is made first
  -m, --multirun  a run for every combination of the values, one after the other; goes on after a failing one. Of
                  several budgets the front of accuracy against cost is drawn at the end
  Ctrl-C or SIGTERM saves the training at its next step and ends all of it (130 or 143); a second one ends at once
  dry_run=true    say what the run would do, its time and its memory, from a few real steps; write nothing
                  (but a latency table in the cache, where latency is limited)
  --cfg job       show the configuration instead of running it
  hydra/launcher=submitit_local   of a sweep: as many runs at a time as there are processors for, each in a process of
                  its own (hydra.launcher.cpus_per_task=2 for each; hydra.sweeper.max_batch_size=4 at a time)
  hydra/launcher=submitit_slurm   of a sweep: its runs as jobs of a cluster (hydra.launcher.partition=gpu and so on)
  --hydra-help    what else Hydra can do

examples:
  pas search budget.macs=0.3 seed=1
  pas search model=repvgg_a0 data=cifar10 budget.macs=0.5 dry_run=true
  pas search -m budget.macs=0.3,0.5,0.7 seed=0,1
  pas search -m hydra/launcher=submitit_local budget.macs=0.3,0.5,0.7 seed=0,1
  pas search model=repvgg_micro budget.latency=0.7 cost.batch=32
  pas search model=python model.entry=package.module:function data=fashion_mnist
  pas search model=onnx model.path=net.onnx data=fashion_mnist
"""
COMPARE = """\
usage: pas compare [--table-only] [GROUP=CHOICE ...] [KEY=VALUE ...]

Run methods under the same budget, recipe, order of images and epochs over several seeds, and print one table: top-1
(mean and standard deviation) right after the cut, with batch norms re-estimated, after one epoch of fine-tuning and at
the end; costs, the measured latency, the seconds spent, and the paired difference to the best baseline with its 95 %
interval and p. The dense parent is trained once per seed. What is finished is not run again.

{groups}

  method=A,B      the rows; or compare.rows of an experiment: labels with any settings. A row of your own, for the shell:
                  '+compare.rows.l1=["method=spa","method.options.criterion=group_l1"]'
  seed=0,1,2      the seeds (the default)
  KEY=V1,V2       of any other setting: a table for each value, such as budget.macs=0.3,0.5, and a figure over them
  compare.processes=2      runs at a time (1 shows its progress; several, of a thread each, write to a log)
  compare.folder=FOLDER    where the table (comparison.md, .csv, .png) and copies of the results go (default: a folder in
                  comparisons/, named by rows and cells, whatever the seeds); results in FOLDER/beside/*.json stand in it too
  compare.baselines=[A,B]  the rows of which the best one is what the others are held against (default: uniform and
                  magnitude, where they are rows)
  dry_run=true    say what one run of each row would take, and all that are missing
  --table-only    the table of what is there
  Ctrl-C or SIGTERM lets the runs save their state and ends all of it; a second one ends at once

examples:
  pas compare method=uniform,magnitude,pas budget.macs=0.3
  pas compare experiment=cifar10_resnet20_methods compare.processes=2
  pas compare "hydra.searchpath=[file://$PWD/conf]" experiment=NAME     an experiment of your own, conf/experiment/NAME.yaml
"""


def groups() -> str:
    """Every group of conf/ with its choices."""
    conf = Path(__file__).resolve().parent / "conf"
    lines = []
    for group in sorted(folder for folder in conf.iterdir() if folder.is_dir()):
        names = ", ".join(sorted(file.stem for file in group.glob("*.yaml")))
        extra = ", or any timm name" if group.name == "model" else ""
        lines += textwrap.wrap(
            names + extra, 118, initial_indent=f"  {group.name + '=':12} ", subsequent_indent=" " * 15
        )
    return "\n".join(lines)
