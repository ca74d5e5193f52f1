"""Reinit: the right leaves, the stated values, and everything else exactly as it was."""

import collections
import os
import re
import subprocess
import sys

import flax.linen as nn
import hypothesis
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from cases import label
from compiles import count_compiles
from flax import nnx, struct
from flax.core import FrozenDict, freeze
from hypothesis import strategies as st
from jax import lax

import flax_inits as fi
from flax_inits._tree.paths import path_hash

KEY = jax.random.key(3)
XAVIER = nn.initializers.xavier_uniform()


def tree():
    """A fresh model, so that a test may donate it."""
    return {
        "body": {"kernel": jnp.ones((6, 5)), "bias": jnp.ones(5)},
        "head": {"kernel": jnp.ones((5, 4)), "bias": jnp.ones(4)},
    }


def assert_same_bits(one, other):
    one, other = np.asarray(one), np.asarray(other)
    assert (one.dtype, one.shape) == (other.dtype, other.shape)
    assert one.tobytes() == other.tobytes()


def expected(init, path, shape, dtype=jnp.float32, key=KEY):
    """What the contract says a leaf is, by jax alone."""
    draw = jax.jit(lambda key: init(key, shape, jnp.dtype(dtype)))
    return draw(jax.random.fold_in(key, path_hash(tuple(path.split("/")))))


def weak(shape):
    new = {"new_dtype": np.dtype("float32"), "weak_type": True, "sharding": None}
    return lax.convert_element_type_p.bind(jnp.ones(shape), **new)


class TestValues:
    @pytest.mark.parametrize("init", [XAVIER, fi.normal(0.02), nn.initializers.zeros], ids=label)
    def test_a_leaf_is_the_initializer_at_the_key_of_its_path(self, init):
        params = tree()
        after = fi.reinit(KEY, params, {"head/kernel": init})
        assert_same_bits(after["head"]["kernel"], expected(init, "head/kernel", (5, 4)))
        for path in (("body", "kernel"), ("body", "bias"), ("head", "bias")):
            assert after[path[0]][path[1]] is params[path[0]][path[1]]
        assert (params["head"]["kernel"] == 1).all()

    def test_other_leaves_order_and_containers_do_not_matter(self):
        alone = fi.reinit(KEY, {"head": {"kernel": jnp.ones((5, 4))}}, {"**": XAVIER})
        more = fi.reinit(KEY, freeze(tree() | {"aa": [jnp.ones(3)]}), {"head/*": xavier_or_zero})
        listed = fi.reinit(KEY, tree(), [("**/kernel", XAVIER), ("**/bias", fi.zeros())])
        for other in (more, listed):
            assert_same_bits(other["head"]["kernel"], alone["head"]["kernel"])

    def test_equal_shapes_get_other_values(self):
        params = {"a": jnp.ones((4, 4)), "b": jnp.ones((4, 4))}
        after = fi.reinit(KEY, params, {"**": XAVIER})
        assert not (after["a"] == after["b"]).any()

    def test_the_first_match_wins(self):
        rules = [("head/bias", fi.constant(7.0)), (["head", "body/bias"], fi.zeros())]
        after = fi.reinit(KEY, tree(), rules)
        assert (after["head"]["bias"] == 7).all()
        assert (after["head"]["kernel"] == 0).all() and (after["body"]["bias"] == 0).all()
        assert (after["body"]["kernel"] == 1).all()

    @pytest.mark.slow
    def test_two_hash_seeds_agree(self):
        code = (
            "import jax, jax.numpy as jnp, flax_inits as fi\n"
            "names = ('Dense_1', 'é')\n"
            "params = {n: {'kernel': jnp.ones((3, 2)), 'ä/b': jnp.ones(2)} for n in names}\n"
            "after = fi.reinit(jax.random.key(0), params, {'**': fi.normal(1.0)})\n"
            "bits = b''.join(leaf.tobytes() for leaf in jax.tree.leaves(after)).hex()\n"
        )
        here = {}
        exec(code, here)
        seed = "2" if os.environ.get("PYTHONHASHSEED") == "1" else "1"
        other = subprocess.run(
            [sys.executable, "-c", code + "print(bits, hash('a'))"],
            env={"PYTHONHASHSEED": seed, "PYTHONPATH": os.pathsep.join(sys.path)},
            capture_output=True,
            text=True,
            check=True,
        )
        bits, hashed = other.stdout.split()
        assert bits == here["bits"] and int(hashed) != hash("a")

    @pytest.mark.parametrize("impl", ["threefry2x32", "rbg", "unsafe_rbg"])
    def test_typed_keys_of_every_implementation(self, impl):
        key = jax.random.key(1, impl=impl)
        after = fi.reinit(key, tree(), {"head/kernel": XAVIER})
        assert_same_bits(after["head"]["kernel"], expected(XAVIER, "head/kernel", (5, 4), key=key))

    def test_legacy_and_fused_keys_are_the_typed_key(self):
        typed = jax.random.key(5)
        reference = fi.reinit(typed, tree(), {"head": xavier_or_zero})
        for key in (jax.random.PRNGKey(5), np.asarray(jax.random.PRNGKey(5)), fi.fused_key(typed)):
            after = fi.reinit(key, tree(), {"head": xavier_or_zero})
            assert_same_bits(after["head"]["kernel"], reference["head"]["kernel"])

    def test_scan_stacked_kernels(self):
        params = {"layers": {"kernel": jnp.ones((3, 64, 32))}}
        after = fi.reinit(KEY, params, {"layers": fi.stacked(nn.initializers.lecun_normal())})
        kernel = np.asarray(after["layers"]["kernel"])
        assert np.std(kernel, axis=(1, 2)) == pytest.approx([64**-0.5] * 3, rel=0.15)
        assert not (kernel[0] == kernel[1]).any()

    def test_whoever_calls_with_a_changed_initializer_gets_what_it_is_now(self):
        class Fill:
            value = 1.0

            def __call__(self, key, shape, dtype):
                return jnp.full(shape, self.value, dtype)

        init, params = Fill(), tree()
        fi.reinit(KEY, params, {"head": init})
        init.value = 2.0
        assert (fi.reinit(KEY, params, {"head": init})["head"]["bias"] == 2).all()

    def test_an_initializer_that_computes_with_numpy(self):
        def init(key, shape, dtype):
            return np.random.default_rng(np.asarray(jax.random.key_data(key))).normal(size=shape)

        params = {"a": jnp.ones((3, 2)), "b": jnp.ones((3, 2), jnp.bfloat16)}
        after = fi.reinit(KEY, params, {"**": init})
        for name, leaf in params.items():
            key = jax.random.fold_in(KEY, path_hash((name,)))
            wanted = init(key, leaf.shape, leaf.dtype).astype(np.float32).astype(leaf.dtype)
            assert_same_bits(after[name], wanted)

    def test_an_initializer_with_effects(self, capfd):
        def init(key, shape, dtype):
            jax.debug.print("drawn")
            return XAVIER(key, shape, dtype)

        after = fi.reinit(KEY, tree(), {"**/kernel": init})
        jax.effects_barrier()
        assert capfd.readouterr().out.count("drawn") == 2
        assert_same_bits(after["head"]["kernel"], expected(XAVIER, "head/kernel", (5, 4)))

    def test_without_jit(self):
        reference = fi.reinit(KEY, tree(), {"head/kernel": nn.initializers.constant(3.0)})
        with jax.disable_jit():
            after = fi.reinit(KEY, tree(), {"head/kernel": nn.initializers.constant(3.0)})
        assert_same_bits(after["head"]["kernel"], reference["head"]["kernel"])


