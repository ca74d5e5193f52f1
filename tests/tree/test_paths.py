"""Paths, patterns, masks, and what is said when a selection is wrong."""

import collections
import dataclasses
import functools
import hashlib
import pickle
import re
import subprocess
import sys

import flax.core
import flax.linen as nn
import flax.struct
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx
from flax.training.train_state import TrainState
from hypothesis import given, settings
from hypothesis import strategies as st

import flax_inits
from flax_inits._tree.forms import describe
from flax_inits._tree.misses import nothing_selected
from flax_inits._tree.paths import flatten, path_hash, paths, show
from flax_inits._tree.resolve import all_but, resolve
from flax_inits._tree.selection import select

PARAMS = {
    "Dense_1": {"bias": 0, "kernel": 1},
    "Dense_10": {"bias": 2, "kernel": 3},
    "attn": {"head": {"kernel": 4}},
    "head": {"kernel": 5},
}


def chosen(tree, where):
    """The joined paths that `where` selects."""
    verdicts = jax.tree.leaves(select(tree, where))
    return [show(path) for path, verdict in zip(paths(tree), verdicts, strict=True) if verdict]


@flax.struct.dataclass
class Pair:
    value: object
    other: object


@flax.struct.dataclass
class Quantised(flax.core.meta.AxisMetadata):
    value: object

    def unbox(self):
        return self.value

    def replace_boxed(self, val):
        return self.replace(value=val)

    def add_axis(self, index, params):
        return self

    def remove_axis(self, index, params):
        return self


# --- paths -----------------------------------------------------------------------------------


def test_paths_are_the_keys_as_strings_in_leaf_order():
    tree = {"b": [1, {"x": 2}], "a": (3, Pair(value=4, other={0: 5, 1: 6}))}
    assert paths(tree) == [
        ("a", "0"),
        ("a", "1", "value"),
        ("a", "1", "other", "0"),
        ("a", "1", "other", "1"),
        ("b", "0"),
        ("b", "1", "x"),
    ]


@pytest.mark.parametrize("key", [7, 1.5, ("x", "y"), None, True, b"k"])
def test_keys_of_any_type_are_stringified(key):
    assert paths({key: 1}) == [(str(key),)]


def test_a_leaf_alone_has_the_empty_path():
    assert paths(3.0) == [()]
    assert select(3.0, "**") is True
    assert select(3.0, True) is True
    with pytest.raises(ValueError, match=r"'\*' selects no leaf. The tree is one leaf, whose path"):
        select(3.0, "*")


@pytest.mark.parametrize("tree", [None, {}, [], {"a": None, "b": {}, "c": [None, ()]}])
def test_none_and_empty_containers_have_no_paths_and_are_kept(tree):
    assert paths(tree) == []
    names, leaves, treedef = flatten({"x": 1, "rest": tree})
    assert names == [("x",)]
    assert treedef.unflatten(leaves) == {"x": 1, "rest": tree}
    assert select({"x": 1, "rest": tree}, "x") == {"x": True, "rest": tree}


@pytest.mark.parametrize(
    "box",
    [
        lambda value: nn.Partitioned(value, ("a",)),
        lambda value: nn.LogicallyPartitioned(value, ("a",)),
        lambda value: nnx.Param(value),
        lambda value: nnx.BatchStat(value, tag="t"),
        Quantised,
        lambda value: nn.Partitioned(nn.LogicallyPartitioned(value, ("a",)), ("b",)),
    ],
)
def test_a_box_adds_nothing_to_the_path_and_is_rebuilt(box):
    plain = {"a": {"value": jnp.ones(2), "w": jnp.zeros(2)}, "value": jnp.ones(3)}
    boxed = jax.tree.map(box, plain)
    assert paths(boxed) == paths(plain) == [("a", "value"), ("a", "w"), ("value",)]
    names, leaves, treedef = flatten(boxed)
    assert treedef == jax.tree.structure(boxed)
    assert jax.tree.structure(treedef.unflatten(leaves)) == treedef
    mask = select(boxed, "a/value")
    assert jax.tree.structure(mask) == treedef
    assert jax.tree.leaves(mask) == [True, False, False]


def test_only_the_boxs_own_value_is_dropped():
    tree = {"box": nn.Partitioned({"value": Pair(value=1, other=2)}, ("a",))}
    assert paths(tree) == [("box", "value", "value"), ("box", "value", "other")]


def test_dict_and_frozen_dict_have_equal_paths_and_keep_their_type():
    frozen = flax.core.freeze(PARAMS)
    assert paths(frozen) == paths(PARAMS)
    mask = select(frozen, "head")
    assert isinstance(mask, flax.core.FrozenDict)
    assert flax.core.unfreeze(mask) == select(PARAMS, "head")


