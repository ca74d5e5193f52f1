"""Orthogonal, convolutional and tabulated initializers do what they are for."""

import re

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from cases import partition
from cases_catalogue import CASES
from jax.sharding import AxisType, NamedSharding, PartitionSpec
from scipy import stats

import flax_inits as fi
from flax_inits.initializers._build.configured import initializer

KEY = jax.random.key(5)
ALARM = 1e-6  # the share of keys with which a right initializer would fail


def gram(values, dtype=np.float64):
    """The Gram matrix of the smaller side, in float64; its last axis holds the columns."""
    matrix = np.asarray(values).astype(np.complex128 if np.iscomplexobj(values) else dtype)
    matrix = matrix.reshape(-1, matrix.shape[-1])
    rows, columns = matrix.shape
    return matrix.conj().T @ matrix if columns <= rows else matrix @ matrix.conj().T


def assert_orthogonal(values, scale=1.0, tolerance=1e-5):
    product = gram(values)
    np.testing.assert_allclose(product, scale**2 * np.eye(len(product)), atol=tolerance)


# Orthogonal matrices


@pytest.mark.sampled(3)
@pytest.mark.parametrize("shape", [(64, 64), (200, 30), (30, 200), (3, 3, 16, 32), (2, 2, 4, 50)])
def test_orthogonal_to_single_precision(shape):
    assert_orthogonal(fi.orthogonal()(KEY, shape))
    assert_orthogonal(fi.orthogonal(2**0.5)(KEY, shape), 2**0.5, 2e-5)


def test_orthogonal_along_any_column_axis():
    values = fi.orthogonal(column_axis=1)(KEY, (4, 8, 5))
    assert_orthogonal(np.moveaxis(values, 1, -1))


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16])
def test_orthogonal_to_the_precision_of_16_bits(dtype):
    values = fi.orthogonal()(KEY, (96, 96), dtype)
    assert values.dtype == dtype
    # Columns of norm 1, each entry off by at most eps / 2 of itself.
    assert_orthogonal(values.astype(jnp.float32), tolerance=1.1 * float(jnp.finfo(dtype).eps))


def test_unitary_in_complex():
    assert_orthogonal(fi.orthogonal()(KEY, (48, 32), np.complex64))


def test_each_slice_of_a_stack_is_orthogonal():
    layers = fi.orthogonal(batch_axis=0)(KEY, (6, 40, 40))
    for layer in layers:
        assert_orthogonal(layer)
    assert float(jnp.abs(layers[0] - layers[1]).max()) > 0.1
    heads = fi.orthogonal(column_axis=0, batch_axis=(1, 3))(KEY, (8, 2, 5, 3))
    for i, j in np.ndindex(2, 3):
        assert_orthogonal(np.moveaxis(np.asarray(heads)[:, i, :, j], 0, -1))
    # The trap: without batch_axis (and in jax) the stack is one matrix, its slices are not.
    whole = fi.orthogonal()(KEY, (6, 40, 40))
    assert np.abs(gram(whole[0]) - np.eye(40)).max() > 0.1


def test_orthogonal_is_haar():
    init = fi.orthogonal()
    keys = jax.random.split(KEY, 1000)
    unitary = jax.vmap(lambda key: init(key, (6, 6), np.complex64))(keys)
    phases = np.angle(np.linalg.eigvals(np.asarray(unitary))).ravel() / (2 * np.pi) % 1
    # Eigenvalues of one matrix repel: the test is stricter than its level says, never laxer.
    assert stats.kstest(phases, "uniform").pvalue > ALARM
    matrices = np.asarray(jax.vmap(lambda key: init(key, (6, 6)))(keys), np.float64)
    for row, column in [(0, 0), (5, 5), (2, 4)]:
        entry = matrices[:, row, column]
        assert stats.kstest(entry**2, stats.beta(0.5, 2.5).cdf).pvalue > ALARM
        assert stats.binomtest(int((entry > 0).sum()), 1000).pvalue > ALARM
    # Q as LAPACK leaves it is not: the signs of its diagonal are settled.
    plain = np.linalg.qr(np.random.default_rng(0).normal(size=(1000, 6, 6)))[0]
    assert stats.binomtest(int((plain[:, 0, 0] > 0).sum()), 1000).pvalue < ALARM


