"""Models of outside packages: for each a function that makes its init function and arguments.

Sizes are those of the packages' own defaults or examples where these are small enough.
"""

import dataclasses
from collections.abc import Callable
from functools import partial


@dataclasses.dataclass(frozen=True)
class Model:
    """A model of a package; `make()` returns its init function and the arguments of that."""

    package: str
    system: str
    make: Callable


MODELS: dict[str, Model] = {}

# What was tried beside jax 0.12 and is not measured.
LEFT_OUT = {
    "apax": "needs tensorflow",
    "avitai-artifex": "pip had not found versions that go together after nine minutes",
    "bijx": "imports a name that jax 0.12 has removed",
    "canvit-nnx": "needs huggingface_hub 1, which the transformers with Flax models refuses",
    "coax": "needs Atari, Box2D and dm-control",
    "flaxmodels: StyleGAN2": "calls jnp.reshape with an argument that jax has removed",
    "hyper-nn": "needs torch",
    "jimmy-vision": "imports a module that flax has removed",
    "jraph": "has functions, no modules of its own",
    "kauldron": "needs tensorflow",
    "memorax": "needs experiment trackers and nightly builds",
    "transformers: T5": "calls jnp.clip with an argument that jax has removed",
    "x-mlps": "needs dm-haiku below 0.0.7",
}


def model(package, system, name, **sizes):
    """Enters a function that builds a model, as it is or with sizes."""

    def enter(build):
        assert name not in MODELS, name
        MODELS[name] = Model(package, system, partial(build, **sizes))
        return build

    return enter


def _key(typed=True):
    import jax

    return jax.random.key(0) if typed else jax.random.PRNGKey(0)


def _linen(module, *args, **options):
    return partial(module.init, **options), (_key(), *args)


def _nnx(build, *args, **options):
    from flax import nnx

    def init(key):
        return nnx.split(build(*args, **options, rngs=nnx.Rngs(key)))[1]

    return init, (_key(),)


BASE = {
    "encoder_attention_heads": 12,
    "decoder_attention_heads": 12,
    "encoder_ffn_dim": 3072,
    "decoder_ffn_dim": 3072,
    "d_model": 768,
}


@model("transformers", "Linen", "BERT-base", of="Bert", config={})
@model("transformers", "Linen", "GPT-2 small", of="GPT2", config={})
@model("transformers", "Linen", "ViT-B/16", of="ViT", config={})
@model("transformers", "Linen", "CLIP ViT-B/32", of="CLIP", config={})
@model("transformers", "Linen", "ResNet-50", of="ResNet", config={})
@model(
    "transformers",
    "Linen",
    "BART-base",
    of="Bart",
    config=BASE | {"encoder_layers": 6, "decoder_layers": 6},
)
@model(
    "transformers",
    "Linen",
    "Whisper-small",
    of="Whisper",
    config=BASE | {"encoder_layers": 12, "decoder_layers": 12},
)
def hugging_face(of, config):
    import transformers

    if not hasattr(transformers, f"Flax{of}Model"):
        raise ImportError(f"transformers {transformers.__version__} has no Flax models, 4 has")
    config = getattr(transformers, f"{of}Config")(**config)
    built = getattr(transformers, f"Flax{of}Model")(config, _do_init=False)
    return partial(built.init_weights, input_shape=built.input_shape), (_key(typed=False),)


@model("netket", "Linen", "RBM, complex")
def complex_rbm():
    import jax.numpy as jnp
    import netket

    return _linen(netket.models.RBM(alpha=4, param_dtype=complex), jnp.ones((1, 64)))


@model("netket", "Linen", "neural density matrix")
def density_matrix():
    import jax.numpy as jnp
    import netket

    return _linen(netket.models.NDM(alpha=2, beta=2), jnp.ones((1, 32)))


@model("netket", "Linen", "group CNN 6x6")
def group_cnn():
    import jax.numpy as jnp
    import netket

    lattice = netket.graph.Square(6)
    module = netket.models.GCNN(symmetries=lattice, layers=4, features=8)
    return _linen(module, jnp.ones((1, 36)))


@model("netket", "Linen", "autoregressive CNN")
def autoregressive():
    import jax.numpy as jnp
    import netket

    space = netket.hilbert.Spin(s=0.5, N=32)
    module = netket.models.ARNNConv1D(hilbert=space, layers=4, features=32, kernel_size=5)
    return _linen(module, jnp.ones((1, 32)))