def test_nnx_state_and_nnx_module():
    model = nnx.Sequential(nnx.Linear(2, 3, rngs=nnx.Rngs(0)), nnx.Linear(3, 1, rngs=nnx.Rngs(1)))
    expected = [
        ("layers", "0", "bias"),
        ("layers", "0", "kernel"),
        ("layers", "1", "bias"),
        ("layers", "1", "kernel"),
    ]
    state = nnx.state(model)
    assert paths(state) == paths(nnx.to_pure_dict(state)) == paths(model) == expected
    mask = select(state, "layers/1")
    assert isinstance(mask, nnx.State)
    assert jax.tree.leaves(mask) == [False, False, True, True]
    # the mask of a boxed tree fits the unboxed one, and the other way round
    assert chosen(nnx.to_pure_dict(state), mask) == ["layers/1/bias", "layers/1/kernel"]
    assert chosen(state, nnx.to_pure_dict(mask)) == ["layers/1/bias", "layers/1/kernel"]


@pytest.mark.slow
def test_flax_nnx_is_not_imported_for_the_sake_of_its_boxes():
    code = (
        "import sys, flax_inits._tree.selection as p; "
        "p.select({'a': 1}, 'a'); assert 'flax.nnx' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_train_state():
    state = TrainState.create(apply_fn=None, params=PARAMS, tx=optax.adam(1e-3))
    assert ("step",) in paths(state)
    assert ("opt_state", "0", "mu", "head", "kernel") in paths(state)
    assert chosen(state, "params/head") == ["params/head/kernel"]
    assert chosen(state, "opt_state/*/mu/head") == ["opt_state/0/mu/head/kernel"]
    assert select(state, "step").tx is state.tx


class Block(nn.Module):
    @nn.compact
    def __call__(self, x, _=None):
        return nn.Dense(4)(x), None


def lifted():
    class Model(nn.Module):
        @nn.compact
        def __call__(self, x):
            scan = nn.scan(
                Block, variable_axes={"params": 0}, split_rngs={"params": True}, length=3
            )
            x, _ = scan(name="layers")(x, None)
            many = nn.vmap(nn.Dense, variable_axes={"params": 0}, split_rngs={"params": True})
            x = nn.remat(nn.Dense)(4)(many(4)(x))
            return nn.WeightNorm(nn.Dense(2))(x)

    return jax.eval_shape(Model().init, jax.random.key(0), jnp.ones((2, 4)))["params"]


def test_scan_vmap_remat_and_weight_norm():
    params = lifted()
    assert {
        ("layers", "Dense_0", "kernel"),
        ("VmapDense_0", "kernel"),
        ("CheckpointDense_0", "kernel"),
        ("WeightNorm_0", "Dense_0/kernel/scale"),
    } <= set(paths(params))
    assert chosen(params, "layers/*/bias") == ["layers/Dense_0/bias"]


def test_a_slash_inside_a_key():
    params = lifted()
    scale = "WeightNorm_0/Dense_0/kernel/scale"
    assert chosen(params, "WeightNorm_0/Dense_0?kernel?scale") == [scale]
    assert chosen(params, "WeightNorm_0/*scale") == [scale]
    assert chosen(params, re.compile(".*/kernel/scale")) == [scale]
    # it is no kernel of a Dense_0
    assert scale not in chosen(params, "**/kernel")
    assert scale not in chosen(params, "**/Dense_0")
    with pytest.raises(ValueError, match=r"part of a key\. Did you mean 'WeightNorm_0/Dense_0\?k"):
        select(params, scale)
    with pytest.raises(ValueError, match=r"Did you mean 'WeightNorm_0/Dense_0\?kernel\?scale'"):
        select(params, "WeightNorm_*/Dense_0/*/scale")


def test_path_hash_is_sha1_over_length_prefixed_segments():
    segments = [b"Dense_0", "größe".encode(), b""]
    data = b"".join(len(part).to_bytes(4, "big") + part for part in segments)
    expected = int.from_bytes(hashlib.sha1(data).digest()[:4], "big")
    assert path_hash(("Dense_0", "größe", "")) == expected
    assert path_hash(()) == 0xDA39A3EE
    assert path_hash(("a", "b")) != path_hash(("a/b",)) != path_hash(("ab",))
    assert 0 <= path_hash(("\ud800",)) < 2**32


# --- globs -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("where", "expected"),
    [
        ("head", ["head/kernel"]),
        ("Dense_1", ["Dense_1/bias", "Dense_1/kernel"]),
        ("Dense_1*", ["Dense_1/bias", "Dense_1/kernel", "Dense_10/bias", "Dense_10/kernel"]),
        ("Dense_?", ["Dense_1/bias", "Dense_1/kernel"]),
        ("Dense_1[0-9]/bias", ["Dense_10/bias"]),
        ("[!DA]*", ["attn/head/kernel", "head/kernel"]),
        ("**/head", ["attn/head/kernel", "head/kernel"]),
        ("*/head", ["attn/head/kernel"]),
        ("**/bias", ["Dense_1/bias", "Dense_10/bias"]),
        ("attn/**", ["attn/head/kernel"]),
        ("attn/**/kernel", ["attn/head/kernel"]),
        ("attn/head/**/kernel", ["attn/head/kernel"]),
        ("head/kernel/**", ["head/kernel"]),
        ("*/*/*", ["attn/head/kernel"]),
        ("*/kernel", ["Dense_1/kernel", "Dense_10/kernel", "head/kernel"]),
        (
            "**/**/kernel/**",
            ["Dense_1/kernel", "Dense_10/kernel", "attn/head/kernel", "head/kernel"],
        ),
        ("**", [show(path) for path in paths(PARAMS)]),
    ],
)
def test_globs(where, expected):
    assert chosen(PARAMS, where) == expected


