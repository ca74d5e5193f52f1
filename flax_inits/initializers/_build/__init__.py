"""What initializers are built from: configured objects, checked arguments, fans, rounding.

Start with `configured`, which turns a function into a factory; then `call`.
"""
