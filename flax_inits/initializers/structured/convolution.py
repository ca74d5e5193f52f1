"""Convolution kernels with a structure: identity, upsampling, sub-pixel, Fourier."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ..._base import checks
from ..._base.types import Array, DType, Key
from .._build.component import component
from .._build.configured import Draw, initializer


@initializer
def dirac(groups: int = 1, gain: float = 1.0, dtype: DType = None) -> Draw:
    """The convolution that passes as many channels through unchanged as it can.

    `gain` where the tap is the centre and, within its group, the output is the input; zero
    elsewhere. The centre is `(k - 1) // 2`, which makes SAME padding the identity for odd and even
    windows (torch's `k // 2` shifts by one for even ones).

    Args:
        groups: `feature_group_count` of the convolution; each group is an identity.
        gain: the value of the taps.
        dtype: the default dtype; None is JAX's default float.

    Returns:
        An initializer for kernels of shape (*window, in / groups, out); it uses no key.

    Raises:
        ValueError: for groups below 1; when called, where they do not divide the outputs.

    >>> import flax_inits, jax
    >>> flax_inits.dirac()(jax.random.key(0), (3, 2, 2))[1]
    Array([[1., 0.],
           [0., 1.]], dtype=float32)

    Reference:
        Zagoruyko & Komodakis 2017, DiracNets, https://arxiv.org/abs/1706.00388
    """
    count = checks.count("dirac", "groups", groups)
    value = checks.number("dirac", "gain", gain)

    def sample(key: Key, shape: tuple, dtype: np.dtype) -> Array:
        checks.rank("dirac", shape, 2, "(*window, in / groups, out)")
        checks.divides("dirac", "groups", count, shape, -1)
        *window, inputs, output = [
            jax.lax.broadcasted_iota(np.int32, shape, axis) for axis in range(len(shape))
        ]
        taps = output % jnp.maximum(shape[-1] // count, 1) == inputs
        for position, size in zip(window, shape, strict=False):
            taps &= position == (size - 1) // 2
        return jnp.where(taps, dtype.type(value), dtype.type(0))

    return Draw(sample, kinds=(jnp.inexact,))


@initializer
def bilinear_upsample(dtype: DType = None) -> Draw:
    """The transposed convolution that upsamples each channel by linear interpolation.

    `∏(1 - |x/f - c|)` over the window's axes, `f = ⌈k/2⌉` and `c = (2f - 1 - f % 2) / (2f)`, on the
    diagonal of (in, out). A window of 4 with stride 2 and SAME padding then equals
    `jax.image.resize` inside; in general stride f needs a window of `2f - f % 2`.

    Args:
        dtype: the default dtype; None is JAX's default float.

    Returns:
        An initializer for kernels of shape (*window, in, out); a single input (a depthwise
        kernel) feeds every output. It uses no key.

    Raises:
        ValueError: when called, for a shape without in and out axes.

    >>> import flax_inits, jax
    >>> flax_inits.bilinear_upsample()(jax.random.key(0), (4, 1, 1)).ravel()
    Array([0.25, 0.75, 0.75, 0.25], dtype=float32)

    Reference:
        Long et al. 2015, Fully Convolutional Networks for Semantic Segmentation,
        https://arxiv.org/abs/1411.4038
    """

    def sample(key: Key, shape: tuple, dtype: np.dtype) -> Array:
        checks.rank("bilinear_upsample", shape, 2, "(*window, in, out)")
        checks.known("bilinear_upsample", shape[:-2])
        taps = np.ones(())
        for size in shape[:-2]:
            taps = taps[..., None] * _linear_taps(size)
        inputs, output = (jax.lax.broadcasted_iota(np.int32, shape, len(shape) - n) for n in (2, 1))
        passes = (inputs == output) | (shape[-2] == 1)
        return jnp.where(passes, taps[..., None, None].astype(dtype), dtype.type(0))

    return Draw(sample, kinds=(jnp.inexact,))


def _linear_taps(size: int) -> np.ndarray:
    half = max((size + 1) // 2, 1)
    centre = (2 * half - 1 - half % 2) / (2 * half)
    return 1 - np.abs(np.arange(size) / half - centre)


@initializer
def icnr(
    base: Callable[..., Array], r: int, order: str = "pixel_shuffle", dtype: DType = None
) -> Draw:
    """`base` for a sub-pixel convolution, equal within each block: no checkerboard at the start.

    `base` draws a kernel with `out / r^d` outputs (d window axes), and each is repeated `r^d`
    times: after the shuffle, the layer is a convolution followed by nearest upsampling.

    Args:
        base: the initializer of the smaller kernel.
        r: the factor of upsampling.
        order: how the shuffle reads the outputs: "pixel_shuffle" as (channels, r, r), as in
            torch's PixelShuffle, or "depth_to_space" as (r, r, channels), as in dm_pix.
        dtype: the default dtype; None is JAX's default float.

    Returns:
        An initializer for kernels of shape (*window, in, out).

    Raises:
        ValueError: for r below 1 or an unknown order; when called, where `r^d` does not divide out.
        TypeError: if `base` cannot be called.

    >>> import flax_inits, jax
    >>> kernel = flax_inits.icnr(flax_inits.he_normal(), 2)(jax.random.key(0), (3, 3, 8, 12))
    >>> bool((kernel[..., 0] == kernel[..., 3]).all())
    True

    Reference:
        Aitken et al. 2017, Checkerboard artifact free sub-pixel convolution,
        https://arxiv.org/abs/1707.02937
    """
    draw = component("icnr", "base", base)
    factor = checks.count("icnr", "r", r)
    checks.one_of("icnr", "order", order, ("pixel_shuffle", "depth_to_space"))

    def sample(key: Key, shape: tuple, dtype: np.dtype) -> Array:
        checks.rank("icnr", shape, 3, "(*window, in, out)")
        block = factor ** (len(shape) - 2)
        checks.divides("icnr", "r^d", block, shape, -1)
        small = draw.sample(key, (*shape[:-1], shape[-1] // block), dtype)
        axis = len(shape) if order == "pixel_shuffle" else len(shape) - 1
        copies = [*small.shape[:axis], block, *small.shape[axis:]]
        return jnp.broadcast_to(jnp.expand_dims(small, axis), copies).reshape(shape)

    return draw._replace(sample=sample, widen=False, pieces=())


@initializer
def stft(
    side: str = "real",
    window: Any = "hann",
    scaling: str | None = "density",
    periodic: bool = False,
    dtype: DType = None,
) -> Draw:
    """The kernel of a short-time Fourier transform: its real or its imaginary part.

    `cos` or `sin` of `-2π·t·f / (2(F - 1))`, times the window over its norm, for time t < T and
    frequency f < F.

    Args:
        side: "real" or "imag".
        window: what `scipy.signal.get_window` knows by name, such as "hann" or ("kaiser", 8.6);
            T values; or None for no window.
        scaling: "density" (divides by √Σw²), "spectrum" (by Σ|w|) or None.
        periodic: whether a named window is periodic, as for spectral analysis, or symmetric.
        dtype: the default dtype; None is JAX's default float.

    Returns:
        An initializer for kernels of shape (T, in, F); it uses no key.

    Raises:
        ValueError: for an unknown side, window or scaling; when called, for another rank, or a
            window of another length.

    >>> import flax_inits, jax
    >>> kernel = flax_inits.stft("real", window=None)(jax.random.key(0), (4, 1, 3))
    >>> kernel[:, 0, 1].round(2) + 0
    Array([ 1.,  0., -1.,  0.], dtype=float32)

    Reference:
        The STFT initializer of Keras 3, https://keras.io/api/layers/initializers/
    """
    checks.one_of("stft", "side", side, ("real", "imag"))
    if scaling is not None:
        checks.one_of("stft", "scaling", scaling, ("density", "spectrum"))
    if window is not None:
        _window(window, 2 if _is_named(window) else np.size(window), periodic)

    def sample(key: Key, shape: tuple, dtype: np.dtype) -> Array:
        if len(shape) != 3:
            raise ValueError(f"stft needs a shape (time, in, frequencies), got {shape}.")
        checks.known("stft", shape)
        length, _, frequencies = shape
        turns = np.arange(length)[:, None] * np.arange(frequencies) / max(2 * (frequencies - 1), 1)
        kernel = np.cos(2 * np.pi * turns) if side == "real" else -np.sin(2 * np.pi * turns)
        if window is not None and length:
            taps = _window(window, length, periodic)
            kernel = kernel * (taps / _norm(taps, scaling))[:, None]
        return jnp.broadcast_to(jnp.asarray(kernel[:, None], dtype), shape)

    return Draw(sample)


def _is_named(window: Any) -> bool:
    """Whether SciPy makes the window: "hann", or ("kaiser", 8.6)."""
    return isinstance(window[0] if isinstance(window, tuple) and window else window, str)


def _window(window: Any, length: int, periodic: bool) -> np.ndarray:
    if _is_named(window):
        import scipy.signal  # it comes with jax, and takes longer to import than the rest

        return np.asarray(scipy.signal.get_window(window, length, fftbins=periodic))
    taps = np.asarray(window, np.float64)
    if not taps.size:
        raise ValueError("stft needs a window of one value or more, got none.")
    if taps.shape != (length,):
        raise ValueError(
            f"stft needs a window of {length} values for this shape, got {taps.shape}."
        )
    return taps


def _norm(taps: np.ndarray, scaling: str | None) -> float:
    if scaling is None:
        return 1.0
    norm = np.sqrt(np.sum(taps**2)) if scaling == "density" else np.sum(np.abs(taps))
    return float(norm)
