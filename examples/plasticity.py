"""Permuted digits: a network that learns task after task, with three remedies against rusting.

    python examples/plasticity.py            # 160 tasks; a minute or two
    python examples/plasticity.py --small    # a few tasks, to see that it runs

Each task shuffles the pixels of scikit-learn's digits in another way and trains for two epochs. A
network that just goes on learns worse and worse: more and more of its units are dormant. Compared
are

- no reset;
- a new optimizer for each task;
- shrink and perturb (Ash & Adams 2020), with a new optimizer, at the start of each task;
- ReDo (Sokar et al. 2023): dormant units and their moments start again after each task;
- from scratch: a new network for each task, which is the level to reach.

This is one small network on one small data set. ReDo and shrink and perturb keep learning here, as
their papers claim; shrink and perturb does so below the level of a new network, and with factors
chosen for these tasks: the paper's 0.4 and 0.1, meant for data that grows, keep less of what helps.

Tasks run in a `jax.lax.scan`, resets included. It needs scikit-learn (for the
digits) and matplotlib.
"""

import argparse
import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import matplotlib
import numpy as np
import optax
from rich.console import Console
from rich.progress import Progress
from rich.table import Table
from sklearn.datasets import load_digits

import flax_inits

TRAINING, BATCH, EPOCHS = 1500, 32, 2
DORMANT = 0.025

METHODS = {
    "no reset": "#c1121f",
    "new optimizer": "#e09f3e",
    "shrink and perturb": "#5f8f3e",
    "ReDo": "#1d6996",
    "from scratch": "gray",
}

# Which arrays hold a unit's weights: what `recycle` is told, as it guesses nothing.
LAYERS = {
    "hidden_0": {
        "kernel": "hidden_0/kernel",
        "bias": "hidden_0/bias",
        "feeds": "hidden_1/kernel",
    },
    "hidden_1": {"kernel": "hidden_1/kernel", "bias": "hidden_1/bias", "feeds": "out/kernel"},
}


class Classifier(nn.Module):
    """A multilayer perceptron that hands out its activations."""

    @nn.compact
    def __call__(self, x):
        """Logits and the hidden layers' activations, for flattened images."""
        hidden = {}
        for name in LAYERS:
            x = hidden[name] = nn.relu(nn.Dense(64, name=name)(x))
        return nn.Dense(10, name="out")(x), hidden


MODEL = Classifier()
OPTIMIZER = optax.adam(0.005)


def digits():
    """1,797 images of 8 x 8 pixels, scaled to [0, 1], and their labels."""
    images, labels = load_digits(return_X_y=True)
    order = np.random.default_rng(0).permutation(len(images))
    return jnp.asarray(images[order] / 16, jnp.float32), jnp.asarray(labels[order])


def init(key):
    """Fresh params."""
    return MODEL.init(key, jnp.zeros((1, 64)))["params"]


def loss(params, images, labels):
    """The mean cross-entropy."""
    logits, _ = MODEL.apply({"params": params}, images)
    return optax.softmax_cross_entropy_with_integer_labels(logits, labels).mean()


def before_task(method, key, params, opt_state):
    """The resets at the start of a task."""
    if method == "shrink and perturb":
        params = flax_inits.shrink_perturb(key, params, init, shrink=0.8, perturb=0.2)
    if method == "from scratch":
        params = init(key)
    if method in ("new optimizer", "shrink and perturb", "from scratch"):
        opt_state = OPTIMIZER.init(params)
    return params, opt_state


