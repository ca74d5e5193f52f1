"""What errors and warnings of reinit advise: followed to the letter, it does what was wanted."""

import re
import warnings

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from cases import label
from flax import nnx
from flax.training.train_state import TrainState
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

import flax_inits as fi

KEY = jax.random.key(3)
LECUN = nn.initializers.lecun_normal()
NAMES = {name: getattr(fi, name) for name in fi.__all__}


def params_of(head=4):
    return {
        "body": {"kernel": jnp.full((6, 5), 2.0), "bias": jnp.full(5, 2.0)},
        "head": {"kernel": jnp.full((5, head), 2.0), "bias": jnp.full(head, 2.0)},
    }


def advised(pattern, message, **names):
    """What a message says to write, evaluated."""
    return eval(re.search(pattern, message).group(1), NAMES | {"jax": jax, "jnp": jnp} | names)


def fresh(key, head=10):
    return jax.tree.map(jnp.zeros_like, params_of(head))


class TestAnotherSize:
    def test_a_head_of_another_size(self):
        params = params_of()
        for where in ("head", ["head/kernel", "head/bias"], ("head",)):
            with pytest.raises(ValueError, match=r"'head/bias' with shape \(10,\), but the") as got:
                fi.reinit(KEY, params, where, init_fn=fresh)
            new = advised(
                r"(graft\(.*\))\.$", str(got.value), params=params, key=KEY, init_fn=fresh
            )
            assert new["head"]["kernel"].shape == (5, 10) and not new["head"]["kernel"].any()
            assert (new["body"]["kernel"] == 2).all() and (new["body"]["bias"] == 2).all()

    def test_all_but_the_head(self):
        params = params_of()
        with pytest.raises(ValueError, match="Select only leaves of equal shape: all_but") as got:
            fi.reinit(KEY, params, "**", init_fn=fresh)
        where = advised(r": (all_but\(.*\))\.$", str(got.value))
        new = fi.reinit(KEY, params, where, init_fn=fresh)
        assert not new["body"]["kernel"].any() and new["head"] == params["head"]
        with pytest.raises(ValueError, match=r"equal shape: \('head',\) not among them"):
            fi.reinit(KEY, params, ["body/bias", "head"], init_fn=fresh)


class TestWhatNoInitializerCanMake:
    @pytest.mark.parametrize("where", ["**", "head", "head/**", ["head", "body"]])
    def test_a_counter_among_floats(self, where):
        params = {**params_of(), "n": 1}
        params["head"] = {**params["head"], "count": jnp.zeros((), int)}
        with pytest.raises(ValueError, match="Narrow the rule to leaves of floats: '") as got:
            fi.reinit(KEY, params, [(where, fi.zeros())])
        patterns = advised(r"floats: (.*)\.$", str(got.value).replace(" and ", ", "))
        new = fi.reinit(KEY, params, [(list(patterns), fi.zeros())])
        assert not new["head"]["kernel"].any() and not new["head"]["bias"].any()
        assert new["head"]["count"] is params["head"]["count"]

    def test_what_an_nnx_module_holds_besides(self):
        rngs = nnx.Rngs(0)
        model = nnx.Sequential(nnx.BatchNorm(2, rngs=rngs), nnx.Dropout(0.1, rngs=rngs))
        with pytest.raises(ValueError, match="leaves of floats: nnx.Param, the class") as got:
            fi.reinit(KEY, model, {"**": fi.constant(3.0)})
        where = advised(r"floats: ([\w.]*),", str(got.value), nnx=nnx)
        new = fi.reinit(KEY, model, {where: fi.constant(3.0)})
        assert (new.layers[0].scale[...] == 3).all() and (new.layers[0].var[...] == 1).all()
        with pytest.raises(ValueError, match=r"leaves of floats: 'layers/0/\*\*/bias'") as got:
            fi.reinit(KEY, {"layers": [{"bias": 1.0, "n": 1}]}, {"layers/0": fi.zeros()})

    def test_names_that_do_not_tell(self):
        params = {"a": {"w": jnp.ones(2)}, "b": {"w": jnp.ones(2, int)}, "c": {"w": jnp.ones(2)}}
        with pytest.raises(ValueError, match="of floats, ") as got:
            fi.reinit(KEY, params, {"**": fi.zeros()})
        paths = advised(r"of floats, (.*)\.$", str(got.value).replace(" and ", ", "))
        new = fi.reinit(KEY, params, [(list(paths), fi.zeros())])
        assert not new["a"]["w"].any() and not new["c"]["w"].any()

    def test_nothing_but_integers_and_placeholders(self):
        with pytest.raises(ValueError, match="which no initializer can make: it holds int32.*ts.$"):
            fi.reinit(KEY, {"a": jnp.ones(2, int)}, {"a": fi.zeros()})
        with pytest.raises(ValueError, match=r"holds \.\.\., a placeholder of Orbax for an array"):
            fi.reinit(KEY, {"a": ..., "b": 1.0}, {"a": fi.zeros()})
        with pytest.raises(ValueError, match="'a', which is no array: a placeholder of Orbax"):
            fi.reinit(KEY, {"a": ...}, "a", init_fn=lambda key: {"a": jnp.ones(2)})


