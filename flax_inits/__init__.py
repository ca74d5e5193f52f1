"""Initializers, surgery on trained params, and fast whole-model initialization for Flax.

- Initializers: `kernel_init=flax_inits.mixture()`; `print(flax_inits.catalogue())` lists them all.
- Surgery: `reinit(key, params, {"head": init})`, `graft(params, checkpoint, {"body": "encoder"})`
  (what it would do: `graft_plan`), and for a training state with its optimizer `reinit_state`,
  `reset_optimizer`.
- Whole models: `jit_init(model.init)(key, x)`, as `jax.jit(model.init)`, compiled much faster.
- What initialization did: `summary(params)`, `signal(model, variables, x)`.
- Schemes that set several layers together: `lsuv`, `deepnorm`, `mup`.
- Networks that stay able to learn: `shrink_perturb`, `dormant`, `recycle`.

In signatures, `Where` is what `select` takes, `Rules` maps a `Where` to an initializer and
`GraftRules` to where a leaf is taken from, a `PyTree` is any nesting of containers that JAX knows,
and an `Initializer` is called as `jax.nn.initializers` are: `(key, shape, dtype)`.
"""

# Randomness: keys whose bits come from one fused loop.
from ._base.bits import fused_key as fused_key

# Which leaves: names and selections.
from ._tree.paths import paths as paths
from ._tree.selection import select as select
from ._tree.resolve import all_but as all_but
from ._tree.parts import at as at
from ._tree.labels import labels as labels
from ._modules.of_type import of_type as of_type

# General initializers.
from .initializers.general.mixture import mixture as mixture
from .initializers.general.constants import constant as constant
from .initializers.general.constants import zeros as zeros
from .initializers.general.constants import ones as ones
from .initializers.general.uniform_normal import uniform as uniform
from .initializers.general.uniform_normal import normal as normal
from .initializers.general.truncated import truncated_normal as truncated_normal
from .initializers.general.scaling import variance_scaling as variance_scaling
from .initializers.general.gains import calculate_gain as calculate_gain
from .initializers.general.jax_style import lecun_normal as lecun_normal
from .initializers.general.jax_style import lecun_uniform as lecun_uniform
from .initializers.general.jax_style import he_normal as he_normal
from .initializers.general.jax_style import he_uniform as he_uniform
from .initializers.general.jax_style import glorot_normal as glorot_normal
from .initializers.general.jax_style import glorot_uniform as glorot_uniform
from .initializers.general.torch_style import xavier_normal as xavier_normal
from .initializers.general.torch_style import xavier_uniform as xavier_uniform
from .initializers.general.torch_style import kaiming_normal as kaiming_normal
from .initializers.general.torch_style import kaiming_uniform as kaiming_uniform
from .initializers.general.torch_style import torch_linear as torch_linear
from .initializers.general.torch_style import torch_bias as torch_bias
from .initializers.general.constants import from_array as from_array
from .initializers.general.sampler import from_sampler as from_sampler

# Structured initializers.
from .initializers.structured.matrices import identity as identity
from .initializers.structured.convolution import dirac as dirac
from .initializers.structured.orthogonal import orthogonal as orthogonal
from .initializers.structured.orthogonal import delta_orthogonal as delta_orthogonal
from .initializers.structured.matrices import sparse as sparse
from .initializers.structured.convolution import bilinear_upsample as bilinear_upsample
from .initializers.structured.convolution import icnr as icnr
from .initializers.structured.positions import sinusoidal as sinusoidal
from .initializers.structured.positions import sincos_2d as sincos_2d
from .initializers.structured.convolution import stft as stft
from .initializers.structured.matrices import layer_scale as layer_scale
from .initializers.structured.matrices import prior_bias as prior_bias

# Initializers by architecture.
from .initializers.architectures.siren import siren as siren
from .initializers.architectures.depth import small_init as small_init
from .initializers.architectures.depth import wang_init as wang_init
from .initializers.architectures.depth import residual_scaled as residual_scaled
from .initializers.architectures.depth import depth_scaled as depth_scaled
from .initializers.architectures.depth import mitchell as mitchell
from .initializers.architectures.depth import mup_scaled as mup_scaled
from .initializers.architectures.recurrent import lstm_forget_bias as lstm_forget_bias
from .initializers.architectures.recurrent import chrono as chrono
from .initializers.architectures.state_space import mamba_a_log as mamba_a_log
from .initializers.architectures.state_space import mamba_dt_bias as mamba_dt_bias
from .initializers.architectures.state_space import hippo_legs as hippo_legs
from .initializers.architectures.state_space import lru_nu_log as lru_nu_log
from .initializers.architectures.state_space import lru_theta_log as lru_theta_log

# Combinators: initializers made of initializers.
from .initializers.combinators.slices import stacked as stacked
from .initializers.combinators.slices import replicated as replicated
from .initializers.combinators.values import scaled as scaled
from .initializers.combinators.values import clipped as clipped
from .initializers.combinators.slices import blocks as blocks
from .initializers.combinators.values import masked as masked

# The table of all of them.
from .initializers.catalogue import catalogue as catalogue

# Surgery on existing trees.
from ._surgery.reinit import reinit as reinit
from ._surgery.graft import graft as graft
from ._surgery.graft_plan import graft_plan as graft_plan
from ._surgery.grafting.take import take as take
from ._surgery.grafting.growing import grow as grow
from ._surgery.grafting.adapters import cut as cut
from ._surgery.grafting.adapters import tile as tile
from ._surgery.grafting.joining import stack as stack
from ._surgery.grafting.joining import unstack as unstack
from ._surgery.grafting.joining import concatenate as concatenate
from ._surgery.grafting.adapters import transpose as transpose
from ._surgery.grafting.adapters import reshape as reshape
from ._surgery.grafting.resizing import resize as resize
from ._surgery.grafting.adapters import cast as cast

# Whole-model initialization.
from ._model.jit_init import jit_init as jit_init

# Reports.
from ._reports.summary import summary as summary
from ._reports.signal import signal as signal

# Optimizer states that follow.
from ._optimizer.reset import reset_optimizer as reset_optimizer
from ._optimizer.reset import OptimizerStateWarning as OptimizerStateWarning
from ._optimizer.train_state import reinit_state as reinit_state
from ._optimizer.graft_optimizer import graft_optimizer as graft_optimizer

# Whole-tree schemes.
from ._schemes.lsuv import lsuv as lsuv
from ._schemes.deepnorm import deepnorm as deepnorm
from ._schemes.deepnorm import deepnorm_gains as deepnorm_gains
from ._schemes.recurrences import chrono_gates as chrono_gates
from ._schemes.recurrences import lru_gamma as lru_gamma
from ._schemes.mup import mup as mup

# Plasticity: networks that stay able to learn.
from ._plasticity.shrink_perturb import shrink_perturb as shrink_perturb
from ._plasticity.dormant import dormant as dormant
from ._plasticity.recycle import recycle as recycle

# The types of what they return.
from . import results as results

# Last: public addresses for all of the above.
from . import _addresses as _addresses

# The names above, for `help` and `import *`. Type checkers read them off `X as X`.
_MODULES = ("initializers", "results")
__all__ = [n for n in vars() if n[0] != "_" and n not in _MODULES]  # pyright: ignore

__version__ = "0.2.0"
