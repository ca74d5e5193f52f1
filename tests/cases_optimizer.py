"""Every transformation that optax exports: how it is made, and how it is trained."""

import importlib
import inspect
import pkgutil
import warnings

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax
import optax.contrib
from flax import jax_utils
from jax.tree_util import keystr

C = optax.contrib
LR = 0.1


def value(params):
    return sum(jnp.vdot(leaf, leaf) + leaf.sum() for leaf in jax.tree.leaves(params))


# What trains on (gradients, state, params) alone, and how a line search or a loss reaches it.
def plain(tx, grads, state, params):
    return tx.update(grads, state, params)


def with_value(tx, grads, state, params):
    return tx.update(grads, state, params, value=value(params))


def with_search(tx, grads, state, params):
    return tx.update(grads, state, params, value=value(params), grad=grads, value_fn=value)


def with_objective(tx, grads, state, params):
    return tx.update(grads, state, params, obj_fn=value)


def per_example(tx, grads, state, params):
    return tx.update(jax.tree.map(lambda g: jnp.stack([g, 2 * g]), grads), state, params)


def two_results(tx, grads, state, params):
    (updates, _), state = per_example(tx, grads, state, params)
    return updates, state


def with_variance(tx, grads, state, params):
    return tx.update(grads, state, params, sum_sq_diff_grads=grads, sample_size=2)


def beside(tx, grads, state, params):
    """What makes something else of the updates than updates."""
    return grads, tx.update(grads, state, params)[1]


def aggregating():
    return importlib.import_module("optax.experimental").aggregating


def only_kernels(tree):
    return jax.tree_util.tree_map_with_path(lambda path, _: "kernel" in keystr(path), tree)


def by_layer(tree):
    return jax.tree_util.tree_map_with_path(lambda path, _: keystr(path).split("'")[1], tree)


def as_matrices(tree):
    return jax.tree.map(lambda leaf: C.MuonDimensionNumbers(), tree)


def scale_by_muon():
    """Older releases take matrices only; newer ones want to be told what is a matrix."""
    known = inspect.signature(C.scale_by_muon).parameters
    name = "weight_dimension_numbers"
    return C.scale_by_muon(**({name: as_matrices} if name in known else {}))


LAYERWISE = {"body": optax.adam(LR), "count": optax.sgd(LR, 0.9)}


def some_sum(updates, **_):
    return sum(leaf.sum() for leaf in jax.tree.leaves(updates))


