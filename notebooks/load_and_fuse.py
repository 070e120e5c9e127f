# %% [markdown]
# # Load a published network and fuse it
#
# A searched network has a public name: load it in one line, and what comes is a plain chain of 3x3 convolutions.
# It was trained with two or three branches in every block. Here one block is merged by hand, step by step, with
# the trick of RepVGG ([arXiv 2101.03697](https://arxiv.org/abs/2101.03697), section 3.3), until its branches are
# one kernel: the published one. Then the whole network at once, and its latency before and after. It takes half a
# minute on one core.

# %%
import os
import re
import tempfile
from contextlib import chdir
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import timm
import torch
import torch.nn.functional as F
from IPython.display import Image, display
from matplotlib.colors import FuncNorm, LinearSegmentedColormap
from matplotlib.patches import FancyBboxPatch, Rectangle
from rich.console import Console
from torch import nn

import pas
from pas.compose import compose
from pas.cost.measure import latency, ratio
from pas.data import load, plain_loader
from pas.exactness import relative_error
from pas.pipeline import run
from pas.publish import bundle, names, registry, sealed
from pas.publish.backbone import Backbone
from pas.publish.publication import publish
from pas.report import figures
from pas.runs import run_folder
from pas.surgery.fuse import IdentityNorm
from pas.train import checkpoint

# %matplotlib inline
torch.set_num_threads(1)  # layers this small gain nothing from a second one
plt.rcParams.update({"figure.dpi": 100, "font.size": 8})

# %% [markdown]
# ## Somebody publishes
#
# A short search on scikit-learn's digits, which halves the multiply-adds, and a name for what it finds. From a
# terminal, with larger images and a longer training, it is
#
# ```sh
# pas search
# pas publish runs/RUN --name pas_example.digits
# export PAS_MODELS=published
# ```

# %%
NAME = "pas_example.digits"
home = Path(tempfile.gettempdir(), "pas-load-and-fuse")
job = compose(["data.image_size=16", "data.crop_padding=1", "method.options.samples=128", "train.dense.epochs=6",
               "train.search.epochs=3", "train.finetune.epochs=4", "cost=torch", "cost.repeats=10",
               f'paths.runs="{home / "runs"}"'])  # fmt: skip
run(job, Console(quiet=True))
publish(run_folder(job), NAME, home / "published")
os.environ["PAS_MODELS"] = str(home / "published")
registry.register()  # timm was imported before there was anything to find
weights = checkpoint.load(run_folder(job) / "checkpoint" / "finetune")["parts"]["model"]  # as trained, kept in the run's folder

# %% [markdown]
# ## Somebody else loads
#
# By name, with `pas` or with timm. The folder is data, no code: which network it was cut from, which channels
# stayed, and the weights.

# %%
network = pas.load(NAME)
same = timm.create_model(NAME, pretrained=True).eval()

folder = names.located(NAME)
about = sealed.read_config(folder)["pas"]
example = Backbone(**about["backbone"]).example()
data = load(about["data"], image_size=example.shape[-1])
test = plain_loader(data, data.test, batch_size=500)
images = torch.cat([x for x, _ in test.epoch(0)])
torch.set_grad_enabled(False)
assert torch.equal(network(images), same(images))
for file in sorted(folder.iterdir()):
    print(f"{file.name:18} {file.stat().st_size / 1000:6.1f} kB")
was, now = about["dense"], about["searched"]
print(f"{about['backbone']['name']}: {was['macs']:,} MACs, top-1 {was['top1']:.2f} % → {now['macs']:,}, {now['top1']:.2f} %")
display(Image((folder / "widths.png").read_bytes(), width=620))

# %% [markdown]
# ## The form that it was trained in
#
# Cutting the same channels out of the same kind of network gives it once more, this time with its branches:
# every block sums a 3x3 convolution, a 1x1 convolution and, where the uncut block's input and output are of equal
# size, the input itself, each with a norm of its own. The weights are those that the training ended with. They are
# fused in double precision, so that rounding can't hide a mistake.

