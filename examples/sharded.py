"""A model that is sharded from birth: made, reset in part, trained, reset again, all in place.

    python examples/sharded.py                     # eight CPU devices in place of a pod

On a TPU pod every host runs the same script; each makes only the shards of its own chips:

    POD="gcloud compute tpus tpu-vm ssh my-pod --worker=all --command"
    $POD "pip install 'jax[tpu]' ./flax_inits"     # on every host, once
    $POD "python sharded.py --pod"                 # on every host, at the same time

What `--pod` changes is marked POD below; nothing else knows how many hosts there are. Before you
pay for the pod, any Linux machine with `pip install 'jax[tpu]'` can tell whether the TPU compiler
takes the configuration, and what each chip would hold: where libtpu is, the script does so last.
"""

import argparse
import importlib.util
import os
import re

os.environ.setdefault("TPU_SKIP_MDS_QUERY", "1")  # for the check: there is no TPU to ask

import flax.linen as nn  # noqa: E402
import jax  # noqa: E402
import jax.numpy as jnp  # noqa: E402
import numpy as np  # noqa: E402
import optax  # noqa: E402
from flax.training.train_state import TrainState  # noqa: E402
from jax.sharding import Mesh, NamedSharding, PartitionSpec  # noqa: E402
from rich.console import Console  # noqa: E402
from rich.table import Table  # noqa: E402

import flax_inits  # noqa: E402

WIDTH, VOCABULARY, BATCH, LENGTH = 128, 512, 16, 32
TOKENS = jax.ShapeDtypeStruct((BATCH, LENGTH), jnp.int32)


def over(*names, init=None):
    """An initializer whose leaf is split over these axes of the mesh."""
    return nn.with_partitioning(init or nn.initializers.lecun_normal(), names)


class Block(nn.Module):
    """Attention and a multilayer perceptron: heads and hidden units are split over `model`."""

    @nn.compact
    def __call__(self, x):
        """Adds to `x`."""
        y = nn.LayerNorm()(x)
        x = x + nn.MultiHeadDotProductAttention(
            num_heads=4,
            kernel_init=over(None, "model", None),
            out_kernel_init=over("model", None, None),
            name="attention",
        )(y, y)
        y = nn.Dense(4 * WIDTH, kernel_init=over(None, "model"), name="up")(nn.LayerNorm()(x))
        return x + nn.Dense(WIDTH, kernel_init=over("model", None), name="down")(nn.gelu(y))


class LanguageModel(nn.Module):
    """Two blocks between an embedding and a head."""

    @nn.compact
    def __call__(self, tokens):
        """Logits of the next tokens."""
        embed = over("model", None, init=nn.initializers.normal(0.02))
        x = nn.Embed(VOCABULARY, WIDTH, embedding_init=embed, name="embed")(tokens)
        for i in range(2):
            x = Block(name=f"block_{i}")(x)
        head = over(None, "model", init=flax_inits.normal(0.02))
        return nn.Dense(VOCABULARY, kernel_init=head, name="head")(x)


MODEL = LanguageModel()


def initializer(mesh):
    """`MODEL.init`, each leaf on the devices that its box names; one small program per kind."""
    # The function gets the abstract variables, boxes included.
    return flax_inits.jit_init(MODEL.init, out_shardings=lambda tree: nn.get_sharding(tree, mesh))


def training_state(variables, mesh):
    """Params with Adam's moments, which lie where the params do."""
    params, tx = nn.unbox(variables["params"]), optax.adam(3e-3)
    state = TrainState.create(apply_fn=MODEL.apply, params=params, tx=tx)
    # Counts are on every device from the start, as a step returns them.
    everywhere = NamedSharding(mesh, PartitionSpec())
    state = state.replace(step=jnp.asarray(0))
    return jax.tree.map(lambda leaf: leaf if leaf.ndim else jax.device_put(leaf, everywhere), state)


class Step:
    """A training step that counts how often it was traced."""

    def __init__(self, state):
        self.traces = 0
        # The state stays where it is.
        places = jax.tree.map(lambda leaf: leaf.sharding, state)
        self._run = jax.jit(self._step, donate_argnums=0, out_shardings=(places, None))

    def __call__(self, state, tokens):
        """The state after the step, and the loss before."""
        return self._run(state, tokens)

    def _step(self, state, tokens):
        self.traces += 1

        def loss(params):
            logits = state.apply_fn({"params": params}, tokens[:, :-1])
            return optax.softmax_cross_entropy_with_integer_labels(logits, tokens[:, 1:]).mean()

        value, grads = jax.value_and_grad(loss)(state.params)
        return state.apply_gradients(grads=grads), value


