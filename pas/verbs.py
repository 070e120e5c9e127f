"""What each verb of the `pas` command does with its arguments; the exit code. What is heavy is imported by the verb that needs it."""

from __future__ import annotations

import argparse
import sys
from typing import TYPE_CHECKING

from pas.errors import PasError

if TYPE_CHECKING:
    from pas.cost.conditions import Conditions
    from pas.wanted import Wanted


def inspect(options: argparse.Namespace) -> int:
    """Show the axes of a network."""
    import json

    from rich.console import Console

    from pas import inspection

    if options.svg is not None:
        from pas.report.figures import checked

        checked(options.svg)
    wanted = _wanted(options)
    name, found = wanted.label, inspection.inspect(wanted)
    if options.json:
        print(json.dumps(inspection.as_json(name, found, options.axis), indent=1))
    elif options.axis is not None:
        inspection.show_axis(found, options.axis, Console())
    else:
        inspection.show(name, found, Console())
    if options.svg is not None:
        from pas.report.drawing import draw

        draw(found, options.svg, inspection.title(name, found))
        print(f"wrote {options.svg}", file=sys.stderr)
    return 0


def profile(options: argparse.Namespace) -> int:
    """Measure a latency table, and show where the time goes."""
    from rich.console import Console

    from pas import profiling

    wanted = _wanted(options)
    found = profiling.profile(wanted, _conditions_of(options), options.out, Console(stderr=True))
    profiling.show(wanted.label, found, Console())
    return 0


def benchmark(options: argparse.Namespace) -> int:
    """Time a network, or a bundle beside its parent."""
    import json

    from rich.console import Console

    from pas import benchmark

    wanted = _wanted(options)
    if not wanted.label:
        raise PasError("give a bundle's folder, a published name or a timm name: pas benchmark BUNDLE_OR_MODEL")
    found = benchmark.benchmark(wanted, _conditions_of(options), repeats=options.repeats)
    name = wanted.name or wanted.label
    if options.json:
        print(json.dumps(benchmark.as_json(name, found), indent=1))
    else:
        benchmark.show(name, found, Console())
    return 0


def evaluate(options: argparse.Namespace) -> int:
    """Measure a bundle on a test split."""
    from pas.publish.evaluate import evaluate
    from pas.publish.names import located
    from pas.publish.sealed import read_config

    metrics = evaluate(options.bundle, options.data, options.root, options.entry)
    trained = read_config(located(options.bundle))["pas"].get("data", options.data)
    if trained != options.data:
        print(f"pas: {options.bundle} was searched on {trained}, not {options.data}", file=sys.stderr)
    print(
        f"{options.data}: top-1 {metrics.top1:.2f} %, top-5 {metrics.top5:.2f} %, loss {metrics.loss:.4f} over {metrics.n} test images"
    )
    return 0


def publish(options: argparse.Namespace) -> int:
    """Write the published bundle of a run."""
    import shlex

    from rich.console import Console

    from pas.publish.names import folder_of
    from pas.publish.publication import publish

    progress = Console(stderr=True)
    folder = publish(
        options.run,
        options.name,
        options.out,
        formats=options.formats,
        terms=options.licence,
        root=options.root,
        entry=options.entry,
        force=options.force,
        say=lambda line: progress.print(line, markup=False, highlight=False),
    )
    for file in sorted(folder.iterdir()):
        print(file)
    known = folder_of(options.name)
    if known is None or known.resolve() != folder.resolve():
        line = f"export PAS_MODELS={shlex.quote(str(options.out.resolve()))}"
        progress.print(f"pas.load, timm and pas find it by its name after: {line}", markup=False, highlight=False, soft_wrap=True)
    return 0


def diff(options: argparse.Namespace) -> int:
    """Compare two architectures: 0 when they are equal, else 1."""
    import json

    from rich.console import Console

    from pas import difference

    found = difference.difference(options.a, options.b)
    if options.figure:
        difference.draw(found, options.figure)
    if options.json:
        print(json.dumps(difference.as_json(found), indent=1))
    else:
        difference.show(found, Console())
    return 0 if found.equal else 1


def report(options: argparse.Namespace) -> int:
    """Write the pages, tables and figures of a folder of runs, or of one run."""
    from rich.console import Console

    from pas.report import page

    for path in page.write(options.runs, Console(stderr=True)):
        print(path)
    return 0


def table(options: argparse.Namespace) -> int:
    """Make a table of the experiments again, or list those that there are."""
    from pas import tables

    folder = tables.experiments(options.folder)
    if options.list:
        names, failed = tables.names(folder), False
        width = max(map(len, names))
        for name in names:
            try:
                made = tables.make(folder, name, options.runs)
            except PasError as error:
                failed = True
                print(f"{name:{width}}  pas: {error}")
                continue
            filled, rows = made.filled
            print(f"{name:{width}}  {filled} of {rows} rows run  {made.table.title}")
        return 2 if failed else 0
    if options.name is None:
        raise PasError("say which table: pas table NAME; pas table --list names them")
    text, files = tables.write(tables.make(folder, options.name, options.runs))
    print(text, end="")
    for file in files:
        print(f"wrote {file}", file=sys.stderr)
    return 0


def _wanted(options: argparse.Namespace) -> Wanted:
    """The network that was named."""
    from pas.wanted import Wanted

    if options.onnx and options.num_classes:
        raise PasError("an ONNX file has its own number of classes: leave out --num-classes")
    classes = options.num_classes or 1000
    return Wanted(options.model, options.entry, options.onnx, options.image_size, classes, options.in_chans)


def _conditions_of(options: argparse.Namespace) -> Conditions:
    from pas.cost.conditions import Conditions

    return Conditions(options.runtime, options.batch, options.threads, options.device, options.layout, options.dtype, options.spread)
