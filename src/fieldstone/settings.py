"""The settings of a workspace: one typed tree, filled from defaults, file, environment and flags.

What comes later wins: defaults, the recipe, `fieldstone.toml` of the workspace, the environment
(`FIELDSTONE_SEARCH__MODE=dense`), then flags (`--set search.mode=dense`).
"""

from __future__ import annotations

import os
import tomllib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, Self

import tomli_w
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, model_validator

from fieldstone.atomic import write_text
from fieldstone.errors import SettingsError

ENV_PREFIX = "FIELDSTONE_"


class _Branch(BaseModel):
    # defaults are validated too: 8 for a float would become 8.0 in the file, and fingerprints would differ
    model_config = ConfigDict(frozen=True, extra="forbid", validate_default=True)


class ReadSettings(_Branch):
    """Which files are read, and what one file may cost."""

    exclude: tuple[str, ...] = ()
    max_megabytes: float = Field(50, gt=0)
    seconds_a_file: float = Field(60, gt=0)
    memory_megabytes: int = Field(2048, ge=256)
    workers: int = Field(0, ge=0, description="0: one a core")


class SplitSettings(_Branch):
    """How long a passage may be; 0 tokens means as long as the encoder reads."""

    tokens: int = Field(0, ge=0)
    overlap: int = Field(0, ge=0)

    @model_validator(mode="after")
    def _overlap_fits(self) -> Self:
        if self.tokens and self.overlap * 4 > self.tokens:
            raise ValueError(
                f"split.overlap = {self.overlap} is over a quarter of split.tokens = {self.tokens}"
            )
        return self


def _joined(names: object) -> object:
    """A list of names of one model, behind several servers, as the one name that it is."""
    several = isinstance(names, list | tuple) and all(isinstance(name, str) for name in names)
    return ",".join(names) if several else names  # type: ignore[arg-type]


ModelName = Annotated[str, BeforeValidator(_joined)]


class ModelSettings(_Branch):
    """Which models work, and on what; a list names servers that have the same model."""

    encoder: ModelName = "embedded:minilm"
    reranker: ModelName = ""
    generator: ModelName = "embedded:smollm2"
    writer: ModelName = Field("", description="writes the questions; empty: the generator")
    device: Literal["auto", "cpu", "cuda", "mps"] = "auto"
    threads: int = Field(0, ge=0, description="0: one a core")
    engine: Literal["auto", "lean", "transformers"] = Field(
        "auto", description="lean: our own forward pass of Llama and BERT on the CPU; auto: that where it can"
    )


class SearchSettings(_Branch):
    """How passages are found."""

    mode: Literal["dense", "lexical", "fused"] = "fused"
    fusion: Literal["scores", "rrf"] = "scores"
    dense_weight: float = Field(0.6, ge=0, le=1, description="share of the dense score in fusion = scores")
    candidates: int = Field(100, ge=1, description="how deep each search goes before fusion")
    rerank: Literal["none", "likelihood", "cross-encoder"] = "likelihood"
    rerank_depth: int = Field(8, ge=1)
    likelihood_weight: float = Field(0.5, ge=0, le=1, description="share of the question's likelihood")
    reranker_weight: float = Field(1.0, ge=0, le=1, description="share of the cross-encoder's score")
    store: str = Field("library", description="where the vectors are searched; a URL (docs/stores.md)")


class StoreSettings(_Branch):
    """How a store beside the library keeps the vectors; each store heeds what it can.

    What Qdrant heeds holds when a collection is made.
    """

    shards: int = Field(
        0, ge=0, description="parts of a collection, spread over the machines; 0: as the server does (Qdrant)"
    )
    replicas: int = Field(1, ge=1, description="copies of each part, on different machines (Qdrant)")
    on_disk: bool = Field(
        False, description="vectors stay on disk, and memory holds what is read often (Qdrant)"
    )
    quantization: Literal["none", "int8", "binary"] = Field(
        "none",
        description="what is searched in memory, a quarter or a 32nd of the size; the best are then scored "
        "by the whole vectors (Qdrant)",
    )
    approximate_above: int = Field(
        200_000, ge=0, description="vectors; above it near ones are searched alone and not all (FAISS)"
    )


