"""DeepNorm: weights that let a transformer be a thousand layers deep."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable
from typing import NamedTuple

from .._base import checks
from .._base.errors import noted
from .._base.types import Array, DType, Key, PyTree, Shape, Where
from .._surgery.reinit import reinit
from .._tree.forms import describe
from ..initializers.general.torch_style import xavier_normal
from .leaves import among, chosen_paths

_QUERIES_AND_KEYS = re.compile("(.*/)?(query|key)/kernel")


class ResidualGains(NamedTuple):
    """DeepNorm's constants: `x = norm(alpha · x + f(x))`, with the weights of f scaled by beta."""

    alpha: float
    beta: float


def deepnorm_gains(
    n: int, *, encoder: int | None = None, decoder: int | None = None
) -> ResidualGains:
    """DeepNorm's alpha and beta for a stack of `n` layers.

        a stack alone                  alpha = (2n)^¼              beta = (8n)^-¼
        the encoder of m decoder layers  alpha = .81 (n⁴ m)^(1/16)   beta = .87 (n⁴ m)^(-1/16)
        a decoder with an encoder      alpha = (3n)^¼              beta = (12n)^-¼

    Args:
        n: how many layers the stack has.
        encoder: for a decoder that attends to an encoder, the number of the encoder's layers.
        decoder: for an encoder that a decoder attends to, the number m of the decoder's layers.

    Returns:
        `(alpha, beta)`. The model multiplies the residual stream by alpha before each LayerNorm;
        `deepnorm` scales the weights by beta.

    Raises:
        ValueError: a number of layers below 1, or both `encoder` and `decoder`.

    >>> import flax_inits
    >>> gains = flax_inits.deepnorm_gains(8)
    >>> gains.alpha, round(gains.beta, 4)
    (2.0, 0.3536)

    Reference:
        Wang et al. 2022, DeepNet: Scaling Transformers to 1,000 Layers,
        https://arxiv.org/abs/2203.00555
    """
    layers = checks.count("deepnorm_gains", "n", n)
    if encoder is not None and decoder is not None:
        raise ValueError(
            "deepnorm_gains describes one stack: give decoder for the gains of an encoder, or "
            f"encoder for those of a decoder; got encoder={encoder!r} and decoder={decoder!r}."
        )
    if decoder is not None:
        both = layers**4 * checks.count("deepnorm_gains", "decoder", decoder)
        return ResidualGains(0.81 * both ** (1 / 16), 0.87 * both ** (-1 / 16))
    if encoder is not None:
        checks.count("deepnorm_gains", "encoder", encoder)
        return ResidualGains((3 * layers) ** 0.25, (12 * layers) ** -0.25)
    return ResidualGains((2 * layers) ** 0.25, (8 * layers) ** -0.25)


def deepnorm(
    key: Key,
    params: PyTree,
    n: int,
    *,
    where: Where,
    unscaled: Where = _QUERIES_AND_KEYS,
    encoder: int | None = None,
    decoder: int | None = None,
    init_fn: Callable[[Key], PyTree] | None = None,
) -> PyTree:
    """DeepNorm's weights: Xavier normal, times beta for all but the queries and keys.

    The model multiplies its residual stream by the alpha of `deepnorm_gains`, which also has the
    formulas. Biases are left alone; the paper has them at zero.

    Args:
        key: one PRNG key.
        params: any pytree.
        n: how many layers the stack has.
        where: the kernels of these layers, such as `"blocks_*/**/kernel"`: not the embedding, and
            not the output layer.
        unscaled: those of them that have gain 1, by default queries and keys under the names of
            Flax's attention. What else `where` chooses (values, outputs, feed-forward) has beta.
        encoder: for a decoder that attends to an encoder, the number of the encoder's layers.
        decoder: for an encoder that a decoder attends to, the number of the decoder's layers.
        init_fn: `key -> tree` with the selected paths in it, such as
            `lambda key: model.init(key, x)["params"]`. Then the modules say what the fans of
            their kernels are: those of attention are stored as (dim, heads, head_dim).

    Returns:
        A tree of the same structure, containers, boxes, dtypes and shardings. Kept leaves are the
        same objects.

    Raises:
        ValueError: `where` or `unscaled` selects nothing; a kernel has not two axes, so that only
            `init_fn` can tell its fans; a number of layers below 1.

    >>> import flax_inits, jax, jax.numpy as jnp
    >>> layer = {name: {"kernel": jnp.zeros((256, 256))} for name in ("query", "key", "value")}
    >>> new = flax_inits.deepnorm(jax.random.key(0), layer, 2, where="*/kernel")
    >>> [round(float(16 * new[name]["kernel"].std()), 1) for name in ("query", "value")]
    [1.0, 0.5]

    Reference:
        Wang et al. 2022, DeepNet: Scaling Transformers to 1,000 Layers,
        https://arxiv.org/abs/2203.00555
    """
    beta = deepnorm_gains(n, encoder=encoder, decoder=decoder).beta
    kernels = chosen_paths(params, where)
    with noted("while deepnorm looked for queries and keys; unscaled= says what they are called"):
        plain = set(chosen_paths(params, unscaled))
    if plain.isdisjoint(kernels):
        raise ValueError(
            f"{describe(unscaled)} selects none of the kernels that {describe(where)} does; "
            "unscaled must choose the queries and keys among them."
        )
    rules = [
        (among(plain.intersection(kernels), unscaled), _Xavier(1.0)),
        (among(kernels, where), _Xavier(beta)),
    ]
    return reinit(key, params, rules, init_fn=init_fn)


@dataclasses.dataclass(frozen=True)
class _Xavier:
    """`xavier_normal` for kernels of which it is clear what their fans are."""

    gain: float

    def __call__(self, key: Key, shape: Shape, dtype: DType = None) -> Array:
        if len(shape) != 2:
            raise ValueError(
                f"deepnorm cannot tell the fans of a kernel of shape {tuple(shape)}; give "
                'init_fn=lambda key: model.init(key, x)["params"], so that its module can.'
            )
        return xavier_normal(self.gain)(key, shape, dtype)