# %%
dense = bundle.dense_of(folder)
trained = pas.slice(dense, pas.signature(dense, example), sealed.architecture_of(folder)).eval()
trained.load_state_dict(weights)
assert all(torch.equal(one, other) for one, other in zip(pas.fuse(trained).parameters(), network.parameters(), strict=True))
print("pas.fuse gives the published weights, bit for bit")
trained.double()
images = images.double()

place = "stages.1.1"  # a block of three branches
block, seen = trained.get_submodule(place), []
hook = block.register_forward_hook(lambda _, inputs, output: seen.append((*inputs, output)))
trained(images)
hook.remove()
((x, y),) = seen
outputs, inputs = y.shape[1], x.shape[1]
print(f"{place}: {inputs} channels in, {outputs} out, of {len(x)} test images")

# %% [markdown]
# ## First step: the norm goes into the 3x3 convolution
#
# A norm that has finished learning multiplies each channel by a number and adds another. A convolution can do
# both: the factor goes into its kernels, the rest is its bias.

# %%
conv, norm = block.conv_kxk.conv, block.conv_kxk.bn
scale = norm.weight / (norm.running_var + norm.eps).sqrt()
kernel3 = conv.weight * scale[:, None, None, None]
bias3 = norm.bias - norm.running_mean * scale
print(f"largest relative difference {relative_error(block.conv_kxk(x), F.conv2d(x, kernel3, bias3, padding=1)):.1e}")

# %% [markdown]
# ## Second step: the 1x1 convolution is a 3x3 one
#
# The same with its norm, and then zeros all around: a 3x3 kernel that looks at nothing but its centre.

# %%
conv, norm = block.conv_1x1.conv, block.conv_1x1.bn
scale = norm.weight / (norm.running_var + norm.eps).sqrt()
kernel1 = F.pad(conv.weight * scale[:, None, None, None], [1, 1, 1, 1])
bias1 = norm.bias - norm.running_mean * scale
print(f"largest relative difference {relative_error(block.conv_1x1(x), F.conv2d(x, kernel1, bias1, padding=1)):.1e}")

# %% [markdown]
# ## Third step: passing on is a 3x3 convolution, too
#
# A one in the middle, zeros elsewhere: a kernel that gives back what it gets. Each output has it for the input
# that is the same channel. In a searched network input and output have kept different channels, so some outputs
# find theirs gone; what is left of their branch is the bias.

# %%
norm = block.identity
source = norm.source if isinstance(norm, IdentityNorm) else torch.arange(outputs)  # which input each output is; -1: none any more
dirac = torch.zeros_like(kernel3)
there = source >= 0
dirac[there.nonzero()[:, 0], source[there], 1, 1] = 1
scale = norm.weight / (norm.running_var + norm.eps).sqrt()
kernel0 = dirac * scale[:, None, None, None]
bias0 = norm.bias - norm.running_mean * scale
print(f"largest relative difference {relative_error(block.identity(x), F.conv2d(x, kernel0, bias0, padding=1)):.1e}")
print(f"{there.sum()} of {outputs} outputs still have their input")

# %% [markdown]
# ## Fourth step: the sum
#
# Three convolutions of the same input, added, are one convolution with the sum of their kernels. After each step
# the block computes the same; what it takes for it grows at first, as zeros are spelt out, and then falls to
# less than it was.

