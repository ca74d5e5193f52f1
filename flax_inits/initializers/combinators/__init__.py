"""Initializers made of initializers: of their values, or of slices of the leaf."""