class AnswerSettings(_Branch):
    """How an answer is read out of the passages."""

    reading: Literal["auto", "one-by-one", "together", "mixture", "fid", "search"] = "auto"
    passages: int = Field(4, ge=1)
    max_tokens: int = Field(48, ge=1)
    abstain_below: float = Field(0.3, ge=0, le=1, description="confidence; where nothing was tuned")
    over_refusal: float = Field(
        0.08, ge=0, lt=1, description="share of answerable questions that a tuned system may refuse"
    )


class FeedbackSettings(_Branch):
    """What is kept of the answers that a server gives, and what is learnt from what people say of them."""

    keep: Literal["nothing", "rated", "doubtful"] = Field(
        "doubtful",
        description="which answers are kept in the library: none; those that somebody said something of; "
        "also those without an answer or with a citation that could not be verified",
    )
    most: int = Field(1000, ge=0, description="so many that nobody has said anything of are kept")
    learn: Literal["nothing", "reviewed", "clear"] = Field(
        "reviewed",
        description="what the next build takes for examples: what a person has reviewed; also thumbs up with "
        "a verified citation, and corrections that a passage holds",
    )


class SynthesizeSettings(_Branch):
    """How questions are written from the passages, and which are kept."""

    way: Literal["auto", "completion", "chat", "simrag"] = "auto"
    rate_passages: bool = Field(False, description="ask only about passages that the generator rates well")
    rate_questions: bool = Field(False, description="keep only questions and answers that it rates well")
    least_rating: float = Field(8, ge=0, le=10)
    passages: int = Field(600, ge=1, description="at most so many are asked about, drawn by chance")
    sentences: int = Field(4, ge=1, description="asked about in each passage")
    openings: int = Field(2, ge=1, description="questions tried for each sentence")
    lift: float = Field(
        0.7, description="how much likelier the sentence must make its question, natural log a token"
    )
    spans: int = Field(6, ge=1, description="answers that are asked for in each passage (simrag)")
    consistency: Literal["passage", "answer"] = Field(
        "passage",
        description="what the search must find: the passage itself, or any that holds the answer (SimRAG)",
    )
    found_within: int = Field(10, ge=1, description="the search must find it among so many")
    negatives: int = Field(4, ge=0, description="hard negatives kept for each question")
    altered: float = Field(
        0.3, ge=0, le=1, description="share of questions also asked with a name or number exchanged"
    )
    choices: float = Field(0.0, ge=0, le=1, description="share of questions also asked with four options")
    claims: float = Field(
        0.0, ge=0, le=1, description="share of answers whose sentence is also asked about: is it true?"
    )
    deciding: Literal["short", "all"] = Field(
        "short", description="which questions dev and test have: all but choices and claims, or all"
    )
    rounds: int = Field(1, ge=1, description="the second is asked by the model that won the first, and so on")
    dev: float = Field(0.25, gt=0, lt=0.5, description="share of passages whose questions decide")
    test: float = Field(0.1, gt=0, lt=0.5, description="share of passages whose questions are for the report")


class InstructSettings(_Branch):
    """What the generator learns before it sees the documents (SimRAG's first stage)."""

    files: tuple[str, ...] = Field((), description="instructions and reading comprehension, as JSON")
    rows: int = Field(4000, ge=2, description="at most so many are learnt, the tasks alike, drawn by chance")
    held_out: float = Field(0.1, gt=0, lt=0.5, description="share of texts that judge what was learnt")
    share: float = Field(
        0.2, ge=0, lt=1, description="share of such rows when the generator is tuned on the documents"
    )


