"""Guess the language of a short text from its script and its commonest words. Coarse on purpose, and no model.

Scripts decide for Russian, Chinese, Japanese, Korean, Arabic, Hindi and others; Latin letters are told apart by small
lists of function words. A text with too little evidence (a name, a formula, code) has no language: None.
"""

from __future__ import annotations

import re
from bisect import bisect_right
from collections import Counter

# First code point, last code point, language that the script stands for. Sorted.
_SCRIPTS = (
    (0x0370, 0x03FF, "el"),
    (0x0400, 0x052F, "ru"),
    (0x0530, 0x058F, "hy"),
    (0x0590, 0x05FF, "he"),
    (0x0600, 0x06FF, "ar"),
    (0x0900, 0x097F, "hi"),
    (0x0980, 0x09FF, "bn"),
    (0x0B80, 0x0BFF, "ta"),
    (0x0C00, 0x0C7F, "te"),
    (0x0E00, 0x0E7F, "th"),
    (0x10A0, 0x10FF, "ka"),
    (0x1100, 0x11FF, "ko"),
    (0x3040, 0x30FF, "ja"),
    (0x3400, 0x4DBF, "zh"),
    (0x4E00, 0x9FFF, "zh"),
    (0xAC00, 0xD7AF, "ko"),
)
_STARTS = [first for first, _, _ in _SCRIPTS]

_LISTS = {
    "en": "the of and to in is that it for was with as on are this be by at from have not you or an which but we they "
    "his her has had were what how your can will i my there would do if so a as no me he she its about into write give",
    "fr": "le la les de des du et est un une en que qui dans pour pas sur avec il elle je nous vous ce cette au aux ne "
    "se sont ou mais plus par votre mon quel quelle comment être où",
    "de": "der die das und ist nicht ein eine einen zu den dem mit von auf für ich wir sie es im am auch wie bei oder "
    "aber sich des sind wird kann mir mein dein eines einem werden was wo",
    "es": "el la los las de del y es un una en que por para con no se su al lo como más pero sus le ha me mi tu qué "
    "cómo cuál está son muy puede usted yo",
    "it": "il lo la i gli le di del della e è un una in che per con non si su al come più ma sono mi mio tuo ho questo "
    "questa nel alla anche dei delle perché quale cosa",
    "pt": "o a os as de do da dos das e é um uma em que por para com não se ao no na como mais mas seu sua você eu me "
    "minha está são muito pelo pela qual isso",
    "nl": "de het een en van is in dat op te met voor niet zijn aan er ook om maar bij ik je we ze hij naar uit wat "
    "hoe door over kan mijn jij wordt",
    "sv": "och att det som en på är av för med den till inte har jag om ett men var vi kan du från så hur min ska",
    "pl": "i w na z do jest nie się to że jak o co po za dla od przez czy ale tak są jego ich być który mi może mam "
    "jaki",
    "tr": "ve bir bu için ile ne de da mi var çok daha gibi olarak ben sen o en nasıl değil kadar olan bana benim",
    "vi": "và là của có một cho không được trong với các những này tôi bạn như để người đã về làm thế nào gì",
    "id": "dan yang di ini itu dengan untuk tidak dari dalam akan pada adalah ke saya anda bisa apa bagaimana juga",
    "sw": "na ya wa ni kwa katika la za hii yake kuwa kama cha au lakini huyo yeye mimi ambaye siku",
}
FUNCTION_WORDS: dict[str, frozenset[str]] = {language: frozenset(words.split()) for language, words in _LISTS.items()}
_WORD = re.compile(r"[^\W\d_]+")
_MAX_CHARS = 4000


def detect_language(text: str) -> str | None:
    """ISO 639-1 code of the language, or None when the text does not tell.

    A script other than Latin wins with 30 % of the letters. Japanese is Han with some kana. Latin text needs at least
    two function words of a language, more of them than of any other.
    """
    text = text[:_MAX_CHARS]
    letters = [c for c in text if c.isalpha()]
    if not letters:
        return None
    scripts: Counter[str] = Counter()
    for letter in letters:
        if letter > "\u0369" and (language := _script(ord(letter))) is not None:
            scripts[language] += 1
    if scripts.total() >= 0.3 * len(letters):
        if scripts["ja"] >= 0.05 * scripts.total():
            return "ja"
        return max(sorted(scripts), key=lambda language: scripts[language])
    words = Counter(word.lower() for word in _WORD.findall(text))
    scores = {language: sum(words[w] for w in known if w in words) for language, known in FUNCTION_WORDS.items()}
    best, second = sorted(scores, key=lambda language: -scores[language])[:2]
    return best if scores[best] >= 2 and scores[best] > scores[second] else None


def _script(point: int) -> str | None:
    i = bisect_right(_STARTS, point) - 1
    return _SCRIPTS[i][2] if i >= 0 and point <= _SCRIPTS[i][1] else None
