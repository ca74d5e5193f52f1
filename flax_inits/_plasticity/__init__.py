"""Keeping a network able to learn: `dormant`, `recycle`, `shrink_perturb`.

Knows surgery and optimizer states. Start with `recycle`.
"""
