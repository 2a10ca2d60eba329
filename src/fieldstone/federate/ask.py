"""One question to several sites' servers, and their cited answers fused; documents stay where they are.

To a site goes the question, the name of the workspace that is asked, and the site's key; nothing else. What
comes back is what the site's policy (`share`) allows, and is taken for what a stranger says: bounded in time
and size, checked in shape, never followed to another address.
"""

from __future__ import annotations

import asyncio
import ssl
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from time import perf_counter
from typing import TYPE_CHECKING, Annotated

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, TypeAdapter, ValidationError

from fieldstone.errors import SitesError
from fieldstone.federate.addresses import Site
from fieldstone.prompts import NO_ANSWER
from fieldstone.search.words import index_words

if TYPE_CHECKING:
    import httpx

SECONDS = 30.0
"""What a site may take, from the first connection to the last byte."""

BYTES = 2**18
"""A reply that is longer is no answer."""

SURE = 0.95
"""No site is believed more than so much, whatever it says of itself."""

SAID = 200
"""So many characters of what a site says of a failure are passed on."""

_Text = Annotated[str, StringConstraints(max_length=4000)]
_Line = Annotated[str, StringConstraints(max_length=1000)]


@dataclass(frozen=True, slots=True)
class Quoted:
    """A quote of a site. `verified` is the site's word for it; place and quote may be withheld (empty)."""

    site: str
    quote: str = ""
    verified: bool = False
    source: str = ""
    title: str = ""
    headings: tuple[str, ...] = ()
    page: int | None = None
    passage: str = ""


@dataclass(frozen=True, slots=True)
class SiteAnswer:
    """What a site said; `text` is empty where its documents do not answer."""

    site: str
    text: str
    confidence: float
    citations: tuple[Quoted, ...]
    seconds: float


@dataclass(frozen=True, slots=True)
class Candidate:
    """An answer that one or more sites gave, and how far to trust it."""

    text: str
    confidence: float
    citations: tuple[Quoted, ...]


@dataclass(frozen=True, slots=True)
class SitesAnswer:
    """The answers of the sites, the best first; `silent` have none, `failed` says why a site is left out."""

    question: str
    candidates: tuple[Candidate, ...]
    silent: tuple[str, ...]
    failed: tuple[tuple[str, str], ...]
    seconds: float

    @property
    def text(self) -> str:
        """The best answer, or that there is none."""
        return self.candidates[0].text if self.candidates else NO_ANSWER


class _Passage(BaseModel):
    id: _Line
    text: Annotated[str, StringConstraints(max_length=20_000)]


class _Hit(BaseModel):
    passage: _Passage


class _Citation(BaseModel):
    passage_id: _Line = ""
    quote: _Text
    verified: bool
    source: _Line = ""
    title: _Line = ""
    headings: list[_Line] = Field([], max_length=32)
    page: int | None = Field(None, ge=1)


class _Reply(BaseModel):
    """What is read of a site's reply; all else in it is left alone."""

    model_config = ConfigDict(strict=True)

    answer: _Text | None
    abstained: bool
    confidence: float = Field(ge=0, le=1, allow_inf_nan=False)
    citations: list[_Citation] = Field(max_length=20)
    hits: list[_Hit] = Field([], max_length=20)


class _Left(Exception):
    """Why a site is left out."""


def ask_sites(sites: Sequence[Site], question: str, seconds: float = SECONDS) -> SitesAnswer:
    """Ask all sites at once, each for so many seconds, and fuse what they answer.

    Raises SitesError where none of them can be asked; else those that cannot are `failed`.
    """
    if not question.strip():
        raise SitesError("there is no question; type it behind the sites")
    began = perf_counter()
    got = asyncio.run(_ask_all(sites, question, seconds))
    failed = tuple((site.name, str(it)) for site, it in zip(sites, got, strict=True) if isinstance(it, _Left))
    answers = [it for it in got if isinstance(it, SiteAnswer)]
    if not answers:
        told = "; ".join(f"{name}: {why}" for name, why in failed)
        raise SitesError(f"no site could be asked: {told}")
    silent = tuple(it.site for it in answers if not it.text)
    return SitesAnswer(question, tuple(fused(answers)), silent, failed, perf_counter() - began)