def xavier_or_zero(key, shape, dtype):
    return XAVIER(key, shape, dtype) if len(shape) > 1 else jnp.zeros(shape, dtype)


@struct.dataclass
class Layer:
    kernel: jax.Array
    count: jax.Array
    name: str = struct.field(pytree_node=False, default="layer")


class Model(nnx.Module):
    def __init__(self, rngs):
        self.head = nnx.Linear(5, 4, rngs=rngs)
        self.dropout = nnx.Dropout(0.5, rngs=rngs)
        self.layers = nnx.List([nnx.Linear(4, 4, rngs=rngs)])


Pair = collections.namedtuple("Pair", "w b")


class TestContainers:
    def test_frozen(self):
        params = freeze(tree())
        after = fi.reinit(KEY, params, freeze({"head": fi.zeros()}))
        assert type(after) is FrozenDict and type(after["head"]) is FrozenDict
        assert jax.tree.structure(after) == jax.tree.structure(params)
        assert after["body"]["kernel"] is params["body"]["kernel"]

    @pytest.mark.parametrize("box", [nn.Partitioned, nn.LogicallyPartitioned])
    def test_boxes_keep_their_metadata_and_get_the_unboxed_values(self, box):
        reference = fi.reinit(KEY, tree(), {"head": fi.normal(1.0)})
        params = jax.tree.map(lambda leaf: box(leaf, ("a", "b")[: leaf.ndim]), tree())
        after = fi.reinit(KEY, params, {"head": fi.normal(1.0)})
        assert jax.tree.structure(after) == jax.tree.structure(params)
        assert type(after["head"]["kernel"]) is box and after["head"]["kernel"].names == ("a", "b")
        assert_same_bits(after["head"]["kernel"].value, reference["head"]["kernel"])
        assert after["body"]["bias"].value is params["body"]["bias"].value

    @pytest.mark.parametrize(
        "with_box",
        [nn.with_partitioning, nn.with_logical_partitioning, nnx.with_partitioning],
        ids=["partitioned", "logical", "nnx"],
    )
    def test_an_initializer_that_returns_a_box_is_unboxed(self, with_box):
        init = with_box(XAVIER, ("p", "q"))
        after = fi.reinit(KEY, tree(), {"head/kernel": init})
        assert_same_bits(after["head"]["kernel"], expected(XAVIER, "head/kernel", (5, 4)))
        params = {"head": {"kernel": nn.Partitioned(jnp.ones((5, 4)), ("a", "b"))}}
        after = fi.reinit(KEY, params, {"head/kernel": init})
        assert after["head"]["kernel"].names == ("a", "b")
        assert_same_bits(after["head"]["kernel"].value, expected(XAVIER, "head/kernel", (5, 4)))

    def test_nnx_state_and_module(self):
        model = Model(nnx.Rngs(0))
        graph, state = nnx.split(model)
        after = fi.reinit(KEY, state, {"head/kernel": XAVIER})
        assert type(after) is type(state)
        assert jax.tree.structure(after) == jax.tree.structure(state)
        wanted = expected(XAVIER, "head/kernel", (5, 4))
        assert_same_bits(nnx.merge(graph, after).head.kernel[...], wanted)
        assert_same_bits(fi.reinit(KEY, model, {"head/kernel": XAVIER}).head.kernel[...], wanted)
        changed = fi.reinit(KEY, state, {"layers/0": fi.zeros()})
        assert (nnx.merge(graph, changed).layers[0].kernel[...] == 0).all()

    def test_an_nnx_mask_is_a_where(self):
        state = nnx.state(Model(nnx.Rngs(0)))
        mask = fi.select(state, "head/kernel")
        after = fi.reinit(KEY, state, [(mask, fi.zeros())])
        assert (after["head"]["kernel"][...] == 0).all()
        again = fi.reinit(KEY, state, mask, init_fn=lambda key: after)
        assert (again["head"]["kernel"][...] == 0).all()
        with pytest.raises(ValueError, match=r"'dropout/rngs/count', which no initializer can"):
            fi.reinit(KEY, state, {"**": fi.zeros()})

    def test_dataclasses_tuples_none_and_empty_containers(self):
        params = Pair([None, Layer(jnp.ones((2, 2)), jnp.ones(2, int)), {}, ()], {0: jnp.ones(3)})
        after = fi.reinit(KEY, params, {"w/1/kernel": fi.zeros(), "b/0": fi.ones()})
        assert jax.tree.structure(after) == jax.tree.structure(params)
        assert type(after.w[1]) is Layer and (after.w[1].kernel == 0).all()
        assert after.w[1].count is params.w[1].count
        assert after.w[0] is None and after.w[2] == {} and after.w[3] == ()

    def test_dict_order_is_kept(self):
        params = collections.OrderedDict(z=jnp.ones(2), a=jnp.ones(2))
        assert list(fi.reinit(KEY, params, {"z": fi.zeros()})) == ["z", "a"]

    def test_a_bare_leaf(self):
        assert (fi.reinit(KEY, jnp.ones(3), {"**": fi.zeros()}) == 0).all()