class RetrieverTuning(_Branch):
    """How the encoder is tuned."""

    loss: Literal["contrastive", "fused", "distill", "lsr", "margin"] = "fused"
    towers: Literal["both", "query"] = Field(
        "both", description="query: only the questions' side learns, and the passages keep their vectors"
    )
    method: Literal["full", "lora", "adapter"] = Field(
        "full", description="all weights, low-rank adapters, or a small map on the questions' vectors"
    )
    epochs: int = Field(2, ge=1)
    batch: int = Field(32, ge=2, description="questions a step")
    learning_rate: float = Field(5e-5, gt=0)
    warmup: float = Field(0.1, ge=0, lt=1, description="share of the steps")
    dropout: float = Field(0.0, ge=0, lt=1, description="in the encoder's layers while it is tuned")
    negatives: int = Field(1, ge=0, description="hard negatives a question (contrastive, fused, margin)")
    candidates: int = Field(
        8,
        ge=2,
        description="best found: negatives come from them (fused, margin), a teacher ranks them "
        "(distill, lsr)",
    )
    teacher: float = Field(
        0.5,
        ge=0,
        le=1,
        description="share of the target that the generator's likelihood (fused) or the teacher (margin) has",
    )
    teacher_kind: Literal["likelihood", "cross-attention"] = Field(
        "likelihood", description="what ranks the candidates (distill): the search with UPR, or a FiD reader"
    )
    reader: str = Field("", description="the FiD reader (cross-attention); empty: the generator in use")
    teacher_temperature: float = Field(0.2, gt=0)
    student_temperature: float = Field(0.05, gt=0)
    margin: float = Field(
        0.3,
        gt=0,
        description="the teacher's margins are scaled to this root mean square, in cosines (margin)",
    )
    lsr_score: Literal["logprob", "probability"] = Field(
        "logprob", description="of the answer after a passage: log-probability a token, or its probability"
    )
    lsr_temperature: float = Field(
        0.0, ge=0, description="of these scores; 0: 0.1 for logprob, 0.01 for probability (RA-DIT)"
    )
    divergence: Literal["student-teacher", "teacher-student"] = Field(
        "student-teacher", description="which side of the KL divergence stands first (lsr)"
    )
    warm_up: Literal["none", "tsdae"] = Field(
        "none", description="before it: damaged passages are written anew from their vector (TSDAE)"
    )
    warm_up_epochs: int = Field(1, ge=1)
    matryoshka: tuple[int, ...] = Field((), description="also learn to do with so many dimensions")
    lora_rank: int = Field(16, ge=1)
    lora_alpha: int = Field(32, ge=1)
    lora_rate: float = Field(5e-4, gt=0, description="learning rate in the place of learning_rate (lora)")
    adapter_epochs: int = Field(10, ge=1, description="in the place of epochs (adapter)")
    adapter_rate: float = Field(3e-4, gt=0, description="in the place of learning_rate (adapter)")
    adapter_pull: float = Field(0.3, ge=0, description="how strongly the map is held to doing nothing")
    start_pull: float = Field(
        0.0,
        ge=0,
        description="how strongly weights are held to those they start from (L2-SP; full, adapter)",
    )

    @model_validator(mode="after")
    def _fit_together(self) -> Self:
        if self.method == "adapter" and self.towers == "both":
            raise ValueError(
                "retriever.method = adapter moves the questions alone, but retriever.towers = both; "
                "set retriever.towers = query"
            )
        if self.matryoshka and self.towers == "query":
            raise ValueError(
                f"retriever.matryoshka = {list(self.matryoshka)} needs passages that learn too, but "
                "retriever.towers = query; set retriever.towers = both"
            )
        if self.warm_up != "none" and self.towers == "query":
            raise ValueError(
                f"retriever.warm_up = {self.warm_up} moves the passages' vectors, but retriever.towers = "
                "query keeps them; set retriever.warm_up = none"
            )
        if self.start_pull and self.method == "lora":
            raise ValueError(
                f"retriever.start_pull = {self.start_pull} holds whole weights or an adapter, but "
                "retriever.method = lora; set retriever.method = full"
            )
        if any(size < 1 for size in self.matryoshka):
            raise ValueError(
                f"retriever.matryoshka = {list(self.matryoshka)}: a vector has 1 dimension or more"
            )
        return self

    @model_validator(mode="after")
    def _teacher_fits(self) -> Self:
        if self.teacher_kind == "cross-attention" and self.loss != "distill":
            raise ValueError(
                f"retriever.teacher_kind = cross-attention teaches the loss distill, "
                f"but retriever.loss = {self.loss}"
            )
        if self.reader and self.teacher_kind != "cross-attention":
            raise ValueError(
                f"retriever.reader = {self.reader} is read by the teacher cross-attention alone, "
                f"but retriever.teacher_kind = {self.teacher_kind}"
            )
        return self

    @model_validator(mode="after")
    def _margin_needs_negatives(self) -> Self:
        if self.loss == "margin" and not self.negatives:
            raise ValueError("retriever.loss = margin compares with negatives, but retriever.negatives = 0")
        return self


