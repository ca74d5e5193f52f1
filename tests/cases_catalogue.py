"""More rows of the table: scaled, structured and architecture-specific initializers."""

from collections.abc import Callable
from typing import Any

import numpy as np
from cases import FLOATS, INF, Case

import flax_inits as fi

NO_NUMBERS = ("int32", "bool")
COMPLEX_TOO = (*FLOATS, "complex64")
REAL: dict[str, Any] = {"dtypes": FLOATS, "not_dtypes": ("int32", "complex64")}
KERNELS = ((0, 3), (3, 0), (3, 3, 4, 6))
# Bounds of a normal cut at two standard deviations and rescaled to variance 1.
CUT = 2 / 0.87962566103423978


def kernel(make: Callable[[], Any], variance: float, reach: float = INF, **other: Any) -> Case:
    """A row for kernels of mean 0, here of shape (8, 12), within `reach` standard deviations."""
    # The other kernels have larger fans, so what is true of this shape holds for them.
    bound = INF if reach == INF else float(np.float32(reach * variance**0.5))
    row = {"shapes": KERNELS, "dtypes": COMPLEX_TOO, "not_dtypes": NO_NUMBERS, **other}
    return Case(make, -bound, bound, 0, variance, **row)


def fixed(make: Callable[[], Any], mean: Any, **other: Any) -> Case:
    """A row for what needs no key."""
    row = {"shapes": KERNELS, "fixed": True, "not_dtypes": NO_NUMBERS, **other}
    return Case(make, mean=mean, variance=0, **row)


def eye(shape: tuple[int, ...], gain: float = 1.0) -> np.ndarray:
    return np.broadcast_to(gain * np.eye(*shape[-2:]), shape)


UNIFORM = 3**0.5

SCALING = (
    kernel(lambda: fi.variance_scaling(2, "fan_in", "truncated_normal"), 2 / 8, CUT),
    kernel(lambda: fi.variance_scaling(1.5, "fan_out", "normal"), 1.5 / 12),
    kernel(lambda: fi.variance_scaling(0.5, "fan_avg", "uniform"), 0.5 / 10, UNIFORM),
    kernel(lambda: fi.variance_scaling(1.0, "fan_geo_avg", "normal"), 1 / 8, shape=(4, 16)),
    kernel(lambda: fi.variance_scaling(0, "fan_in", "normal"), 0, fixed=True),
    kernel(
        lambda: fi.variance_scaling(2.0, "fan_out", "normal", groups=4),
        2 / 3,
        symbolic="a, 12",
        shapes=((0, 4), (3, 3, 1, 8)),
    ),
    kernel(
        lambda: fi.variance_scaling(1.0, "fan_in", "uniform", fan_in=25, fan_out=1),
        1 / 25,
        UNIFORM,
        shapes=((), (0, 3), (7,), (2, 3, 5)),
    ),
    kernel(
        lambda: fi.variance_scaling(1.0, "fan_in", "truncated_normal", batch_axis=0),
        1 / 4,
        CUT,
        shape=(2, 4, 8),
        shapes=((2, 0, 3),),
        symbolic="a, b, c",
    ),
    kernel(
        lambda: fi.variance_scaling(1.0, "fan_in", "normal", in_axis=0, out_axis=(1, 2)),
        1 / 8,
        shape=(8, 4, 6),
        shapes=((3, 0, 3),),
        symbolic="a, b, c",
    ),
    kernel(lambda: fi.variance_scaling(1.0, "fan_in", "normal", out_axis=0), 1 / 12),
    kernel(lambda: fi.lecun_normal(), 1 / 8, CUT),
    kernel(lambda: fi.lecun_uniform(), 1 / 8, UNIFORM),
    kernel(lambda: fi.he_normal(), 2 / 8, CUT),
    kernel(lambda: fi.he_uniform(), 2 / 8, UNIFORM),
    kernel(lambda: fi.glorot_normal(), 2 / 20, CUT),
    kernel(lambda: fi.glorot_uniform(), 2 / 20, UNIFORM),
    kernel(lambda: fi.xavier_uniform(gain=0.5), 0.25 * 2 / 20, UNIFORM),
    kernel(lambda: fi.xavier_normal(), 2 / 20),
    kernel(lambda: fi.kaiming_uniform(a=1.0), 1 / 8, UNIFORM),
    kernel(lambda: fi.kaiming_normal(mode="fan_out", nonlinearity="relu"), 2 / 12),
    kernel(lambda: fi.kaiming_normal(nonlinearity="tanh"), 25 / 9 / 8),
    kernel(lambda: fi.torch_linear(), 1 / 3 / 8, UNIFORM),
    kernel(
        lambda: fi.torch_bias(16),
        1 / 3 / 16,
        UNIFORM,
        shape=(24,),
        shapes=((), (0,), (2, 3)),
        symbolic="a",
    ),
)