NAMES = st.sampled_from(["a", "b", "Dense_1", "Dense_10", "count", "x/y", "e[0]"])
LEAVES = st.sampled_from([(), (3,), (2, 3), (0, 2), None])
TREES = st.dictionaries(
    NAMES,
    st.recursive(LEAVES, lambda inner: st.dictionaries(NAMES, inner) | st.lists(inner, max_size=3)),
    min_size=1,
)


class TestAnyTree:
    @pytest.mark.slow
    @hypothesis.given(shapes=TREES, data=st.data())
    @hypothesis.settings(max_examples=40)
    def test_what_is_not_chosen_is_the_same_and_what_is_depends_on_its_path_alone(
        self, shapes, data
    ):
        is_shape = lambda node: isinstance(node, tuple)  # noqa: E731
        params = jax.tree.map(jnp.ones, shapes, is_leaf=is_shape)
        paths, leaves = fi.paths(params), jax.tree.leaves(params)
        hypothesis.assume(paths)
        chosen = data.draw(st.sets(st.sampled_from(paths), min_size=1))
        after = fi.reinit(KEY, params, [(lambda path, leaf: path in chosen, fi.normal(1.0))])
        assert jax.tree.structure(after) == jax.tree.structure(params)
        for path, old, new in zip(paths, leaves, jax.tree.leaves(after), strict=True):
            if path in chosen:
                key = jax.random.fold_in(KEY, path_hash(path))
                assert_same_bits(new, fi.normal(1.0)(key, old.shape))
            else:
                assert new is old


class TestDtypes:
    @pytest.mark.sampled(2)
    @pytest.mark.parametrize("dtype", ["bfloat16", "float16", "float32", "complex64"])
    def test_the_leafs_own_dtype_is_drawn(self, dtype):
        init = nn.initializers.normal(1.0)
        after = fi.reinit(KEY, {"a": jnp.ones((5, 4), dtype)}, {"a": init})
        assert_same_bits(after["a"], expected(init, "a", (5, 4), dtype))

    @pytest.mark.sampled(2)
    @pytest.mark.parametrize("dtype", ["float64", "complex128"])
    def test_wide_leaves(self, dtype):
        init = nn.initializers.normal(1.0)
        with jax.enable_x64(True):
            params = {"a": jnp.ones((5, 4), dtype)}
            after = fi.reinit(KEY, params, {"a": init})
            assert_same_bits(after["a"], expected(init, "a", (5, 4), dtype))
        for leaf in (params["a"], np.ones(3, dtype), jax.ShapeDtypeStruct((3,), dtype)):
            with pytest.raises(ValueError, match=rf"'a'.*holds {dtype}.*jax_enable_x64"):
                fi.reinit(KEY, {"a": leaf}, {"a": init})

    @pytest.mark.parametrize(
        "init", [fi.normal(1.0), nn.initializers.zeros, nn.initializers.normal()], ids=label
    )
    def test_weak_types(self, init):
        params = {"a": jnp.asarray(2.0), "b": weak((4,)), "c": 2.5, "d": jnp.ones(3)}
        after = fi.reinit(KEY, params, {"**": init})
        assert [after[name].weak_type for name in "abcd"] == [True, True, True, False]
        assert {leaf.dtype for leaf in after.values()} == {np.dtype("float32")}
        made = fi.reinit(KEY, params, "*", init_fn=lambda key: {**params, "d": weak((3,))})
        assert [made[name].weak_type for name in "abcd"] == [True, True, True, False]

    def test_python_complex_and_numpy_leaves(self):
        params = {"a": 1j, "b": np.ones(3, np.float32), "c": np.float32(1)}
        after = fi.reinit(KEY, params, {"**": nn.initializers.normal()})
        assert after["a"].dtype == np.complex64 and after["a"].weak_type
        assert_same_bits(after["b"], expected(nn.initializers.normal(), "b", (3,)))
        assert after["c"].shape == () and not after["c"].weak_type
        assert (params["b"] == 1).all()

    def test_results_of_another_dtype(self):
        params = {"a": jnp.ones(3, jnp.bfloat16)}
        after = fi.reinit(KEY, params, {"a": lambda key, shape, dtype: jnp.arange(3)})
        assert_same_bits(after["a"], jnp.arange(3, dtype=jnp.bfloat16))
        with pytest.raises(ValueError, match=r"returned complex64 where bfloat16 was asked for"):
            fi.reinit(KEY, params, {"a": lambda key, shape, dtype: jnp.ones(3, complex)})


