"""Imports go upward only, heavy packages load on use, and only public JAX is used."""

import ast
import graphlib
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import flax_inits

PACKAGE = Path(flax_inits.__file__).parent

# Lowest first; a module imports from its own folder and from those on lower floors. "" stands for
# the modules of the package itself.
FLOORS = (
    {"_base"},
    {"_tree"},
    {"_modules", "_engine"},
    {"initializers", "_surgery", "_model", "_reports"},
    {"_optimizer", "_schemes"},
    {"_plasticity"},
    {""},
)
# What only module systems know is kept apart, too.
APART = ("_modules.linen", "_modules.nnx")
LONGEST = 250
ON_USE = ("optax", "flax.training", "flax.nnx", "rich", "matplotlib")


def name_of(file: Path) -> str:
    """The dotted name of a module below the package, "" for the package's own `__init__`."""
    parts = file.relative_to(PACKAGE).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


FILES = {name_of(file): file for file in sorted(PACKAGE.rglob("*.py"))}
SOURCES = {name: ast.parse(file.read_text(), str(file)) for name, file in FILES.items()}


def folder(name: str) -> str:
    top = name.split(".")[0]
    return top if (PACKAGE / top).is_dir() else ""


def floor(name: str) -> int:
    found = [number for number, folders in enumerate(FLOORS) if folder(name) in folders]
    assert found, f"{name} is in no folder of FLOORS in this file"
    return found[0]


def may_import(name: str, target: str) -> bool:
    if folder(name) != folder(target):
        return floor(target) < floor(name)
    here, there = (next((a for a in APART if is_within(n, a)), n) for n in (name, target))
    return not (here in APART and there in APART and here != there)


def imports(name: str, tree: ast.AST) -> Iterator[str]:
    """Absolute dotted names of all that is imported below `tree`, a part of the module `name`."""
    home = ["flax_inits", *filter(None, name.split("."))]
    package = home if FILES[name].name == "__init__.py" else home[:-1]
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else []
            base = [*base, *filter(None, (node.module or "").split("."))]
            yield from (".".join([*base, alias.name]) for alias in node.names)


def own_imports(name: str) -> set[str]:
    """The modules of the package that the module `name` imports, wherever in its code."""
    found = set()
    for imported in imports(name, SOURCES[name]):
        if is_within(imported, "flax_inits"):
            target = imported.removeprefix("flax_inits").removeprefix(".")
            # What is imported from a module is a name in it, unless it is a module itself.
            found.add(target if target in FILES else target.rpartition(".")[0])
    return found - {name}


def at_import(tree: ast.AST) -> Iterator[ast.AST]:
    """The nodes that run when a module is imported: all but the bodies of functions."""
    for node in ast.iter_child_nodes(tree):
        if not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
            yield node
            yield from at_import(node)


def is_within(imported: str, module: str) -> bool:
    return f"{imported}.".startswith(f"{module}.")


EDGES = [(name, target) for name in FILES for target in own_imports(name)]


def test_imports_go_down_the_floors():
    offenders = [edge for edge in EDGES if not may_import(*edge)]
    assert not offenders, "pairs of who imports and what is imported"
    # Such an edge is only found if imports are seen: some that are there, absolute and relative.
    assert ("initializers._build.configured", "_base.bits") in EDGES
    assert ("_tree.misses", "_base.errors") in EDGES
    order = graphlib.TopologicalSorter({name: own_imports(name) for name in FILES if name})
    order.prepare()  # raises at a cycle, also within a folder


def test_only_schemes_know_the_factories():
    """Whatever makes leaves takes any callable."""
    knowing = {folder(name) for name, target in EDGES if folder(target) == "initializers"}
    assert knowing == {"", "initializers", "_schemes"}


def test_folders_say_what_lives_there():
    """In a paragraph at least, and under a name that no function has."""
    packages = {name: SOURCES[name] for name, f in FILES.items() if f.name == "__init__.py"}
    silent = [name for name, tree in packages.items() if len(ast.get_docstring(tree) or "") < 60]
    assert not silent
    assert not {name.rpartition(".")[2] for name in packages if name} & set(flax_inits.__all__)


def test_heavy_packages_are_imported_on_use():
    offenders = []
    for name in FILES:
        nodes = [n for n in at_import(SOURCES[name]) if isinstance(n, ast.Import | ast.ImportFrom)]
        eager = {imported for node in nodes for imported in imports(name, node)}
        heavy = {imported for imported in eager if any(is_within(imported, h) for h in ON_USE)}
        offenders += [f"{name} imports {imported} at import" for imported in heavy]
    assert not offenders, "move these into the functions that use them"


def test_importing_the_package_loads_nothing_heavy():
    """Beyond what `import flax.linen` loads already, which is rich."""
    code = (
        "import sys, flax.linen; before = set(sys.modules); import flax_inits; "
        f"print([name for name in {ON_USE} if name in sys.modules and name not in before])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=PACKAGE.parent, capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "[]"


def test_only_public_names_of_others():
    offenders = []
    for name in FILES:
        private = {i for i in imports(name, SOURCES[name]) if "_src" in i.split(".")}
        nodes = [n for n in ast.walk(SOURCES[name]) if isinstance(n, ast.Attribute)]
        private |= {ast.unparse(node) for node in nodes if node.attr == "_src"}
        offenders += [f"{name} uses {imported}" for imported in private]
    assert not offenders


def test_the_package_is_a_map_of_its_public_names():
    lines = [n for n in SOURCES[""].body if isinstance(n, ast.ImportFrom)]
    names = [alias for line in lines for alias in line.names]
    assert all(alias.name == alias.asname for alias in names), "write `from .module import X as X`"
    public = [alias.name for alias in names if alias.name != "_addresses"]
    assert len(set(public)) == len(public), "each public name is exported once"
    assert not [n for n in public if n.startswith("_")]
    floors = [floor(line.module or "") for line in lines]
    assert floors == sorted(floors), "the map follows the floors, lowest first"
    assert all(getattr(flax_inits, name).__doc__ for name in public)


def test_modules_stay_small():
    lengths = {name: len(file.read_text().splitlines()) for name, file in FILES.items()}
    long = {name: length for name, length in lengths.items() if length > LONGEST}
    assert not long, f"split these modules: {long}"
