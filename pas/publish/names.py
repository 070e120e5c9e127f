"""Published networks by name, `arch` or `arch.tag` as in timm: which there are, and where their bundles lie.

They come with the package, in `pas/family`, or lie in a folder that the environment's PAS_MODELS names (several are separated as in PATH).
In either, the folder of a bundle is called by its whole name.
"""

from __future__ import annotations

import difflib
import os
import re
import warnings
from pathlib import Path

from pas.errors import PasError

FAMILY = Path(__file__).resolve().parent.parent / "family"
NAME = re.compile(r"[a-z][a-z0-9_]*(\.[a-z0-9_]+)?")


def checked(name: str) -> str:
    """The name that somebody chose. Raises PasError when it isn't arch or arch.tag."""
    if not NAME.fullmatch(name):
        raise PasError(f"--name {name}: must be ARCH or ARCH.TAG in small letters, digits and _, for example pas_vgg_s.digits")
    return name


def published() -> dict[str, Path]:
    """Name -> folder, sorted, so that the first of an arch is the one without a tag. Folders of PAS_MODELS come before the package's; one
    that can't be read is passed over with a warning.
    """
    found: dict[str, Path] = {}
    for where in (*filter(None, os.environ.get("PAS_MODELS", "").split(os.pathsep)), str(FAMILY)):
        try:
            configs = [config for config in Path(where).expanduser().glob("*/config.json") if config.is_file()]
        except (OSError, RuntimeError, ValueError) as error:  # too long a name, a home of nobody
            warnings.warn(f"{where[:80]} of PAS_MODELS is passed over: {error}", stacklevel=2)
            continue
        for config in configs:
            if NAME.fullmatch(config.parent.name):
                found.setdefault(config.parent.name, config.parent)
    return dict(sorted(found.items()))


def folder_of(name: str) -> Path | None:
    """The folder of a published network, an arch alone being its first tag; None when nothing is published under that name."""
    known = published()
    return next((folder for one, folder in known.items() if name in (one, one.partition(".")[0])), None)


def located(name_or_folder: str | Path) -> Path:
    """The folder of a bundle: a path stays what it is, a name (an arch alone: of its first tag) is looked up.

    Raises PasError for what is no folder, and nearly a name.
    """
    text = str(name_or_folder)
    if Path(text).exists() or not NAME.fullmatch(text):
        return Path(text)
    folder = folder_of(text)
    if folder is not None:
        return folder
    known = published()
    near = difflib.get_close_matches(text, known, n=4) or [name for name in known if name.partition(".")[0] == text.partition(".")[0]]
    if near:
        where = "" if os.environ.get("PAS_MODELS") else " PAS_MODELS=FOLDER isn't set, so only those of the package are known."
        raise PasError(f"no published network is called {text!r}: did you mean {', '.join(near)}?{where}")
    return Path(text)