def fused(answers: Sequence[SiteAnswer]) -> list[Candidate]:
    """The answers of several sites, equal ones together, the one that can be trusted most first.

    Sites are taken to err apart from one another: an answer fails only if every site that gives it is wrong,
    so its confidence is 1 - product of (1 - confidence). Where they hold the same documents that is too much.
    """
    alike: dict[str, list[SiteAnswer]] = defaultdict(list)
    for answer in answers:
        if answer.text:
            alike[" ".join(index_words(answer.text)) or answer.text].append(answer)
    candidates = []
    for same in alike.values():
        ranked = sorted(same, key=lambda its: (-its.confidence, its.site))
        doubt = 1.0
        for its in ranked:
            doubt *= 1 - min(its.confidence, SURE)
        citations = tuple(citation for its in ranked for citation in its.citations)
        candidates.append(Candidate(ranked[0].text, 1 - doubt, citations))
    return sorted(candidates, key=lambda its: (-its.confidence, its.text))


async def _ask_all(sites: Sequence[Site], question: str, seconds: float) -> list[SiteAnswer | _Left]:
    return list(await asyncio.gather(*(_ask(site, question, seconds) for site in sites)))


async def _ask(site: Site, question: str, seconds: float) -> SiteAnswer | _Left:
    """What a site answers, or why it is left out."""
    import httpx

    began = perf_counter()
    body = {"question": question, "shared": True}
    body |= {"workspace": site.workspace} if site.workspace else {}
    headers = {"User-Agent": "fieldstone"} | ({"Authorization": f"Bearer {site.key}"} if site.key else {})
    try:
        trusted = ssl.create_default_context(cafile=site.ca or None)
        async with (
            asyncio.timeout(seconds),
            # no proxy, no .netrc: the question goes to the site and nowhere else
            httpx.AsyncClient(
                verify=trusted, trust_env=False, follow_redirects=False, timeout=None
            ) as client,
            client.stream("POST", f"{site.url}/api/ask", json=body, headers=headers) as response,
        ):
            content = await _content(response)
            return _answer(site.name, response.status_code, content, perf_counter() - began)
    except _Left as left:
        return left
    except TimeoutError:
        return _Left(f"it took longer than {seconds:g} s")
    except (httpx.HTTPError, httpx.InvalidURL, OSError) as error:  # an OSError: no such file of certificates
        return _Left(f"it cannot be reached ({type(error).__name__}: {_line(str(error))})")


async def _content(response: httpx.Response) -> bytes:
    """The body of a reply, which has an end. Raises _Left where it is too long."""
    content = b""
    async for piece in response.aiter_raw():  # unpacked, it could be far longer
        content += piece
        if len(content) > BYTES:
            raise _Left(f"its reply is longer than {BYTES // 1024} KiB")
    return content


def _answer(name: str, status: int, content: bytes, seconds: float) -> SiteAnswer:
    """The answer of a reply. Raises _Left where it is none."""
    if 300 <= status < 400:
        raise _Left("it points to another address, which is not followed")
    if status != 200:
        raise _Left(f"it refuses ({status}{_told(content)})")
    try:
        its = _Reply.model_validate_json(content)
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(map(str, first["loc"])) or "reply"
        raise _Left(f"its reply is no answer ({_line(place)}: {first['msg']})") from None
    if its.abstained or not (its.answer or "").strip():
        return SiteAnswer(name, "", its.confidence, (), seconds)
    texts = {hit.passage.id: hit.passage.text for hit in its.hits}
    citations = tuple(
        Quoted(
            name,
            one.quote,
            one.verified,
            one.source,
            one.title,
            tuple(one.headings),
            one.page,
            texts.get(one.passage_id, "") if one.passage_id else "",
        )
        for one in its.citations
    )
    return SiteAnswer(name, (its.answer or "").strip(), its.confidence, citations or (Quoted(name),), seconds)


def _told(content: bytes) -> str:
    """What a server says of a refusal, if it says it as ours do."""
    try:
        message = TypeAdapter(dict[str, dict[str, object]]).validate_json(content)["error"]["message"]
    except (ValidationError, KeyError):
        return ""
    return f": {_line(str(message))}"


def _line(text: str) -> str:
    return " ".join(text.split())[:SAID]
