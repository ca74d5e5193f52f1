"""What only Linen knows: modules of a class, and modules that make their params, watched.

Start with `of_type`; `watch` lets a module's own code call a rule's initializer, `calls`
hands over the calls of modules, `network` a module as what is run.
"""