@pytest.mark.parametrize(
    ("name", "pattern", "others"),
    [
        ("e[0]", "e[[]0]", ["e0", "e1"]),
        ("a*b", "a[*]b", ["axb", "ab"]),
        ("a?", "a[?]", ["ab"]),
        ("a.b", "a.b", ["axb"]),
        ("a/b", "a?b", ["ab"]),
        ("a\nb", "a*", ["b"]),
        ("", "", []),
    ],
)
def test_names_with_special_characters(name, pattern, others):
    tree = {"top": dict.fromkeys([name, *others], 0)}
    assert chosen(tree, f"top/{pattern}") == [f"top/{name}"]


def test_globs_tell_case_apart():
    tree = {"Dense": 0, "dense": 1}
    assert chosen(tree, "Dense") == ["Dense"]
    assert chosen(tree, "d*") == ["dense"]


def test_params_called_count_and_mu():
    tree = {"count": 0, "mu": {"count": 1}}
    assert chosen(tree, "count") == ["count"]
    assert chosen(tree, "**/count") == ["count", "mu/count"]


@pytest.mark.slow
def test_deep_and_wide_trees_take_linear_time():
    deep = 0
    for level in range(900):
        deep = {"a": deep} if level % 2 else [deep, 1]
    many = "/".join(["**", "a"] * 40)
    verdicts = jax.tree.leaves(select(deep, many))
    assert verdicts == [path.count("a") >= 40 for path in paths(deep)]
    wide = {f"layer_{i}": {"kernel": 0, "bias": 0} for i in range(10_000)}
    assert sum(jax.tree.leaves(select(wide, "**/" * 30 + "*a*e*_*9/*i*"))) == 1000


# --- the other forms -------------------------------------------------------------------------


def test_regular_expressions_match_the_whole_joined_path_of_a_leaf():
    assert chosen(PARAMS, re.compile(r"Dense_\d+/kernel")) == ["Dense_1/kernel", "Dense_10/kernel"]
    assert chosen(PARAMS, re.compile(r".*/head/.*")) == ["attn/head/kernel"]
    with pytest.raises(ValueError, match=r"re.compile\('Dense_1'\) selects no leaf. It must match"):
        select(PARAMS, re.compile("Dense_1"))


def test_callables_see_path_and_leaf():
    assert chosen(PARAMS, lambda path, leaf: path[0] == "head" or leaf == 2) == [
        "Dense_10/bias",
        "head/kernel",
    ]
    answers = iter([np.True_, jnp.array(False), np.array(True), False, False, False])
    assert chosen(PARAMS, lambda path, leaf: next(answers)) == ["Dense_1/bias", "Dense_10/bias"]
    wrapped = jax.tree_util.Partial(lambda end, path, leaf: path[-1] == end, "bias")
    assert chosen(PARAMS, wrapped) == ["Dense_1/bias", "Dense_10/bias"]


@pytest.mark.parametrize("convert", [bool, np.bool_, jnp.array])
@pytest.mark.parametrize("container", [dict, flax.core.freeze])
def test_masks_of_any_container_and_any_bool(convert, container):
    mask = container(jax.tree.map(convert, select(PARAMS, "**/bias")))
    assert chosen(PARAMS, mask) == ["Dense_1/bias", "Dense_10/bias"]
    assert chosen(flax.core.freeze(PARAMS), mask) == ["Dense_1/bias", "Dense_10/bias"]


def test_masks_are_matched_by_path():
    @flax.struct.dataclass
    class Params:
        w: object
        b: object

    assert select(Params(w=1, b=2), {"b": False, "w": True}) == Params(w=True, b=False)


