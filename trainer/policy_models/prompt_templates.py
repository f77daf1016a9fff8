"""Prompts written for this project: the same subjects and the same vocabulary once with, once without reasoning.

Public sets differ in style as much as in difficulty, and a classifier takes the easier of the two. Each family here
therefore exists on both sides: numbers are looked up and computed with, code is explained and debugged, a text is
rewritten and reasoned about.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator

Fill = Callable[[random.Random], str]

_NAMES = ("Ada", "Ben", "Chen", "Dora", "Emil", "Fatima", "Goran", "Hana", "Ivo", "Jun", "Kofi", "Lena", "Mira", "Noor")
_GOODS = ("notebooks", "apples", "tickets", "batteries", "litres of paint", "bricks", "cups of flour", "shirts")
_CITIES = ("Lisbon", "Oslo", "Nairobi", "Kyoto", "Quito", "Hanoi", "Tunis", "Riga", "Perth", "Lima")
_LANGUAGES = ("German", "French", "Spanish", "Italian", "Dutch", "Portuguese", "Polish", "Swedish")
_SYSTEMS = ("a ticket shop", "a chat service", "a photo archive", "a bank ledger", "a parcel tracker", "a game server")
_CODE_LANGUAGES = ("Python", "Go", "TypeScript", "Java", "Rust", "C", "SQL", "Bash")
_THINGS = ("photosynthesis", "inflation", "a mutex", "DNS", "gradient descent", "a trust fund", "HTTP caching", "yeast")
_SENTENCES = (
    "The report were send to all customer on 12 March, and 3 of them has replied.",
    "We regret to inform you that order 48213 will be 5 days late because of the strike.",
    "Our office moved to 22 Harbour Street; the phone number, 555-0148, stays the same.",
    "Please find attached the minutes of the meeting at 14:30 and the 7 open points.",
    "The new release fixes 41 bugs, halves the start-up time and needs 2 GB of memory.",
    "She told him that if he did not call before Friday she would give the ticket to someone else.",
    "In total we sold 1,250 units in 2023, which is at least 10 percent more than in the year before.",
    "The old bridge, which was built in 1874, carries about 9,000 cars each day.",
)
_CODE = (
    "def merge(a, b):\n    out = []\n    while a and b:\n        out.append(a.pop(0) if a[0] < b[0] else b.pop(0))\n"
    "    return out",
    "for (int i = 0; i <= n; i++) {\n    total += values[i];\n}",
    "SELECT customer, SUM(amount) FROM orders GROUP BY customer HAVING COUNT(*) > 3;",
    "func handle(w http.ResponseWriter, r *http.Request) {\n    go save(r.Body)\n    w.WriteHeader(200)\n}",
    "cache = {}\ndef fib(n):\n    if n < 2: return n\n    cache[n] = fib(n - 1) + fib(n - 2)\n    return cache[n]",
    "async def fetch(urls):\n    results = []\n    for url in urls:\n        results.append(await get(url))\n"
    "    return results",
)
_FACTS = (
    ("Which of these is a noble gas?", "helium", "iron", "sulfur", "chlorine"),
    ("Which organ pumps blood through the body?", "the heart", "the liver", "the lungs", "the spleen"),
    ("Who painted the ceiling of the Sistine Chapel?", "Michelangelo", "Raphael", "Titian", "Giotto"),
    ("Which planet is known for its large rings?", "Saturn", "Mars", "Venus", "Mercury"),
    ("What do bees collect from flowers?", "nectar", "resin", "salt", "clay"),
    ("Which document limits the power of a government?", "a constitution", "an invoice", "a menu", "a diary"),
    ("In marketing, what does the letter P not stand for?", "patience", "price", "place", "promotion"),
    ("Which vitamin does the skin make in sunlight?", "vitamin D", "vitamin C", "vitamin B12", "vitamin K"),
    ("According to historians, who built Machu Picchu?", "the Inca", "the Maya", "the Aztecs", "the Moche"),
    ("A person is tired after work. Where are they most likely to go?", "home", "to a gym", "to a mine", "to sea"),
    ("What is the term for a word that means the opposite of another?", "antonym", "synonym", "acronym", "eponym"),
    ("Where would you most likely find a stapler?", "on a desk", "in a pond", "on a roof", "in an oven"),
    ("Which of the following is a primary colour of light?", "green", "brown", "pink", "black"),
    ("The mitochondria are found in which part of the cell?", "cytoplasm", "nucleus", "membrane", "cell wall"),
    ("Which nerve carries signals from the eye?", "optic nerve", "vagus nerve", "ulnar nerve", "facial nerve"),
    ("Which treaty ended the First World War?", "Versailles", "Tordesillas", "Westphalia", "Utrecht"),
    ("An early sign of dehydration in an older patient is:", "thirst", "fever", "rash", "cough"),
    ("Which religion follows the Eightfold Path?", "Buddhism", "Judaism", "Shinto", "Sikhism"),
)


def _multiple_choice(rng: random.Random) -> str:
    question, *options = rng.choice(_FACTS)
    rng.shuffle(options)
    form = rng.choice(("{letter}. {option}", "{letter}) {option}", "({letter}) {option}"))
    lines = [form.format(letter=letter, option=option) for letter, option in zip("ABCD", options, strict=True)]
    return question + "\n" + "\n".join(lines)


def _pick(*options: str) -> Fill:
    return lambda rng: rng.choice(options)


def _number(low: int, high: int) -> Fill:
    return lambda rng: str(rng.randint(low, high))


_SLOTS: dict[str, Fill] = {
    "name": _pick(*_NAMES), "other": _pick(*_NAMES), "goods": _pick(*_GOODS), "city": _pick(*_CITIES),
    "town": _pick(*_CITIES), "language": _pick(*_LANGUAGES), "system": _pick(*_SYSTEMS), "thing": _pick(*_THINGS),
    "code_language": _pick(*_CODE_LANGUAGES), "sentence": _pick(*_SENTENCES), "code": _pick(*_CODE),
    "small": _number(2, 9), "few": _number(3, 12), "dozen": _number(11, 40), "hundred": _number(60, 900),
    "big": _number(1_000, 90_000), "percent": _number(3, 45), "year": _number(1850, 2024),
    "multiple_choice": _multiple_choice,
    "weekday": _pick("Monday", "Tuesday", "Wednesday", "Thursday", "Friday"),
}  # fmt: skip

REASONING: dict[str, tuple[str, ...]] = {
    "word_problems": (
        "{name} buys {few} {goods} at ${small} each and {other} buys twice as many at a discount of {percent}%. "
        "How much do they spend together, and who pays more per piece?",
        "A shop has {hundred} {goods}. It sells a third on {weekday}, then {dozen} more, and then half of what is "
        "left. How many remain?",
        "Two trains leave {city} and {town}, {big} km apart, at {hundred} km/h and {dozen} km/h. The second starts "
        "{small} hours later. When do they meet?",
        "{name} is {few} years older than {other}. In {small} years {name} will be twice as old as {other} was "
        "{small} years ago. How old are both now?",
        "A tank of {hundred} litres fills through one pipe in {few} hours and drains through another in {dozen} "
        "hours. Both are open. How long until it is three quarters full?",
        "{name} earns ${big} a year, pays {percent}% tax, spends ${hundred} a month on rent and saves half of the "
        "rest. After {small} years with {small}% interest, what has {name} saved?",
        "If {few} workers lay {hundred} bricks in {small} hours, how many workers lay {big} bricks in one day of "
        "{few} hours, when each new worker is only half as fast?",
        "A bag holds {few} red, {few} blue and {small} green balls. {name} draws {small} without replacement. What is "
        "the probability that at least two have the same colour?",
        "{name} reads {dozen} pages on the first day and {small} more on each day after it. On which day does {name} "
        "finish a book of {hundred} pages, and how many pages are left for that day?",
        "The price of {goods} rose by {percent}% and later fell by {percent}%. {name} paid ${hundred} at the peak. "
        "What did the same amount cost before the rise and after the fall?",
    ),
    "multiple_choice_reasoning": (
        "A train covers {hundred} km in {small} hours and then {dozen} km in {few} hours. What is its mean speed?\n"
        "A. {dozen} km/h\nB. {few} km/h\nC. {hundred} km/h\nD. none of these",
        "If x + {few} = {small}y and y = {dozen} - x, what is x?\n(A) {small}\n(B) {few}\n(C) {dozen}\n(D) {percent}",
        "{name} is taller than {other}, who is not the shortest. Of three people, who is the shortest?\nA. {name}\n"
        "B. {other}\nC. the third\nD. it cannot be determined",
        "The probability of rain is {percent}% on each of {few} days. What is the chance that it rains at least "
        "once?\nA) below a half\nB) about a half\nC) above a half\nD) certain",
        "A loan of ${big} at {small}% is repaid in {few} equal parts. How much interest is paid in total?\n"
        "A. ${hundred}\nB. ${dozen}\nC. ${big}\nD. ${percent}",
    ),
    "planning": (
        "Plan {few} days in {city} and {town} for {small} people with a budget of ${big}. Each city needs at least two "
        "nights, museums are closed on {weekday}, and we cannot fly before noon. Give a schedule and the total cost.",
        "We have {few} meetings, {small} rooms and {few} people with different working hours. {name} must not meet "
        "before 10 and {other} leaves at 15. Find a schedule without conflicts or show that there is none.",
        "Design {system} for {big} users with {small} regions. Compare two architectures, estimate storage and "
        "bandwidth, name what fails first and how you would find out.",
        "Work out a migration from one database to another for {system} without downtime. Which order of steps keeps "
        "reads correct when a step fails, and how is each one rolled back?",
        "{name}, {other} and two friends must cross a bridge at night with one lamp. They need {small}, {small}, "
        "{few} and {few} minutes. At most two may cross together. What is the fastest order?",
        "Assign {few} tasks with these dependencies to {small} engineers so that we finish before {weekday}: B needs "
        "A, C needs A and B, D must not run beside C. Explain why no faster plan exists.",
        "Should we rent or buy? Rent is ${hundred} a month and rises {small}% a year; the house costs ${big}, the "
        "loan has {small}% interest. Compare both over {dozen} years and state your assumptions.",
        "Our {weekday} deployment of {system} failed after the second step. Given the symptoms below, list possible "
        "causes, say which measurement tells them apart, and decide in which order to check them.\n- latency of "
        "reads doubled\n- {percent}% of writes time out\n- only in one region",
    ),
    "code_reasoning": (
        "Why does this {code_language} code sometimes give the wrong result under load? Find every bug, explain step "
        "by step how each shows, and give a corrected version with its complexity.\n```\n{code}\n```",
        "Prove that the following terminates for every input, or give a counterexample.\n```\n{code}\n```",
        "Write a {code_language} program that reads {big} records, groups them by two keys, keeps only the {few} "
        "largest groups within {small} MB of memory, and explain the trade-offs of your data structure.",
        "Implement an LRU cache in {code_language} with expiry after {dozen} seconds and O(1) operations. Show that "
        "eviction is correct when two threads call it at once.",
        "Given this function, derive its time complexity and rewrite it so that it is linear:\n```\n{code}\n```",
        "Two services write the same row; sometimes an update is lost. Explain how that can happen with each "
        "isolation level, and which one fixes it at the lowest cost for {system}.",
        "Our {code_language} test fails one time in {dozen} runs. The code is below. Which interleavings are possible "
        "and which of them explains the failure?\n```\n{code}\n```",
    ),
    "logic_and_proof": (
        "Prove that the sum of the first n odd numbers is n squared, and then use it to find the sum of the odd "
        "numbers between {dozen} and {hundred}.",
        "{name} says that {other} lies. {other} says that both of them lie. Exactly one of three people tells the "
        "truth. Who is it, and why can it be no other?",
        "All {goods} in box A are old. Some old things are broken. Does it follow that some {goods} in box A are "
        "broken? Justify your answer and name the fallacy if there is one.",
        "Show that for every n greater than {small} there is a prime between n and 2n, for n up to {dozen}.",
        "If {name} goes to the party then {other} stays home, unless it rains. It did not rain, and {other} went. "
        "What can be concluded, and what cannot?",
        "Suppose f(x) = {small}x^2 - {few}x + {small}. For which x is f minimal, where does it cut the axes, and what "
        "area lies between the curve and the line y = {few}?",
        "A number leaves remainder {small} when divided by {few} and is a multiple of {small}. Find the three "
        "smallest such numbers and prove that there is no smaller one.",
    ),
    "text_reasoning": (
        "Read the text and decide whether the author's conclusion follows. Name each unstated assumption and what "
        "evidence would refute it.\n\n{sentence} Therefore every customer will be satisfied next year.",
        "{sentence} {sentence}\n\nDo these statements contradict each other? Compare them step by step and derive "
        "what must be true if both are right.",
        "From the notes below, work out how many people were affected in each month and explain how you got "
        "there.\n- {hundred} in the first week, {percent}% more in the second\n- half of them came back\n- {dozen} "
        "were counted twice",
        "{sentence}\n\nIf the trend continues, what will the figures be in {few} years? State the assumptions, give a "
        "lower and an upper bound, and say which of the two is more likely and why.",
        "Analyze the root cause: after the change on {weekday} costs rose {percent}% while traffic fell {small}%. "
        "Which explanations are consistent with both, and how would you rule each one out?",
    ),
}

DIRECT: dict[str, tuple[str, ...]] = {
    "lookups": (
        "What is the capital of the country that {city} lies in?",
        "Who wrote the novel that won the prize in {year}?",
        "What is the phone number on the invoice from {year}?",
        "How many people live in {city}?",
        "How much does a ticket from {city} to {town} cost?",
        "When does the shop in {city} open on {weekday}?",
        "What does {thing} mean?",
        "Define {thing} in one sentence.",
        "Is {city} north of {town}?",
        "What time is it in {city} when my calendar says {few}:30?",
        "How long is the warranty of order {big}?",
        "Which version of {code_language} came out in {year}?",
    ),
    "multiple_choice": (
        "{multiple_choice}",
        "Answer the question with one letter.\n\n{multiple_choice}",
        "{multiple_choice}\nAnswer:",
        "Question: {multiple_choice}",
    ),
    "edits": (
        "Fix the grammar: {sentence}",
        "Translate into {language}: {sentence}",
        "Rewrite this more politely.\n\n{sentence}",
        "Make this shorter: {sentence} {sentence}",
        "Summarize in one line:\n{sentence} {sentence} {sentence}",
        "Put this text into bullet points.\n\n{sentence}\n{sentence}\n{sentence}",
        "Correct the spelling, and keep the numbers as they are: {sentence}",
        "Turn the following into a subject line for an email to {name}: {sentence}",
        "Extract all dates and numbers from the text and return them as JSON.\n\n{sentence} {sentence}",
        "Is the tone of this message friendly, neutral or angry? Answer with one word. {sentence}",
    ),
    "code_help": (
        "What does this {code_language} code do, in one sentence?\n```\n{code}\n```",
        "Add a comment above each line.\n```\n{code}\n```",
        "How do I read a file line by line in {code_language}?",
        "What is the syntax of a for loop in {code_language}?",
        "Rename the variable to `{name}_total` in this code:\n```\n{code}\n```",
        "Which flag of the command prints its version?",
        "Show me a one-line example of sorting a list of {few} numbers in {code_language}.",
        "What is the difference between a list and a tuple?",
        "Convert this code to {code_language} style names.\n```\n{code}\n```",
        "Where can I find the log file of {system}?",
    ),
    "small_talk_and_writing": (
        "Thanks {name}, that was helpful!",
        "Write a birthday greeting for {name}, who turns {dozen}.",
        "Tell me a short joke about {goods}.",
        "Suggest {few} names for {system}.",
        "Write a two-line product description for {goods} at ${hundred}.",
        "Can you recommend a nice restaurant in {city}?",
        "Draft an email to {name}: the meeting on {weekday} moves to {few} o'clock.",
        "Write a poem with {few} lines about {city} in autumn.",
        "Give me {small} tips for a job interview.",
        "Explain {thing} to a child of {few}.",
        "hello, are you there?",
        "List {few} things to pack for {city}.",
    ),
    "answers_from_context": (
        "Context:\n1. {sentence}\n2. {sentence}\n3. {sentence}\n\nQuestion: what does the second point say?",
        "Use only the documents below to answer.\n\n[1] {sentence} {sentence}\n[2] {sentence}\n\nWhen was that?",
        "{sentence} {sentence} {sentence}\n\nWhich number is mentioned first?",
        "Answer from the manual: how many {goods} does {system} support?\n\nManual: {system} supports up to {big} "
        "{goods}. {sentence}",
        "Here is an email. Who is it for?\n\nDear {name},\n{sentence}\nBest regards,\n{other}",
        "Given the table, what is the value for {city}?\n- {city}: {hundred}\n- {town}: {big}",
        "{sentence}\n\nIs the date given? If it is, answer with the date only.",
        "According to the text, how much was it per piece? Text: the {goods} cost ${small} each. {sentence}",
    ),
}


def generate(family: tuple[str, ...], n: int, rng: random.Random) -> Iterator[str]:
    """At most `n` different prompts of one family, its templates in turn."""
    seen: set[str] = set()
    for attempt in range(n * 4):
        prompt = _fill(family[attempt % len(family)], rng)
        if prompt not in seen:
            seen.add(prompt)
            yield prompt
        if len(seen) == n:
            return


def _fill(template: str, rng: random.Random) -> str:
    """Every slot filled on its own: `{small}` twice gives two numbers."""
    parts = template.split("{")
    filled = [parts[0]]
    for part in parts[1:]:
        slot, _, rest = part.partition("}")
        filled += [_SLOTS[slot](rng), rest]
    return "".join(filled)
