"""Builds the reference of every public name: one HTML file, which needs no network.

    python .ci/reference/build.py                 # writes build/reference.html
    python .ci/reference/build.py elsewhere.html

Groups and their order are those of `flax_inits/__init__.py`. It needs pdoc, which is in
`flax_inits[dev]`.
"""

import argparse
import dataclasses
import inspect
import re
import sys
import types
from pathlib import Path

import pdoc.doc
import pdoc.render

import flax_inits

FOLDER = Path(__file__).resolve().parent
RESULTS = "The types of what they return: flax_inits.results"


class AsWritten:
    """An annotation as the source has it, where pdoc would show what a string stands for."""

    def __init__(self, text):
        self.text = text

    def __repr__(self):
        return self.text


def as_written(function):
    """Gives a function or class a signature such as `where: Where`."""

    def shown(annotation):
        if annotation is inspect.Signature.empty:
            return annotation
        text = annotation if isinstance(annotation, str) else inspect.formatannotation(annotation)
        return AsWritten(re.sub(r"\b(flax_inits|collections)\.[\w.]*\.", "", text))

    old = inspect.signature(function)
    parameters = [p.replace(annotation=shown(p.annotation)) for p in old.parameters.values()]
    function.__signature__ = inspect.Signature(
        parameters, return_annotation=shown(old.return_annotation)
    )


def to_its_source(value):
    """Lets `inspect`, and so pdoc, find the source of a class that says where it is public."""
    for name, module in list(sys.modules.items()):
        if name.startswith(flax_inits.__name__) and vars(module).get(value.__name__) is value:
            for number, line in enumerate(inspect.getsource(module).splitlines(), 1):
                if re.match(rf"class {value.__name__}\b", line):
                    value.__module__, value.__firstlineno__ = module.__name__, number


def groups():
    """The comments of the package's map, and the public names below each."""
    source = inspect.getsource(flax_inits)
    for title, lines in re.findall(r"^# (.+)\.\n((?:from .+ as \w+\n)+)", source, re.MULTILINE):
        names = [n for n in re.findall(r" as (\w+)$", lines, re.MULTILINE) if n[0] != "_"]
        if names and names != ["results"]:
            yield title, {name: vars(flax_inits)[name] for name in names}
    yield RESULTS, {n: value for n, value in vars(flax_inits.results).items() if n[0].isupper()}


def page():
    """The HTML."""
    module = types.ModuleType(flax_inits.__name__, flax_inits.__doc__)
    listed = dict(groups())
    for title, values in listed.items():
        for value in values.values():
            if inspect.isclass(value):
                to_its_source(value)
            for called in vars(value).values() if title == RESULTS else [value]:
                function = getattr(called, "__func__", called)  # of a class method
                if inspect.isfunction(function) or dataclasses.is_dataclass(function):
                    as_written(function)
        vars(module).update(values)
    module.__all__ = [name for values in listed.values() for name in values]
    pdoc.render.configure(docformat="google", show_source=False, template_directory=FOLDER)
    pdoc.render.env.globals |= {"groups": listed, "results": RESULTS}
    pdoc.render.env.globals |= {"version": flax_inits.__version__}
    documented = pdoc.doc.Module(module)
    text = pdoc.render.html_module(documented, {documented.modulename: documented})
    ids = set(re.findall(r' id="([^"]+)"', text))
    # An argument is no attribute that the page shows, though pdoc knows one of that name.
    return re.sub(
        r'<a href="#([^"]+)">(.*?)</a>', lambda link: link[0] if link[1] in ids else link[2], text
    )


def main():
    """Writes the page."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    default = FOLDER.parents[1] / "build" / "reference.html"
    parser.add_argument("file", nargs="?", type=Path, default=default, help="where to write it")
    file = parser.parse_args().file
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(page(), encoding="utf-8")
    print(f"{file.name}: {len(flax_inits.__all__)} names, {file.stat().st_size // 1024} KiB")


if __name__ == "__main__":
    main()
