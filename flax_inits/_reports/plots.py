"""Figures of the reports, by matplotlib, which is an extra."""

from typing import Any

import numpy as np

from .measures import EDGES

_BLUE, _RED, _GRAY = "#1d6996", "#c1121f", "#9aa5b1"
_UNLIKE = ("changed", "added", "other shape", "other dtype")
_MOST_LABELS = 120


def _pyplot() -> Any:
    try:
        from matplotlib import pyplot
    except ImportError as error:
        raise ImportError(
            'plot() needs matplotlib, which is an extra: pip install "flax_inits[plot]"'
        ) from error
    return pyplot


def of_summary(report: Any) -> Any:
    """Each line of the table: its range, mean and standard deviation."""
    pyplot = _pyplot()
    known = [(name, row) for name, row in report.lines() if isinstance(row.mean, float)]
    figure, axes = pyplot.subplots(figsize=(8, 1.0 + 0.22 * len(known)), layout="constrained")
    for height, (_, row) in enumerate(known):
        color = _RED if row.change in _UNLIKE else _BLUE
        axes.plot([row.min, row.max], [height, height], color=_GRAY, linewidth=1)
        spread = [row.mean - row.std, row.mean + row.std]
        axes.plot(spread, [height, height], color=color, linewidth=4, solid_capstyle="butt")
        # With an edge, as it is all that there is to see of a constant.
        axes.plot(row.mean, height, "o", color="white", markeredgecolor=color, markersize=4)
    axes.set_yticks(range(len(known)), [name for name, _ in known], fontsize=8)
    axes.set_ylim(max(len(known), 1) - 0.5, -0.5)
    axes.set_xlabel("range (gray), mean ± standard deviation (bar)")
    axes.axvline(0, color="black", linewidth=0.5, zorder=0)
    axes.spines[["top", "right"]].set_visible(False)
    if any(row.change for _, row in known):
        kinds = ((_BLUE, "as in the other tree"), (_RED, "not as in the other tree"))
        bars = [axes.plot([], [], color=color, linewidth=4, label=name)[0] for color, name in kinds]
        figure.legend(handles=bars, loc="outside upper right", ncols=2, frameon=False, fontsize=8)
    return figure


def of_signal(report: Any) -> Any:
    """Histograms of the activations by depth above, sizes of activations and gradients below."""
    pyplot = _pyplot()
    own = [row for row in report.rows if row.same_as is None]
    rows = [row for row in own if row.enters or row.result or row.role == "recorded"]
    step = -(-len(rows) // _MOST_LABELS)
    width = max(8, 1.5 + 0.2 * len(rows) / step)
    figure, (above, below) = pyplot.subplots(
        2, 1, figsize=(width, 5), height_ratios=[3, 2], sharex=True, layout="constrained"
    )
    _histograms(above, rows)
    above.set_ylabel("activations")
    _sizes(below, rows)
    below.legend(frameon=False, fontsize=8)
    ticks = range(0, len(rows), step)
    labels = [rows[i].layer for i in ticks]
    below.set_xticks(ticks, labels, rotation=50, ha="right", rotation_mode="anchor", fontsize=8)
    below.set_xlabel(_shown(len(rows), len(report.rows), step), fontsize=8)
    title = "\n".join(str(verdict) for verdict in report.verdicts) or "Nothing wrong was found."
    above.set_title(title, color=_RED if report.verdicts else "black", fontsize=8, loc="left")
    return figure


def _shown(columns: int, rows: int, step: int) -> str:
    """Which rows of the table have a column, and which columns have a name."""
    text = "what modules take or a function records, and what the network returns"
    if columns < rows:
        text += f": {columns} of {rows} rows"
    return text + (f"; one in {step} is named" if step > 1 else "")


def _histograms(axes: Any, rows: Any) -> None:
    """One column per activation; darker where more of its values are."""
    counts = np.array([row.histogram for row in rows], float).T
    shares = counts / np.maximum(counts.sum(axis=0), 1)
    # The root shows the few values beside a peak, such as those of a ReLU beside its zeros.
    axes.pcolormesh(
        np.arange(len(rows) + 1) - 0.5, EDGES, np.sqrt(shares), cmap="Blues", vmin=0, vmax=0.6
    )
    axes.set_ylim(EDGES[0], EDGES[-1])


def _sizes(axes: Any, rows: Any) -> None:
    """The activations' root mean square and the gradients' norm, on a logarithmic axis."""
    depth = np.arange(len(rows))
    activations = [np.hypot(abs(row.mean or 0), row.std or 0) for row in rows]
    gradients = [row.gradient for row in rows]
    for values, color, label in (
        (activations, _BLUE, "activations: root mean square"),
        (gradients, _RED, "gradients: norm"),
    ):
        values = np.array(values, float)
        known = np.isfinite(values) & (values > 0)
        axes.plot(depth[known], values[known], color=color, label=label)
    axes.set_yscale("log")
    low, high = axes.get_ylim()
    axes.set_ylim(min(low, 1e-2), max(high, 1e2))
    axes.spines[["top", "right"]].set_visible(False)
