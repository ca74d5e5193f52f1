"""Selecting by the class of module, however the module comes into the model."""

import pickle
import re

import flax.core
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from flax_inits._modules.of_type import of_type
from flax_inits._tree.paths import paths, show
from flax_inits._tree.resolve import resolve
from flax_inits._tree.selection import select

X = jax.ShapeDtypeStruct((2, 4), jnp.float32)


def variables_of(model, *args, **kwargs):
    return jax.eval_shape(lambda: model.init(jax.random.key(0), *zeros(args), **zeros(kwargs)))


def zeros(tree):
    def zero(leaf):
        return jnp.zeros(leaf.shape, leaf.dtype) if hasattr(leaf, "shape") else leaf

    return jax.tree.map(zero, tree)


def chosen(tree, where):
    verdicts = jax.tree.leaves(select(tree, where))
    return {show(path) for path, verdict in zip(paths(tree), verdicts, strict=True) if verdict}


class Block(nn.Module):
    @nn.compact
    def __call__(self, x, _=None):
        return nn.Dense(4)(nn.LayerNorm()(x)), None


class Lifted(nn.Module):
    @nn.compact
    def __call__(self, x):
        per_layer = {"variable_axes": {"params": 0}, "split_rngs": {"params": True}}
        x, _ = nn.scan(Block, length=3, **per_layer)(name="layers")(x, None)
        x = nn.vmap(nn.Dense, **per_layer)(4)(x)
        x, _ = nn.remat(Block)()(x)
        x, _ = nn.jit(Block)()(x)
        x = nn.map_variables(nn.Dense, "params", lambda tree: tree, init=True)(4)(x)
        x = nn.WeightNorm(nn.Dense(4))(x)
        x = nn.BatchNorm(use_running_average=False)(x)
        return nn.MultiHeadDotProductAttention(num_heads=2)(x[None])


class WithSetup(nn.Module):
    def setup(self):
        self.first = nn.Dense(3)
        self.rest = [nn.Dense(4), nn.LayerNorm()]
        self.table = nn.Embed(5, 4)
        self.never = nn.Conv(2, (3,))

    def __call__(self, x):
        for module in [self.first, *self.rest]:
            x = module(x)
        return x @ self.table.embedding.T  # tied weights: no method of the table is called


class Shared(nn.Module):
    inner: nn.Module

    @nn.compact
    def __call__(self, x):
        return nn.LayerNorm()(self.inner(self.inner(x)))


class JittedMethod(nn.Module):
    @nn.jit
    @nn.compact
    def __call__(self, x):
        return nn.Dense(4)(nn.LayerNorm()(x))


class LiftedSetup(nn.Module):
    """Flax tries out its setup, at the root, when it is lifted."""

    def setup(self):
        self.table = nn.Embed(5, 4)

    def __call__(self, x):
        return x @ self.table.embedding.T


class HoldsLiftedSetup(nn.Module):
    @nn.compact
    def __call__(self, x):
        return nn.remat(LiftedSetup)(name="lifted")(nn.Dense(4, name="table")(x))


@pytest.mark.slow
def test_lifted_modules():
    variables = variables_of(Lifted(), X)
    kernels = {
        f"params/{layer}/{leaf}"
        for layer in [
            "layers/Dense_0",
            "VmapDense_0",
            "CheckpointBlock_0/Dense_0",
            "JitBlock_0/Dense_0",
            "Map_variablesDense_0",
            "Dense_0",
        ]
        for leaf in ["kernel", "bias"]
    }
    assert chosen(variables, of_type(Lifted(), nn.Dense, X)) == kernels
    blocks = chosen(variables, of_type(Lifted(), Block, X))
    assert blocks == {
        path for path in map(show, paths(variables)) if re.search("layers|Block", path)
    }
    assert chosen(variables, of_type(Lifted(), nn.WeightNorm, X)) == {
        "params/WeightNorm_0/Dense_0/kernel/scale"
    }
    assert chosen(variables, of_type(Lifted(), nn.BatchNorm, X)) == {
        f"{collection}/BatchNorm_0/{leaf}"
        for collection, leaf in [
            ("params", "scale"),
            ("params", "bias"),
            ("batch_stats", "mean"),
            ("batch_stats", "var"),
        ]
    }
    assert chosen(variables, of_type(Lifted(), nn.DenseGeneral, X)) == {
        f"params/MultiHeadDotProductAttention_0/{part}/{leaf}"
        for part in ["query", "key", "value", "out"]
        for leaf in ["kernel", "bias"]
    }


