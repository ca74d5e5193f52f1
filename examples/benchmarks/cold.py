"""What the benchmarks of whole models share: one way of initializing, measured in a new process."""

import json
import subprocess
import sys
import time


def measure(fun, args, method, plan=False):
    """Initializes by one method, as the first thing that this process compiles.

    Args:
        fun: A function that makes params.
        args: Its arguments, the key first.
        method: "eager", "jit" or "jit_init".
        plan: Also report how long the plan of `jit_init` took, which includes tracing.

    Returns:
        Seconds, programs, bytes, leaves, params, the peak of memory beyond the params ("extra"),
        a digest of each leaf by its path ("digests"), and the device.
    """
    import jax

    import flax_inits

    spent = {"trace": 0.0, "lower": 0.0, "compile": 0.0, "programs": 0}

    def listen(event, seconds, **_):
        for phase, key in (("jaxpr_to_mlir", "lower"), ("backend_compile", "compile")):
            if phase in event:
                spent[key] += seconds
                spent["programs"] += key == "compile"

    _settle(args)
    jax.monitoring.register_event_duration_secs_listener(listen)
    _forget_peak()
    before, begun = in_use(), time.perf_counter()
    if method == "jit_init":
        fun = flax_inits.jit_init(fun)
        if plan:
            fun.plan(*args)
            spent["trace"] = time.perf_counter() - begun
    elif method == "jit":
        fun = jax.jit(fun)
    variables = jax.block_until_ready(fun(*args))
    total = time.perf_counter() - begun
    peak, spent = in_use(peak=True), dict(spent)
    leaves = {
        jax.tree_util.keystr(path, simple=True, separator="/"): leaf
        for path, leaf in jax.tree_util.tree_leaves_with_path(variables)
    }
    size = sum(leaf.nbytes for leaf in leaves.values())
    return spent | {
        "total": total,
        "bytes": size,
        "extra": peak - before - size,
        "leaves": len(leaves),
        "params": sum(leaf.size for leaf in leaves.values()),
        "digests": {path: _digest(leaf) for path, leaf in leaves.items()},
        "device": jax.devices()[0].device_kind,
    }


def _settle(args):
    """Waits for the arguments and forgets what making them has traced and compiled."""
    import jax

    jax.block_until_ready(args)
    jax.clear_caches()
    if jax.dtypes.issubdtype(args[0].dtype, jax.dtypes.prng_key):
        jax.random.key_data(args[0])


def in_use(peak=False):
    """Bytes in use on the device, or by this process where the device is the host."""
    jax = sys.modules.get("jax")
    stats = jax.devices()[0].memory_stats() if jax else None
    if stats:
        return stats["peak_bytes_in_use" if peak else "bytes_in_use"]
    with open("/proc/self/status") as file:
        lines = dict(line.split(":", 1) for line in file)
    return int(lines["VmHWM" if peak else "VmRSS"].split()[0]) * 1024


def _forget_peak():
    """Lets the peak of this process's memory begin anew: the imports needed more than it holds."""
    with open("/proc/self/clear_refs", "w") as file:
        file.write("5")


def _digest(leaf):
    import hashlib

    import jax
    import numpy as np

    if jax.dtypes.issubdtype(leaf.dtype, jax.dtypes.prng_key):
        leaf = jax.random.key_data(leaf)
    array = np.asarray(leaf)
    kind = f"{array.dtype}{array.shape}".encode()
    return hashlib.sha256(kind + array.tobytes()).hexdigest()[:16]


def in_fresh_process(script, *arguments):
    """What `script --measure ...` prints last, as JSON, run in a new interpreter."""
    done = subprocess.run(
        [sys.executable, script, "--measure", *map(str, arguments)],
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        raise RuntimeError(done.stderr)
    return json.loads(done.stdout.splitlines()[-1])


def median(results):
    """The result in the middle, by total time."""
    return sorted(results, key=lambda result: result["total"])[len(results) // 2]
