"""Initializers for any layer: constants, uniforms, normals, scaled by fans, mixtures."""
