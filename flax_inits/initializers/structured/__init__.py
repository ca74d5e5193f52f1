"""Initializers whose elements depend on each other: orthogonal, identities, tables."""
