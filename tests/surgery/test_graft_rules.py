"""Graft by rules: which leaf comes from where, and every way in which asking can be wrong."""

import logging
import re

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp
import pytest
from flax import nnx
from flax.core import freeze
from flax.traverse_util import unflatten_dict
from hypothesis import given
from hypothesis import strategies as st

import flax_inits as fi
from flax_inits import cast, concatenate, cut, grow, stack, take, transpose, unstack


def numbered(*paths):
    """A flat tree whose leaves tell where they come from."""
    return {path: np.full(2, i, np.float32) for i, path in enumerate(paths)}


def blank(*paths):
    return {path: jnp.full(2, -1.0) for path in paths}


def nested(flat):
    return jax.tree.map(jnp.asarray, unflatten_dict(flat, sep="/"))


def renamed(targets, donors, rules, **options):
    """For each path of the target, the path of the donor that it was taken from."""
    after = fi.graft(nested(blank(*targets)), numbered(*donors), rules, **options)
    flat = dict(zip(map("/".join, fi.paths(after)), jax.tree.leaves(after), strict=True))
    return {path: donors[int(leaf[0])] for path, leaf in flat.items() if leaf[0] >= 0}


RENAMES = {
    "a subtree": (["head/w", "head/b"], ["cls/w", "cls/b"], {"head": "cls"}, {}),
    "segments": (
        ["enc/block_0/a", "enc/block_10/a"],
        ["l/layer_0/a", "l/layer_10/a"],
        {"enc/block_*/**": "l/layer_*/**"},
        {"enc/block_10/a": "l/layer_10/a"},
    ),
    "what is below is appended": (
        ["enc/block_3/x/y"],
        ["l/3/x/y"],
        {"enc/block_*": "l/*"},
        {"enc/block_3/x/y": "l/3/x/y"},
    ),
    "two in a segment": (["b_1_2/w"], ["1.x.2.w"], {"b_*_*/w": "*.x.*.w"}, {}),
    "kinds are counted apart": (
        ["a/b/c/k_7/w"],
        ["7/a/b/c/w"],
        {"**/k_*/w": "*/**/w"},
        {"a/b/c/k_7/w": "7/a/b/c/w"},
    ),
    "`**` is short, leftmost first": (
        ["a/x/b/x/w"],
        ["p/a/q/b/x/w"],
        {"**/x/**": "p/**/q/**"},
        {},
    ),
    "a class and a mark": (
        ["l1/w", "lz/w"],
        ["1/w", "z/w"],
        {"l[0-9]/w": "*/w", "l?/w": "?/w"},
        {},
    ),
    "an escape is no wildcard": (["a*/k_1/w"], ["b/1/w"], {"a[*]/k_*/w": "b/*/w"}, {}),
    "groups": (
        ["dec/3/x/y"],
        ["h/3/x/y"],
        {re.compile(r"dec/(\d+)/(.*)"): r"h/\1/\2"},
        {},
    ),
    "named groups": (
        ["dec/3/x/y"],
        ["y.x.3"],
        {re.compile(r"dec/(?P<n>\d+)/(\w+)/(\w+)"): r"\3.\2.\g<n>"},
        {},
    ),
    "a function": (
        ["up/0/w", "up/1/w", "up/2/w"],
        ["up/0/w", "up/1/w"],
        {"up": lambda path: ("up", str(min(int(path[1]), 1)), *path[2:])},
        {"up/2/w": "up/1/w", "up/1/w": "up/1/w"},
    ),
    "a literal path": (["a*/w"], ["b/w"], {("a*",): "b"}, {}),
    "all_but": (["a/w", "head/w"], ["a/w"], {fi.all_but("head"): "**"}, {"a/w": "a/w"}),
    "all_but a list": (
        ["a/w", "b/w", "head/w"],
        ["a/w"],
        {fi.all_but(["head", "b"]): "**"},
        {"a/w": "a/w"},
    ),
    "pairs": (
        ["a/w", "b/w", "c/w"],
        ["a/w", "b/w", "x/w"],
        [(["a", "b"], take("**")), ("c", "x")],
        {"a/w": "a/w", "c/w": "x/w"},
    ),
    "the first match wins": (
        ["a/w", "a/b"],
        ["x/w", "y/b"],
        {"a/w": "x/w", "a": "y"},
        {"a/w": "x/w", "a/b": "y/b"},
    ),
    "one leaf for many": (["a/w", "b/w"], ["x"], {"*/w": "x"}, {"a/w": "x", "b/w": "x"}),
}


