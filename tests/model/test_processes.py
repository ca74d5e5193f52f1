"""Several processes: each makes its own shards, with the values that one process would make."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from pathlib import Path

import jax
import numpy as np
import process_worker as worker
import pytest

ROOT = Path(__file__).parents[2]
COUNT = 2
DEVICES = 8


class Failed(Exception):
    """A process that ended with an error, or not in time."""


def run(task, limit):
    """Starts the processes, waits for all, and returns what each printed; none outlives it."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{probe.getsockname()[1]}"
    processes = [start(address, which, task) for which in range(COUNT)]
    threads = ThreadPoolExecutor(COUNT)
    try:
        waits = [threads.submit(finish, process, limit) for process in processes]
        done, _ = wait(waits, return_when=FIRST_EXCEPTION)
        failure = next((d.exception() for d in done if d.exception() is not None), None)
        if failure is not None:
            raise failure
        return [future.result() for future in waits]
    finally:
        for process in processes:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
        threads.shutdown()


def start(address, which, task):
    flags = f"--xla_force_host_platform_device_count={DEVICES // COUNT}"
    environment = os.environ | {
        "JAX_PLATFORMS": "cpu",
        "PYTHONHASHSEED": str(which + 1),
        "PYTHONPATH": str(ROOT),
        "XLA_FLAGS": flags,
    }
    script = ROOT / "tests" / "process_worker.py"
    return subprocess.Popen(
        [sys.executable, "-W", "error", script, address, str(which), str(COUNT), task],
        env=environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def finish(process, limit):
    """What the process printed; waiting for one ends when another fails and all are killed."""
    try:
        printed, errors = process.communicate(timeout=limit)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        raise Failed(f"not done after {limit} s: {process.communicate()[1][-2000:]}") from None
    if process.returncode:
        raise Failed(f"exit code {process.returncode}: {errors[-4000:]}")
    return printed


@pytest.mark.slow
def test_processes_make_together_what_one_makes_alone():
    # One test, as running the processes is most of its time, and xdist may share out tests.
    reports = [json.loads(printed.splitlines()[-1]) for printed in run("make", worker.LIMIT)]
    alone = {name: leaves_of(tree) for name, tree in worker.made()}
    assert len({report["hash of a string"] for report in reports}) == COUNT
    for report in reports:
        assert report["made"].keys() == alone.keys()
        for name, leaves in report["made"].items():
            assert_values(leaves, alone[name], name)
    assert_own_shards_only(reports)


def leaves_of(tree):
    leaves = jax.tree.leaves_with_path(tree)
    return {jax.tree_util.keystr(path): np.asarray(leaf) for path, leaf in leaves}


def assert_values(leaves, alone, name):
    """Every shard that a process reports has the bytes of that part of the whole."""
    assert leaves.keys() == alone.keys()
    for path, parts in leaves.items():
        for part in parts:
            bounds = tuple(slice(*bound) for bound in part["bounds"])
            assert part["digest"] == worker.digest(alone[path][bounds]), (name, path, bounds)


def assert_own_shards_only(reports):
    devices = [set(report["devices"]) for report in reports]
    assert len(set.union(*devices)) == DEVICES
    for report, own in zip(reports, devices, strict=True):
        for name, leaves in report["made"].items():
            for parts in leaves.values():
                held = [part["device"] for part in parts]
                assert len(held) == (1 if name == "local" else len(own))
                assert set(held) <= own
        assert report["large"] == 4 * np.prod(worker.LARGE) // COUNT


@pytest.mark.slow
def test_a_process_that_dies_is_reported_at_once():
    begun = time.monotonic()
    with pytest.raises(Failed, match=rf"exit code {worker.DIED}: [\s\S]*this one dies"):
        run("die", worker.LIMIT)
    assert time.monotonic() - begun < worker.LIMIT / 2


@pytest.mark.slow
def test_a_process_that_hangs_is_ended():
    with pytest.raises(Failed, match="not done after 10 s"):
        run("hang", 10)
