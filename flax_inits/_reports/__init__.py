"""What a tree or a model is like: `summary` of the values, `signal` of what flows through.

Reads trees and models, and changes nothing. Start with `summary` and `signal`.
"""
