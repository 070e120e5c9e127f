"""The `pas` command: one verb, one job. What is heavy is imported by the verb that needs it."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from pas import __version__, verbs
from pas.errors import PasError, told
from pas.manual import COMPARE, SEARCH, groups
from pas.stop import Stopped, stoppable

MISSING = "; the same command goes on with what is missing"
HINTS = {"search": "; the same command goes on from the last checkpoint", "profile": MISSING, "compare": MISSING}
"""What to do after a stop."""


def main(arguments: Sequence[str] | None = None) -> None:
    """Run one verb. Exits with 2 and one line when what was asked for can't be done, with 130 after Ctrl-C, 143 after SIGTERM."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    try:
        with stoppable():
            code = _run(given)
    except BrokenPipeError:  # such as `pas inspect ... | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        code = 1
    except Stopped as stopped:
        where = f" at {stopped.where}" if stopped.where else ""
        hint = HINTS.get(given[0], "") if given else ""
        print(f"pas: stopped{where}{hint}", file=sys.stderr)
        code = stopped.exit_code
    except (PasError, OSError) as error:
        line = told(error)
        if line is None:
            raise
        print(f"pas: {line}", file=sys.stderr)
        code = 2
    sys.exit(code)


def _run(given: list[str]) -> int:
    if given[:1] == ["search"]:
        return _search(given[1:])
    if given[:1] == ["compare"]:
        return _compare(given[1:])
    options = _parser().parse_args(given)
    return options.verb(options)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="pas",
        description="Find the width of every layer of a network under a budget.",
        epilog="example: pas search budget.macs=0.3 (pas VERB --help says more)",
    )
    parser.add_argument("--version", action="version", version=f"pas {__version__}")
    group = parser.add_subparsers(title="verbs", metavar="VERB")
    parser.set_defaults(verb=lambda _: _help(parser))
    # listed here; `main` hands their arguments to Hydra before this parser sees them
    group.add_parser("search", help="search widths under a budget, fine-tune, write a bundle", add_help=False)
    group.add_parser("compare", help="many methods under one budget and recipe, over several seeds: one table", add_help=False)

    inspect = _verb(group, "inspect", verbs.inspect, "the axes of a network: sizes, where they live, what is frozen and why",
                    "pas inspect mobilenetv2_100 --image-size 64")  # fmt: skip
    _network(inspect)
    inspect.add_argument("--json", action="store_true", help="as JSON")
    inspect.add_argument("--axis", metavar="NAME",
                         help="all of one axis, or of each that a pattern such as 'blocks.*.heads' names")  # fmt: skip
    inspect.add_argument("--svg", type=Path, metavar="FILE", help="also draw the axes and the weights between them (.svg, .png or .pdf)")

    profile = _verb(group, "profile", verbs.profile, "measure the operators of a network at every width: a latency table",
                    "pas profile mobilenetv2_100 --batch 1 --threads 1")  # fmt: skip
    more = "Resumable: the same command goes on from where it was stopped. A search under latency does it by itself."
    profile.description = f"{profile.description} {more}"
    _network(profile)
    _conditions(profile)
    profile.add_argument("--out", type=Path, metavar="FILE", help="the table's file (default: one for these conditions below PAS_CACHE, or "
                         "~/.cache/pas)")  # fmt: skip

    benchmark = _verb(group, "benchmark", verbs.benchmark,
                      "the latency of a network, or of a bundle or published network beside its dense parent",
                      "pas benchmark runs/RUN/bundle --threads 2")  # fmt: skip
    _network(benchmark, bundles=True)
    _conditions(benchmark)
    benchmark.add_argument("--repeats", type=_several, default=50, metavar="N", help="rounds, in which every network runs: at least 6, of "
                           "which an interval can be told (default: 50)")  # fmt: skip
    benchmark.add_argument("--json", action="store_true", help="as JSON")

    evaluate = _verb(group, "evaluate", verbs.evaluate, "top-1 and top-5 of a bundle on the test split of a data set",
                     "pas evaluate runs/RUN/bundle --data digits")  # fmt: skip
    evaluate.add_argument("bundle", metavar="BUNDLE", type=Path,
                          help="a folder that pas search wrote, runs/RUN/bundle, or a published name")  # fmt: skip
    evaluate.add_argument(
        "--data", required=True, metavar="NAME", help="digits, fashion_mnist, cifar10, cifar100 or imagefolder"
    )
    evaluate.add_argument("--entry", metavar="package.module:function", help="what makes the dense network, where it was your own")
    evaluate.add_argument("--root", metavar="FOLDER", help="where the data is (default: the environment's PAS_DATA)")

    report = _verb(
        group, "report", verbs.report, "a page for a browser, results.csv, results.md and all figures of a folder of runs",
        "pas report runs/"
    )
    report.description = f"{report.description} Every run has a report.html of its own, too; each is one file that needs no other."
    report.add_argument("runs", metavar="RUNS", type=Path, help="the folder that holds the runs, or the folder of one run")

    publish = _verb(group, "publish", verbs.publish, "a finished run's network under a public name, with a model card",
                    "pas publish runs/RUN --name pas_vgg_s.digits --formats pt2 int8")  # fmt: skip
    publish.add_argument("run", metavar="RUN", type=Path, help="the folder of a finished run: runs/RUN")
    publish.add_argument("--name", required=True, metavar="ARCH[.TAG]", help="as in timm: the network, and the recipe of its weights")
    publish.add_argument("--out", type=Path, default=Path("published"), metavar="FOLDER", help="where the folder ARCH.TAG goes; pas.load "
                         "and timm find it by its name when PAS_MODELS names FOLDER (default: published)")  # fmt: skip
    publish.add_argument("--formats", nargs="+", default=["onnx"], metavar="FORMAT", help="onnx (always written), pt2 (a program of "
                         "torch.export), int8 (for ONNX Runtime; calibrated and measured on the run's data)")  # fmt: skip
    publish.add_argument("--licence", metavar="TEXT", help="of the data (default: what is known of it)")
    publish.add_argument("--root", metavar="FOLDER", help="where the data is, for int8 (default: as in the run, or PAS_DATA)")
    publish.add_argument("--entry", metavar="package.module:function", help="what makes the dense network, where it was your own")
    publish.add_argument("--force", action="store_true", help="replace another network of that name, or one with more formats")

    table = _verb(group, "table", verbs.table, "a table of the project's experiments, from the results that lie beside it",
                  "pas table search_cost")  # fmt: skip
    table.description = (
        f"{table.description} Nothing is trained: means over seeds come from result files, published numbers with their sources from "
        "table.yaml. Prints Markdown, and writes table.md, table.csv and, where a figure helps, table.png beside it."
    )
    table.add_argument("name", metavar="NAME", nargs="?", help="a folder below experiments/ that holds a table.yaml")
    table.add_argument("--list", action="store_true", help="name the tables, and how many of this project's rows have been run")
    table.add_argument("--runs", type=Path, nargs="+", default=[], metavar="FOLDER", help="folders to look for results in, beside those "
                       "that the table names: runs/ of pas search, for one")  # fmt: skip
    table.add_argument("--folder", type=Path, metavar="FOLDER", help="the experiments (default: experiments/ here or above)")

    diff = _verb(group, "diff", verbs.diff, "what two searches of one network decided differently, axis by axis",
                 "pas diff runs/RUN runs/OTHER --figure widths.png")  # fmt: skip
    diff.description = f"{diff.description} Exits with 0 when they are equal, 1 when they differ, 2 on trouble."
    for side in ("a", "b"):
        diff.add_argument(side, metavar=side.upper(), type=Path, help="an architecture.json, a run's folder, a bundle, a published name")
    diff.add_argument("--json", action="store_true", help="as JSON")
    diff.add_argument("--figure", type=Path, metavar="FILE", help="draw both widths of every axis (.png, .svg or .pdf)")
    return parser