# %%
kernel, bias = kernel3 + kernel1 + kernel0, bias3 + bias1 + bias0
steps = {
    "as trained": ([], [block.conv_kxk, block.conv_1x1, block.identity]),
    "3x3 folded": ([(kernel3, bias3)], [block.conv_1x1, block.identity]),
    "1x1 padded": ([(kernel3, bias3), (kernel1, bias1)], [block.identity]),
    "identity as Dirac": ([(kernel3, bias3), (kernel1, bias1), (kernel0, bias0)], []),
    "summed": ([(kernel, bias)], []),
}
sizes = {}
for step, (convolutions, branches) in steps.items():
    out = sum(F.conv2d(x, one, shift, padding=1) for one, shift in convolutions) + sum(branch(x) for branch in branches)
    tensors = [t for pair in convolutions for t in pair]
    tensors += [t for branch in branches for t in branch.state_dict().values() if t.is_floating_point()]
    sizes[step] = sum(t.numel() for t in tensors)
    kernels = sum(t.ndim == 4 for t in tensors)
    print(f"{step:17} convolutions {kernels}, norms {len(branches)}, numbers {sizes[step]:6,},"
          f" largest relative difference {relative_error(y, F.relu(out)):.1e}")  # fmt: skip

fused = pas.fuse(trained).get_submodule(place).reparam_conv
assert relative_error(fused.weight, kernel) < 1e-14
assert relative_error(fused.bias, bias) < 1e-14
final = network.get_submodule(place).reparam_conv
print(f"kernels by hand and published: largest relative difference {relative_error(kernel, final.weight):.1e}, rounded to fp32")

# %%
drawn = {  # by step, the boxes of each branch from the input on
    "as trained": [["3x3", "norm"], ["1x1", "norm"], ["norm"]],
    "3x3 folded": [["3x3"], ["1x1", "norm"], ["norm"]],
    "1x1 padded": [["3x3"], ["3x3"], ["norm"]],
    "identity as Dirac": [["3x3"], ["3x3"], ["3x3"]],
    "summed": [["3x3"]],
}
figure, panels = plt.subplots(1, len(drawn), figsize=(8, 3.1), layout="constrained")
for panel, (step, branches) in zip(panels, drawn.items(), strict=True):
    panel.set(xlim=(-1.5, 1.5), ylim=(-0.6, 5.9), aspect="equal")
    panel.set_title(step, fontsize=9, color=figures.INK)
    panel.axis("off")
    boxes = [(0, 5.1, "ReLU", figures.COLOURS[-1])]
    for number, names_of in enumerate(branches):
        at = number - (len(branches) - 1) / 2
        panel.plot([0, 0, at, at, 0, 0], [0, 0.5, 0.9, 3.4, 3.8, 5.9], color=figures.SPINE, lw=1.3, zorder=0)
        colour = figures.COLOURS[number] if len(branches) > 1 else figures.INK
        boxes += [(at, 2.15 + (level - (len(names_of) - 1) / 2), name, colour) for level, name in enumerate(names_of)]
    for at, height, name, colour in boxes:
        panel.add_patch(FancyBboxPatch((at - 0.3, height - 0.2), 0.6, 0.4, boxstyle="round,pad=0.1", lw=1.2, ec=colour,
                                       fc=colour if "x" in name else "white"))  # fmt: skip
        panel.text(at, height, name, ha="center", va="center_baseline", fontsize=7, color="white" if "x" in name else colour)
    if len(branches) > 1:
        panel.text(0, 4.05, "+", ha="center", va="center_baseline", fontsize=10, color=figures.INK,
                   bbox={"boxstyle": "circle,pad=0.05", "fc": "white", "ec": figures.SPINE, "lw": 1.2})  # fmt: skip
    panel.text(0, -0.25, f"{sizes[step]:,} numbers", ha="center", va="top", color=figures.INK)
plt.show()

# %% [markdown]
# ## The kernels
#
# A row is an output channel reading an input channel, the columns are what the branches do there: blue adds,
# orange takes away (the shades go by square roots, or small numbers would be lost). In the first two rows the output is the same
# channel as the input, so the identity has its one in the middle, scaled by its norm; in the others it has nothing
# to say. The column at the right was not computed here: it is read from the published file.

