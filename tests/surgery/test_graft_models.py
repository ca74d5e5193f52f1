"""Grafted models compute what they should, not only hold arrays of the right shape."""

import tracemalloc

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

import flax_inits as fi
from flax_inits import cast, concatenate, cut, grow, reshape, stack, take, tile, transpose, unstack

WIDTH, HEADS, LAYERS, WORDS = 8, 2, 2, 12


class Mlp(nn.Module):
    @nn.compact
    def __call__(self, x):
        return nn.Dense(WIDTH, name="down")(nn.gelu(nn.Dense(2 * WIDTH, name="up")(x)))


class Experts(nn.Module):
    """The two best of four experts, weighted by the router's shares among these two."""

    count: int = 4

    @nn.compact
    def __call__(self, x):
        scores = nn.Dense(self.count, name="router", use_bias=False)(x)
        best, chosen = jax.lax.top_k(scores, 2)
        every = nn.vmap(
            Mlp,
            variable_axes={"params": 0},
            split_rngs={"params": True},
            in_axes=None,
            axis_size=self.count,
        )(name="experts")(x)
        shares = jax.nn.softmax(best)
        picked = jnp.take_along_axis(jnp.moveaxis(every, 0, -2), chosen[..., None], axis=-2)
        return (shares[..., None] * picked).sum(-2)


class Block(nn.Module):
    mlp: type = Mlp

    @nn.compact
    def __call__(self, x):
        norm = nn.LayerNorm(name="norm_1", epsilon=1e-5)
        y = nn.MultiHeadDotProductAttention(HEADS, name="attn")(norm(x))
        x = x + y
        return x + self.mlp(name="mlp")(nn.LayerNorm(name="norm_2", epsilon=1e-5)(x))


class Model(nn.Module):
    words: int = WORDS
    layers: int = LAYERS
    scan: bool = False
    mlp: type = Mlp

    @nn.compact
    def __call__(self, tokens):
        embed = nn.Embed(self.words, WIDTH, name="embed")
        x = embed(tokens)
        if self.scan:
            blocks = nn.scan(
                lambda block, x, _: (block(x), None),
                variable_axes={"params": 0},
                split_rngs={"params": True},
                length=self.layers,
            )
            x, _ = blocks(Block(self.mlp, name="blocks"), x, None)
        else:
            for i in range(self.layers):
                x = Block(self.mlp, name=f"block_{i}")(x)
        return embed.attend(nn.LayerNorm(name="norm", epsilon=1e-5)(x))


TOKENS = jnp.arange(10).reshape(2, 5)


def init(model, seed):
    """Random params, none of which is zero or one as by initialization."""
    shapes = jax.eval_shape(model.init, jax.random.key(0), TOKENS)["params"]
    rng = np.random.default_rng(seed)
    return jax.tree.map(lambda s: jnp.asarray(rng.normal(0, 0.3, s.shape), s.dtype), shapes)


def logits(model, params):
    return jax.jit(model.apply)({"params": params}, TOKENS)


@pytest.fixture(scope="module")
def loop():
    return init(Model(), 0)


def close(a, b):
    np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5)


@pytest.mark.slow
def test_loop_to_scan_to_loop(loop):
    scan = Model(scan=True)
    rules = {"blocks/**": take("block_*/**", stack(axis=0)), "**": "**"}
    scanned = fi.graft(init(scan, 1), loop, rules)
    close(logits(scan, scanned), logits(Model(), loop))
    back = fi.graft(
        init(Model(), 2), scanned, {"block_*/**": take("blocks/**", unstack(axis=0)), "**": "**"}
    )
    assert jax.tree.all(jax.tree.map(lambda a, b: bool((a == b).all()), back, loop))


def test_dense_to_experts(loop):
    experts = Model(mlp=Experts)
    params = init(experts, 1)
    rules = {
        "**/mlp/experts/**": take("**/mlp/**", tile(axis=0)),
        fi.all_but("**/router"): "**",
    }
    after = fi.graft(params, loop, rules)
    close(logits(experts, after), logits(Model(), loop))
    router = after["block_0"]["mlp"]["router"]["kernel"]
    assert router is params["block_0"]["mlp"]["router"]["kernel"]


