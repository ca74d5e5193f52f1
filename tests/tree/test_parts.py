"""Parts of leaves: what an index means, when two are equal, and what is refused."""

import pickle
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import flax_inits as fi
from flax_inits import all_but, at
from flax_inits._tree.parts import spliced
from flax_inits._tree.paths import flatten
from flax_inits._tree.selection import selected_parts

KEY = jax.random.key(0)
TREE = {"e": np.zeros((6, 3), np.float32), "head": {"kernel": np.zeros((3, 6), np.float32)}}


def rows(where, tree=TREE):
    """The slices that are chosen of each leaf, by path and axis."""
    names, leaves, _ = flatten(tree)
    found = selected_parts(where, names, leaves, tree)
    return {
        "/".join(names[i]): None if part is None else (part.axis, np.flatnonzero(part.chosen))
        for i, part in found.items()
    }


@pytest.mark.parametrize(
    ("index", "expected"),
    [
        (2, [2]),
        (-1, [5]),
        (np.int32(3), [3]),
        (jnp.asarray(3), [3]),
        ([4, 1], [1, 4]),
        ((0, -6), [0]),
        (range(3), [0, 1, 2]),
        (np.array([1, 5]), [1, 5]),
        (jnp.array([1, 5]), [1, 5]),
        (slice(4, None), [4, 5]),
        (slice(-2, 6), [4, 5]),
        (slice(None, None, 2), [0, 2, 4]),
        (slice(None, None, -3), [2, 5]),
        ([True, False, False, False, False, True], [0, 5]),
        (np.arange(6) > 3, [4, 5]),
        (jnp.arange(6) > 3, [4, 5]),
    ],
)
def test_indices(index, expected):
    axis, chosen = rows(at("e", index))["e"]
    assert axis == 0 and chosen.tolist() == expected
    axis, chosen = rows(at("head/kernel", index, axis=-1))["head/kernel"]
    assert axis == 1 and chosen.tolist() == expected


def test_beside_whole_leaves_and_in_lists():
    assert rows(["head", at("e", 1)]) == {"e": (0, np.array([1])), "head/kernel": None}
    assert list(rows([[at("e", 1)], at("head", 1)])) == ["e", "head/kernel"]
    assert list(rows(at(["e", "head"], 2))) == ["e", "head/kernel"]
    assert rows("head") == {"head/kernel": None}
    nested = [[np.zeros(2), np.zeros(3)]]
    assert rows([[True, False]], nested) == {"0/0": None}


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (at("e", [2, 5]), at("e", (2, 5))),
        (at("e", np.array([2, 5])), at("e", jnp.array([2, 5]), axis=np.int64(0))),
        (at("e", [True, False]), at("e", np.array([True, False]))),
        (at("e", slice(np.int64(1), 2)), at("e", slice(1, 2))),
        (at(("e",), np.uint8(1), axis=1), at(("e",), 1, 1)),
    ],
)
def test_equal_values(one, other):
    assert one == other and hash(one) == hash(other)
    assert eval(repr(one)) == one == pickle.loads(pickle.dumps(one))
    assert fi.at is at and repr(one) == repr(other)


def test_other_values():
    values = [
        at("e", 1),
        at("e", 0),
        at("f", 1),
        at("e", 1, 1),
        at("e", [1, 0]),
        at("e", [0, 1]),
        at("e", [True, False]),
        at("e", slice(1)),
        at("e", slice(1, None)),
    ]
    assert len(set(values)) == len(values) and at("e", 1) != "e"
    assert repr(at("e", np.array([2, 5]), axis=1)) == "at('e', (2, 5), axis=1)"
    union = ["e"]
    part = at(union, 1)
    union.append("f")
    assert hash(part) == hash(at(["e"], 1)) and part == at(["e"], 1) != at("e", 1)


