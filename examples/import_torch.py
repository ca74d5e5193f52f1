"""Take a GPT-2 of PyTorch's layout into a Flax model, and compare what the two compute.

    python examples/import_torch.py

With torch and transformers installed, the donor is `transformers.GPT2LMHeadModel`, built from a
small configuration with random weights; nothing is downloaded. Without them, it is a state dict of
the same names and layout, and the forward pass is NumPy's. With safetensors installed the weights
go through a file, of which each leaf is read when it is made. The Flax model scans over its layers
and keeps attention heads apart, so the rules join twelve layers, cut a fused query, key and value,
and reshape. Takes a few seconds, with torch a quarter of a minute.
"""

import argparse
import contextlib
import fnmatch
import importlib.util
import tempfile
from pathlib import Path

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from rich.console import Console

import flax_inits
from flax_inits import cut, reshape, stack, take

WORDS, POSITIONS, WIDTH, HEADS, LAYERS = 101, 32, 48, 4, 12
SIZE = WIDTH // HEADS

# Convolutions of width one, as GPT-2 has in place of linear layers, are stored (in, out) already:
# a linear layer of PyTorch would want transpose(1, 0) first.
RULES = {
    "embed/embedding": "transformer.wte.weight",
    "positions": "transformer.wpe.weight",
    "norm/scale": "transformer.ln_f.weight",
    "norm/bias": "transformer.ln_f.bias",
    "blocks/attn/out/kernel": take(
        "transformer.h.*.attn.c_proj.weight", reshape(HEADS, SIZE, WIDTH), stack(axis=0)
    ),
    "blocks/attn/out/bias": take("transformer.h.*.attn.c_proj.bias", stack(axis=0)),
}
for number, name in enumerate(("query", "key", "value")):
    third = cut(axis=-1, start=number * WIDTH, size=WIDTH)
    RULES[f"blocks/attn/{name}/kernel"] = take(
        "transformer.h.*.attn.c_attn.weight", third, reshape(WIDTH, HEADS, SIZE), stack(axis=0)
    )
    RULES[f"blocks/attn/{name}/bias"] = take(
        "transformer.h.*.attn.c_attn.bias", third, reshape(HEADS, SIZE), stack(axis=0)
    )
for ours, theirs in {"up": "mlp.c_fc", "down": "mlp.c_proj"}.items():
    RULES[f"blocks/{ours}/kernel"] = take(f"transformer.h.*.{theirs}.weight", stack(axis=0))
    RULES[f"blocks/{ours}/bias"] = take(f"transformer.h.*.{theirs}.bias", stack(axis=0))
for number in "12":
    RULES[f"blocks/norm_{number}/scale"] = take(
        f"transformer.h.*.ln_{number}.weight", stack(axis=0)
    )
    RULES[f"blocks/norm_{number}/bias"] = take(f"transformer.h.*.ln_{number}.bias", stack(axis=0))

# The head shares the table's weights, and masks are no weights.
NOT_WANTED = ["lm_head.weight", "*.attn.bias", "*.attn.masked_bias"]


class Block(nn.Module):
    """Attention and a multilayer perceptron, each after a norm and added to its input."""

    @nn.compact
    def __call__(self, x, mask):
        """The input, and what this layer adds to it."""
        attn = nn.MultiHeadDotProductAttention(HEADS, name="attn")
        x = x + attn(nn.LayerNorm(epsilon=1e-5, name="norm_1")(x), mask=mask)
        hidden = nn.Dense(4 * WIDTH, name="up")(nn.LayerNorm(epsilon=1e-5, name="norm_2")(x))
        return x + nn.Dense(WIDTH, name="down")(nn.gelu(hidden)), None


class GPT(nn.Module):
    """GPT-2, with a scan over its layers."""

    @nn.compact
    def __call__(self, tokens):
        """Logits for the word that follows each."""
        embed = nn.Embed(WORDS, WIDTH, name="embed")
        positions = self.param("positions", nn.initializers.normal(0.02), (POSITIONS, WIDTH))
        x = embed(tokens) + positions[: tokens.shape[1]]
        layers = nn.scan(
            Block,
            variable_axes={"params": 0},
            split_rngs={"params": True},
            in_axes=nn.broadcast,
            length=LAYERS,
        )
        x, _ = layers(name="blocks")(x, nn.make_causal_mask(tokens))
        return embed.attend(nn.LayerNorm(epsilon=1e-5, name="norm")(x))


def installed(name):
    return importlib.util.find_spec(name) is not None


def from_transformers(tokens):
    """A state dict and logits of the transformers library."""
    import torch
    import transformers

    torch.manual_seed(0)
    config = transformers.GPT2Config(
        vocab_size=WORDS, n_positions=POSITIONS, n_embd=WIDTH, n_layer=LAYERS, n_head=HEADS
    )
    model = transformers.GPT2LMHeadModel(config).eval()
    with torch.no_grad():
        logits = model(torch.asarray(tokens)).logits.numpy()
    # Copies: in the state dict, the head and the table share memory.
    return {name: tensor.numpy().copy() for name, tensor in model.state_dict().items()}, logits


