"""Runs the notebooks beside this script from the top and writes them with their outputs.

    python examples/notebooks.py                              # all, in place
    python examples/notebooks.py surgery.ipynb --into folder  # one, elsewhere

A warning is an error, and so is anything on stderr. It needs nbclient and ipykernel, which are in
`flax_inits[dev]`, and takes a minute or two.
"""

import argparse
import os
import tempfile
from pathlib import Path

import nbclient
import nbformat

FOLDER = Path(__file__).resolve().parent
# Run once the kernel is up, as it does not start where warnings are errors.
STRICT = "import warnings; warnings.simplefilter('error'); "
STRICT += "warnings.filterwarnings('ignore', module='ipykernel')  # as it ends"
# What Jupyter writes beyond this says on which machine it was.
METADATA = {
    "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
    "language_info": {"name": "python"},
}


def executed(notebook):
    """The notebook, run from another folder, with new outputs."""
    with tempfile.TemporaryDirectory() as elsewhere:
        resources = {"metadata": {"path": elsewhere}}
        client = nbclient.NotebookClient(
            notebook, timeout=600, resources=resources, record_timing=False, coalesce_streams=True
        )
        client.on_notebook_start = lambda notebook: client.kc.execute(STRICT, silent=True)
        client.execute()
    outputs = [output for cell in notebook.cells for output in cell.get("outputs", ())]
    errors = [output.text for output in outputs if output.get("name") == "stderr"]
    if errors:
        raise RuntimeError("on stderr: " + "\n".join(errors))
    notebook.metadata = METADATA
    return notebook


def main():
    """Runs the notebooks that are named, or all."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("names", nargs="*", help="such as surgery.ipynb; all, if there are none")
    parser.add_argument("--into", type=Path, default=FOLDER, help="where to write them")
    options = parser.parse_args()
    os.environ.pop("MPLBACKEND", None)  # the kernel's own puts pictures into cells
    for file in [FOLDER / name for name in options.names] or sorted(FOLDER.glob("*.ipynb")):
        notebook = executed(nbformat.read(file, as_version=4))
        nbformat.write(notebook, options.into / file.name)
        print(f"{file.name}: {len(notebook.cells)} cells")


if __name__ == "__main__":
    main()