@pytest.mark.parametrize("case", RENAMES)
def test_renaming(case):
    targets, donors, rules, want = RENAMES[case]
    found = renamed(targets, donors, rules)
    assert found == (want | {k: v for k, v in found.items() if k not in want})
    assert set(found) >= set(want) and (want or set(found.values()) == set(donors))


def test_renames_are_not_chained():
    """One rule's result is no other's target: a and b are exchanged, not merged."""
    assert renamed(["a/w", "b/w"], ["a/w", "b/w"], {"a": "b", "b": "a"}) == {
        "a/w": "b/w",
        "b/w": "a/w",
    }


def test_twelve_layers_in_natural_order():
    donor = {f"layer_{i}/w": np.full(3, i, np.float32) for i in range(12)}
    params = {"layers": {"w": jnp.zeros((12, 3))}}
    rules = {"layers/**": take("layer_*/**", stack(axis=0))}
    after = fi.graft(params, donor, rules)
    assert after["layers"]["w"][:, 0].tolist() == list(range(12))
    (row,) = fi.graft_plan(params, donor, rules).rows
    assert row.sources == tuple((f"layer_{i}", "w") for i in range(12))
    back = fi.graft(nested(donor), after, {"layer_*/**": take("layers/**", unstack(axis=0))})
    assert all(back[f"layer_{i}"]["w"][0] == i for i in range(12))


def test_a_shadowed_slice_moves_no_other():
    params = {f"l_{i}": jnp.zeros(2) for i in range(3)}
    donor = {"l": np.array([[0, 0], [1, 1], [2, 2]], "f"), "other": np.full(2, 7, "f")}
    after = fi.graft(params, donor, {"l_1": "other", "l_*": take("l", unstack(axis=0))})
    assert [int(after[f"l_{i}"][0]) for i in range(3)] == [0, 7, 2]


def test_the_first_layers_of_a_stack():
    params = {f"l_{i}": jnp.zeros(2) for i in range(2)}
    donor = {"l": np.array([[0, 0], [1, 1], [2, 2]], "f")}
    rules = {"l_*": take("l", cut(axis=0, size=2), unstack(axis=0))}
    assert fi.graft(params, donor, rules)["l_1"].tolist() == [1, 1]


def test_query_key_and_value_in_the_order_given():
    random = np.random.default_rng(0)
    parts = {n: random.normal(size=(4, 2)).astype("f") for n in "qkv"}
    donor = {f"h.{i}.{n}.weight": part + i for i in range(11) for n, part in parts.items()}
    params = {"qkv": {"kernel": jnp.zeros((11, 2, 12))}}
    sources = [f"h.*.{n}.weight" for n in "qkv"]
    rules = {
        "qkv/kernel": take(sources, transpose(1, 0), concatenate(axis=-1), stack(axis=0)),
    }
    after = fi.graft(params, donor, rules)["qkv"]["kernel"]
    for i in range(11):
        want = np.concatenate([donor[f"h.{i}.{n}.weight"].T for n in "qkv"], axis=-1)
        np.testing.assert_array_equal(after[i], want)
    thirds = {
        f"{n}_{i}": take("qkv", cut(-1, start=4 * j, size=4), unstack(0), transpose(1, 0))
        for j, n in enumerate("qkv")
        for i in "*"
    }
    split = {f"{n}_{i}": jnp.zeros((4, 2)) for n in "qkv" for i in range(11)}
    back = fi.graft(split, {"qkv": after}, thirds)
    np.testing.assert_array_equal(back["k_10"], donor["h.10.k.weight"])