def test_a_list_is_a_union_and_may_be_nested():
    where = ["head", ["**/bias", [lambda path, leaf: leaf == 3]]]
    expected = ["Dense_1/bias", "Dense_10/bias", "Dense_10/kernel", "head/kernel"]
    assert chosen(PARAMS, where) == expected
    masks = [select(PARAMS, "head"), select(PARAMS, "Dense_1")]
    assert chosen(PARAMS, masks) == ["Dense_1/bias", "Dense_1/kernel", "head/kernel"]


def test_a_list_of_bools_over_a_list_is_a_mask():
    assert select([1, 2], [True, False]) == [True, False]
    tree = [{"w": 1}, {"w": 2}]
    assert select(tree, [{"w": False}, {"w": True}]) == [{"w": False}, {"w": True}]
    assert select(tree, ["0", "1/w"]) == [{"w": True}, {"w": True}]


def test_a_selection_is_ready_for_optax_masked():
    params = {
        "a": nn.Partitioned(jnp.ones(2), ("x",)),
        "b": flax.core.freeze({"w": jnp.ones(2)}),
        "c": None,
    }
    tx = optax.masked(optax.scale(0.0), select(params, "b"))
    updates, _ = tx.update(params, tx.init(params), params)
    assert jax.tree.structure(updates) == jax.tree.structure(params)
    assert [float(leaf.sum()) for leaf in jax.tree.leaves(updates)] == [2.0, 0.0]


def test_abstract_leaves_and_tracers():
    abstract = jax.eval_shape(lambda: {"a": jnp.ones(2), "b": jnp.ones(3)})
    assert select(abstract, lambda path, leaf: leaf.shape == (3,)) == {"a": False, "b": True}

    def double(tree):
        return jax.tree.map(lambda x, hit: 2 * x if hit else x, tree, select(tree, "a"))

    assert jax.jit(double)({"a": 1, "b": 1}) == {"a": 2, "b": 1}


def matches(where, names, leaves, tree):
    return resolve(where, names, leaves, tree)[0]


def test_matches_tells_parts_that_select_nothing_instead_of_raising():
    names, leaves, _ = flatten(PARAMS)
    assert matches("hed", names, leaves, PARAMS) == [False] * 6
    verdicts, idle = resolve(["head", ["hed"], re.compile("x")], names, leaves, PARAMS)
    assert sum(verdicts) == 1
    assert idle == ["hed", re.compile("x")]
    assert resolve("head", names, leaves, PARAMS)[1] == []


def test_a_tuple_of_strings_is_a_literal_path():
    assert chosen(PARAMS, ("head",)) == ["head/kernel"]
    assert chosen(PARAMS, ("Dense_1", "bias")) == ["Dense_1/bias"]
    assert chosen(PARAMS, [("Dense_1",), ("attn", "head")])[-1] == "attn/head/kernel"
    odd = {"a/b": {"e[0]": 1, "**": 2}, "a": {"b": 3}, "": 4, "?": 5}
    for path in paths(odd):
        assert chosen(odd, path) == [show(path)]
    assert chosen(odd, ("a/b",)) == ["a/b/**", "a/b/e[0]"]
    assert select(3.0, ()) is True
    with pytest.raises(
        ValueError, match=r"^\(\) selects no leaf. The paths are \('Dense_1', 'bias'"
    ):
        select(PARAMS, ())


@pytest.mark.parametrize(
    ("where", "advice"),
    [
        (("Dense_*",), "In a tuple nothing is a wildcard, and a slash separates nothing: write"),
        (("head/kernel",), "a slash separates nothing: write 'head/kernel'."),
        (("head", "attn"), "A tuple is one path; a union is a list: ['head', 'attn']."),
        (("kernel",), "Did you mean ('Dense_1', 'kernel'), ('Dense_10', 'kernel') or ('attn', 'he"),
        (("head", "kernle"), "Did you mean ('head', 'kernel')"),
        (("zzzzzz",), "The paths are ('Dense_1', 'bias'), ('Dense_1', 'kernel'), ('Dense_10', 'b"),
    ],
)  # fmt: skip
def test_a_literal_path_that_is_not_there(where, advice):
    with pytest.raises(ValueError, match=re.escape(advice)):
        select(PARAMS, where)


def test_all_but():
    assert chosen(PARAMS, all_but("**/kernel")) == ["Dense_1/bias", "Dense_10/bias"]
    assert chosen(PARAMS, all_but(all_but("head"))) == ["head/kernel"]
    assert chosen(PARAMS, [all_but(["Dense_*", "attn"]), "Dense_1/bias"]) == [
        "Dense_1/bias",
        "head/kernel",
    ]
    with pytest.raises(ValueError, match="^'hed' selects no leaf. Did you mean 'head'"):
        select(PARAMS, all_but("hed"))
    with pytest.raises(ValueError, match="^'hed' selects no leaf. Did you mean 'head'"):
        select(PARAMS, all_but(["head", "hed"]))
    with pytest.raises(ValueError, match=r"^all_but\('\*\*'\) selects no leaf. '\*\*' selects th"):
        select(PARAMS, all_but("**"))


