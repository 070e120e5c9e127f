"""Model cards: of the bundle that a run leaves, and of a published one."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from pas.amount import counted, human
from pas.data import fitted
from pas.environment import commit_of
from pas.publish import plain
from pas.publish.backbone import Backbone
from pas.report.collect import Mean
from pas.report.latency import by_turns, noisy


@dataclass(frozen=True)
class Int8:
    """Top-1 of a network in fp32 and in eight bits, both under ONNX Runtime, and the number of images that calibrated it."""

    fp32: float
    int8: float
    images: int


@dataclass(frozen=True)
class Facts:
    """What a published card tells beside a run's result.

    `start`: what training started from, as a sentence, or "". `seeds`: top-1 by seed of this run and of those beside it that differ in
    nothing else. `chain`: the convolutions of a chain, 0 for any other network. `pt2`: whether there is a program.
    """

    name: str
    result: Mapping[str, Any]
    backbone: Backbone
    mean: tuple[float, ...]
    std: tuple[float, ...]
    command: str
    licence: str
    start: str
    seeds: Mapping[int, float]
    chain: int
    pt2: bool
    int8: Int8 | None


def card(result: Mapping[str, Any], backbone: Backbone) -> str:
    """README.md of a run's bundle: what it is, its numbers with their conditions, how to load it."""
    return f"""{HEAD}
# {result["run_key"]}

{_what(result, backbone)}

{_numbers(result, backbone)}

```python
import pas

network = pas.load("path/of/this/folder")  # a plain torch module in eval mode
```

`model.onnx` holds the same network for ONNX Runtime. `architecture.json` lists the channels that stay, layer by layer.
"""


def published_card(facts: Facts) -> str:
    """README.md of a published bundle: also how it was made and under which terms, and how to load it with and without `pas`. Each piece
    of Python runs as it stands in the bundle's folder.
    """
    result, backbone = facts.result, facts.backbone
    parts = [
        f"{HEAD}\n# {facts.name}",
        f"{_chain(facts)}{_what(result, backbone)}",
        "![the width of every layer before that of the dense network](widths.png)",
        _numbers(result, backbone),
        *([_int8(facts.int8, result)] if facts.int8 is not None else []),
        f"## Use\n\nImages: {_size(backbone)}, scaled to 0..1, less {_listed(facts.mean)}, divided by {_listed(facts.std)} (channel by "
        f"channel). {fitted(result['data'], backbone.image_size)} Logits of {backbone.num_classes} classes.",
        _own(backbone) if ":" in backbone.name else _by_name(facts.name),
        f"### Without pas\n\n{_without(facts)}",
        f"### ONNX Runtime\n\n{_onnx(facts)}",
        f"## How it was made\n\n```sh\n{facts.command}\n```\n\n{_seeds(facts)}",
        f"## Licence\n\n{facts.start}The data ({result['data']}): {facts.licence}. The code of `pas` is under Apache-2.0.",
    ]
    return "\n\n".join(parts) + "\n"


HEAD = """---
library_name: pas
tags: [image-classification, pruning, pas]
pipeline_tag: image-classification
---
"""


def _what(result: Mapping[str, Any], backbone: Backbone) -> str:
    return f"`{backbone.name}` with searched widths: method `{result['method']}`, {'; '.join(map(_limit, result['limits']))}."


def _numbers(result: Mapping[str, Any], backbone: Backbone) -> str:
    """Dense against searched, with all that the numbers depend on."""
    dense, searched, where = result["dense"], result["searched"], result["environment"]
    rows = [
        f"| top-1 on the {result['split']} split of {result['data']}, % | {dense['top1']:.2f} | {searched['top1']:.2f} |",
        f"| parameters | {human(dense['params'])} | {human(searched['params'])} |",
        f"| MACs (multiply-adds, input {_size(backbone)}) | {human(dense['macs'])} | {human(searched['macs'])} |",
    ]
    took = ""
    if "latency" in result and searched["latency_ms"] is not None:
        latency = result["latency"]
        conditions = f"batch {latency['batch']}, {latency['runtime']}, {counted(latency['threads'], 'thread')}, {latency['dtype']}"
        ratio = by_turns(latency)
        if noisy(latency):
            took = f" Its latency ({conditions}) isn't told: {latency['device']} was too noisy to tell."
        else:
            rows.append(f"| latency, ms ({conditions}) | {dense['latency_ms']:.3g} | {searched['latency_ms']:.3g} |")
            took = f" Latencies are medians on {latency['device']}{f'; {ratio}' if ratio else ''}."
    commit = f"commit {commit_of(where) or 'not known'}"
    table = "\n".join(["| | dense | searched |", "|---|---|---|", *rows])
    return f"""{table}

All numbers are those of the fused form (re-parameterised branches merged), one seed ({result["seed"]}), the last epoch.{took} \
Software: torch {where["torch"]}, timm {where["timm"]}, Python {where["python"]}, {commit}."""