class RerankerTuning(_Branch):
    """How the reranker, a cross-encoder, is tuned."""

    loss: Literal["listwise", "pointwise"] = "listwise"
    epochs: int = Field(3, ge=1)
    batch: int = Field(8, ge=1, description="questions a step")
    learning_rate: float = Field(1e-4, gt=0)
    warmup: float = Field(0.1, ge=0, lt=1, description="share of the steps")
    dropout: float = Field(0.0, ge=0, lt=1, description="in the layers while it is tuned")
    negatives: int = Field(4, ge=1, description="hard negatives a question")
    candidates: int = Field(30, ge=2, description="best found: the negatives are drawn from them")
    weight: float = Field(
        0.5, ge=0, le=1, description="stands in for search.reranker_weight once the tuned one is in use"
    )


class GeneratorTuning(_Branch):
    """What the generator is tuned on, and how its weights learn it."""

    lessons: Literal["gold", "swr", "ralt", "raft"] = Field(
        "gold",
        description="what a row shows: the right passage, alone or among hard negatives (gold), it among "
        "retrieved ones (swr), each retrieved one in a row of its own (ralt), or at times all but it (raft)",
    )
    retrieved: int = Field(
        3, ge=1, description="passages that the search adds to a question (swr, raft), or its rows (ralt)"
    )
    gold_share: float = Field(
        0.8, gt=0, le=1, description="share of rows that hold the right passage; the others refuse (raft)"
    )
    method: Literal["lora", "qlora", "full"] = Field(
        "lora", description="low-rank adapters, the same over weights in four bits (CUDA), or all weights"
    )
    packing: bool = Field(
        False,
        description="rows of a step are joined into sequences, in which what they share is read once",
    )
    divided: bool = Field(
        False, description="several processes hold a part of the weights each: for what no one GPU holds"
    )
    recompute: Literal["auto", "on", "off"] = Field(
        "auto", description="layers are computed again on the way back: slower, and less memory"
    )
    rank: int = Field(16, ge=1)
    alpha: int = Field(32, ge=1)
    dropout: float = Field(0.0, ge=0, lt=1)
    epochs: int = Field(2, ge=1)
    batch: int = Field(8, ge=1, description="rows a step")
    learning_rate: float = Field(3e-4, gt=0)
    warmup: float = Field(0.05, ge=0, lt=1, description="share of the steps")
    refusals: float = Field(0.0, ge=0, lt=1, description="share of rows whose target is the refusal")
    hard_negatives: bool = Field(
        True, description="together (gold, raft): passages that look right, else any others"
    )
    checks: int = Field(2, ge=1, description="times an epoch that the dev score is taken")
    start_pull: float = Field(
        0.0, ge=0, description="how strongly what learns is held to where it starts (L2-SP)"
    )


class PreferenceTuning(_Branch):
    """How the generator is tuned on pairs of replies (DPO); its adapters are those of `generator`."""

    prompts: int = Field(400, ge=1, description="at most so many are asked, drawn by chance")
    samples: int = Field(4, ge=1, description="replies drawn for each prompt")
    temperature: float = Field(0.8, gt=0, description="of the drawing")
    refusals: float = Field(0.25, ge=0, lt=1, description="share of prompts whose right reply is the refusal")
    wrong_below: float = Field(
        0.5, gt=0, le=1, description="an answer that agrees less with the expected one is wrong (token F1)"
    )
    beta: float = Field(0.1, gt=0, description="how strongly the untuned model holds")
    epochs: int = Field(1, ge=1)
    batch: int = Field(8, ge=1, description="pairs a step")
    learning_rate: float = Field(5e-5, gt=0)
    warmup: float = Field(0.1, ge=0, lt=1, description="share of the steps")


