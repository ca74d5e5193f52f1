"""How fast random arrays are made: flax_inits against jax.random, NumPy and PyTorch.

Every contender makes the same number of float32 elements in fresh memory. They take turns, so that
a busy moment of the machine falls on all of them; the fastest round counts. `jnp.full`, which only
writes memory, is the limit. What is not called eagerly is jitted. A second table has orthogonal
matrices, whose time is the QR decomposition's.

    python examples/benchmarks/bits.py
    python examples/benchmarks/bits.py --side 1024 --rounds 5
    python examples/benchmarks/bits.py --orthogonal 1024 4096
"""

import argparse
import functools
import time
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from rich.console import Console
from rich.table import Table

import flax_inits

LIMIT = "jnp.full"


def plain_mixture(key, shape):
    u = jax.random.uniform(key, shape, minval=-10, maxval=10)
    return u * (jnp.abs(u) >= 5)


def jax_programs(shape) -> dict[str, Callable[[Any], Any]]:
    return {
        LIMIT: lambda key: jnp.full(shape, 0.5, jnp.float32),
        "flax_inits.mixture()": lambda key: flax_inits.mixture()(key, shape, jnp.float32),
        "jax u * (abs(u) >= 5)": lambda key: plain_mixture(key, shape),
        "flax_inits.uniform": lambda key: flax_inits.uniform(0.0, 1.0)(key, shape, jnp.float32),
        "jax.random.uniform, fused key": lambda key: jax.random.uniform(
            flax_inits.fused_key(key), shape
        ),
        "jax.random.uniform": lambda key: jax.random.uniform(key, shape),
        "flax_inits.normal": lambda key: flax_inits.normal(1.0)(key, shape, jnp.float32),
        "jax.random.normal, fused key": lambda key: jax.random.normal(
            flax_inits.fused_key(key), shape
        ),
        "jax.random.normal": lambda key: jax.random.normal(key, shape),
    }


def jax_contenders(shape) -> dict[str, tuple[Callable[[], Any], int | None]]:
    """Name -> (what makes one array, bytes of temporaries where the compiler knows them)."""
    key = jax.random.key(0)
    contenders: dict[str, tuple[Callable[[], Any], int | None]] = {}
    for name, program in jax_programs(shape).items():
        compiled = jax.jit(program).lower(key).compile()
        memory = compiled.memory_analysis()
        contenders[name] = functools.partial(compiled, key), memory.temp_size_in_bytes
    eager = {
        "flax_inits.mixture(), called eagerly": flax_inits.mixture(),
        "jax u * (abs(u) >= 5), called eagerly": plain_mixture,
    }
    return contenders | {
        name: (functools.partial(f, key, shape), None) for name, f in eager.items()
    }


def numpy_contenders(shape) -> dict[str, tuple[Callable[[], Any], None]]:
    generator = np.random.default_rng(0)

    def mixture():
        u = generator.random(shape, np.float32) * np.float32(20) - np.float32(10)
        return u * (np.abs(u) >= 5)

    return {
        "NumPy uniform": (lambda: generator.random(shape, np.float32), None),
        "NumPy u * (abs(u) >= 5)": (mixture, None),
        "NumPy normal": (lambda: generator.standard_normal(shape, np.float32), None),
    }


def torch_contenders(shape) -> dict[str, tuple[Callable[[], Any], None]]:
    try:
        import torch
    except ImportError:
        return {}

    def mixture():
        u = torch.empty(shape).uniform_(-10, 10)
        return u * (u.abs() >= 5)

    def mixture_in_place():
        u = torch.empty(shape).uniform_(-10, 10)
        u *= u.abs() >= 5
        return u

    return {
        "torch uniform": (lambda: torch.nn.init.uniform_(torch.empty(shape)), None),
        "torch u * (abs(u) >= 5)": (mixture, None),
        "torch u *= abs(u) >= 5": (mixture_in_place, None),
        "torch normal": (lambda: torch.nn.init.normal_(torch.empty(shape)), None),
    }


def fastest(contenders: dict[str, tuple[Callable[[], Any], Any]], rounds: int) -> dict[str, float]:
    """Seconds of the fastest of `rounds` calls after a first one; all take turns."""
    seconds = {name: float("inf") for name in contenders}
    for turn in range(rounds + 1):
        for name, (make, _) in contenders.items():
            start = time.perf_counter()
            jax.block_until_ready(make())
            elapsed = time.perf_counter() - start
            seconds[name] = min(seconds[name], elapsed if turn else float("inf"))
    return seconds


def table(shape, rounds: int) -> Table:
    contenders = jax_contenders(shape) | numpy_contenders(shape) | torch_contenders(shape)
    seconds = fastest(contenders, rounds)
    where = f"{jax.devices()[0].device_kind}, jax {jax.__version__}"
    shown = Table(title=f"{shape[0]} x {shape[1]} float32, {where}, {rounds} rounds")
    shown.add_column("")
    for column in ("ms", "M elements/s", "temporaries, MB", f"time / {LIMIT}"):
        shown.add_column(column, justify="right")
    for name, (_, temporaries) in contenders.items():
        shown.add_row(
            name,
            f"{seconds[name] * 1e3:.1f}",
            f"{shape[0] * shape[1] / seconds[name] / 1e6:.0f}",
            "" if temporaries is None else f"{temporaries / 1e6:.1f}",
            f"{seconds[name] / seconds[LIMIT]:.2f}",
        )
    return shown


def orthogonal_contenders(side: int) -> dict[str, tuple[Callable[[], Any], None]]:
    key, shape = jax.random.key(0), (side, side)
    contenders = {
        "jax orthogonal": jax.nn.initializers.orthogonal(),
        "flax_inits.orthogonal": flax_inits.orthogonal(),
    }
    programs = {name: jax.jit(lambda k, f=f: f(k, shape)) for name, f in contenders.items()}
    made = {name: (functools.partial(f, key), None) for name, f in programs.items()}
    try:
        import torch
    except ImportError:
        return made

    def in_torch():
        return torch.nn.init.orthogonal_(torch.empty(shape))

    return made | {"torch orthogonal": (in_torch, None)}


def orthogonal_table(sides: list[int], rounds: int) -> Table:
    shown = Table(title=f"orthogonal, float32, jax {jax.__version__}")
    shown.add_column("")
    for column in ("side", "seconds", "time / jax"):
        shown.add_column(column, justify="right")
    for side in sides:
        # A decomposition takes long enough that few rounds tell.
        seconds = fastest(orthogonal_contenders(side), min(rounds, 3))
        for name, elapsed in seconds.items():
            relative = elapsed / seconds["jax orthogonal"]
            shown.add_row(name, str(side), f"{elapsed:.3f}", f"{relative:.2f}")
    return shown


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--side", type=int, default=4096, help="rows and columns of the array")
    parser.add_argument("--rounds", type=int, default=7, help="timed calls of each contender")
    parser.add_argument(
        "--orthogonal", type=int, nargs="*", default=[1024], help="sides of orthogonal matrices"
    )
    arguments = parser.parse_args()
    console = Console(width=100)
    console.print(table((arguments.side,) * 2, arguments.rounds))
    if arguments.orthogonal:
        console.print(orthogonal_table(arguments.orthogonal, arguments.rounds))


if __name__ == "__main__":
    main()
