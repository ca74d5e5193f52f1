"""Which leaf of a donor becomes which leaf of a tree, and through what changes.

Patterns become paths (`patterns`, `sources`), adapters become views that are read part by part
(`adapters`, `views`), and all is checked before anything is read (`planning`). Start with
`adapters`, then `planning`.
"""