# name: (how to make it, how to train it). Everything that optax exports and that makes a
# transformation is here; what else has no return annotation is in OTHERS.
SIMPLE = """adabelief adadelta adagrad adam adamax adamaxw adamw adan amsgrad fromage lamb lars lion
nadam nadamw noisy_sgd novograd optimistic_adam_v2 optimistic_gradient_descent radam rmsprop rprop
sgd sign_sgd signum sm3 yogi acprop ademamix adopt cocob dog dowg simplified_ademamix
scale scale_by_learning_rate add_decayed_weights adaptive_grad_clip clip clip_by_block_rms
clip_by_global_norm ema trace normalize_by_update_norm apply_every"""
DEFAULTS = """scale_by_acprop scale_by_adadelta scale_by_adam scale_by_adamax scale_by_adan
scale_by_ademamix scale_by_adopt scale_by_amsgrad scale_by_belief scale_by_cocob
scale_by_distance_over_gradients scale_by_lion scale_by_novograd scale_by_optimistic_gradient
scale_by_param_block_norm scale_by_param_block_rms scale_by_radam scale_by_rms scale_by_rss
scale_by_sign scale_by_simplified_ademamix scale_by_sm3 scale_by_stddev scale_by_trust_ratio
scale_by_yogi centralize identity keep_params_nonnegative set_to_zero normalize"""
# What they do to one param depends on all of them.
COUPLED = """dadapt_adamw dog dowg flatten lbfgs mechanize momo momo_adam polyak_sgd prodigy
reduce_on_plateau scale_by_lbfgs scale_by_polyak scale_by_backtracking_linesearch
scale_by_zoom_linesearch""".split()
SPECIAL = {
    "MultiSteps": (lambda: optax.MultiSteps(optax.adam(LR), 2), plain),
    "adafactor": (lambda: optax.adafactor(LR, min_dim_size_to_factor=2), plain),
    "add_noise": (lambda: optax.add_noise(0.1, 0.1, jax.random.key(0)), plain),
    "apply_if_finite": (lambda: optax.apply_if_finite(optax.adam(LR), 3), plain),
    "chain": (lambda: optax.chain(optax.clip(1.0), optax.adam(LR)), plain),
    "conditionally_mask": (
        lambda: optax.conditionally_mask(optax.adam(LR), lambda step, **_: step < 9),
        plain,
    ),
    "conditionally_transform": (
        lambda: optax.conditionally_transform(optax.adam(LR), lambda step, **_: step < 9),
        plain,
    ),
    "dadapt_adamw": (lambda: C.dadapt_adamw(LR), plain),
    "differentially_private_aggregate": (
        lambda: C.differentially_private_aggregate(1.0, 0.1, 0),
        per_example,
    ),
    "dpsgd": (lambda: C.dpsgd(LR, 1.0, 0.1, 0, momentum=0.9), per_example),
    "flatten": (lambda: optax.flatten(optax.adam(LR)), plain),
    "freeze": (lambda: optax.transforms.freeze(False), plain),
    "galore": (lambda: C.galore(LR, rank=2), plain),
    "hutchinson_estimator_diag_hessian": (C.hutchinson_estimator_diag_hessian, with_objective),
    "inject_hyperparams": (lambda: optax.inject_hyperparams(optax.adam)(LR), plain),
    "inject_stateful_hyperparams": (
        lambda: optax.inject_stateful_hyperparams(optax.adam)(optax.linear_schedule(LR, 0, 9)),
        plain,
    ),
    "lbfgs": (lambda: optax.lbfgs(LR, memory_size=3), with_search),
    "madgrad": (lambda: C.madgrad(LR), plain),
    "masked": (lambda: optax.masked(optax.adam(LR), only_kernels), plain),
    "mechanize": (lambda: C.mechanize(optax.adam(LR)), plain),
    "momo": (lambda: C.momo(LR), with_value),
    "momo_adam": (lambda: C.momo_adam(LR), with_value),
    "multi_transform": (
        lambda: optax.multi_transform(LAYERWISE, by_layer),
        plain,
    ),
    "muon": (lambda: C.muon(LR), plain),
    "named_chain": (
        lambda: optax.named_chain(("clip", optax.clip(1.0)), ("adam", optax.adam(LR))),
        plain,
    ),
    "optimistic_adam": (lambda: optax.optimistic_adam(LR), plain),
    "partition": (
        lambda: optax.partition(LAYERWISE, by_layer),
        plain,
    ),
    "polyak_sgd": (optax.polyak_sgd, with_value),
    "prodigy": (lambda: C.prodigy(LR), plain),
    "reduce_on_plateau": (C.reduce_on_plateau, with_value),
    "sam": (lambda: C.sam(optax.sgd(LR, 0.9), optax.sgd(LR), sync_period=2), plain),
    "scale_by_backtracking_linesearch": (
        lambda: optax.scale_by_backtracking_linesearch(3, store_grad=True),
        with_search,
    ),
    "scale_by_factored_rms": (
        lambda: optax.scale_by_factored_rms(min_dim_size_to_factor=2),
        plain,
    ),
    "scale_by_galore": (lambda: C.scale_by_galore(rank=2), plain),
    "scale_by_lbfgs": (lambda: optax.scale_by_lbfgs(3), plain),
    "scale_by_madgrad": (lambda: C.scale_by_madgrad(LR), plain),
    "scale_by_muon": (
        lambda: optax.masked(scale_by_muon(), only_kernels),
        plain,
    ),
    "scale_by_polyak": (optax.scale_by_polyak, with_value),
    "scale_by_rprop": (lambda: optax.scale_by_rprop(LR), plain),
    "scale_by_schedule": (lambda: optax.scale_by_schedule(optax.linear_schedule(1, 0, 9)), plain),
    "scale_by_zoom_linesearch": (lambda: optax.scale_by_zoom_linesearch(3), with_search),
    "schedule_free": (lambda: C.schedule_free(optax.sgd(LR, 0.9), LR), plain),
    "schedule_free_adamw": (lambda: C.schedule_free_adamw(LR), plain),
    "schedule_free_sgd": (lambda: C.schedule_free_sgd(LR), plain),
    "selective_transform": (
        lambda: optax.transforms.selective_transform(optax.adam(LR), freeze_mask=only_kernels),
        plain,
    ),
    "sophia": (lambda: C.sophia(LR), with_objective),
    "split_real_and_imaginary": (lambda: C.split_real_and_imaginary(optax.adam(LR)), plain),
    "stateless": (lambda: optax.stateless(lambda updates, params: updates), plain),
    "stateless_with_tree_map": (
        lambda: optax.stateless_with_tree_map(lambda update, param: update),
        plain,
    ),
    "measure_with_ema": (lambda: optax.measure_with_ema(some_sum, 0.9), beside),
    "monitor": (
        lambda: optax.chain(
            optax.monitor({"sum": some_sum, "ema": optax.measure_with_ema(some_sum, 0.9)}),
            optax.adam(LR),
        ),
        plain,
    ),
    "snapshot": (lambda: optax.chain(optax.snapshot("sum", some_sum), optax.adam(LR)), plain),
    "accumulate_avg_updates": (lambda: aggregating().accumulate_avg_updates(2), plain),
    "add_mean_variance_to_opt": (
        lambda: aggregating().add_mean_variance_to_opt(optax.adam(LR)),
        per_example,
    ),
    "average_incrementally_updates": (
        lambda: aggregating().average_incrementally_updates(0, 2),
        per_example,
    ),
    "average_per_element_updates": (
        lambda: aggregating().average_per_element_updates(),
        per_example,
    ),
    "get_per_element_mean_and_sum_sq_diff_grads": (
        lambda: aggregating().get_per_element_mean_and_sum_sq_diff_grads(0, 2),
        two_results,
    ),
    "process": (
        lambda: aggregating().process(
            optax.identity(), aggregating().average_per_element_updates(), optax.adam(LR)
        ),
        per_example,
    ),
    "track_per_element_mean_and_variance_with_ema": (
        lambda: aggregating().track_per_element_mean_and_variance_with_ema(),
        with_variance,
    ),
    "with_extra_args_support": (lambda: optax.with_extra_args_support(optax.adam(LR)), plain),
    "zero_nans": (optax.zero_nans, plain),
}
SPECIAL["noisy_sgd"] = (lambda: optax.noisy_sgd(LR), plain)
# Exported, and no transformation of plain params: types, what only reads a state, and lookahead,
# whose params are pairs (it has tests of its own).
OTHERS = set(
    """GradientTransformation GradientTransformationExtraArgs Aggregator WrappedSchedule
StatefulSchedule schedule_free_eval_params lookahead""".split()
)


