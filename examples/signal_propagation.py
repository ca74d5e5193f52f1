"""Signal propagation: fifty layers under four initializations, with what flax_inits says of each.

    python examples/signal_propagation.py
    python examples/signal_propagation.py --picture signal.png --depth 50

Each panel is the classic figure: a column per layer, darker where more of its activations are, for
inputs of variance 1. The lines are the sizes of activations and gradients, on a logarithmic axis. A
network can learn if both stay within a few powers of ten. It needs matplotlib, and takes about a
minute.
"""

import argparse
from collections.abc import Callable

import flax.linen as nn
import jax
import matplotlib
import numpy as np
from rich.console import Console
from rich.table import Table

import flax_inits

BLUE, RED, GREEN = "#1d6996", "#c1121f", "#3e7d32"

INITS = {
    "normal(0.01)": flax_inits.normal(0.01),
    "uniform(-1, 1)": flax_inits.uniform(-1, 1),
    "he_normal()": flax_inits.he_normal(),
    "lsuv": flax_inits.orthogonal(),
}
EDGES = np.linspace(-3.05, 3.05, 62)  # of the histograms in a signal's rows


class Deep(nn.Module):
    """Layers of equal width, and a small head."""

    activation: Callable[[jax.Array], jax.Array]
    kernel_init: Callable[..., jax.Array]
    depth: int
    width: int

    @nn.compact
    def __call__(self, x):
        """Outputs for a batch of vectors."""
        for i in range(self.depth):
            x = nn.Dense(self.width, kernel_init=self.kernel_init, name=f"layer_{i}")(x)
            x = self.activation(x)
        return nn.Dense(10, name="head")(x)


def report(activation, name, depth, width):
    """How signal passes through a network with these activations and this initialization."""
    x = jax.random.normal(jax.random.key(0), (256, width))
    model = Deep(activation, INITS[name], depth, width)
    variables = flax_inits.jit_init(model.init)(jax.random.key(1), x)
    if name == "lsuv":
        variables = flax_inits.lsuv(jax.random.key(2), model, variables, x)
    return flax_inits.signal(model, variables, x)


def said(verdicts):
    """What is wrong, in a few words."""
    lines = [f"{v.kind} {v.quantity}: {v.layer.replace('_', ' ')}" for v in verdicts]
    return "\n".join(lines) or "healthy"


def draw(axes, sizes, signal):
    """Histograms by depth, and below them both sizes."""
    rows = [row for row in signal.rows if row.enters]
    counts = np.array([row.histogram for row in rows], float).T
    columns = np.arange(len(rows) + 1) - 0.5
    axes.pcolormesh(
        columns, EDGES, np.sqrt(counts / counts.sum(axis=0)), cmap="Blues", vmin=0, vmax=0.6
    )
    for values, color in (
        ([np.hypot(row.mean or 0, row.std or 0) for row in rows], BLUE),
        ([row.gradient for row in rows], RED),
    ):
        values = np.array(values)
        known = np.isfinite(values) & (values > 0)
        sizes.plot(np.arange(len(rows))[known], values[known], color=color, linewidth=1.8)
    sizes.set_yscale("log")
    sizes.set_ylim(1e-12, 1e12)
    sizes.set_yticks([1e-8, 1, 1e8])
    sizes.minorticks_off()
    sizes.grid(axis="y", linewidth=0.4)
    sick = bool(signal.verdicts)
    axes.text(
        0.97, 0.04, said(signal.verdicts), transform=axes.transAxes, ha="right", fontsize=8,
        color=RED if sick else GREEN, weight="bold",
    )  # fmt: skip


def picture(reports, file):
    """Initializations from left to right, activation functions from top to bottom."""
    matplotlib.use("Agg")
    from matplotlib import pyplot

    names = list(dict.fromkeys(activation for activation, _ in reports))
    figure, grid = pyplot.subplots(
        2 * len(names), len(INITS), figsize=(10.5, 6.4), dpi=80, layout="constrained",
        sharex=True, sharey="row", height_ratios=[3, 1.3] * len(names),
    )  # fmt: skip
    for (activation, name), signal in reports.items():
        row, column = 2 * names.index(activation), list(INITS).index(name)
        draw(grid[row, column], grid[row + 1, column], signal)
        if row == 0:
            grid[row, column].set_title(name, fontsize=11, family="monospace")
        if column == 0:
            grid[row, column].set_ylabel(activation, fontsize=11)
            grid[row + 1, column].set_ylabel("size", fontsize=9)
    for axes in grid[-1]:
        axes.set_xlabel("layer", fontsize=9)
    figure.legend(
        handles=[pyplot.Line2D([], [], color=BLUE), pyplot.Line2D([], [], color=RED)],
        labels=["size of the activations", "size of the gradients"],
        loc="outside lower center", ncols=2, frameon=False, fontsize=9,
    )  # fmt: skip
    figure.savefig(file)
    pyplot.close(figure)


def main():
    """Reports on all networks, draws them, and says what was found."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--picture", default="signal.png", help="where to save the picture")
    parser.add_argument("--depth", type=int, default=50, help="layers before the head")
    parser.add_argument("--width", type=int, default=128, help="units of a layer")
    options = parser.parse_args()

    table = Table(title=f"{options.depth} layers of {options.width} units")
    for column in ("activation", "initialization", "what flax_inits.signal finds"):
        table.add_column(column)
    reports = {}
    for activation in (nn.tanh, nn.relu):
        for name in INITS:
            found = report(activation, name, options.depth, options.width)
            reports[activation.__name__, name] = found
            lines = "\n".join(map(str, found.verdicts)) or "nothing wrong"
            table.add_row(activation.__name__, name, lines)
    Console().print(table)
    picture(reports, options.picture)
    print(f"The picture is in {options.picture}")


if __name__ == "__main__":
    main()
