"""Train on real digits with the mixture, reinitialize the head by path, and train it again.

Run it with `python examples/quickstart.py`, or with `--nnx` for the same with `flax.nnx`. It needs
scikit-learn, for the digits that ship with it, and takes about ten seconds.
"""

import argparse

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx
from rich.progress import track
from sklearn.datasets import load_digits

import flax_inits

BATCH = 100


class Classifier(nn.Module):
    """A multilayer perceptron whose first layer starts from the mixture."""

    @nn.compact
    def __call__(self, x):
        """Logits of the ten digits, for flattened images."""
        # The mixture's weights are large: half are zero, the others 5 to 10 in size. On 64 pixels
        # in [0, 1] they give sums of about 20 in size. LayerNorm brings these back to 1, the scale
        # that the default initializers of the layers above expect.
        x = nn.Dense(128, kernel_init=flax_inits.mixture(), name="features")(x)
        x = nn.relu(nn.LayerNorm(name="norm")(x))
        x = nn.relu(nn.Dense(64, name="hidden")(x))
        return nn.Dense(10, name="head")(x)


class NNXClassifier(nnx.Module):
    """The same in NNX."""

    def __init__(self, rngs):
        self.features = nnx.Linear(64, 128, kernel_init=flax_inits.mixture(), rngs=rngs)
        self.norm = nnx.LayerNorm(128, rngs=rngs)
        self.hidden = nnx.Linear(128, 64, rngs=rngs)
        self.head = nnx.Linear(64, 10, rngs=rngs)

    def __call__(self, x):
        """Logits of the ten digits, for flattened images."""
        x = nnx.relu(self.norm(self.features(x)))
        return self.head(nnx.relu(self.hidden(x)))


def digits():
    """1,797 images of 8 x 8 pixels, scaled to [0, 1]: 1,500 to train on, the rest to test."""
    images, labels = load_digits(return_X_y=True)
    order = np.random.default_rng(0).permutation(len(images))
    images = (images[order] / 16).astype(np.float32)
    labels = labels[order]
    return (images[:1500], labels[:1500]), (images[1500:], labels[1500:])


def batches(data, epochs, title):
    """Shuffled batches of all epochs, with a bar of progress."""
    images, labels = data
    shuffle = np.random.default_rng(1)
    for _ in track(range(epochs), description=f"{title:22}"):
        for batch in shuffle.permutation(len(images)).reshape(-1, BATCH):
            yield images[batch], labels[batch]


def cross_entropy(logits, labels):
    """What is minimized."""
    return optax.softmax_cross_entropy_with_integer_labels(logits, labels).mean()


def train(params, tx, data, epochs, title):
    """Minimizes the cross-entropy with `tx`, from a fresh optimizer state."""
    if isinstance(params, nnx.Module):
        return train_nnx(params, tx, data, epochs, title)

    @jax.jit
    def step(params, opt_state, x, y):
        gradients = jax.grad(lambda params: cross_entropy(logits(params, x), y))(params)
        updates, opt_state = tx.update(gradients, opt_state, params)
        return optax.apply_updates(params, updates), opt_state

    opt_state = tx.init(params)
    for x, y in batches(data, epochs, title):
        params, opt_state = step(params, opt_state, x, y)
    return params


def train_nnx(model, tx, data, epochs, title):
    """The same for a copy of an NNX model, which is trained in place."""
    model = nnx.clone(model)
    optimizer = nnx.Optimizer(model, tx, wrt=nnx.Param)

    @nnx.jit
    def step(model, optimizer, x, y):
        gradients = nnx.grad(lambda model: cross_entropy(model(x), y))(model)
        optimizer.update(model, gradients)

    for x, y in batches(data, epochs, title):
        step(model, optimizer, x, y)
    return model


def logits(params, x):
    """What the model makes of flattened images; an NNX model holds its params itself."""
    if isinstance(params, nnx.Module):
        return params(x)
    return Classifier().apply({"params": params}, x)


def accuracy(params, data):
    """The share of right answers."""
    images, labels = data
    return float(jnp.mean(logits(params, images).argmax(-1) == labels))


def leaves(params):
    """The arrays of params, or of an NNX model."""
    return jax.tree.leaves(nnx.state(params) if isinstance(params, nnx.Module) else params)


def show(params, before=None):
    """Prints a line for each leaf; with `before`, whether it is the same object as there."""
    olds = leaves(params if before is None else before)
    rows = zip(flax_inits.paths(params), leaves(params), olds, strict=True)
    for path, leaf, old in rows:
        line = f"  {'/'.join(path):16} {leaf.shape!s:10} {leaf.dtype}  std {leaf.std():7.4f}"
        line += f"  zeros {jnp.mean(leaf == 0):4.0%}"
        if before is not None:
            line += "  same object" if leaf is old else "  NEW"
        print(line)


def main():
    """Trains, reinitializes the head, and trains the head again."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--nnx", action="store_true", help="with flax.nnx in place of flax.linen")
    training, test = digits()
    if parser.parse_args().nnx:
        params = NNXClassifier(nnx.Rngs(0))
    else:
        params = Classifier().init(jax.random.key(0), training[0][:1])["params"]
    print("The model as initialized; half of the first kernel's weights are exactly zero:")
    show(params)

    trained = train(params, optax.adam(3e-3), training, 30, "Training all layers")
    reached = accuracy(trained, test)
    print(f"Test accuracy: {reached:.1%}\n")

    # By path: the whole subtree "head". A dict gives an initializer for each pattern.
    rules = {"head/kernel": nn.initializers.xavier_uniform(), "head/bias": flax_inits.zeros()}
    reset = flax_inits.reinit(jax.random.key(1), trained, rules)
    print("After reinit of the head, compared with the trained model:")
    show(reset, before=trained)
    forgot = accuracy(reset, test)
    print(f"Test accuracy: {forgot:.1%}, about chance\n")

    # `labels` is what `optax.partition` wants: train the head, leave everything else alone.
    groups = flax_inits.labels({"head": "train", "**": "freeze"})
    head_only = optax.partition({"train": optax.adam(1e-2), "freeze": optax.set_to_zero()}, groups)
    recovered = train(reset, head_only, training, 10, "Training the head")
    print(f"Test accuracy: {accuracy(recovered, test):.1%}, was {reached:.1%}")

    for path, old, new in zip(flax_inits.paths(reset), leaves(trained), leaves(reset), strict=True):
        assert (old is new) == (path[0] != "head"), "reinit must keep every leaf but the head's"
    assert reached > 0.95 and forgot < 0.4, (reached, forgot)
    assert accuracy(recovered, test) > reached - 0.02


if __name__ == "__main__":
    main()
