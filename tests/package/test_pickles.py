"""Pickles name public addresses only, and those that were written once are read for ever."""

import base64
import io
import json
import pickle
from pathlib import Path

import cases
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import flax_inits as fi
from flax_inits import results

# By version, what objects printed as and their pickles. None is ever changed; a new kind of object
# is added to the latest version.
FILE = Path(__file__).with_name("pickles.json")
PICKLES = json.loads(FILE.read_text())

MODEL = nn.Sequential([nn.Dense(2), nn.LayerNorm()])
X = jnp.ones((1, 3))
DEAD = nn.Sequential([nn.Dense(4, kernel_init=fi.zeros()), nn.Dense(4)])
KEY = jax.random.key(0)
NAMES = {"array": np.array, "jax": jax, **vars(cases), **vars(fi)}


def init_fn(width):
    return lambda key: nn.Dense(width).init(key, X)["params"]


PICKLED = {
    "of_type(model, LayerNorm)": lambda: fi.of_type(MODEL, nn.LayerNorm, X),
    "of_type of NNX": lambda: fi.of_type(nnx.Linear(2, 2, rngs=nnx.Rngs(0)), nnx.Linear),
    "OptimizerStateWarning('text')": lambda: fi.OptimizerStateWarning("text"),
    "where": lambda: [fi.all_but("a"), fi.at("a", [0, 2]), fi.labels({"**": "adam"})],
    "graft rules": lambda: {"a/**": fi.take("b/*", fi.grow(0), fi.cast())},
    "graft_plan": lambda: fi.graft_plan({"a": X}, {"a": X}, "a"),
    "a function": lambda: fi.reinit,
    "a factory": lambda: fi.mixture,
    "a combinator": lambda: fi.stacked(fi.sparse(0.5)),
    "catalogue": fi.catalogue,
    "plan": lambda: fi.jit_init(MODEL.init).plan(KEY, X),
    "summary": lambda: fi.summary({"a": np.ones(3)}),
    "signal": lambda: fi.signal(MODEL, MODEL.init(KEY, X), X),
    "verdicts": lambda: fi.signal(DEAD, DEAD.init(KEY, X), X).verdicts,
    "gains": lambda: fi.deepnorm_gains(3),
    "mup": lambda: fi.mup(init_fn(2), init_fn(4)),
    "mup.rules": lambda: fi.mup(init_fn(2), init_fn(4)).rules({"**": fi.zeros()}),
}
REFUSED = {
    "its sharding, which names devices": lambda: fi.summary({"a": X}),
    "JitInit does not pickle": lambda: fi.jit_init(MODEL.init),
    "Lowered does not pickle": lambda: fi.jit_init(MODEL.init).lower(KEY, X),
    "Compiled does not pickle": lambda: fi.jit_init(MODEL.init).lower(KEY, X).compile(),
}


class Reader(pickle.Unpickler):
    """Reads a pickle and keeps the names that it asks for."""

    def __init__(self, data):
        super().__init__(io.BytesIO(data))
        self.names = set()

    def find_class(self, module, name):
        self.names.add(f"{module}.{name}")
        return super().find_class(module, name)


@pytest.mark.sampled(8, rest="slow")
@pytest.mark.parametrize("what", PICKLED)
def test_pickles_name_public_addresses(what):
    value = PICKLED[what]()
    reader = Reader(pickle.dumps(value))
    loaded = reader.load()
    assert type(loaded) is type(value) and repr(loaded) == repr(value)
    ours = [name for name in reader.names if name.startswith("flax_inits.")]
    assert ours and not [name for name in ours if "._" in name]


@pytest.mark.parametrize("why", REFUSED)
def test_what_belongs_to_its_process_says_so(why):
    with pytest.raises(TypeError, match=why):
        pickle.dumps(REFUSED[why]())


def test_a_fused_key_is_one_in_another_process():
    key = fi.fused_key(KEY)
    try:
        pickle.dumps(KEY)
    except TypeError:
        pytest.skip("this JAX pickles no key")
    reader = Reader(pickle.dumps(key))
    loaded = reader.load()
    assert loaded.dtype == key.dtype and jax.random.key_impl(loaded) == jax.random.key_impl(key)
    assert (jax.random.bits(loaded, (3,)) == jax.random.bits(key, (3,))).all()
    assert "flax_inits.fused_key.random_bits" in reader.names


@pytest.mark.parametrize("version", PICKLES)
def test_pickles_of_all_versions_are_read(version):
    for printed, data in PICKLES[version].items():
        loaded = pickle.loads(base64.b85decode(data))
        assert repr(loaded) == printed
        if printed not in PICKLED:
            assert loaded == eval(printed, NAMES)


def test_fused_keys_of_0_1_find_their_bits():
    from flax_inits._bits import _random_bits  # as their pickles do

    assert _random_bits is fi.fused_key.random_bits


def test_what_is_public_says_so():
    for module in (fi, results):
        named = [(n, v) for n, v in vars(module).items() if hasattr(v, "__qualname__")]
        said = [(value.__module__, value.__qualname__) for _, value in named]
        assert said and said == [(module.__name__, name) for name, _ in named]