class SearchTuning(_Branch):
    """How the generator is tuned to search by itself (GRPO); its adapters are those of `generator`."""

    questions: int = Field(400, ge=2, description="at most so many are asked, drawn by chance")
    group: int = Field(5, ge=2, description="tries at each question, judged against one another")
    searches: int = Field(2, ge=1, description="at most so many in a try")
    passages: int = Field(3, ge=1, description="that each search gives")
    result_tokens: int = Field(500, ge=32, description="of what a search gives; the rest is cut off")
    max_tokens: int = Field(128, ge=8, description="written before each search, and for the answer")
    reward: Literal["f1", "exact"] = Field("f1", description="of the answer against the expected one")
    form: float = Field(0.1, ge=0, lt=1, description="reward of a wrong answer in the right form")
    kl: float = Field(0.001, ge=0, description="weight of the distance from the untuned model")
    clip: float = Field(0.2, gt=0, lt=1, description="how far a likelihood may move and still count")
    updates: int = Field(1, ge=1, description="steps on the same tries")
    epochs: int = Field(1, ge=1)
    batch: int = Field(8, ge=1, description="questions a step")
    learning_rate: float = Field(1e-5, gt=0)
    warmup: float = Field(0.1, ge=0, lt=1, description="share of the steps")


class FederateSettings(_Branch):
    """How several sites tune one model; all but `epsilon` and `secure` is the coordinator's to say."""

    part: Literal["retriever", "generator"] = Field(
        "retriever", description="what is federated: what retriever.method or generator.method trains of it"
    )
    rounds: int = Field(5, ge=1)
    epochs: int = Field(2, ge=1, description="of a round at each site, in the place of the part's own")
    strategy: Literal["fedavg", "fedprox", "fedadam", "fedyogi"] = "fedavg"
    proximal: float = Field(
        0.01, ge=0, description="pull of a site's weights towards the global ones (fedprox)"
    )
    server_rate: float = Field(
        0.0, ge=0, description="how far the average moves the global weights; 0: 1, adaptive strategies 0.001"
    )
    beta1: float = Field(0.9, ge=0, lt=1, description="of the first moment (fedadam, fedyogi)")
    beta2: float = Field(0.99, ge=0, lt=1, description="of the second moment (fedadam, fedyogi)")
    tau: float = Field(1e-3, gt=0, description="how far they adapt: less adapts more (fedadam, fedyogi)")
    average: Literal["mean", "median", "trimmed-mean"] = Field(
        "mean", description="by questions; or number by number, so that a poisoned site moves little"
    )
    trimmed: float = Field(
        0.2, gt=0, lt=0.5, description="share of sites cut off on each side (trimmed-mean)"
    )
    adapters: Literal["factors", "stacked"] = Field(
        "factors",
        description="how low-rank adapters are averaged: A and B by themselves, or their products (FLoRA)",
    )
    longest: float = Field(
        10.0, ge=0, description="an update longer than so many times the median is left out; 0: none"
    )
    sites: int = Field(0, ge=0, description="so many are waited for before the first round; 0: fewest")
    fewest: int = Field(2, ge=1, description="sites without which a round does not count")
    deadline: float = Field(3600.0, gt=0, description="seconds that a site has for its answer")
    secure: bool = Field(False, description="the coordinator learns the sum of the updates alone (SecAgg+)")
    clip: float = Field(1.0, gt=0, description="longest update (epsilon), largest number of one (secure)")
    epsilon: float = Field(
        0.0,
        ge=0,
        description="privacy of a whole site over all rounds; 0: no noise. At a site: the most it spends",
    )
    delta: float = Field(1e-5, gt=0, lt=1, description="chance that the promise of epsilon does not hold")
    personal: bool = Field(True, description="each site also tunes on from the global part, and judges again")

    @model_validator(mode="after")
    def _sums_alone(self) -> Self:
        if self.secure and (self.average != "mean" or self.adapters != "factors"):
            raise ValueError(
                f"federate.secure = true shows sums alone, but federate.average = {self.average} and "
                f"federate.adapters = {self.adapters} look at each site; set mean and factors"
            )
        if self.adapters == "stacked" and self.strategy not in ("fedavg", "fedprox"):
            raise ValueError(
                f"federate.adapters = stacked has no mean step for federate.strategy = {self.strategy}; "
                "set federate.strategy = fedavg"
            )
        if self.epsilon and (self.average != "mean" or self.adapters != "factors"):
            raise ValueError(
                f"federate.epsilon = {self.epsilon} is reckoned for the mean of clipped updates; set "
                "federate.average = mean and federate.adapters = factors"
            )
        return self