class TestRejected:
    """Nothing is computed and the input is as it was."""

    @pytest.fixture(autouse=True)
    def computes_nothing(self):
        self.params = tree()
        before = jax.tree.leaves(self.params)
        yield
        leaves = jax.tree.leaves(self.params)
        assert all(a is b and not a.is_deleted() for a, b in zip(before, leaves, strict=True))

    def fails(self, error, match, rules, **options):
        with pytest.raises(error, match=match) as caught:
            fi.reinit(KEY, options.pop("params", self.params), rules, donate=True, **options)
        return getattr(caught.value, "__notes__", [])

    @pytest.mark.parametrize("rules", [{}, [], ()])
    def test_no_rules(self, rules):
        self.fails(ValueError, "No rules were given; give where -> initializer", rules)

    def test_typo(self):
        self.fails(ValueError, r"'haed' selects no leaf.*'head'", {"haed": fi.zeros()})

    def test_empty_pattern(self):
        self.fails(ValueError, "pattern is empty", {"": fi.zeros()})

    def test_shadowed(self):
        rules = {"head": fi.zeros(), "head/bias": fi.ones()}
        match = r"for 'head/bias' wins no leaf.*belongs to the rule for 'head', which comes first"
        self.fails(ValueError, match, rules)
        after = fi.reinit(KEY, self.params, rules, allow_unmatched=True)
        assert (after["head"]["bias"] == 0).all()

    def test_unmatched(self):
        rules = {"tail": fi.zeros(), "head": fi.ones()}
        self.fails(ValueError, "'tail' selects no leaf", rules)
        after = fi.reinit(KEY, self.params, rules, allow_unmatched=True)
        assert (after["head"]["kernel"] == 1).all()
        rules = {"tail": fi.zeros(), "nose": fi.ones()}
        self.fails(ValueError, "'tail' selects no leaf", rules, allow_unmatched=True)
        self.fails(ValueError, "'tail' selects no leaf", [(["head", "tail"], fi.ones())])

    @pytest.mark.parametrize(
        "leaf, what",
        [
            (jnp.ones(3, int), r"int32 of shape \(3,\)"),
            (np.ones(3, bool), r"bool of shape \(3,\)"),
            (jax.random.key(0), r"key<fry> of shape \(\)"),
            (jax.random.PRNGKey(0), r"uint32 of shape \(2,\)"),
            (jax.ShapeDtypeStruct((2,), "int8"), r"int8 of shape \(2,\)"),
            (True, "bool"),
            (7, "int"),
            ("text", "str"),
        ],
        ids=label,
    )
    def test_what_no_initializer_can_make(self, leaf, what):
        params = {"head": {"kernel": jnp.ones(2), "n": leaf}}
        match = rf"rule for 'head' selects 'head/n'.*it holds {what}. Narrow the rule.*\*\*/kernel"
        self.fails(ValueError, match, {"head": fi.zeros()}, params=params)
        assert fi.reinit(KEY, params, {"head/kernel": fi.zeros()})["head"]["n"] is leaf

    def test_none(self):
        params = {"head": {"kernel": jnp.ones(2), "bias": None}}
        match = "'head/bias' selects no leaf. It matches 'head/bias', which no initializer can make"
        for where in ("head/bias", re.compile(".*bias"), ["head/bias", "tail"]):
            self.fails(ValueError, "it holds None", [(where, fi.zeros())], params=params)
        self.fails(ValueError, match, {"head/bias": fi.zeros()}, params=params)
        assert fi.reinit(KEY, params, {"head": fi.zeros()})["head"]["bias"] is None

    @pytest.mark.parametrize(
        "init, match",
        [
            (42, r"has 42 where an initializer must be.*flax_inits.constant\(42\)"),
            (None, r"has None where an initializer must be.*flax_inits.normal\(0.02\)"),
            (np.ones((5, 4)), r"an array of shape \(5, 4\).*flax_inits.from_array\(x\)"),
            ({"kernel": fi.zeros()}, r"rules do not nest: write {'head/kernel': \.\.\.}"),
            (fi.normal, r"the factory normal where an initializer must be: write normal\("),
        ],
        ids=label,
    )
    def test_no_initializer(self, init, match):
        self.fails(TypeError, rf"The rule for 'head' .*{match}", {"head": init})

    @pytest.mark.parametrize(
        "result, match",
        [
            (lambda shape: jnp.ones(7), r"returned shape \(7,\) where \(5, 4\) was asked for"),
            (lambda shape: {"w": jnp.ones(shape)}, "must return one array"),
            (lambda shape: [jnp.ones(shape)], "must return one array"),
            (lambda shape: None, "must return one array, got None"),
            (lambda shape: XAVIER, "must return one array.*factory"),
        ],
    )
    def test_wrong_results(self, result, match):
        def init(key, shape, dtype):
            return result(shape)

        rules = [("body", fi.zeros()), ("head/kernel", init)]
        notes = self.fails(ValueError, match, rules)
        assert "while initializing 'head/kernel' by the rule for 'head/kernel'" in notes

    def test_an_uncalled_factory_of_jax(self):
        self.fails(ValueError, "Is it a factory", {"head/kernel": nn.initializers.xavier_uniform})

    def test_the_users_own_exception(self):
        class Mine(Exception):
            pass

        def init(key, shape, dtype):
            raise Mine("sorry")

        notes = self.fails(Mine, "^sorry", {"**/bias": init})
        assert "while initializing 'body/bias' by the rule for '**/bias'" in notes

    @pytest.mark.parametrize(
        "rules, match",
        [
            ("head", r"'head' says which leaves, but not what they get"),
            (["head", "body"], r"\['head', 'body'\] says which leaves"),
            ({"head": {"kernel": True}}, "a tree of bools says which leaves"),
            (None, "needs rules"),
            (("head", "body"), r"\('head', 'body'\) says which leaves"),
            ([("head",), ("body",)], r"\[\('head',\), \('body',\)\] says which leaves"),
            (("head", fi.zeros()), r"One rule is written {where: initializer}"),
        ],
        ids=label,
    )
    def test_where_without_what(self, rules, match):
        self.fails(TypeError, match, rules)

    def test_no_pair(self):
        self.fails(ValueError, "A rule is a pair", [("head", fi.zeros(), fi.ones())])

    @pytest.mark.parametrize(
        "key, error",
        [
            (jax.random.split(jax.random.key(0), 2), ValueError),
            (jax.random.split(jax.random.PRNGKey(0), 2), ValueError),
            (jnp.ones(2), TypeError),
            (0, TypeError),
            (None, TypeError),
        ],
    )
    def test_no_single_key(self, key, error):
        with pytest.raises(error, match="key must be one PRNG key"):
            fi.reinit(key, self.params, {"head": fi.zeros()})

    def test_deleted_leaves(self):
        params = {"a": jnp.ones(3), "b": jnp.ones(3)}
        params["a"].delete()
        match = "'a', whose array was deleted .donated"
        self.fails(ValueError, match, {"a": fi.zeros()}, params=params)
        self.fails(ValueError, match, "a", params=params, init_fn=lambda key: {"a": jnp.ones(3)})
        assert (fi.reinit(KEY, params, {"b": fi.zeros()})["b"] == 0).all()