def test_all_but_is_a_value():
    where = all_but(("head", "kernel"))
    assert where == all_but(("head", "kernel")) != all_but("head/kernel")
    assert len({where, all_but(("head", "kernel"))}) == 1
    assert repr(where) == "all_but(('head', 'kernel'))" and eval(repr(where)) == where
    assert pickle.loads(pickle.dumps(where)) == where
    union = ["a", ["b"]]
    where = all_but(union)
    union[1].append("c")
    assert where == all_but(["a", ["b"]]) and {where: 1}[all_but(["a", ["b"]])] == 1
    assert pickle.loads(pickle.dumps(where)) == where
    with pytest.raises(TypeError, match="unhashable type: 'dict'"):
        hash(all_but({"a": True}))


@pytest.mark.parametrize(
    "use",
    [
        paths,
        lambda tree: select(tree, "a"),
        lambda tree: flax_inits.reinit(jax.random.key(0), tree, {"a": flax_inits.zeros()}),
        lambda tree: flax_inits.graft(tree, {"a": {"1": 1.0}}, "a"),
        lambda tree: flax_inits.graft({"a": {"1": jnp.ones(2)}}, tree, "a"),
        lambda tree: flax_inits.reset_optimizer(optax.sgd(0.1), (), tree, "a"),
        lambda tree: flax_inits.jit_init(lambda key: tree, rules={"a": flax_inits.zeros()})(
            jax.random.key(0)
        ),
        lambda tree: flax_inits.summary(tree),
        lambda tree: select({"a": {"1": 1}}, tree),
    ],
)  # fmt: skip
def test_two_leaves_of_one_path_are_an_error_that_names_them(use):
    twins = {"a": collections.OrderedDict([(1, jnp.ones(2)), ("1", jnp.zeros(2))]), "b": 1.0}
    match = r"have one path, 'a/1': tree\['a'\]\[1\] and tree\['a'\]\['1'\]. Rename a key"
    with pytest.raises(ValueError, match=match):
        use(twins)


def test_what_a_box_holds_besides_its_value_keeps_its_key():
    @flax.struct.dataclass
    class Scaled(flax.core.meta.AxisMetadata):
        value: object
        scale: object

        unbox = replace_boxed = add_axis = remove_axis = lambda self, *args: self

    assert paths({"w": Scaled(1, 2)}) == [("w",), ("w", "scale")]
    assert paths({"w": Scaled({"q": 1, "r": 0}, 2)}) == [("w", "q"), ("w", "r"), ("w", "scale")]


# --- errors ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("where", "advice"),
    [
        ("kernel", "'kernel' selects no leaf. Patterns are anchored at the root of the tree, and "
                   "what matches is deeper. Did you mean '**/kernel', which is 'Dense_1/kernel', "
                   "'Dense_10/kernel', 'attn/head/kernel' and 1 more?"),
        ("head/kernle", "Did you mean 'head/kernel'?"),
        ("dense_1/bias", "Did you mean 'Dense_1/bias' or 'Dense_10/bias'?"),
        ("Dense_2", "Did you mean 'Dense_1' or 'Dense_10'?"),
        ("**/baias", "Did you mean '**/bias'?"),
        ("kernal", "Did you mean '**/kernel'?"),
        ("attn/hd/kernel", "Did you mean 'attn/head/kernel'?"),
        ("params/head", "Did you mean 'head'?"),
        ("/head/", "Did you mean 'head'?"),
        ("head.kernel", "Did you mean 'head/kernel'?"),
        ("head/bias", "Did you mean 'head/kernel'?"),
        ("head/kernel/w", "Did you mean 'head/kernel'?"),
        ("Dense_1/kernels/bias", "Did you mean 'Dense_1/kernel' or 'Dense_1/bias'?"),
        ("**/attn/bias", "Did you mean 'attn/head', "),
        ("!head", "A pattern has no 'not': write all_but('head')."),
        ("{head,attn}", "A pattern has no 'or': give a list of patterns"),
        ("head,attn", "A pattern has no 'or'"),
        (".*/kernel", "For a regular expression give re.compile(...)"),
        (r"head\.kernel", "For a regular expression"),
        ("(head|attn)/x", "For a regular expression"),
        ("zzz", "The paths begin with 'Dense_1', 'Dense_10', 'attn' and 'head'."),
        ("zzz*", "The paths begin with"),
        (re.compile("kernel"), "re.compile('kernel') selects no leaf. It must match the whole path "
                               "of a leaf; the closest are 'Dense_1/kernel', 'Dense_10/kernel'"),
        (re.compile("hed/kernl"), "the closest are 'head/kernel'"),
        (["head", "Dense_2"], "'Dense_2' selects no leaf."),
        (["hed", "head", "tail"], "'hed' selects no leaf."),
        (re.compile("(.*)kernel(s)"), "the closest are"),
        (jax.tree.map(lambda _: False, PARAMS), "a tree of bools selects no leaf. The paths are "),
    ],
)  # fmt: skip
def test_what_selects_nothing_is_an_error_that_names_the_closest(where, advice):
    with pytest.raises(ValueError, match=re.escape(advice)):
        select(PARAMS, where)


