"""From a traced function to jobs: what makes each leaf, and which leaves are made together."""

from collections.abc import Hashable, Mapping, Sequence

from jax.sharding import Sharding

from .._base.jax_state import only_explicit_x64
from .evaluate import vectorized
from .fallback import Whole, caught
from .graph import Output, Value
from .host import HostComputable
from .placement import on_host, replicated
from .programs import Compiled, Pooled
from .recipe import Filled, Given, Job
from .rounding import draws_for_qr, draws_in_16_bits, rounding_safe
from .row_pattern import match
from .sharing import Numbering, groups
from .signature import Signer
from .trace import Traced

LARGEST_POOLED = 1 << 25
"""Elements above which a leaf is drawn in place: compiling costs less than copying its rows."""


def jobs_of(traced: Traced, shardings: Mapping[int, Sharding | None]) -> list[Job] | Whole:
    """Plans the outputs in `shardings`, or says why the function must run as it stands."""
    # An effect has an order among all others; leaf by leaf there is none.
    if not traced.pure:
        return Whole("it has effects")
    # There a dtype is wide only where somebody names it, and the engine's own operations (of keys,
    # scalars, fused bits) name none.
    if only_explicit_x64() and traced.is_wide:
        return Whole("it makes 64-bit values without jax_enable_x64")
    try:
        return plan(traced, shardings)
    except Exception:  # jaxprs have no stability promise; jax.jit always works.
        return caught("the whole function is compiled")


def plan(traced: Traced, shardings: Mapping[int, Sharding | None]) -> list[Job]:
    """Finds the jobs that make the outputs at the positions in `shardings`, laid out as it says.

    They also make other outputs, where the bits of those depend on it.
    """
    planner = _Planner(traced)
    jobs: list[Job] = []
    for group in planner.groups():
        wanted = [i for i in group if i in shardings]
        if not wanted:
            continue
        # Tied leaves share all their work, and are one value: nothing else reads their draw.
        if planner.are_alike(group):
            jobs += [planner.alone(i, shardings[i]) for i in wanted]
            continue
        # Leaves that nobody asked for are made as well: without some of its readers, XLA may fuse a
        # draw with the others in another way, and so round these otherwise.
        beside = replicated(shardings[wanted[0]])
        laid_out = [shardings[i] if i in shardings else beside for i in group]
        # As written, calls and scans too: any other form may be fused in another way.
        values = [traced.as_written[i] for i in group]
        jobs.append(planner.compiled(values, laid_out, tuple(group), fused=False))
    return jobs


class _Planner:
    """Finds the recipes of one traced function."""

    def __init__(self, traced: Traced):
        self._traced, self._signer, self._computable = traced, Signer(), HostComputable()
        self._numbering = Numbering(self._computable, self._signer)
        self._found: dict[Hashable, tuple[Job, list[Value]]] = {}
        """What makes a leaf, and what that leaf was given, by its signature."""

    def groups(self) -> list[list[int]]:
        """Puts positions together whose leaves share work; the others stand alone."""
        return groups(list(map(self._numbering.work, self._traced.outputs)))

    def are_alike(self, group: Sequence[int]) -> bool:
        """Whether all leaves of a group are one value: then each is made for itself."""
        values = [self._traced.outputs[i] for i in group]
        return len(values) == 1 or len(set(map(self._numbering.number, values))) == 1

    def alone(self, position: int, sharding: Sharding | None) -> Job:
        """Finds what makes one leaf that shares no work."""
        value, positions = self._traced.outputs[position], (position,)
        # Layers differ in nothing but their keys: what is found for one of them holds for all.
        token, given = self._signer.graph([value], self._computable.is_key, origins=True)
        if (token, sharding) in self._found:
            job, others = self._found[token, sharding]
            keys = (given[others.index(key)] for key in job.given)
            return Job(job.recipe, tuple(keys), positions)
        # Calls are inlined only where that cannot change how XLA rounds.
        if not _is_scan(value) and not rounding_safe(value, self._computable):
            return self._searched(self._traced.with_calls[position], value, sharding, positions)
        job = self._searched(value, value, sharding, positions)
        if not isinstance(job.recipe, Given) and set(job.given) <= set(given):
            self._found[token, sharding] = job, given
        return job

    def _searched(
        self,
        value: Value,
        inlined: Value,
        sharding: Sharding | None,
        positions: tuple[int, ...],
    ) -> Job:
        job = self._without_own_program(value, sharding, positions)
        if job is not None:
            return job
        fused = rounding_safe(_batched(value), self._computable)
        # Other devices have no LAPACK: there a decomposition is operations as all others are.
        if not fused and on_host(sharding):
            fused = draws_for_qr(inlined, self._computable)
        return self.compiled([value], [sharding], positions, fused)

    def _without_own_program(
        self, value: Value, sharding: Sharding | None, positions: tuple[int, ...]
    ) -> Job | None:
        """Finds what makes one leaf without a program of its own, if anything does."""
        token = self._signer.token
        # The cheapest first. NumPy fills the memory of one CPU device; anywhere else a leaf would
        # have to cross from the host, where a program makes it on the spot.
        if on_host(sharding):
            batched = _batched(value)
            fill = self._computable.fill(batched)
            if fill is not None:
                return Job(Filled(token(fill), batched, sharding, fill), (), positions)
            fits = 0 < value.aval.size <= LARGEST_POOLED
            loop = value.node if isinstance(value, Output) and _is_scan(value) else None
            form = match(batched, self._computable, self._signer, loop) if fits else None
            if form is not None:
                scalars = [step.scalar for step in form.steps]
                pooled = Pooled(token(scalars), value, sharding, form)
                return Job(pooled, form.keys, positions)
        if Given.fits(value, sharding):
            signed, given = self._signer.graph([value], self._computable.is_key)
            return Job(Given(signed, value, sharding), tuple(given), positions)
        return None

    def compiled(
        self,
        values: Sequence[Value],
        shardings: Sequence[Sharding | None],
        positions: tuple[int, ...],
        fused: bool,
    ) -> Job:
        """Finds what makes leaves by a program of their own."""
        token, given = self._signer.graph(values, self._computable.is_key)
        recipe = Compiled(token, values, shardings, given, fused)
        return Job(recipe, recipe.given, positions)


def _is_scan(value: Value) -> bool:
    return isinstance(value, Output) and value.node.name == "scan"


def _batched(value: Value) -> Value:
    """Turns a scan without a carry into one batched computation, where there is such a form."""
    if not isinstance(value, Output) or not _is_scan(value):
        return value
    batched = vectorized(value)
    # In a loop XLA may round 16-bit floats after each operation, and in one loop over all elements
    # only at the end.
    return value if batched is None or draws_in_16_bits(batched) else batched
