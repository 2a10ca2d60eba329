"""A site over its own workspace: what it learns, what it answers, and what never leaves it."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from fieldstone.cli.app import app
from fieldstone.errors import FederationError, SettingsError
from fieldstone.evaluate.statistics.bootstrap import bootstrap_mean, paired_difference
from fieldstone.examples import read_examples
from fieldstone.federate import parts
from fieldstone.federate.aggregate import norm
from fieldstone.federate.evaluation import evaluated, sums_of
from fieldstone.federate.ledger import spend, spent
from fieldstone.federate.messages import PROBLEMS, Plan, Request, read_weights
from fieldstone.federate.privacy import multiplier
from fieldstone.federate.simulate import InTurn, simulate
from fieldstone.federate.site import Site
from fieldstone.federate.split import divided, part_of
from fieldstone.in_use import choices
from harbours import harbours, settings_of

pytest.importorskip("torch")


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    return harbours(tmp_path_factory.mktemp("whole") / "w")


def plan_of(*flags, run="0" * 16, base=None):
    settings = settings_of(*flags)
    return Plan(
        run=run,
        base=base or parts.base_identity(settings),
        seed=0,
        federate=settings.federate,
        retriever=settings.retriever,
        generator=settings.generator,
    )


class Recorded(InTurn):
    """Sites in turn, and all that passes between them and the coordinator."""

    def __init__(self, sites):
        super().__init__(sites)
        self.passed = []

    def ask(self, requests, seconds):
        replies = super().ask(requests, seconds)
        self.passed += [(name, requests[name], reply) for name, reply in replies.items()]
        return replies


@pytest.fixture(scope="module")
def federated(whole, tmp_path_factory):
    """Three sites, two rounds: all that passed, the outcome, the sites, and where it lies."""
    from fieldstone.federate import simulate as module

    into, kept = tmp_path_factory.mktemp("sites"), []

    class Kept(Recorded):
        def __init__(self, sites):
            super().__init__(sites)
            kept.append(self)

    original, module.InTurn = module.InTurn, Kept
    try:
        outcome, sites = simulate(whole, settings_of(), into, 3)
    finally:
        module.InTurn = original
    return kept[-1].passed, outcome, sites, into


def test_the_weights_move_and_the_second_global_is_the_average_by_hand(federated):
    passed, outcome, sites, into = federated
    for number in (1, 2):
        trained = [(q, a) for _, q, a in passed if q.asked == "train" and q.round == number]
        assert len(trained) == 3
        given = trained[0][0].weights
        counts = np.array([answer.figures["questions"] for _, answer in trained])
        found = read_weights(into / "rounds" / f"round-{number:04}.safetensors")
        for name in ("weight", "bias"):
            by_hand = given[name] + sum(
                count / counts.sum() * answer.change[name]
                for count, (_, answer) in zip(counts, trained, strict=True)
            )
            assert np.allclose(found[name], by_hand, atol=1e-7)
            for _, answer in trained:
                assert norm(answer.change) > 1e-3
                assert not np.allclose(found[name], given[name] + answer.change[name], atol=1e-5)
    assert {name: len(its.verdicts) for name, its in sites.items()} == dict.fromkeys(sites, 2)
    assert len(outcome.rounds) == 2


def test_what_passes_is_weights_numbers_and_known_words(federated, whole):
    passed, *_ = federated
    said = []
    for _, request, reply in passed:
        assert all(its.dtype == np.float32 for its in (*request.weights.values(), *reply.change.values()))
        assert all(isinstance(its, float | int) for its in (*reply.figures.values(), *reply.sums))
        assert reply.problem in {"", *PROBLEMS}
        said.append(f"{request.plan.model_dump_json()} {reply.figures} {reply.sums} {reply.base}")
    text = " ".join(said)
    library = whole.library()
    for passage in library.passages():
        assert passage.text[:20] not in text
        assert passage.id not in text
    library.close()
    for example in read_examples(whole.path / "examples" / "train.jsonl"):
        assert example.question not in text
        assert example.id not in text


def test_each_site_has_judged_for_itself(federated):
    _, outcome, sites, _ = federated
    for name, site in sites.items():
        for said in site.verdicts:
            folder = site.workspace.path / said["verdict"]["candidate"]
            assert (folder / "adapter.safetensors").is_file()
            assert json.loads((folder / "verdict.json").read_text())["settled"] is True
        taken = [bool(said["verdict"]["accepted"]) for said in site.verdicts]
        assert outcome.finished[name] == {"taken": float(taken[0]), "own": float(taken[1])}
        assert len(choices(site.workspace)) == sum(taken)
        assert site.verdicts[1]["verdict"]["incumbent"].endswith(
            site.verdicts[0]["verdict"]["candidate"] if taken[0] else "fake:words"
        )


def test_a_second_simulation_goes_on_and_ends_alike(federated, whole):
    _, outcome, sites, into = federated
    again, same = simulate(whole, settings_of(), into, 3)
    for name, site in same.items():
        assert [its["verdict"] for its in site.verdicts] == [its["verdict"] for its in sites[name].verdicts]
    assert [replace(its, seconds=0) for its in again.rounds] == [
        replace(its, seconds=0) for its in outcome.rounds
    ]


@pytest.fixture
def site(whole, tmp_path):
    sources = divided(library := whole.library(), 2, skewed=False)[0]
    library.close()
    return Site(part_of(whole, sources, tmp_path / "site"), settings_of())


def begin():
    return parts.start(settings_of())


def test_a_base_of_other_weights_is_refused_and_both_are_named(site):
    reply = site.answer(Request("join", plan_of(base="feedfeedfeedfeed")))
    assert (reply.problem, reply.base) == ("other-base", parts.base_identity(settings_of()))
    assert "feedfeedfeedfeed" in site.refused
    assert reply.base in site.refused


def test_the_coordinator_names_no_folder_and_no_model(site):
    with pytest.raises(ValueError, match="run"):
        plan_of(run="../../elsewhere")
    asked = plan_of(
        "retriever.loss=distill", "retriever.teacher_kind=cross-attention", "retriever.reader=http://x"
    )
    assert asked.over(site.settings).retriever.reader == ""
    assert asked.over(site.settings).models == site.settings.models


def test_an_error_stays_at_home(site):
    file = site.workspace.path / "examples" / "train.jsonl"
    file.write_text('{"question": "What ails Mrs Brown?"\n')
    reply = site.answer(Request("train", plan_of(), 1, begin()))
    assert reply.problem == "failed"
    assert not reply.change
    assert not reply.figures
    *_, line = site.workspace.read_journal()
    assert "train.jsonl, line 1" in line["problem"]


def test_asked_again_it_answers_the_same_and_a_new_process_too(site):
    request = Request("train", plan_of(), 1, begin())
    first = site.answer(request)
    again = Site(site.workspace, site.settings).answer(request)
    assert all(np.array_equal(first.change[name], again.change[name]) for name in first.change)
    assert spent(site.workspace.path / "federation" / "spent.json") == [0.0]


def test_noise_is_spent_once_and_what_is_noted_is_what_left(site):
    plan = plan_of("federate.epsilon=3", "federate.clip=0.05")
    site.settings = settings_of("federate.epsilon=3")
    assert site.answer(Request("join", plan)).problem == ""
    request = Request("train", plan, 1, begin())
    reply = site.answer(request)
    z = multiplier(3, 1e-5, 2)
    change = np.concatenate([its.ravel() for its in reply.change.values()])
    assert change.std() == pytest.approx(z * 0.05, rel=0.02)
    assert not reply.figures
    again = site.answer(request)
    assert np.array_equal(reply.change["weight"], again.change["weight"])
    assert spent(site.workspace.path / "federation" / "spent.json") == [z]
    assert site.answer(Request("evaluate", plan, 1, begin())).sums == ()
    moved = {name: its + reply.change[name] for name, its in begin().items()}
    assert site.answer(Request("train", plan, 2, moved)).problem == ""
    assert site.answer(Request("train", plan, 2, begin())).problem == "failed"  # a third update is too much
    *_, line = site.workspace.read_journal()
    assert "past federate.epsilon = 3" in line["problem"]


def test_a_site_that_wants_privacy_does_not_join_without(site):
    site.settings = settings_of("federate.epsilon=1")
    for asked in ((), ("federate.epsilon=2",)):
        assert site.answer(Request("join", plan_of(*asked))).problem == "privacy"
        assert "federate.epsilon = 1 at this site" in site.refused
    assert site.answer(Request("join", plan_of("federate.epsilon=0.5"))).problem == ""
    assert site.refused == ""
    site.settings = settings_of("federate.secure=true")
    assert site.answer(Request("join", plan_of())).problem == "privacy"
    assert "federate.secure = true at this one" in site.refused
    assert site.answer(Request("join", plan_of("federate.secure=true"))).problem == ""


def test_the_ledger(tmp_path):
    ledger = tmp_path / "spent.json"
    assert spent(ledger) == []
    spend(ledger, 4.0, 2.0, 1e-5)
    spend(ledger, 4.0, 2.0, 1e-5)  # 1.64 of epsilon
    with pytest.raises(FederationError, match=r"past federate\.epsilon = 2"):
        spend(ledger, 2.0, 2.0, 1e-5)
    kept = spent(ledger)
    with pytest.raises(FederationError, match="epsilon = inf"):
        spend(ledger, 0.0, 2.0, 1e-5)
    assert spent(ledger) == kept
    ledger.write_text("[")
    with pytest.raises(FederationError, match="damaged"):
        spent(ledger)


def test_a_proximal_term_holds_a_site_near(whole, tmp_path):
    sources = divided(library := whole.library(), 2, skewed=False)[0]
    library.close()
    lengths = []
    for how in (("federate.strategy=fedavg",), ("federate.strategy=fedprox", "federate.proximal=10")):
        one = Site(part_of(whole, sources, tmp_path / how[0][-7:]), settings_of())
        lengths.append(norm(one.answer(Request("train", plan_of(*how), 1, begin())).change))
    assert lengths[1] < 0.8 * lengths[0]


def test_the_sums_give_the_means_and_intervals_of_all_questions_together():
    chance = np.random.default_rng(0)
    values = chance.random((2, 90))
    clusters = [f"d{i // 5}" for i in range(90)]
    sites = [
        sums_of(
            [float(x) for x in values[0][part]],
            [float(x) for x in values[1][part]],
            [clusters[i] for i in range(90)[part]],
        )
        for part in (slice(0, 30), slice(30, 60), slice(60, 90))
    ]
    found = evaluated(sites)
    mean = bootstrap_mean([float(x) for x in values[0]], clusters, samples=20_000)
    difference = paired_difference(*([float(x) for x in row] for row in values), clusters, samples=20_000)
    assert found.tuned.value == pytest.approx(values[0].mean())
    assert found.difference.value == pytest.approx((values[0] - values[1]).mean())
    assert found.tuned.n == 90
    assert (found.tuned.low, found.tuned.high) == pytest.approx((mean.low, mean.high), abs=0.01)
    assert (found.difference.low, found.difference.high) == pytest.approx(
        (difference.low, difference.high), abs=0.01
    )
    assert evaluated([[], []]) is None
    assert evaluated([[math.nan, 1, 1], [0, 0, 0]]) is None


def test_every_document_goes_to_one_site_and_nothing_of_the_others_stays(whole, tmp_path):
    library = whole.library()
    sites = divided(library, 3, skewed=False)
    every = sorted(library.files())
    passages = {p.id for p in library.passages()}
    library.close()
    assert sorted(source for its in sites for source in its) == every
    assert max(map(len, sites)) - min(map(len, sites)) <= 1
    site = part_of(whole, sites[0], tmp_path / "site")
    own = site.library()
    assert sorted(own.files()) == sorted(sites[0])
    held = {p.id for p in own.passages()}
    own.close()
    assert held < passages
    raw = (site.path / "library.db").read_bytes()
    for source in every:
        name = source.removesuffix(".md").capitalize().encode()
        assert (name in raw) == (source in sites[0]), source
    for split in ("train", "dev"):
        examples = read_examples(site.path / "examples" / f"{split}.jsonl")
        assert examples
        assert {e.passage_id for e in examples} <= held


def test_skewed_sites_are_of_a_kind(tmp_path):
    from ports import library_of

    topics = {"ships": "vessel quay crane pilot tide", "cakes": "sugar flour butter oven icing"}
    texts = {
        f"{number}-{topic}.md": f"# {topic} {number}\n\n{words} {words.upper()} number {number}.\n"
        for number in range(6)
        for topic, words in topics.items()
    }
    library = library_of(tmp_path / "w", texts)
    skewed = divided(library, 2, skewed=True)
    assert [{source.partition("-")[2] for source in its} for its in skewed] in (
        [{"ships.md"}, {"cakes.md"}],
        [{"cakes.md"}, {"ships.md"}],
    )
    even = divided(library, 2, skewed=False)
    assert all(len({source.partition("-")[2] for source in its}) == 2 for its in even)
    assert list(map(len, divided(library, 12, skewed=True))) == [1] * 12
    with pytest.raises(FederationError, match="12 documents cannot be divided among 13 sites"):
        divided(library, 13, skewed=False)
    library.close()


def test_nothing_is_hidden_in_one_process(whole, tmp_path):
    with pytest.raises(SettingsError, match="processes of their own"):
        simulate(whole, settings_of("federate.secure=true"), tmp_path / "s", 3)


def test_the_command(whole, tmp_path):
    how = ["--set", "federate.rounds=1", "--set", "federate.epochs=1", "--set", "federate.personal=false"]
    done = CliRunner().invoke(
        app, ["-q", "federate", "simulate", str(whole.path), "--skewed", "--into", str(tmp_path / "s"), *how]
    )
    assert done.exit_code == 0, done.output
    assert "round 1: 3 sites" in done.output
    assert "over all sites' dev questions (24)" in done.output
    assert "site-3: the global part" in done.output
    assert Path(tmp_path / "s" / "rounds" / "outcome.json").exists()