class ServeSettings(_Branch):
    """How a workspace is served; of several, the first one's settings count."""

    host: str = Field("127.0.0.1", description="address to listen at; beyond this machine it takes keys")
    port: int = Field(8000, ge=0, le=65535, description="0: any that is free")
    queue: int = Field(64, ge=1, description="questions that may wait; the next is told to come back later")
    batch: int = Field(8, ge=1, description="questions answered together; searches: eight times as many")
    seconds: float = Field(120, gt=0, description="that a request may take")
    upload_megabytes: float = Field(50, gt=0, description="of the files that are uploaded in one request")
    history_tokens: int = Field(
        512, ge=0, description="of the conversation so far that a follow-up question is understood by"
    )
    origins: tuple[str, ...] = Field(
        (), description="other addresses whose pages may ask: https://intranet.example (CORS)"
    )


class ShareSettings(_Branch):
    """What of an answer other sites get (`fieldstone ask --sites`), beside its words and its confidence."""

    quotes: int = Field(1, ge=0, description="citations that go with an answer")
    characters: int = Field(200, ge=1, description="of each quote; the rest is cut off")
    passages: bool = Field(False, description="the whole passage of each quote goes with it")
    places: bool = Field(False, description="file, title, headings and page of each quote go with it")


class Settings(_Branch):
    """All settings of a workspace."""

    recipe: str = "fieldstone"
    size: str = ""
    seed: int = 0
    report_to: Literal["", "tensorboard", "trackio", "mlflow", "wandb"] = Field(
        "", description="a tracker of experiments that is told the losses and dev scores of tuning"
    )
    read: ReadSettings = ReadSettings()
    split: SplitSettings = SplitSettings()
    models: ModelSettings = ModelSettings()
    search: SearchSettings = SearchSettings()
    store: StoreSettings = StoreSettings()
    answer: AnswerSettings = AnswerSettings()
    feedback: FeedbackSettings = FeedbackSettings()
    instruct: InstructSettings = InstructSettings()
    synthesize: SynthesizeSettings = SynthesizeSettings()
    retriever: RetrieverTuning = RetrieverTuning()
    reranker: RerankerTuning = RerankerTuning()
    generator: GeneratorTuning = GeneratorTuning()
    preference: PreferenceTuning = PreferenceTuning()
    search_rl: SearchTuning = SearchTuning()
    federate: FederateSettings = FederateSettings()
    serve: ServeSettings = ServeSettings()
    share: ShareSettings = ShareSettings()

    @model_validator(mode="after")
    def _no_contradiction(self) -> Self:
        if self.search.rerank == "cross-encoder" and not self.models.reranker:
            raise ValueError("search.rerank = cross-encoder, but models.reranker names none")
        if self.search.store != "library" and self.search.mode == "lexical":
            raise ValueError(f"search.store = {self.search.store} holds vectors, but search.mode = lexical")
        how, reading = self.generator, self.answer.reading
        if how.lessons == "ralt" and reading == "together":
            raise ValueError(
                "generator.lessons = ralt has a passage a row, but answer.reading = together; "
                "set answer.reading = mixture, or generator.lessons = gold"
            )
        if how.lessons in ("swr", "raft") and reading in ("one-by-one", "mixture"):
            raise ValueError(
                f"generator.lessons = {how.lessons} has several passages a row, "
                f"but answer.reading = {reading}; set answer.reading = together, or generator.lessons = gold"
            )
        if how.lessons == "raft" and how.refusals:
            raise ValueError(
                "generator.lessons = raft refuses by generator.gold_share, "
                f"but generator.refusals = {how.refusals} asks for more"
            )
        if how.divided and how.start_pull:
            raise ValueError(
                f"generator.divided = true, but generator.start_pull = {how.start_pull} wants whole weights; "
                "set generator.start_pull = 0, or generator.divided = false"
            )
        if how.divided and how.method == "qlora":
            raise ValueError(
                "generator.divided = true, but generator.method = qlora, and weights in four bits cannot be "
                "divided; set generator.method = lora, or generator.divided = false"
            )
        if how.method == "qlora" and self.models.device in ("cpu", "mps"):
            raise ValueError(
                f"generator.method = qlora needs a CUDA device, but models.device = {self.models.device}; "
                "lora needs none"
            )
        return self


