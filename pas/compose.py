"""From `conf/` and overrides to a checked `Config`, with Hydra. What doesn't fit becomes a PasError of one line."""

from __future__ import annotations

import itertools
import os
import re
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, fields, is_dataclass
from pathlib import Path
from typing import Any

from hydra import compose as hydra_compose
from hydra import initialize_config_dir
from hydra.core.config_store import ConfigStore
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from pas.config import Config
from pas.errors import PasError
from pas.refusal import near, refusal

CONF = Path(__file__).resolve().parent / "conf"
VERSION_BASE = "1.3"
SWEEPER = "hydra._internal.core_plugins.basic_sweeper.BasicSweeper"


def compose(overrides: Sequence[str] = ()) -> Config:
    """The configuration that `pas search` would run with these overrides.

    >>> compose(["model=repvgg_a0", "data=cifar10", "budget.macs=0.3"])

    Raises PasError for whatever doesn't fit: an unknown group, choice or key, a value of a wrong type or outside of its range.
    """
    overrides = completed(overrides)
    register(overrides)
    with explained(overrides):
        parsed = parse(overrides)
        with initialize_config_dir(str(CONF), version_base=VERSION_BASE):
            node = hydra_compose("config", list(overrides))
        _check_booleans(parsed, node)
        return to_config(node)


def completed(overrides: Sequence[str]) -> list[str]:
    """The overrides, with ``budget=latency`` where they limit latency and say nothing of the MACs, which are limited by default."""
    given = {key.lstrip("+"): value for key, _, value in (override.partition("=") for override in overrides)}
    if given.get("budget.latency", "null") == "null" or given.keys() & {"budget", "budget.macs"}:
        return list(overrides)
    place = next(i for i, override in enumerate(overrides) if override.lstrip("+").startswith("budget.latency="))
    return [*overrides[:place], "budget=latency", *overrides[place:]]


def jobs(overrides: Sequence[str]) -> list[tuple[str, ...]]:
    """The overrides of all jobs of a sweep, in Hydra's order. What a sweeper draws by itself is left at its default."""
    register(overrides)
    with explained(overrides):
        choices = [_choices(one) for one in parse(overrides)]
    return list(itertools.product(*(values for values in choices if values)))


def compose_all(overrides: Sequence[str]) -> list[Config]:
    """The configurations of `jobs`."""
    return [compose(job) for job in jobs(overrides)]


@dataclass(frozen=True)
class Launcher:
    """What starts the jobs of a sweep: the class of `hydra/launcher` with its settings, of which `named` were set on the command line.

    `at_once`: jobs at a time (`hydra.sweeper.max_batch_size`), or None. `plain`: Hydra's own sweeper decides which jobs there are, by the
    command line alone: they are those of `jobs`.
    """

    target: str
    settings: dict[str, Any]
    named: frozenset[str]
    at_once: int | None
    plain: bool


def launcher(overrides: Sequence[str]) -> Launcher:
    """The launcher that the overrides of a sweep choose. Raises PasError for one that isn't there, or a setting that it doesn't have."""
    job = jobs(overrides)[0]
    with explained(overrides):
        own = {one.key_or_group: one.input_line or "" for one in parse(overrides) if _of_hydra(one) and one.input_line not in job}
        with initialize_config_dir(str(CONF), job_name="pas", version_base=VERSION_BASE):
            node = hydra_compose("config", [*job, *own.values()], return_hydra_config=True).hydra
        container = OmegaConf.to_container(node.launcher, resolve=True)
    assert isinstance(container, dict)
    settings = {str(key): value for key, value in container.items()}
    target, plain = settings.pop("_target_"), node.sweeper._target_ == SWEEPER and not node.sweeper.params
    named = frozenset(key.removeprefix("hydra.launcher.") for key in own)
    return Launcher(target, settings, named, node.sweeper.max_batch_size if plain else None, plain)


def to_config(node: DictConfig) -> Config:
    """What Hydra composed, as plain dataclasses."""
    with explained(()):
        config = OmegaConf.to_object(node)
    assert isinstance(config, Config)
    _check_added(config, "")
    return config


