"""Words that say nothing by themselves, a few languages' worth: by them a language and a follow-up are known.

English, German, French, Spanish, Italian, Portuguese, Dutch, Polish, Russian; Chinese, Japanese and Korean by
their scripts. A language more is an entry more. Accents are as they are written; forms that mean something
else in the same language (German "die" for "she") are left out on purpose, and so are negations: with one
more or less, something else is asked.
"""

from __future__ import annotations

import re
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Language:
    """Closed classes of a language: what asks, what points at something said before, what begins an addition.

    `empty` is all of them and the rest: articles, prepositions, auxiliaries. In a script without spaces they
    are looked for anywhere in the text.
    """

    asking: frozenset[str]
    pointing: frozenset[str]
    opening: frozenset[str]
    empty: frozenset[str]
    spaced: bool = True


def _language(asking: str, pointing: str, opening: str, rest: str = "", *, spaced: bool = True) -> Language:
    classes = [frozenset(words.split()) for words in (asking, pointing, opening, rest)]
    return Language(classes[0], classes[1], classes[2], frozenset().union(*classes), spaced)


LANGUAGES = {
    "en": _language(
        "what when where which who whom whose why how is are was were do does did can could may must shall "
        "should will would has have had",
        "he she it they him her them his its their this these those",
        "and but or so also",
        "a an the of to in on at by for from with without as than into about be been there you your "
        "we our",
    ),
    "de": _language(
        "was wann wo wer wen wem wessen warum weshalb wieso wie welche welcher welches welchen welchem wohin "
        "woher womit wofür wozu wieviel ist sind war waren darf dürfen kann können muss müssen gibt hat "
        "haben "
        "wird werden soll sollen",
        "er sie es ihn ihm ihnen ihr ihre ihren ihrer ihrem seine seinen seiner seinem seines diese dieser "
        "dieses diesen diesem jene jener jenes jenen jenem dort dabei davon dafür dazu damit darin darauf "
        "daran darüber dahin",
        "und aber oder auch sonst",
        "der die das den dem des ein eine einen einem einer eines im in am an auf aus bei "
        "beim bis durch für gegen mit nach ohne über um unter von vom vor zu zum zur zwischen als wenn man "
        "sich denn so da dann viel viele lange mehr bitte sein wurde wurden",
    ),
    "fr": _language(
        "que quoi quand où qui pourquoi comment combien quel quelle quels quelles est sont était peut "
        "peuvent "
        "doit doivent faut ont",
        "il elle ils elles lui leur leurs sa ses celui celle ceux celles celui-ci cela ça cette ces cet y",
        "et mais ou aussi alors",
        "le la les un une des du de au aux en dans sur sous par pour avec sans chez entre vers depuis "
        "pendant "
        "ce se ne son on nous vous qu est-ce a à temps plus très",
    ),
    "es": _language(
        "qué que cuándo dónde quién quiénes cuál cuáles cómo cuánto cuánta cuántos cuántas por es son está "
        "están era puede pueden debe deben hay tiene tienen",
        "él ella ellos ellas su sus este esta estos estas ese esa eso esos esas esto aquel aquella allí "
        "ahí le "
        "les",
        "y e pero o también entonces",
        "el la los las un una unos unas de del al a en con sin para sobre entre hasta desde como se lo más "
        "muy tiempo",
    ),
    "it": _language(
        "che cosa quando dove chi perché come quanto quanta quanti quante quale quali qual è sono era può "
        "possono deve devono c'è hanno",
        "lui lei loro esso essa essi esse suo sua suoi sue questo questa questi queste quello quella quelli "
        "quelle lì là ci ne",
        "e ed ma o anche allora",
        "il lo la i gli le un una uno di del della dello dei degli delle a al alla ai alle da dal dalla "
        "in nel "
        "nella nei su sul sulla con senza per tra fra si più molto tempo",
    ),
    "pt": _language(
        "que quê quando onde quem porque como quanto quanta quantos quantas qual quais é são era pode podem "
        "deve devem há tem têm",
        "ele ela eles elas seu sua seus suas este esta estes estas esse essa esses essas isso isto aquele "
        "aquela lá ali dele dela deles delas lhe nele nela",
        "e mas ou também então",
        "o a os as um uma uns umas de do da dos das no na nos nas em ao à aos às com sem para por pelo pela "
        "sobre entre até desde se mais muito tempo",
    ),
    "nl": _language(
        "wat wanneer waar wie waarom hoe welke welk hoeveel waarmee waarvoor is zijn was waren mag mogen kan "
        "kunnen moet moeten heeft hebben wordt worden zal zullen",
        "hij zij ze het hem haar hun deze dit die dat daar daarvan daarmee daarvoor daarover erin ervan "
        "ermee",
        "en maar of ook",
        "de een in op aan bij met zonder voor van naar uit tot door over onder tussen als dan er men "
        "zich om te hoe lang veel meer",
    ),
    "pl": _language(
        "co kiedy gdzie kto kogo komu dlaczego jak jaki jaka jakie jakim jakiej ile który która które czy "
        "jest "
        "są był może mogą musi muszą można trzeba",
        "on ona ono oni one go jego jej ich im nim niej nich ten ta to ci te tego tej tych tym tam jemu",
        "i a ale lub albo też także",
        "w we na z ze do od po pod nad przy przed za o u dla bez przez między się ma",
    ),
    "ru": _language(
        "что когда где кто кого кому почему зачем как какой какая какое какие какова каков каково сколько "
        "чей куда откуда ли можно нужно надо может могут должен должны",
        "он она оно они его её ее ему ей им их нём нем ней них этот эта это эти этого этой этих этом там "
        "туда",
        "и а но или также тоже",
        "в во на с со к ко у о об от до из за по под над при без для через между же бы есть был была "
        "было были",
    ),
    "zh": _language(
        "什么 何时 哪 谁 为什么 怎么 怎样 多少 几 吗 多", "它 他 她 其 这 那", "那 那么 还有 以及 而",
        "的 了 在 是 有 和 与 呢", spaced=False,
    ),
    "ja": _language(
        "何 いつ どこ 誰 だれ なぜ どう どの どれ いくら いくつ か",
        "それ これ あれ その この あの 彼 彼女 そこ ここ",
        "では じゃあ それで そして また", "は が を に で の と も へ です ます", spaced=False,
    ),
    "ko": _language(
        "무엇 뭐 언제 어디 누가 누구 왜 어떻게 얼마 몇 어느 무슨",
        "그것 그것은 그것의 이것 이것은 그 이 그녀 그들 거기 거기서",
        "그리고 그럼 그러면 하지만 또", "은 는 이 가 을 를 의 에 에서",
    ),
}  # fmt: skip

