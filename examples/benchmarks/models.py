"""Time whole-model initialization from cold processes: eager, `jax.jit`, `jit_init`, PyTorch.

    python examples/benchmarks/models.py            # all models; several minutes
    python examples/benchmarks/models.py --small    # toy sizes, for a quick look
    python examples/benchmarks/models.py LM-12/768 ViT-B/16 --repeats 3
    python examples/benchmarks/models.py LM-12/768 --impl rbg

Each figure is the median over fresh processes, from the call to the last leaf, imports excluded and
compilation included. "peak" is the growth of the process's resident memory beyond the params.
"""

import argparse
import importlib.util
import json
import time
from functools import partial

import cold

METHODS = ("eager", "jit", "jit_init", "torch")


def transformer(layers, width, vocabulary, scan=False):
    """A plain pre-norm language model with an untied head."""
    import flax.linen as nn
    import jax
    import jax.numpy as jnp

    class Block(nn.Module):
        @nn.compact
        def __call__(self, x, _=None):
            y = nn.LayerNorm()(x)
            x = x + nn.MultiHeadDotProductAttention(num_heads=8)(y, y)
            y = nn.Dense(4 * width)(nn.LayerNorm()(x))
            return x + nn.Dense(width)(nn.gelu(y)), None

    class Model(nn.Module):
        @nn.compact
        def __call__(self, tokens):
            x = nn.Embed(vocabulary, width)(tokens)
            x = _stack(Block, layers, scan)(x)
            return nn.Dense(vocabulary)(nn.LayerNorm()(x))

    return Model().init, (jax.random.key(0), jnp.zeros((1, 16), jnp.int32))


def _stack(block, layers, scan):
    import flax.linen as nn

    def apply(x):
        if scan:
            stacked = nn.scan(
                block, variable_axes={"params": 0}, split_rngs={"params": True}, length=layers
            )
            return stacked(name="blocks")(x, None)[0]
        for i in range(layers):
            x = block(name=f"block_{i}")(x)[0]
        return x

    return apply


def vit(layers, width, size, scan=False):
    """A vision transformer with 16x16 patches and average pooling."""
    import flax.linen as nn
    import jax
    import jax.numpy as jnp

    class Block(nn.Module):
        @nn.compact
        def __call__(self, x, _=None):
            y = nn.LayerNorm()(x)
            x = x + nn.MultiHeadDotProductAttention(num_heads=12)(y, y)
            y = nn.Dense(4 * width)(nn.LayerNorm()(x))
            return x + nn.Dense(width)(nn.gelu(y)), None

    class Model(nn.Module):
        @nn.compact
        def __call__(self, images):
            x = nn.Conv(width, (16, 16), strides=(16, 16))(images)
            x = x.reshape(x.shape[0], -1, width)
            x = x + self.param("positions", nn.initializers.normal(0.02), (1, *x.shape[1:]))
            x = nn.LayerNorm()(_stack(Block, layers, scan)(x))
            return nn.Dense(1000)(x.mean(1))

    return Model().init, (jax.random.key(0), jnp.zeros((1, size, size, 3)))


def resnet(stages, size):
    """A bottleneck ResNet with batch normalization."""
    import flax.linen as nn
    import jax
    import jax.numpy as jnp

    conv = partial(nn.Conv, use_bias=False)

    class Block(nn.Module):
        filters: int
        strides: int

        @nn.compact
        def __call__(self, x):
            norm = partial(nn.BatchNorm, use_running_average=False)
            strides = (self.strides, self.strides)
            y = nn.relu(norm()(conv(self.filters, (1, 1))(x)))
            y = nn.relu(norm()(conv(self.filters, (3, 3), strides)(y)))
            y = norm(scale_init=nn.initializers.zeros)(conv(4 * self.filters, (1, 1))(y))
            if x.shape != y.shape:
                x = norm(name="norm_proj")(conv(4 * self.filters, (1, 1), strides)(x))
            return nn.relu(x + y)

    class Model(nn.Module):
        @nn.compact
        def __call__(self, x):
            x = conv(64, (7, 7), (2, 2))(x)
            x = nn.relu(nn.BatchNorm(use_running_average=False)(x))
            x = nn.max_pool(x, (3, 3), strides=(2, 2), padding="SAME")
            for i, blocks in enumerate(stages):
                for j in range(blocks):
                    x = Block(64 * 2**i, 2 if i > 0 and j == 0 else 1)(x)
            return nn.Dense(1000)(x.mean((1, 2)))

    return Model().init, (jax.random.key(0), jnp.zeros((1, size, size, 3)))


