"""What is kept from one call to the next: not too much, and never another call's answer."""

import gc
import threading
import weakref

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import Mesh

import flax_inits as fi
from flax_inits._base import cache as cache_module
from flax_inits._base.cache import Cache
from flax_inits._engine import compile

KEY = jax.random.key(3)


def test_the_least_recently_used_goes_first():
    cache = Cache(2)
    assert cache.find("a") is None
    assert cache.keep("a", 1) == 1
    assert cache.keep("a", 2) == 1
    cache.keep("b", 3)
    assert cache.find("a") == 1
    cache.keep("c", 4)
    assert [cache.find(key) for key in "abc"] == [1, None, 4]
    cache.drop("a")
    cache.drop("a")
    assert [cache.find(key) for key in "abc"] == [None, None, 4]


def test_what_holds_arrays_counts_by_their_size(monkeypatch):
    monkeypatch.setattr(cache_module, "_MOST_BYTES", 10)
    cache = Cache(100)
    cache.keep("a", 1, 4)
    cache.keep("b", 2, 6)
    assert cache.find("a") == 1
    cache.keep("c", 3, 1)
    assert [cache.find(key) for key in "abc"] == [1, None, 3]
    cache.keep("d", 4, 1000)  # Alone it is kept: a loop may ask for it again.
    assert [cache.find(key) for key in "acd"] == [None, None, 4]
    cache.drop("d")
    cache.keep("e", 5, 10)
    cache.keep("f", 6)
    assert [cache.find(key) for key in "ef"] == [5, 6]


@pytest.mark.slow
@pytest.mark.parametrize("how", ["call", "reinit", "staged", "init_fn"])
def test_data_is_let_go(monkeypatch, how):
    """A loop that rewinds to other weights each time must not keep them all."""
    monkeypatch.setattr(cache_module, "_MOST_BYTES", 1 << 14)
    params, alive = {"a": jnp.zeros(1024)}, []

    class Data(np.ndarray):
        """An array that can be referred to weakly."""

    for i in range(12):
        data = np.full(1024, i, np.float32)
        if how == "init_fn":
            kept = data.view(Data)
            fi.reinit(KEY, params, "a", init_fn=lambda key, kept=kept: {"a": key_plus(key, kept)})
        else:
            kept = fi.from_array(data)
        if how == "call":
            kept(KEY, (1024,))
        if how == "staged":
            jax.jit(lambda key, kept=kept: kept(key, (1024,)))(KEY)
        if how == "reinit":
            fi.reinit(KEY, params, {"a": kept})
        alive.append(weakref.ref(kept))
        del kept
    gc.collect()
    jax.clear_caches()
    gc.collect()
    assert sum(ref() is not None for ref in alive) <= 5


def key_plus(key, data):
    return jax.random.normal(key, data.shape) + data


@pytest.mark.sampled(3)
@pytest.mark.parametrize("init", [fi.orthogonal(), fi.normal(1.0), fi.ones()], ids=repr)
def test_a_draw_is_where_the_mesh_in_use_is(init):
    one, other = (Mesh(np.array(jax.devices()[start : start + 2]), ("x",)) for start in (0, 2))
    for mesh in (one, other, one):
        with jax.set_mesh(mesh):
            drawn, as_jax = init(KEY, (4, 4)), jax.nn.initializers.normal(1.0)(KEY, (4, 4))
        assert drawn.sharding == as_jax.sharding
        assert drawn.sharding.device_set == set(mesh.devices.flat)
        alone = init(KEY, (4, 4))
        assert alone.devices() == {jax.devices()[0]} and not alone.committed
        np.testing.assert_array_equal(drawn, alone)


def test_a_plan_is_for_the_devices_of_the_mesh_in_use():
    init = fi.jit_init(lambda key: jax.random.normal(key, (4, 4)))
    for start in (0, 2, 0):  # equal axes, other devices
        devices = jax.devices()[start : start + 2]
        with jax.set_mesh(Mesh(np.array(devices), ("x",))):
            assert init(KEY).sharding.device_set == set(devices)


def test_a_plan_is_for_the_precision_in_use():
    def fun(key):
        square = jax.random.normal(key, (3, 3))
        return square @ square

    init = fi.jit_init(fun)
    for precision in (None, "highest", None):
        with jax.default_matmul_precision(precision):
            ((_, lowered),) = init.lower(KEY).programs
        assert ("HIGHEST" in lowered.as_text()) == (precision == "highest")


@pytest.mark.usefixtures("standard_promotion")  # as in the thread, or they compile apart
def test_who_waits_for_a_call_that_gives_up_compiles_for_itself(monkeypatch):
    compiled, begun, failing = compile._compiled, threading.Event(), threading.Event()

    def slowly(lowered, options):
        if threading.current_thread() is not threading.main_thread() and not failing.is_set():
            begun.set()
            failing.wait(30)
            raise KeyboardInterrupt
        return compiled(lowered, options)

    monkeypatch.setattr(compile, "_compiled", slowly)
    init = fi.jit_init(lambda key: jnp.tan(jax.random.normal(key, (3, 17))))
    seen = []

    def interrupted():
        try:
            init(KEY)
        except KeyboardInterrupt:
            seen.append("interrupted")

    thread = threading.Thread(target=interrupted)
    thread.start()
    begun.wait(30)
    threading.Timer(0.2, failing.set).start()
    made = init(KEY)  # It finds a program that is under way, and waits for it.
    thread.join(30)
    assert seen == ["interrupted"] and made.shape == (3, 17)
