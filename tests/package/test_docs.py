"""Every public name says what it is, takes, gives, refuses, and where it comes from."""

import ast
import inspect
import pydoc
import re
import typing

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


def arguments(name):
    """What a docstring says of each argument; of several in one line, the same."""
    section = inspect.getdoc(FUNCTIONS[name]).partition("Args:\n")[2].partition("\n\n")[0]
    entries = re.findall(r"^ {2,4}([\w*, ]+):(.*)", section, re.MULTILINE)
    return {each.strip(" *"): said for names, said in entries for each in names.split(",")}


@pytest.mark.parametrize("name", FUNCTIONS)
def test_docstrings_name_every_argument(name):
    said = arguments(name)
    assert not set(inspect.signature(FUNCTIONS[name]).parameters) - set(said)
    # What is said by reference to another docstring is said there.
    referred = {argument: re.search(r"as in `(\w+)`", text) for argument, text in said.items()}
    assert all(argument in arguments(found[1]) for argument, found in referred.items() if found)


def test_help_lists_every_public_name():
    lines = [
        n for n in ast.parse(inspect.getsource(flax_inits)).body if isinstance(n, ast.ImportFrom)
    ]
    public = {alias.name for line in lines if line.module for alias in line.names}
    text = pydoc.render_doc(flax_inits, renderer=pydoc.plaintext)
    listed = re.findall(r"^ {4}(?:class )?(\w+)\(", text, re.MULTILINE)
    assert public == set(flax_inits.__all__) == set(listed)


@pytest.mark.parametrize("name", FUNCTIONS)
def test_signatures_can_be_read(name):
    shown = f"{name}{inspect.signature(FUNCTIONS[name])}"
    assert len(shown) <= 300
    # Short, since annotations are kept as text: from __future__ import annotations.
    assert "collections.abc." not in shown and "flax_inits." not in shown
    assert "return" in typing.get_type_hints(FUNCTIONS[name]), "every name in them is known there"
