"""What waits for an import."""

from __future__ import annotations

import importlib
import importlib.util
import sys
from pathlib import Path

import pytest

from pas.after_import import after_import


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    (tmp_path / "waited_for").mkdir()
    (tmp_path / "waited_for" / "__init__.py").write_text("loaded = True\n")
    (tmp_path / "waited_for" / "inside.py").write_text("")
    monkeypatch.syspath_prepend(tmp_path)
    for name in ("waited_for", "waited_for.inside"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    return "waited_for"


def test_once_it_is_imported(package: str) -> None:
    called, finders = [], list(sys.meta_path)
    after_import(package, lambda: called.append(sys.modules[package].loaded))
    assert importlib.util.find_spec(package).loader.is_package(package)  # looking for it is not importing it
    assert called == []
    importlib.import_module(f"{package}.inside")
    assert called == [True]
    assert sys.meta_path == finders
    module = sys.modules[package]
    assert module.__loader__ is module.__spec__.loader
    assert module.__loader__.get_source(package) == "loaded = True\n"
    after_import(package, lambda: called.append("at once"))
    assert called == [True, "at once"]


def test_a_package_that_fails_is_waited_for_again(package: str, tmp_path: Path) -> None:
    called, file = [], tmp_path / package / "__init__.py"
    after_import(package, lambda: called.append(1))
    file.write_text("raise ImportError('broken')\n")
    with pytest.raises(ImportError, match="broken"):
        importlib.import_module(package)
    assert called == []
    file.write_text("loaded = True  # mended\n")
    importlib.import_module(package)
    assert called == [1]
