"""How a leaf comes to be: recipes, and the jobs that apply them.

A `Recipe` hashes and compares by what it computes, so what equal ones need is compiled once,
whoever asked for them. `Filled` and `Given` need no program; `Pooled` and `Compiled` (in
`programs`) do. A `Job` says which leaves a recipe makes, and from which keys and arrays.
"""

from collections.abc import Hashable, Iterator, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.sharding import Sharding

from .._base.bits import is_key_dtype
from .._base.types import Array, Token
from .graph import Constant, Input, Value, order
from .host import HostEvaluator
from .key_words import impl_of
from .memory import filled, owned


class Recipe:
    """How one leaf comes to be, or several that share what is costly to compute."""

    __slots__ = ("token", "outputs", "shardings", "_hash")

    def __init__(
        self, token: Token, outputs: Sequence[Value], shardings: Sequence[Sharding | None]
    ):
        self.outputs, self.shardings = tuple(outputs), tuple(shardings)
        shapes = tuple((v.aval.shape, v.aval.dtype) for v in self.outputs)
        self.token = (type(self).__name__, token, shapes, self.shardings)
        """Equal for recipes that make the same of the same keys and arrays."""
        # Tokens are nested deeply and looked up often: at each call, in each table of programs.
        self._hash = hash(self.token)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Recipe) and self.token == other.token

    def __hash__(self) -> int:
        return self._hash

    @property
    def shared_by(self) -> Token | None:
        """Equal for recipes that one compiled program makes; None if none is needed."""
        return None


class Job(NamedTuple):
    """A recipe with what it is given, and the positions of the leaves that it makes."""

    recipe: Recipe
    given: tuple[Value, ...]
    """The keys and arrays, as values of the graph."""

    positions: tuple[int, ...]
    evaluator: HostEvaluator | None = None
    """Computes the keys and reads the arrays; None as long as nothing is known but their types."""

    def of(self, evaluator: HostEvaluator) -> "Job":
        """Gives the job the keys and arrays that are known now."""
        return self._replace(evaluator=evaluator)

    @property
    def arguments(self) -> list[Any]:
        """What the recipe's program takes: the words of keys, and arrays as they are."""
        return list(map(self.known.argument, self.given))

    @property
    def known(self) -> HostEvaluator:
        """The evaluator of a job whose keys and arrays are known."""
        if self.evaluator is None:
            raise ValueError("The job knows the types of its keys and arrays only.")
        return self.evaluator


class Filled(Recipe):
    """A leaf of one number, which the host knows."""

    __slots__ = ("fill",)

    def __init__(self, token: Token, output: Value, sharding: Sharding | None, fill: np.ndarray):
        super().__init__(token, [output], [sharding])
        self.fill = fill


class Given(Recipe):
    """A leaf that is an argument, or an array that the function closes over."""

    __slots__ = ()

    def __init__(self, token: Token, output: Value, sharding: Sharding | None):
        super().__init__(token, [output], [sharding])

    @staticmethod
    def fits(value: Value, sharding: Sharding | None) -> bool:
        """Whether the value passes through the function, and may stay where it is."""
        # Copies through NumPy have no weak type; what a program makes has.
        weak = getattr(value.aval, "weak_type", False)
        return isinstance(value, Input | Constant) and not weak and sharding is None

    def make(self, job: Job) -> Array:
        """Copies the array: nothing that is made shares memory with what was given."""
        (value,) = self.outputs
        if is_key_dtype(value.aval.dtype):
            words = owned(job.known.key_words(value), None)
            return jax.random.wrap_key_data(words, impl=impl_of(value.aval.dtype))
        source = value.value if isinstance(value, Constant) else job.known.argument(value)
        if not isinstance(source, jax.Array):
            return owned(np.asarray(source), None)
        # `jax.jit` makes a closed-over array on the default device, even if it is committed to
        # another one; an argument stays where it is.
        closed_over = isinstance(value, Constant) and source.is_fully_addressable
        return owned(np.asarray(source), None) if closed_over else source.copy()


def made_without_programs(jobs: Sequence[Job]) -> Iterator[tuple[Job, Array]]:
    """Makes the leaves that are filled, those of one number together, and those that are given."""
    alike: dict[Hashable, list[tuple[Job, Filled]]] = {}
    for job in jobs:
        if isinstance(job.recipe, Given):
            yield job, job.recipe.make(job)
        elif isinstance(job.recipe, Filled):
            fill, (sharding,) = job.recipe.fill, job.recipe.shardings
            number = (fill.dtype, fill.tobytes(), sharding)
            alike.setdefault(number, []).append((job, job.recipe))
    for group in alike.values():
        recipe = group[0][1]
        shapes = [other.outputs[0].aval.shape for _, other in group]
        leaves = filled(shapes, recipe.fill, *recipe.shardings)
        yield from zip([job for job, _ in group], leaves, strict=True)


def constants_of(outputs: Sequence[Value], given: Sequence[Value] = ()) -> list[Constant]:
    """Lists the constants that `outputs` are made of, up to what is given."""
    nodes = order(outputs, set(given).__contains__)
    values = {*outputs, *(value for node in nodes for value in node.inputs)}
    return [value for value in values if isinstance(value, Constant)]


def nbytes(constants: Sequence[Constant]) -> int:
    """Counts the bytes of the arrays among constants."""
    return sum(getattr(constant.value, "nbytes", 0) for constant in constants)
