"""Compile whole-model initialization for TPUs without one, and plan it for pods of any size.

    python examples/benchmarks/tpu.py            # compile times against jax.jit; several minutes
    python examples/benchmarks/tpu.py --scale    # 1B to 70B parameters on 8 to 2048 devices
    python examples/benchmarks/tpu.py --small    # a toy model, for a quick look

Compiling needs the TPU compiler, on any Linux x86-64 machine: `pip install "jax[tpu]"`. Without it
`--scale` still plans, over abstract meshes. Each figure is from a fresh process, imports excluded.
"""

import argparse
import importlib.util
import json
import os
import re
import resource
import time

import cold

# There is no TPU to ask what it is.
os.environ |= {"JAX_PLATFORMS": "cpu", "TPU_SKIP_MDS_QUERY": "1"}

COMPILER = importlib.util.find_spec("libtpu") is not None
COLLECTIVE = re.compile(r"all-gather|all-reduce|all-to-all|collective-permute|reduce-scatter")

# Topologies with their meshes.
MESHES = {8: ("v5e:2x4", (2, 4)), 16: ("v5e:4x4", (4, 4)), 256: ("v5e:16x16", (16, 16)),
          2048: ("v5p:8x16x16", (32, 64))}  # fmt: skip
# Layers, width and vocabulary of plain language models, by their number of parameters.
SIZES = {"1B": (17, 2048, 32000), "7B": (32, 4096, 32000), "70B": (86, 8192, 32000)}


def mesh_of(devices):
    """A 2-D mesh: of TPU devices that are not there, or without the compiler an abstract one."""
    import numpy as np
    from jax.experimental import topologies
    from jax.sharding import AbstractMesh, Mesh

    name, shape = MESHES[devices]
    if not COMPILER:
        return AbstractMesh(shape, ("x", "y"))
    topology = topologies.get_topology_desc(platform="tpu", topology_name=name)
    return Mesh(np.array(topology.devices).reshape(shape), ("x", "y"))


def spread(mesh):
    """A function for `out_shardings`: the largest axis over x, the next over y, if they divide."""
    import jax
    from jax.sharding import NamedSharding, PartitionSpec

    def sharding(leaf):
        names, free = [None] * leaf.ndim, ["y", "x"]
        for axis in sorted(range(leaf.ndim), key=lambda axis: -leaf.shape[axis]):
            if free and leaf.shape[axis] % mesh.shape[free[-1]] == 0:
                names[axis] = free.pop()
        return NamedSharding(mesh, PartitionSpec(*names))

    return lambda tree: jax.tree.map(sharding, tree)


def measure_jit(name):
    """Seconds to trace, and to lower and compile `jax.jit(model.init)`."""
    import jax
    from models import MODELS, SMALL

    (fun, args), out_shardings = (MODELS | SMALL)[name](), spread(mesh_of(16))
    jitted = jax.jit(fun, out_shardings=out_shardings(jax.eval_shape(fun, *args)))
    args = jax.eval_shape(lambda: args)
    jax.clear_caches()
    begun = time.perf_counter()
    traced = jitted.trace(*args)
    between = time.perf_counter()
    compiled = traced.lower().compile()
    spent = time.perf_counter() - between
    return facts([compiled]) | {"trace": between - begun, "compile": spent}


def measure_jit_init(name, devices=16):
    """The same of `jit_init`, with what the plan says."""
    import jax
    import models

    import flax_inits

    if name in SIZES:
        fun, args = models.transformer(*SIZES[name])
    else:
        fun, args = (models.MODELS | models.SMALL)[name]()
    args = jax.eval_shape(lambda: args)
    init = flax_inits.jit_init(fun, out_shardings=spread(mesh_of(int(devices))))
    before, begun = cold.in_use(), time.perf_counter()
    plan = init.plan(*args)
    between = time.perf_counter()
    planned = peak() - before
    programs = init.lower(*args).compile().programs if COMPILER else ()
    spent = time.perf_counter() - between
    return facts([compiled for _, compiled in programs]) | {
        "trace": between - begun,
        "compile": spent,
        "planned programs": plan.programs,
        "bytes": plan.bytes,
        "per device": plan.bytes_per_device,
        "host, plan": planned,
        "host, compile": peak() - before,
    }


def facts(compiled):
    """What the compiler says of its programs."""
    return {
        "programs": len(compiled),
        "temporaries": max((c.memory_analysis().temp_size_in_bytes for c in compiled), default=0),
        "collectives": sum(len(COLLECTIVE.findall(c.as_text())) for c in compiled),
    }


def peak():
    """The most memory that this process has had, in bytes."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def against_jit(names):
    """Prints how long each way takes from a function to programs for a TPU v5e 4x4."""
    if not COMPILER:
        print('Compiling for TPUs needs their compiler: pip install "jax[tpu]".')
        return
    print(f"{'model':12}{'':10}{'trace':>8}{'compile':>9}{'programs':>10}{'temp':>10}{'coll.':>7}")
    for name in names:
        rows = {way: cold.in_fresh_process(__file__, way, name) for way in ("jit", "jit_init")}
        for way, row in rows.items():
            print(
                f"{name:12}{way:10}{row['trace']:7.2f}s{row['compile']:8.2f}s{row['programs']:10}"
                f"{row['temporaries'] / 1e6:7.2f} MB{row['collectives']:7}"
            )
        jit, ours = rows["jit"], rows["jit_init"]
        whole = (jit["trace"] + jit["compile"]) / (ours["trace"] + ours["compile"])
        print(f"{'':12}{jit['compile'] / ours['compile']:.1f}x less; with the trace {whole:.1f}x\n")


def scale():
    """Prints a row for each model and number of devices; nothing of its size is ever made."""
    print(
        "| parameters | devices | plan | programs | compile | parameters per device "
        "| temporaries per device | host memory: plan, compile |\n|" + "---|" * 8
    )
    for name in SIZES:
        for devices in (8, 256, 2048):
            row = cold.in_fresh_process(__file__, "jit_init", name, devices)
            compiled = f"{row['compile']:.1f} s" if COMPILER else "–"
            temporaries = f"{row['temporaries'] / 1e6:.2f} MB" if COMPILER else "–"
            host = f"{row['host, plan'] / 1e6:.0f} MB"
            host += f", {row['host, compile'] / 1e6:.0f} MB" if COMPILER else ", –"
            print(
                f"| {row['bytes'] / 4e9:.1f} B ({name}) | {devices} ({MESHES[devices][0]}) "
                f"| {row['trace']:.1f} s | {row['planned programs']} | {compiled} "
                f"| {row['per device'] / 1e9:.3f} GB | {temporaries} | {host} |",
                flush=True,
            )


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("models", nargs="*", default=["LM-12/768", "LM-48/384"])
    parser.add_argument("--scale", action="store_true", help="plan 1B to 70B parameters")
    parser.add_argument("--small", action="store_true", help="a toy model")
    parser.add_argument("--measure", nargs="+", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.measure:
        way, *arguments = options.measure
        print(json.dumps({"jit": measure_jit, "jit_init": measure_jit_init}[way](*arguments)))
    elif options.scale:
        scale()
    else:
        against_jit(["LM-2/64"] if options.small else options.models)


if __name__ == "__main__":
    main()
