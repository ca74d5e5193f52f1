"""Every public name says what it is, takes, gives, refuses, and where it comes from."""

import inspect
import re

import pytest

import flax_inits

FUNCTIONS = {
    name: value for name, value in vars(flax_inits).items() if inspect.isfunction(value)
} | {name: value for name, value in vars(flax_inits).items() if hasattr(value, "is_factory")}
FACTORIES = [name for name, value in FUNCTIONS.items() if hasattr(value, "is_factory")]
NEVER_RAISE = {"zeros", "ones", "catalogue"}


@pytest.mark.parametrize("name", FUNCTIONS)
def test_docstrings_have_their_sections(name):
    value = FUNCTIONS[name]
    text = inspect.getdoc(value)
    assert re.match(r"\S.*[.:]\n", text), "one line says what it is"
    taken = set(inspect.signature(value).parameters)
    wanted = ["Returns:", ">>> "] + ["Args:"] * bool(taken)
    wanted += ["Raises:"] * (name not in NEVER_RAISE) + ["Reference:"] * (name in FACTORIES)
    missing = [section for section in wanted if section not in text]
    assert not missing


@pytest.mark.parametrize("name", FUNCTIONS)
def test_docstrings_name_every_argument(name):
    value = FUNCTIONS[name]
    taken = [parameter.lstrip("*") for parameter in inspect.signature(value).parameters]
    section = inspect.getdoc(value).partition("Args:\n")[2].partition("\n\n")[0]
    named = " ".join(re.findall(r"^ {2,4}([\w*, ]+):", section, re.MULTILINE))
    missing = [parameter for parameter in taken if not re.search(rf"\b{parameter}\b", named)]
    assert not missing
