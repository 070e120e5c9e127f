"""Whether a wheel holds all of the package and nothing else: python .ci/check-wheel.py dist/pas-*.whl"""

import sys
import zipfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent


def problems(wheel: Path) -> list[str]:
    """What is missing or doesn't belong there."""
    with zipfile.ZipFile(wheel) as archive:
        found = set(archive.namelist())
        info = next(name.partition("/")[0] for name in found if ".dist-info/" in name)
        entry_points = archive.read(f"{info}/entry_points.txt").decode()
    wanted = {path.relative_to(ROOT).as_posix() for ending in ("py", "css", "js") for path in (ROOT / "pas").rglob(f"*.{ending}")}
    wanted |= {f"pas/{path.relative_to(ROOT).as_posix()}" for path in (ROOT / "conf").rglob("*.yaml")}  # pas/conf is a link
    wanted |= {path.relative_to(ROOT).as_posix() for path in (ROOT / "pas" / "family").glob("*/*")}
    told = [f"{name} is missing" for name in sorted(wanted - found)]
    told += [f"{name} doesn't belong there" for name in sorted(found - wanted) if not name.startswith(f"{info}/")]
    if not any(name.startswith(info) and name.endswith("LICENSE") for name in found):
        told.append("the licence is missing")
    if "pas = pas.cli:main" not in entry_points:
        told.append("the command pas is missing")
    return told


if __name__ == "__main__":
    found = problems(Path(sys.argv[1]))
    print("\n".join(found) or f"{sys.argv[1]} is complete")
    sys.exit(bool(found))
