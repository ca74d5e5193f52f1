"""Initializers that one architecture asks for: SIREN, deep residual, recurrent, SSM."""