def same_shards(before, after):
    """Whether each leaf is where it was."""
    return jax.tree.map(lambda leaf: leaf.sharding, before) == jax.tree.map(
        lambda leaf: leaf.sharding, after
    )


def show_devices(console, params):
    """Draws which device holds what of a leaf that is split, and of one that is not."""
    for path in (("head", "kernel"), ("head", "bias")):
        leaf = params[path[0]][path[1]]
        local = leaf.sharding.shard_shape(leaf.shape)
        console.print(f"\n{'/'.join(path)} {leaf.shape}: {local} on each device")
        jax.debug.visualize_array_sharding(leaf, use_color=console.is_terminal)


def train(mesh, console):
    """Makes the model, resets its head, trains, and resets it again."""
    init, key = initializer(mesh), jax.random.key(0)
    state = training_state(init(key, jnp.zeros(TOKENS.shape, TOKENS.dtype)), mesh)
    if jax.process_index() == 0:  # POD: one of the hosts speaks for all
        console.print(str(init.plan(key, TOKENS)).splitlines()[-1])
        show_devices(console, state.params)

    # A subtree gets new values on the devices where it lives; all else stays the same object.
    head = {"head/kernel": flax_inits.mixture([flax_inits.normal(0.02), 0]),
            "head/bias": flax_inits.zeros()}  # fmt: skip
    params = flax_inits.reinit(jax.random.key(1), state.params, head)
    assert params["block_0"]["up"]["kernel"] is state.params["block_0"]["up"]["kernel"]
    assert same_shards(state.params, params)
    state = state.replace(params=params)

    # POD: every host makes its part of the batch; here all of it.
    rows = NamedSharding(mesh, PartitionSpec("data"))
    ramp = np.arange(BATCH)[:, None] * 7 + np.arange(LENGTH) * 3
    tokens = jax.make_array_from_callback(
        ramp.shape, rows, lambda part: (ramp[part] % VOCABULARY).astype(np.int32)
    )
    step = Step(state)
    state, first = run(step, state, tokens)
    # The head and Adam's moments of it start again, in place: the same step goes on.
    state = flax_inits.reinit_state(jax.random.key(2), state, head)
    state, second = run(step, state, tokens)
    if jax.process_index() == 0:
        console.print(
            f"\nloss {first[0]:.2f} -> {first[-1]:.2f}, and after the head was reset "
            f"{second[0]:.2f} -> {second[-1]:.2f}; the step was traced {step.traces} time"
        )
    assert step.traces == 1 and second[0] > first[-1] and second[-1] < second[0]


def run(step, state, tokens):
    """Takes ten steps; returns the state and the losses."""
    losses = []
    for _ in range(10):
        state, loss = step(state, tokens)
        losses.append(float(loss))
    return state, losses


def check_for_pod(console, name="v5e:4x4", shape=(4, 4)):
    """What the TPU compiler says of the same model on a slice that is not there."""
    from jax.experimental import topologies

    topology = topologies.get_topology_desc(platform="tpu", topology_name=name)
    mesh = Mesh(np.array(topology.devices).reshape(shape), ("data", "model"))
    key = jax.eval_shape(lambda: jax.random.key(0))
    table = Table(title=f"initialization, compiled for a TPU {name}")
    for column in ("leaves", "first", "bytes per chip", "temporaries", "collectives"):
        table.add_column(column, justify="left" if column == "first" else "right", overflow="fold")
    for paths, compiled in initializer(mesh).lower(key, TOKENS).compile().programs:
        memory, text = compiled.memory_analysis(), compiled.as_text()
        found = re.findall("all-gather|all-reduce|all-to-all|collective-permute", text)
        sizes = (memory.output_size_in_bytes, memory.temp_size_in_bytes)
        cells = str(len(paths)), "/".join(paths[0]), *map("{:,}".format, sizes), str(len(found))
        table.add_row(*cells)
    console.print(table)


def main():
    """Runs on a pod, or on eight CPU devices and then checks for a pod."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--pod", action="store_true", help="on every host of a TPU pod")
    pod, console = parser.parse_args().pod, Console()
    if pod:
        jax.distributed.initialize()  # POD: the hosts find each other
    else:
        jax.config.update("jax_platforms", "cpu")
        jax.config.update("jax_num_cpu_devices", 8)
    # POD: all devices of all hosts.
    devices = np.array(jax.devices())
    train(Mesh(devices.reshape(-1, 4), ("data", "model")), console)
    if not pod and importlib.util.find_spec("libtpu"):
        check_for_pod(console)
    elif not pod:
        console.print('\nTo check this for a TPU pod as well: pip install "jax[tpu]"', markup=False)


if __name__ == "__main__":
    main()
