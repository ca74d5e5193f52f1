"""The factories, by family: what a user passes as `kernel_init`.

`general` for any layer, `structured` where elements depend on each other, `architectures` for what
one architecture asks for, `combinators` for initializers made of initializers. They know nothing of
trees, models and optimizers, and nothing but the schemes knows them. Start with
`general/uniform_normal`; `_build` makes a function into a factory.
"""

from .architectures.depth import depth_scaled as depth_scaled
from .architectures.depth import mitchell as mitchell
from .architectures.depth import mup_scaled as mup_scaled
from .architectures.depth import residual_scaled as residual_scaled
from .architectures.depth import small_init as small_init
from .architectures.depth import wang_init as wang_init
from .architectures.recurrent import chrono as chrono
from .architectures.recurrent import lstm_forget_bias as lstm_forget_bias
from .architectures.siren import siren as siren
from .architectures.state_space import hippo_legs as hippo_legs
from .architectures.state_space import lru_nu_log as lru_nu_log
from .architectures.state_space import lru_theta_log as lru_theta_log
from .architectures.state_space import mamba_a_log as mamba_a_log
from .architectures.state_space import mamba_dt_bias as mamba_dt_bias
from .catalogue import catalogue as catalogue
from .combinators.slices import blocks as blocks
from .combinators.slices import replicated as replicated
from .combinators.slices import stacked as stacked
from .combinators.values import clipped as clipped
from .combinators.values import masked as masked
from .combinators.values import scaled as scaled
from .general.constants import constant as constant
from .general.constants import from_array as from_array
from .general.constants import ones as ones
from .general.constants import zeros as zeros
from .general.gains import calculate_gain as calculate_gain
from .general.jax_style import glorot_normal as glorot_normal
from .general.jax_style import glorot_uniform as glorot_uniform
from .general.jax_style import he_normal as he_normal
from .general.jax_style import he_uniform as he_uniform
from .general.jax_style import lecun_normal as lecun_normal
from .general.jax_style import lecun_uniform as lecun_uniform
from .general.mixture import mixture as mixture
from .general.sampler import from_sampler as from_sampler
from .general.scaling import variance_scaling as variance_scaling
from .general.torch_style import kaiming_normal as kaiming_normal
from .general.torch_style import kaiming_uniform as kaiming_uniform
from .general.torch_style import torch_bias as torch_bias
from .general.torch_style import torch_linear as torch_linear
from .general.torch_style import xavier_normal as xavier_normal
from .general.torch_style import xavier_uniform as xavier_uniform
from .general.truncated import truncated_normal as truncated_normal
from .general.uniform_normal import normal as normal
from .general.uniform_normal import uniform as uniform
from .structured.convolution import bilinear_upsample as bilinear_upsample
from .structured.convolution import dirac as dirac
from .structured.convolution import icnr as icnr
from .structured.convolution import stft as stft
from .structured.matrices import identity as identity
from .structured.matrices import layer_scale as layer_scale
from .structured.matrices import prior_bias as prior_bias
from .structured.matrices import sparse as sparse
from .structured.orthogonal import delta_orthogonal as delta_orthogonal
from .structured.orthogonal import orthogonal as orthogonal
from .structured.positions import sincos_2d as sincos_2d
from .structured.positions import sinusoidal as sinusoidal