ORTHOGONAL = (
    kernel(lambda: fi.orthogonal(), 1 / 12, symbolic=None),
    kernel(lambda: fi.orthogonal(2.0, column_axis=0), 4 / 12, symbolic=None),
    kernel(
        lambda: fi.orthogonal(batch_axis=(0,)),
        1 / 6,
        shape=(2, 4, 6),
        shapes=((0, 3, 3), (2, 0, 3), (2, 3, 3, 4)),
        symbolic="a, 4, 6",
    ),
    Case(
        lambda: fi.delta_orthogonal(0.5),
        mean=0,
        variance=np.pad(np.full((1, 4, 8), 0.25 / 8), ((1, 2), (0, 0), (0, 0))),
        shape=(4, 4, 8),
        shapes=((3, 0, 2), (3, 3, 2, 2), (2, 8, 4)),
        symbolic=None,
        dtypes=COMPLEX_TOO,
        not_dtypes=NO_NUMBERS,
    ),
)

STRUCTURED = (
    fixed(lambda: fi.identity(), eye),
    fixed(lambda: fi.identity(-2.0, batched=False), eye((8, 12), -2.0), shapes=((0, 3), (5, 3))),
    Case(
        lambda: fi.sparse(0.3),
        mean=0,
        variance=1e-4 * (1 - 3 / 8),
        shapes=KERNELS,
        not_dtypes=NO_NUMBERS,
    ),
    Case(
        lambda: fi.sparse(0.25, base=fi.uniform(1.0, 2.0), axis=0),
        0,
        2,
        mean=0.75 * 1.5,
        variance=0.75 * 7 / 3 - (0.75 * 1.5) ** 2,
        shapes=((7,), (0, 3), (2, 3, 5)),
    ),
    fixed(lambda: fi.layer_scale(), 1e-5, shapes=((), (0,), (2, 3)), not_dtypes=("int32",)),
    fixed(lambda: fi.prior_bias(0.2), -np.log(4), shapes=((), (0,)), not_dtypes=("int32",)),
)

CONVOLUTIONS = (
    fixed(lambda: fi.dirac(), eye),
    fixed(
        lambda: fi.dirac(groups=2, gain=0.5),
        np.stack([np.zeros((2, 4)), 0.5 * np.tile(np.eye(2), 2), *np.zeros((2, 2, 4))]),
        shape=(4, 2, 4),
        shapes=((3, 0, 4), (3, 2, 0), (3, 3, 4, 4)),
        symbolic="a, b, 4",
    ),
    fixed(
        lambda: fi.bilinear_upsample(),
        np.array([0.25, 0.75, 0.75, 0.25])[:, None, None] * np.eye(2, 4),
        shape=(4, 2, 4),
        shapes=((0, 2, 2), (4, 4, 1, 8), (1, 3, 0), (2, 2)),
        symbolic="4, a, b",
    ),
    Case(
        lambda: fi.icnr(fi.uniform(-1.0, 1.0), 2),
        -1,
        1,
        0,
        1 / 3,
        shape=(4, 2, 8),
        shapes=((3, 3, 2, 4), (3, 0, 2), (3, 2, 0)),
        symbolic="a, b, 2*c",
    ),
    Case(
        lambda: fi.icnr(fi.normal(1.0), 2, order="depth_to_space"),
        mean=0,
        variance=1,
        shape=(4, 2, 8),
        shapes=((3, 3, 2, 4),),
        symbolic=None,
        not_dtypes=NO_NUMBERS,
    ),
    fixed(lambda: fi.stft(), None, shape=(8, 2, 4), shapes=((0, 1, 3), (1, 1, 1)), symbolic=None),
    fixed(
        lambda: fi.stft("imag", np.array([1.0, 2, 3, 4]), scaling=None),
        lambda shape: (
            -(
                np.arange(1, 5)[:, None, None]
                * np.sin(2 * np.pi * np.outer(range(4), range(8)) / 14)[:, None]
            )
        ),
        shape=(4, 1, 8),
        shapes=((4, 0, 2),),
        symbolic=None,
    ),
)