def test_which_wildcard_is_joined():
    donor = {f"s_{j}/layer_{i}/w": np.full(2, 10 * j + i, "f") for i in range(3) for j in range(2)}
    params = {f"s_{j}": {"layers": {"w": jnp.zeros((3, 2))}} for j in range(2)}
    after = fi.graft(params, donor, {"s_*/layers/**": take("s_*/layer_*/**", stack(axis=0))})
    assert after["s_1"]["layers"]["w"][:, 0].tolist() == [10, 11, 12]
    unclear = {"s_*/layers/**": take("*/layer_*/**", stack(axis=0))}
    with pytest.raises(ValueError, match="unclear which wildcard of.*write a regular expression"):
        fi.graft(params, donor, unclear)
    groups = {re.compile(r"s_(\d)/layers/(.*)"): take(r"s_\1/layer_*/\2", stack(axis=0))}
    again = fi.graft(params, donor, groups)
    assert all((a == b).all() for a, b in zip(*map(jax.tree.leaves, (after, again)), strict=True))


@pytest.mark.parametrize(
    "rules, match",
    [
        ({}, "No rules were given"),
        ({"a": "x", "c": "x"}, "'c' selects no leaf"),
        ({"a/*": "x/*", "a/w": "y"}, "rule for 'a/w' wins no leaf.*rule for 'a/\\*', which comes"),
        ({"a": "z"}, "no leaf at 'z/w', which 'a' takes for 'a/w'"),
        ({"a": "y/q"}, "no leaf at 'y/q/w'"),
        ({"a/w": "x"}, "no leaf at 'x', which.*below it, such as 'x/w': end both sides in"),
        ({"a": "x/w"}, "no leaf at 'x/w/w'.*It has a leaf at 'x/w'"),
        (
            {"a": "*"},
            r"'\*' has 1 wildcards within segments, but 'a' has 0.*Only.*take\('\*', stack\(",
        ),
        ({"a": "**"}, r"'\*\*' has more '\*\*' than 'a'"),
        ({"a": take("*/*", stack(axis=0))}, "has 2 wildcards within segments, but 'a' has 0"),
        ({"a": take("q_*", stack(axis=0))}, r"no leaf at 'q_\*/w'"),
        ({re.compile("a/(.*)"): r"x/\2"}, r"refers to the group '2', which re.compile"),
    ],
)
def test_rules_that_are_wrong(rules, match):
    with pytest.raises(ValueError, match=match):
        fi.graft({"a": {"w": jnp.ones(2)}}, numbered("x/w", "y/w"), rules)


@pytest.mark.parametrize(
    "source, match",
    [
        (3, "has 3 where a source must be: a pattern over the donor's paths"),
        (fi.zeros(), r"of the target's path alone, got zeros\(\).*belongs into reinit, or grow\("),
        (jax.nn.initializers.ones, "of the target's path alone, got <function ones"),
        (lambda: "x", "of the target's path alone, got <function <lambda>"),
        (grow(axis=0), r"write take\(source, grow\(axis=0\)\)"),
        (["x", "y"], "several are joined by take"),
        ({"w": "x"}, r"rules do not nest: write \{'a/w': ...\}"),
        (grow, "where a source must be"),
        (lambda path: 3, "must return the donor's path, a tuple of strings, for 'a/w', got 3"),
    ],
)
def test_sources_of_another_type(source, match):
    with pytest.raises(TypeError, match=match):
        fi.graft({"a": {"w": jnp.ones(2)}}, numbered("x/w"), {"a": source})


