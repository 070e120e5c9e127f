"""The configuration as plain, typed, checked dataclasses. `conf/` fills them in; `pas/compose.py` reads `conf/`.

Every field knows what it may be: a value outside of it is refused when a `Config` is made, in one line that names the field.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pas.errors import PasError
from pas.rule import ABOVE_ZERO, BELOW_ONE, BUDGET, LATENCY_BUDGET, TEXT, at_least, check, checked_options, one_of, or_none, rule

METHODS = tuple(sorted(file.stem for file in (Path(__file__).resolve().parent / "conf" / "method").glob("*.yaml")))
SPLITS = ("val", "test")
CALIBRATIONS = ("train", "noise", "digits", "fashion_mnist", "cifar10", "cifar100", "imagefolder")


@dataclass(kw_only=True)
class ModelConfig:
    """`name`: a timm name. `weights`: a file of weights. `entry`: `package.module:function` of a person's own network.

    `path`: an ONNX file, whose weights are where training starts.
    """

    name: str = field(metadata=TEXT)
    args: dict[str, Any] = field(default_factory=dict)
    pretrained: bool = False
    weights: str | None = None
    entry: str | None = field(
        default=None, metadata=or_none(rule(lambda v: re.fullmatch(r"[\w.]+:\w+", v) is not None, "package.module:function"))
    )
    path: str | None = None

    @property
    def label(self) -> str:
        """The network by the one word that says most."""
        return self.entry or (self.name if self.path is None else Path(self.path).name)


@dataclass(kw_only=True)
class DataConfig:
    """`root`: null means the environment's PAS_DATA. `subset`: so many training images. Sizes are in pixels.

    `calibration`: what methods look at before the first step: `train`, images of the task; another set's; or `noise`, which is none at all.
    `split`: what results are measured on: `val`, cut from the training images, while one chooses; `test` at the very end.
    """

    name: str = field(metadata=TEXT)
    root: str | None = None
    image_size: int | None = field(default=None, metadata=or_none(at_least(4)))
    val_fraction: float = field(metadata=BELOW_ONE)
    split: str = field(default="test", metadata=one_of(*SPLITS))
    calibration: str = field(default="train", metadata=one_of(*CALIBRATIONS))
    subset: int | None = field(default=None, metadata=or_none(at_least(1)))
    crop_padding: int = field(metadata=at_least(0))
    flip: bool
    cutout: int = field(metadata=at_least(0))


@dataclass(kw_only=True)
class SourceConfig:
    """A method whose widths another one takes over."""

    name: str = field(metadata=TEXT)
    options: dict[str, Any] = field(default_factory=dict)


@dataclass(kw_only=True)
class MethodConfig:
    """`options` are the method's own; its file in `conf/method` lists them all with their defaults.

    `source`: of a control such as `random`, the method whose run under the same settings gives the widths.
    """

    name: str = field(metadata=TEXT)
    options: dict[str, Any] = field(default_factory=dict)
    source: SourceConfig | None = None


@dataclass(kw_only=True)
class BudgetConfig:
    """Each limit is a share of the dense cost, a number, or text with a unit; null sets none. MACs are those of the fused form, latency is
    that of a batch under the conditions of `cost`.
    """

    # Any: Hydra can't merge a field whose type is a union; the rule checks the type too
    macs: Any = field(metadata=BUDGET)
    params: Any = field(metadata=BUDGET)
    latency: Any = field(default=None, metadata=LATENCY_BUDGET)


@dataclass(kw_only=True)
class CostConfig:
    """How latency is measured, at the end and where it is limited: median of `repeats` batches of `batch` images, after `warmup` of them.

    `layout` and `dtype`: how torch's runtimes keep images in memory, and in which numbers they compute. `table`: a latency table of
    `pas profile`; null measures what is missing.
    `spread`: the largest 95 % interval of a ratio that counts as measured, where latency is limited.
    """

    runtime: str = field(metadata=one_of("onnxruntime", "torch", "compile"))
    batch: int = field(metadata=at_least(1))
    threads: int = field(metadata=at_least(1))
    repeats: int = field(metadata=at_least(3))
    warmup: int = field(metadata=at_least(0))
    layout: str = field(default="NCHW", metadata=one_of("NCHW", "channels_last"))
    dtype: str = field(default="float32", metadata=one_of("float32", "bfloat16", "float16"))
    table: str | None = None
    spread: float = field(default=0.05, metadata=ABOVE_ZERO)


@dataclass(kw_only=True)
class RecipeConfig:
    """One training; the fields are those of `pas.train.Recipe`. The last three follow the hardware unless a stage sets its own."""

    epochs: int = field(metadata=at_least(0))
    batch_size: int = field(metadata=at_least(1))
    optimizer: str = field(metadata=TEXT)
    lr: float = field(metadata=ABOVE_ZERO)
    momentum: float = field(default=0.9, metadata=BELOW_ONE)
    weight_decay: float = field(metadata=at_least(0))
    schedule: str = field(metadata=one_of("cosine", "step", "none"))
    warmup_epochs: float = field(default=0.0, metadata=at_least(0))
    min_lr: float = field(default=0.0, metadata=at_least(0))
    label_smoothing: float = field(default=0.0, metadata=BELOW_ONE)
    mixup: float = field(default=0.0, metadata=at_least(0))
    cutmix: float = field(default=0.0, metadata=at_least(0))
    ema: float = field(default=0.0, metadata=BELOW_ONE)
    clip_grad: float = field(default=0.0, metadata=at_least(0))
    accumulate: int = field(default=1, metadata=at_least(1))
    milestones: list[float] = field(
        default_factory=lambda: [0.5, 0.75],
        metadata=rule(lambda v: all(0 < x < 1 for x in v) and sorted(v) == list(v), "rising shares of the steps between 0 and 1"),
    )
    decay_norms: bool = False
    distill: float = field(default=0.0, metadata=rule(lambda v: 0 <= v <= 1, "a number from 0 to 1"))
    temperature: float = field(default=4.0, metadata=ABOVE_ZERO)
    precision: str = field(default="${hardware.precision}", metadata=one_of("fp32", "bf16"))
    channels_last: bool = "${hardware.channels_last}"  # type: ignore[assignment]
    compile: bool = "${hardware.compile}"  # type: ignore[assignment]


@dataclass(kw_only=True)
class TrainConfig:
    """The three stages. `dense.epochs: 0` takes the weights as they are, `finetune.epochs: 0` (with `search.epochs: 0`, where the method
    decides before the first step) leaves the cut network as it is.
    """

    dense: RecipeConfig
    search: RecipeConfig
    finetune: RecipeConfig


@dataclass(kw_only=True)
class OptionsConfig:
    """`keep`: patterns of axes or modules left whole. Widths are never below `min_width` and are multiples of `round_to`. Where latency is
    limited, `snap: hardware` keeps them to the steps that the latency table shows.

    `shrink`: shares of the search's steps at which the channels that can't be expected back are cut out for good.
    `start`: an architecture.json, a run's folder, a bundle or a published network whose channels the search starts from.
    """

    keep: list[str] = field(default_factory=list)
    min_width: int = field(metadata=at_least(1))
    round_to: int = field(metadata=at_least(1))
    start: str | None = None
    snap: str = field(default="hardware", metadata=one_of("hardware", "none"))
    shrink: list[float] = field(
        default_factory=list, metadata=rule(lambda v: all(0 < x < 1 for x in v), "a list of shares between 0 and 1")
    )


@dataclass(kw_only=True)
class TaskConfig:
    """What is learnt."""

    name: str = field(metadata=one_of("classification"))


@dataclass(kw_only=True)
class LoggerConfig:
    """A tracker that mirrors `metrics.jsonl`, or none. `group` gathers runs there; null means the run's name without its seed."""

    name: str | None = field(default=None, metadata=one_of("wandb", None))
    project: str = field(default="pas", metadata=TEXT)
    mode: str = field(default="offline", metadata=one_of("offline", "online", "disabled"))
    group: str | None = None