def _limit(limit: Mapping[str, Any]) -> str:
    unit = " ms" if limit["kind"] == "latency" else ""
    share = f"{limit['target'] / limit['dense']:.4g} of the dense {human(limit['dense'])}{unit}"
    if noisy(limit):
        return f"{limit['kind']} at most {limit['target'] / limit['dense']:.4g} of the dense one, measured too noisily to tell"
    return f"{limit['kind']} at most {human(limit['target'])}{unit} ({share}), reached {human(limit['achieved'])}{unit}"


def _chain(facts: Facts) -> str:
    return f"A plain network: {facts.chain} convolutions, each with a ReLU, a mean over the image, a classifier. " if facts.chain else ""


def _int8(found: Int8, result: Mapping[str, Any]) -> str:
    return f"""| under ONNX Runtime, the {result["split"]} split of {result["data"]} | fp32 (`model.onnx`) | int8 (`model.int8.onnx`) |
|---|---|---|
| top-1, % | {found.fp32:.2f} | {found.int8:.2f} |

The eight-bit network was calibrated on {found.images} training images; its weights have seven bits, channel by channel, so that no CPU's \
sums saturate."""


def _by_name(name: str) -> str:
    return f"""```python
import pas

network = pas.load(".")  # this folder; pas.load("{name}") where it came with pas, or PAS_MODELS names the folder around it
```

```python
import pas  # tells timm its names
import timm

network = timm.create_model("local-dir:.", pretrained=True).eval()  # or timm.create_model("{name}", pretrained=True), as above
```

```python
import pas

network = pas.Published.from_pretrained(".")  # a folder, or USER/NAME of the Hugging Face Hub
```"""


def _own(backbone: Backbone) -> str:
    return f"""The dense network is made by code of its own, `{backbone.name}`. Where that is at hand, `dense` being what it returns:
`pas.load(".", model=dense)`."""


def _without(facts: Facts) -> str:
    """A chain is built from the shapes of its weights; anything else is loaded as a program."""
    if facts.chain:
        code = inspect.getsource(plain).partition('"""\n\n')[2]
        return f"""Plain torch, built from the weights and the strides in `config.json`:

```python
{code.rstrip()}


network = plain(".")
```{_program("Or as a program, without any code:") if facts.pt2 else ""}"""
    return _program("The network as a program of `torch.export`, in eval mode, for any number of images of this size:").lstrip()


def _program(words: str) -> str:
    return f"""

{words}

```python
import torch

network = torch.export.load("model.pt2").module()  # with the weights of model.safetensors inside
```"""


def _onnx(facts: Facts) -> str:
    shape = f"1, {facts.backbone.in_chans}, {facts.backbone.image_size}, {facts.backbone.image_size}"
    return f"""```python
import numpy as np
import onnxruntime

session = onnxruntime.InferenceSession("model.onnx")
(logits,) = session.run(None, {{"input": np.zeros(({shape}), np.float32)}})
```"""


def _seeds(facts: Facts) -> str:
    """What the command gives with other seeds, as far as they were run."""
    found = facts.seeds
    if len(found) == 1:
        return f"One seed was run ({next(iter(found))})."
    top1 = Mean.of(list(found.values()))
    return f"With seeds {', '.join(map(str, sorted(found)))}: {top1} % top-1; this network is that of seed {facts.result['seed']}."


def _size(backbone: Backbone) -> str:
    return f"{backbone.in_chans} x {backbone.image_size} x {backbone.image_size}"


def _listed(numbers: tuple[float, ...]) -> str:
    return ", ".join(f"{number:g}" for number in numbers)
