"""Imports go upward only, heavy packages load on use, and only public JAX is used."""

import ast
import graphlib
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import flax_inits

PACKAGE = Path(flax_inits.__file__).parent

# Lowest first; a module may import from its own layer and those before it. "initializers" stands
# for all of its modules, "" for the package itself.
LAYERS = (
    ("_types", "_errors", "_table", "_cache", "_context"),
    ("_threefry", "_bits", "_boxes", "_glob", "_paths", "_leaves", "_linen"),
    (
        "_graph",
        "_fold",
        "_jaxpr",
        "_signature",
        "_keys",
        "_pool",
        "_recipe",
        "_compile",
        "_execute",
        "_progress",
        "_call",
    )
    + ("initializers",),
    ("_trace", "_modules", "_rules", "_replicas", "_watch", "_reach", "_reinit", "_graft")
    + ("_optimizer_labels", "_optimizer_owners", "_optimizer_fresh", "_optimizer")
    + ("_optimizer_state", "_recycle_dormant", "_recycle_graph", "_recycle_apply", "_recycle")
    + ("_recycle_shrink",),
    ("_plan", "_statics", "_places", "_init")
    + ("_derived", "_deepnorm", "_schemes", "_lsuv_scale", "_lsuv", "_mup_rows", "_mup"),
    ("_statistics", "_repeats", "_summary", "_report", "_taps", "_recording", "_activations")
    + ("_symptoms", "_signal_table", "_signal", "_plots"),
    ("",),
)
ON_USE = ("optax", "flax.training", "flax.nnx", "rich", "matplotlib")


def name_of(file: Path) -> str:
    """The dotted name of a module below the package, "" for the package's own `__init__`."""
    parts = file.relative_to(PACKAGE).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


FILES = {name_of(file): file for file in sorted(PACKAGE.rglob("*.py"))}
SOURCES = {name: ast.parse(file.read_text(), str(file)) for name, file in FILES.items()}


def group(name: str) -> str:
    return name.split(".")[0]


def layer(name: str) -> int:
    found = [number for number, layer in enumerate(LAYERS) if group(name) in layer]
    assert found, f"{name} has no layer yet: add it to LAYERS in this file"
    return found[0]


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
        if group(imported) == "flax_inits":
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


@pytest.mark.parametrize("name", FILES)
def test_imports_go_upward(name):
    higher = {target for target in own_imports(name) if layer(target) > layer(name)}
    assert not higher, f"{name} (layer {layer(name)}) imports from higher layers: {higher}"


def test_imports_are_seen():
    assert {"_bits", "_types", "initializers._base"} <= own_imports("initializers.basic")
    assert {"_errors", "_types"} <= own_imports("_paths")


def test_no_import_cycle():
    order = graphlib.TopologicalSorter({name: own_imports(name) for name in FILES if name})
    order.prepare()


def test_any_callable_is_an_initializer():
    """Whatever makes leaves takes any callable and knows no factory; schemes may use them."""
    makers = [n for n in FILES if layer(n) <= layer("_reinit") and group(n) != "initializers"]
    targets = {(name, target) for name in makers for target in own_imports(name)}
    assert not {(name, target) for name, target in targets if group(target) == "initializers"}


@pytest.mark.parametrize("name", FILES)
def test_heavy_packages_are_imported_on_use(name):
    nodes = [n for n in at_import(SOURCES[name]) if isinstance(n, ast.Import | ast.ImportFrom)]
    eager = {imported for node in nodes for imported in imports(name, node)}
    heavy = {imported for imported in eager if any(is_within(imported, h) for h in ON_USE)}
    assert not heavy, f"{name} imports {heavy} at import: move it into the function that uses it"


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


@pytest.mark.parametrize("name", FILES)
def test_only_public_names_of_others(name):
    imported = {i for i in imports(name, SOURCES[name]) if "_src" in i.split(".")}
    nodes = [n for n in ast.walk(SOURCES[name]) if isinstance(n, ast.Attribute)]
    reached = {ast.unparse(node) for node in nodes if node.attr == "_src"}
    assert not imported | reached, f"{name} uses private modules: {imported | reached}"


def test_the_package_is_a_map_of_its_public_names():
    lines = [n for n in SOURCES[""].body if isinstance(n, ast.ImportFrom)]
    names = [alias for line in lines for alias in line.names]
    assert all(alias.name == alias.asname for alias in names), "write `from .module import X as X`"
    public = [alias.name for alias in names]
    assert len(set(public)) == len(public), "each public name is exported once"
    assert not [n for n in public if n.startswith("_")]
    layers = [layer(line.module or "") for line in lines]
    assert layers == sorted(layers), "the map follows the layers, lowest first"
    assert all(getattr(flax_inits, name).__doc__ for name in public)


def test_modules_stay_small():
    long = {name: n for name, f in FILES.items() if (n := len(f.read_text().splitlines())) > 300}
    assert not long, f"split these modules: {long}"