def resolve_settings(
    *layers: Mapping[str, Any], environment: Mapping[str, str] | None = None, flags: Iterable[str] = ()
) -> Settings:
    """Merge `layers` (later ones win), then the environment, then flags such as `search.mode=dense`.

    Raises SettingsError, which names the setting, the value and what would be allowed.
    """
    tree: dict[str, Any] = {}
    for layer in layers:
        _merge(tree, layer)
    for name, value in (os.environ if environment is None else environment).items():
        path = name.removeprefix(ENV_PREFIX).lower().split("__")
        if name.startswith(ENV_PREFIX) and len(path) == 2:
            _merge(tree, {path[0]: {path[1]: _parse(value)}})
        elif name in [f"{ENV_PREFIX}{its}" for its in ("RECIPE", "SIZE", "SEED", "REPORT_TO")]:
            tree[path[0]] = _parse(value)
    for flag in flags:
        path_text, equals, value = flag.partition("=")
        path = path_text.strip().split(".")
        if not equals or len(path) > 2:
            raise SettingsError(f"--set {flag}: write it as section.name=value, such as search.mode=dense")
        leaf: dict[str, Any] = {path[-1]: _parse(value)}
        _merge(tree, leaf if len(path) == 1 else {path[0]: leaf})
    try:
        return Settings.model_validate(tree)
    except ValidationError as error:
        raise SettingsError("; ".join(_explain(e) for e in error.errors())) from None


def read_settings_file(path: Path) -> dict[str, Any]:
    """The tree that a settings file holds. Raises SettingsError when it is no TOML."""
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise SettingsError(
            f"{path} is not valid TOML ({error}); mend it, or delete it to get the defaults"
        ) from None


def write_settings_file(path: Path, settings: Settings) -> None:
    """Write the resolved settings beside what they made."""
    write_text(path, tomli_w.dumps(settings.model_dump(mode="json")))


def _merge(tree: dict[str, Any], layer: Mapping[str, Any]) -> None:
    for name, value in layer.items():
        if isinstance(value, Mapping) and isinstance(tree.get(name), dict):
            _merge(tree[name], value)
        else:
            tree[name] = dict(value) if isinstance(value, Mapping) else value


def _parse(text: str) -> Any:
    """A flag's value as TOML would read it; what TOML does not know is a string."""
    try:
        return tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        return text


def _explain(error: Any) -> str:
    name = ".".join(str(part) for part in error["loc"])
    if error["type"] == "extra_forbidden":
        branch = Settings.model_fields.get(str(error["loc"][0])) if len(error["loc"]) > 1 else None
        model = branch.annotation if branch else Settings
        known = ", ".join(getattr(model, "model_fields", {}))
        return f"there is no setting {name}; known here: {known}"
    message = str(error["msg"]).removeprefix("Value error, ")
    return f"{name} = {error['input']!r}: {message}" if name else message