def mixture_of_experts(layers, width, experts):
    """A decoder whose MLPs are vmapped experts, densely mixed by a router."""
    import flax.linen as nn
    import jax
    import jax.numpy as jnp

    class Expert(nn.Module):
        @nn.compact
        def __call__(self, x):
            return nn.Dense(width)(nn.silu(nn.Dense(4 * width)(x)))

    class Block(nn.Module):
        @nn.compact
        def __call__(self, x):
            y = nn.RMSNorm()(x)
            x = x + nn.MultiHeadDotProductAttention(num_heads=8)(y, y)
            y = nn.RMSNorm()(x)
            gates = nn.softmax(nn.Dense(experts, use_bias=False)(y))
            every = nn.vmap(
                Expert,
                variable_axes={"params": 0},
                split_rngs={"params": True},
                in_axes=None,
                axis_size=experts,
            )
            return x + jnp.einsum("ebtd,bte->btd", every(name="experts")(y), gates)

    class Model(nn.Module):
        @nn.compact
        def __call__(self, tokens):
            x = nn.Embed(8192, width)(tokens)
            for _ in range(layers):
                x = Block()(x)
            return nn.Dense(8192)(nn.RMSNorm()(x))

    return Model().init, (jax.random.key(0), jnp.zeros((1, 16), jnp.int32))


MODELS = {
    "LM-12/768": partial(transformer, 12, 768, 32000),
    "LM-48/384": partial(transformer, 48, 384, 32000),
    "ResNet-50": partial(resnet, (3, 4, 6, 3), 224),
    "ViT-B/16": partial(vit, 12, 768, 224),
    "ViT-B/16 scanned": partial(vit, 12, 768, 224, scan=True),
    "MoE-8x8/512": partial(mixture_of_experts, 8, 512, 8),
}
SMALL = {
    "LM-2/64": partial(transformer, 2, 64, 256),
    "ResNet-8": partial(resnet, (1, 1), 32),
    "ViT-2/48 scanned": partial(vit, 2, 48, 32, scan=True),
    "MoE-2x2/32": partial(mixture_of_experts, 2, 32, 2),
}
TORCH = {"LM-12/768": (12, 768, 32000), "LM-48/384": (48, 384, 32000), "LM-2/64": (2, 64, 256)}


def measure(name, method, impl):
    """Runs one method in this process and prints what it took as JSON."""
    if method == "torch":
        return measure_torch(*TORCH[name])
    import flax.linen  # noqa: F401
    import jax

    fun, args = (MODELS | SMALL)[name]()
    key = jax.random.key(0, impl=impl)
    return cold.measure(fun, (key, *args[1:]), method, plan=True)


def measure_torch(layers, width, vocabulary):
    """PyTorch building the same language model."""
    import torch
    from torch import nn

    begun = time.perf_counter()
    before = cold.in_use()
    blocks = [
        nn.ModuleList(
            [
                nn.LayerNorm(width),
                nn.MultiheadAttention(width, 8),
                nn.LayerNorm(width),
                nn.Linear(width, 4 * width),
                nn.Linear(4 * width, width),
            ]
        )
        for _ in range(layers)
    ]
    model = nn.ModuleList(
        [
            nn.Embedding(vocabulary, width),
            *blocks,
            nn.LayerNorm(width),
            nn.Linear(width, vocabulary),
        ]
    )
    total = time.perf_counter() - begun
    assert torch.is_tensor(next(model.parameters()))
    size = sum(p.numel() * 4 for p in model.parameters())
    return {"total": total, "bytes": size, "extra": cold.in_use(peak=True) - before - size}


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("models", nargs="*", help="names of models; all by default")
    parser.add_argument("--small", action="store_true", help="toy sizes")
    parser.add_argument("--repeats", type=int, default=1, help="processes per figure")
    parser.add_argument("--impl", default="threefry2x32", help="of keys: rbg, unsafe_rbg")
    parser.add_argument("--measure", nargs=3, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.measure:
        print(json.dumps(measure(*options.measure)))
        return
    models = SMALL if options.small else MODELS
    names = options.models or list(models)
    header = (
        f"{'model':18}{'eager':>8}{'jit':>8}{'torch':>8}{'jit_init':>9}{'ratio':>7}"
        f"{'plan':>7}{'lower':>7}{'compile':>8}{'programs':>9}{'peak':>7}  {'bits':10}device"
    )
    print(header, flush=True)
    torch = importlib.util.find_spec("torch") is not None
    if not torch:
        print("torch is not installed, so its column is empty")
    for name in names:
        runs = {}
        for method in METHODS:
            if method == "torch" and (name not in TORCH or not torch):
                continue
            results = [
                cold.in_fresh_process(__file__, name, method, options.impl)
                for _ in range(options.repeats)
            ]
            runs[method] = cold.median(results)
        print(_row(name, runs), flush=True)


def _row(name, runs):
    ours, jit = runs["jit_init"], runs["jit"]
    torch = f"{runs['torch']['total']:7.2f}s" if "torch" in runs else "       -"
    same = "equal" if ours["digests"] == jit["digests"] else "DIFFERENT"
    return (
        f"{name:18}{runs['eager']['total']:7.2f}s{jit['total']:7.2f}s{torch}"
        f"{ours['total']:8.2f}s{jit['total'] / ours['total']:6.1f}x"
        f"{ours['trace']:6.2f}s{ours['lower']:6.2f}s{ours['compile']:7.2f}s{ours['programs']:9d}"
        f"{100 * ours['extra'] / ours['bytes']:6.0f}%  {same:10}{ours['device']}"
    )


if __name__ == "__main__":
    main()
