"""The model card of a bundle."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pas.amount import human
from pas.publish.backbone import Backbone


def card(result: Mapping[str, Any], backbone: Backbone) -> str:
    """README.md of a bundle: what it is, its numbers with their conditions, how to load it."""
    dense, searched, where = result["dense"], result["searched"], result["environment"]
    size = f"{backbone.in_chans} x {backbone.image_size} x {backbone.image_size}"
    latency = result["latency"]
    conditions = f"batch {latency['batch']}, {latency['runtime']}, {latency['threads']} threads, {latency['dtype']}"
    return f"""---
library_name: pas
tags: [image-classification, pruning, pas]
pipeline_tag: image-classification
---

# {result["run_key"]}

`{backbone.name}` with searched widths: method `{result["method"]}`, {"; ".join(map(_limit, result["limits"]))}.

| | dense | searched |
|---|---|---|
| top-1 on the {result["split"]} split of {result["data"]}, % | {dense["top1"]:.2f} | {searched["top1"]:.2f} |
| parameters | {human(dense["params"])} | {human(searched["params"])} |
| MACs (multiply-adds, input {size}) | {human(dense["macs"])} | {human(searched["macs"])} |
| latency, ms ({conditions}) | {dense["latency_ms"]:.3g} | {searched["latency_ms"]:.3g} |

All numbers are those of the fused form (re-parameterised branches merged), one seed ({result["seed"]}), the last epoch. Latencies are
medians on {latency["device"]}. Software: torch {where["torch"]}, timm {where["timm"]}, Python {where["python"]}, commit {where["commit"]}.

```python
import pas

network = pas.load("path/of/this/folder")  # a plain torch module in eval mode
```

`model.onnx` holds the same network for ONNX Runtime. `architecture.json` lists the channels that stay, layer by layer.
"""


def _limit(limit: Mapping[str, Any]) -> str:
    unit = " ms" if limit["kind"] == "latency" else ""
    share = f"{limit['target'] / limit['dense']:.4g} of the dense {human(limit['dense'])}{unit}"
    return f"{limit['kind']} at most {human(limit['target'])}{unit} ({share}), reached {human(limit['achieved'])}{unit}"