def _network(verb: argparse.ArgumentParser, *, bundles: bool = False) -> None:
    """The arguments that name a network."""
    one = verb.add_mutually_exclusive_group(required=not bundles)
    if bundles:
        words = "a folder that pas search wrote (runs/RUN/bundle), a published name, or any name of timm"
        verb.add_argument("model", metavar="BUNDLE_OR_MODEL", nargs="?", help=words)
    else:
        one.add_argument("model", metavar="MODEL", nargs="?", help="a timm name, or one of pas.models")
    one.add_argument(
        "--entry", metavar="package.module:function", help="a network of your own; called with num_classes and in_chans"
    )
    one.add_argument("--onnx", metavar="FILE", help="a network in an ONNX file, which knows its number of classes")
    verb.add_argument(
        "--image-size", type=_positive, metavar="PIXELS", help="a side of the image (default: the network's own)"
    )
    verb.add_argument(
        "--num-classes", type=_positive, metavar="N", help="logits of the classifier (default: 1000; an ONNX file has its own)"
    )
    verb.add_argument("--in-chans", type=_positive, default=3, metavar="N", help="channels of the image (default: 3)")


def _conditions(verb: argparse.ArgumentParser) -> None:
    """The arguments that say how latency is measured."""
    verb.add_argument("--runtime", default="onnxruntime", metavar="NAME", help="onnxruntime (default; on the CPU), torch, or compile")
    verb.add_argument("--batch", type=_positive, default=1, metavar="N", help="images at once (default: 1)")
    verb.add_argument("--threads", type=_positive, default=1, metavar="N", help="threads of the CPU (default: 1)")
    verb.add_argument("--device", default="cpu", metavar="NAME", help="cpu, or cuda for torch's runtimes (default: cpu)")
    verb.add_argument("--layout", default="NCHW", metavar="NAME", help="NCHW or channels_last, for torch's runtimes (default: NCHW)")
    verb.add_argument(
        "--dtype", default="float32", metavar="NAME", help="float32 (default), bfloat16 or float16, for torch's runtimes"
    )
    verb.add_argument("--spread", type=float, default=0.05, metavar="SHARE", help="the largest 95 %% interval of a ratio (of a network "
                      "alone: of its time) that counts as measured (default: 0.05)")  # fmt: skip


def _help(parser: argparse.ArgumentParser) -> int:
    parser.print_help()
    return 0


def _verb(
    group: argparse._SubParsersAction[argparse.ArgumentParser],
    name: str,
    run: Callable[[argparse.Namespace], int],
    what: str,
    example: str,
) -> argparse.ArgumentParser:
    parser = group.add_parser(
        name, help=what, description=what[0].upper() + what[1:] + ".", epilog=f"example: {example}"
    )
    parser.set_defaults(verb=run)
    return parser


def _positive(text: str) -> int:
    if not text.isdigit() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number of at least 1")
    return int(text)


def _several(text: str) -> int:
    if _positive(text) < 6:  # the widest interval of five values holds their median in 94 of 100 cases
        raise argparse.ArgumentTypeError("an interval of 95 % needs at least 6 rounds")
    return int(text)


def _search(arguments: list[str]) -> int:
    if {"-h", "--help"} & set(arguments):
        print(SEARCH.format(groups=groups()), end="")
        return 0
    from pas.launch import launch

    return launch(arguments)


def _compare(arguments: list[str]) -> int:
    if {"-h", "--help"} & set(arguments):
        print(COMPARE.format(groups=groups()), end="")
        return 0
    from pas.compare import compare

    return compare(arguments)