def test_copies_of_pmap_under_init_fn():
    mesh = jax.make_mesh((8,), ("_device",), axis_types=(AxisType.Auto,))

    def init_fn(key):
        kernel = jax.random.normal(key, (4, 2, 3))
        return {"attn": {"key": {"kernel": kernel}}, "step": jnp.zeros(())}

    copies = jax.tree.map(lambda x: jnp.broadcast_to(x, (8, *x.shape)), init_fn(jax.random.key(0)))
    params = jax.device_put(copies, NamedSharding(mesh, P("_device")))
    with pytest.raises(ValueError, match=r"there: one copy for each device of pmap\. Make") as got:
        fi.reinit(KEY, params, "attn", init_fn=init_fn)
    assert "'key'" not in str(got.value)
    many = advised(r"init_fn=(lambda key: .*)\.$", str(got.value), init_fn=init_fn)
    new = fi.reinit(KEY, params, "attn", init_fn=many)["attn"]["key"]["kernel"]
    np.testing.assert_array_equal(new[3], init_fn(KEY)["attn"]["key"]["kernel"])
    assert (new == new[:1]).all() and new.sharding == params["step"].sharding


class TestTiedArrays:
    def test_two_chosen_leaves_that_are_one_array(self):
        shared = jnp.ones((4, 3))
        params = {"emb": {"embedding": shared}, "out": {"kernel": shared}, "b": jnp.ones(3)}
        match = r"^'emb/embedding' and 'out/kernel' hold the same array .tied weights"
        for call in (
            lambda: fi.reinit(KEY, params, {"**": fi.normal(1.0)}),
            lambda: fi.reinit(KEY, params, ["emb", "out"], init_fn=lambda key: params),
        ):
            with pytest.warns(UserWarning, match=match) as caught:
                call()
            assert len(caught) == 1 and caught[0].filename == __file__
        new = fi.reinit(KEY, params, {"emb": fi.normal(1.0)})
        exec(re.search(r": (new.*)\.$", str(caught[0].message)).group(1), {"new": new})
        assert new["out"]["kernel"] is new["emb"]["embedding"]

    def test_what_is_no_tie(self):
        shared = jnp.ones((4, 3))
        params = {"a": shared, "b": shared, "c": shared + 0, "d": 1.0, "e": 1.0}
        fi.reinit(KEY, params, {"a": fi.zeros(), "[cde]": fi.zeros()})
        abstract = jax.ShapeDtypeStruct((2,), "float32")
        fi.reinit(KEY, {"a": abstract, "b": abstract}, {"**": fi.zeros()})
        jax.jit(lambda x: fi.reinit(KEY, {"a": x, "b": x}, {"**": fi.zeros()}))(shared)

    def test_many(self):
        shared = jnp.ones(3)
        with pytest.warns(UserWarning, match=r"'a' and 'd', and 1 more hold the same array"):
            fi.reinit(KEY, dict.fromkeys("abcde", shared), {"**": fi.zeros()})


class Cell(nn.Module):
    @nn.compact
    def __call__(self, x, _):
        x = nn.MultiHeadDotProductAttention(2, name="attn")(x, x)
        return nn.Dense(8)(x), None