def parse(overrides: Sequence[str]) -> list[Override]:
    """Overrides as Hydra reads them. Raises PasError where a group is given something else than the name of a choice."""
    parsed = OverridesParser.create().parse_overrides(list(overrides))
    for one in parsed:
        group, value = one.key_or_group, one.value()
        names = value if isinstance(value, list) else [value]
        if group not in groups() or one.is_sweep_override() or one.is_delete() or all(isinstance(name, str) for name in names):
            continue
        known = sorted(file.stem for file in (CONF / group).glob("*.yaml"))
        first = "macs" if "macs" in known else known[0]
        hint = f" (a number is set with {group}.{first}={value})" if isinstance(value, float | int) else ""
        raise PasError(f"{one.input_line}: choose from {', '.join(known)}{hint}")
    return parsed


def register(overrides: Iterable[str]) -> None:
    """Make known to Hydra the schema, and every model that is asked for by a name without a file in conf/model."""
    store = ConfigStore.instance()
    store.store(name="schema", node=Config)
    for override in overrides:
        key, _, text = override.partition("=")
        for name in re.findall(r"[\w.\-]+", text) if key == "model" else ():
            if not os.path.exists(CONF / "model" / f"{name}.yaml") and name != "null":
                store.store(group="model", name=name, node={"name": name})


def groups() -> list[str]:
    """The groups of `conf/`."""
    return sorted(folder.name for folder in CONF.iterdir() if folder.is_dir())


@contextmanager
def explained(overrides: Sequence[str]) -> Iterator[None]:
    """Turn what Hydra and OmegaConf raise about these overrides into a PasError of one line."""
    try:
        yield
    except (HydraException, OmegaConfBaseException) as error:
        raise PasError(refusal(error, lambda where: _keys(where, overrides))) from error
    except ValueError as error:  # Hydra's, about values that are no names of choices: it doesn't say which
        raise PasError(f"{', '.join(overrides)}: {' '.join(str(error).split())}") from error


def _choices(override: Override) -> list[str]:
    """All values of one override of a sweep; none where it says nothing about the run itself."""
    if _of_hydra(override) and override.key_or_group != "hydra.searchpath":
        return []
    if not override.is_sweep_override():
        return [override.input_line or ""]
    if not override.is_discrete_sweep():
        return []
    return [f"{override.get_key_element()}={value}" for value in override.sweep_string_iterator()]


def _of_hydra(override: Override) -> bool:
    """Whether it says something to Hydra, and nothing about a run; but for the folders where a run's files are looked for."""
    return override.is_hydra_override() or override.key_or_group.startswith("hydra/")


def _check_booleans(parsed: Sequence[Override], node: DictConfig) -> None:
    """OmegaConf takes every number for true or false; here `data.flip=3` is a mistake."""
    for one in parsed:
        value = None if one.is_sweep_override() else one.value()
        number = isinstance(value, int | float) and not isinstance(value, bool)
        if number and isinstance(OmegaConf.select(node, one.key_or_group), bool):
            raise PasError(f"{one.key_or_group}={value}: must be true or false")


def _check_added(config: Any, path: str) -> None:
    """`+KEY=VALUE` adds to a schema what nobody would read."""
    known = [one.name for one in fields(config)]
    for name, value in vars(config).items():
        if name not in known:
            raise PasError(f"{path}{name}: there is no such setting; {near(name, known)}")
        if is_dataclass(value):
            _check_added(value, f"{path}{name}.")


def _keys(where: str, overrides: Sequence[str]) -> list[str]:
    """The settings under `where`, with the groups chosen as in the overrides where that is possible."""
    if not where:
        return sorted({*groups(), *(one.name for one in fields(Config))})
    chosen = [one for one in overrides if one.partition("=")[0] in (*groups(), "hydra/launcher") and "," not in one]
    with initialize_config_dir(str(CONF), version_base=VERSION_BASE):
        try:
            node = OmegaConf.select(hydra_compose("config", chosen, return_hydra_config=True), where)
        except (HydraException, OmegaConfBaseException):
            return []
    return [str(key) for key in node] if isinstance(node, DictConfig) else []