@dataclass(kw_only=True)
class HardwareConfig:
    """`threads`: 0 leaves torch's choice. `workers`: processes that decode image files.
    `checkpoint_seconds`: time between two checkpoints. `sync_norm`: of several processes, batch norms see the images of
    all, as in one; otherwise each sees its own. `precision`, `channels_last` and `compile` are what the three stages of
    `train` use unless they say otherwise, and thereby part of a run's key; the others are not."""

    device: str = field(metadata=rule(lambda v: re.fullmatch(r"auto|cpu|cuda(:\d+)?", v) is not None, "auto, cpu, cuda or cuda:N"))
    threads: int = field(metadata=at_least(0))
    workers: int = field(metadata=at_least(0))
    checkpoint_seconds: float = field(metadata=at_least(0))
    precision: str = field(metadata=one_of("fp32", "bf16"))
    channels_last: bool
    compile: bool
    sync_norm: bool


@dataclass(kw_only=True)
class PathsConfig:
    """`runs`: the folder that holds a folder a run, relative to the current directory."""

    runs: str = field(metadata=TEXT)


@dataclass(kw_only=True)
class CompareConfig:
    """What `pas compare` runs: all `rows` in all `cells`, both label -> overrides, for all `seeds`; it changes no run.

    `baselines`: labels of the rows of which the best one is what the others are held against; null means uniform and magnitude, where they
    are rows. `processes`: runs at a time. `folder`: where the table, its figure and copies of the results go; null means a folder in
    `comparisons`, named by a digest of rows and cells.
    """

    rows: dict[str, list[str]] = field(default_factory=dict)
    cells: dict[str, list[str]] = field(default_factory=dict)
    seeds: list[int] = field(default_factory=lambda: [0, 1, 2], metadata=rule(lambda v: len(v) > 0, "a list of seeds"))
    baselines: list[str] | None = None
    processes: int = field(default=1, metadata=at_least(1))
    folder: str | None = None


