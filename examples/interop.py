"""An NNX model from a safetensors file, two layers reset, and out again to safetensors and Orbax.

    python examples/interop.py

Params are trees of arrays, whoever made them: `paths` names the leaves of an NNX state as it names
those of a dict, `graft` takes in what was read from a file, and `reinit` resets what it is told to.
All else must come out with the very bits that went in, which this script checks. It needs
safetensors and orbax-checkpoint.
"""

import tempfile
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp
from flax import nnx, traverse_util
from rich.console import Console
from rich.table import Table
from safetensors.flax import load_file, save_file

import flax_inits

RULES = {"head": flax_inits.zeros(), "body/kernel": flax_inits.orthogonal()}
"""The layers that are reset."""


class Classifier(nnx.Module):
    """A convolution with batch statistics, a hidden layer with dropout, and a head."""

    def __init__(self, rngs):
        self.conv = nnx.Conv(1, 8, (3, 3), rngs=rngs)
        self.norm = nnx.BatchNorm(8, rngs=rngs)
        self.body = nnx.Linear(8, 32, rngs=rngs)
        self.dropout = nnx.Dropout(0.1, rngs=rngs)
        self.head = nnx.Linear(32, 10, rngs=rngs)

    def features(self, images):
        """What the first layers make of the images."""
        return nnx.relu(self.norm(self.conv(images))).mean((1, 2))

    def __call__(self, images):
        """Logits."""
        return self.head(self.dropout(nnx.relu(self.body(self.features(images)))))


def split(model):
    """The model's structure, its params and statistics, and the rest (the keys of dropout)."""
    return nnx.split(model, nnx.Any(nnx.Param, nnx.BatchStat), ...)


def named(tree):
    """Leaves by name, as files call them: "body.kernel"."""
    return {
        ".".join(path): leaf
        for path, leaf in zip(flax_inits.paths(tree), jax.tree.leaves(tree), strict=True)
    }


def read(file):
    """A safetensors file as a tree."""
    return traverse_util.unflatten_dict(load_file(file), sep=".")


def through_orbax(folder, state):
    """Saves a state and restores it, as in another process."""
    with ocp.StandardCheckpointer() as checkpointer:
        checkpointer.save(folder, state)
        checkpointer.wait_until_finished()
        return checkpointer.restore(folder, jax.tree.map(ocp.utils.to_shape_dtype_struct, state))


def bits(leaf):
    return np.asarray(leaf).tobytes()


def main():
    """Brings weights in, resets layers, takes them out, and compares bit by bit."""
    with tempfile.TemporaryDirectory() as folder:
        given, out = Path(folder) / "pretrained.safetensors", Path(folder) / "new.safetensors"
        trained = split(Classifier(nnx.Rngs(7)))[1]
        trained = flax_inits.reinit(jax.random.key(0), trained, {"**/bias": flax_inits.normal(0.1)})
        save_file(named(trained), given)

        # In: another model of the same class takes every leaf that the file has.
        pretrained = read(given)
        graph, state, rest = split(Classifier(nnx.Rngs(0)))
        state = flax_inits.graft(state, pretrained, "**")

        reset = flax_inits.reinit(jax.random.key(1), state, RULES)

        # Out, in both forms, and back.
        save_file(named(reset), out)
        restored = {
            "safetensors": named(read(out)),
            "Orbax": named(through_orbax(Path(folder) / "orbax", reset)),
        }

    chosen = named(flax_inits.select(state, [*RULES]))
    table = Table(title="Against the file that was read")
    for column in ("leaf", *restored):
        table.add_column(column)
    for name, leaf in named(pretrained).items():
        same = {form: bits(leaves[name]) == bits(leaf) for form, leaves in restored.items()}
        table.add_row(name, *("same bits" if equal else "NEW" for equal in same.values()))
        for form, leaves in restored.items():
            assert same[form] != chosen[name], (form, name)
            assert bits(leaves[name]) == bits(named(reset)[name]), (form, name)
    Console().print(table)

    images = jax.random.normal(jax.random.key(2), (4, 8, 8, 1))
    before, after = (nnx.merge(graph, leaves, rest) for leaves in (state, reset))
    for model in (before, after):
        model.eval()
    assert bits(before.features(images)) == bits(after.features(images))
    assert not jnp.any(after(images)), "the head is all zero"
    print("The features are the same, bit for bit; the logits of the new head are zero.")


if __name__ == "__main__":
    main()
