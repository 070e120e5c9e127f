"""The content of a `result.json`, for tests that need one."""

BUDGET = {"kind": "macs", "target": 50.0, "achieved": 49, "dense": 100, "relative": True}
RESULT = {
    "schema": 1, "run_key": "key", "model": "repvgg_nano", "data": "digits", "method": "pas", "seed": 0,
    "split": "test", "settings": "", "variant": "",
    "budget": BUDGET, "limits": [BUDGET],
    "dense": {"top1": 90.0, "params": 20, "macs": 100, "latency_ms": 2.0},
    "searched": {"top1": 89.0, "params": 10, "macs": 49, "latency_ms": 1.0, "form": "fused"},
    "exactness": {"mask_slice": 1e-16, "slice_fuse": 1e-16, "fuse_onnx": None},
    "seconds": {"prepare": 1.0, "search": 2.0, "finetune": 3.0},
    "environment": {"torch": "2.15.0", "timm": "1.0.31", "python": "3.11.7", "device": "cpu", "threads": 2, "commit": None},
}  # fmt: skip