def make(name):
    with warnings.catch_warnings(action="ignore"):  # Some are deprecated; they still count.
        if name in SPECIAL:
            return SPECIAL[name][0]()
        factory = EXPORTED[name]
        return factory(LR) if name in SIMPLE.split() else factory()


def public_modules():
    """Optax and what it makes public below it, under whatever name."""
    found = [optax]
    for info in pkgutil.walk_packages(optax.__path__, "optax."):
        parts = info.name.split(".")
        if not any(part.startswith("_") or part.endswith("_test") for part in parts):
            module = importlib.import_module(info.name)
            below = {name: thing for name, thing in vars(module).items() if name[0] != "_"}
            found += [module, *filter(inspect.ismodule, below.values())]
    return [module for module in found if module.__name__.startswith("optax")]


def exported():
    """What optax makes public that makes transformations, or might, by name."""
    found = {}
    for module in public_modules():
        for name in dir(module):
            with warnings.catch_warnings(action="ignore"):
                thing = getattr(module, name)
            if not name.startswith("_") and might_make_transformations(thing):
                found.setdefault(name, thing)
    return found


def might_make_transformations(thing):
    if inspect.isclass(thing):
        return thing.__module__.startswith("optax") and hasattr(thing, "init")
    thing = getattr(thing, "func", thing)  # `optax.nadam` is a partial.
    if not inspect.isfunction(thing):
        return False
    returns = inspect.signature(thing).return_annotation
    if returns is inspect.Signature.empty:
        home = inspect.getmodule(inspect.unwrap(thing))
        return "GradientTransformation" in inspect.getsource(home)
    return "GradientTransformation" in str(returns) or "Aggregator" in str(returns)


EXPORTED = exported()
TABLE = {*SIMPLE.split(), *DEFAULTS.split(), *SPECIAL}
NAMES = sorted(TABLE & EXPORTED.keys())


def new_params(seed=0):
    """Names that a search by name confuses with the state's own, beside plain ones."""
    keys = iter(jax.random.split(jax.random.key(seed), 4))
    return {
        "body": {
            "bias": jax.random.normal(next(keys), (4,)),
            "kernel": jax.random.normal(next(keys), (3, 4)),
        },
        "count": {
            "kernel": jax.random.normal(next(keys), (4, 2)),
            "mu": jax.random.normal(next(keys), (2,)),
        },
    }


def update_of(name):
    """How it trains."""
    return SPECIAL.get(name, (None, plain))[1]


def boxed(params):
    return jax.tree.map(lambda leaf: nn.Partitioned(leaf, (None,) * leaf.ndim), params)


def replicate(tree):
    """As `pmap` takes it: one copy for each device, along a leading axis."""
    with warnings.catch_warnings(action="ignore"):  # flax calls what jax deprecates
        return jax_utils.replicate(tree)
