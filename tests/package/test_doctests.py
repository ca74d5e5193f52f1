"""Every example in a docstring runs, and prints what it says."""

import ast
import doctest
import inspect
from pathlib import Path

import pytest

import flax_inits

PACKAGE = Path(flax_inits.__file__).parent
FLAGS = doctest.NORMALIZE_WHITESPACE | doctest.ELLIPSIS
WITH_EXAMPLES = {
    name: inspect.getdoc(value)
    for name, value in vars(flax_inits).items()
    if name in flax_inits.__all__ and ">>> " in (value.__doc__ or "")
}
# As a user would run them; the tests themselves run under strict promotion.
pytestmark = pytest.mark.usefixtures("standard_promotion")


@pytest.mark.sampled(8, rest="slow")
@pytest.mark.parametrize("name", WITH_EXAMPLES)
def test_example_runs(name):
    example = doctest.DocTestParser().get_doctest(WITH_EXAMPLES[name], {}, name, name, 0)
    runner, printed = doctest.DocTestRunner(optionflags=FLAGS), []
    runner.run(example, out=printed.append)
    assert example.examples and not runner.failures, "".join(printed)


def test_no_example_is_elsewhere():
    """What is not public has none, for nobody would run it."""
    written = []
    for file in sorted(PACKAGE.rglob("*.py")):
        nodes = ast.walk(ast.parse(file.read_text()))
        kinds = (ast.Module, ast.ClassDef, ast.FunctionDef)
        named = [(n, getattr(n, "name", "")) for n in nodes if isinstance(n, kinds)]
        written += [name for n, name in named if ">>> " in (ast.get_docstring(n) or "")]
    assert sorted(written) == sorted(WITH_EXAMPLES)