class TestForms:
    def test_keys_that_cannot_be_sorted(self):
        def is_body_bias(path, leaf):
            return path == ("body", "bias")

        rules = {re.compile("head/b.*"): fi.zeros(), "head": fi.ones(), is_body_bias: fi.zeros()}
        after = fi.reinit(KEY, jax.tree.map(lambda leaf: leaf * 3, tree()), rules)
        largest = jax.tree.map(lambda leaf: float(leaf.max()), after)
        assert largest == {"body": {"kernel": 3, "bias": 0}, "head": {"kernel": 1, "bias": 0}}

    @pytest.mark.parametrize(
        "where",
        [
            "head",
            ["head/kernel", re.compile("head/bias")],
            lambda path, leaf: path[0] == "head",
            {"body": {"kernel": False, "bias": False}, "head": {"kernel": True, "bias": True}},
            fi.select(freeze(tree()), "head"),
        ],
        ids=["glob", "union", "callable", "mask", "frozen mask"],
    )
    def test_a_single_where_with_init_fn(self, where):
        params = tree()
        after = fi.reinit(
            KEY, params, where, init_fn=lambda key: jax.tree.map(jnp.zeros_like, params)
        )
        assert (after["head"]["kernel"] == 0).all() and (after["head"]["bias"] == 0).all()
        assert after["body"]["kernel"] is params["body"]["kernel"]

    def test_paths_as_they_are_listed(self):
        after = fi.reinit(KEY, tree(), {("head", "bias"): fi.zeros(), ("body",): fi.zeros()})
        assert not after["head"]["bias"].any() and (after["head"]["kernel"] == 1).all()
        assert not after["body"]["kernel"].any()
        zeros = lambda key: jax.tree.map(jnp.zeros_like, tree())  # noqa: E731
        for where in (("head", "bias"), [("head", "bias")]):
            after = fi.reinit(KEY, tree(), where, init_fn=zeros)
            assert not after["head"]["bias"].any() and (after["head"]["kernel"] == 1).all()
        assert not fi.reinit(KEY, jnp.ones(3), (), init_fn=lambda key: jnp.zeros(3)).any()

    def test_all_but(self):
        params = tree()
        after = fi.reinit(KEY, params, {fi.all_but("body"): fi.zeros(), "body/bias": fi.zeros()})
        kept = [new is old for new, old in zip(*map(jax.tree.leaves, (after, params)), strict=True)]
        assert kept == [False, True, False, False]
        with pytest.raises(ValueError, match="'hed' selects no leaf"):
            rules = {fi.all_but("hed"): fi.zeros()}
            fi.reinit(KEY, params, rules, allow_unmatched=True)

    def test_a_mask_over_tuples_is_no_list_of_rules(self):
        params = [(jnp.ones(2), jnp.ones(3))]
        after = fi.reinit(KEY, params, [(True, False)], init_fn=lambda key: [(jnp.zeros(2),)])
        assert (after[0][0] == 0).all() and after[0][1] is params[0][1]


class Net(nn.Module):
    features: int = 4

    @nn.compact
    def __call__(self, x):
        x = nn.relu(nn.Dense(5, name="body")(x))
        return nn.Dense(self.features, name="head", bias_init=nn.initializers.normal(1.0))(x)


X = jnp.ones((2, 6))


def boxed(tree):
    return jax.tree.map(lambda leaf: nn.Partitioned(leaf, ("a", "b")[: leaf.ndim]), tree)