def learn(params, opt_state, key, images, labels):
    """Two epochs on one task."""

    def step(carry, batch):
        params, opt_state = carry
        grads = jax.grad(loss)(params, images[batch], labels[batch])
        updates, opt_state = OPTIMIZER.update(grads, opt_state, params)
        return (optax.apply_updates(params, updates), opt_state), None

    orders = jax.vmap(lambda key: jax.random.permutation(key, TRAINING))(
        jax.random.split(key, EPOCHS)
    )
    batches = orders[:, : TRAINING // BATCH * BATCH].reshape(-1, BATCH)
    return jax.lax.scan(step, (params, opt_state), batches)[0]


def task(method, data, carry, key):
    """Learns one permutation; returns the test accuracy and the share of dormant units."""
    permutation_key, reset_key, order_key = jax.random.split(key, 3)
    images, labels = data
    images = images[:, jax.random.permutation(permutation_key, images.shape[1])]
    carry = before_task(method, reset_key, *carry)
    params, opt_state = learn(*carry, order_key, images[:TRAINING], labels[:TRAINING])

    logits, _ = MODEL.apply({"params": params}, images[TRAINING:])
    accuracy = jnp.mean(logits.argmax(-1) == labels[TRAINING:])
    _, hidden = MODEL.apply({"params": params}, images[:256])
    masks = flax_inits.dormant(hidden, DORMANT)
    share = jnp.concatenate(list(masks.values())).mean()
    if method == "ReDo":
        params, opt_state = flax_inits.recycle(
            reset_key, params, masks, LAYERS, opt_state=opt_state, tx=OPTIMIZER
        )
    return (params, opt_state), (accuracy, share)


def run(method, data, keys, tasks, advance):
    """Accuracies and dormant shares, (run, task), of networks that start from `keys`."""

    @jax.jit
    @functools.partial(jax.vmap, in_axes=(0, 0, None))
    def some_tasks(key, carry, numbers):
        keys = jax.vmap(functools.partial(jax.random.fold_in, key))(numbers)
        return jax.lax.scan(functools.partial(task, method, data), carry, keys)

    params = jax.vmap(init)(keys)
    carry = params, jax.vmap(OPTIMIZER.init)(params)
    results = []
    for numbers in np.array_split(np.arange(tasks), tasks // 8):
        carry, result = some_tasks(keys, carry, numbers)
        results.append(jax.device_get(result))
        advance(len(numbers))
    return [np.concatenate(parts, axis=1) for parts in zip(*results, strict=True)]


def smooth(values, width):
    """A moving average over tasks."""
    return np.convolve(values, np.ones(width) / width, "valid")


def picture(results, file):
    """Accuracy and dormant units over tasks."""
    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, panels = pyplot.subplots(1, 2, figsize=(8, 3.6), dpi=80, layout="constrained")
    for axes, which, title in zip(
        panels, (0, 1), ("Test accuracy on each new task", "Dormant units after it"), strict=True
    ):
        for method, color in METHODS.items():
            values = results[method][which].mean(axis=0)
            width = min(9, len(values))
            style = {"linestyle": "--", "linewidth": 1.5} if method == "from scratch" else {}
            tasks = np.arange(width, len(values) + 1)
            axes.plot(tasks, smooth(values, width), color=color, label=method, **style)
        axes.set_title(title, fontsize=11)
        axes.set_xlabel("task")
        axes.yaxis.set_major_formatter(matplotlib.ticker.PercentFormatter(1, decimals=0))
        axes.spines[["top", "right"]].set_visible(False)
    panels[1].set_ylim(0, 1)
    panels[0].legend(frameon=False, fontsize=9, loc="lower left")
    figure.savefig(file)
    pyplot.close(figure)


def verdicts(results, window):
    """A table, and what the figures say; nothing of it is written in advance."""
    table = Table(title=f"Test accuracy, mean of {window} tasks, and dormant units at the end")
    for column in ("", "first tasks", "last tasks", "change", "dormant"):
        table.add_column(column, justify="right" if column else "left")
    lost, kept = [], []
    for method, (accuracies, shares) in results.items():
        first, last = accuracies[:, :window].mean(), accuracies[:, -window:].mean()
        share = shares[:, -window:].mean()
        cells = f"{first:.1%}", f"{last:.1%}", f"{last - first:+.1%}", f"{share:.0%}"
        table.add_row(method, *cells)
        (lost if last < first - 0.02 else kept).append(method)
    said = f"Learns worse at the end, by more than 2 points: {', '.join(lost) or 'none'}."
    return table, f"{said}\nDoes not: {', '.join(kept) or 'none'}."


def main():
    """Runs all methods on the same tasks."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--picture", default="plasticity.png", help="where to save the picture")
    parser.add_argument("--tasks", type=int, default=160, help="tasks in a row, at least 8")
    parser.add_argument("--runs", type=int, default=3, help="runs from different seeds")
    parser.add_argument("--small", action="store_true", help="8 tasks, one run")
    options = parser.parse_args()
    tasks, runs = (8, 1) if options.small else (max(options.tasks, 8), options.runs)

    data, keys, results = digits(), jax.random.split(jax.random.key(1), runs), {}
    console = Console()
    with Progress(console=console) as progress:
        for method in METHODS:
            bar = progress.add_task(f"{method:18}", total=tasks)
            advance = functools.partial(progress.advance, bar)
            results[method] = run(method, data, keys, tasks, advance)
    picture(results, options.picture)
    table, said = verdicts(results, min(20, tasks // 2))
    console.print(table)
    console.print(said)
    if tasks < 100:
        console.print("So few tasks show nothing yet: the losses build up over a hundred.")
    console.print(f"The picture is in {options.picture}")


if __name__ == "__main__":
    main()