def test_a_grown_vocabulary(loop):
    wide = Model(words=20)
    rules = {"embed/embedding": take("embed/embedding", grow(0, fi.normal(0.02))), "**": "**"}
    after = fi.graft(init(wide, 1), loop, rules, key=jax.random.key(0))
    close(logits(wide, after)[..., :WORDS], logits(Model(), loop))


def deeper(path):
    """Every layer twice: block_5 of the new model is block_2 of the old one."""
    name, number = path[0].split("_")
    return (f"{name}_{int(number) // 2}", *path[1:])


@pytest.mark.slow
def test_added_blocks_that_add_nothing(loop):
    """Depth up-scaling: each copy's last layers are zero, so the residual stream passes it by."""
    deep = Model(layers=2 * LAYERS)
    after = fi.graft(init(deep, 1), loop, {"block_*/**": deeper, "**": "**"})
    last = ["block_*[13579]/attn/out", "block_*[13579]/mlp/down"]
    after = fi.reinit(jax.random.key(0), after, {where: fi.zeros() for where in last})
    close(logits(deep, after), logits(Model(), loop))


def test_fewer_layers():
    """Every second layer, as a distilled student starts."""
    small, deep = Model(layers=2), init(Model(layers=4), 3)
    plan = {"block_*/**": lambda path: (f"block_{2 * int(path[0][6:])}", *path[1:]), "**": "**"}
    with pytest.raises(ValueError, match="No rule takes 'block_1/attn/key/bias'"):
        fi.graft(init(small, 1), deep, plan)
    after = fi.graft(init(small, 1), deep, plan, drop="block_[13]")
    assert (after["block_1"]["mlp"]["up"]["kernel"] == deep["block_2"]["mlp"]["up"]["kernel"]).all()


# A model of the same maths in PyTorch's manner: weights are (out, in), query, key and value in one
# matrix, layers in a list, names joined by dots; its head is tied and not stored.


def torch_like(seed):
    rng = np.random.default_rng(seed)

    def normal(*shape):
        return rng.normal(0, 0.3, shape).astype(np.float32)

    state = {"wte.weight": normal(WORDS, WIDTH)}
    for i in range(LAYERS):
        shapes = {
            "attn.in_proj": (3 * WIDTH, WIDTH),
            "attn.out_proj": (WIDTH, WIDTH),
            "fc1": (2 * WIDTH, WIDTH),
            "fc2": (WIDTH, 2 * WIDTH),
        }
        for name, shape in shapes.items():
            state[f"h.{i}.{name}.weight"] = normal(*shape)
            state[f"h.{i}.{name}.bias"] = normal(shape[0])
        for name in ("ln1", "ln2"):
            state[f"h.{i}.{name}.weight"], state[f"h.{i}.{name}.bias"] = (
                normal(WIDTH),
                normal(WIDTH),
            )
        state[f"h.{i}.attn.position_ids"] = np.int64(5)
    return state | {"ln_f.weight": normal(WIDTH), "ln_f.bias": normal(WIDTH)}


