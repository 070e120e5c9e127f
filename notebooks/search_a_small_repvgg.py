# %% [markdown]
# # Search a small RepVGG
#
# A RepVGG of eight blocks learns scikit-learn's digits. Then a search finds how wide each block should be
# when all of them together may cost 40 % of the multiply-adds. See the gates close and open again, the cost
# fall to the budget, and three forms of the result compute the same. It takes less than a minute on one core.

# %%
import itertools
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory

import matplotlib.pyplot as plt
import numpy as np
import torch
import torch.nn.functional as F
from IPython.display import Image, display
from matplotlib.colors import ListedColormap

import pas
from pas import models
from pas.amount import human
from pas.data import Augment, load, make_loader
from pas.methods import DEFAULTS
from pas.report import figures
from pas.tasks import classification
from pas.train import Recipe, fit, weight_groups

torch.manual_seed(0)
torch.set_num_threads(1)  # layers this small gain nothing from a second one
plt.rcParams.update({"figure.dpi": 100, "font.size": 8})

# %%
data = load("digits", image_size=16)
settings = {"batch_size": 64, "seed": 0, "device": "cpu", "workers": 0}
loader = make_loader(data, data.train, train=True, augment=Augment(1, False, 0), **settings)
test = make_loader(data, data.test, train=False, augment=Augment(0, False, 0), **settings)
measure = partial(classification.evaluate, loader=test, device="cpu", precision="fp32")

figure, places = plt.subplots(1, 10, figsize=(7, 0.8))
for place, image in zip(places, data.train.images[:, 0], strict=False):
    place.imshow(image, cmap="gray_r")
    place.axis("off")
plt.show()
print(f"{len(data.train)} images to learn from, {len(data.test)} to test on: one is {100 / len(data.test):.2f} %")

# %% [markdown]
# ## The dense network
#
# Eight epochs of ordinary training. Any network that `torch.export` can capture would do, trained in any way.

# %%
dense = models.create("repvgg_nano", num_classes=10, in_chans=1)
recipe = Recipe(epochs=8, batch_size=64, optimizer="sgd", lr=0.1, weight_decay=5e-4, warmup_epochs=1)
training = {"loss": classification.loss(recipe, 10), "groups": weight_groups(dense, 5e-4), "device": "cpu"}
fit(dense, loader, recipe, stage="dense", **training)
print(f"dense: top-1 {measure(dense).top1:.2f} %")

# %% [markdown]
# ## The search
#
# Three lines make a training loop a search: the groups of the optimiser, the penalty (zero for this method,
# whose budget is held by a projection) and the step. Judging channels by single examples beforehand is
# optional. Gates learn three times as fast here as by default, so that there is more to see; which of them
# are open is noted after every step.

# %%
epochs = range(8, 18)  # the training went through those before
steps = len(epochs) * len(loader)
search = pas.Search(dense, torch.zeros(1, 1, 16, 16), budget=pas.Budget(macs=0.4), steps=steps, gate_lr=0.3)
search.calibrate(loader.epoch(epochs[0]), lambda network, x, y: F.cross_entropy(network(x), y))

optimizer = torch.optim.SGD(search.param_groups(lr=0.02, weight_decay=5e-4), momentum=0.9)
gates, numbers = [], []
for x, y in itertools.chain.from_iterable(map(loader.epoch, epochs)):
    loss = F.cross_entropy(search.model(x), y) + search.penalty()
    loss.backward()
    optimizer.step()
    optimizer.zero_grad()
    search.step()
    gates.append(search.method.open())
    numbers.append(search.numbers())

(budget,) = search.report()["budget"]
share = budget["achieved"] / budget["target"]
print(f"{human(budget['achieved'])} MACs of {human(budget['dense'])}, {share:.2%} of what the budget allows")

# %% [markdown]
# ## The gates
#
# A row is a channel, blue while its gate is open; the channels of a layer are sorted by how long that was.
# Below is what the open channels cost. At first all gates are open, then the target falls, and the channels
# that are worth least for their cost close. Look for grey that turns blue again: a closed gate still gets its
# gradient and opens when the loss asks for it, and then others have to close, as no step may cost more than
# the target. In the last fifth the gates rest and the weights settle.

# %%
axes, architecture = search.signature.prunable, search.architecture
was_open = np.array(gates).T  # channels x steps
colours = ListedColormap([figures.DENSE, figures.KEPT])
figure, panels = plt.subplots(len(axes) + 1, 1, figsize=(7, 7.5), sharex=True, layout="constrained",
                              height_ratios=[*(axis.size + 6 for axis in axes), 110])  # fmt: skip
