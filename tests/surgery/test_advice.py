"""What errors about shapes advise does what they say."""

import re

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import flax_inits as fi

SHAPES = st.lists(st.integers(1, 4), max_size=4).map(tuple)


def advised(given, wanted, rules):
    """The rules that the error gives, as written, with what it leaves open filled in."""
    params = {"w": np.zeros(wanted, "f"), "layer_0": np.zeros(wanted, "f")}
    params |= {"layer_1": np.zeros(wanted, "f")}
    with pytest.raises(ValueError) as caught:
        fi.graft_plan(params, {"v": np.zeros(given, "f")}, rules)
    found = re.search(
        r"(\{.*\}) (makes it fit|takes a slice)(, or (.*) in its place)?", str(caught.value)
    )
    if found is None:
        return []
    text = found[1].replace("init=...", "init='mean'").replace("start=...", "start=0")
    both = [text] + ([re.sub(r"(grow|cut)\(.*\)\)", f"{found[4]})", text)] if found[4] else [])
    return [eval(one, vars(fi).copy()) for one in both]


@pytest.mark.slow
@given(SHAPES, SHAPES)
def test_what_is_advised_fits(given, wanted):
    if given == wanted:
        return
    params, donor = {"w": np.zeros(wanted, "f")}, {"v": np.zeros(given, "f")}
    found = advised(given, wanted, {"w": "v"})
    for rules in found:
        (row,) = fi.graft_plan(params, donor, rules).rows
        assert row.use == "taken"
    assert found or len(given) != len(wanted)


BY_SHAPE = {
    "a convolution of PyTorch": ((8, 3, 4, 4), (4, 4, 3, 8), "transpose(2, 3, 1, 0)"),
    "in one dimension": ((8, 3, 5), (5, 3, 8), "transpose(2, 1, 0)"),
    "heads": ((4, 6), (4, 2, 3), "reshape(4, 2, 3)"),
    "heads of PyTorch": ((6, 4), (4, 2, 3), "transpose(1, 0), reshape(4, 2, 3)"),
    "a head of PyTorch with more classes": (
        (5, 3),
        (3, 7),
        "transpose(1, 0), grow(axis=1, init='mean')",
    ),
    "wider": ((3, 4), (5, 6), "grow(axis=0, init='mean', size=5), grow(axis=1, init='mean')"),
    "experts of PyTorch": ((4, 3), (8, 3, 4), "transpose(1, 0), tile(axis=0)"),
    "a batch of one": ((1, 3), (3,), "reshape(3)"),
    "one of several": ((5, 3), (3,), "cut(axis=0, size=1), unstack(axis=0)"),
    "positions": ((1, 17, 8), (1, 37, 8), "resize(axes=1, method='bilinear', prefix=1)"),
    "a grid": ((4, 4, 8), (6, 6, 8), "resize(axes=(0, 1), method='bilinear')"),
}


@pytest.mark.parametrize("case", BY_SHAPE)
def test_advice(case):
    given, wanted, adapters = BY_SHAPE[case]
    *_, rules = advised(given, wanted, {"w": "v"})
    assert repr(rules["w"]) == f"take('v', {adapters})"


def test_a_scan_becomes_a_loop():
    (rules,) = advised((2, 3), (3,), {"layer_*": "v"})
    assert repr(rules) == "{'layer_*': take('v', unstack(axis=0))}"


def test_names_with_wildcards_are_escaped():
    params, donor = {"a*": np.zeros(3, "f")}, {"b[0]": np.zeros(2, "f")}
    with pytest.raises(ValueError, match=re.escape("{'a[*]': take('b[[]0]', grow(axis=0")):
        fi.graft_plan(params, donor, {("a*",): "b[[]0]"})
