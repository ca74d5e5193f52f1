"""What only NNX knows: modules that make their variables, watched; modules of a class.

`flax.nnx` is imported where an object of it is met, never before. Start with `watch`: it lets a
module's own code call a rule's initializer; `hook` is what it knows of Flax's internals.
`calls` hands over the calls of modules, `network` a module as what is run.
"""