for panel, axis in zip(panels, axes, strict=False):
    rows = was_open[axis.start : axis.start + axis.size]
    rows = rows[np.argsort(-rows.sum(1), kind="stable")]
    panel.imshow(rows, cmap=colours, vmin=0, vmax=1, extent=(0.5, steps + 0.5, axis.size, 0), aspect="auto", interpolation="none")
    label = f"{axis.name}\n{axis.size} → {architecture.widths()[axis.name]}"
    panel.set_ylabel(label, rotation=0, ha="right", va="center", fontsize=7)
    panel.set_yticks([])
    panel.spines[:].set_visible(False)
    panel.tick_params(bottom=False)
cost = panels[-1]
warmup, ramp, hold = (DEFAULTS["pas"][phase] for phase in ("warmup", "ramp", "hold"))  # shares of the steps
phases = [0, warmup, warmup + ramp, 1 - hold, 1]
phase_names = ["gates open", "the target falls", "gates move", "gates rest"]
for name, start, end in zip(phase_names, phases, phases[1:], strict=False):
    panels[0].text((start + end) / 2 * steps, -3, name, ha="center", fontsize=8, color=figures.INK)
    for panel in panels[:-1]:
        panel.axvline(start * steps + 0.5, color="white", lw=1)
    cost.axvline(start * steps + 0.5, color=figures.GRID, lw=1)
cost.plot(range(1, steps + 1), [row["macs"] for row in numbers], color=figures.KEPT, lw=1.8)
cost.axhline(budget["target"], color=figures.INK, lw=1, ls="--")
cost.text(2, budget["target"], "budget", va="bottom", color=figures.INK)
cost.set(xlabel="step of the search", ylabel="MACs of open channels", ylim=(0, None), xlim=(0.5, steps + 0.5))
cost.yaxis.set_major_formatter(figures.tick)
figures.plain(cost)
plt.show()

turns = np.diff(was_open.astype(int))  # 1 where a gate opened, -1 where it closed
came_back = (turns > 0).any(1).sum()
print(f"gates closed {(turns < 0).sum()} times and opened {(turns > 0).sum()} times; {came_back} channels came back at least once")
result = search.report()
print(f"the export, to land on the budget, closes {result['closed_by_export']} more and opens {result['reopened_by_export']}")

# %% [markdown]
# ## The widths
#
# Nobody said which layer should give up how much. The upper row counts channels, the lower one shows the
# share that stays.

# %%
names, sizes = zip(*((axis.name, axis.size) for axis in axes), strict=True)
kept = list(architecture.widths().values())
with TemporaryDirectory() as folder:
    drawn = figures.widths(names, sizes, kept, Path(folder, "widths.png"), title="Dense and searched widths")
    display(Image(drawn.read_bytes(), width=620))

# %% [markdown]
# ## Cut, fine-tune, fuse: top-1
#
# A slice is the network without its closed channels, the branches of its blocks still in place. The weights
# have lived with these gates for a while, so the cut costs little, and six epochs of fine-tuning win it back.
# Fusing the branches changes nothing.

# %%
small = search.slice()
before = measure(small).top1
recipe = Recipe(epochs=6, batch_size=64, optimizer="sgd", lr=0.05, weight_decay=5e-4)
training = {"loss": classification.loss(recipe, 10), "groups": weight_groups(small, 5e-4), "device": "cpu"}
fit(small, loader, recipe, stage="fine-tuning", first_epoch=18, **training)
print(f"dense      {measure(dense).top1:.2f} %")
print(f"cut        {before:.2f} %")
print(f"fine-tuned {measure(small).top1:.2f} %")
print(f"fused      {measure(pas.fuse(small)).top1:.2f} %")

# %% [markdown]
# ## Masked = sliced = fused
#
# The same channels dropped in three ways: zeroed at full size, cut out, and cut out with each block merged
# into one convolution. In double precision the logits of all test images differ by rounding alone. The first
# row shows what a real difference looks like: the dense network against the masked one.

# %%
whole = search.settled().double().eval()
masked = pas.mask(whole, search.signature, architecture)
sliced = pas.slice(whole, search.signature, architecture)
forms = {"dense": whole, "masked": masked, "sliced": sliced, "fused": pas.fuse(sliced)}
with torch.no_grad():
    logits = {name: torch.cat([form(x.double()) for x, _ in test.epoch(0)]) for name, form in forms.items()}
for one, other in (("dense", "masked"), ("masked", "sliced"), ("sliced", "fused")):
    error = ((logits[one] - logits[other]).abs().max() / logits[one].abs().max()).item()
    print(f"{one:>6} and {other:6}: largest difference {error:.1e} of the largest logit")
for name, form in forms.items():
    print(f"{name:6} {sum(p.numel() for p in form.parameters()):7,} parameters")
