"""Arrays in open files, and what to take of other things that a checkpoint comes as."""

from collections.abc import Sequence
from typing import Any

import jax.numpy as jnp
import numpy as np

_DTYPES = {
    "BOOL": np.bool_,
    "BF16": jnp.bfloat16,
    "F8_E4M3": jnp.float8_e4m3fn,
    "F8_E5M2": jnp.float8_e5m2,
}


class OnDisk:
    """An array in an open safetensors file, of which only what is asked for is read."""

    def __init__(self, held: Any):
        self._held = held
        self.shape = tuple(held.get_shape())
        name = held.get_dtype()
        # F32, I64, U8 and the like: a kind, and bits.
        known = _DTYPES.get(name) or f"{name[0].lower()}{int(name[1:]) // 8}"
        self.dtype = np.dtype(known)

    def __getitem__(self, region: Sequence[slice]) -> np.ndarray:
        sizes = tuple(part.stop - part.start for part in region)
        if 0 in sizes:  # The file's own slices cannot be empty.
            return np.empty(sizes, self.dtype)
        return np.asarray(self._held[tuple(region)]).astype(self.dtype, copy=False)

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        return np.asarray(self[[slice(0, size) for size in self.shape]], dtype)


def readable(leaf: Any) -> Any:
    """A leaf of a donor as something with a shape and a dtype, if it is a slice of safetensors."""
    return OnDisk(leaf) if hasattr(leaf, "get_shape") and hasattr(leaf, "get_dtype") else leaf


_INSIDE = {
    "get_slice": "{name: donor.get_slice(name) for name in donor.keys()}",
    "item_metadata": "donor.item_metadata",
    "state_dict": "{name: tensor.numpy() for name, tensor in donor.state_dict().items()}",
}


def what_is_inside(donor: Any) -> str:
    """What to give instead of an object that holds the arrays but is no tree of them; or ""."""
    return next((f" Give {code}." for name, code in _INSIDE.items() if hasattr(donor, name)), "")
