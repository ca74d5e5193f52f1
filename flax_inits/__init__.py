"""Initializers, layer surgery and fast whole-model initialization for JAX and Flax."""

from .initializers import normal as normal
from .initializers import uniform as uniform

__version__ = "0.1.0"