@model("brax", "Linen", "PPO networks")
def ppo():
    from brax.training.agents.ppo.networks import make_ppo_networks

    networks = make_ppo_networks(observation_size=240, action_size=8)

    def init(policy_key, value_key):
        return networks.policy_network.init(policy_key), networks.value_network.init(value_key)

    return init, (_key(), _key())


@model("brax", "Linen", "SAC critics")
def sac():
    from brax.training.networks import make_q_network

    return make_q_network(obs_size=240, action_size=8).init, (_key(),)


@model("qdax", "Linen", "policy MLP")
def policy():
    import jax.numpy as jnp
    from qdax.core.neuroevolution.networks.networks import MLP

    return _linen(MLP((64, 64, 8)), jnp.zeros((1, 28)))


@model("qdax", "Linen", "LSTM autoencoder")
def autoencoder():
    import jax
    import jax.numpy as jnp
    from qdax.core.neuroevolution.networks.seq2seq_networks import Seq2seq

    module = Seq2seq(teacher_force=True, hidden_size=64, obs_size=28)
    x = jnp.zeros((1, 50, 28))
    keys = {"params": jax.random.key(0), "lstm": jax.random.key(1), "dropout": jax.random.key(2)}
    return lambda key, x: module.init(keys | {"params": key}, x, x), (_key(), x)


@model("e3x", "Linen", "message passing")
def equivariant():
    import e3x
    import flax.linen as nn
    import jax.numpy as jnp

    class Network(nn.Module):
        @nn.compact
        def __call__(self, numbers, displacements, receivers, senders):
            basis = e3x.nn.basis(
                displacements, num=16, max_degree=2, radial_fn=e3x.nn.reciprocal_bernstein
            )
            x = e3x.nn.Embed(num_embeddings=100, features=32)(numbers)
            for _ in range(3):
                y = e3x.nn.MessagePass()(x, basis, dst_idx=receivers, src_idx=senders)
                y = e3x.nn.Dense(32)(e3x.nn.silu(e3x.nn.Dense(32)(e3x.nn.add(x, y))))
                x = e3x.nn.add(x, y)
            return nn.Dense(1)(x[..., 0, 0, :])

    edges = jnp.array([0, 1, 2, 1, 2, 0]), jnp.array([1, 2, 0, 0, 1, 2])
    return _linen(Network(), jnp.array([1, 6, 8]), jnp.ones((6, 3)), *edges)


@model("flaxmodels", "Linen", "VGG-16", of="VGG16", size=224)
@model("flaxmodels", "Linen", "ResNet-18", of="ResNet18", size=224)
def image_net(of, size):
    import flaxmodels
    import jax.numpy as jnp

    module = getattr(flaxmodels, of)(pretrained=None)
    return _linen(module, jnp.zeros((1, size, size, 3)), train=False)


@model("ott-jax", "Linen", "input-convex network")
def input_convex():
    import jax.numpy as jnp
    from ott.neural.networks.icnn import ICNN

    return _linen(ICNN(dim_data=16, dim_hidden=[64, 64, 64, 64]), jnp.ones((1, 16)))


@model("recurrentgemma", "Linen", "Griffin, 6 blocks")
def griffin():
    import jax.numpy as jnp
    from recurrentgemma import common, jax

    recurrent, attention = common.TemporalBlockType.RECURRENT, common.TemporalBlockType.ATTENTION
    config = common.GriffinConfig(
        vocab_size=32000,
        width=512,
        mlp_expanded_width=1536,
        num_heads=8,
        block_types=(recurrent, recurrent, attention) * 2,
        embeddings_scale_by_sqrt_dim=True,
        attention_window_size=64,
        logits_soft_cap=30.0,
    )
    tokens = jnp.zeros((1, 8), jnp.int32)
    return _linen(jax.Griffin(config), tokens, jnp.arange(8)[None])


@model("long-range-models", "Linen", "S5, 4 layers", of="S5Layer", options={"conj_sym": True})
@model("long-range-models", "Linen", "LRU, 4 layers", of="LRULayer", options={})
def state_space(of, options):
    import jax.numpy as jnp
    import long_range_models

    layer = partial(getattr(long_range_models, of), state_dim=64, **options)
    module = long_range_models.S4Module(dim=128, depth=4, sequence_layer=layer)
    tokens = jnp.zeros((1, 64), jnp.int32)
    return _linen(long_range_models.SequenceModel(module, num_tokens=256), tokens)


