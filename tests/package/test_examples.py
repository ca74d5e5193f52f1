"""Every script and notebook in examples/ runs, from the command line, with warnings as errors."""

import importlib.util
import json
import os
import re
import subprocess
import sys
import tomllib
from importlib import metadata
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
EXAMPLES = ROOT / "examples"
FILES = {str(file.relative_to(EXAMPLES)): file for file in sorted(EXAMPLES.rglob("*.py"))}
# What scripts import from each other's folder.
MODULES = {
    f"benchmarks/{name}.py" for name in ("cold", "zoo_haiku_nnx", "zoo_linen", "zoo_registry")
}
SCRIPTS = {name: file for name, file in FILES.items() if name not in MODULES}
NOTEBOOKS = sorted(file.name for file in EXAMPLES.glob("*.ipynb"))

# Arguments that make a script small enough for a test; most need none.
ARGUMENTS = {
    "benchmarks/bits.py": ["--side", "256", "--rounds", "1", "--orthogonal", "64"],
    "benchmarks/models.py": ["LM-2/64", "ViT-2/48 scanned"],
    "benchmarks/tpu.py": ["--small"],
    "benchmarks/zoo.py": ["--list"],
    "finetune.py": ["--runs", "2"],
    "mup.py": ["--widths", "64", "512"],
    "plasticity.py": ["--small"],
    "signal_propagation.py": ["--depth", "6", "--width", "32"],
    "transfer.py": ["--runs", "1"],
    "upcycle.py": ["--runs", "2"],
}
# Scripts that take more than a few seconds even so.
SLOW = {
    "benchmarks/bits.py",
    "benchmarks/models.py",
    "benchmarks/tpu.py",
    "finetune.py",
    "import_torch.py",
    "interop.py",
    "mup.py",
    "plasticity.py",
    "quickstart.py",
    "sharded.py",
    "signal_propagation.py",
    "transfer.py",
    "upcycle.py",
}
# Scripts that do more where another library is installed, which CI does on one Python.
PEERS = {"import_torch.py": ("torch", "transformers")}
# Those that do more where the TPU compiler is installed, which CI does on the other.
TPU = {"benchmarks/tpu.py"}
# What others warn about, in scripts that cannot help it, as `python -W` takes it.
ALLOWED: dict[str, list[str]] = {}


def run(script, *arguments, folder):
    """Runs it as a user does, from another folder, and returns what it printed."""
    flags = ["-W", "error"]
    for warning in ALLOWED.get(str(script.relative_to(EXAMPLES)), []):
        flags += ["-W", warning]
    # The scripts say themselves how many devices they want.
    environment = {k: v for k, v in os.environ.items() if k != "XLA_FLAGS"}
    environment |= {"PYTHONPATH": str(ROOT), "MPLBACKEND": "Agg", "COLUMNS": "120"}
    done = subprocess.run(
        [sys.executable, *flags, str(script), *arguments],
        cwd=folder,
        env=environment,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=1200,
    )
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-4000:]
    return done.stdout


def marks(name):
    kinds = [(pytest.mark.slow, SLOW), (pytest.mark.peers, PEERS), (pytest.mark.tpu, TPU)]
    return [mark for mark, scripts in kinds if name in scripts]


def test_tables_name_scripts():
    assert {*ARGUMENTS, *SLOW, *PEERS, *ALLOWED} <= set(SCRIPTS)
    assert MODULES == {name for name, file in FILES.items() if "__main__" not in file.read_text()}


def test_no_script_hides_a_module_of_python():
    assert not {script.stem for script in FILES.values()} & sys.stdlib_module_names


RUNS = [*(name for name in SCRIPTS if name != "notebooks.py"), "quickstart.py --nnx"]


@pytest.mark.parametrize("line", [pytest.param(r, marks=marks(r.split()[0])) for r in RUNS])
def test_script_runs(line, tmp_path):
    name, *options = line.split()
    printed = run(SCRIPTS[name], *ARGUMENTS.get(name, []), *options, folder=tmp_path)
    assert printed.strip(), "an example says what it does"
    if name == "quickstart.py":
        assert printed.count("NEW") == 2 and printed.count("same object") == 6
    for peer in PEERS.get(name, ()):
        installed = importlib.util.find_spec(peer) is not None
        assert installed or f"{peer} is not installed" in printed, "what is skipped is said"


def installed(package):
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def test_zoo_lists_its_packages_and_says_which_are_missing(tmp_path):
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extra = {line.split(">=")[0] for line in project["optional-dependencies"]["zoo"]}
    printed = run(SCRIPTS["benchmarks/zoo.py"], "--list", folder=tmp_path)
    listed = {line.split()[0] for line in printed.splitlines() if "  " in line}
    assert extra - listed == {"flax_inits[plot]", "diffrax", "distrax"}, "what these need"
    assert listed <= extra
    missing = set(re.findall(r"NOT MEASURED .*: (\S+) is not installed", printed))
    assert missing == {package for package in listed if installed(package) is None}


def test_zoo_says_what_is_slower_and_what_differs(monkeypatch):
    monkeypatch.syspath_prepend(str(EXAMPLES / "benchmarks"))
    zoo = importlib.import_module("zoo")
    ours = {"total": 2.0, "params": 10, "digests": {"a": "1", "b": "2"}}
    jit = ours | {"total": 1.0, "digests": {"a": "1", "b": "3"}}
    runs = {"eager": ours | {"total": 4.0}, "jit": jit, "jit_init": ours}
    assert list(zoo.findings({"net": runs})) == [
        "net (10 params): slower than jit, 2.00 s against 1.00 s",
        "net: 1 leaves differ from jax.jit: b",
    ]


def said(notebook):
    """The kinds of a notebook's outputs, by cell, and the words in them; no numbers, no layout."""
    for cell in json.loads(notebook.read_text())["cells"]:
        for output in cell.get("outputs", ()):
            for kind, lines in output.get("data", {output.get("name"): output.get("text")}).items():
                text = "" if kind.startswith("image/") else "".join(lines)
                yield cell["id"], kind, re.findall(r"\b[^\W\d]+", text)


@pytest.mark.slow
@pytest.mark.parametrize("name", NOTEBOOKS)
def test_notebook_runs_and_says_what_is_committed(name, tmp_path):
    run(SCRIPTS["notebooks.py"], name, "--into", str(tmp_path), folder=tmp_path)
    assert list(said(tmp_path / name)) == list(said(EXAMPLES / name))