def net(key):
    return Net().init(key, X)["params"]


class TestInitFn:
    def test_equals_jit_bit_for_bit(self):
        params, wanted = tree(), jax.jit(net)(KEY)
        after = fi.reinit(KEY, params, "head", init_fn=net)
        assert after["body"]["kernel"] is params["body"]["kernel"]
        for name in ("kernel", "bias"):
            assert_same_bits(after["head"][name], wanted["head"][name])

    @pytest.mark.parametrize("wrap", [freeze, boxed])
    def test_containers_and_boxes_of_what_it_makes(self, wrap):
        wanted = jax.jit(net)(KEY)
        after = fi.reinit(KEY, tree(), "head", init_fn=lambda key: wrap(net(key)))
        assert type(after) is dict
        assert_same_bits(after["head"]["kernel"], wanted["head"]["kernel"])
        after = fi.reinit(KEY, boxed(tree()), "head", init_fn=net)
        assert after["head"]["kernel"].names == ("a", "b")
        assert_same_bits(after["head"]["kernel"].value, wanted["head"]["kernel"])

    def test_only_the_selected_paths_must_fit(self):
        params = {**tree(), "extra": jnp.ones(3)}
        after = fi.reinit(
            KEY, params, "body", init_fn=lambda key: Net(features=9).init(key, X)["params"]
        )
        assert after["head"] is not params["head"] and after["extra"] is params["extra"]
        assert_same_bits(after["body"]["kernel"], jax.jit(net)(KEY)["body"]["kernel"])

    def test_the_rest_is_not_computed(self):
        def init(key):
            jax.random.normal(key, (1 << 40,))  # would not fit into memory
            return {
                "head": jax.random.normal(key, (3,)),
                "rest": jax.random.normal(key, (1 << 40,)),
            }

        after = fi.reinit(KEY, {"head": jnp.ones(3)}, "head", init_fn=init)
        assert_same_bits(after["head"], jax.jit(lambda key: jax.random.normal(key, (3,)))(KEY))

    def test_integers_bools_and_keys(self):
        params = {
            "n": jnp.ones(3, int),
            "b": jnp.ones(2, bool),
            "k": jax.random.key(9),
            "ks": jax.random.split(KEY, 3),
            "legacy": jax.random.PRNGKey(1),
        }

        def init(key):
            folded = jax.random.fold_in(key, 1)
            keys = {"k": folded, "ks": jax.random.split(key, 3), "legacy": jax.random.key_data(key)}
            return keys | {"n": jax.random.randint(key, (3,), 0, 99), "b": jnp.zeros(2, bool)}

        after, wanted = fi.reinit(KEY, params, "**", init_fn=init), jax.jit(init)(KEY)
        for name, leaf in params.items():
            assert after[name].dtype == leaf.dtype
            assert (after[name] == wanted[name]).all()

    def test_narrower_leaves_get_the_values_cast(self):
        params = {"a": jnp.ones(3, jnp.bfloat16)}
        after = fi.reinit(KEY, params, "a", init_fn=lambda key: {"a": jax.random.normal(key, (3,))})
        wanted = jax.jit(lambda key: jax.random.normal(key, (3,)))(KEY)
        assert_same_bits(after["a"], wanted.astype(jnp.bfloat16))

    @pytest.mark.parametrize(
        "made, match",
        [
            (
                {"params": {"a": jnp.ones(3)}},
                r"no leaf at 'a', which is selected. It has 'params/a'",
            ),
            ({"ab": jnp.ones(3)}, r"no leaf at 'a', which is selected. Did you mean 'ab'"),
            ({"a": jnp.ones(4)}, r"makes 'a' with shape \(4,\), but the tree holds shape \(3,\)"),
            ({"a": jnp.ones(3, complex)}, r"makes 'a' as complex64, but the tree holds float32"),
        ],
    )
    def test_what_does_not_fit(self, made, match):
        params = {"a": jnp.ones(3)}
        with pytest.raises(ValueError, match=match):
            fi.reinit(KEY, params, "a", init_fn=lambda key: made, donate=True)
        assert (params["a"] == 1).all()

    def test_a_leaf_that_is_no_array(self):
        with pytest.raises(ValueError, match="^'a' selects 'a', which is no array: str.$"):
            fi.reinit(KEY, {"a": "text"}, "a", init_fn=lambda key: {"a": jnp.ones(())})

    def test_a_part_that_selects_nothing(self):
        after = fi.reinit(KEY, tree(), ["head", "tail"], init_fn=net, allow_unmatched=True)
        alone = fi.reinit(KEY, tree(), "head", init_fn=net)
        assert_same_bits(after["head"]["kernel"], alone["head"]["kernel"])
        assert_same_bits(after["body"]["kernel"], alone["body"]["kernel"])
        for where, idle in ((["head", "tail"], "tail"), (["hed", "tail"], "hed")):
            with pytest.raises(ValueError, match=f"^'{idle}' selects no leaf"):
                fi.reinit(KEY, tree(), where, init_fn=net)
        with pytest.raises(ValueError, match="^'tail' selects no leaf"):
            fi.reinit(KEY, tree(), "tail", init_fn=net, allow_unmatched=True)

    def test_rules_through_the_model(self):
        rules = {"head/kernel": fi.ones(), "**/kernel": fi.zeros(), "tail": fi.ones()}
        after = fi.reinit(KEY, tree(), rules, init_fn=net, allow_unmatched=True)
        before = tree()
        assert (after["head"]["kernel"] == 1).all() and (after["body"]["kernel"] == 0).all()
        assert (after["head"]["bias"] == before["head"]["bias"]).all()
        with pytest.raises(ValueError, match="^'tail' selects no leaf"):
            fi.reinit(KEY, tree(), rules, init_fn=net)
        with pytest.raises(ValueError, match="It has 'params/.*/kernel': give its"):
            fi.reinit(KEY, before, {"**/kernel": fi.ones()}, init_fn=lambda k: {"params": net(k)})
        counted = {**before, "n": jnp.zeros((), int)}
        with pytest.raises(ValueError, match="The rule for 'n' selects 'n', which no initializer"):
            fi.reinit(KEY, counted, {"n": fi.ones()}, init_fn=lambda k: counted)

    def test_options_are_given_by_name(self):
        with pytest.raises(TypeError, match="positional"):
            fi.reinit(KEY, tree(), "head", net)  # type: ignore[misc]

    def test_not_callable(self):
        with pytest.raises(TypeError, match="init_fn must be a callable key -> tree"):
            fi.reinit(KEY, tree(), "head", init_fn=tree())

    def test_a_snapshot_is_copied(self):
        snapshot = jax.tree.map(lambda leaf: leaf * 2, tree())
        after = fi.reinit(KEY, tree(), "head", init_fn=lambda key: snapshot)
        jax.jit(lambda leaf: leaf + 1, donate_argnums=0)(after["head"]["kernel"])
        assert after["head"]["kernel"].is_deleted()
        assert (snapshot["head"]["kernel"] == 2).all()

    @pytest.mark.sampled(2)
    @pytest.mark.parametrize("key", [jax.random.PRNGKey(4), jax.random.key(4, impl="rbg")])
    def test_other_keys(self, key):
        after = fi.reinit(key, tree(), "head", init_fn=net)
        assert_same_bits(after["head"]["kernel"], jax.jit(net)(key)["head"]["kernel"])

    @pytest.mark.parametrize("key", [jax.random.PRNGKey(4), jax.random.key(4)])
    def test_a_function_that_cannot_be_traced(self, key):
        def init(key):
            seed = int(jax.random.key_data(key)[-1])
            return {"a": np.full(3, seed, np.float32), "b": 0}

        after = fi.reinit(key, {"a": jnp.ones(3)}, "a", init_fn=init)
        assert (after["a"] == 4).all()


