"""Changing an existing tree: fresh values for chosen leaves, or values of another tree.

Knows trees, modules and the engine; takes any callable as an initializer. Start with `reinit`;
`cautions` holds its warnings.
"""