@dataclass(kw_only=True)
class Config:
    """All of a run. Raises PasError when a value is outside of its range.

    `dry_run`: `pas search` says what the run would do instead of doing it; no part of the run's key.
    """

    model: ModelConfig
    data: DataConfig
    method: MethodConfig
    budget: BudgetConfig
    cost: CostConfig
    hardware: HardwareConfig
    train: TrainConfig
    task: TaskConfig
    options: OptionsConfig
    logger: LoggerConfig = field(
        default_factory=LoggerConfig
    )  # logger=null is no choice, so the class's own values stand
    compare: CompareConfig = field(default_factory=CompareConfig)
    paths: PathsConfig
    seed: int = field(metadata=at_least(0))
    dry_run: bool = False

    @property
    def given(self) -> bool:
        """Whether the dense parent's weights are named, so that there is nothing to train."""
        model = self.model
        return self.train.dense.epochs == 0 or model.weights is not None or model.path is not None or model.pretrained

    def __post_init__(self) -> None:
        check(self, "")
        if self.model.name == "python" and self.model.entry is None:
            raise PasError("model=python needs model.entry=package.module:function")
        if (self.model.name == "onnx") != (self.model.path is not None):
            raise PasError("model=onnx and model.path=FILE.onnx belong together: set both")
        if all(amount is None for amount in vars(self.budget).values()):
            raise PasError("budget: set budget.macs, budget.params or budget.latency, for example budget.macs=0.5")
        for one in (self.method, self.method.source):
            if one is not None and one.name not in METHODS:  # else its options would be held against nothing
                raise PasError(f"no method {one.name!r}; there are {', '.join(METHODS)}")
        self.method.options = checked_options(self.method.options, "method.options", self.method.name)
        if self.method.source is not None:
            source = self.method.source
            source.options = checked_options(source.options, "method.source.options", source.name)
            if self.method.source.name == "given":
                raise PasError("method.source=given: the widths of a file come by method=given options.start=FILE, without a control")
            if self.options.start is not None:
                raise PasError(f"options.start: method={self.method.name} takes its widths from method.source; use method=given")
        if self.data.split == "val" and not self.data.val_fraction:
            raise PasError("data.split=val: needs data.val_fraction above 0")
        if self.cost.runtime == "onnxruntime":
            for name, own in (("layout", "NCHW"), ("dtype", "float32")):
                if getattr(self.cost, name) != own:
                    raise PasError(f"cost.{name}={getattr(self.cost, name)}: ONNX Runtime runs {own}; set cost.runtime=torch or compile")
        if self.method.name == "scratch" and not self.train.dense.epochs:
            raise PasError("method=scratch trains for the dense parent's epochs and more: set train.dense.epochs to them")
        if self.train.search.ema:
            raise PasError("train.search.ema: an average over gates that open and close is no network; set train.finetune.ema")
        if self.train.dense.distill:
            raise PasError("train.dense.distill: the dense parent has no teacher; set it for train.search or train.finetune")