class Net(nn.Module):
    @nn.compact
    def __call__(self, x):
        x = nn.MultiHeadDotProductAttention(2, name="attn")(x, x)
        stack = nn.scan(Cell, variable_axes={"params": 0}, split_rngs={"params": True}, length=3)
        return nn.Dense(8)(stack(name="layers")(x, None)[0])


X = jnp.ones((1, 5, 8))


@pytest.fixture(scope="module")
def net():
    return Net(), jax.jit(Net().init)(KEY, X)["params"]


class TestStoredShapes:
    @pytest.mark.sampled(6)
    @pytest.mark.parametrize(
        "where, init, named",
        [
            ("attn", LECUN, "'attn/key/kernel', 'attn/query/kernel' and 'attn/value/kernel':"),
            ("attn/out", nn.initializers.xavier_normal(), "'attn/out/kernel': Flax stores"),
            ("attn/query", nn.initializers.orthogonal(), "'attn/query/kernel':"),
            ("attn/value", fi.orthogonal(), "'attn/value/kernel': .* rule for 'attn/value/"),
            ("layers/Dense_0", fi.he_normal(), "'layers/Dense_0/kernel':"),
            ("layers/attn/key", fi.scaled(fi.lecun_normal(), 2.0), "'layers/attn/key/kernel':"),
        ],
    )  # fmt: skip
    def test_an_initializer_that_takes_fans(self, net, where, init, named):
        model, params = net
        rules = {f"{where}/**/kernel": init}
        with pytest.warns(UserWarning, match=f"^{named}") as caught:
            fi.reinit(KEY, params, rules)
        assert len(caught) == 1 and caught[0].filename == __file__
        init_fn = advised(r"init_fn=(.*) too, and", str(caught[0].message), model=model, x=X)
        fi.reinit(KEY, params, rules, init_fn=init_fn)
        if where.startswith("layers/Dense"):
            fi.reinit(KEY, params, {f"{where}/kernel": fi.stacked(init)})

    @pytest.mark.sampled(3)
    @pytest.mark.parametrize(
        "init",
        [
            fi.normal(0.02),
            fi.zeros(),
            fi.mixture(),
            fi.truncated_normal(0.02),
            nn.initializers.normal(0.02),
            nn.initializers.uniform(0.1),
            nn.initializers.constant(2.0),
            fi.scaled(fi.normal(1.0), 0.5),
            fi.stacked(fi.normal(1.0)),
            lambda key, shape, dtype: 0.02 * jax.random.normal(key, shape, dtype),
        ],
        ids=label,
    )
    def test_an_initializer_that_takes_none(self, net, init):
        fi.reinit(KEY, net[1], {"**/kernel": init})

    def test_fans_that_the_stored_shape_has_too(self, net):
        fi.reinit(KEY, net[1], {"attn/out/kernel": LECUN})  # (2, 4, 8) has 2 * 4 inputs, too

    def test_fans_that_are_named(self, net):
        named = nn.initializers.variance_scaling(
            1.0, "fan_in", "normal", in_axis=-3, out_axis=(-2, -1)
        )
        whole = fi.from_array(np.ones((8, 2, 4), np.float32))
        fi.reinit(KEY, net[1], {"attn/query/kernel": named, "attn/key/kernel": whole})

    def test_layers_of_other_kinds(self):
        def attention(*names):
            return {name: {"kernel": jnp.ones((3, 8, 8))} for name in names}

        params = {
            "convolutions": attention("query", "key", "value", "out"),
            "one": attention("query"),
            "Conv_0": {"kernel": jnp.ones((3, 8, 8))},
            "Dense_0": {"kernel": jnp.ones((8, 8))},
            "MyDense_0": {"kernel": jnp.ones((3, 8, 8))},
            "kernel": jnp.ones((3, 8, 8)),
        }
        params["convolutions"]["key"] = {"kernel": jnp.ones((3, 8, 16))}
        fi.reinit(KEY, params, {"**": LECUN})

    def test_nnx_attention(self):
        state = nnx.state(nnx.MultiHeadAttention(2, 8, rngs=nnx.Rngs(0), decode=False), nnx.Param)
        with pytest.warns(UserWarning, match="'key/kernel', 'query/kernel' and 'value/kernel':"):
            fi.reinit(KEY, state, {"*/kernel": LECUN})
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            fi.reinit(KEY, state, {"*/kernel": fi.normal(1.0)})

    def test_the_init_fn_is_one_for_such_a_tree(self):
        module = nnx.MultiHeadAttention(2, 8, rngs=nnx.Rngs(0), decode=False)
        params = {"attention": nnx.to_pure_dict(nnx.state(module, nnx.Param))}
        for tree, said in (
            (module, r"lambda key: Model\(nnx.Rngs\(key\)\) too"),
            (params, r"lambda key: model.init\(key, x\)\['params'\] too"),
            ({"params": params}, r"lambda key: model.init\(key, x\) too"),
        ):
            with pytest.warns(UserWarning, match=said):
                fi.reinit(KEY, tree, {"**/kernel": LECUN})