class TestDonation:
    def test_replaced_buffers_are_freed_and_kept_ones_are_not(self):
        params = tree()
        after = fi.reinit(KEY, params, {"head": fi.normal(1.0)}, donate=True)
        assert all(leaf.is_deleted() for leaf in jax.tree.leaves(params["head"]))
        assert after["body"]["kernel"] is params["body"]["kernel"]
        assert (after["body"]["kernel"] == 1).all()

    def test_numpy_and_python_leaves_stay(self):
        params = {"a": np.ones(3, np.float32), "b": 1.0}
        fi.reinit(KEY, params, {"**": fi.zeros()}, donate=True)
        assert (params["a"] == 1).all()

    def test_beside_keys_and_deleted_arrays(self):
        params = {"a": jnp.ones(3), "b": jnp.ones(3), "key": jax.random.key(1)}
        params["b"].delete()
        after = fi.reinit(KEY, params, {"a": fi.zeros()}, donate=True)
        assert params["a"].is_deleted() and not after["key"].is_deleted()

    def test_a_tied_array_that_is_kept_somewhere_stays(self):
        shared = jnp.ones((3, 3))
        after = fi.reinit(KEY, {"a": shared, "b": shared}, {"a": fi.zeros()}, donate=True)
        assert after["b"] is shared and (shared == 1).all() and (after["a"] == 0).all()

    def test_a_tied_array_that_is_replaced_everywhere_goes(self):
        shared = jnp.ones((3, 3))
        with pytest.warns(UserWarning, match="'a' and 'b' hold the same array"):
            after = fi.reinit(KEY, {"a": shared, "b": shared}, {"**": XAVIER}, donate=True)
        assert shared.is_deleted() and not (after["a"] == after["b"]).any()

    def test_an_initializer_that_gives_the_old_leaf(self):
        old = jnp.arange(3.0)
        after = fi.reinit(KEY, {"a": old}, {"a": lambda key, shape, dtype: old}, donate=True)
        assert (after["a"] == jnp.arange(3.0)).all()

    def test_empty_arrays(self):
        params = {"a": jnp.zeros((0, 3)), "b": jnp.zeros((0, 3))}
        after = fi.reinit(KEY, params, {"a": fi.normal(1.0)}, donate=True)
        assert after["a"].shape == (0, 3) and not params["b"].is_deleted()
        assert params["a"].is_deleted()

    @pytest.mark.parametrize("shape", [(0, 3), (2, 3)])
    def test_an_array_that_shares_a_buffer_with_a_kept_one_stays(self, shape):
        one = jnp.zeros(shape)
        other = jax.device_put(one, one.sharding)
        for params in ({"a": one, "b": one}, {"a": one, "b": other}):
            after = fi.reinit(KEY, params, {"a": fi.ones()}, donate=True)
            assert after["b"] is params["b"] and not after["b"].is_deleted()
            assert not one.is_deleted()