@pytest.mark.parametrize(
    ("build", "error", "text"),
    [
        (lambda: at("e", []), ValueError, "at got an empty index, which would select nothing"),
        (lambda: at("e", np.zeros(0, int)), ValueError, "empty index"),
        (lambda: at("e", True), TypeError, "a sequence of integers, or one of bools; got True"),
        (lambda: at("e", 1.0), TypeError, "got 1.0"),
        (lambda: at("e", "1"), TypeError, "got '1'"),
        (lambda: at("e", None), TypeError, "got None"),
        (lambda: at("e", [1, True]), TypeError, "got [1, True]"),
        (lambda: at("e", [0.5]), TypeError, "got [0.5]"),
        (lambda: at("e", np.ones(2)), TypeError, "got float64[2]"),
        (lambda: at("e", [[1]]), TypeError, "got [[1]]"),
        (lambda: at("e", [[1], [2, 3]]), TypeError, "got [[1], [2, 3]]"),
        (lambda: at("e", b"1"), TypeError, "got b'1'"),
        (lambda: at("e", {1}), TypeError, "got {1}"),
        (lambda: at("e", np.ones((2, 2), bool)), TypeError, "got bool[2,2]"),
        (lambda: at("e", slice(1.5)), TypeError, "got slice(None, 1.5, None)"),
        (lambda: at("e", slice(None, None, 0)), ValueError, "a slice whose step is not zero"),
        (lambda: jax.jit(lambda i: at("e", i))(1), TypeError, "known when it is built"),
        (lambda: at("e", 1, axis=True), TypeError, "at needs an integer for axis, got True"),
        (lambda: at("e", 1, axis=None), TypeError, "at needs an integer for axis, got None"),
        (lambda: at("e", 1, axis=np.array(0.5)), TypeError, "an integer for axis, got array(0.5)"),
        (lambda: jax.jit(lambda i: at("e", 1, axis=i))(1), TypeError, "an integer for axis, got "),
        (lambda: at(at("e", 1), 1), TypeError, "at('e', 1) is a part of a leaf"),
        (lambda: at(["f", at("e", 1)], 1), TypeError, "at('e', 1) is a part of a leaf"),
        (lambda: all_but(at("e", 1)), TypeError, "at('e', 1) is a part of a leaf"),
    ],
)  # fmt: skip
def test_what_cannot_be_built(build, error, text):
    with pytest.raises(error, match=re.escape(text)):
        build()


@pytest.mark.parametrize(
    ("where", "text"),
    [
        (at("e", 6), "at('e', 6) selects 'e' of shape (6, 3): the index does not fit its axis 0 of "
                     "size 6. Nothing is clamped: give integers from -6 to 5, a slice"),
        (at("e", -7), "does not fit its axis 0 of size 6"),
        (at("e", [0, 6]), "does not fit"),
        (at("e", [True]), "or 6 bools"),
        (at("e", slice(0, 7)), "does not fit"),
        (at("e", slice(-7, None)), "does not fit"),
        (at("e", slice(3, 3)), "at('e', slice(3, 3, None)) selects 'e' of shape (6, 3), but no "
                               "slice along its axis 0."),
        (at("e", [False] * 6), "but no slice along its axis 0"),
        (at("e", 0, axis=2), "at('e', 0, axis=2) selects 'e' of shape (6, 3), which has no axis 2"),
        (at("e", 0, axis=-3), "has no axis -3"),
        (at("**", 4), "selects 'head/kernel' of shape (3, 6): the index does not fit"),
        (at("emb", 1), "'emb' selects no leaf"),
        (["e", at("e", 1)], "'e' and at('e', 1) all select 'e', but a leaf that at(...) takes in "
                            "part is taken whole. Give one index for all of it, or leave it out"),
        ([at("e", 2), "head", at("e", 1)], "at('e', 2) and at('e', 1) all select 'e'"),
    ],
)  # fmt: skip
def test_what_does_not_fit_a_tree(where, text):
    with pytest.raises(ValueError, match=re.escape(text)):
        rows(where)


def test_an_abstract_leaf_has_no_values_to_keep():
    shapes = jax.eval_shape(lambda: TREE)
    with pytest.raises(ValueError, match=r"selects 'e', which is abstract: it has no values to k"):
        fi.reinit(KEY, shapes, {at("e", 1): fi.zeros()})


@pytest.mark.parametrize(
    "use",
    [
        lambda where: fi.select(TREE, where),
        lambda where: fi.select(TREE, ["head", where]),
        lambda where: fi.jit_init(lambda key: TREE, rules={where: fi.zeros()})(KEY),
        lambda where: fi.chrono_gates(KEY, TREE, 10, where=where),
        lambda where: fi.deepnorm(KEY, TREE, 2, where=where),
    ],
)
def test_who_takes_whole_leaves_alone(use):
    match = r"^at\('e', 1\) is a part of a leaf. .* here, select the whole leaf: 'e'."
    with pytest.raises(TypeError, match=match):
        use(at("e", 1))


@pytest.mark.sampled(3)
@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "int8", "bool", "complex64", "key"])
def test_splicing_keeps_every_other_bit(dtype):
    def leaf(seed):
        if dtype == "key":
            return jax.random.split(jax.random.key(seed), 15).reshape(5, 3)
        values = np.random.default_rng(seed).integers(0, 2**8, (5, 3, 8), np.uint8)
        return jnp.asarray((values % 2).astype(bool)[..., 0] if dtype == "bool" else values).view(
            dtype
        )[..., 0]

    def data(array):
        return np.asarray(jax.random.key_data(array) if dtype == "key" else array)

    if dtype == "bool":
        old, new = (jax.random.bernoulli(jax.random.key(i), 0.5, (5, 3)) for i in (1, 2))
    else:
        old, new = leaf(1), leaf(2)
    part = at("x", [1, -1]).part(("x",), old)
    made = spliced(old, new, part)
    assert made.dtype == old.dtype and made.sharding == old.sharding
    for i, row in enumerate(data(made)):
        assert row.tobytes() == data(new if i in (1, 4) else old)[i].tobytes()
