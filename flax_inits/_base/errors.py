"""What the messages of all errors share: closest names, short lists, and where it happened."""

import contextlib
import difflib
import inspect
from collections.abc import Iterable, Iterator, Mapping, Sequence


def closest(name: str, known: Iterable[str]) -> list[str]:
    """The entries of `known` that look most like `name`, best first, three at most."""
    originals = {}
    for entry in known:
        originals.setdefault(entry.casefold(), entry)
    found = difflib.get_close_matches(name.casefold(), originals, n=3, cutoff=0.5)
    return [originals[match] for match in found]


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """A sentence that names the closest entries of `known`, or nothing if none is close."""
    found = closest(name, known)
    return f" Did you mean {listed(found, 'or')}?" if found else ""


def listed(items: Sequence[object], conjunction: str = "and", most: int = 5) -> str:
    """`items` quoted in a sentence, cut after `most`: 'a', 'b' and 3 more."""
    quoted = [repr(item) if isinstance(item, str) else str(item) for item in items]
    if len(quoted) > most:
        return f"{', '.join(quoted[:most])} and {len(quoted) - most} more"
    if len(quoted) > 1:
        return f"{', '.join(quoted[:-1])} {conjunction} {quoted[-1]}"
    return "".join(quoted)


def brief(value: object) -> str:
    """`value` in a sentence, on one line: an array by its type, a mapping by its keys."""
    shape, dtype = getattr(value, "shape", None), getattr(value, "dtype", None)
    if isinstance(shape, tuple) and dtype is not None:
        return f"{dtype}[{','.join(map(str, shape))}]"
    if isinstance(value, Mapping):
        keys = f" with keys {listed(list(map(str, value)), most=3)}" if value else " without keys"
        return f"a {type(value).__name__}{keys}"
    if isinstance(value, tuple | list) and type(value) in (tuple, list) and value:
        shown = ", ".join(map(brief, value))
        shown = f"[{shown}]" if isinstance(value, list) else f"({shown}{',' * (len(value) == 1)})"
    elif "\n" in (shown := repr(value)):
        shown = f"{type(value).__name__}(...)"
    return shown if len(shown) <= _LONGEST else f"{shown[:_LONGEST]}..."


_LONGEST = 200


def called_with(args: Iterable[object], kwargs: Mapping[str, object]) -> str:
    """The arguments of a call, in brief."""
    return ", ".join(
        [*map(brief, args), *(f"{name}={brief(value)}" for name, value in kwargs.items())]
    )


@contextlib.contextmanager
def noted(note: str) -> Iterator[None]:
    """Lets any exception pass through with `note` added, once."""
    try:
        yield
    except Exception as error:
        if note not in getattr(error, "__notes__", ()):
            error.add_note(note)
        raise


@contextlib.contextmanager
def noted_of_state(tree: object, instead: str) -> Iterator[None]:
    """Lets exceptions about params say what to do where the tree has an optimizer's state, too."""
    known = noted(f"the tree holds an optimizer's state: {instead}")
    with known if hasattr(tree, "opt_state") else contextlib.nullcontext():
        yield


BY_KEY_ALONE = (
    "while init_fn was called with a key and nothing else, as lambda key: model.init(key, x) or "
    "lambda key: Model(nnx.Rngs(key)) are"
)
"""A note on what comes out of an `init_fn`."""


def outside() -> int:
    """The stacklevel, for a warning of the caller, of the first frame outside of this package."""
    frame, level = inspect.currentframe(), 0
    while frame and frame.f_globals.get("__name__", "").split(".")[0] == "flax_inits":
        frame, level = frame.f_back, level + 1
    return level
