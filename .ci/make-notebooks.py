"""Make the notebooks from their sources and execute them: python .ci/make-notebooks.py FOLDER [NAME ...]"""

import os
import sys
from pathlib import Path
from tempfile import TemporaryDirectory

import jupytext
import nbformat
from nbclient import NotebookClient
from traitlets.config import Config

from pas.disk import write_text

SOURCES = Path(__file__).resolve().parent.parent / "notebooks"
METADATA = {
    "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
    "language_info": {"name": "python", "file_extension": ".py", "pygments_lexer": "ipython3"},
}


def executed(source: Path) -> nbformat.NotebookNode:
    """The notebook with its outputs, run from the first cell to the last in a kernel of its own, whose temporary folder is empty at first.

    What depends on chance or on the clock (the names of cells, the times of execution) is left out.
    """
    notebook = jupytext.read(source)
    for number, cell in enumerate(notebook.cells):
        cell["id"] = f"cell-{number}"
    with TemporaryDirectory() as folder:
        sockets = Config({"KernelManager": {"transport": "ipc", "ip": f"{folder}/socket"}})  # no open ports
        client = NotebookClient(
            notebook, kernel_name="python3", timeout=None, startup_timeout=600, record_timing=False, coalesce_streams=True, config=sockets
        )
        client.execute(cwd=folder, env={**os.environ, "TMPDIR": folder})
    notebook.metadata = nbformat.from_dict(METADATA)
    return notebook


if __name__ == "__main__":
    folder, *names = sys.argv[1:]
    for source in [SOURCES / f"{name}.py" for name in names] or sorted(SOURCES.glob("*.py")):
        path = Path(folder, source.stem + ".ipynb")
        print(f"{path}: executing", end="", flush=True)
        write_text(path, nbformat.writes(executed(source)) + "\n")
        print(f", {path.stat().st_size / 1000:.0f} kB", flush=True)