@pytest.mark.parametrize(
    "where",
    ["kernel", "head/kernle", "dense_1/bias", "**/baias", "params/head", "head.kernel", "/head/",
     "!head", "!**/bias", ("kernel",), ("head/kernel",), ("head", "attn"), ("Dense_*",)],
)  # fmt: skip
def test_what_is_advised_selects_something(where):
    with pytest.raises(ValueError) as caught:
        select(PARAMS, where)
    pattern = r"(?:Did you mean|write|is a list:) (all_but\(.*?\)|\[.*?\]|\(.*?\)|'.*?')"
    assert chosen(PARAMS, eval(re.search(pattern, str(caught.value)).group(1)))


@pytest.fixture(scope="module")
def state():
    layers = [nnx.Linear(2, 3, rngs=nnx.Rngs(0)), nnx.Linear(3, 1, rngs=nnx.Rngs(1))]
    return nnx.state(nnx.Sequential(*layers))


@pytest.fixture(scope="module")
def raw(state, tmp_path_factory):
    import orbax.checkpoint

    folder = tmp_path_factory.mktemp("orbax") / "state"
    with orbax.checkpoint.StandardCheckpointer() as checkpointer:
        checkpointer.save(folder, state)
    with orbax.checkpoint.StandardCheckpointer() as checkpointer:
        return checkpointer.restore(folder)


class TestOrbax:
    """What Orbax restores of an NNX state without being told of its structure."""

    def test_selections(self, state, raw):
        assert paths(raw)[0] == ("layers", "0", "bias", "value")
        both = ["layers/0/bias/value", "layers/0/kernel/value"]
        for where in ("layers/0", ("layers", "0"), select(state, "layers/0"), "layers/0/*"):
            assert chosen(raw, where) == both
        assert chosen(raw, "**/kernel") == ["layers/0/kernel/value", "layers/1/kernel/value"]
        assert chosen(state, select(raw, "layers/0")) == ["layers/0/bias", "layers/0/kernel"]
        with pytest.raises(ValueError, match="closest are .* one level deeper, in 'value'"):
            select(raw, re.compile(".*/kernel"))

    def test_a_restore_where_a_state_is_due(self, state, raw):
        key = jax.random.key(0)
        with pytest.raises(ValueError, match="'layers/0/bias/value', one level deeper") as caught:
            flax_inits.reinit(key, state, "layers/0", init_fn=lambda key: raw)
        advice = re.search(r"take (jax.*)\.$", str(caught.value)).group(1)
        bare = eval(advice, {"jax": jax, "tree": raw})
        new = flax_inits.reinit(key, state, "layers/0", init_fn=lambda key: bare)
        assert (new["layers"][0]["kernel"][...] == state["layers"][0]["kernel"][...]).all()

    def test_what_was_not_restored(self, state):
        partial = {"a": ..., "b": jnp.ones(2)}
        assert paths(partial) == [("a",), ("b",)] and chosen(partial, "a") == ["a"]
        kept = flax_inits.reinit(jax.random.key(0), partial, {"b": flax_inits.zeros()})
        assert kept["a"] is ...
        with pytest.raises(ValueError, match="'a', .* a placeholder of Orbax for an array"):
            flax_inits.reinit(jax.random.key(0), partial, {"*": flax_inits.zeros()})


def test_a_callable_that_selects_nothing_is_named():
    def frozen(path, leaf):
        return False

    message = r"frozen selects no leaf. The paths are 'Dense_1/bias', .* and 1 more"
    with pytest.raises(ValueError, match=message):
        select(PARAMS, frozen)


