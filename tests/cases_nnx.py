"""The layers of flax.nnx: how each is made, and what initializes a leaf of it."""

import jax.numpy as jnp
from flax import nnx

import flax_inits

# A layer, the argument that initializes a leaf of it, the path of the leaf, and its default.
DEFAULT, ZEROS, ONES = nnx.initializers.lecun_normal(), flax_inits.zeros(), flax_inits.ones()
EMBED = nnx.initializers.variance_scaling(1.0, "fan_in", "normal", out_axis=0)
ORTHOGONAL = nnx.initializers.orthogonal()
HE = nnx.initializers.he_uniform()


def layer(cls, *args, **kwargs):
    return lambda rngs, **inits: cls(*args, **kwargs, **inits, rngs=rngs)


LAYERS = {
    "Linear": (layer(nnx.Linear, 4, 6), "kernel_init", "kernel", DEFAULT),
    "Linear bias": (layer(nnx.Linear, 4, 6), "bias_init", "bias", ZEROS),
    "bfloat16": (
        layer(nnx.Linear, 4, 6, param_dtype=jnp.bfloat16),
        "kernel_init",
        "kernel",
        DEFAULT,
    ),
    "LinearGeneral": (
        layer(nnx.LinearGeneral, (2, 3), (5, 4), axis=(-2, -1)),
        "kernel_init",
        "kernel",
        DEFAULT,
    ),
    "LinearGeneral bias": (layer(nnx.LinearGeneral, 2, (4, 5)), "bias_init", "bias", ZEROS),
    "Einsum": (layer(nnx.Einsum, "ab,bcd->acd", (3, 5, 4)), "kernel_init", "kernel", DEFAULT),
    "Conv": (layer(nnx.Conv, 3, 4, (3, 3)), "kernel_init", "kernel", DEFAULT),
    "ConvTranspose": (layer(nnx.ConvTranspose, 3, 4, (3, 3)), "kernel_init", "kernel", DEFAULT),
    "Embed": (layer(nnx.Embed, 7, 4), "embedding_init", "embedding", EMBED),
    "attention": (
        layer(nnx.MultiHeadAttention, 2, 8, decode=False),
        "kernel_init",
        "*/kernel",
        DEFAULT,
    ),
    "attention out": (
        layer(nnx.MultiHeadAttention, 2, 8, decode=False),
        "out_kernel_init",
        "out/kernel",
        DEFAULT,
    ),
    "LoRA": (layer(nnx.LoRA, 4, 2, 6), "a_initializer", "lora_a", HE),
    "LoRALinear": (layer(nnx.LoRALinear, 4, 6, lora_rank=2), "kernel_init", "kernel", DEFAULT),
    "LoRALinear b": (
        layer(nnx.LoRALinear, 4, 6, lora_rank=2),
        "b_initializer",
        "lora/lora_b",
        ZEROS,
    ),
    "BatchNorm": (layer(nnx.BatchNorm, 4), "scale_init", "scale", ONES),
    "LayerNorm": (layer(nnx.LayerNorm, 4), "bias_init", "bias", ZEROS),
    "GroupNorm": (layer(nnx.GroupNorm, 4, num_groups=2), "scale_init", "scale", ONES),
    "RMSNorm": (layer(nnx.RMSNorm, 4), "scale_init", "scale", ONES),
    "LSTMCell": (layer(nnx.LSTMCell, 3, 4), "recurrent_kernel_init", "h?/kernel", ORTHOGONAL),
    "OptimizedLSTMCell": (
        layer(nnx.OptimizedLSTMCell, 3, 4),
        "kernel_init",
        "dense_i/kernel",
        DEFAULT,
    ),
    "GRUCell": (layer(nnx.GRUCell, 3, 4), "recurrent_kernel_init", "dense_h/kernel", ORTHOGONAL),
    "SimpleCell": (
        layer(nnx.SimpleCell, 3, 4),
        "recurrent_kernel_init",
        "dense_h/kernel",
        ORTHOGONAL,
    ),
}


def plain(make, **inits):
    return lambda key: nnx.state(make(nnx.Rngs(key), **inits), nnx.Not(nnx.RngState))
