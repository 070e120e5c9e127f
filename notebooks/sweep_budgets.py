# %% [markdown]
# # Sweep over budgets
#
# How much accuracy does each share of the multiply-adds buy? Three budgets and two seeds make six searches of
# a small RepVGG on 500 of scikit-learn's digits, each from a dense parent that its seed trains once. See the
# front of accuracy over cost with its error bars, and the widths of all six networks side by side. It takes
# half a minute on one core. From a terminal, with all the images and a longer training, it is:
#
# ```sh
# pas search -m budget.macs=0.1,0.2,0.4 seed=0,1
# pas report runs/ # a page for a browser, tables and figures
# ```

# %%
import tempfile
import time
from pathlib import Path

import matplotlib.pyplot as plt
from IPython.display import display
from matplotlib.colors import LinearSegmentedColormap
from rich.console import Console

from pas.amount import human
from pas.compose import compose_all
from pas.pipeline import run
from pas.report import figures
from pas.report.collect import cells, read
from pas.runs import run_folder

# %matplotlib inline
plt.rcParams.update({"figure.dpi": 100, "font.size": 8})

# %% [markdown]
# ## The runs
#
# A configuration takes the same words as the command line. Most of these make the runs short; without them
# you get the default recipe of the digits.

# %%
runs = Path(tempfile.gettempdir(), "pas-sweep")
short = ["data.subset=500", "data.image_size=16", "data.crop_padding=1", "method.options.samples=128",
         "train.dense.epochs=8", "train.search.epochs=5", "train.finetune.epochs=6",
         "cost=torch", "cost.repeats=10"]  # fmt: skip
jobs = compose_all(["budget.macs=0.1,0.2,0.4", "seed=0,1", *short, f'paths.runs="{runs}"'])
quiet = Console(quiet=True)

results = []
for job in jobs:
    result = run(job, quiet)
    dense, searched = result["dense"], result["searched"]
    print(f"budget {job.budget.macs:.0%}, seed {job.seed}: {human(dense['macs'])} MACs at {dense['top1']:.2f} %"
          f" → {human(searched['macs'])} at {searched['top1']:.2f} %")  # fmt: skip
    results.append(result)

# %% [markdown]
# A run's folder is named by its settings. So whatever is finished is read, not run again, and what was
# interrupted goes on where it was; execute the whole notebook a second time to see it.

# %%
begin = time.monotonic()
assert [run(job, quiet) for job in jobs] == results
print(f"all six again: {time.monotonic() - begin:.1f} s")

# %% [markdown]
# ## The front
#
# Mean and standard deviation over the seeds; the star is the dense network. One of the 359 test images is
# 0.28 %, so small steps between points say little.

# %%
members = [read(run_folder(job)) for job in jobs]
display(figures.front_of(cells(members)))

# %% [markdown]
# ## The widths
#
# A row is a network, a column a layer, deeper blue where more of it stays. Look down a column for what a
# layer gives up as the budget shrinks, and at the two rows of a budget for what another seed changes.

# %%
layers = members[0].architecture.sizes
table = [list(layers.values()), *(list(one.architecture.widths().values()) for one in members)]
shares = [[kept / size for kept, size in zip(row, layers.values(), strict=True)] for row in table]

figure, axes = plt.subplots(figsize=(6.4, 3), layout="constrained")
blues = LinearSegmentedColormap.from_list("", ["white", figures.KEPT])
axes.imshow(shares, cmap=blues, vmin=0, vmax=1, aspect="auto")
for y, row in enumerate(table):
    for x, width in enumerate(row):
        axes.text(x, y, width, ha="center", va="center", color="white" if shares[y][x] > 0.55 else figures.INK)
axes.set_xticks(range(len(layers)), figures.without_common_start(list(layers)), rotation=30, ha="right")
axes.set_yticks(range(len(table)), ["dense", *(f"{job.budget.macs:.0%}, seed {job.seed}" for job in jobs)])
for y in range(0, len(jobs), 2):
    axes.axhline(y + 0.5, color="white", lw=4)
axes.tick_params(length=0, colors=figures.INK)
axes.spines[:].set_visible(False)
plt.show()
