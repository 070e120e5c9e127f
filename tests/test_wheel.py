"""The check that `make wheel` does on the content of a wheel, on archives made here."""

import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
INFO = {"pas-0.1.0.dist-info/entry_points.txt": "[console_scripts]\npas = pas.cli:main\n", "pas-0.1.0.dist-info/licenses/LICENSE": ""}


def whole() -> dict[str, str]:
    code = [path.relative_to(ROOT).as_posix() for ending in ("py", "css", "js") for path in (ROOT / "pas").rglob(f"*.{ending}")]
    conf = [f"pas/{path.relative_to(ROOT).as_posix()}" for path in (ROOT / "conf").rglob("*.yaml")]
    family = [path.relative_to(ROOT).as_posix() for path in (ROOT / "pas" / "family").glob("*/*")]
    return dict.fromkeys([*code, *conf, *family], "") | INFO


def check(files: dict[str, str], folder: Path) -> tuple[int, list[str]]:
    wheel = folder / "pas-0.1.0-py3-none-any.whl"
    with zipfile.ZipFile(wheel, "w") as archive:
        for name, text in files.items():
            archive.writestr(name, text)
    done = subprocess.run([sys.executable, str(ROOT / ".ci" / "check-wheel.py"), str(wheel)], capture_output=True, text=True)
    return done.returncode, done.stdout.splitlines()


def test_a_whole_wheel(tmp_path: Path) -> None:
    assert check(whole(), tmp_path) == (0, [f"{tmp_path / 'pas-0.1.0-py3-none-any.whl'} is complete"])


@pytest.mark.parametrize(
    ("without", "extra", "told"),
    [
        ("pas/conf/data/digits.yaml", None, "pas/conf/data/digits.yaml is missing"),
        ("pas/search.py", None, "pas/search.py is missing"),
        ("pas/report/html/style.css", None, "pas/report/html/style.css is missing"),
        (None, "tests/test_search.py", "tests/test_search.py doesn't belong there"),
        (None, "pas/__pycache__/search.cpython-311.pyc", "pas/__pycache__/search.cpython-311.pyc doesn't belong there"),
        ("pas-0.1.0.dist-info/licenses/LICENSE", None, "the licence is missing"),
    ],
)
def test_what_is_wrong_with_a_wheel(without: str | None, extra: str | None, told: str, tmp_path: Path) -> None:
    files = {name: text for name, text in whole().items() if name != without} | ({extra: ""} if extra else {})
    assert check(files, tmp_path) == (1, [told])