def test_modules_of_setup_even_those_whose_methods_never_run():
    params = variables_of(WithSetup(), X)["params"]
    assert chosen(params, of_type(WithSetup(), nn.Dense, X)) == {
        "first/kernel",
        "first/bias",
        "rest_0/kernel",
        "rest_0/bias",
    }
    assert chosen(params, of_type(WithSetup(), nn.Embed, X)) == {"table/embedding"}
    with pytest.raises(ValueError, match="no module of class 'Conv'"):
        of_type(WithSetup(), nn.Conv, X)


def test_what_flax_tries_out_at_the_root_is_not_taken_for_the_model():
    params = variables_of(HoldsLiftedSetup(), X)["params"]
    assert chosen(params, of_type(HoldsLiftedSetup(), nn.Embed, X)) == {"lifted/table/embedding"}
    assert chosen(params, of_type(HoldsLiftedSetup(), LiftedSetup, X)) == {"lifted/table/embedding"}


def test_a_shared_module_and_the_class_tuple():
    model = Shared(nn.Dense(4))
    params = variables_of(model, X)["params"]
    assert chosen(params, of_type(model, nn.Dense, X)) == {"inner/kernel", "inner/bias"}
    assert chosen(params, of_type(model, (nn.Dense, nn.LayerNorm), X)) == set(
        map(show, paths(params))
    )


def test_a_kept_trace_of_nn_jit_is_traced_again():
    params = variables_of(JittedMethod(), X)["params"]
    for _ in range(2):
        assert chosen(params, of_type(JittedMethod(), nn.Dense, X)) == {
            "Dense_0/kernel",
            "Dense_0/bias",
        }


def test_subclasses_count_and_the_root_is_everything():
    class MyDense(nn.Dense):
        pass

    model = nn.Sequential([MyDense(3), nn.LayerNorm()])
    params = variables_of(model, X)["params"]
    assert chosen(params, of_type(model, nn.Dense, X)) == {"layers_0/kernel", "layers_0/bias"}
    assert chosen(params, of_type(model, nn.Sequential, X)) == set(map(show, paths(params)))
    assert chosen(params, of_type(model, nn.Module, X)) == set(map(show, paths(params)))


def test_variables_and_params_alike_in_any_container():
    model = nn.Sequential([nn.Dense(3), nn.BatchNorm(use_running_average=False)])
    variables = variables_of(model, X)
    where = of_type(model, nn.BatchNorm, X)
    both = {"layers_1/scale", "layers_1/bias"}
    assert chosen(variables["params"], where) == both
    assert chosen(flax.core.freeze(variables["params"]), where) == both
    assert chosen({"params": variables["params"]}, where) == {f"params/{leaf}" for leaf in both}
    assert chosen(variables, where) == {
        *(f"params/{leaf}" for leaf in both),
        "batch_stats/layers_1/mean",
        "batch_stats/layers_1/var",
    }
    boxed = jax.tree.map(lambda leaf: nn.Partitioned(leaf, (None,)), variables)
    assert chosen(boxed, where) == chosen(variables, where)


class CalledParams(nn.Module):
    """A module named like the collection, beside a parameter of the root's own."""

    @nn.compact
    def __call__(self, x):
        return nn.Dense(4, name="params")(x) * self.param("kernel", nn.initializers.ones, (1, 1))


def test_a_module_named_params():
    variables = variables_of(CalledParams(), X)
    where = of_type(CalledParams(), nn.Dense, X)
    assert chosen(variables, where) == {"params/params/kernel", "params/params/bias"}
    assert chosen(variables["params"], where) == {"params/kernel", "params/bias"}
    assert where(("params", "params", "bias"), None) is True
    assert where(("kernel",), None) is False


def test_other_trees_of_the_same_modules():
    """Quantised kernels, a train state: paths the model does not make, below modules it has."""
    model = nn.Sequential([nn.Dense(3), nn.LayerNorm()])
    where = of_type(model, nn.Dense, X)
    quantised = {"layers_0": {"kernel": {"q": 1, "scale": 2}}, "layers_1": {"scale": {"q": 3}}}
    assert chosen(quantised, where) == {"layers_0/kernel/q", "layers_0/kernel/scale"}
    assert chosen({"params": quantised}, where) == {
        "params/layers_0/kernel/q",
        "params/layers_0/kernel/scale",
    }
    names = paths({"other": {"bias": 1}})
    assert resolve(where, names, [1], None)[0] == [False]


