"""What only NNX knows. `flax.nnx` is imported where an NNX object is met, never before."""
