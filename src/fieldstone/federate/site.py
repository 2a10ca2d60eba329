"""A site: its own library, its own questions, its own gate; weights and figures leave it, no text does."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from fieldstone.federate import parts
from fieldstone.federate.aggregate import Arrays
from fieldstone.federate.evaluation import sums_of
from fieldstone.federate.ledger import spend
from fieldstone.federate.messages import Plan, Reply, Request, read_weights, write_weights
from fieldstone.federate.privacy import add_noise, clip, multiplier
from fieldstone.progress import Progress, silent
from fieldstone.recipes.build import Build
from fieldstone.records import Example, fingerprint
from fieldstone.settings import Settings
from fieldstone.workspace import Workspace

if TYPE_CHECKING:
    from fieldstone.evaluate.statistics.bootstrap import Value

EVALUATED = 64
"""Dev questions by which a generator is measured for the coordinator, at most."""


@dataclass
class Site:
    """One site's workspace, and its settings with none of the coordinator's in them.

    `verdicts` is what its gate said at the end, and `refused` why it did not join.
    """

    workspace: Workspace
    settings: Settings
    progress: Progress = silent
    verdicts: list[Mapping[str, Any]] = field(default_factory=list)
    refused: str = ""

    @property
    def state(self) -> Literal["going", "refused", "done"]:
        """How far it has come with this federation."""
        return "refused" if self.refused else "done" if self.verdicts else "going"

    def answer(self, request: Request) -> Reply:
        """Do what is asked. An error stays in the journal here; the coordinator learns that there was one."""
        do: dict[str, Callable[[Build, Request], Reply]] = {
            "join": self._join, "train": self._train, "evaluate": self._evaluate, "finish": self._finish,
        }  # fmt: skip
        try:
            with self.workspace.writing():
                library = self.workspace.library()
                try:
                    settings = request.plan.over(self.settings)
                    build = Build(self.workspace, (), settings, library, self.progress)
                    return do[request.asked](build, request)
                finally:
                    library.close()
        except Exception as error:  # whatever it is, its words may be of the documents
            self.workspace.journal("federate", asked=request.asked, round=request.round, problem=str(error))
            return Reply(problem="failed")

    def _join(self, build: Build, request: Request) -> Reply:
        plan, own = request.plan, self.settings.federate.epsilon
        if (base := parts.base_identity(build.settings)) != plan.base:
            self.refused = (
                f"the coordinator's base {plan.federate.part} has the fingerprint {plan.base}, that of this "
                f"workspace {base}; give models.encoder and models.generator the same weights at all sites"
            )
            return Reply(problem="other-base", base=base)
        if own and not 0 < plan.federate.epsilon <= own:
            asked = f"epsilon = {plan.federate.epsilon:g}" if plan.federate.epsilon else "no noise at all"
            self.refused = (
                f"the coordinator asks for updates with {asked}, but federate.epsilon = {own:g} at this site"
            )
            return Reply(problem="privacy")
        if self.settings.federate.secure and not plan.federate.secure:
            self.refused = (
                "the coordinator wants to see single sites' updates, but federate.secure = true at this one"
            )
            return Reply(problem="privacy")
        if not build.examples("train"):
            from fieldstone.recipes.tuning import synthesize

            synthesize(build)
        questions = len(build.examples("train"))
        if questions < 2:
            self.refused = f"this workspace has {questions} questions to learn from; add documents"
            return Reply(problem="few-questions")
        self.refused = ""
        return Reply(figures={} if plan.federate.epsilon else {"questions": questions})

    def _train(self, build: Build, request: Request) -> Reply:
        """The change of the weights; asked again for the same, the same bytes: noise is spent once."""
        how, place = request.plan.federate, self._place(request.plan)
        into = place / f"round-{request.round:04}-{_mark(request.weights)}"
        kept = into.with_suffix(".safetensors")
        counts = {} if how.epsilon else {"questions": float(len(build.examples("train")))}
        if kept.exists():
            return Reply(read_weights(kept), counts)
        for old in place.glob("round-*"):
            if not old.name.startswith(into.name):
                shutil.rmtree(old) if old.is_dir() else old.unlink()
        tuned, loss = parts.tune(build, request.weights, into, request.round)
        change: Arrays = {name: tuned[name] - its for name, its in request.weights.items()}
        noise = multiplier(how.epsilon, how.delta, how.rounds) if how.epsilon else 0.0
        if noise:
            shared = how.fewest**0.5 if how.secure else 1.0  # of a sum, each adds its share of the noise
            change = add_noise(clip(change, how.clip), noise * how.clip / shared)
        spend(
            self.workspace.path / "federation" / "spent.json",
            noise,
            self.settings.federate.epsilon,
            how.delta,
        )
        write_weights(kept, change)
        self.workspace.journal("federate", asked="train", round=request.round, loss=loss, noise=noise)
        return Reply(change, counts if how.epsilon else {**counts, "loss": loss})

    def _evaluate(self, build: Build, request: Request) -> Reply:
        if request.plan.federate.epsilon:
            return Reply()  # figures without noise would not keep its promise
        from fieldstone.recipes.dev import sample

        dev = self._dev(build)
        if request.plan.federate.part == "generator":
            dev = sample(dev, EVALUATED, build.settings.seed)
        if not dev:
            return Reply()
        id_ = self._candidate(build, request)
        passages = {p.id: p.document_id for p in build.library.passages()}
        about = [e.passage_id or next(iter(e.negatives), "") for e in dev]
        tuned, untuned = _values(build, id_, dev)
        return Reply(sums=sums_of(tuned, untuned, [passages.get(id_, id_) for id_ in about]))

    def _finish(self, build: Build, request: Request) -> Reply:
        """The global part to the gate of this site; then, from it, one that is this site's own."""
        how, part = request.plan.federate, request.plan.federate.part
        self.verdicts = [self._judged(build, part, self._candidate(build, request))]
        if how.personal:
            weights, _ = parts.tune(
                build, request.weights, self._place(request.plan) / "personal", how.rounds + 1
            )
            own = Request("finish", request.plan, request.round, weights)
            self.verdicts.append(self._judged(build, part, self._candidate(build, own)))
        taken = [float(bool(its["verdict"]["accepted"])) for its in self.verdicts]
        for folder in self._place(request.plan).iterdir():
            if folder.is_dir():  # whole models; the last update stays, as what this site has sent
                shutil.rmtree(folder)
        return Reply(figures={} if how.epsilon else dict(zip(("taken", "own"), taken, strict=False)))

    def _judged(self, build: Build, part: str, id_: str) -> dict[str, Any]:
        from fieldstone.recipes.tuning import judge_generator, judge_retriever

        judge = judge_retriever if part == "retriever" else judge_generator
        said = judge(build, id_, self._dev(build), {"federated": True})
        self.workspace.journal("federate", asked="finish", **said)
        return said

    def _dev(self, build: Build) -> list[Example]:
        from fieldstone.recipes.dev import answerable, told

        dev = build.examples("dev")
        return answerable(dev) if build.settings.federate.part == "retriever" else told(dev)

    def _candidate(self, build: Build, request: Request) -> str:
        """The id of the folder below `models/` that holds these weights, written where it is not there."""
        part = request.plan.federate.part
        id_ = fingerprint("federated", request.plan.base, request.plan.run, _mark(request.weights))
        folder = self.workspace.path / "models" / part / id_
        if not folder.is_dir():
            partial = folder.with_name(f"{id_}.partial")
            shutil.rmtree(partial, ignore_errors=True)
            parts.write(request.weights, build.settings, partial)
            partial.rename(folder)
        return id_

    def _place(self, plan: Plan) -> Path:
        return self.workspace.path / "federation" / plan.run


def _mark(weights: Arrays) -> str:
    return fingerprint(*(part for name in sorted(weights) for part in (name, weights[name].tobytes())))


def _values(build: Build, id_: str, dev: list[Example]) -> tuple[list[Value], list[Value]]:
    """The gate's measure of the candidate and of the untuned base on these questions."""
    part = build.settings.federate.part
    name = str(build.workspace.path / "models" / part / id_)
    if part == "retriever":
        from fieldstone.recipes.dev import reciprocal_ranks
        from fieldstone.search.embed import embed_beside

        candidate = build.load_encoder(name)
        embed_beside(build.library, candidate, build.progress)
        return (
            reciprocal_ranks(build.open_index(encoder=candidate), dev, build),
            reciprocal_ranks(build.open_index(encoder=build.base_encoder()), dev, build),
        )
    from fieldstone.recipes.dev import answer_scores, read_and_fit

    found = []
    for generator in (build.load_generator(name), build.generator):
        system = build.system(generator)
        read, weights = read_and_fit(system, dev, build)
        found.append(answer_scores(system, read, weights, dev))
    return found[0], found[1]