_WORDS = re.compile(r"[^\W_]+")
_SCRIPTS = (("ja", "\u3040-\u30ff"), ("zh", "\u3400-\u4dbf\u4e00-\u9fff"), ("ko", "\uac00-\ud7af"))
_BY_SCRIPT = [(code, re.compile(f"[{letters}]")) for code, letters in _SCRIPTS]

LONG = 5
"""A text of so many words that holds no word of a language is in another one."""


def words_of(text: str) -> list[str]:
    """The words of a text, as they are written."""
    return _WORDS.findall(text)


def language_of(text: str, likely: str = "") -> str:
    """The code of the language that a text is in; empty for one that is not known here, or cannot be told.

    Where several fit as well as the `likely` one, it is that.
    """
    for code, letters in _BY_SCRIPT:
        if letters.search(text):
            return code
    words = [word.casefold() for word in words_of(text)]
    counts = {code: sum(word in its.empty for word in words) for code, its in LANGUAGES.items()}
    best = max(counts, key=lambda code: (counts[code], code == likely))
    return best if counts[best] else ""


def other_language(one: str, other: str) -> bool:
    """Whether two texts are in different languages, as far as that can be told: in doubt they are not."""
    first, second = language_of(one), language_of(other)
    if first and second:
        return first != second
    unknown = other if first else one
    return first != second and len(words_of(unknown)) >= LONG
