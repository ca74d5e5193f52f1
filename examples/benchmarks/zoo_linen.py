"""Linen models of outside packages.

Sizes are those of the packages' own defaults or examples where these are small enough.
"""

from functools import partial

from zoo_registry import model, new_key, of_linen

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
    return partial(built.init_weights, input_shape=built.input_shape), (new_key(typed=False),)


@model("netket", "Linen", "RBM, complex")
def complex_rbm():
    import jax.numpy as jnp
    import netket

    return of_linen(netket.models.RBM(alpha=4, param_dtype=complex), jnp.ones((1, 64)))


@model("netket", "Linen", "neural density matrix")
def density_matrix():
    import jax.numpy as jnp
    import netket

    return of_linen(netket.models.NDM(alpha=2, beta=2), jnp.ones((1, 32)))


@model("netket", "Linen", "group CNN 6x6")
def group_cnn():
    import jax.numpy as jnp
    import netket

    lattice = netket.graph.Square(6)
    module = netket.models.GCNN(symmetries=lattice, layers=4, features=8)
    return of_linen(module, jnp.ones((1, 36)))


@model("netket", "Linen", "autoregressive CNN")
def autoregressive():
    import jax.numpy as jnp
    import netket

    space = netket.hilbert.Spin(s=0.5, N=32)
    module = netket.models.ARNNConv1D(hilbert=space, layers=4, features=32, kernel_size=5)
    return of_linen(module, jnp.ones((1, 32)))


@model("brax", "Linen", "PPO networks")
def ppo():
    from brax.training.agents.ppo.networks import make_ppo_networks

    networks = make_ppo_networks(observation_size=240, action_size=8)

    def init(policy_key, value_key):
        return networks.policy_network.init(policy_key), networks.value_network.init(value_key)

    return init, (new_key(), new_key())


@model("brax", "Linen", "SAC critics")
def sac():
    from brax.training.networks import make_q_network

    return make_q_network(obs_size=240, action_size=8).init, (new_key(),)


@model("qdax", "Linen", "policy MLP")
def policy():
    import jax.numpy as jnp
    from qdax.core.neuroevolution.networks.networks import MLP

    return of_linen(MLP((64, 64, 8)), jnp.zeros((1, 28)))


@model("qdax", "Linen", "LSTM autoencoder")
def autoencoder():
    import jax
    import jax.numpy as jnp
    from qdax.core.neuroevolution.networks.seq2seq_networks import Seq2seq

    module = Seq2seq(teacher_force=True, hidden_size=64, obs_size=28)
    x = jnp.zeros((1, 50, 28))
    keys = {"params": jax.random.key(0), "lstm": jax.random.key(1), "dropout": jax.random.key(2)}
    return lambda key, x: module.init(keys | {"params": key}, x, x), (new_key(), x)


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
    return of_linen(Network(), jnp.array([1, 6, 8]), jnp.ones((6, 3)), *edges)


@model("flaxmodels", "Linen", "VGG-16", of="VGG16", size=224)
@model("flaxmodels", "Linen", "ResNet-18", of="ResNet18", size=224)
def image_net(of, size):
    import flaxmodels
    import jax.numpy as jnp

    module = getattr(flaxmodels, of)(pretrained=None)
    return of_linen(module, jnp.zeros((1, size, size, 3)), train=False)


@model("ott-jax", "Linen", "input-convex network")
def input_convex():
    import jax.numpy as jnp
    from ott.neural.networks.icnn import ICNN

    return of_linen(ICNN(dim_data=16, dim_hidden=[64, 64, 64, 64]), jnp.ones((1, 16)))


@model("long-range-models", "Linen", "S5, 4 layers", of="S5Layer", options={"conj_sym": True})
@model("long-range-models", "Linen", "LRU, 4 layers", of="LRULayer", options={})
def state_space(of, options):
    import jax.numpy as jnp
    import long_range_models

    layer = partial(getattr(long_range_models, of), state_dim=64, **options)
    module = long_range_models.S4Module(dim=128, depth=4, sequence_layer=layer)
    tokens = jnp.zeros((1, 64), jnp.int32)
    return of_linen(long_range_models.SequenceModel(module, num_tokens=256), tokens)


@model("nano-moe-jax", "Linen", "mixture of experts")
def experts():
    import jax.numpy as jnp
    from nano_moe.config import NanoMoEConfig
    from nano_moe.model import NanoMoE

    return of_linen(NanoMoE(NanoMoEConfig()), jnp.zeros((1, 16), jnp.int32))
