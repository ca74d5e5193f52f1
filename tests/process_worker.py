"""One of several processes of `test_processes.py`, and what each of them makes.

    python tests/process_worker.py <address of process 0> <which process> <of how many> <task>

The test makes the same by itself, on devices of its own, and compares shard by shard.
"""

import hashlib
import json
import os
import signal
import sys
from collections.abc import Iterator
from typing import Any

import flax.linen as nn
import jax
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

import flax_inits as fi

LIMIT = 150
"""Seconds after which a process ends itself, whatever became of the one that started it."""

DIED = 7
"""The exit code of the task `die`."""

KEY, NEXT = 3, 4
XAVIER = nn.initializers.xavier_uniform()
X = np.ones((2, 4), np.int32)
LARGE = (1 << 12, 1 << 8)


class Block(nn.Module):
    """A residual block, with boxed kernels or without."""

    boxed: bool = False

    @nn.compact
    def __call__(self, x, _=None):
        init = nn.initializers.lecun_normal()
        if self.boxed:
            init = nn.with_partitioning(init, ("a", "b"))
        y = nn.Dense(32, kernel_init=init, name="up")(nn.LayerNorm()(x))
        return x + nn.Dense(16, kernel_init=init, name="down")(nn.gelu(y)), None


class Model(nn.Module):
    """Embedding, attention, blocks one by one or scanned, and a head."""

    boxed: bool = False
    scan: bool = False

    @nn.compact
    def __call__(self, tokens):
        x = nn.Embed(64, 16, name="embed")(tokens)
        x = x + nn.MultiHeadDotProductAttention(num_heads=4, name="attention")(x, x)
        if self.scan:
            scanned = nn.scan(
                Block, variable_axes={"params": 0}, split_rngs={"params": True}, length=3
            )
            x, _ = scanned(self.boxed, name="blocks")(x, None)
        else:
            for i in range(2):
                x, _ = Block(self.boxed, name=f"block_{i}")(x)
        return nn.Dense(8, kernel_init=fi.mixture(), name="head")(x)


def mesh_of(kind: AxisType) -> Mesh:
    """All devices of all processes."""
    return jax.make_mesh((4, 2), ("a", "b"), axis_types=(kind, kind))


def split_evenly(mesh: Mesh) -> Any:
    """A function for `out_shardings`: the first even axes over a, then over b."""

    def spec(leaf: Any) -> NamedSharding:
        names, free = [], ["b", "a"]
        for size in leaf.shape:
            fits = bool(free) and size % mesh.shape[free[-1]] == 0 and size > 0
            names.append(free.pop() if fits else None)
        return NamedSharding(mesh, P(*names))

    return lambda tree: jax.tree.map(spec, tree)


def made() -> Iterator[tuple[str, Any]]:
    """Everything that draws values, by name."""
    yield from inits(mesh_of(AxisType.Auto))
    yield from resets(mesh_of(AxisType.Auto))
    for name, tree in resets(mesh_of(AxisType.Explicit)):
        yield f"{name}, explicit axes", tree


def inits(mesh: Mesh) -> Iterator[tuple[str, Any]]:
    """Whole models, and factories by themselves."""
    key, even = jax.random.key(KEY), split_evenly(mesh)
    init = fi.jit_init(Model().init, out_shardings=even)
    yield "plain", init(key, X)
    replicated = NamedSharding(mesh, P())
    yield "key on the mesh", init(jax.jit(lambda: key, out_shardings=replicated)(), X)
    rules = {"params/head": fi.normal(0.1), "params/**/up/kernel": fi.orthogonal()}
    yield "rules", fi.jit_init(Model().init, rules=rules, out_shardings=even)(key, X)
    boxes = fi.jit_init(Model(True).init, out_shardings=lambda t: nn.get_sharding(t, mesh))
    yield "boxed", boxes(key, X)
    yield "scanned", fi.jit_init(Model(scan=True).init, out_shardings=even)(key, X)
    yield "local", fi.jit_init(Model().init)(key, X)
    rows = NamedSharding(mesh, P(("a", "b")))
    for factory in (fi.mixture(), fi.truncated_normal(0.5), fi.zeros(), fi.orthogonal()):
        yield repr(factory), factory(key, (16, 8), out_sharding=rows)
    yield "large", fi.jit_init(lambda key: fi.mixture()(key, LARGE), out_shardings=rows)(key)