@pytest.mark.parametrize(
    "rules, error, match",
    [
        (None, TypeError, r"needs rules, \{where: source\}, or a single where.*got None"),
        (take("x"), TypeError, r"needs rules.*got take\('x'\)"),
        (grow(axis=0), TypeError, r"needs rules.*got grow\(axis=0\)"),
        (("a", take("x")), TypeError, r"One rule is written \{where: source\}; got \('a', take"),
        ([("a", take("x"), "y")], ValueError, r"A rule is a pair \(where, source\), got \('a', ta"),
        ([("a", "x")], ValueError, r"these are paths; rules for them are a mapping, \{'a': 'x'\}"),
        ({"a": fi.normal(1)}, TypeError, r"got normal\(1\)\. .*while the rule for 'a' was read"),
        ({"a": lambda path: 1 / 0}, ZeroDivisionError, "was asked for the donor's path of 'a/w'"),
    ],
)
def test_what_is_no_rules(rules, error, match):
    with pytest.raises(error) as caught:
        fi.graft({"a": {"w": jnp.ones(2)}}, numbered("x/w"), rules)
    text = "".join([str(caught.value), *getattr(caught.value, "__notes__", [])])
    assert re.search(match, text)


def test_a_mask_is_no_mapping_of_rules():
    params, donor = {"a": jnp.ones(2), "b": jnp.ones(2)}, {"a": jnp.zeros(2), "b": jnp.zeros(2)}
    for mask in ({"a": True, "b": False}, {"a": np.bool_(True), "b": jnp.asarray(False)}):
        after = fi.graft(params, donor, mask)
        assert (after["a"] == 0).all() and after["b"] is params["b"]
    with pytest.raises(TypeError, match="The rule for 'b' has False where a source must be"):
        fi.graft(params, donor, {"a": "a", "b": False})


def test_a_list_is_a_union():
    params = nested(blank("a/w", "b/w", "c/w"))
    after = fi.graft(params, numbered("a/w", "b/w", "c/w"), ["a", ("b", "w")])
    assert [int(after[n]["w"][0]) for n in "abc"] == [0, 1, -1]


def test_unselected_leaves_are_the_same_objects():
    params = nested(blank("a/w", "b/w"))
    after = fi.graft(params, numbered("x/w"), {"a": "x"})
    assert after["b"]["w"] is params["b"]["w"] and jax.tree.structure(after) == jax.tree.structure(
        params
    )


def test_leaves_that_nobody_takes():
    params, donor = nested(blank("a/w")), numbered("a/w", "cls/w", "cls/b", "pooler")
    with pytest.raises(ValueError, match="No rule takes 'cls/b', 'cls/w' and 'pooler' of the"):
        fi.graft(params, donor, {"a": "a"})
    with pytest.raises(ValueError, match="No rule takes 'pooler' of the donor.*unused='ignore'"):
        fi.graft(params, donor, {"a": "a"}, drop="cls")
    with pytest.raises(ValueError, match="In drop, 'cls/x' selects no leaf.*Did you mean 'cls/"):
        fi.graft(params, donor, {"a": "a"}, drop=["cls/x", "pooler"])
    with pytest.raises(ValueError, match="drop names 'a/w' of the donor, which.*'a' takes: leave"):
        fi.graft(params, donor, {"a": "a"}, drop=["cls", "pooler", "**/w"])
    with pytest.raises(ValueError, match="No rule takes"):
        fi.graft(params, donor, {"a": "a"}, drop=[])
    for options in ({"unused": "ignore"}, {"drop": ["cls", "pooler"]}):
        assert fi.graft(params, donor, {"a": "a"}, **options)["a"]["w"][0] == 0
    assert fi.graft(params, donor, "a")["a"]["w"][0] == 0
    with pytest.raises(ValueError, match="unused must be 'error' or 'ignore', got 'ingore'"):
        fi.graft(params, donor, {"a": "a"}, unused="ingore")


def test_random_keys_and_counters_are_never_unused():
    donor = numbered("a/w") | {
        "rng": jax.random.key(0),
        "legacy": jax.random.PRNGKey(0),
        "step": np.int64(3),
        "n": 4,
    }
    assert fi.graft(nested(blank("a/w")), donor, {"a": "a"})["a"]["w"][0] == 0
    plan = fi.graft_plan(nested(blank("a/w")), donor, {"a": "a"})
    assert [row.use for row in plan.rows] == ["taken"] + ["not needed"] * 4


