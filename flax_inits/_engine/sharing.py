"""Which leaves share work, so that XLA may round one of them by what the others do with it.

If two leaves are made of one draw, XLA decides for both where it is computed: it may keep it, or
compute it again in each loop that reads it, where a product and a sum become a fused multiply-add.
So what shares work is compiled together, as it was written.
"""

from collections.abc import Hashable, Sequence

from .graph import Constant, Input, Node, Output, Value, order, unknown
from .host import HostComputable
from .jaxpr import opened
from .signature import Signer
from .trace import flatten


class Numbering:
    """Numbers values: equal for what is computed alike, wherever it stands.

    XLA merges equal computations before it decides what to fuse, so two draws with one key are one.
    """

    def __init__(self, computable: HostComputable, signer: Signer):
        self._computable, self._signer = computable, signer
        self._numbers: dict[Hashable, int] = {}
        self._known: dict[Value | Node, tuple[int, bool]] = {}
        """The number, and whether a draw or an argument is part of it."""

    def number(self, value: Value) -> tuple[int, int]:
        """Numbers a value; equal for equal values."""
        index = value.index if isinstance(value, Output) else 0
        return self._value(value)[0], index

    def work(self, value: Value) -> set[Hashable]:
        """Collects what is computed on the way to `value` and is worth sharing.

        Not keys, which the host computes, and not scalars.
        """
        found: set[Hashable] = set()
        # XLA folds such a leaf to a constant, so it reads nothing.
        if self._computable.fill(value) is not None:
            return found
        self._value(value)
        for node in order([value], self._computable.is_key):
            if node.name == "scan":
                found |= self._work_inside(node)
            if node.size > 1 and node.name != "broadcast_in_dim":
                number, varies = self._known[node]
                # Equal tables and masks in many layers are no reason to compile these together.
                found.add(number if varies else node)
        return found

    def _work_inside(self, scan: Node) -> set[Hashable]:
        """Collects the work in the body of a scan, that others over the same arrays may do."""
        # What a body draws depends on what it is given, not on which scan it stands in: so its
        # inputs are numbered by the arrays outside that they are, or are slices of.
        body, constants = opened(scan.params["jaxpr"])
        inputs = [Input(i, var.aval) for i, var in enumerate(body.invars)]
        for outer, inner in zip(scan.inputs, inputs, strict=True):
            number, varies = self._value(outer)
            sliced = len(outer.aval.shape) > len(inner.aval.shape)
            index = outer.index if isinstance(outer, Output) else 0
            self._known[inner] = self._numbered(("in a scan", number, index, sliced)), varies
        outputs = flatten(body, constants, inputs)
        return set().union(*(self.work(output) for output in outputs))

    def _value(self, value: Value) -> tuple[int, bool]:
        if isinstance(value, Output):
            known = self._known
            for node in unknown(value, known):
                known[node] = self._node(node)
            return known[value.node]
        if value not in self._known:
            if isinstance(value, Constant):
                token = self._signer.token(value.value)
                self._known[value] = self._numbered(("constant", token, value.aval)), False
            else:
                self._known[value] = self._numbered(value), True
        return self._known[value]

    def _node(self, node: Node) -> tuple[int, bool]:
        inputs = [self._value(value) for value in node.inputs]
        numbers = tuple(map(self.number, node.inputs))
        token = (node.primitive, self._signer.params(node), numbers, node.context)
        varies = node.name == "random_bits" or any(varies for _, varies in inputs)
        return self._numbered(token), varies

    def _numbered(self, token: Hashable) -> int:
        return self._numbers.setdefault(token, len(self._numbers))


def groups(work: Sequence[set[Hashable]]) -> list[list[int]]:
    """Puts positions together that share work, directly or through others."""
    owner: dict[Hashable, int] = {}
    parent = list(range(len(work)))

    def root(i: int) -> int:
        while parent[i] != i:
            parent[i] = parent[parent[i]]
            i = parent[i]
        return i

    for i, parts in enumerate(work):
        for part in parts:
            parent[root(i)] = root(owner.setdefault(part, i))
    found: dict[int, list[int]] = {}
    for i in range(len(work)):
        found.setdefault(root(i), []).append(i)
    return list(found.values())
