"""Which leaves of a tree are meant, and where they live.

Paths, patterns, selections and rules; boxes, shapes, dtypes, devices, shardings of leaves.
Of module systems it knows one thing: NNX modules are trees (`modules`). Start with `selection`,
then `rules`.
"""
