"""Every file of conf/ composes; what doesn't fit is refused in one line; a run's key says what changes its result."""

import dataclasses
from pathlib import Path

import pytest

from pas.compose import CONF, compose, compose_all, groups
from pas.config import Config, RecipeConfig
from pas.errors import PasError
from pas.keys import dense_key, run_key
from pas.methods import DEFAULTS, METHODS
from pas.train.recipe import Recipe

CHOICES = [
    (group, file.stem)
    for group in groups()
    for file in sorted((CONF / group).glob("*.yaml"))
]  # fmt: skip


DEFAULT = "repvgg_nano-digits-pas-macs0.5-s0-c1a3538b"


def test_a_limit_on_latency_alone_takes_the_place_of_the_macs() -> None:
    assert vars(compose(["budget.latency=8 ms"]).budget) == {"macs": None, "params": None, "latency": "8 ms"}
    assert vars(compose(["budget=latency"]).budget) == {"macs": None, "params": None, "latency": 0.5}
    assert vars(compose(["budget.latency=0.5", "budget.macs=0.4"]).budget) == {"macs": 0.4, "params": None, "latency": 0.5}
    assert vars(compose(["budget.latency=0.5", "budget.params=0.4"]).budget) == {"macs": None, "params": 0.4, "latency": 0.5}
    assert compose(["budget.latency=null"]).budget.macs == 0.5
    assert [job.budget.latency for job in compose_all(["budget.latency=0.5,0.7"])] == [0.5, 0.7]
    assert [job.budget.macs for job in compose_all(["budget.latency=0.5,0.7"])] == [None, None]


def test_what_latency_brought_along_changes_no_names_of_other_runs() -> None:
    """The name of the default run is the one that it had before there were latency budgets, layouts, tables and steps of the hardware."""
    assert run_key(compose()) == DEFAULT
    assert run_key(compose(["options.snap=none", "cost.table=/tmp/table.jsonl"])) == DEFAULT
    under = run_key(compose(["budget.latency=0.5"]))
    assert under.startswith("repvgg_nano-digits-pas-latency0.5-s0-")
    assert run_key(compose(["budget.latency=0.5", "options.snap=none"])) != under
    assert run_key(compose(["budget.latency=0.5", "cost.table=/tmp/table.jsonl"])) == under
    assert run_key(compose(["cost=torch", "cost.layout=channels_last"])) != run_key(compose(["cost=torch"]))


def test_default():
    config = compose()
    assert isinstance(config, Config)
    assert (config.model.name, config.data.name, config.method.name) == ("repvgg_nano", "digits", "pas")
    assert (config.budget.macs, config.budget.params, config.logger.name) == (0.5, None, None)
    assert isinstance(config.train.search.weight_decay, float)


