"""The README's Python runs, prints what the README says, and its commands and facts hold."""

import contextlib
import io
import re
import tomllib
from pathlib import Path

import jax
import optax
import pytest

import flax_inits

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text()
NOT_RUN = "<!-- not run -->"

BLOCK = re.compile(
    rf"(?P<mark>{re.escape(NOT_RUN)}\n+)?^```python\n(?P<code>.*?)^```\n"
    r"(?:\n```text\n(?P<output>.*?)^```\n)?",
    re.DOTALL | re.MULTILINE,
)


@pytest.fixture(scope="module")
def names():
    """Runs all blocks in order, as a reader would; gives the names that they leave behind."""
    names = {}
    for block in BLOCK.finditer(README):
        if block["mark"]:
            continue
        line = README[: block.start("code")].count("\n")
        printed = io.StringIO()
        code = compile("\n" * line + block["code"], str(ROOT / "README.md"), "exec")
        with contextlib.redirect_stdout(printed):
            exec(code, names)
        assert printed.getvalue() == (block["output"] or ""), f"README.md, line {line + 1}"
    return names


def test_blocks_run_and_print_what_is_said(names):
    assert {"params", "before", "model", "x"} <= set(names)


def coming_from():
    """The rows of the comparison's table: the task, and our cell's code."""
    table = README.split("\n| | PyTorch |")[1].split("\n\n")[0]
    for row in table.splitlines()[2:]:
        cells = [cell.strip() for cell in re.split(r"(?<!\\)\|", row)[1:-1]]
        assert len(cells) == 5, row
        yield pytest.param(re.search("`(.*?)`", cells[-1])[1], id=cells[0])


@pytest.mark.parametrize("code", list(coming_from()))
def test_our_column_runs(names, code):
    assert eval(code, {**names, "key": jax.random.key(5), "optax": optax}) is not None


@pytest.mark.usefixtures("standard_promotion")
def test_what_is_not_to_be_trained_stays(names):
    (code,) = (row.values[0] for row in coming_from() if row.id == "which parameters to train")
    tx, params = eval(code, {**names, "optax": optax}), names["params"]
    updates, _ = tx.update(jax.tree.map(jax.numpy.ones_like, params), tx.init(params), params)
    after = flax_inits.summary(optax.apply_updates(params, updates), params)
    assert {row.path for row in after.rows if row.change != "equal"} == {
        ("layers_2", "bias"),
        ("layers_2", "kernel"),
    }


def test_links_lead_somewhere():
    links = re.findall(r"\]\((?!http)([^)#]+)\)", README)
    assert links and all((ROOT / link).exists() for link in links)


def test_floors_are_those_of_the_package():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    floors = [requirement.split(">=") for requirement in project["dependencies"]]
    stated = [f"{name} {floor}" for name, floor in floors]
    flat = " ".join(README.split())
    assert all(words in flat for words in stated), f"README must state {stated}"
    assert project["requires-python"].removeprefix(">=") in flat


def test_the_catalogue_is_that_of_the_package():
    assert flax_inits.catalogue().markdown().strip() in README
    assert f"All {len(flax_inits.catalogue())} initializers" in README
