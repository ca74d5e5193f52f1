"""Check that activations do not depend on the width under mup, and that they do without it.

    python examples/mup.py
    python examples/mup.py --picture mup.png --widths 64 128 256 512 1024

A small transformer takes a few steps with Adam, at several widths and always with the same learning
rate. With Flax's own initializers, each step changes what a wide model puts out more than what a
narrow one does, so the learning rate must be tuned anew for each width. Under `flax_inits.mup` the
curves are flat: what is right for the narrowest model is right for all. Such a picture is the
"coordinate check" of Yang et al. 2022 (https://arxiv.org/abs/2203.03466). It needs matplotlib and
takes about a minute.
"""

import argparse

import flax.linen as nn
import jax
import jax.numpy as jnp
import matplotlib
import numpy as np
import optax
from rich.console import Console
from rich.table import Table

import flax_inits

VOCABULARY, LENGTH, HEAD, BATCH = 64, 16, 16, 32
LEARNING_RATE = 0.01
RECORDED = {
    "embedding": "Embed_0",
    "attention": "attention",
    "feed-forward": "down",
    "logits": "head",
}

CAPTURE = {"capture_intermediates": True, "mutable": ["intermediates"]}


class Transformer(nn.Module):
    """One pre-norm block. Its width grows by more heads, not by larger ones."""

    width: int

    @nn.compact
    def __call__(self, tokens):
        """The logits of the next token."""
        x = nn.Embed(VOCABULARY, self.width)(tokens)
        mask = nn.make_causal_mask(tokens)
        attention = nn.MultiHeadDotProductAttention(self.width // HEAD, name="attention")
        x += attention(nn.LayerNorm()(x), mask=mask)
        inner = nn.relu(nn.Dense(4 * self.width, name="up")(nn.LayerNorm()(x)))
        x += nn.Dense(self.width, name="down")(inner)
        return nn.Dense(VOCABULARY, name="head")(nn.LayerNorm()(x))


def init_fn(width):
    """Makes the params of the model of this width."""
    tokens = jnp.zeros((1, LENGTH), int)
    return lambda key: Transformer(width).init(key, tokens)["params"]


def standard(width, base):
    """Flax's own initializers, and Adam."""
    return flax_inits.jit_init(init_fn(width)), optax.adam(LEARNING_RATE)


def maximal_update(width, base):
    """The σ and the learning rate of the base model, made right for this width."""
    mup = flax_inits.mup(init_fn(base), init_fn(width))
    rules = mup.rules(
        {
            "Embed_0": flax_inits.normal(1.0),
            "head/kernel": flax_inits.normal(base**-0.5),
            "down/kernel": flax_inits.normal((4 * base) ** -0.5),
            "**/kernel": flax_inits.normal(base**-0.5),
        }
    )
    optimizer = optax.chain(optax.adam(LEARNING_RATE), mup.scale_updates("adam"))
    return flax_inits.jit_init(init_fn(width), rules=rules), optimizer


WAYS = {"Flax's initializers, Adam": standard, "flax_inits.mup": maximal_update}


def activations(params, tokens):
    """What each recorded module puts out."""
    model = Transformer(params["head"]["kernel"].shape[0])
    _, state = model.apply({"params": params}, tokens, **CAPTURE)
    found = state["intermediates"]
    return {name: found[module]["__call__"][0] for name, module in RECORDED.items()}


def coordinate_check(key, way, width, base, steps):
    """How much each module's output has changed after each step: the root of the mean square."""
    init, optimizer = WAYS[way](width, base)
    data_key, key = jax.random.split(key)
    tokens = jax.random.randint(data_key, (BATCH, LENGTH), 0, VOCABULARY)
    params = init(key)
    before = activations(params, tokens)

    def loss(params):
        logits = Transformer(width).apply({"params": params}, tokens[:, :-1])
        return optax.softmax_cross_entropy_with_integer_labels(logits, tokens[:, 1:]).mean()

    def step(carry, _):
        params, state = carry
        updates, state = optimizer.update(jax.grad(loss)(params), state, params)
        params = optax.apply_updates(params, updates)
        moved = jax.tree.map(
            lambda new, old: jnp.sqrt(jnp.mean((new - old) ** 2)),
            activations(params, tokens),
            before,
        )
        return (params, state), moved

    train = jax.jit(
        lambda params: jax.lax.scan(step, (params, optimizer.init(params)), None, steps)
    )
    return {name: np.asarray(sizes) for name, sizes in train(params)[1].items()}


def picture(curves, widths, steps, file):
    """One panel for each way, one curve for each module."""
    matplotlib.use("Agg")
    from matplotlib import pyplot

    colors = dict(zip(RECORDED, ("#8d99ae", "#1d6996", "#e09f3e", "#c1121f"), strict=True))
    figure, panels = pyplot.subplots(
        1, 2, figsize=(8, 3.6), dpi=100, sharey=True, layout="constrained"
    )
    for axes, way in zip(panels, WAYS, strict=True):
        for name, color in colors.items():
            sizes = [curves[way, width][name][-1] for width in widths]
            axes.plot(widths, sizes, "o-", color=color, linewidth=2.2, markersize=4, label=name)
        axes.set_xscale("log", base=2)
        axes.set_yscale("log")
        axes.set_xticks(widths, map(str, widths))
        axes.minorticks_off()
        axes.set_xlabel("width")
        axes.set_title(way, fontsize=11)
        axes.spines[["top", "right"]].set_visible(False)
    panels[0].set_ylabel(f"change of activations\nafter {steps} steps (RMS)")
    panels[1].legend(frameon=False, loc="upper left", ncols=2)
    figure.savefig(file)
    pyplot.close(figure)


def main():
    """Trains at every width in both ways; prints and draws how far activations moved."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--picture", default="mup.png", help="where to save the picture")
    parser.add_argument("--widths", type=int, nargs="+", default=[64, 128, 256, 512, 1024])
    parser.add_argument("--steps", type=int, default=4, help="steps with Adam")
    options = parser.parse_args()
    widths, base = options.widths, options.widths[0]

    console, curves = Console(), {}
    with console.status("Training") as status:
        for way in WAYS:
            for width in widths:
                status.update(f"Training: {way}, width {width}")
                curves[way, width] = coordinate_check(
                    jax.random.key(0), way, width, base, options.steps
                )
    picture(curves, widths, options.steps, options.picture)

    print(flax_inits.mup(init_fn(base), init_fn(widths[-1])))
    table = Table(title=f"How far the logits moved in {options.steps} steps")
    table.add_column("width", justify="right")
    for way in WAYS:
        table.add_column(way, justify="right")
    for width in widths:
        moved = (curves[way, width]["logits"][-1] for way in WAYS)
        table.add_row(str(width), *(f"{size:.2f}" for size in moved))
    console.print(table)
    console.print(f"The picture is in {options.picture}")

    growth = {
        way: curves[way, widths[-1]]["logits"][-1] / curves[way, base]["logits"][-1] for way in WAYS
    }
    wide = widths[-1] / base
    grows, stays = growth.values()
    assert grows > wide**0.4 and wide**-0.25 < stays < wide**0.25, growth


if __name__ == "__main__":
    main()
