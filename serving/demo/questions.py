"""The demo's questions and the answers that are known to be right.

Nothing here says which model should answer: that is for the policies. Expected answers are facts that can be
looked up (in the corpus, in the long document, in an atlas) or computed by hand; `tests/demo` checks the former.
"""

from __future__ import annotations

from typing import Literal

import msgspec

Kind = Literal["docs", "off_topic", "long", "reasoning", "plain", "forced"]
Check = Literal["identifier", "word", "number"]
Carrier = Literal["scored", "unscored", "documents", "tool"]
"""How retrieved chunks reach the gateway: `router.retrieved_chunks` with the retriever's scores or without them,
the body's `documents`, or the JSON result of a tool call."""

KINDS: tuple[Kind, ...] = ("docs", "off_topic", "long", "reasoning", "plain", "forced")
ALIAS = "docs-assistant"
"""A model name that the demo's configuration maps to `auto`."""


class Question(msgspec.Struct, frozen=True, kw_only=True):
    """One request to be. `stream`, the order and the chunks are added by `requests.build`."""

    id: str
    kind: Kind
    text: str
    expected: tuple[str, ...] = ()
    """Accepted spellings; empty means that the answer is not checked."""
    check: Check | None = None
    max_tokens: int
    source: str | None = None
    """The object (docs) or module (long) whose documentation holds the answer."""
    carrier: Carrier | None = None
    """None: no chunks are sent."""
    model: str = "auto"
    reasoning_effort: str | None = None


_DOCS: tuple[tuple[str, str, Carrier], ...] = (
    ("Which function in shutil recursively deletes a directory tree?", "shutil.rmtree", "scored"),
    ("Which function returns disk usage statistics about a path?", "shutil.disk_usage", "scored"),
    ("Which function turns a list into a heap, in place and in linear time?", "heapq.heapify", "scored"),
    ("Which function merges several sorted inputs into one sorted output?", "heapq.merge", "scored"),
    ("Which function makes a random URL-safe text string in base64?", "secrets.token_urlsafe", "scored"),
    ("Which function removes common leading whitespace from every line?", "textwrap.dedent", "scored"),
    ("Which function computes the greatest common divisor?", "math.gcd", "scored"),
    ("Which function returns the median of numeric data?", "statistics.median", "unscored"),
    ("Which function replaces &, < and > by HTML-safe sequences?", "html.escape", "scored"),
    ("Which function prompts for a password without echo?", "getpass.getpass", "scored"),
    ("Which function creates a unique temporary directory and returns its name?", "tempfile.mkdtemp", "scored"),
    ("Which decorator keeps results in a least-recently-used cache?", "functools.lru_cache", "tool"),
    ("Which string method is true if all characters are decimal?", "str.isdecimal", "scored"),
    ("Which function tells whether a year is a leap year?", "calendar.isleap", "unscored"),
    ("Which function compares two files and returns true if they seem equal?", "filecmp.cmp", "scored"),
    ("Which function computes a CRC-32 checksum of data?", "zlib.crc32", "scored"),
    ("Which function returns the number of CPUs in the system?", "os.cpu_count", "documents"),
    ("Which deque method rotates the elements n steps to the right?", "collections.deque.rotate", "scored"),
    ("Which function guesses the type of a file from its URL or name?", "mimetypes.guess_type", "scored"),
    ("Which function finds the list of archive formats that can be packed?", "shutil.get_archive_formats", "scored"),
    ("Which function returns the arithmetic mean as a float, and fast?", "statistics.fmean", "scored"),
    ("Which function compiles a regular expression pattern into an object?", "re.compile", "scored"),
    ("Which function unpacks an archive into a folder?", "shutil.unpack_archive", "scored"),
    ("Which function returns the weekday of a given year, month and day?", "calendar.weekday", "scored"),
)

_OFF_TOPIC: tuple[tuple[str, tuple[str, ...], Carrier], ...] = (
    ("What is the capital of Australia?", ("Canberra",), "scored"),
    ("Who wrote the novel Don Quixote?", ("Cervantes",), "unscored"),
    ("Which organ of the human body produces insulin?", ("pancreas",), "scored"),
    ("In which year did the Berlin Wall fall?", ("1989",), "tool"),
)

LONG_DOCUMENT = "shutil"
"""One document for all long questions, as when somebody asks several things about what they are reading: the
teacher's prefix cache then spares it the same prefill four times."""

_LONG: tuple[tuple[str, Check, tuple[str, ...]], ...] = (
    ("By default, which function does copytree() use to copy each file?", "identifier", ("copy2",)),
    ("On Linux, which function also copies extended attributes where possible?", "identifier", ("copystat",)),
    (
        "Which flag of copytree() silences the exception about dangling links?",
        "identifier",
        ("ignore_dangling_symlinks",),
    ),
    ("Which error is raised by copy() if source and destination are the same file?", "identifier", ("SameFileError",)),
)