def test_messages_name_three_paths_and_count_the_rest():
    tree = dict.fromkeys("abcde", 1.0)
    with pytest.raises(ValueError, match=r"closest are 'a', 'b', 'c' and 2 more\.$"):
        select(tree, re.compile("[a-e](?=x)|(?!)x"))
    with pytest.raises(ValueError, match=r"it has 'a', 'b', 'c' and 2 more besides\."):
        select({"z": 1.0}, {"z": True, **dict.fromkeys("abcde", True)})
    with pytest.raises(ValueError, match=r"it lacks 'a', 'b', 'c' and 2 more\."):
        select({"z": 1.0, **tree}, {"z": True})


def test_what_is_deeper_is_named():
    state = {"params": {"head": {"bias": 1.0}}, "mu": {"head": {"bias": 1.0}}, "n": 1}
    with pytest.raises(ValueError, match=r"'\*\*/head', which is 'mu/head' and 'params/head'\?"):
        select(state, "head")


def test_suggestions_escape_what_a_pattern_would_read():
    with pytest.raises(ValueError, match=re.escape("Did you mean 'e[[]0]'?")):
        select({"e[0]": 1, "f": 2}, "e[0]")
    with pytest.raises(ValueError, match=re.escape("Did you mean 'layer[[]7]/w'?")):
        select({"layer[7]": {"w": 1}}, "layer_7/w")


def test_a_tree_without_leaves():
    with pytest.raises(ValueError, match="'head' selects no leaf. The tree has no leaves."):
        select({"head": {}, "x": None}, "head")


@pytest.mark.parametrize(
    ("where", "error", "text"),
    [
        ("", ValueError, "The pattern is empty and would select nothing; '**' selects every leaf."),
        ([], ValueError, "where is an empty list, which would select nothing."),
        (["head", []], ValueError, "where is an empty list"),
        (["head", ""], ValueError, "The pattern is empty"),
        (None, TypeError, "where must be a glob string, a compiled regular expression, a callable "
                          "(path, leaf) -> bool, a tree of bools, of_type(...), a path (a tuple "
                          "of strings), all_but(...), or a list of these; got None (NoneType)."),
        (3, TypeError, "got 3 (int)."),
        (True, TypeError, "got True (bool)."),
        ([True, False], TypeError, "got True (bool)."),
        (b"head", TypeError, "got b'head' (bytes)."),
        ({"head"}, TypeError, "got {'head'} (set)."),
        (np.ones(3), TypeError, "got ndarray float64[3]."),
        (re.compile(b"head"), TypeError, "is made from str, got re.compile(b'head')."),
        (("head", re.compile("x")), TypeError, "where is a tuple and so taken for a tree of bools"),
        (("head", re.compile("x")), TypeError, "is a list: write ['head', re.compile('x')]."),
        (("layers", 0, "w"), TypeError, "of a path are strings: write ('layers', '0', 'w')."),
        ({"head": 1}, TypeError, "where is a dict and so taken for a tree of bools, but its leaf "
                                 "'head' is 1 (int)."),
        ({"head": np.ones(2, bool)}, TypeError, "leaf 'head' is ndarray bool[2]."),
        ({"head": True}, ValueError, "another structure than the tree: it lacks 'Dense_1/bias', "
                                     "'Dense_1/kernel', 'Dense_10/bias' and 3 more and has 'head' "
                                     "besides. Make it with select(tree, ...)"),
        ({}, ValueError, "another structure than the tree: it lacks"),
        (nn.Dense, TypeError, "where is the class Dense; to select by the type of module, write "
                              "of_type(model, Dense, *inputs)."),
        (nn.Dense(3), TypeError, "where is a module of class Dense; to select by"),
        (lambda path, leaf: None, TypeError, "returned None (NoneType) for 'Dense_1/bias'."),
        (lambda path, leaf: 1, TypeError, "where must return a bool, but "),
        (lambda path, leaf: jnp.ones(2) > 0, TypeError, "returned ArrayImpl bool[2] for"),
    ],
)  # fmt: skip
def test_wrong_wheres(where, error, text):
    with pytest.raises(error, match=re.escape(text)):
        select(PARAMS, where)
    names, leaves, _ = flatten(PARAMS)
    with pytest.raises(error, match=re.escape(text)):
        matches(where, names, leaves, PARAMS)


def test_a_traced_verdict_is_an_error():
    with pytest.raises(TypeError, match=r"returned \w*Tracer bool\[\] for 'a'"):
        jax.jit(lambda tree: select(tree, lambda path, leaf: leaf > 0))({"a": 1.0})


def test_an_exception_of_the_users_own_passes_with_the_path_added():
    def ratio(path, leaf):
        return 1 / leaf > 0

    with pytest.raises(ZeroDivisionError) as caught:
        select(PARAMS, ratio)
    assert re.search(r"while .*ratio was asked about 'Dense_1/bias'", caught.value.__notes__[-1])


