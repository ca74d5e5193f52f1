"""New arrays on one CPU device, and writing into their memory before anybody else has them.

JAX has no public way to fill an array part by part without a program for its shape. Writing to an
address is safe because the array is new: it is alive while it is written to, nothing waits to write
into it, no program or view reads it yet, and its values are laid out as in NumPy, which `is_plain`
finds out. Arrays are immutable again from the moment that they are handed out.
"""

import ctypes
import functools
import math
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np
from jax.sharding import Sharding

from .._base.types import Array, Shape


def owned(values: np.ndarray, sharding: Sharding | None) -> Array:
    """Makes a copy that owns its memory, so that donating it later reuses it."""
    copied = jax.device_put(values, sharding, may_alias=False)
    if copied.unsafe_buffer_pointer() != values.ctypes.data:
        return copied
    # CPU devices take over aligned memory in spite of may_alias=False (jax#37830). An array of
    # borrowed memory can be donated, but its memory is not reused.
    other = misaligned(values.size, values.dtype)
    other[:] = values.reshape(-1)
    return jax.device_put(other.reshape(values.shape), sharding, may_alias=False)


def filled(shapes: Sequence[Shape], fill: np.ndarray, sharding: Sharding | None) -> list[Array]:
    """Makes arrays on one CPU device, filled with one number, in one transfer."""
    source = misaligned(max(map(math.prod, shapes)), fill.dtype)
    if fill.tobytes().strip(b"\0"):
        source[:] = fill
    return cut(source, shapes, sharding)


def cut(source: np.ndarray, shapes: Sequence[Shape], sharding: Sharding | None) -> list[Array]:
    """Copies the first values of misaligned memory into arrays, all in one transfer."""
    views = [source[: math.prod(shape)].reshape(shape) for shape in shapes]
    return jax.device_put(views, sharding, may_alias=False)


def misaligned(size: int, dtype: Any) -> np.ndarray:
    """Allocates zeros that no device takes over as they are: that needs a multiple of 64 bytes."""
    buffer = np.zeros(size * dtype.itemsize + 64, np.uint8)  # not resident until written
    start = -buffer.ctypes.data % 64 + dtype.itemsize % 64
    return buffer[start : start + size * dtype.itemsize].view(dtype)


@functools.cache
def is_plain(dtype: Any) -> bool:
    """Whether CPU devices keep values as NumPy does, so that NumPy looks into their memory.

    They may pack those of fewer than 8 bits.
    """
    probe = jax.device_put(np.zeros(64, dtype), jax.local_devices(backend="cpu")[0])
    return np.asarray(probe).ctypes.data == probe.unsafe_buffer_pointer()


def memory_of(new: Array) -> np.ndarray:
    """Opens the memory of a new array of a plain dtype, to be written while nobody has it."""
    # Waiting first: the copy that fills a new array may still be under way, in another thread, and
    # would write over what is written here.
    address = new.block_until_ready().unsafe_buffer_pointer()
    return np.frombuffer((ctypes.c_uint8 * new.nbytes).from_address(address), new.dtype)
