"""Averaging low-rank adapters: the products against the factors."""

from __future__ import annotations

import numpy as np
import pytest

from fieldstone.federate.lora import error, pairs, stacked

NAME = "layer.0.q.lora_{}.default.weight"


def adapter(chance, rank=4, out=24, into=20, common=None):
    own = {
        NAME.format("A"): chance.normal(size=(rank, into)).astype(np.float32),
        NAME.format("B"): chance.normal(size=(out, rank)).astype(np.float32),
        "norm.weight": chance.normal(size=3).astype(np.float32),
    }
    return own if common is None else {name: common[name] + 0.1 * own[name] for name in own}


def factors_averaged(sites, shares):
    return {
        name: sum(share * its[name] for share, its in zip(shares, sites, strict=True)) for name in sites[0]
    }


def product(arrays):
    return arrays[NAME.format("B")] @ arrays[NAME.format("A")]


def exact(sites, shares):
    return sum(share * product(its) for share, its in zip(shares, sites, strict=True))


def test_the_pairs_are_found_by_name():
    assert list(pairs(adapter(np.random.default_rng(0)))) == [(NAME.format("A"), NAME.format("B"))]


def test_with_room_for_all_ranks_it_is_the_mean_of_the_products():
    sites, shares = [adapter(np.random.default_rng(seed)) for seed in range(3)], [0.5, 0.3, 0.2]
    found = stacked(sites, shares, 12)
    assert np.allclose(product(found), exact(sites, shares), atol=1e-5)
    assert error(sites, shares, found) < 1e-6
    assert found[NAME.format("A")].shape == (12, 20)
    assert np.allclose(found["norm.weight"], factors_averaged(sites, shares)["norm.weight"])


def test_at_the_rank_of_the_settings_nothing_is_nearer():
    sites, shares = [adapter(np.random.default_rng(seed)) for seed in range(3)], [0.5, 0.3, 0.2]
    found = stacked(sites, shares, 4)
    u, values, v = np.linalg.svd(exact(sites, shares))  # by forming the product, as the code does not
    best = (u[:, :4] * values[:4]) @ v[:4]
    assert np.allclose(product(found), best, atol=1e-4)
    assert error(sites, shares, found) == pytest.approx(
        np.sqrt((values[4:] ** 2).sum() / (values**2).sum()), rel=1e-4
    )
    a, b = found[NAME.format("A")], found[NAME.format("B")]
    assert np.allclose((a**2).sum(axis=1), (b**2).sum(axis=0), rtol=1e-3)  # the two share the values


def test_the_factors_averaged_are_far_from_it_where_sites_differ_and_near_where_they_agree():
    shares = [1 / 3] * 3
    apart = [adapter(np.random.default_rng(seed)) for seed in range(3)]
    start = adapter(np.random.default_rng(9))
    near = [adapter(np.random.default_rng(seed), common=start) for seed in range(3)]
    found = {
        (name, way): error(sites, shares, joined)
        for name, sites in (("apart", apart), ("near", near))
        for way, joined in (
            ("factors", factors_averaged(sites, shares)),
            ("stacked", stacked(sites, shares, 4)),
        )
    }
    assert found["apart", "factors"] > 0.7
    assert found["near", "factors"] < 0.1
    for name in ("apart", "near"):
        assert found[name, "stacked"] < found[name, "factors"]
    assert error(apart, shares, {**apart[0], NAME.format("B"): np.zeros((24, 4))}) == pytest.approx(1)


def test_one_site_alone_is_left_as_it_is():
    site = adapter(np.random.default_rng(0))
    assert np.allclose(product(stacked([site], [1.0], 4)), product(site), atol=1e-5)


def test_adapters_that_do_nothing_yet():
    site = adapter(np.random.default_rng(0))
    site[NAME.format("B")] = np.zeros_like(site[NAME.format("B")])
    found = stacked([site, site], [0.5, 0.5], 4)
    assert not product(found).any()
    assert error([site, site], [0.5, 0.5], found) == 0
