"""The factories, by family."""

from .basic import normal as normal
from .basic import uniform as uniform
