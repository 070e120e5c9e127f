"""The command that makes a run again: the overrides that lead from the default configuration to the one in a run's folder."""

from __future__ import annotations

import copy
import json
import re
import shlex
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from functools import lru_cache
from pathlib import Path
from typing import Any

import yaml

from pas.compose import CONF, compose
from pas.errors import PasError, first_line

SILENT = ("compare", "paths", "logger", "dry_run")
"""Sections that change no result."""
WITHIN = ("bundle", "architecture.json")
"""What of a run a search can start from."""
PLAIN = re.compile(r"(?!(?:null|true|false|yes|no|on|off|nan|inf)$)[A-Za-z_/][\w./:%@-]*", re.IGNORECASE)
"""Text that Hydra reads as such without quotes."""


def command(file: Path, *, elsewhere: bool = False) -> str:
    """What to type in a shell for the configuration of a run's `config.yaml`. `elsewhere`: for somebody on another machine, without the
    folders of this one, files by their names.

    Raises PasError when it can't be read, or when no command of this version gives it, which is tried.
    """
    wanted = settings(file)
    try:
        return shlex.join(["pas", "search", *overrides(_elsewhere(wanted) if elsewhere else wanted)])
    except (PasError, OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise PasError(f"{file.name} is of another version: {first_line(error)}") from error


def settings(file: Path) -> Any:
    """What a run's `config.yaml` holds. Raises PasError when it can't be read."""
    try:
        return yaml.safe_load(file.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise PasError(f"there is no {file.name}") from None
    except (OSError, ValueError, yaml.YAMLError, RecursionError) as error:
        raise PasError(f"{file.name} can't be read: {first_line(error)}") from error


def _elsewhere(wanted: Mapping[str, Any]) -> dict[str, Any]:
    found = copy.deepcopy(dict(wanted))
    found["data"]["root"] = found["cost"]["table"] = None
    for section, name in (("model", "weights"), ("model", "path"), ("options", "start")):
        if found[section].get(name) is not None:
            found[section][name] = _last(Path(found[section][name]))
    return found


def _last(path: Path) -> str:
    """A file or a run by its name; of what lies in every run alike, with the run's."""
    parts = path.parts
    count = next((n for n, part in enumerate(reversed(parts), 1) if part not in WITHIN), len(parts))
    return str(Path(*parts[-count:]))


def overrides(wanted: Mapping[str, Any]) -> list[str]:
    """The fewest choices and values that compose to `wanted`, a whole configuration as plain data. Raises PasError where none do."""
    leaves = {key: value for key, value in _leaves(wanted) if key.partition(".")[0] not in (*SILENT, "seed")}
    found = _choices(wanted)
    for section in ("hardware.", ""):  # what trainings take over from the hardware needs no override of its own
        base = _composed(tuple(found))
        found += [_override(key, value, base) for key, value in leaves.items() if key.startswith(section) and base.get(key, ...) != value]
    composed = _composed(tuple(found))
    wrong = [key for key, value in leaves.items() if composed.get(key, ...) != value]
    wrong += [key for key in composed if key.startswith("model.args.") and key not in leaves]
    if wrong:
        raise PasError(f"no override gives this {wrong[0]}")
    return found + ([f"seed={_written(wanted['seed'])}"] if wanted["seed"] else [])


def _choices(wanted: Mapping[str, Any]) -> list[str]:
    """The files of `conf/` that come nearest, and what these can't be composed without."""
    model, method, budget = wanted["model"], wanted["method"], wanted["budget"]
    chosen = {"model": model["name"], "data": wanted["data"]["name"], "method": method["name"], "cost": wanted["cost"]["runtime"]}
    chosen["budget"] = next((kind for kind, amount in budget.items() if amount is not None), "macs")
    if (CONF / "hardware" / f"{wanted['hardware']['device']}.yaml").exists():
        chosen["hardware"] = wanted["hardware"]["device"]
    default = _default()
    found = [f"{group}={name}" for group, name in chosen.items() if default[group] != name]
    found += [_override(f"model.{key}", model[key], {f"model.{key}": None}) for key in ("entry", "path") if model.get(key) is not None]
    if method.get("source") is not None:  # the files of controls name one, which is replaced; to others it is added
        control = "method@source" in (CONF / "method" / f"{method['name']}.yaml").read_text(encoding="utf-8")
        found.append(f"{'' if control else '+'}method@method.source={method['source']['name']}")
    return found


@lru_cache
def _default() -> dict[str, str]:
    """The choice of every group that is composed when nothing is said."""
    entries = yaml.safe_load((CONF / "config.yaml").read_text(encoding="utf-8"))["defaults"]
    return {group: name for one in entries if isinstance(one, Mapping) for group, name in one.items()}


@lru_cache
def _composed(chosen: tuple[str, ...]) -> dict[str, Any]:
    """The values of a configuration by their paths; kept, as the runs of a sweep share most of theirs."""
    return dict(_leaves(asdict(compose(chosen))))


def _leaves(values: Mapping[str, Any], path: str = "") -> Iterator[tuple[str, Any]]:
    """(path, value) of everything that is no mapping."""
    for name, value in values.items():
        if isinstance(value, Mapping):
            yield from _leaves(value, f"{path}{name}.")
        else:
            yield f"{path}{name}", value


def _override(key: str, value: Any, base: Mapping[str, Any]) -> str:
    return f"{'' if key in base else '+'}{key}={_written(value)}"


def _written(value: Any) -> str:
    """A value in Hydra's grammar."""
    if isinstance(value, Sequence) and not isinstance(value, str):
        return f"[{','.join(map(_written, value))}]"
    if isinstance(value, str):
        return value if PLAIN.fullmatch(value) else _quoted(value)
    return json.dumps(value)


def _quoted(text: str) -> str:
    """A backslash is itself in Hydra's grammar unless a quote follows."""
    return '"' + re.sub(r'(\\*)("|$)', lambda found: 2 * found[1] + ('\\"' if found[2] else ""), text) + '"'
