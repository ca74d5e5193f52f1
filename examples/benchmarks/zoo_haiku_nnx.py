"""Haiku and NNX models of outside packages, sized as those of zoo_linen.py."""

from zoo_registry import model, new_key, of_nnx


@model("dm-haiku", "Haiku", "ResNet-50, Haiku", first_batch=True, of="ResNet50")
@model("dm-haiku", "Haiku", "MobileNet", first_batch=True, of="MobileNetV1")
def haiku_image_net(of):
    import haiku as hk
    import jax.numpy as jnp

    def forward(x):
        return getattr(hk.nets, of)(num_classes=1000)(x, is_training=True)

    init = hk.transform_with_state(forward).init
    return init, (new_key(typed=False), jnp.zeros((1, 224, 224, 3)))


@model("dm-haiku", "Haiku", "MLP, 8 layers")
def haiku_mlp():
    import haiku as hk
    import jax.numpy as jnp

    init = hk.transform(lambda x: hk.nets.MLP([256] * 8)(x)).init
    return init, (new_key(typed=False), jnp.zeros((1, 64)))


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

    return init, (new_key(typed=False), batch)


@model("heal-swin-nnx", "NNX", "HEAL-Swin")
def heal_swin():
    from heal_swin_nnx import HealSwin, HealSwinParams

    return of_nnx(HealSwin, HealSwinParams(nside=32, in_channels=3, out_channels=10))


@model("heal-swin-nnx", "NNX", "HEAL-ConvNet")
def heal_conv():
    from heal_swin_nnx import HealConv, HealConvParams

    return of_nnx(HealConv, HealConvParams(nside=32, in_channels=3, out_channels=10))


@model("mamba2-jax", "NNX", "Mamba-2 130M")
def mamba2():
    import mamba2_jax

    return of_nnx(mamba2_jax.Mamba2ForCausalLM, mamba2_jax.Mamba2Config())


@model("mamba3-jax", "NNX", "Mamba-3, 12 blocks")
def mamba3():
    import mamba3_jax

    config = mamba3_jax.Mamba3Config(num_hidden_layers=12, hidden_size=512, vocab_size=8192)
    return of_nnx(mamba3_jax.Mamba3ForCausalLM, config)


@model("jraphx", "NNX", "GAT, 4 layers", of="GAT")
@model("jraphx", "NNX", "GraphSAGE, 4 layers", of="GraphSAGE")
def graph_network(of):
    from jraphx.nn import models

    sizes = {"in_features": 64, "hidden_features": 128, "num_layers": 4, "out_features": 16}
    return of_nnx(getattr(models, of), **sizes, norm="layer_norm", dropout_rate=0.1)


@model("ott-jax", "NNX", "diffusion U-Net")
def unet():
    from ott.neural.networks.velocity_field.unet import UNet

    sizes = {"shape": (32, 32, 3), "model_channels": 64, "channel_mult": (1, 2, 2, 2)}
    return of_nnx(UNet, **sizes, num_res_blocks=2, attention_resolutions=(16, 8), num_heads=4)


@model("ott-jax", "NNX", "velocity MLP")
def velocity():
    from ott.neural.networks.velocity_field.mlp import MLP

    return of_nnx(MLP, 2, hidden_dims=[128, 128, 128], cond_dim=0)