POSITIONS = (
    fixed(lambda: fi.sinusoidal(), None, shapes=((1, 5, 7), (0, 2), (2, 0), (3, 1)), symbolic=None),
    fixed(lambda: fi.sincos_2d(), None, shape=(4, 8), shapes=((3, 5, 4), (1, 9, 8)), symbolic=None),
    fixed(
        lambda: fi.sincos_2d(100.0, grid=(2, 4)),
        None,
        shape=(8, 12),
        shapes=((2, 4, 8), (5, 8, 4)),
        symbolic=None,
    ),
)

DEPTH = (
    kernel(lambda: fi.siren(), 6 / 8 / 900 / 3, UNIFORM, **REAL),
    kernel(lambda: fi.siren(first=True), 1 / 64 / 3, UNIFORM, **REAL),
    kernel(lambda: fi.small_init(128), 2 / 640, shapes=((), (0,), (2, 3))),
    kernel(lambda: fi.wang_init(6, 64), (2 / 6 / 8) ** 2, shapes=((), (0,), (2, 3))),
    kernel(
        lambda: fi.residual_scaled(fi.normal(0.02), 8),
        0.02**2 / 16,
        shapes=((), (0,), (2, 3)),
    ),
    kernel(lambda: fi.residual_scaled(fi.uniform(-1, 1), 3, 3), 1 / 27, UNIFORM, **REAL),
    kernel(lambda: fi.depth_scaled(fi.he_normal(), 3), 2 / 8 / 8),
    kernel(lambda: fi.mitchell(), 0.973337 / 8, 3 / 0.973337**0.5, **REAL),
    kernel(
        lambda: fi.mitchell(layer=2, cutoff=2.0),
        0.773741 / 8 / 6,
        2 / 0.773741**0.5,
        **REAL,
        slack=3.0,
    ),
    kernel(
        lambda: fi.mup_scaled(fi.normal(0.02), (2, 3)),
        0.02**2 / 4,
        shapes=((0, 3), (2, 9)),
        symbolic=None,
    ),
)

RECURRENT = (
    fixed(
        lambda: fi.lstm_forget_bias(),
        np.repeat([0.0, 1, 0, 0], 3),
        shapes=((0,), (8,)),
        symbolic="a, 4*b",
        **REAL,
    ),
    fixed(lambda: fi.lstm_forget_bias(2.0, gate=0, num_gates=1), 2, shapes=((7,),), **REAL),
    Case(
        lambda: fi.chrono(64.0),
        -np.log(63),
        np.log(63),
        mean=np.repeat([-1, 1, 0, 0], 3) * (63 * np.log(63) / 62 - 1),
        shapes=((0,), (8,), (2, 3, 4)),
        symbolic="a, 4*b",
    ),
    fixed(lambda: fi.mamba_a_log(), np.log(np.arange(1, 13)), shapes=((0,), (2, 3)), **REAL),
    Case(lambda: fi.mamba_a_log("uniform", 1.0, np.e), 0, 1, mean=1 / (np.e - 1)),
    Case(lambda: fi.mamba_dt_bias(), mean=None),
    fixed(
        lambda: fi.hippo_legs(),
        -(np.array([[1, 0, 0, 0], [3, 4, 0, 0], [5, 15, 9, 0], [7, 21, 35, 16]]) ** 0.5),
        shape=(4, 4),
        shapes=((0, 0), (2, 3, 3)),
        symbolic="a, a",
        **REAL,
    ),
    Case(lambda: fi.lru_nu_log(0.5, 0.9), np.log(-np.log(0.9)), np.log(np.log(2)), mean=None),
    Case(lambda: fi.lru_theta_log(), -INF, np.log(6.28), mean=np.log(6.28) - 1, variance=1),
)

