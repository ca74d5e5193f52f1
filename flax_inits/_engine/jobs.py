"""From a traced function to jobs: what makes each leaf, and which leaves are made together."""

from collections.abc import Mapping

from jax.sharding import Sharding

from .evaluate import vectorized
from .fallback import Whole, caught
from .graph import Node, Output, Value, order
from .host import HostComputable
from .placement import on_host
from .programs import Compiled, Pooled
from .recipe import Filled, Given, Job
from .rounding import rounding_safe
from .row_pattern import match
from .signature import Signer
from .trace import Traced

LARGEST_POOLED = 1 << 25
"""Elements above which a leaf is drawn in place: compiling costs less than copying its rows."""


def jobs_of(traced: Traced, shardings: Mapping[int, Sharding | None]) -> list[Job] | Whole:
    """The jobs for the outputs in `shardings`, or why the function must run as it stands."""
    if not traced.pure:
        return Whole("it has effects")
    try:
        return plan(traced, shardings)
    except Exception:  # jaxprs have no stability promise; jax.jit always works.
        return caught("the whole function is compiled")


def plan(traced: Traced, shardings: Mapping[int, Sharding | None]) -> list[Job]:
    """The jobs that make the outputs at the positions in `shardings`, each laid out as it says."""
    planner = _Planner(traced)
    values = {i: planner.safest(i) for i in shardings}
    return [
        planner.job([values[i] for i in group], [shardings[i] for i in group], tuple(group))
        for group in _groups(values, planner.computable)
    ]


class _Planner:
    """Finds the recipes of one traced function."""

    def __init__(self, traced: Traced):
        self._traced, self._signer = traced, Signer()
        self.computable = HostComputable()

    def safest(self, position: int) -> Value:
        """A leaf with calls inlined where that cannot change how XLA rounds it, else with them."""
        value = self._traced.outputs[position]
        if _is_scan(value) or rounding_safe(value, self.computable):
            return value
        return self._traced.with_calls[position]

    def job(
        self, values: list[Value], shardings: list[Sharding | None], positions: tuple[int, ...]
    ) -> Job:
        """What makes one leaf, or several together."""
        alone = self._alone(values[0], shardings[0], positions) if len(values) == 1 else None
        return alone or self._compiled(values, shardings, positions)

    def _alone(
        self, value: Value, sharding: Sharding | None, positions: tuple[int, ...]
    ) -> Job | None:
        """What makes one leaf without a program of its own, if anything does."""
        token = self._signer.token
        if on_host(sharding):
            batched = _batched(value)
            fill = self.computable.fill(batched)
            if fill is not None:
                return Job(Filled(token(fill), batched, sharding, fill), (), positions)
            fits = 0 < value.aval.size <= LARGEST_POOLED
            form = match(batched, self.computable, self._signer) if fits else None
            if form is not None:
                pooled = Pooled(token(form.factor), value, sharding, form)
                return Job(pooled, (form.key,), positions)
        if Given.fits(value, sharding):
            signed, given = self._signer.program([value], self.computable.is_key)
            return Job(Given(signed, value, sharding), tuple(given), positions)
        return None

    def _compiled(
        self, values: list[Value], shardings: list[Sharding | None], positions: tuple[int, ...]
    ) -> Job:
        token, given = self._signer.program(values, self.computable.is_key)
        fused = all(rounding_safe(_batched(value), self.computable) for value in values)
        recipe = Compiled(token, values, shardings, given, fused)
        return Job(recipe, recipe.given, positions)


def _is_scan(value: Value) -> bool:
    return isinstance(value, Output) and value.node.name == "scan"


def _batched(value: Value) -> Value:
    """A scan without a carry as one batched computation, where there is such a form."""
    if isinstance(value, Output) and _is_scan(value):
        return vectorized(value) or value
    return value


def _groups(values: Mapping[int, Value], computable: HostComputable) -> list[list[int]]:
    """Positions that share a costly node must be computed together; the others stand alone."""
    owner: dict[Node, int] = {}
    parent = {i: i for i in values}

    def root(i: int) -> int:
        while parent[i] != i:
            parent[i] = parent[parent[i]]
            i = parent[i]
        return i

    for i, value in values.items():
        for node in _costly_nodes(value, computable):
            parent[root(i)] = root(owner.setdefault(node, i))
    groups: dict[int, list[int]] = {}
    for i in values:
        groups.setdefault(root(i), []).append(i)
    return list(groups.values())


def _costly_nodes(value: Value, computable: HostComputable) -> list[Node]:
    nodes = order([value], computable.is_key)
    return [node for node in nodes if node.name != "broadcast_in_dim" and node.size > 1]
