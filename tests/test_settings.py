"""Settings: layers in order, mistakes named before any work starts."""

from __future__ import annotations

import pytest

from fieldstone.errors import SettingsError
from fieldstone.settings import (
    SearchSettings,
    Settings,
    read_settings_file,
    resolve_settings,
    write_settings_file,
)


def resolve(*layers, environment=None, flags=()):
    return resolve_settings(*layers, environment=environment or {}, flags=flags)


def test_nothing_said_gives_the_defaults():
    assert resolve() == Settings()


def test_what_comes_later_wins():
    recipe = {"search": {"mode": "dense", "candidates": 10, "rerank": "none"}, "seed": 1}
    file = {"search": {"mode": "lexical", "candidates": 20}, "seed": 2}
    environment = {"FIELDSTONE_SEARCH__MODE": "fused", "FIELDSTONE_SEARCH__CANDIDATES": "30"}
    settings = resolve(recipe, file, environment=environment, flags=["search.candidates=40"])
    assert settings.search == SearchSettings(mode="fused", candidates=40, rerank="none")
    assert settings.seed == 2
    assert resolve(recipe, file).search.mode == "lexical"


def test_layers_are_left_as_they_were():
    recipe, file = {"search": {"mode": "dense"}}, {"search": {"mode": "lexical"}}
    resolve(recipe, file, flags=["search.mode=fused"])
    assert (recipe, file) == ({"search": {"mode": "dense"}}, {"search": {"mode": "lexical"}})


@pytest.mark.parametrize(
    ("flag", "section", "name", "value"),
    [
        ("search.mode=dense", "search", "mode", "dense"),
        ("search.mode='dense'", "search", "mode", "dense"),
        (" split.tokens = 128", "split", "tokens", 128),
        ("search.dense_weight=0.25", "search", "dense_weight", 0.25),
        ('read.exclude=["*.tmp", "drafts"]', "read", "exclude", ("*.tmp", "drafts")),
        ("models.encoder=http://host:8000/v1#model", "models", "encoder", "http://host:8000/v1#model"),
        ("models.reranker=", "models", "reranker", ""),
    ],
)
def test_flags_are_read_as_toml_would_read_them(flag, section, name, value):
    assert getattr(getattr(resolve(flags=[flag]), section), name) == value


def test_a_flag_may_name_a_setting_of_no_section():
    assert resolve(flags=["seed=7"]).seed == 7


def test_the_environment_of_others_is_left_alone():
    others = {"FIELDSTONE_DATA": "/data", "FIELDSTONE_CACHE": "/cache", "PATH": "/bin", "SEARCH__MODE": "x"}
    assert resolve(environment=others) == Settings()


@pytest.mark.parametrize(
    ("said", "message"),
    [
        ({"flags": ["search.mood=dense"]}, r"no setting search\.mood; known here: mode, fusion, .*store"),
        ({"flags": ["serch.mode=dense"]}, r"no setting serch; known here: recipe, size, seed, .*answer"),
        ({"environment": {"FIELDSTONE_SEARCH__MOOD": "x"}}, r"no setting search\.mood; known here: mode"),
        ({"environment": {"FIELDSTONE_SERCH__MODE": "dense"}}, r"no setting serch; known here: recipe"),
        ({"flags": ["search.mode=dens"]}, r"search\.mode = 'dens': .*'dense', 'lexical' or 'fused'"),
        ({"flags": ["split.tokens=-1"]}, r"split\.tokens = -1: .*greater than or equal to 0"),
        ({"flags": ["answer.abstain_below=1.5"]}, r"answer\.abstain_below = 1\.5"),
        ({"flags": ["seed=often"]}, "seed = 'often': .*integer"),
        ({"flags": ["search=dense"]}, "search = 'dense'"),
        ({"flags": ["search.mode"]}, r"--set search\.mode: write it as section\.name=value"),
        ({"flags": ["search.mode.deep=1"]}, r"write it as section\.name=value"),
    ],
)
def test_a_mistake_is_named_with_what_is_allowed(said, message):
    with pytest.raises(SettingsError, match=message):
        resolve(**said)


def test_all_mistakes_are_named_at_once():
    with pytest.raises(SettingsError, match=r"split\.tokens = -1.*; there is no setting search\.mood"):
        resolve(flags=["search.mood=x", "split.tokens=-1"])


@pytest.mark.parametrize(
    ("flags", "both"),
    [
        (["search.rerank=cross-encoder"], ["search.rerank = cross-encoder", "models.reranker"]),
        (
            ["search.store=faiss:x", "search.mode=lexical"],
            ["search.store = faiss:x", "search.mode = lexical"],
        ),
        (
            ["generator.lessons=ralt", "answer.reading=together"],
            ["generator.lessons = ralt", "answer.reading = together"],
        ),
        (
            ["generator.lessons=swr", "answer.reading=mixture"],
            ["generator.lessons = swr", "answer.reading = mixture"],
        ),
        (
            ["generator.lessons=raft", "generator.refusals=0.1"],
            ["generator.gold_share", "generator.refusals = 0.1"],
        ),
        (
            ["generator.method=qlora", "models.device=cpu"],
            ["generator.method = qlora", "models.device = cpu"],
        ),
        (
            ["generator.divided=true", "generator.start_pull=0.1"],
            ["generator.divided = true", "generator.start_pull = 0.1"],
        ),
        (
            ["retriever.loss=margin", "retriever.negatives=0"],
            ["retriever.loss = margin", "retriever.negatives = 0"],
        ),
        (["split.tokens=100", "split.overlap=51"], ["split.overlap = 51", "split.tokens = 100"]),
        (
            ["retriever.teacher_kind=cross-attention"],
            ["retriever.teacher_kind = cross-attention", "retriever.loss = fused"],
        ),
        (["retriever.reader=t5"], ["retriever.reader = t5", "retriever.teacher_kind = likelihood"]),
    ],
)
def test_a_contradiction_names_both_settings(flags, both):
    with pytest.raises(SettingsError) as raised:
        resolve(flags=flags)
    assert all(name in str(raised.value) for name in both)


def test_settings_go_through_their_file_and_back(tmp_path):
    flags = ['read.exclude=["ü*", "b\\"c"]', "search.mode=dense", "seed=3", "models.encoder=a\\b\"c'd"]
    settings = resolve(flags=flags)
    file = tmp_path / "fieldstone.toml"
    write_settings_file(file, settings)
    assert resolve(read_settings_file(file)) == settings
    assert list(tmp_path.iterdir()) == [file]
    write_settings_file(file, Settings())
    assert resolve(read_settings_file(file)) == Settings()


@pytest.mark.parametrize(
    "content", [b"[search\nmode = 3", b"seed = ", b"\xff\xfe\x00", b"seed = 1\nseed = 2"]
)
def test_a_damaged_file_says_what_to_do(tmp_path, content):
    file = tmp_path / "fieldstone.toml"
    file.write_bytes(content)
    with pytest.raises(SettingsError, match=r"fieldstone\.toml is not valid TOML.*mend it, or delete it"):
        read_settings_file(file)
