"""`pas diff`: numbers that can be counted by hand, and refusals."""

from __future__ import annotations

import copy
import json
from pathlib import Path

import pytest
from matplotlib.image import imread
from results import RESULT

from pas import cli
from pas.architecture import Architecture
from pas.difference import AxisDifference, difference
from pas.errors import PasError

SIZES = {"stem": 8, "body.0": 4, "body.1": 10}
ONE = {"stem": (0, 1, 2, 3), "body.0": (0, 1, 2, 3), "body.1": (9,)}
OTHER = {"stem": (2, 3, 4, 5, 6, 7), "body.0": (0, 1, 2, 3), "body.1": (8,)}


def put(path: Path, kept: dict[str, tuple[int, ...]], sizes: dict[str, int] = SIZES) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(Architecture(sizes, kept).to_json())
    return path


@pytest.fixture
def pair(tmp_path: Path) -> tuple[Path, Path]:
    return put(tmp_path / "one.json", ONE), put(tmp_path / "other.json", OTHER)


def pas(capsys: pytest.CaptureFixture[str], *words: object) -> tuple[int, str, str]:
    with pytest.raises(SystemExit) as left:
        cli.main(["diff", *map(str, words)])
    out, err = capsys.readouterr()
    return left.value.code, out, err


def test_counted_by_hand(pair: tuple[Path, Path]) -> None:
    found = difference(*pair)
    assert found.axes == (
        AxisDifference("stem", 8, 4, 6, 2), AxisDifference("body.0", 4, 4, 4, 4), AxisDifference("body.1", 10, 1, 1, 0)
    )  # fmt: skip
    assert [axis.by_chance for axis in found.axes] == [3, 4, 0.1]
    assert [axis.same for axis in found.axes] == [False, True, False]
    assert found.jaccard == 6 / (8 + 4 + 2)
    assert found.jaccard_by_chance == pytest.approx(7.1 / (9 + 11 - 7.1))


def test_shown_and_as_json(pair: tuple[Path, Path], capsys: pytest.CaptureFixture[str]) -> None:
    code, out, err = pas(capsys, *pair)
    assert (code, err) == (1, "")
    cells = [[cell.strip() for cell in line.split("│")[1:-1]] for line in out.splitlines() if line.startswith("│")]
    assert cells == [["stem", "8", "4", "6", "2", "3.0"], ["body.0", "4", "4", "4", "4", "4.0"], ["body.1", "10", "1", "1", "0", "0.1"]]
    assert "2 of 3 axes differ; channels: 9 and 11 of 22, 6 in common" in out
    assert "Jaccard overlap 0.429 (0.550 by chance" in out
    assert "top-1" not in out
    code, out, err = pas(capsys, *pair, "--json")
    assert (code, err) == (1, "")
    data = json.loads(out)
    assert data["channels"] == {"size": 22, "a": 9, "b": 11, "common": 6}
    assert data["axes"][0] == {"name": "stem", "size": 8, "a": 4, "b": 6, "common": 2, "by_chance": 3.0}
    assert (data["equal"], data["differing"], data["a"]["costs"]) == (False, 2, None)


def test_equal_ones(pair: tuple[Path, Path], capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = pas(capsys, pair[0], pair[0])
    assert code == 0
    assert "0 of 3 axes differ" in out
    assert "Jaccard overlap 1.000" in out


def test_a_run_beside_a_bundle(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run, bundle = tmp_path / "run", tmp_path / "bundle"
    put(run / "architecture.json", ONE)
    (run / "result.json").write_text(json.dumps(RESULT))
    put(bundle / "architecture.json", OTHER)
    (bundle / "model.safetensors").write_bytes(b"")
    backbone = {"name": "x", "args": {}, "num_classes": 10, "in_chans": 1, "image_size": 32}
    searched = copy.deepcopy(RESULT["searched"]) | {"top1": 70.5, "macs": 44}
    (bundle / "config.json").write_text(json.dumps({"pas": {"schema": 1, "backbone": backbone, "searched": searched}}))
    code, out, _ = pas(capsys, run, bundle)
    assert code == 1
    assert "MACs: 49 and 44" in out
    assert "parameters: 10 and 10" in out
    assert "top-1: 89.00 % and 70.50 %" in out
    _, out, _ = pas(capsys, run, bundle, "--json")
    assert json.loads(out)["b"]["costs"] == {"macs": 44, "params": 10, "top1": 70.5}


def test_figure(pair: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, _, _ = pas(capsys, *pair, "--figure", tmp_path / "widths.png")
    assert code == 1
    image = imread(tmp_path / "widths.png")
    assert min(image.shape[:2]) > 300
    colours = {tuple(pixel) for pixel in (255 * image[::2, ::2, :3]).round().astype(int).reshape(-1, 3)}
    assert {(0x2F, 0x6F, 0x9F), (0xD1, 0x79, 0x3B), (0xD6, 0xDB, 0xE1)} <= colours  # both widths, and the dense ones behind them
    pas(capsys, *pair, "--figure", tmp_path / "widths.svg")
    assert "<svg" in (tmp_path / "widths.svg").read_text()


@pytest.mark.parametrize(
    ("sizes", "words"),
    [
        ({"stem": 8, "body.0": 5, "body.1": 10}, "axis 'body.0' has 4 channels in "),
        ({"stem": 8, "body.0": 4}, "one.json has an axis 'body.1'"),
        ({**SIZES, "body.2": 3}, "other.json has an axis 'body.2'"),
        ({"stem": 8, "body.1": 10, "body.0": 4}, "in another order"),
    ],
)
def test_other_networks_are_refused(sizes: dict[str, int], words: str, tmp_path: Path) -> None:
    one = put(tmp_path / "one.json", ONE)
    other = put(tmp_path / "other.json", dict.fromkeys(sizes, (0,)), sizes)
    with pytest.raises(PasError) as refusal:
        difference(one, other)
    assert str(refusal.value).startswith("these are different networks: ")
    assert words in str(refusal.value)
    assert "\n" not in str(refusal.value)


def test_trouble_is_told_in_one_line(pair: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "broken.json").write_text("{")
    for other, words in (("nowhere", "nothing at"), ("empty", "holds no architecture.json"), ("broken.json", "not an architecture")):
        code, out, err = pas(capsys, pair[0], tmp_path / other)
        assert (code, out) == (2, "")
        assert words in err
        assert err.count("\n") == 1
    code, _, err = pas(capsys, *pair, "--figure", tmp_path / "widths.docx")
    assert code == 2
    assert ".png, .svg, .pdf" in err
