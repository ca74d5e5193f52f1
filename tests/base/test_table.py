"""Tables show every cell as it is, whatever rich would read in it."""

import jax.numpy as jnp
import pytest

import flax_inits
from flax_inits.initializers.catalogue import Catalogue, CatalogueEntry


@pytest.mark.parametrize("path", ["a\\[b]", "a:smile:b", "[red]a[/red]", "层" * 40 + "/kernel"])
def test_cells_are_neither_changed_nor_cut(path):
    line = str(flax_inits.summary({path: jnp.ones(2)})).splitlines()[2]
    assert line.split() == [path, "2", "float32", "1", "0", "1", "1"]
    assert path in str(Catalogue([CatalogueEntry(path, "family", "summary", "reference")]))


def test_whole_numbers_are_shown_in_full():
    line = str(flax_inits.summary({"a": jnp.array([1, 123456, 12345678])})).splitlines()[2]
    assert line.split()[-2:] == ["1", "1.23e+07"]
    assert str(flax_inits.summary({"a": jnp.array([-123456])})).splitlines()[2].split()[-1] == (
        "-123456"
    )