@pytest.mark.parametrize(("group", "choice"), CHOICES)
def test_every_choice_composes(group: str, choice: str, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("PAS_DATA", "/data")
    needs = {"python": ["model.entry=nets:make"], "onnx": ["model.path=net.onnx"]}.get(choice, [])
    config = compose([f"{group}={choice}", *needs])
    if group in ("model", "data", "method", "task"):
        assert getattr(config, group).name == choice


def test_recipe_has_the_fields_of_the_training():
    assert {f.name for f in dataclasses.fields(RecipeConfig)} == {f.name for f in dataclasses.fields(Recipe)}
    for stage in ("dense", "search", "finetune"):
        assert isinstance(Recipe(**vars(getattr(compose().train, stage))), Recipe)


def test_methods_files_hold_the_defaults():
    for name in METHODS:
        assert compose([f"method={name}"]).method.options == DEFAULTS[name]


def test_any_timm_name_is_a_model():
    assert compose(["model=resnet50.a1_in1k"]).model.name == "resnet50.a1_in1k"
    assert [config.model.name for config in compose_all(["model=repvgg_nano,repvgg_a0,resnet18"])] == [
        "repvgg_nano",
        "repvgg_a0",
        "resnet18",
    ]


def test_training_follows_the_data_unless_it_is_chosen():
    assert compose(["data=cifar100"]).train == compose(["data=cifar10"]).train != compose().train
    assert compose(["data=cifar10", "train=digits"]).train == compose().train


def test_hardware_sets_the_precision_of_all_stages_and_a_stage_its_own():
    train = compose(["hardware.precision=bf16", "train.search.precision=fp32", "hardware.compile=true"]).train
    assert (train.dense.precision, train.search.precision, train.finetune.precision) == ("bf16", "fp32", "bf16")
    assert train.dense.compile is True


def test_model_arguments_and_kept_layers():
    config = compose(["+model.args.drop_rate=0.1", "options.keep=[stem,head.*]", "budget.macs=300 M"])
    assert (config.model.args, config.options.keep, config.budget.macs) == (
        {"drop_rate": 0.1},
        ["stem", "head.*"],
        "300 M",
    )


@pytest.mark.parametrize(
    ("override", "words"),
    [
        # keys
        ("foo=1", "foo: there is no such setting; choose from budget"),
        ("image_size=48", "image_size: there is no such setting; did you mean data.image_size?"),
        ("+foo=1", "foo: there is no such setting; choose from model"),
        ("modl=x", "modl: there is no such setting; did you mean model"),
        ("train.serch.lr=1", "train.serch: there is no such setting; did you mean search?"),
        ("train.search.lrr=1", "train.search.lrr: there is no such setting; did you mean lr?"),
        ("+train.search.lrr=1", "train.search.lrr: there is no such setting; did you mean lr?"),
        ("method.options.gatelr=1", "method.options.gatelr: there is no such setting; did you mean gate_lr?"),
        ("model.args.drop_rate=1", "write +model.args.drop_rate=VALUE"),
        # choices
        ("data=cifr10", "data=cifr10: did you mean cifar10 or cifar100?"),
        ("method=oracle", "method=oracle: choose from depgraph, dms, dtp, given, gumbel, halp, l0, magnitude"),
        ("budget=0.3", "budget=0.3: choose from latency, macs, params (a number is set with budget.macs=0.3)"),
        ("data=null", "data=null: choose from cifar10, cifar100"),
        ("model=python", "model=python needs model.entry=package.module:function"),
        # types
        ("seed=1.5", "seed=1.5: must be a whole number"),
        ("seed=null", "seed=null: a value is needed"),
        ("train.search.lr=abc", "train.search.lr=abc: must be a number"),
        ("method.options.gate_lr=abc", "method.options.gate_lr=abc: must be a number"),
        ("data.flip=3", "data.flip=3: must be true or false"),
        ("data.flip=maybe", "data.flip=maybe: must be true or false"),
        ("options.keep=stem", "options.keep: must be a list, options.keep=[one,two]"),
        ("budget.macs=true", "budget.macs=True: must be a share in (0, 1]"),
        ("budget.macs=[1]", "budget.macs=[1]: must be a share in (0, 1]"),
        # ranges
        ("budget.macs=0", "budget.macs=0: must be a share in (0, 1]"),
        ("budget.macs=-1", "budget.macs=-1: must be a share in (0, 1]"),
        ("budget.macs=1.5", "budget.macs=1.5: must be a share in (0, 1]"),
        ("budget.latency=8 parsecs", "budget.latency=8 parsecs: must be a share in (0, 1], milliseconds above 1, or text"),
        ("options.snap=yes", "options.snap=yes: must be one of hardware, none"),
        ("cost.runtime=tvm", "cost.runtime=tvm: must be one of onnxruntime, torch, compile"),
        ("budget.params=lots", "budget.params=lots: must be a share in (0, 1]"),
        ("budget.macs=null", "budget: set budget.macs, budget.params or budget.latency"),
        ("seed=-1", "seed=-1: must be a number of at least 0"),
        ("options.min_width=0", "options.min_width=0: must be a number of at least 1"),
        ("data.val_fraction=1", "data.val_fraction=1.0: must be a number of at least 0 and below 1"),
        ("train.dense.lr=0", "train.dense.lr=0.0: must be a number above 0"),
        ("train.dense.lr=inf", "train.dense.lr=inf: must be a number above 0"),
        ("train.dense.lr=nan", "train.dense.lr=nan: must be a number above 0"),
        ("train.search.epochs=-1", "train.search.epochs=-1: must be a number of at least 0"),
        ("train.dense.schedule=cos", "train.dense.schedule=cos: must be one of cosine, step, none"),
        ("hardware.device=gpu", "hardware.device=gpu: must be auto, cpu, cuda or cuda:N"),
        ("hardware.precision=fp16", "hardware.precision=fp16: must be one of fp32, bf16"),
        ("model.entry=nets.make", "model.entry=nets.make: must be package.module:function, or null"),
        ("method.options.warmup=2", "method.options.warmup=2: must be a number from 0 to 1"),
        ("logger.mode=live", "logger.mode=live: must be one of offline, online, disabled"),
        ("hydra/launcher=128", "hydra/launcher=128: Config group override must be a string"),
        ("experiment=3", "experiment=3: choose from"),
        ("experiment=[1,2]", "experiment=[1,2]: choose from"),
        ("logger=null", "logger=null: choose from wandb"),
        # syntax
        ("train.search.lr", "train.search.lr: can't be read; write KEY=VALUE"),
        ("budget.macs=(3", "budget.macs=(3: can't be read; write KEY=VALUE"),
        ("budget.latency='8 ms", "budget.latency='8 ms: can't be read; write KEY=VALUE, a text with blanks or commas in quotes that end"),
        ("cost.dtype=bfloat16", "cost.dtype=bfloat16: ONNX Runtime runs float32; set cost.runtime=torch or compile"),
        ("budget.macs=0.3,0.5", "budget.macs=0.3,0.5: add -m to run a sweep"),
    ],
)  # fmt: skip
def test_refused_in_one_line(override: str, words: str):
    with pytest.raises(PasError) as refused:
        compose([override])
    assert words in str(refused.value)
    assert "\n" not in str(refused.value)


def test_missing_environment_is_named(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.delenv("PAS_DATA", raising=False)
    with pytest.raises(PasError, match=r"^model.weights refers to PAS_DATA, which the environment doesn't have"):
        compose(["experiment=cifar10_resnet20"])


def test_a_sweep_is_checked_job_by_job():
    found = compose_all(["budget.macs=0.3,0.5", "seed=range(3)", "hydra.verbose=true"])
    assert [(config.budget.macs, config.seed) for config in found] == [(b, s) for b in (0.3, 0.5) for s in range(3)]
    with pytest.raises(PasError, match=r"^budget.macs=7.5: must be"):
        compose_all(["budget.macs=0.3,7.5"])


def test_a_sweep_over_an_experiment_of_ones_own(tmp_path: Path):
    (tmp_path / "experiment").mkdir()
    (tmp_path / "experiment" / "mine.yaml").write_text("# @package _global_\nbudget:\n  macs: 0.4\n")
    found = compose_all([f"hydra.searchpath=[file://{tmp_path}]", "experiment=mine", "seed=0,1"])
    assert [(config.budget.macs, config.seed) for config in found] == [(0.4, 0), (0.4, 1)]


def test_key_is_of_values_not_of_their_spelling():
    assert run_key(compose()) == run_key(compose(["budget.macs=5e-1", "seed=0", "model=repvgg_nano"]))
    assert run_key(compose()).startswith("repvgg_nano-digits-pas-macs0.5-s0-")
    assert run_key(compose(["budget.macs=300 M"])).startswith("repvgg_nano-digits-pas-macs300M-s0-")
    assert run_key(compose(["model=python", "model.entry=my.nets:make"])).startswith("my.nets_make-digits-")


@pytest.mark.parametrize(
    "override",
    [
        "paths.runs=elsewhere",
        "data.root=/somewhere",
        "logger=wandb",
        "hardware.threads=1",
        "hardware.device=cpu",
        "hardware.workers=0",
    ],
)
def test_key_leaves_out_where_it_runs(override: str):
    assert run_key(compose([override])) == run_key(compose())


@pytest.mark.parametrize(
    "override",
    ["seed=1", "method.options.gate_lr=0.3", "train.finetune.epochs=1", "data.subset=500", "hardware.precision=bf16"],
)
def test_key_changes_with_what_changes_the_result(override: str):
    assert run_key(compose([override])) != run_key(compose())


def test_weights_count_by_what_they_hold(tmp_path):
    def key(name: str, content: bytes) -> str:
        (tmp_path / name).write_bytes(content)
        return run_key(compose([f"model.weights={tmp_path / name}"]))

    assert key("a.th", b"one") == key("b.th", b"one") != key("c.th", b"other")
    assert key("a.th", b"retrained") != key("b.th", b"one")
    assert run_key(compose(["model.weights=/a/missing.th"])) == run_key(compose(["model.weights=/b/missing.th"]))


def test_runs_share_the_dense_parent():
    key = dense_key(compose())
    assert key == dense_key(
        compose(["budget.macs=0.3", "method=uniform", "train.search.epochs=1", "options.round_to=8"])
    )
    assert key not in {
        dense_key(compose([one]))
        for one in ("seed=1", "train.dense.epochs=1", "model=resnet18", "data.val_fraction=0.2")
    }
