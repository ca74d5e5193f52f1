"""Whole models: `jit_init`, its plan, where its leaves are made, its static arguments.

Knows modules and the engine. Start with `jit_init`.
"""
