"""The notebooks: in step with their sources, executed here from the first cell to the last, and kept with what they show."""

from __future__ import annotations

import base64
import importlib.util
import io
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

ROOT = Path(__file__).resolve().parent.parent
FOLDER = ROOT / "notebooks"
ROUNDING = r"(\d\.\de-1[4-9]|0\.0e\+00)"  # in double precision
SAYS = {
    "search_a_small_repvgg": [
        r"opened [1-9]\d* times",
        r"dense and masked: largest difference \d\.\de(-0\d|\+)",
        r"masked and sliced: largest difference (\d\.\de-1[1-9]|0\.0e\+00)",
        r"sliced and fused : largest difference (\d\.\de-1[1-9]|0\.0e\+00)",
    ],
    "load_and_fuse": [
        "pas.fuse gives the published weights, bit for bit",
        *(
            rf"{step} +convolutions {kernels}, norms {norms}, numbers +[\d,]+, largest relative difference {ROUNDING}"
            for step, kernels, norms in (("3x3 folded", 2, 2), ("1x1 padded", 2, 1), ("identity as Dirac", 3, 0), ("summed", 1, 0))
        ),
        r"kernels by hand and published: largest relative difference \d\.\de-0[789]",
        "before 16 Conv2d, 20 BatchNorm2d,  8 ReLU",
        "after   8 Conv2d,  0 BatchNorm2d,  8 ReLU",
        rf"logits of all test images: largest relative difference {ROUNDING}",
        r"8 × \(conv2d → relu\) → adaptive_avg_pool2d",
        r"onnxruntime, batch 64, 1 thread +after / before \d\.\d{3} \(",
        r"\d\d lines; logits of all test images: largest relative difference (\d\.\de-0[6-9]|0\.0e\+00)",
    ],
    "sweep_budgets": [rf"budget {share}%, seed {seed}: " for share in (10, 20, 40) for seed in (0, 1)],
}
ABSENT = [name for name in ("ipykernel", "ipywidgets", "jupytext", "nbclient") if importlib.util.find_spec(name) is None]
needs_jupyter = pytest.mark.skipif(bool(ABSENT), reason=f"{', '.join(ABSENT)} not installed: pip install -e '.[notebooks]'")
PLACE = re.compile(r"(?<![\w.])(/home/|/root/|/tmp/|/usr/|/var/|/Users/|/opt/)")
LARGEST = 350_000  # bytes


def check(path: Path) -> None:
    """Everything was executed once, in order, and says what the text promises; with figures, without warnings and paths of the machine."""
    cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
    code = [cell for cell in cells if cell["cell_type"] == "code"]
    assert [cell["execution_count"] for cell in code] == list(range(1, len(code) + 1))
    assert path.stat().st_size < LARGEST
    outputs = [output for cell in code for output in cell["outputs"]]
    assert {(output["output_type"], output.get("name")) for output in outputs} == {("stream", "stdout"), ("display_data", None)}
    pictures = [base64.b64decode(output["data"].pop("image/png")) for output in outputs if "data" in output]
    assert len(pictures) >= 2
    for content in pictures:
        darkest, lightest = Image.open(io.BytesIO(content)).convert("L").getextrema()
        assert darkest < 128 < lightest
    text = json.dumps(cells, ensure_ascii=False)
    assert not PLACE.search(text)
    assert str(ROOT) not in text
    for pattern in SAYS[path.stem]:
        assert re.search(pattern, text), pattern


def test_all_are_listed() -> None:
    for ending in ("py", "ipynb"):
        assert sorted(path.stem for path in FOLDER.glob(f"*.{ending}")) == sorted(SAYS)


@pytest.mark.parametrize("name", SAYS)
def test_as_kept(name: str) -> None:
    check(FOLDER / f"{name}.ipynb")


@needs_jupyter
@pytest.mark.parametrize("name", SAYS)
def test_in_step(name: str) -> None:
    """`make notebooks` was called after the last change of the source."""
    import jupytext

    source, kept = (jupytext.read(FOLDER / f"{name}.{ending}") for ending in ("py", "ipynb"))
    assert [(cell.cell_type, cell.source) for cell in kept.cells] == [(cell.cell_type, cell.source) for cell in source.cells]


@needs_jupyter
@pytest.mark.parametrize("name", SAYS)
def test_executed(name: str, tmp_path: Path) -> None:
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    done = subprocess.run([sys.executable, str(ROOT / ".ci" / "make-notebooks.py"), str(tmp_path), name], env=environment,
                          capture_output=True, text=True)  # fmt: skip
    assert done.returncode == 0, done.stderr
    check(tmp_path / f"{name}.ipynb")