def test_load_what_fits_and_be_told_the_rest(caplog):
    params = {"body": {"w": jnp.ones((2, 2))}, "head": {"w": jnp.ones((2, 10)), "new": jnp.ones(1)}}
    donor = {"body": {"w": np.zeros((2, 2), "f")}, "head": {"w": np.zeros((2, 5), "f")}}
    with pytest.raises(ValueError, match="mismatch='keep' leaves such leaves as they are"):
        fi.graft(params, donor, {"**": "**"})
    with caplog.at_level(logging.WARNING, "flax_inits"):
        after = fi.graft(params, donor, {"**": "**"}, mismatch="keep")
    assert (after["body"]["w"] == 0).all() and after["head"]["w"] is params["head"]["w"]
    (line,) = caplog.messages
    assert line == ("graft left 2 leaves as they are: head/new (no source), head/w (other shape)")
    plan = fi.graft_plan(params, donor, {"**": "**"}, mismatch="keep")
    assert {row.path[-1]: row.use for row in plan.rows[1:]} == {
        "new": "kept: no source",
        "w": "kept: other shape",
    }
    with pytest.raises(ValueError, match="No leaf of the donor fits, so nothing would be taken"):
        fi.graft(params, donor, {"head": "head"}, mismatch="keep", unused="ignore")
    donor["body"]["w"] = donor["body"]["w"].astype(jnp.bfloat16)
    with pytest.raises(ValueError, match="is bfloat16"):
        fi.graft(params, donor, {"**": "**"}, mismatch="keep")


FIT = {
    "a bfloat16 donor": ((2,), np.zeros(2, jnp.bfloat16), r"\{'b': take\('a', cast\(\)\)\} conv"),
    "floats in integers": (
        None,
        np.zeros(2, "f"),
        "is float32, but the tree holds int32 at 'b', wh",
    ),
    "one class is not two": ((2,), np.zeros(1, "f"), r"grow\(axis=0, init=...\)"),
    "a scalar is no vector": ((2,), np.zeros((), "f"), r"shape \(\), but .*tile\(axis=0\)"),
    "fewer": ((2, 3), np.zeros((2, 5), "f"), r"cut\(axis=1\)"),
    "turned": ((2, 3), np.zeros((3, 2), "f"), r"transpose\(1, 0\)"),
    "heads": ((4, 2, 3), np.zeros((4, 6), "f"), r"reshape\(4, 2, 3\)"),
    "layers": ((5, 3), np.zeros(3, "f"), r"tile\(axis=0\)"),
    "a layer": ((3,), np.zeros((5, 3), "f"), r"unstack\(axis=0\)"),
    "nothing fits": ((5, 7), np.zeros((2, 3, 4), "f"), r"shape \(5, 7\) at 'b'. mismatch="),
}


@pytest.mark.parametrize("case", FIT)
def test_what_does_not_fit_names_the_adapter_that_does(case):
    shape, donor, match = FIT[case]
    target = jnp.zeros(2, int) if shape is None else jnp.zeros(shape)
    with pytest.raises(ValueError, match=match):
        fi.graft({"b": target}, {"a": donor}, {"b": "a"})


def test_a_table_is_never_cut_by_itself():
    """The tokenizer was shorter than the padded table."""
    params, donor = {"wte": jnp.zeros((50, 4))}, {"wte": np.ones((64, 4), "f")}
    for rules in ({"wte": "wte"}, {"wte": take("wte", grow(axis=0))}, "wte"):
        with pytest.raises(ValueError, match=r"cut\(axis=0\)"):
            fi.graft(params, donor, rules)


