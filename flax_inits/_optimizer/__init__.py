"""Optimizer states that stay consistent with params that were changed.

Knows optax and surgery. Start with `reset`; `entries` says which entry belongs to which leaf.
"""
