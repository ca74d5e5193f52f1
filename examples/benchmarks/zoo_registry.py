"""The table of models that zoo.py measures: zoo_linen.py and zoo_haiku_nnx.py fill it."""

import dataclasses
from collections.abc import Callable
from functools import partial


@dataclasses.dataclass(frozen=True)
class Model:
    """A model of a package; `make()` returns its init function and the arguments of that.

    Some of the values of one that takes `first_batch` are statistics of its input, so that init
    needs the forward pass, however it is done.
    """

    package: str
    system: str
    make: Callable
    first_batch: bool = False


MODELS: dict[str, Model] = {}

# What was tried beside jax 0.12 and is not measured.
LEFT_OUT = {
    "apax": "needs tensorflow",
    "avitai-artifex": "pip had not found versions that go together after nine minutes",
    "bijx": "imports a name that jax 0.12 has removed",
    "canvit-nnx": "needs huggingface_hub 1, which the transformers with Flax models refuses",
    "coax": "needs Atari, Box2D and dm-control",
    "flaxmodels: StyleGAN2": "calls jnp.reshape with an argument that jax has removed",
    "hyper-nn": "needs torch",
    "jimmy-vision": "imports a module that flax has removed",
    "jraph": "has functions, no modules of its own",
    "kauldron": "needs tensorflow",
    "memorax": "needs experiment trackers and nightly builds",
    "recurrentgemma": "needs absl-py below 2, which chex and mamba2-jax refuse",
    "transformers: T5": "calls jnp.clip with an argument that jax has removed",
    "x-mlps": "needs dm-haiku below 0.0.7",
}


def model(package, system, name, first_batch=False, **sizes):
    """Enters a function that builds a model, as it is or with sizes."""

    def enter(build):
        assert name not in MODELS, name
        MODELS[name] = Model(package, system, partial(build, **sizes), first_batch)
        return build

    return enter


def new_key(typed=True):
    """A key; Haiku and transformers take those of the older kind."""
    import jax

    return jax.random.key(0) if typed else jax.random.PRNGKey(0)


def of_linen(module, *args, **options):
    """The init function of a Linen module, called with these inputs and options."""
    return partial(module.init, **options), (new_key(), *args)


def of_nnx(build, *args, **options):
    """The init function of an NNX module that takes `rngs`: key -> state."""
    from flax import nnx

    def init(key):
        return nnx.split(build(*args, **options, rngs=nnx.Rngs(key)))[1]

    return init, (new_key(),)