class TestTransformed:
    @pytest.fixture(params=[XAVIER, fi.normal(0.02)], ids=["jax", "ours"])
    def rules(self, request):
        return {"**/kernel": request.param, "**/bias": nn.initializers.zeros}

    @pytest.mark.sampled(2)
    def test_jit(self, rules):
        params, wanted = tree(), fi.reinit(KEY, tree(), rules)
        runs = (
            jax.jit(lambda key, params: fi.reinit(key, params, rules))(KEY, params),
            jax.jit(lambda key: fi.reinit(key, params, rules))(KEY),
            jax.jit(lambda params: fi.reinit(KEY, params, rules))(params),
        )
        for run in runs:
            assert_same_bits(run["head"]["kernel"], wanted["head"]["kernel"])

    @pytest.mark.sampled(2)
    def test_vmap_over_keys_and_over_params(self, rules):
        keys, params = jax.random.split(KEY, 3), tree()
        many = jax.vmap(lambda key: fi.reinit(key, params, rules))(keys)
        for i in (0, 2):
            one = fi.reinit(keys[i], params, rules)["head"]["kernel"]
            np.testing.assert_allclose(many["head"]["kernel"][i], one, rtol=1e-6)
        stack = jax.tree.map(lambda leaf: jnp.stack([leaf] * 3), params)
        many = jax.vmap(lambda params: fi.reinit(KEY, params, rules))(stack)
        assert_same_bits(many["head"]["kernel"][1], fi.reinit(KEY, params, rules)["head"]["kernel"])

    def test_scan_and_eval_shape(self, rules):
        keys, params = jax.random.split(KEY, 3), {**tree(), "scale": {"kernel": weak((2, 3))}}

        def step(params, key):
            return fi.reinit(key, params, rules), None

        last, _ = jax.lax.scan(step, params, keys)
        assert_same_bits(
            last["head"]["kernel"], fi.reinit(keys[2], params, rules)["head"]["kernel"]
        )
        shapes = jax.eval_shape(lambda key: step(params, key)[0], KEY)
        assert jax.tree.map(jnp.shape, shapes) == jax.tree.map(jnp.shape, params)

    def test_init_fn(self):
        params, wanted = tree(), jax.jit(net)(KEY)
        run = jax.jit(lambda key, params: fi.reinit(key, params, "head", init_fn=net))
        assert_same_bits(run(KEY, params)["head"]["kernel"], wanted["head"]["kernel"])
        many = jax.vmap(run, (0, None), 0)(jax.random.split(KEY, 2), params)
        assert many["head"]["kernel"].shape == (2, 5, 4)

    def test_gradients_pass_through_kept_leaves_and_initializers(self):
        def loss(params, scale):
            rules = {"head": lambda key, shape, dtype: scale * jnp.ones(shape, dtype)}
            return sum(map(jnp.sum, jax.tree.leaves(fi.reinit(KEY, params, rules))))

        by_params, by_scale = jax.grad(loss, (0, 1))(tree(), 2.0)
        assert (by_params["body"]["kernel"] == 1).all() and (by_params["head"]["kernel"] == 0).all()
        assert by_scale == 24
        made = jax.vmap(
            lambda scale: fi.reinit(KEY, {"a": 1.0}, "a", init_fn=lambda key: {"a": scale})
        )(jnp.arange(3.0))
        assert (made["a"] == jnp.arange(3.0)).all()

    def test_errors_name_the_path_under_jit(self):
        def run(params):
            return fi.reinit(KEY, params, {"head/bias": lambda key, shape, dtype: jnp.ones(9)})

        with pytest.raises(ValueError, match=r"returned shape \(9,\)") as caught:
            jax.jit(run)(tree())
        assert (
            "while initializing 'head/bias' by the rule for 'head/bias'" in caught.value.__notes__
        )


class TestAbstractLeaves:
    def test_from_scratch_by_rule(self):
        shapes = jax.eval_shape(tree)
        after = fi.reinit(KEY, shapes, {"**/kernel": XAVIER, "**/bias": fi.zeros()})
        assert_same_bits(after["head"]["kernel"], expected(XAVIER, "head/kernel", (5, 4)))
        assert not after["head"]["kernel"].committed
        part = fi.reinit(KEY, shapes, {"head": fi.zeros()})
        assert part["body"]["kernel"] is shapes["body"]["kernel"]

    def test_weak_and_boxed(self):
        leaf = nn.Partitioned(jax.ShapeDtypeStruct((), "float32", weak_type=True), ())
        after = fi.reinit(KEY, {"a": leaf}, {"a": fi.normal(1.0)})
        assert isinstance(after["a"], nn.Partitioned) and after["a"].value.weak_type


class TestCompilesOnce:
    def test_equal_rules_built_anew(self):
        def rules():
            return {
                "head/kernel": nn.initializers.xavier_uniform(),
                "body/kernel": lambda key, shape, dtype: jax.random.normal(key, shape, dtype) * 0.3,
                "**/bias": fi.normal(0.5),
            }

        params = tree()
        one, two = jax.random.split(KEY)
        fi.reinit(one, params, rules())
        with count_compiles() as count:
            fi.reinit(two, params, rules())
        assert count.programs == 0

    def test_equal_init_fn_built_anew(self):
        def init_fn():
            return lambda key: Net().init(key, X)["params"]

        params = tree()
        one, two = jax.random.split(KEY)
        fi.reinit(one, params, "head", init_fn=init_fn())
        with count_compiles() as count:
            fi.reinit(two, params, "head", init_fn=init_fn())
        assert count.programs == 0

    def test_as_many_programs_for_many_leaves_as_for_few(self):
        def compiled(leaves):
            params = {f"layer_{i}": {"kernel": jnp.ones((7, 3))} for i in range(leaves)}
            init = nn.initializers.normal(0.1 + leaves)  # new to the cache
            with count_compiles() as count:
                fi.reinit(KEY, params, {"**/kernel": init})
            return count.programs

        compiled(3)
        assert compiled(40) == compiled(4) > 0