@model("nano-moe-jax", "Linen", "mixture of experts")
def experts():
    import jax.numpy as jnp
    from nano_moe.config import NanoMoEConfig
    from nano_moe.model import NanoMoE

    return _linen(NanoMoE(NanoMoEConfig()), jnp.zeros((1, 16), jnp.int32))


@model("dm-haiku", "Haiku", "ResNet-50, Haiku", of="ResNet50")
@model("dm-haiku", "Haiku", "MobileNet", of="MobileNetV1")
def haiku_image_net(of):
    import haiku as hk
    import jax.numpy as jnp

    def forward(x):
        return getattr(hk.nets, of)(num_classes=1000)(x, is_training=True)

    init = hk.transform_with_state(forward).init
    return init, (_key(typed=False), jnp.zeros((1, 224, 224, 3)))


@model("dm-haiku", "Haiku", "MLP, 8 layers")
def haiku_mlp():
    import haiku as hk
    import jax.numpy as jnp

    init = hk.transform(lambda x: hk.nets.MLP([256] * 8)(x)).init
    return init, (_key(typed=False), jnp.zeros((1, 64)))


@model("jumanji", "Haiku", "TSP transformer")
def salesman():
    import jumanji
    from jumanji.training.networks.tsp.actor_critic import make_actor_critic_networks_tsp

    return _jumanji(
        jumanji.make("TSP-v1"),
        make_actor_critic_networks_tsp,
        transformer_num_blocks=6,
        transformer_num_heads=8,
        transformer_key_size=16,
        transformer_mlp_units=[512],
        mean_cities_in_query=True,
    )


@model("jumanji", "Haiku", "Tetris CNN")
def tetris():
    import jumanji
    from jumanji.training.networks.tetris.actor_critic import make_actor_critic_networks_tetris

    return _jumanji(
        jumanji.make("Tetris-v0"),
        make_actor_critic_networks_tetris,
        conv_num_channels=64,
        tetromino_layers=[16, 16],
        head_layers=[128],
    )


def _jumanji(environment, make, **sizes):
    import jax

    networks = make(environment, **sizes)
    _, step = environment.reset(jax.random.PRNGKey(0))
    batch = jax.tree.map(lambda leaf: leaf[None], step.observation)

    def init(key, batch):
        keys = jax.random.split(key)
        return (
            networks.policy_network.init(keys[0], batch),
            networks.value_network.init(keys[1], batch),
        )

    return init, (_key(typed=False), batch)


@model("heal-swin-nnx", "NNX", "HEAL-Swin")
def heal_swin():
    from heal_swin_nnx import HealSwin, HealSwinParams

    return _nnx(HealSwin, HealSwinParams(nside=64, in_channels=3, out_channels=10))


@model("heal-swin-nnx", "NNX", "HEAL-ConvNet")
def heal_conv():
    from heal_swin_nnx import HealConv, HealConvParams

    return _nnx(HealConv, HealConvParams(nside=64, in_channels=3, out_channels=10))


@model("mamba2-jax", "NNX", "Mamba-2 130M")
def mamba2():
    import mamba2_jax

    return _nnx(mamba2_jax.Mamba2ForCausalLM, mamba2_jax.Mamba2Config())


@model("mamba3-jax", "NNX", "Mamba-3, 12 blocks")
def mamba3():
    import mamba3_jax

    config = mamba3_jax.Mamba3Config(num_hidden_layers=12, hidden_size=512, vocab_size=8192)
    return _nnx(mamba3_jax.Mamba3ForCausalLM, config)


@model("jraphx", "NNX", "GAT, 4 layers", of="GAT")
@model("jraphx", "NNX", "GraphSAGE, 4 layers", of="GraphSAGE")
def graph_network(of):
    from jraphx.nn import models

    sizes = {"in_features": 64, "hidden_features": 128, "num_layers": 4, "out_features": 16}
    return _nnx(getattr(models, of), **sizes, norm="layer_norm", dropout_rate=0.1)


@model("ott-jax", "NNX", "diffusion U-Net")
def unet():
    from ott.neural.networks.velocity_field.unet import UNet

    sizes = {"shape": (32, 32, 3), "model_channels": 64, "channel_mult": (1, 2, 2, 2)}
    return _nnx(UNet, **sizes, num_res_blocks=2, attention_resolutions=(16, 8), num_heads=4)


@model("ott-jax", "NNX", "velocity MLP")
def velocity():
    from ott.neural.networks.velocity_field.mlp import MLP

    return _nnx(MLP, 2, hidden_dims=[128, 128, 128], cond_dim=0)