class TestTrainingStates:
    PARAMS = params_of()
    STATE = TrainState.create(apply_fn=None, params=PARAMS, tx=optax.adam(0.1))

    def test_one_initializer_for_params_and_moments(self):
        for where in ("**/head/kernel", "**/kernel"):
            said = "gives 'params/.*/kernel' and the optimizer's 'opt_state/0/mu/.*/kernel' values"
            with pytest.warns(UserWarning, match=f"{said}.*reinit_state") as got:
                fi.reinit(KEY, self.STATE, {where: fi.normal(1.0)})
            assert len(got) == 1 and got[0].filename == __file__

    def test_what_is_meant(self):
        fi.reinit(KEY, self.STATE, {"params/head/kernel": fi.normal(1.0), "**/nu": fi.zeros()})
        fi.reinit(KEY, self.STATE, "**/head", init_fn=lambda key: self.STATE)

    def test_paths_that_begin_below_the_params(self):
        model = nnx.Linear(2, 2, rngs=nnx.Rngs(0))
        for tree in (self.STATE, nnx.Optimizer(model, self.STATE.tx, wrt=nnx.Param)):
            with pytest.raises(ValueError, match="^'kernl' selects no leaf") as got:
                fi.reinit(KEY, tree, {"kernl": fi.zeros()})
            assert "reinit_state resets that together" in got.value.__notes__[-1]
        with pytest.raises(ValueError) as got:
            fi.reinit(KEY, self.PARAMS, {"kernl": fi.zeros()})
        assert not hasattr(got.value, "__notes__")


@pytest.mark.parametrize("model", [nn.Dense(4), nnx, object(), fi.reinit])
def test_what_holds_no_arrays(model):
    name = type(model).__name__
    with pytest.raises(ValueError, match=f"^'head' selects no leaf. The tree is one {name}, in wh"):
        fi.reinit(KEY, model, {"head": fi.zeros()})
    for leaf in (1.0, True, np.float32(2), jnp.ones(2), jax.ShapeDtypeStruct((2,), "float32")):
        with pytest.raises(ValueError, match="The tree is one leaf, whose path is empty"):
            fi.select(leaf, "head")


class Takes2(nnx.Module):
    def __init__(self, rngs):
        self.kernel = nnx.Param(rngs.params.key[...])


@pytest.mark.parametrize("init_fn", [nn.Dense(4).init, Takes2])
def test_an_init_fn_that_takes_more_than_a_key(init_fn):
    said = "called with a key and nothing else, as lambda key: model.init"
    for call in (
        lambda: fi.reinit(KEY, params_of(), "head", init_fn=init_fn),
        lambda: jax.jit(lambda key: fi.reinit(key, params_of(), "head", init_fn=init_fn))(KEY),
        lambda: fi.reinit(KEY, params_of(), {"head": fi.zeros()}, init_fn=init_fn),
        lambda: fi.shrink_perturb(KEY, params_of(), init_fn, shrink=0.5, perturb=0.5),
    ):
        with pytest.raises((TypeError, AttributeError)) as got:
            call()
        assert any(said in note for note in got.value.__notes__)
    with pytest.raises((TypeError, AttributeError)) as got:
        fi.mup(init_fn, init_fn)
    assert "while mup traced the base model by a key and nothing else" in got.value.__notes__