def test_inputs_are_those_of_init():
    class Model(nn.Module):
        @nn.compact
        def __call__(self, x, *, train: bool, extra=None):
            x = nn.Dropout(0.5, deterministic=not train)(nn.Dense(4)(x))
            return x if extra is None else nn.LayerNorm()(x + extra["shift"])

        @nn.compact
        def encode(self, x):
            return nn.Conv(3, (2,))(x)

    model = Model()
    extra = {"shift": np.ones((1, 4), np.float32)}
    assert of_type(model, nn.LayerNorm, jnp.ones((2, 4)), train=True, extra=extra)
    with pytest.raises(ValueError, match="'LayerNorm'; it has 'Model', 'Dense' and 'Dropout'"):
        of_type(model, nn.LayerNorm, X, train=False)
    where = of_type(model, nn.Conv, X, method="encode")
    params = {"Conv_0": {"kernel": 1}, "Dense_0": {"kernel": 2}}
    assert chosen(params, where) == {"Conv_0/kernel"}
    assert of_type(model, nn.Conv, X, method=Model.encode, mutable=["params"]) == where


def test_nothing_is_computed():
    huge = jax.ShapeDtypeStruct((1, 1 << 20), jnp.float32)
    assert of_type(nn.Dense(1 << 20), nn.Dense, huge)(("kernel",), None)


def test_it_is_a_value():
    model = WithSetup()
    where = of_type(model, nn.Dense, X)
    again = of_type(WithSetup(), nn.Dense, jnp.ones((2, 4)))
    assert where == again
    assert hash(where) == hash(again)
    assert where != of_type(model, nn.Embed, X)
    assert repr(where) == "of_type(model, Dense)"
    assert repr(of_type(model, (nn.Dense, nn.Embed), X)) == "of_type(model, (Dense, Embed))"
    where(("first", "kernel"), None)
    assert pickle.loads(pickle.dumps(where)) == where
    assert {where: 1}[again] == 1


def test_it_combines_with_the_other_forms():
    params = variables_of(WithSetup(), X)["params"]
    dense = of_type(WithSetup(), nn.Dense, X)
    assert chosen(params, ["table", dense]) == chosen(params, dense) | {"table/embedding"}
    kernels = chosen(params, lambda path, leaf: dense(path, leaf) and path[-1] == "kernel")
    assert kernels == {"first/kernel", "rest_0/kernel"}


def test_a_class_without_leaves_selects_nothing():
    model = nn.Sequential([nn.Dense(3), nn.Dropout(0.5, deterministic=True)])
    where = of_type(model, nn.Dropout, X)
    message = re.escape(
        "of_type(model, Dropout) selects no leaf. The paths are 'layers_0/bias' and "
        "'layers_0/kernel'."
    )
    with pytest.raises(ValueError, match=message):
        select(variables_of(model, X)["params"], where)


@pytest.mark.parametrize(
    ("model", "cls", "error", "text"),
    [
        (nn.Dense, nn.Dense, TypeError, "nn.Module, or an nnx.Module; got the class Dense."),
        (lambda x: x, nn.Dense, TypeError, "of_type needs a model: a Linen module, which"),
        (nn.Dense(3), "Dense", TypeError, "a subclass of nn.Module, or a tuple of them; got 'D"),
        (nn.Dense(3), int, TypeError, "or a tuple of them; got <class 'int'>."),
        (nn.Dense(3), (nn.Dense, int), TypeError, "or a tuple of them; got <class 'int'>."),
        (nn.Dense(3), nn.Dense(3), TypeError, "of_type selects by a subclass of nn.Module, or a "
            "tuple of them; got a module: give the class Dense."),
        (nn.Dense(3), (), ValueError, "an empty tuple of classes, which would select nothing."),
        (WithSetup(), (nn.Conv, nn.GRUCell), ValueError, "WithSetup has no module of class 'Conv' "
            "or 'GRUCell'; it has 'WithSetup', 'Dense', 'LayerNorm' and 'Embed'."),
    ],
)  # fmt: skip
def test_wrong_arguments(model, cls, error, text):
    with pytest.raises(error, match=re.escape(text)):
        of_type(model, cls, X)


def test_an_exception_of_the_model_says_where_it_came_from():
    with pytest.raises(TypeError, match="missing 1 required positional argument") as caught:
        of_type(nn.Dense(3), nn.Dense)
    assert any("Dense.init was traced by of_type" in note for note in caught.value.__notes__)
