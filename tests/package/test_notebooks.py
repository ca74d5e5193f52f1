"""The notebooks in examples/ hold what GitHub shows: outputs of one clean run, and no machine."""

import json
import re
from pathlib import Path

import pytest

import flax_inits

EXAMPLES = Path(__file__).parents[2] / "examples"
NOTEBOOKS = sorted(EXAMPLES.glob("*.ipynb"))
BYTES = 300_000
# Folders of a system or a user, drives, and addresses of objects.
MACHINE = r"/(home|root|tmp|usr|var|opt|mnt|work|Users)/|\b[A-Z]:\\|\b0x[0-9a-f]{6,}"
KINDS = {"text/plain", "text/html", "image/png"}


@pytest.fixture(params=NOTEBOOKS, ids=lambda file: file.name)
def notebook(request):
    return json.loads(request.param.read_text())


def code_cells(notebook):
    return [cell for cell in notebook["cells"] if cell["cell_type"] == "code"]


def test_there_are_notebooks_and_they_are_small():
    assert NOTEBOOKS and all(file.stat().st_size <= BYTES for file in NOTEBOOKS)


def test_every_cell_ran_once_from_the_top(notebook):
    cells = code_cells(notebook)
    assert [cell["execution_count"] for cell in cells] == list(range(1, len(cells) + 1))
    assert all(cell["outputs"] for cell in cells[1:]), "only the first may show nothing"


def test_outputs_are_text_tables_and_pictures(notebook):
    outputs = [output for cell in code_cells(notebook) for output in cell["outputs"]]
    streams = {output["name"] for output in outputs if output["output_type"] == "stream"}
    assert streams <= {"stdout"}
    kinds = [set(o["data"]) for o in outputs if o["output_type"] != "stream"]  # none of an error
    assert all(each <= KINDS for each in kinds)
    assert sum("image/png" in each for each in kinds) >= 3


def test_nothing_tells_of_the_machine(notebook):
    assert set(notebook["metadata"]) == {"kernelspec", "language_info"}
    assert notebook["metadata"]["language_info"] == {"name": "python"}
    assert not any(cell["metadata"] for cell in notebook["cells"])
    for cell in code_cells(notebook):
        for output in cell["outputs"]:
            output.get("data", {}).pop("image/png", None)
    assert not re.search(MACHINE, json.dumps(notebook))


def test_only_public_names_are_used(notebook):
    text = "".join("".join(cell["source"]) for cell in notebook["cells"])
    used = set(re.findall(r"\bflax_inits\.(\w+)", text))
    assert len(used) > 3 and used <= {*flax_inits.__all__, "results", "initializers"}


def test_links_lead_somewhere(notebook):
    text = "".join("".join(cell["source"]) for cell in notebook["cells"])
    targets = re.findall(r"\]\((?!http)([^)#]+)", text)
    assert targets and all((EXAMPLES / target).exists() for target in targets)
