"""Which leaves of a tree are meant, and where they live.

Paths, patterns, selections and rules; boxes, shapes, dtypes, devices, shardings of leaves.
Nothing here makes a value or knows a module system. Start with `selection`, then `rules`.
"""