@pytest.mark.sampled(2)
@pytest.mark.parametrize("axis_type", [AxisType.Auto, AxisType.Explicit])
def test_orthogonal_honours_out_sharding(axis_type):
    mesh = jax.make_mesh((8,), ("x",), axis_types=(axis_type,))
    for init, shape in [(fi.orthogonal(), (16, 8)), (fi.delta_orthogonal(), (3, 16, 8))]:
        sharding = NamedSharding(mesh, PartitionSpec(*[None] * (len(shape) - 1), "x"))
        values = init(KEY, shape, out_sharding=sharding)
        assert values.sharding.is_equivalent_to(sharding, len(shape))
        np.testing.assert_array_equal(values, init(KEY, shape))


@pytest.mark.parametrize(
    "init, shape, message",
    [
        (fi.orthogonal(), (5,), r"a row and a column axis .* got shape \(5,\)"),
        (fi.orthogonal(batch_axis=0), (4, 5), r"besides batch_axis=\(0,\), got shape \(4, 5\)"),
        (fi.orthogonal(batch_axis=-1), (3, 4, 5), r"got shape \(3, 4, 5\) with column_axis=-1"),
        (fi.orthogonal(column_axis=3), (4, 5), "column_axis=3 is no axis of a shape with 2 axes"),
        (fi.delta_orthogonal(), (4, 5), r"\(\*window, in, out\) .* Use orthogonal for a matrix"),
        (fi.identity(), (5,), r"identity needs a shape \(in, out\) of 2 axes or more, got \(5,\)"),
        (fi.identity(batched=False), (2, 3, 3), r"\(in, out\), got \(2, 3, 3\); use batched=True"),
        (fi.sparse(0.5), (5,), "sparse: axis=-2 is no axis of a shape with 1 axes"),
        (fi.dirac(groups=3), (3, 2, 8), "groups = 3 must divide axis -1 of the shape, got 8"),
        (fi.dirac(), (5,), r"dirac needs a shape \(\*window, in / groups, out\)"),
        (fi.icnr(fi.zeros(), 2), (3, 3, 4, 6), r"icnr: r\^d = 4 must divide axis -1"),
        (fi.stft(), (8, 4), r"stft needs a shape \(time, in, frequencies\), got \(8, 4\)"),
        (fi.stft(window=np.ones(5)), (8, 1, 4), r"a window of 8 values for this shape, got \(5,\)"),
        (fi.sinusoidal(), (5,), r"sinusoidal needs a shape \(length, features\)"),
        (fi.sincos_2d(), (9, 6), r"features in multiples of 4, got shape \(9, 6\)"),
        (fi.sincos_2d(), (1, 10, 8), r"3 x 3 over the 10 positions .* give grid=\(rows, columns\)"),
        (fi.sincos_2d(grid=(2, 3)), (2, 4, 8), "a grid of 2 x 3 over the 4 positions"),
    ],
)
def test_shapes_that_have_no_meaning_are_rejected(init, shape, message):
    with pytest.raises(ValueError, match=message):
        init(KEY, shape)


def test_what_is_tabulated_needs_its_sizes():
    sizes = jax.export.symbolic_shape("a, b, c")
    for init in (fi.stft(), fi.sinusoidal(), fi.sincos_2d()):
        with pytest.raises(ValueError, match="needs to know these sizes, got the symbolic"):
            jax.eval_shape(lambda key, init=init: init(key, sizes), KEY)


@pytest.mark.thorough
def test_shards_are_made_without_talking():
    mesh = jax.make_mesh((2, 4), ("x", "y"), axis_types=(AxisType.Auto,) * 2)
    # These two count or repeat along a whole axis.
    cases = [c for c in CASES if not c.id.startswith(("sparse", "chrono"))]
    shardings = {c.id: NamedSharding(mesh, partition(c.shape)) for c in cases}

    def make(key):
        return {c.id: c.make()(key, c.shape) for c in cases}

    options = {"xla_backend_optimization_level": 0, "xla_llvm_disable_expensive_passes": True}
    text = jax.jit(make, out_shardings=shardings).lower(KEY).compile(options).as_text()
    assert "f32[4,3]" in text  # an eighth of (8, 12)
    assert not re.findall("all-gather|all-reduce|all-to-all|collective-permute", text)