def by_hand(tokens):
    """A state dict of the same names and shapes, and logits by NumPy."""
    rng = np.random.default_rng(0)
    state = {"transformer.wte.weight": (WORDS, WIDTH), "transformer.wpe.weight": (POSITIONS, WIDTH)}
    linear = {"attn.c_attn": (WIDTH, 3 * WIDTH), "attn.c_proj": (WIDTH, WIDTH)}
    linear |= {"mlp.c_fc": (WIDTH, 4 * WIDTH), "mlp.c_proj": (4 * WIDTH, WIDTH)}
    norms = [f"h.{i}.ln_{number}" for i in range(LAYERS) for number in "12"] + ["ln_f"]
    for i in range(LAYERS):
        for name, shape in linear.items():
            state[f"transformer.h.{i}.{name}.weight"] = shape
            state[f"transformer.h.{i}.{name}.bias"] = shape[1:]
    state |= {
        f"transformer.{norm}.{part}": (WIDTH,) for norm in norms for part in ("weight", "bias")
    }
    state = {name: rng.normal(0, 0.2, shape).astype("f") for name, shape in state.items()}
    return state | {"lm_head.weight": state["transformer.wte.weight"].copy()}, forward(
        state, tokens
    )


def forward(state, tokens):
    """The model in NumPy."""

    def linear(x, name):
        return x @ state[f"transformer.{name}.weight"] + state[f"transformer.{name}.bias"]

    def norm(x, name):
        x = (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + 1e-5)
        return x * state[f"transformer.{name}.weight"] + state[f"transformer.{name}.bias"]

    x = state["transformer.wte.weight"][tokens] + state["transformer.wpe.weight"][: tokens.shape[1]]
    after = np.triu(np.full((tokens.shape[1],) * 2, -np.inf, np.float32), 1)
    for i in range(LAYERS):
        fused = linear(norm(x, f"h.{i}.ln_1"), f"h.{i}.attn.c_attn")
        query, key, value = (
            part.reshape(*x.shape[:2], HEADS, SIZE).swapaxes(1, 2)
            for part in np.split(fused, 3, -1)
        )
        scores = np.exp(query @ key.swapaxes(-1, -2) / np.sqrt(SIZE) + after)
        mixed = (scores / scores.sum(-1, keepdims=True)) @ value
        x = x + linear(mixed.swapaxes(1, 2).reshape(x.shape), f"h.{i}.attn.c_proj")
        hidden = linear(norm(x, f"h.{i}.ln_2"), f"h.{i}.mlp.c_fc")
        gelu = hidden / 2 * (1 + np.tanh(np.sqrt(2 / np.pi) * (hidden + 0.044715 * hidden**3)))
        x = x + linear(gelu, f"h.{i}.mlp.c_proj")
    return norm(x, "ln_f") @ state["transformer.wte.weight"].T


@contextlib.contextmanager
def through_a_file(state):
    """The state in an open file of safetensors, whose arrays are read from the disk as needed."""
    from safetensors import safe_open
    from safetensors.numpy import save_file

    with tempfile.TemporaryDirectory() as folder:
        name = Path(folder) / "model.safetensors"
        save_file(state, name)
        with safe_open(name, "numpy") as file:
            yield {name: file.get_slice(name) for name in file.keys()}  # noqa: SIM118


def main():
    """Makes a donor, grafts it, and compares."""
    argparse.ArgumentParser(description=__doc__.splitlines()[0]).parse_args()
    console = Console()
    tokens = np.random.default_rng(1).integers(0, WORDS, (2, POSITIONS))

    missing = [name for name in ("torch", "transformers") if not installed(name)]
    if not missing:
        console.print("The donor is GPT2LMHeadModel of transformers, from a configuration.")
        with console.status("Importing torch and transformers"):
            state, expected = from_transformers(tokens)
    else:
        for name in missing:
            console.print(f"{name} is not installed. Skipped: the comparison with PyTorch itself.")
        console.print("The donor is made by hand, and compared with what NumPy computes.")
        state, expected = by_hand(tokens)

    model = GPT()
    way = through_a_file
    if not installed("safetensors"):
        console.print("safetensors is not installed. Skipped: the way through a file.")
        way = contextlib.nullcontext
    with console.status("Grafting"), way(state) as state:
        dropped = [pattern for pattern in NOT_WANTED if fnmatch.filter(state, pattern)]
        shapes = jax.eval_shape(model.init, jax.random.key(0), jnp.asarray(tokens))["params"]
        print(flax_inits.graft_plan(shapes, state, RULES, drop=dropped))
        params = flax_inits.graft(shapes, state, RULES, drop=dropped)

    logits = jax.jit(model.apply)({"params": params}, jnp.asarray(tokens))
    error = np.abs(logits - expected).max() / np.abs(expected).max()
    console.print(f"\nThe logits differ by {error:.1e} of the largest.")
    assert error < 1e-4


if __name__ == "__main__":
    main()
