"""What everything stands on: types, errors, checks of arguments, tables, caches, random bits.

Nothing here knows of trees, models or initializers, and nothing here imports from another folder.
Start with `types`, then `errors`; `bits` and `threefry` hold the fused random bits.
"""