def test_a_mask_with_ambiguous_paths_is_compared_in_order():
    twins = {"a": {"0": 1}, "b": 2}
    assert select(twins, {"a": [True], "b": False}) == {"a": {"0": True}, "b": False}


def test_describe():
    assert describe("a/*") == "'a/*'"
    assert describe(re.compile("a.*")) == "re.compile('a.*')"
    assert describe(["a", [re.compile("b")]]) == "['a', [re.compile('b')]]"
    assert describe(chosen) == "chosen"
    assert describe({"a": True}) == "a tree of bools"
    assert describe(functools.partial(chosen, 1)).startswith("functools.partial(")


def test_nothing_selected_names_the_rule_and_its_parts():
    error = nothing_selected(["hed", "x"], paths(PARAMS), PARAMS)
    assert isinstance(error, ValueError)
    assert str(error) == (
        "['hed', 'x'] selects no leaf. 'hed' selects no leaf. Did you mean 'head'?"
    )


# --- properties ------------------------------------------------------------------------------

NAMES = st.sampled_from(["a", "b", "ab", "ba", "a/b", "a[0]", "*", "A", ""])
PARTS = st.sampled_from(
    ["**", "*", "?", "a", "b", "ab", "a*", "*b", "?*?", "[ab]", "[!a]*", "a[[]0]", "[*]", "a[0]"]
)
PATTERNS = st.lists(PARTS, min_size=1, max_size=4).map("/".join)
TREES = st.recursive(
    st.integers() | st.none(),
    lambda inner: st.dictionaries(NAMES, inner, max_size=3) | st.lists(inner, max_size=2),
    max_leaves=12,
)


def slow_segment(part, name):
    """Character by character, by trying every possibility."""
    if not part:
        return not name
    if part[0] == "*":
        return any(slow_segment(part[1:], name[skip:]) for skip in range(len(name) + 1))
    if part[0] == "[" and "]" in part[2:]:
        end = part.index("]", 2)
        members = part[1:end]
        negated = members.startswith("!")
        hit = name[:1] != "" and ((name[0] in members.lstrip("!")) != negated)
        return hit and slow_segment(part[end + 1 :], name[1:])
    hit = name[:1] != "" and (part[0] == "?" or part[0] == name[0])
    return hit and slow_segment(part[1:], name[1:])


def slow_match(parts, path):
    if not parts:
        return True  # what matches a node selects all below it
    if parts[0] == "**":
        return any(slow_match(parts[1:], path[skip:]) for skip in range(len(path) + 1))
    return bool(path) and slow_segment(parts[0], path[0]) and slow_match(parts[1:], path[1:])


@pytest.mark.slow
@settings(deadline=None, max_examples=300)
@given(TREES, PATTERNS)
def test_globs_agree_with_a_slow_matcher(tree, pattern):
    names, leaves, _ = flatten(tree)
    expected = [slow_match(pattern.split("/"), path) for path in names]
    assert matches(pattern, names, leaves, tree) == expected


@pytest.mark.slow
@settings(deadline=None, max_examples=300)
@given(TREES, PATTERNS, PATTERNS)
def test_unions_only_add_and_structures_stay(tree, first, second):
    names, leaves, treedef = flatten(tree)
    one, other = (matches(pattern, names, leaves, tree) for pattern in (first, second))
    both = matches([first, second], names, leaves, tree)
    assert both == [a or b for a, b in zip(one, other, strict=True)]
    if any(one):
        mask = select(tree, first)
        assert jax.tree.structure(mask) == treedef
        assert select(tree, mask) == mask
        assert select(tree, [first, mask]) == mask
    else:
        with pytest.raises(ValueError, match="selects no leaf"):
            select(tree, first)


@settings(deadline=None)
@given(TREES)
def test_paths_and_leaves_go_together(tree):
    names, leaves, treedef = flatten(tree)
    assert len(names) == len(leaves) == treedef.num_leaves
    assert treedef.unflatten(leaves) == tree
    boxed = jax.tree.map(lambda leaf: nn.Partitioned(leaf, ()), tree)
    assert paths(boxed) == names


@settings(deadline=None)
@given(TREES)
def test_every_leaf_can_be_suggested_by_its_own_pattern(tree):
    from flax_inits._tree.globs import escaped

    names, leaves, _ = flatten(tree)
    for position, path in enumerate(names):
        if path and escaped(path):
            assert matches(escaped(path), names, leaves, tree)[position]


def test_dataclasses_registered_with_jax():
    @functools.partial(jax.tree_util.register_dataclass, data_fields=["w"], meta_fields=["name"])
    @dataclasses.dataclass
    class Layer:
        w: object
        name: str

    assert paths({"l": Layer(1, "n")}) == [("l", "w")]
    assert select({"l": Layer(1, "n")}, "l/w") == {"l": Layer(True, "n")}
