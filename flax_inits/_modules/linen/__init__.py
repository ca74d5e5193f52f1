"""What only Linen knows: modules of a class, rules that modules call, watching them.

Start with `of_type`; `reach` and `watch` let a module's own code call a rule's initializer.
"""
