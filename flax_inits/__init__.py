"""Initializers, layer surgery and fast whole-model initialization for JAX and Flax."""

# Which leaves: names and selections.
from ._paths import paths as paths
from ._paths import select as select

# What goes into them: initializers, and combinators of initializers.
from .initializers import blocks as blocks
from .initializers import clipped as clipped
from .initializers import constant as constant
from .initializers import from_array as from_array
from .initializers import from_sampler as from_sampler
from .initializers import masked as masked
from .initializers import mixture as mixture
from .initializers import normal as normal
from .initializers import ones as ones
from .initializers import replicated as replicated
from .initializers import scaled as scaled
from .initializers import stacked as stacked
from .initializers import truncated_normal as truncated_normal
from .initializers import uniform as uniform
from .initializers import zeros as zeros

# isort: split
# Surgery on existing trees.
from ._modules import of_type as of_type

__version__ = "0.1.0"
