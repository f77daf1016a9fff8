"""Whether a short answer declines to answer, in the languages that models are most often asked in.

A refusal of a student is a reason to ask the teacher, so it must be recognised in the student's own words, and a text
that only speaks of inability must not be: the phrase has to stand at the beginning, the answer has to be short, and an
apology counts only together with an inability ("I'm sorry to hear that" is an answer). How often the patterns strike on
texts that are no refusals is measured by trainer/policy_models/validity_rates.py; docs/cascade.md has the figures.
"""

from __future__ import annotations

import re

MAX_CHARS = 600
"""A longer answer has an answer in it."""
BEGINNING_CHARS = 200

_GAP = r"[^.!?\u3002\uff01\uff1f\u0964\u061f\n]{0,60}?"
_PHRASES = (
    # English
    (
        ("sorry", "apolog", "afraid", "unfortunately"),
        rf"\b(?:sorry|apologi[sz]e|apologies|(?:i'm|i am) afraid|unfortunately,? i){_GAP}\b(?:can't|cannot|can not|"
        r"unable|not able|won't|not allowed|(?:don't|do not) (?:know|have|feel))",
    ),
    (
        ("i can", "i won't", "i will not", "i am ", "i must "),
        r"\bi (?:can't|cannot|can not|won't|will not|am unable to|am not able to|must decline to|must refuse to) "
        r"(?:help|assist|comply|provide|fulfil|fulfill|answer|respond|do that|discuss|engage|generate|create|share|"
        r"support|participate|continue|determine|"
        r"access (?:the internet|real|external|current|live|websites?|urls?|files|links))",
    ),
    (
        ("language model", "as an ai", "artificial intelligence"),
        rf"\bas an? (?:ai|artificial intelligence|(?:large )?language model)\b{_GAP}\b(?:can't|cannot|unable|not able|"
        r"don't|do not)",
    ),
    (
        (" know",),
        rf"^\W*i (?:really |honestly )?(?:don't|do not) know(?: the answer\b{_GAP})?\s*(?:[.,;!]|\Z)",
    ),
    (
        ("i don't have", "i do not have"),
        r"^\W*i (?:don't|do not) have (?:enough|access to (?:real|current|live|the internet|external)|sufficient|"
        r"the ability|any information)",
    ),
    # German
    (
        ("leid", "leider", "entschuldigung"),
        rf"\b(?:tut mir leid|leider|entschuldigung)\b{_GAP}\b(?:kann|darf|möchte) {_GAP}\bnicht\b",
    ),
    (
        ("ich kann", "ich darf", "ich werde"),
        rf"\bich (?:kann|darf|werde)\b{_GAP}\bnicht (?:helfen|beantworten|erfüllen|unterstützen|bereitstellen|"
        r"weiterhelfen)",
    ),
    (("weiß ich",), r"^\W*(?:das )?weiß ich (?:leider )?nicht"),
    # French
    (("désolé",), rf"\bdésolée?s?\b{_GAP}\b(?:ne (?:peux|suis|saurais|puis)|impossible)"),
    (
        ("je ne ",),
        r"\bje ne (?:peux|suis|puis) pas (?:en mesure|capable|répondre|vous aider|t'aider|aider|fournir|accéder)"
        r"|^\W*je ne sais pas\s*(?:[.,;!]|\Z)",
    ),
    # Spanish
    (
        ("lo siento", "lamento", "disculpa", "perdón"),
        rf"\b(?:lo siento|lamento|disculpa|perdón)\b{_GAP}\bno (?:puedo|es posible|estoy|me es posible|tengo)",
    ),
    (
        ("no puedo", "no sé", "no lo sé"),
        r"\bno puedo (?:ayudar|responder|proporcionar|cumplir|asistir|contestar)"
        r"|^\W*no (?:lo )?sé\s*(?:[.,;!]|\Z)",
    ),
    # Portuguese
    (
        ("não ",),
        rf"\b(?:desculpe|desculpa|sinto muito|lamento)\b{_GAP}\bnão (?:posso|consigo|tenho|é possível)"
        r"|\bnão (?:posso|consigo) (?:ajudar|ajudá|responder|fornecer|atender)",
    ),
    # Italian
    (
        ("non ",),
        rf"\bmi (?:dispiace|spiace)\b{_GAP}\bnon (?:posso|sono|riesco)"
        r"|\bnon (?:posso|sono in grado di) (?:aiutar|rispondere|fornire|assister)",
    ),
    # Dutch
    (("spijt", "sorry", "helaas"), rf"\b(?:het spijt me|sorry|helaas)\b{_GAP}\b(?:kan|mag) {_GAP}\bniet\b"),
    # Polish
    (("nie ",), rf"\b(?:przykro mi|przepraszam|niestety)\b{_GAP}\bnie (?:mogę|jestem w stanie)"),
    # Russian, Ukrainian
    (
        ("не ",),
        rf"(?:извините|простите|к сожалению|вибачте|на жаль){_GAP}не (?:могу|имею|можу|маю)"
        r"|\bя не (?:могу|можу) (?:помочь|ответить|предоставить|выполнить|допомогти|відповісти)",
    ),
    # Turkish
    (
        ("üzgünüm", "maalesef", "özür"),
        rf"\b(?:üzgünüm|maalesef|özür dilerim)\b{_GAP}(?:olamam|olam\u0131yorum|yapamam|veremem|"
        r"veremiyorum|cevaplayamam)",
    ),
    # Chinese
    (
        ("抱歉", "对不起", "對不起", "遗憾", "不好意思", "我无法", "我無法", "我不能"),
        rf"(?:抱歉|对不起|對不起|很遗憾|不好意思){_GAP}(?:无法|無法|不能|没有办法|不便)"
        r"|我(?:无法|無法|不能)(?:帮助|幫助|提供|回答|满足|滿足|协助|協助|完成|为您|為您)",
    ),
    # Japanese
    (
        ("申し訳", "すみません", "ごめんなさい", "恐れ入り", "お答え", "回答", "お手伝い", "ご提供"),
        rf"(?:申し訳|すみません|ごめんなさい|恐れ入りますが){_GAP}(?:できません|出来ません|できかねます|いたしかねます|"
        r"わかりません)|(?:お答え|回答|お手伝い|ご提供)(?:することは?|は)?(?:できません|出来ません|できかねます)",
    ),
    # Korean
    (("죄송", "미안", "유감"), rf"(?:죄송|미안|유감){_GAP}(?:수 없|수는 없|못합니다|못해요|어렵습니다)"),
    # Arabic
    (("عذر", "آسف", "للأسف"), rf"(?:عذر|آسف|للأسف|أعتذر){_GAP}لا (?:أستطيع|يمكنني|أقدر)"),
    # Hindi
    (("क्षमा", "माफ", "खेद"), rf"(?:क्षमा|माफ़|माफ|खेद){_GAP}(?:नहीं (?:कर|दे|बता) सक|असमर्थ)"),
)
_COMPILED = tuple((cues, re.compile(phrase).search) for cues, phrase in _PHRASES)
"""A phrase is only searched for in texts that have one of its cues: nearly all answers have none of all these."""


def declines(text: str) -> bool:
    """Whether a whole answer, or the beginning of one, declines. A text without content does not."""
    if len(text) > MAX_CHARS:
        return False
    beginning = text.lstrip()[:BEGINNING_CHARS].replace("\N{RIGHT SINGLE QUOTATION MARK}", "'").lower()
    return any(search(beginning) for cues, search in _COMPILED if any(cue in beginning for cue in cues))