_REASONING: tuple[tuple[str, str, str | None], ...] = (
    ("A baker bakes 24 rolls an hour for 5 hours and sells 90 of them. She puts the rest into bags of 6. How many bags "
     "does she fill?", "5", None),
    ("Tom reads 15 pages a day for 6 days, then 20 pages a day for 4 days. The book has 250 pages. How many pages are "
     "left to read?", "80", None),
    ("Three friends share a bill of 84 dollars equally, and each of them adds a tip of 5 dollars. How many dollars "
     "does each one pay?", "33", "high"),
    ("Anna saves 25 dollars a week for 8 weeks, spends 60 dollars of it, and gives half of the rest to her brother. "
     "How many dollars does she have left?", "70", None),
    ("A cinema has 12 rows of 15 seats, and 130 seats are taken. A ticket costs 8 dollars. How many more dollars would "
     "it earn if it were full?", "400", None),
    ("A tank of 240 litres is filled with 15 litres a minute while 5 litres a minute leak out. After how many minutes "
     "is it full?", "24", "high"),
    ("A box holds 3 red and 5 blue balls. How many balls are in the box?", "8", "low"),
)  # fmt: skip

_PLAIN: tuple[tuple[str, Check | None, tuple[str, ...]], ...] = (
    ("What is the capital of France?", "word", ("Paris",)),
    ("How many days are in a week?", "word", ("7", "seven")),
    ("What colour do you get when you mix blue and yellow?", "word", ("green",)),
    ("What is the opposite of hot?", "word", ("cold",)),
    ("Which animal barks?", "word", ("dog", "dogs")),
    ("Name the largest ocean on Earth.", "word", ("Pacific",)),
    ("What is the chemical formula of water?", "word", ("H2O", "H₂O")),
    ("Who painted the Mona Lisa?", "word", ("Leonardo", "Vinci")),
    ("Which planet is known as the Red Planet?", "word", ("Mars",)),
    ("How many legs does a spider have?", "word", ("8", "eight")),
    ("What is the currency of the United States?", "word", ("dollar", "dollars")),
    ("Write one friendly sentence that thanks a colleague for a code review.", None, ()),
    ("Suggest a short title for a blog post about unit tests.", None, ()),
    ("Say in one sentence what a Python list is.", None, ()),
)

_FORCED: tuple[tuple[str, str, tuple[str, ...]], ...] = (
    ("student", "What is the capital of Italy?", ("Rome",)),
    ("teacher", "What is the capital of Norway?", ("Oslo",)),
    (ALIAS, "What is the capital of Spain?", ("Madrid",)),
    (ALIAS, "What is the capital of Portugal?", ("Lisbon",)),
)


def question_bank() -> tuple[Question, ...]:
    """Every question, grouped by kind."""
    docs = tuple(
        Question(id=f"docs-{n:02}", kind="docs", text=text, source=source, carrier=carrier, check="identifier",
                 expected=(source.rpartition(".")[2],), max_tokens=40)
        for n, (text, source, carrier) in enumerate(_DOCS, start=1)
    )  # fmt: skip
    off_topic = tuple(
        Question(id=f"off-{n:02}", kind="off_topic", text=text, carrier=carrier, check="word", expected=expected,
                 max_tokens=40)
        for n, (text, expected, carrier) in enumerate(_OFF_TOPIC, start=1)
    )  # fmt: skip
    long = tuple(
        Question(id=f"long-{n:02}", kind="long", text=text, source=LONG_DOCUMENT, check=check, expected=expected,
                 max_tokens=40)
        for n, (text, check, expected) in enumerate(_LONG, start=1)
    )  # fmt: skip
    reasoning = tuple(
        Question(id=f"reason-{n:02}", kind="reasoning", text=text, check="number", expected=(expected,),
                 reasoning_effort=effort, max_tokens=200)
        for n, (text, expected, effort) in enumerate(_REASONING, start=1)
    )  # fmt: skip
    plain = tuple(
        Question(id=f"plain-{n:02}", kind="plain", text=text, check=check, expected=expected, max_tokens=60)
        for n, (text, check, expected) in enumerate(_PLAIN, start=1)
    )
    forced = tuple(
        Question(id=f"forced-{n:02}", kind="forced", model=model, text=text, check="word", expected=expected,
                 max_tokens=40)
        for n, (model, text, expected) in enumerate(_FORCED, start=1)
    )  # fmt: skip
    return docs + off_topic + long + reasoning + plain + forced
