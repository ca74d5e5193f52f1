"""Train on real digits with the mixture, reinitialize the head by path, and train it again.

Run it with `python examples/quickstart.py`. It needs scikit-learn, for the digits that ship with
it, and takes about ten seconds.
"""

import operator

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
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


def digits():
    """1,797 images of 8 x 8 pixels, scaled to [0, 1]: 1,500 to train on, the rest to test."""
    images, labels = load_digits(return_X_y=True)
    order = np.random.default_rng(0).permutation(len(images))
    images = (images[order] / 16).astype(np.float32)
    labels = labels[order]
    return (images[:1500], labels[:1500]), (images[1500:], labels[1500:])


def train(model, tx, params, data, epochs, title):
    """Minimizes the cross-entropy with `tx`, from a fresh optimizer state."""

    @jax.jit
    def step(params, opt_state, x, y):
        def loss(params):
            logits = model.apply({"params": params}, x)
            return optax.softmax_cross_entropy_with_integer_labels(logits, y).mean()

        updates, opt_state = tx.update(jax.grad(loss)(params), opt_state, params)
        return optax.apply_updates(params, updates), opt_state

    images, labels = data
    opt_state = tx.init(params)
    shuffle = np.random.default_rng(1)
    for _ in track(range(epochs), description=f"{title:22}"):
        for batch in shuffle.permutation(len(images)).reshape(-1, BATCH):
            params, opt_state = step(params, opt_state, images[batch], labels[batch])
    return params


def accuracy(model, params, data):
    """The share of right answers."""
    images, labels = data
    return float(jnp.mean(model.apply({"params": params}, images).argmax(-1) == labels))


def show(params, before=None):
    """Prints a line for each leaf; with `before`, whether it is the same object as there."""
    olds = jax.tree.leaves(params if before is None else before)
    leaves = zip(flax_inits.paths(params), jax.tree.leaves(params), olds, strict=True)
    for path, leaf, old in leaves:
        line = f"  {'/'.join(path):16} {leaf.shape!s:10} {leaf.dtype}  std {leaf.std():7.4f}"
        line += f"  zeros {jnp.mean(leaf == 0):4.0%}"
        if before is not None:
            line += "  same object" if leaf is old else "  NEW"
        print(line)


def main():
    """Trains, reinitializes the head, and trains the head again."""
    training, test = digits()
    model = Classifier()
    params = model.init(jax.random.key(0), training[0][:1])["params"]
    print("The model as initialized; half of the first kernel's weights are exactly zero:")
    show(params)

    trained = train(model, optax.adam(3e-3), params, training, 30, "Training all layers")
    reached = accuracy(model, trained, test)
    print(f"Test accuracy: {reached:.1%}\n")

    # By path: the whole subtree "head". A dict gives an initializer for each pattern.
    rules = {"head/kernel": nn.initializers.xavier_uniform(), "head/bias": flax_inits.zeros()}
    reset = flax_inits.reinit(jax.random.key(1), trained, rules)
    print("After reinit of the head, compared with the trained model:")
    show(reset, before=trained)
    forgot = accuracy(model, reset, test)
    print(f"Test accuracy: {forgot:.1%}, about chance\n")

    # `select` gives the mask that optax wants: train the head, leave everything else alone.
    frozen = jax.tree.map(operator.not_, flax_inits.select(reset, "head"))
    head_only = optax.chain(optax.adam(1e-2), optax.masked(optax.set_to_zero(), frozen))
    recovered = train(model, head_only, reset, training, 10, "Training the head")
    print(f"Test accuracy: {accuracy(model, recovered, test):.1%}, was {reached:.1%}")

    same = jax.tree.map(operator.is_, trained, reset)
    assert same == frozen, "reinit must keep every leaf but the head's"
    assert reached > 0.95 and forgot < 0.4, (reached, forgot)
    assert accuracy(model, recovered, test) > reached - 0.02


if __name__ == "__main__":
    main()