# Convolutions


@pytest.mark.sampled(12, rest="thorough")
@pytest.mark.parametrize("channels", [(6, 6), (4, 6), (6, 4)])
@pytest.mark.parametrize("window", [(3,), (4,), (3, 5), (2, 4)])
def test_delta_orthogonal_keeps_norms(window, channels):
    inputs, outputs = channels
    kernel = fi.delta_orthogonal()(KEY, (*window, inputs, outputs))
    conv = nn.Conv(outputs, window, use_bias=False)
    x = jax.random.normal(KEY, (2, *(7,) * len(window), inputs))
    y = conv.apply({"params": {"kernel": kernel}}, x)
    if inputs <= outputs:
        np.testing.assert_allclose(jnp.linalg.norm(y), jnp.linalg.norm(x), rtol=1e-5)
    centre = tuple((size - 1) // 2 for size in window)
    assert_orthogonal(kernel[centre])
    assert int((kernel != 0).sum()) == inputs * outputs
    narrow = fi.delta_orthogonal()(KEY, kernel.shape, jnp.bfloat16)
    np.testing.assert_allclose(narrow.astype(jnp.float32), kernel, rtol=2**-8)


@pytest.mark.sampled(15, rest="thorough")
@pytest.mark.parametrize("window", [(1,), (2,), (3,), (4,), (5, 4), (3, 3), (2, 3, 4)])
@pytest.mark.parametrize("groups", [1, 3])
def test_dirac_is_the_identity_under_same_padding(window, groups):
    conv = nn.Conv(6, window, kernel_init=fi.dirac(groups), feature_group_count=groups)
    x = jax.random.normal(KEY, (2, *(6,) * len(window), 6))
    np.testing.assert_array_equal(conv.init_with_output(KEY, x)[0], x)


def test_dirac_passes_as_many_channels_as_it_can():
    wide = fi.dirac()(KEY, (1, 2, 5))[0]
    np.testing.assert_array_equal(wide, np.eye(2, 5))
    narrow = fi.dirac(groups=2, gain=0.5)(KEY, (3, 3, 4))[1]
    np.testing.assert_array_equal(narrow, 0.5 * np.tile(np.eye(3, 2), 2))


@pytest.mark.sampled(6, rest="thorough")
@pytest.mark.parametrize("stride, window", [(2, 4), (3, 5), (4, 8)])
@pytest.mark.parametrize("channels", [1, 3])
def test_bilinear_transposed_convolution_is_a_resize(stride, window, channels):
    x = jax.random.normal(KEY, (2, 6, 7, channels))
    init = fi.bilinear_upsample()
    layer = nn.ConvTranspose(channels, (window,) * 2, (stride,) * 2, kernel_init=init)
    upsampled = layer.init_with_output(KEY, x)[0]
    resized = jax.image.resize(x, upsampled.shape, "bilinear")
    inside = (slice(None), *[slice(stride, -stride)] * 2)
    assert upsampled.shape == (2, 6 * stride, 7 * stride, channels)
    np.testing.assert_allclose(upsampled[inside], resized[inside], atol=1e-6)


def test_bilinear_depthwise_kernels_feed_every_output():
    kernel = np.asarray(fi.bilinear_upsample()(KEY, (4, 5, 1, 6)))
    single = np.asarray(fi.bilinear_upsample()(KEY, (4, 5, 1, 1)))
    np.testing.assert_array_equal(kernel, np.broadcast_to(single, kernel.shape))
    np.testing.assert_allclose(single[0, :, 0, 0], 0.25 * np.array([1, 2, 3, 2, 1]) / 3, rtol=1e-6)


@pytest.mark.sampled(2)
@pytest.mark.parametrize("order", ["pixel_shuffle", "depth_to_space"])
def test_icnr_then_pixel_shuffle_is_nearest_upsampling(order):
    r, channels = 3, 2
    x = jax.random.normal(KEY, (1, 5, 4, 8))
    kernel = fi.icnr(fi.he_normal(), r, order)(KEY, (3, 3, 8, channels * r * r))
    conv = nn.Conv(channels * r * r, (3, 3), use_bias=False)
    y = conv.apply({"params": {"kernel": kernel}}, x)
    if order == "pixel_shuffle":
        y = y.reshape(5, 4, channels, r, r).transpose(0, 3, 1, 4, 2)
    else:
        y = y.reshape(5, 4, r, r, channels).transpose(0, 2, 1, 3, 4)
    y = np.asarray(y.reshape(5 * r, 4 * r, channels))
    small = y[::r, ::r]
    assert np.std(small) > 0.5
    # Channels with equal kernels may be summed in another order where a CPU's vectors end.
    expected = small.repeat(r, axis=0).repeat(r, axis=1)
    np.testing.assert_allclose(y, expected, rtol=0, atol=8 * np.finfo(np.float32).eps)


def test_icnr_blocks_count_the_axes_of_the_window():
    one = fi.icnr(jax.nn.initializers.normal(1.0), 2)(KEY, (3, 4, 6))
    np.testing.assert_array_equal(one[..., 0::2], one[..., 1::2])
    assert len(np.unique(one)) == 3 * 4 * 3


@pytest.mark.sampled(4, rest="thorough")
@pytest.mark.parametrize("axis", [0, 1, -1])
@pytest.mark.parametrize("sparsity", [0.0, 0.1, 0.55, 1.0])
def test_sparse_counts_are_exact(axis, sparsity):
    values = np.asarray(fi.sparse(sparsity, axis=axis)(KEY, (20, 30, 7)))
    zeros = (values == 0).sum(axis=axis)
    np.testing.assert_array_equal(zeros, int(np.ceil(sparsity * values.shape[axis])))


@pytest.mark.slow
@pytest.mark.parametrize("share, size, zeros", [(0.55, 100, 55), (0.07, 100, 7), (5 / 6, 90, 75)])
def test_sparse_counts_are_of_the_share_as_written(share, size, zeros):
    init = fi.sparse(share, base=fi.ones())
    assert int((init(KEY, (size, 1)) == 0).sum()) == zeros
    like = jax.ShapeDtypeStruct(jax.export.symbolic_shape("n, 1"), jnp.float32)
    draw = jax.jit(lambda key, x: init(key, x.shape))
    exported = jax.export.export(draw)(jax.random.key_data(KEY), like)
    assert int((exported.call(jax.random.key_data(KEY), jnp.zeros((size, 1))) == 0).sum()) == zeros


def test_sparse_zeros_fall_anywhere():
    values = np.asarray(fi.sparse(0.25, base=fi.ones())(KEY, (8, 40000)))
    counts = (values == 0).sum(axis=1)
    # Each row holds a quarter of the columns; rows of one column depend on each other negatively.
    error = 4.9 * np.sqrt(40000 * 0.25 * 0.75)
    assert np.abs(counts - 10000).max() < error
    assert len(np.unique(values, axis=1).T) == 28  # all pairs of rows


# Constants and tables


def test_prior_bias_starts_at_the_prior():
    for p in (1e-6, 0.01, 0.5, 0.99):
        bias = fi.prior_bias(p)(KEY, (3,))
        np.testing.assert_allclose(jax.nn.sigmoid(bias), p, rtol=1e-5)
    assert float(fi.layer_scale(1e-6)(KEY, ())) == np.float32(1e-6)


def test_sinusoidal_equals_the_transformer_table():
    length, features = 3000, 130
    frequencies = 1e4 ** (-np.arange(65) / 64)
    angles = np.arange(length)[:, None] * frequencies
    expected = np.concatenate([np.sin(angles), np.cos(angles)], axis=1)
    values = fi.sinusoidal()(KEY, (2, length, features))
    np.testing.assert_allclose(values, np.stack([expected] * 2), atol=1e-7)
    odd = np.asarray(fi.sinusoidal(2.0, 50.0)(KEY, (9, 7)))
    np.testing.assert_array_equal(odd[:, 6], 0)
    np.testing.assert_allclose(odd[:, 0], np.sin(2.0 * np.arange(9)), atol=1e-7)
    np.testing.assert_allclose(odd[:, 5], np.cos(4 / 50 * np.arange(9)), atol=1e-7)


def test_sincos_2d_equals_the_vision_transformer_table():
    rows, columns, features = 5, 7, 32
    y, x = np.mgrid[:rows, :columns]
    frequencies = 1 / 1e4 ** (np.arange(8) / 7)
    y, x = (np.outer(axis.ravel(), frequencies) for axis in (y, x))
    expected = np.concatenate([np.sin(x), np.cos(x), np.sin(y), np.cos(y)], axis=1)
    spread = fi.sincos_2d()(KEY, (rows, columns, features))
    np.testing.assert_allclose(spread.reshape(35, features), expected, atol=1e-7)
    flat = fi.sincos_2d(grid=(rows, columns))
    np.testing.assert_allclose(flat(KEY, (1, 35, features))[0], expected, atol=1e-7)
    np.testing.assert_array_equal(flat(KEY, (2, 5, 7, 32))[1], spread)
    square = fi.sincos_2d()(KEY, (1, 25, 32))
    np.testing.assert_array_equal(square.reshape(5, 5, 32), fi.sincos_2d()(KEY, (5, 5, 32)))


def test_stft_is_the_fourier_transform_of_a_frame():
    frame = np.random.default_rng(0).normal(size=16)
    spectrum = np.fft.rfft(frame)
    real, imaginary = (
        np.asarray(fi.stft(side, window=None)(KEY, (16, 1, 9)))[:, 0] for side in ("real", "imag")
    )
    np.testing.assert_allclose(frame @ real, spectrum.real, atol=1e-5)
    np.testing.assert_allclose(frame @ imaginary, spectrum.imag, atol=1e-5)


@pytest.mark.parametrize("window", ["hann", ("kaiser", 8.6), np.arange(1.0, 17.0)])
def test_stft_windows_are_scaled(window):
    plain = np.asarray(fi.stft(window=window, scaling=None)(KEY, (16, 2, 9)))
    taps = plain[:, 0, 0]  # frequency 0 is the window itself
    for scaling, norm in [("density", np.sqrt(np.sum(taps**2))), ("spectrum", np.abs(taps).sum())]:
        scaled = fi.stft(window=window, scaling=scaling)(KEY, (16, 2, 9))
        np.testing.assert_allclose(scaled, plain / norm, rtol=1e-5, atol=1e-7)
    np.testing.assert_array_equal(plain[:, 0], plain[:, 1])


# The catalogue


def test_catalogue_lists_every_factory_by_itself():
    table = fi.catalogue()
    factories = {name for name, value in vars(fi).items() if hasattr(value, "is_factory")}
    assert {entry.name for entry in table} == factories and len(table) == len(factories)
    for entry in table:
        assert entry.summary.endswith(".") and entry.family and entry.reference
        assert entry == (entry.name, entry.family, entry.summary, entry.reference)


def test_a_new_factory_appears_by_itself(monkeypatch):
    def made_up():
        """Zeros, once more.

        Reference:
            Nobody et al. 2026,
            Nothing
        """
        return fi.zeros().draw

    monkeypatch.setattr(fi, "made_up", initializer(made_up), raising=False)
    entry = next(entry for entry in fi.catalogue() if entry.name == "made_up")
    assert entry[2:] == ("Zeros, once more.", "Nobody et al. 2026, Nothing")


def test_catalogue_prints():
    table = fi.catalogue()
    lines = str(table).splitlines()
    assert lines[0].split() == ["name", "family", "summary", "reference"]
    starts = [line.split()[0] for line in lines[2:] if not line.startswith(" ")]
    assert starts == [entry.name for entry in table]
    assert repr(table) == str(table) and max(map(len, lines)) <= 120
    markdown = table.markdown().splitlines()
    assert markdown[0] == "| name | family | summary | reference |"
    assert len(markdown) == len(table) + 2 and table._repr_markdown_() == table.markdown()
    hippo = next(line for line in markdown if "`lru_nu_log`" in line)
    assert r"\|λ\| uniform on a ring" in hippo and "](https://arxiv.org/abs/2303.06349)" in hippo
    assert table._repr_html_().count("<tr>") == len(table) + 1