def test_a_bias_must_grow_with_its_head():
    params = {"head": {"kernel": jnp.zeros((4, 6)), "bias": jnp.zeros(6)}}
    donor = {"head": {"kernel": np.ones((4, 5), "f"), "bias": np.ones(5, "f")}}
    with pytest.raises(ValueError, match=r"'head/bias' has shape \(5,\).*grow\(axis=0"):
        fi.graft(params, donor, {"head/kernel": take("head/kernel", grow(-1)), "**": "**"})
    after = fi.graft(params, donor, {"head/*": take("head/*", grow(axis=-1))})["head"]
    assert after["bias"].tolist() == [1] * 5 + [0]


def test_a_donor_is_read_before_anything_is_wrong():
    class Untouched(np.ndarray):
        def __getitem__(self, index):
            raise AssertionError("was read")

    donor = {"a": np.zeros(2, "f").view(Untouched), "b": np.zeros(3, "f")}
    with pytest.raises(ValueError, match="shape"):
        fi.graft(blank("a", "b"), donor, {"a": "a", "b": "b"})
    fi.graft_plan(blank("a"), donor, {"a": take("a", lambda a: a * 2)}, drop="b")


def test_grow_needs_a_key_or_values():
    params, donor = {"w": jnp.ones(4)}, {"w": np.zeros(2, "f")}
    with pytest.raises(ValueError, match=r"init=normal\(0.02\)\) draws values for 'w': give.*key"):
        fi.graft(params, donor, {"w": take("w", grow(axis=0, init=fi.normal(0.02)))})
    with pytest.raises(ValueError, match="is abstract and has none: give grow an init"):
        fi.graft(jax.eval_shape(lambda: params), donor, {"w": take("w", grow(axis=0))})
    with pytest.raises(TypeError, match="key"):
        fi.graft(params, donor, {"w": take("w", grow(axis=0))}, key="key")


def test_parts_of_leaves():
    params, donor = {"emb": jnp.zeros((4, 2))}, {"wte": np.ones((4, 2), "f")}
    for rules in ({fi.at("emb", [0, -1]): "wte"}, {fi.at("emb", slice(0, 4, 3)): "wte"}):
        assert fi.graft(params, donor, rules)["emb"][:, 0].tolist() == [1, 0, 0, 1]
    after = fi.graft(params, {"emb": np.ones((4, 2), "f")}, [fi.at("emb", 1, axis=1)])
    assert after["emb"][0].tolist() == [0, 1]


@pytest.mark.parametrize("form", ["dict", "frozen", "boxed", "state", "list", "abstract", "numpy"])
def test_targets(form):
    params = {"a": [jnp.zeros(2), jnp.zeros(2)]}
    if form == "frozen":
        params = freeze(params)
    if form == "boxed":
        params = jax.tree.map(lambda leaf: nn.Partitioned(leaf, ("x",)), params)
    if form == "state":
        params = nnx.State({"a": {i: nnx.Param(jnp.zeros(2)) for i in range(2)}})
    if form == "list":
        params = [params["a"]]
    if form == "abstract":
        params = jax.eval_shape(lambda: params)
    if form == "numpy":
        params = {"a": [np.zeros(2, "f")] * 2}
    after = fi.graft(params, numbered("x_0", "x_1"), {re.compile(r".*(\d)"): r"x_\1"})
    assert jax.tree.structure(after) == jax.tree.structure(params)
    assert [float(leaf[0]) for leaf in jax.tree.leaves(after)] == [0, 1]


def test_donors(tmp_path):
    params = nested(blank("a/0/w", "a/1/w"))
    flat = numbered("a/0/w", "a/1/w")
    tuples = {tuple(path.split("/")): leaf for path, leaf in flat.items()}
    integers = {"a": {i: {"w": flat[f"a/{i}/w"]} for i in range(2)}}
    lists = {"a": [{"w": flat[f"a/{i}/w"]} for i in range(2)]}
    values = jax.tree.map(lambda leaf: {"value": leaf}, integers)
    boxes = jax.tree.map(lambda leaf: nn.Partitioned(leaf, ("x",)), integers)
    states = nnx.State(jax.tree.map(nnx.Param, jax.tree.map(jnp.asarray, integers)))
    np.savez(tmp_path / "donor", **flat)
    file = np.load(tmp_path / "donor.npz")
    for donor in (flat, tuples, integers, lists, values, boxes, states, file):
        for rules in ("**", {"a/*/w": "a/*/w"}):
            after = fi.graft(params, donor, rules)
            assert [int(leaf[0]) for leaf in jax.tree.leaves(after)] == [0, 1]