def resets(mesh: Mesh) -> Iterator[tuple[str, Any]]:
    """`reinit` and `graft` of params that are spread over the mesh already."""
    key = jax.random.key(NEXT)
    init = fi.jit_init(Model().init, out_shardings=split_evenly(mesh))
    old, model = init(jax.random.key(KEY), X), lambda key: Model().init(key, X)
    yield "by rule", fi.reinit(key, old, {"params/head/kernel": XAVIER})
    yield "by init_fn", fi.reinit(key, old, "params/block_*", init_fn=model)
    rules = {"**/attention": fi.normal(0.02), "**/up/kernel": fi.orthogonal()}
    yield "through the model", fi.reinit(key, old, rules, init_fn=model)
    yield "that cannot be traced", fi.reinit(key, old, {"**/up/kernel": on_the_host})
    host = jax.tree.map(lambda leaf: np.full(leaf.shape, 0.5, leaf.dtype), old)
    yield "grafted from the host", fi.graft(old, host, "params/head")
    yield "grafted from the mesh", fi.graft(old, init(key, X), "params/head")
    halves = NamedSharding(jax.make_mesh((2, 4), ("process", "device")), P("process"))
    wide = {"w": jax.jit(lambda: jax.numpy.ones((8, 4)).cumsum(0), out_shardings=halves)()}
    yield "adapted on the mesh", fi.graft(wide, wide, {"w": fi.take("w", fi.cut(axis=0))})
    again = init(jax.random.key(KEY), X)
    yield "donated", fi.reinit(key, again, {"**/kernel": fi.mixture()}, donate=True)


def on_the_host(key: Any, shape: tuple, dtype: Any) -> Any:
    """An initializer in NumPy: no tracer passes through it."""
    words = np.asarray(jax.random.key_data(key))
    return np.random.default_rng(words).normal(size=shape).astype(dtype)


def digest(values: Any) -> str:
    """The bytes of a part of an array, in short."""
    return hashlib.sha256(np.ascontiguousarray(values).tobytes()).hexdigest()


def bounds(index: tuple[slice, ...]) -> list[list[int | None]]:
    """A part's slices, for JSON."""
    return [[part.start, part.stop] for part in index]


def parts(leaf: jax.Array) -> list[dict]:
    """The parts that this process holds."""
    return [
        {"device": s.device.id, "bounds": bounds(s.index), "digest": digest(s.data)}
        for s in leaf.addressable_shards
    ]


def report() -> dict:
    """What this process made, and that it holds nothing more."""
    found: dict[str, Any] = {"hash of a string": hash("params")}
    found["devices"] = [device.id for device in jax.local_devices()]
    found["made"] = {}
    for name, tree in made():
        leaves = jax.tree.leaves_with_path(tree)
        found["made"][name] = {jax.tree_util.keystr(path): parts(leaf) for path, leaf in leaves}
        if name == "large":
            found["large"] = held(LARGE, leaves[0][1].dtype)
    return found


def held(shape: tuple, dtype: Any) -> int:
    """Bytes of the arrays of this process that are as large as a part of `shape`."""
    part = np.prod(shape) * dtype.itemsize // jax.device_count()
    shards = [s.data for array in jax.live_arrays() for s in array.addressable_shards]
    # A shard that was looked at is a live array too, over the same memory.
    sizes = {shard.unsafe_buffer_pointer(): shard.nbytes for shard in shards}
    return int(sum(size for size in sizes.values() if size >= part))


def main() -> None:
    """Joins the others, does the task, and prints what came of it as JSON."""
    signal.alarm(LIMIT)
    address, which, count, task = sys.argv[1], *map(int, sys.argv[2:4]), sys.argv[4]
    jax.distributed.initialize(address, count, which, initialization_timeout=60)
    if task == "die" and which:
        print("this one dies", file=sys.stderr, flush=True)
        os._exit(DIED)
    if task in ("die", "hang"):
        signal.pause()
    print(json.dumps(report()))


if __name__ == "__main__":
    main()