def torch_logits(state, tokens):
    """The forward pass in NumPy, as PyTorch's modules define it."""

    def linear(x, name):
        return x @ state[f"{name}.weight"].T + state[f"{name}.bias"]

    def norm(x, name):
        centred = x - x.mean(-1, keepdims=True)
        scaled = centred / np.sqrt((centred**2).mean(-1, keepdims=True) + 1e-5)
        return scaled * state[f"{name}.weight"] + state[f"{name}.bias"]

    def heads(x):
        return x.reshape(*x.shape[:2], HEADS, -1).swapaxes(1, 2)

    x = state["wte.weight"][tokens]
    for i in range(LAYERS):
        fused = linear(norm(x, f"h.{i}.ln1"), f"h.{i}.attn.in_proj")
        query, key, value = map(heads, np.split(fused, 3, axis=-1))
        scores = query @ key.swapaxes(-1, -2) / np.sqrt(WIDTH // HEADS)
        mixed = np.asarray(jax.nn.softmax(scores)) @ value
        x = x + linear(mixed.swapaxes(1, 2).reshape(x.shape), f"h.{i}.attn.out_proj")
        hidden = np.asarray(nn.gelu(linear(norm(x, f"h.{i}.ln2"), f"h.{i}.fc1")))
        x = x + linear(hidden, f"h.{i}.fc2")
    return norm(x, "ln_f") @ state["wte.weight"].T


def from_torch():
    """The rules from there to `Model`, whose attention keeps its heads apart."""
    kernel, parts = WIDTH // HEADS, {"query": 0, "key": WIDTH, "value": 2 * WIDTH}
    rules = {"embed/embedding": "wte.weight", "norm/scale": "ln_f.weight", "norm/bias": "ln_f.bias"}
    for name, start in parts.items():
        chosen = cut(axis=0, start=start, size=WIDTH)
        rules[f"block_*/attn/{name}/kernel"] = take(
            "h.*.attn.in_proj.weight", chosen, transpose(1, 0), reshape(WIDTH, HEADS, kernel)
        )
        rules[f"block_*/attn/{name}/bias"] = take(
            "h.*.attn.in_proj.bias", chosen, reshape(HEADS, kernel)
        )
    rules["block_*/attn/out/kernel"] = take(
        "h.*.attn.out_proj.weight", transpose(1, 0), reshape(HEADS, kernel, WIDTH)
    )
    rules["block_*/attn/out/bias"] = "h.*.attn.out_proj.bias"
    for ours, theirs in {"up": "fc1", "down": "fc2"}.items():
        rules[f"block_*/mlp/{ours}/kernel"] = take(f"h.*.{theirs}.weight", transpose(1, 0))
        rules[f"block_*/mlp/{ours}/bias"] = f"h.*.{theirs}.bias"
    for number in "12":
        rules[f"block_*/norm_{number}/scale"] = f"h.*.ln{number}.weight"
        rules[f"block_*/norm_{number}/bias"] = f"h.*.ln{number}.bias"
    return rules


def test_from_torch():
    state = torch_like(0)
    after = fi.graft(init(Model(), 1), state, from_torch())
    close(logits(Model(), after), torch_logits(state, np.asarray(TOKENS)))


def test_from_torch_into_a_scan():
    scan, state = Model(scan=True), torch_like(0)
    rules = {}
    for where, source in from_torch().items():
        one = source if isinstance(source, take) else take(source)
        scanned = take(one.source, *one.adapters, stack(axis=0)) if "block_*" in where else one
        rules[where.replace("block_*", "blocks")] = scanned
    after = fi.graft(init(scan, 1), state, rules)
    close(logits(scan, after), torch_logits(state, np.asarray(TOKENS)))


def test_from_safetensors(tmp_path):
    """Loaded whole, and read slice by slice from the open file."""
    safetensors = pytest.importorskip("safetensors")
    numpy = pytest.importorskip("safetensors.numpy")
    state = torch_like(0)
    numpy.save_file({k: np.atleast_1d(v) for k, v in state.items()}, tmp_path / "model.safetensors")
    donor = numpy.load_file(tmp_path / "model.safetensors")
    with safetensors.safe_open(tmp_path / "model.safetensors", "numpy") as file:
        with pytest.raises(TypeError, match="tree of arrays, got safe_open. Give .name: donor.get"):
            fi.graft(init(Model(), 1), file, from_torch())
        slices = {name: file.get_slice(name) for name in file.keys()}  # noqa: SIM118
        opened = fi.graft(init(Model(), 1), slices, from_torch(), drop="*.position_ids")
    after = fi.graft(init(Model(), 1), donor, from_torch(), drop="*.position_ids")
    close(logits(Model(), after), torch_logits(state, np.asarray(TOKENS)))
    assert jax.tree.all(jax.tree.map(lambda a, b: (a == b).all(), opened, after))


class Slice:
    """As safetensors gives it, of which every reading is noted."""

    def __init__(self, array, dtype="F32"):
        self.array, self.dtype_name, self.read = array, dtype, []

    def get_shape(self):
        return list(self.array.shape)

    def get_dtype(self):
        return self.dtype_name

    def __getitem__(self, region):
        self.read.append(self.array[region].size)
        return self.array[region]


def test_each_device_reads_its_own_part_of_a_file():
    donor = {f"l.{i}": Slice(np.full((16, 6), i, "f")) for i in range(2)}
    mesh = jax.make_mesh((8,), ("x",), axis_types=(jax.sharding.AxisType.Auto,))
    sharding = NamedSharding(mesh, P(None, None, "x"))
    target = {"w": jax.ShapeDtypeStruct((2, 6, 16), jnp.float32, sharding=sharding)}
    rules = {"w": take("l.*", transpose(1, 0), stack(axis=0))}
    fi.graft_plan(target, donor, rules)
    assert not donor["l.0"].read
    after = fi.graft(target, donor, rules)["w"]
    assert donor["l.0"].read == donor["l.1"].read == [12] * 8 and (after[1] == 1).all()
    traced = jax.jit(lambda: fi.graft({"w": jnp.zeros((2, 6, 16))}, donor, rules))()["w"]
    assert (traced == after).all()


@pytest.mark.parametrize(
    "name, dtype",
    [("F64", "f8"), ("F16", "f2"), ("BF16", "bfloat16"), ("U8", "u1"), ("BOOL", "?")],
)
def test_dtypes_of_a_file(name, dtype):
    donor, target = {"w": Slice(np.ones((2, 0), dtype), name)}, {"w": jnp.ones((2, 0))}
    with pytest.raises(ValueError, match=f"'w' is {np.dtype(dtype).name}, but the tree holds fl"):
        fi.graft(target, donor, "w")
    after = fi.graft(target, donor, {"w": take("w", np.asarray, cast())})
    assert after["w"].shape == (2, 0) and donor["w"].read == []


def test_convolutions_from_torch():
    """A patch embedding: (out, in, height, width) there, (height, width, in, out) here."""
    rng = np.random.default_rng(0)
    weight = rng.normal(size=(5, 3, 4, 4)).astype("f")
    image = rng.normal(size=(1, 8, 8, 3)).astype("f")
    model = nn.Conv(5, (4, 4), strides=4, use_bias=False)
    params = model.init(jax.random.key(0), image)["params"]
    after = fi.graft(
        params, {"proj.weight": weight}, {"kernel": take("proj.weight", transpose(2, 3, 1, 0))}
    )
    patches = image.reshape(2, 4, 2, 4, 3).transpose(0, 2, 4, 1, 3)
    want = np.einsum("ijchw,ochw->ijo", patches, weight)
    close(model.apply({"params": after}, image)[0], want)


def test_memory_of_a_sharded_graft(tmp_path):
    """Layers on disk become one sharded leaf: each device reads its own part of each layer."""
    rows, columns, layers = 512, 256, 8
    donor = {}
    for i in range(layers):
        donor[f"layer_{i}"] = np.memmap(tmp_path / f"{i}", np.float32, "w+", shape=(columns, rows))
        donor[f"layer_{i}"][:] = i
    mesh = jax.make_mesh((8,), ("x",), axis_types=(jax.sharding.AxisType.Auto,))
    sharding = NamedSharding(mesh, P(None, "x"))
    target = jax.ShapeDtypeStruct((layers, rows, columns), jnp.float32, sharding=sharding)
    rules = {"w": take("layer_*", transpose(1, 0), stack(axis=0))}
    put, largest = jax.device_put, []

    def recorded(array, *args, **kwargs):
        largest.append(array.nbytes)
        return put(array, *args, **kwargs)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(jax, "device_put", recorded)
        tracemalloc.start()
        after = fi.graft({"w": target}, donor, rules)["w"]
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
    whole = layers * rows * columns * 4
    assert max(largest) == whole // 8 and peak < 2 * whole
    assert after.sharding == sharding and (np.asarray(after)[3] == 3).all()


def test_query_key_value_of_a_scan_are_fused_in_their_order():
    """The inverse of what `from_torch` does, with all three named."""
    names = ["query", "key", "value"]
    donor = {
        f"l_{i}": {n: np.full((2, 3), 10 * i + j, "f") for j, n in enumerate(names)}
        for i in range(3)
    }
    rules = {"qkv": take([f"l_*/{n}" for n in names], concatenate(axis=-1), stack(axis=0))}
    after = fi.graft({"qkv": jnp.zeros((3, 2, 9))}, donor, rules)["qkv"]
    assert after[:, 0, ::3].tolist() == [[0, 1, 2], [10, 11, 12], [20, 21, 22]]
