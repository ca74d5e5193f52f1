"""README.md and the guide: their Python runs and prints what they say, and their facts hold."""

import contextlib
import functools
import io
import re
import tomllib
from pathlib import Path

import jax
import optax
import pytest

import flax_inits

ROOT = Path(__file__).parents[2]
GUIDE = Path("examples/guide")
PAGES = ["README.md", *sorted(str(GUIDE / file.name) for file in (ROOT / GUIDE).glob("*.md"))]
README_BYTES = 10_240
NOT_RUN = "<!-- not run -->"

BLOCK = re.compile(
    rf"(?P<mark>{re.escape(NOT_RUN)}\n+)?^```python\n(?P<code>.*?)^```\n"
    r"(?:\n```text\n(?P<output>.*?)^```\n)?",
    re.DOTALL | re.MULTILINE,
)


def text_of(page):
    return (ROOT / page).read_text()


@functools.cache
def names_after(page):
    """Runs a page's blocks in order, as a reader would; gives the names that they leave behind."""
    names = {}
    for block in BLOCK.finditer(text_of(page)):
        if block["mark"]:
            continue
        line = text_of(page)[: block.start("code")].count("\n")
        printed = io.StringIO()
        code = compile("\n" * line + block["code"], str(ROOT / page), "exec")
        with contextlib.redirect_stdout(printed):
            exec(code, names)
        assert printed.getvalue() == (block["output"] or ""), f"{page}, line {line + 1}"
    return names


@pytest.mark.sampled(20, rest="slow")
@pytest.mark.usefixtures("standard_promotion")
@pytest.mark.parametrize("page", PAGES)
def test_blocks_run_and_print_what_is_said(page):
    blocks = text_of(page).count("```python\n")
    assert blocks == len(BLOCK.findall(text_of(page))), "each block begins at the left margin"
    assert len(names_after(page)) > 1 or not blocks


@pytest.mark.parametrize("page", PAGES)
def test_links_lead_somewhere(page):
    targets = re.findall(r"\]\((?!http)([^)#\s]*)(?:#([^)\s]+))?\)", text_of(page))
    assert targets, "every page leads on"
    for target, anchor in targets:
        file = (ROOT / page).parent / target if target else ROOT / page
        assert file.exists(), target
        assert not anchor or anchor in anchors(file), f"{target}#{anchor}"


def anchors(file):
    """The anchors of a page's headings, as GitHub makes them."""
    titles = re.findall(r"^#+ (.*)$", file.read_text(), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}


def test_the_index_lists_every_page():
    index = text_of(str(GUIDE / "README.md"))
    missing = [page for page in PAGES[1:] if f"({Path(page).name})" not in index]
    assert missing == [str(GUIDE / "README.md")]


def test_the_readme_is_short():
    assert (ROOT / "README.md").stat().st_size <= README_BYTES


@pytest.mark.parametrize("word", ["pytest", "quickstart.py"])
def test_the_readme_has_one_command_each(word):
    assert len(re.findall(rf"^python3 -m venv .*{word}", text_of("README.md"), re.MULTILINE)) == 1


def test_floors_are_those_of_the_package():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    floors = [requirement.split(">=") for requirement in project["dependencies"]]
    stated = [f"{name} {floor}" for name, floor in floors]
    flat = " ".join(text_of("README.md").split())
    assert all(words in flat for words in stated), f"README must state {stated}"
    assert project["requires-python"].removeprefix(">=") in flat


def test_the_catalogue_is_that_of_the_package():
    table = flax_inits.catalogue()
    assert table.markdown().strip() in text_of(str(GUIDE / "catalogue.md"))
    assert f"{len(table)} initializers" in " ".join(text_of("README.md").split())


def test_figures_come_with_their_command():
    sections = re.split(r"^## ", text_of(str(GUIDE / "benchmarks.md")), flags=re.MULTILINE)
    assert len(sections) > 3
    for section in sections[1:]:
        scripts = re.findall(r"^python (\S+\.py)", section, re.MULTILINE)
        assert scripts or "python -c" in section, section.splitlines()[0]
        assert all((ROOT / script).exists() for script in scripts)


def test_the_architecture_is_told_in_names_of_the_code():
    page = text_of(str(GUIDE / "architecture.md"))
    sources = "\n".join(file.read_text() for file in (ROOT / "flax_inits").rglob("*.py"))
    known = set(re.findall(r"\w+", sources))
    known |= {part.stem for part in (ROOT / "flax_inits").rglob("*")}
    quoted = set(re.findall(r"`([^`\n]+)`", page)) - {"jax.jit", "log1p", "__init__.py"}
    files = {name for name in quoted if "/" in name}
    lost = [f for f in files if not ((ROOT / f).exists() or (ROOT / "flax_inits" / f).exists())]
    names = {name for text in quoted - files for name in re.findall(r"\w+", text)}
    assert len(names) > 40 and not lost and not names - known


COMING_FROM = str(GUIDE / "coming-from.md")


def our_calls():
    """The rows of the first table of that page: a task, and our code for it."""
    table = text_of(COMING_FROM).split("\n| task |")[1].split("\n\n")[0]
    for row in table.splitlines()[2:]:
        task, call = (cell.strip() for cell in re.split(r"(?<!\\)\|", row)[1:-1])
        yield pytest.param(re.fullmatch("`(.*)`", call)[1], id=task)


@pytest.mark.usefixtures("standard_promotion")
@pytest.mark.parametrize("code", list(our_calls()))
def test_our_calls_run(code):
    names = {**names_after(COMING_FROM), "key": jax.random.key(5), "optax": optax}
    assert eval(code, names) is not None


@pytest.mark.slow
@pytest.mark.usefixtures("standard_promotion")
def test_what_is_not_to_be_trained_stays():
    (code,) = (row.values[0] for row in our_calls() if row.id == "train the head alone")
    names = names_after(COMING_FROM)
    tx, params = eval(code, {**names, "optax": optax}), names["params"]
    updates, _ = tx.update(jax.tree.map(jax.numpy.ones_like, params), tx.init(params), params)
    after = flax_inits.summary(optax.apply_updates(params, updates), params)
    assert {row.path for row in after.rows if row.change != "equal"} == {
        ("head", "bias"),
        ("head", "kernel"),
    }


def test_every_task_is_told_in_the_other_tables():
    tables = re.findall(r"\n\| task \|.*?\n\n", text_of(COMING_FROM), re.DOTALL)
    ours, *others = (re.findall(r"^\| ([^|]+?) \|", table, re.MULTILINE)[2:] for table in tables)
    assert len(others) == 3 and all(set(other) <= set(ours) for other in others)