def test_a_level_that_is_the_targets_own_stays():
    params = {"gate": {"value": {"kernel": jnp.zeros(2)}}, "value": jnp.zeros(2)}
    donor = jax.tree.map(lambda leaf: leaf + 1, params)
    assert all((leaf == 1).all() for leaf in jax.tree.leaves(fi.graft(params, donor, "**")))


def test_a_param_called_value_beside_a_module_stays():
    donor = {"gate": {"value": np.ones(2, "f"), "Dense_0": {"bias": np.ones(2, "f")}}}
    params = {"gate": {"scale": jnp.zeros(2), "Dense_0": {"bias": jnp.zeros(2)}}}
    after = fi.graft(params, donor, {"gate/scale": "gate/value", "**/bias": "**/bias"})
    assert all((leaf == 1).all() for leaf in jax.tree.leaves(after))


def test_a_segment_with_a_slash():
    params = {"wn": {"Dense_0/kernel/scale": jnp.zeros(2)}}
    donor = numbered("other", "wn/Dense_0/kernel/scale")
    assert (fi.graft(params, donor, "**")["wn"]["Dense_0/kernel/scale"] == 1).all()


@pytest.mark.filterwarnings("ignore:Sharding info not provided")
def test_what_orbax_restores(tmp_path):
    """A State with integer keys: restored raw, they are strings, with a level `value` below."""
    model = nnx.State({"layers": {i: {"w": nnx.Param(jnp.full(2, float(i)))} for i in range(11)}})
    with ocp.StandardCheckpointer() as checkpointer:
        checkpointer.save(tmp_path / "state", model)
        checkpointer.wait_until_finished()
        donor = checkpointer.restore(tmp_path / "state")
    blanks = jax.tree.map(jnp.zeros_like, model)
    after = fi.graft(blanks, donor, {"layers/**": "layers/**"})
    assert all((after["layers"][i]["w"][...] == i).all() for i in range(11))


def test_tensors_of_another_library():
    class Tensor:
        shape, dtype = (2,), "torch.float32"

        def numpy(self):
            return np.zeros(2, "f")

    with pytest.raises(TypeError, match=r"leaf 'w' is no array, but a Tensor. Give arrays.*numpy"):
        fi.graft({"w": jnp.zeros(2)}, {"w": Tensor()}, {"w": "w"})


@pytest.mark.parametrize(
    "name, match",
    [("item_metadata", r"got Held. Give donor.item_metadata\."), ("other", "arrays, got Held.$")],
)
def test_what_holds_a_tree_and_is_none(name, match):
    held = type("Held", (), {name: None})()
    with pytest.raises(TypeError, match=match):
        fi.graft_plan({"w": jnp.zeros(2)}, held, {"w": "w"})


def test_a_memory_mapped_donor(tmp_path):
    file = np.memmap(tmp_path / "w", np.float32, "w+", shape=(8, 4))
    file[:] = np.arange(32).reshape(8, 4)
    params = {"w": jnp.zeros((4, 8))}
    after = fi.graft(params, {"w": file}, {"w": take("w", transpose(1, 0))})["w"]
    file[:] = 0
    np.testing.assert_array_equal(after, np.arange(32).reshape(8, 4).T)


NAMES = st.lists(st.sampled_from(["a", "b", "c", "d"]), min_size=1, max_size=3).map("/".join)