# %%
columns = {"3x3": kernel3, "1x1": kernel1, "identity": kernel0, "their sum": kernel, "published": final.weight.double()}
diagonal, apart = dirac[:, :, 1, 1].nonzero(), dirac[:, :, 1, 1] == 0
pairs = diagonal[[len(diagonal) // 3, 2 * len(diagonal) // 3]].tolist()
pairs += [divmod(int((one.abs().sum((2, 3)) * apart).argmax()), inputs) for one in (kernel3, kernel1)]  # where these say most
diverging = LinearSegmentedColormap.from_list("", [figures.COLOURS[1], "white", figures.COLOURS[0]])
most = max(float(one[o, i].abs().max()) for one in columns.values() for o, i in pairs)
roots = FuncNorm((lambda v: np.sign(v) * np.abs(v) ** 0.5, lambda v: np.sign(v) * v**2), -most, most)

figure, panels = plt.subplots(len(pairs), len(columns), figsize=(6.8, 5.1), layout="constrained")
for (o, i), row in zip(pairs, panels, strict=True):
    row[0].set_ylabel(f"input {i}\nto output {o}", rotation=0, ha="right", va="center", color=figures.INK)
    for panel, one, sign in zip(row, columns.values(), "++== ", strict=True):
        panel.imshow(one[o, i], cmap=diverging, norm=roots)
        for (v, u), value in np.ndenumerate(one[o, i].numpy()):
            text = f"{value:.2f}".replace("-", "−") if value else "0"
            colour = "white" if abs(value) > 0.4 * most else figures.INK if value else figures.SPINE
            panel.text(u, v, text, ha="center", va="center", fontsize=7, color=colour)
        panel.text(1.13, 0.5, sign, transform=panel.transAxes, ha="center", va="center", fontsize=13, color=figures.INK)
        panel.set(xticks=[], yticks=[])
        panel.spines[:].set_color(figures.SPINE)
for panel, name in zip(panels[0], columns, strict=True):
    panel.set_title(name, fontsize=9, color=figures.INK)
plt.show()

# %% [markdown]
# All kernels of the block at once: a row of 3x3 tiles is an output, a column an input. The identity is a diagonal
# that jumps where a channel was dropped on one side only; in the sum its places are framed.

# %%
figure, panels = plt.subplots(2, 2, figsize=(6.8, 5.9), layout="constrained")
for panel, (name, one) in zip(panels.flat, columns.items(), strict=False):
    tiles = F.pad(one, [0, 1, 0, 1], value=torch.nan)  # a gap after every tile
    panel.imshow(tiles.permute(0, 2, 1, 3).reshape(4 * outputs, 4 * inputs), cmap=diverging, norm=roots, interpolation="none")
    panel.set(xticks=[], yticks=[], xlabel=f"{inputs} inputs", ylabel=f"{outputs} outputs")
    panel.set_title(name, fontsize=9, color=figures.INK)
    panel.spines[:].set_visible(False)
for o, i in diagonal.tolist():
    panels[1, 1].add_patch(Rectangle((4 * i - 1, 4 * o - 1), 4, 4, fill=False, ec=figures.INK, lw=0.8, clip_on=False))
plt.show()

# %% [markdown]
# ## The whole network
#
# `pas.fuse` does that to every block, and gives a new network of plain torch modules. Its graph is a list: a VGG,
# with widths that were searched for.

# %%
whole = pas.fuse(trained)
logits = {"before": trained(images), "after": whole(images)}
for name, form in (("before", trained), ("after", whole)):
    counts = [f"{sum(isinstance(m, kind) for m in form.modules()):2} {kind.__name__}" for kind in (nn.Conv2d, nn.BatchNorm2d, nn.ReLU)]
    operators = [node for node in torch.export.export(form, (example.double(),)).graph.nodes if node.op == "call_function"]
    right = (logits[name].argmax(1) == data.test.labels).double().mean()
    print(f"{name:6} {', '.join(counts)}; {len(operators)} operators in the graph, "
          f"{sum(p.numel() for p in form.parameters()):,} parameters, top-1 {100 * right:.2f} %")  # fmt: skip
assert torch.equal(logits["before"].argmax(1), logits["after"].argmax(1))
print(f"logits of all test images: largest relative difference {relative_error(logits['before'], logits['after']):.1e}")

# %%
graph = " → ".join(node.name.rstrip("_0123456789") for node in operators)  # of the fused form, which came last
print(re.sub(r"(conv2d → relu → )+", lambda found: f"{found[0].count('conv2d')} × (conv2d → relu) → ", graph), end="\n\n")
for name, module in network.named_modules():
    if isinstance(module, nn.Conv2d):
        print(f"{name:23} 3x3, {module.in_channels:2} → {module.out_channels:2} channels, stride {module.stride[0]}")
    elif isinstance(module, nn.Linear):
        print(f"{name:23}      {module.in_features:2} → {module.out_features:2}")

# %% [markdown]
# ## Latency before and after
#
# Both forms take turns in one process, so that whatever else the machine does slows down both, and of each pair
# of turns only the ratio is looked at. How much is gained depends on the machine, the runtime and the batch:
# torch starts every operator by itself, so their number tells; ONNX Runtime folds norms on its own, and has less
# to gain. A point is a pair of turns, the line the median, the band around it its 95 % interval.

# %%
forms = {"before": trained.float(), "after": network}
rows = [("torch", 1), ("torch", 64), ("onnxruntime", 1), ("onnxruntime", 64)]
figure, panel = plt.subplots(figsize=(6.4, 2.6), layout="constrained")
for height, (runtime, batch) in enumerate(rows):
    conditions = pas.cost.Conditions(runtime, batch=batch)
    times = latency(forms, example, conditions, repeats=80, warmup=5, spread=None)
    share = ratio(times["after"], times["before"])
    print(f"{conditions.brief:33} after / before {share}")
    shares = np.divide(times["after"].times, times["before"].times)
    spread = np.random.default_rng(0).uniform(-0.24, 0.24, len(shares))
    panel.scatter(shares, height + spread, s=10, color=figures.KEPT, alpha=0.4, lw=0)
    panel.fill_betweenx([height - 0.36, height + 0.36], share.low, share.high, color=figures.COLOURS[1], alpha=0.3, lw=0)
    panel.plot([share.median] * 2, [height - 0.36, height + 0.36], color=figures.COLOURS[1], lw=2, solid_capstyle="butt")
    panel.text(1.13, height, f"{share.median:.2f}", va="center", fontsize=9, color=figures.COLOURS[1])
panel.axvline(1, color=figures.INK, lw=1, ls="--")
panel.text(1, -0.6, "as long as with branches ", ha="right", color=figures.INK)
panel.text(1.13, -0.6, "median", color=figures.COLOURS[1])
panel.set_yticks(range(len(rows)), [f"{runtime}, batch {batch}" for runtime, batch in rows])
panel.set(xlim=(0, 1.1), ylim=(len(rows) - 0.5, -0.9), xlabel="time of the fused form over that with branches, one thread")
figures.plain(panel)
panel.grid(axis="y", visible=False)
panel.grid(axis="x", color=figures.GRID)
panel.tick_params(axis="y", length=0, labelsize=8)
plt.show()

# %% [markdown]
# ## Without pas
#
# The card in the folder prints the code that loads it with plain torch. Executed as it stands there:

# %%
card = (folder / "README.md").read_text()
(code,) = (piece for piece in re.findall(r"```python\n(.*?)```", card, re.DOTALL) if "def plain" in piece)
print(code)
stranger = {}
with chdir(folder):
    exec(code, stranger)
expected, found = network(images.float()), stranger["network"](images.float())
assert not re.search(r"^(import|from) pas", code, re.MULTILINE)
print(f"{len([line for line in code.splitlines() if line.strip()])} lines; logits of all test images:"
      f" largest relative difference {relative_error(expected, found):.1e}")  # fmt: skip