CASES = (
    *SCALING,
    *ORTHOGONAL,
    *STRUCTURED,
    *CONVOLUTIONS,
    *POSITIONS,
    *DEPTH,
    *RECURRENT,
)

VS = fi.variance_scaling

# (the call, the exception, a regular expression found in its text)
REJECTED: tuple[tuple[Callable[[], Any], type[Exception], str], ...] = (
    (lambda: VS(-1.0, "fan_in", "normal"), ValueError, "variance_scaling needs scale >= 0"),
    (lambda: VS(np.nan, "fan_in", "normal"), ValueError, "finite scale, got scale=nan"),
    (
        lambda: VS(1.0, "fanin", "normal"),
        ValueError,
        "mode to be 'fan_in', 'fan_out', 'fan_avg' or 'fan_geo_avg', got mode='fanin'. Did you",
    ),
    (lambda: VS(1.0, "fan_in", "gauss"), ValueError, "'uniform', got distribution='gauss'"),
    (lambda: VS(1.0, "fan_in", "normal", groups=0), ValueError, "groups >= 1, got groups=0"),
    (lambda: VS(1.0, "fan_in", "normal", groups=1.5), TypeError, "an integer for groups"),
    (lambda: VS(1.0, "fan_in", "normal", fan_in=0), ValueError, "fan_in > 0, got fan_in=0"),
    (lambda: VS(1.0, "fan_in", "normal", in_axis="a"), TypeError, "in_axis to be an integer"),
    (lambda: VS(1.0, "fan_in", "normal", in_axis=(0, 0)), ValueError, "distinct axes"),
    (lambda: fi.xavier_normal(-1.0), ValueError, "xavier_normal needs gain >= 0, got gain=-1"),
    (lambda: fi.xavier_uniform("relu"), TypeError, "a number for gain, got 'relu'"),
    (lambda: fi.kaiming_normal(mode="fan_avg"), ValueError, "'fan_in' or 'fan_out'"),
    (
        lambda: fi.kaiming_uniform(a=0.2, nonlinearity="relu"),
        ValueError,
        "a slope only with nonlinearity='leaky_relu', got a=0.2 with 'relu'",
    ),
    (
        lambda: fi.kaiming_normal(nonlinearity="gelu"),
        ValueError,
        "got nonlinearity='gelu'",
    ),
    (lambda: fi.torch_linear(in_axis=1.5), TypeError, "^torch_linear needs in_axis to be an int"),
    (lambda: fi.he_normal(groups=0), ValueError, "^he_normal needs groups >= 1, got groups=0"),
    (lambda: fi.torch_bias(0), ValueError, "torch_bias needs fan_in > 0"),
    (lambda: fi.orthogonal("1"), TypeError, "orthogonal needs a number for scale"),
    (lambda: fi.orthogonal(column_axis=(0, 1)), ValueError, "needs one column_axis"),
    (lambda: fi.delta_orthogonal(column_axis=0), ValueError, r"column_axis -1 \(out\) or -2"),
    (lambda: fi.identity(INF), ValueError, "identity needs a finite gain"),
    (lambda: fi.sparse(1.5), ValueError, "0 <= sparsity <= 1, got sparsity=1.5"),
    (lambda: fi.sparse(0.5, base=0.1), TypeError, "sparse needs an initializer for base"),
    (lambda: fi.layer_scale(np.nan), ValueError, "layer_scale needs a finite value"),
    (lambda: fi.prior_bias(1.0), ValueError, "prior_bias needs 0 < p < 1, got p=1.0"),
    (lambda: fi.dirac(groups=0), ValueError, "dirac needs groups >= 1"),
    (lambda: fi.icnr(3, 2), TypeError, "icnr needs an initializer for base"),
    (lambda: fi.icnr(fi.zeros(), 0), ValueError, "icnr needs r >= 1"),
    (lambda: fi.icnr(fi.zeros(), 2, "pixelshuffle"), ValueError, "Did you mean 'pixel_shuffle'"),
    (lambda: fi.stft("imaginary"), ValueError, "side to be 'real' or 'imag'"),
    (lambda: fi.stft("real", "hannn"), ValueError, "(?i)window"),
    (lambda: fi.stft(window=()), ValueError, "stft needs a window of one value or more, got none"),
    (lambda: fi.stft(window=np.ones(0)), ValueError, "stft needs a window of one value or more"),
    (lambda: fi.stft("real", scaling="power"), ValueError, "'density' or 'spectrum'"),
    (lambda: fi.sinusoidal(min_scale=0), ValueError, "sinusoidal needs min_scale > 0"),
    (lambda: fi.sincos_2d(-1.0), ValueError, "sincos_2d needs temperature > 0"),
    (lambda: fi.sincos_2d(grid=(2, 2, 2)), ValueError, r"a grid \(rows, columns\)"),
    (lambda: fi.siren(w0=-30.0), ValueError, "siren needs w0 > 0"),
    (lambda: fi.siren(True), TypeError, "siren needs a number for w0, got True"),
    (lambda: fi.small_init(0), ValueError, "small_init needs dim >= 1"),
    (lambda: fi.wang_init(12, 0.5), TypeError, "an integer for dim, got 0.5"),
    (lambda: fi.residual_scaled(0.02, 12), TypeError, "residual_scaled needs an initializer"),
    (lambda: fi.residual_scaled(fi.zeros(), 0), ValueError, "num_layers >= 1"),
    (lambda: fi.depth_scaled(fi.zeros, 2), TypeError, "got the factory zeros; call it first"),
    (lambda: fi.depth_scaled(fi.zeros(), -1), ValueError, "depth_scaled needs layer >= 0"),
    (lambda: fi.mitchell(-1), ValueError, "mitchell needs layer >= 0"),
    (lambda: fi.mitchell(cutoff=0), ValueError, "mitchell needs cutoff > 0"),
    (lambda: fi.mup_scaled(fi.zeros(), (0, 2)), ValueError, "base_shape >= 1"),
    (lambda: fi.mup_scaled(fi.zeros(), 64), TypeError, "a tuple of sizes for base_shape, got 64"),
    (lambda: fi.lstm_forget_bias(gate=4), ValueError, "gate < num_gates, got gate=4"),
    (lambda: fi.chrono(2), ValueError, "chrono needs t_max > 2, got t_max=2"),
    (lambda: fi.mamba_a_log("s4d"), ValueError, "'s4d_real' or 'uniform', got kind='s4d'"),
    (
        lambda: fi.mamba_a_log(hi=3.0),
        ValueError,
        "lo and hi only with kind='uniform', got lo=1.0, hi=3.0 with 's4d_real'; leave them out",
    ),
    (lambda: fi.mamba_a_log("uniform", 2.0, 1.0), ValueError, "lo < hi, got lo=2.0, hi=1.0"),
    (lambda: fi.mamba_dt_bias(0.1, 0.01), ValueError, "dt_min < dt_max"),
    (lambda: fi.lru_nu_log(0.9, 1.1), ValueError, "0 <= r_min < r_max <= 1"),
    (lambda: fi.lru_theta_log(0), ValueError, "lru_theta_log needs max_phase > 0"),
)