@given(
    donors=st.sets(NAMES, min_size=1),
    rules=st.lists(st.tuples(NAMES, NAMES), min_size=1, max_size=3),
    drop=st.none() | NAMES,
)
def test_every_leaf_of_the_donor_is_taken_dropped_or_listed(donors, rules, drop):
    """Here a leaf may also be above another: a flat donor is no tree."""
    params = {"a": {"a": jnp.zeros(1), "b": jnp.zeros(1)}, "b": jnp.zeros(1), "c": [jnp.zeros(1)]}
    donor = {name: np.ones(1, "f") for name in sorted(donors)}
    try:
        plan = fi.graft_plan(params, donor, dict(rules), mismatch="keep", drop=drop)
    except ValueError:
        return
    uses = {"taken": set(), "unused": set(), "dropped": set()}
    for row in plan.rows:
        if row.use in uses:
            uses[row.use] |= {"/".join(path) for path in row.sources}
    assert set.union(*uses.values()) == donors
    assert sum(map(len, uses.values())) == len(donors)
    options = {"mismatch": "keep", "drop": drop}
    if uses["unused"]:
        with pytest.raises(ValueError, match="No rule takes"):
            fi.graft(params, donor, dict(rules), **options)
    after = fi.graft(params, donor, dict(rules), unused="ignore", **options)
    taken = [row.path for row in plan.rows if row.use == "taken"]
    for path, leaf in zip(fi.paths(after), jax.tree.leaves(after), strict=True):
        assert bool(leaf[0]) == (path in taken)


def test_a_plan_of_a_large_model_is_linear():
    """Five hundred leaves by fifty rules: no rule looks at each leaf of the donor for each."""
    shape = jax.ShapeDtypeStruct((4096, 4096), jnp.bfloat16)
    donor = {f"model.layers.{i}.{n}.weight": shape for i in range(64) for n in "abcdefgh"}
    params = {n: jax.ShapeDtypeStruct((64, 4096, 4096), jnp.bfloat16) for n in "abcdefgh"}
    rules = {
        n: take(f"model.layers.*.{n}.weight", transpose(1, 0), stack(axis=0)) for n in "abcdefgh"
    }
    plan = fi.graft_plan(params, donor, rules)
    assert [len(row.sources) for row in plan.rows] == [64] * 8
    back = {f"l_{i}": {n: shape for n in "abcdefgh"} for i in range(64)}
    rows = fi.graft_plan(back, params, {"l_*/*": take("*", unstack(axis=0))}).rows
    assert len(rows) == 512 and {row.use for row in rows} == {"taken"}


@pytest.mark.parametrize(
    "names, span",
    [
        (("h.0.attn.w", "h.11.attn.w"), "h.{0 ... 11}.attn.w"),
        (("l_1/w", "l_12/w"), "l_{1 ... 12}/w"),
        (("a", "b"), "{a ... b}"),
        (("h.0.q.w", "h.1.v.w"), "h.{0.q ... 1.v}.w"),
    ],
)
def test_many_sources_are_printed_as_a_span(names, span):
    donor = {names[0]: 0, **{f"other_{i}": 0 for i in range(3)}, names[1]: 0}
    donor = {name: np.zeros(2, "f") for name in donor}
    rules = {"w": take([*donor], stack(axis=0))}
    assert f" {span} (5) " in str(fi.graft_plan({"w": np.zeros((5, 2), "f")}, donor, rules))


def test_the_table_that_a_plan_prints():
    params = {"emb": jnp.zeros((8, 2)), "head": jnp.zeros(3)}
    donor = {"wte": np.zeros((6, 2), jnp.bfloat16), "x": np.zeros(1, "f")}
    plan = fi.graft_plan(params, donor, {"emb": take("wte", grow(axis=0), cast())})
    lines = [line.split() for line in str(plan).splitlines()]
    taken = ["emb", "8×2", "float32", "wte", "6×2", "bfloat16", "grow(axis=0),", "cast()", "taken"]
    assert taken in lines and ["head", "3", "float32", "stays"] in lines
    assert ["x", "1", "float32", "unused"] in lines
    assert str(plan).splitlines()[-1] == "1 taken, 1 stays, 1 unused" and repr(plan) == str(plan)
    assert "<td" in plan._repr_html_()
