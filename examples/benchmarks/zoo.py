"""Time `jit_init` on models that others wrote, against eager init and `jax.jit`.

    pip install "flax_inits[zoo]" "transformers<5"
    python examples/benchmarks/zoo.py --list            # the models, and which packages are missing
    python examples/benchmarks/zoo.py                   # all of them; some ten minutes
    python examples/benchmarks/zoo.py --only brax NNX --repeats 3
    python examples/benchmarks/zoo.py --markdown --plot zoo.png

Each figure is of a process of its own, from the call to the last leaf, imports excluded and
compilation included; medians over `--repeats`. "programs" and "MiB" are what `jax.jit` / `jit_init`
compiled, and the peak of memory beyond the params.
"""

import argparse
import json
import platform
from importlib import metadata

import cold
import zoo_haiku_nnx  # noqa: F401
import zoo_linen  # noqa: F401
from zoo_registry import LEFT_OUT, MODELS

METHODS = ("eager", "jit", "jit_init")
COLUMNS = ("package", "model", "system", "params", "leaves", "eager", "jax.jit", "jit_init",
           "against jit", "against eager", "bits", "programs", "MiB")  # fmt: skip
WIDTHS = (18, 25, 7, 10, 7, 9, 9, 9, 12, 14, 10, 12, 0)


def version(package):
    """What is installed of a package, or None."""
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def chosen(only):
    """The models whose package, system or name holds one of these strings."""
    text = {name: f"{m.package} {m.system} {name}".lower() for name, m in MODELS.items()}
    return [n for n in MODELS if not only or any(part.lower() in text[n] for part in only)]


def measure(name, method):
    """Runs one method in this process and prints what it took as JSON."""
    fun, args = MODELS[name].make()
    print(json.dumps(cold.measure(fun, args, method)))


def results(name, repeats):
    """The median of each method, or the last line of what stopped it."""
    runs = {}
    for method in METHODS:
        try:
            runs[method] = cold.median(
                [cold.in_fresh_process(__file__, name, method) for _ in range(repeats)]
            )
        except RuntimeError as error:
            return f"{method}: {str(error).strip().splitlines()[-1]}"
    return runs


def different(runs):
    """Paths of leaves that are not those of `jax.jit`, bit for bit."""
    ours, jit = runs["jit_init"]["digests"], runs["jit"]["digests"]
    return sorted(path for path in ours.keys() | jit.keys() if ours.get(path) != jit.get(path))


def marked(name):
    """The name, with a dagger if init needs the forward pass."""
    return name + " †" * MODELS[name].first_batch


def cells(name, runs):
    """One row of the table, as text."""
    eager, jit, ours = (runs[method] for method in METHODS)
    mebibytes = [f"{runs[method]['extra'] / 2**20:.0f}" for method in ("jit", "jit_init")]
    return (
        MODELS[name].package,
        marked(name),
        MODELS[name].system,
        f"{ours['params'] / 1e6:.3g} M" if ours["params"] >= 1e5 else f"{ours['params']:,}",
        str(ours["leaves"]),
        *(f"{run['total']:.2f} s" for run in (eager, jit, ours)),
        f"{jit['total'] / ours['total']:.1f}x",
        f"{eager['total'] / ours['total']:.1f}x",
        "DIFFERENT" if different(runs) else "equal",
        f"{jit['programs']} / {ours['programs']}",
        " / ".join(mebibytes),
    )


def line(row, markdown):
    if markdown:
        return "| " + " | ".join(row) + " |"
    return "".join(cell.ljust(width) for cell, width in zip(row, WIDTHS, strict=True))


def findings(measured):
    """Lines on what was not faster and on what was not equal."""
    for name, runs in measured.items():
        ours = runs["jit_init"]
        for method in ("jit", "eager"):
            if runs[method]["total"] < ours["total"]:
                yield (f"{name} ({ours['params']:,} params): slower than {method}, "
                       f"{ours['total']:.2f} s against {runs[method]['total']:.2f} s")  # fmt: skip
        paths = different(runs)
        if paths:
            yield f"{name}: {len(paths)} leaves differ from jax.jit: {', '.join(paths[:5])}"


def plot(measured, file):
    """Draws how many times faster, against `jax.jit` and against eager, on a log axis."""
    import matplotlib.pyplot as plt

    def ratio(runs, method):
        return runs[method]["total"] / runs["jit_init"]["total"]

    order = sorted(measured, key=lambda name: ratio(measured[name], "jit"))
    figure, axes = plt.subplots(figsize=(8, 1 + 0.26 * len(order)), layout="constrained")
    for method, marker in (("jit", "o"), ("eager", "x")):
        label = {"jit": "against jax.jit", "eager": "against eager"}[method]
        axes.scatter([ratio(measured[n], method) for n in order], order, marker=marker, label=label)
    axes.axvline(1, color="grey", linewidth=1)
    axes.set_xscale("log", base=2)
    axes.xaxis.set_major_formatter("{x:g}x")
    axes.set_xlabel("times faster with jit_init")
    axes.set_yticks(order, [f"{marked(name)}  ({MODELS[name].system})" for name in order])
    axes.grid(axis="x", which="both", alpha=0.3)
    axes.margins(y=0.01)
    axes.legend(loc="lower right")
    figure.savefig(file, dpi=120)


def show_list(names):
    for name in names:
        found = version(MODELS[name].package) or "NOT INSTALLED"
        print(f"{MODELS[name].package:19}{found:15}{MODELS[name].system:7}{name}")


def show_missing(names, failed):
    """Says what is not in the table, and why."""
    for name in names:
        if not version(MODELS[name].package):
            print(f"NOT MEASURED {name}: {MODELS[name].package} is not installed")
    for name, reason in failed.items():
        print(f"NOT MEASURED {name}: {reason}")
    for package, reason in LEFT_OUT.items():
        print(f"left out {package}: {reason}")


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", nargs="+", help="parts of packages, systems or names of models")
    parser.add_argument("--list", action="store_true", help="list models, measure nothing")
    parser.add_argument("--repeats", type=int, default=1, help="processes per figure")
    parser.add_argument("--markdown", action="store_true", help="print the table as the guide's")
    parser.add_argument("--plot", metavar="FILE", help="write a picture of the ratios")
    parser.add_argument("--measure", nargs=2, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.measure:
        return measure(*options.measure)
    names = chosen(options.only)
    if not names:
        parser.error(f"no model's package, system or name holds any of {options.only}")
    if options.list:
        show_list(names)
        return show_missing(names, {})
    measured, failed = {}, {}
    for name in names:
        if not version(MODELS[name].package):
            continue
        runs = results(name, options.repeats)
        if isinstance(runs, str):
            failed[name] = runs
            continue
        if not measured:
            versions = ", ".join(f"{p} {version(p)}" for p in ("jax", "jaxlib", "flax"))
            print(f"{runs['jit']['device']}, {versions}, Python {platform.python_version()}\n")
            print(line(COLUMNS, options.markdown))
            if options.markdown:
                print("|" + "---|" * len(COLUMNS))
        measured[name] = runs
        print(line(cells(name, runs), options.markdown), flush=True)
    if any(MODELS[name].first_batch for name in measured):
        print("\n† init needs the forward pass: statistics of a first batch are among its values.")
    print()
    for finding in findings(measured):
        print(finding)
    show_missing(names, failed)
    if options.plot and measured:
        plot(measured, options.plot)


if __name__ == "__main__":
    main()
