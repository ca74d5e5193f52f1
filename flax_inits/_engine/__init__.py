"""From a traced function to arrays: each distinct program is compiled once and run many times.

Knows jaxprs, devices and random bits; nothing of rules, models or optimizers. Start with `recipe`
(how a leaf comes to be), then `make` (an init function as recipes), `compile` and `execute`.
"""
