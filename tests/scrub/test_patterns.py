"""What each kind finds, and what only looks like it."""

from __future__ import annotations

import pytest

from router.scrub.engine import BuiltInEngine, PatternError, checked
from router.scrub.findings import apart
from router.scrub.patterns import PATTERNS


def found(text: str, custom: dict[str, str] | None = None) -> list[tuple[str, str]]:
    """(kind, value) of what is found, in order."""
    data = text.encode()
    findings = apart(BuiltInEngine(list(PATTERNS), custom or {}).find(data), len(data))
    return [(finding.kind, data[finding.start : finding.end].decode()) for finding in findings]


HEX = "0123456789abcdef"
LETTERS = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789"


@pytest.mark.parametrize(
    ("kind", "text", "value"),
    [
        ("email", "write to mary.o'neil+shop@mail.example.co.uk.", "mary.o'neil+shop@mail.example.co.uk"),
        ("email", "<jürgen@bücher.de>", "jürgen@bücher.de"),
        ("email", "ask иван@почта.рф today", "иван@почта.рф"),
        ("email", "/unsubscribe?a=b%40example.org&x", "b%40example.org"),
        ("email", 'print("a\\nbob@example.org")', "bob@example.org"),
        ("email", "x ann\\u0040example.org", "ann\\u0040example.org"),
        ("email", "邮箱wang@example.cn。", "wang@example.cn"),
        ("card", "4111 1111 1111 1111", "4111 1111 1111 1111"),
        ("card", "pay with 5500-0000-0000-0004 12/27", "5500-0000-0000-0004"),
        ("card", "4111 1111 1111 1111 737", "4111 1111 1111 1111"),
        ("card", "1234 4111 1111 1111 1111", "4111 1111 1111 1111"),
        ("card", "amex 3782 822463 10005", "3782 822463 10005"),
        ("card", "card:6011000990139424,", "6011000990139424"),
        ("iban", "to DE89 3704 0044 0532 0130 00 BIC COBADEFF", "DE89 3704 0044 0532 0130 00"),
        ("iban", "ES9121000418450200051332", "ES9121000418450200051332"),
        ("iban", "gb29nwbk60161331926819", "gb29nwbk60161331926819"),
        ("ssn", "ssn 219-09-9999.", "219-09-9999"),
        ("ssn", "My social security number is 219099999", "219099999"),
        ("ipv4", "from 203.0.113.77:8080", "203.0.113.77"),
        ("ipv4", "http://10.20.30.40/x", "10.20.30.40"),
        ("ipv6", "host 2001:db8::8a2e:370:7334.", "2001:db8::8a2e:370:7334"),
        ("ipv6", "[fe80::1ff:fe23:4567:890a]", "fe80::1ff:fe23:4567:890a"),
        ("phone", "+49 30 901820", "+49 30 901820"),
        ("phone", "at +1 (415) 555-2671, thanks", "+1 (415) 555-2671"),
        ("phone", "0044 20 7946 0958", "0044 20 7946 0958"),
        ("phone", "(415) 555-2671", "(415) 555-2671"),
        ("phone", "415.555.2671", "415.555.2671"),
        ("phone", "01 23 45 67 89", "01 23 45 67 89"),
        ("phone", "0171 2345678", "0171 2345678"),
        ("phone", "my phone number is 4155552671", "4155552671"),
        ("phone", '{"phone": "0301234567"}', "0301234567"),
        ("api_key", f"OPENAI=sk-proj-{LETTERS[-24:]}", f"sk-proj-{LETTERS[-24:]}"),
        ("api_key", "id AKIAIOSFODNN7EXAMPLE", "AKIAIOSFODNN7EXAMPLE"),
        ("api_key", f"ghp_{LETTERS[-36:]}", f"ghp_{LETTERS[-36:]}"),
        ("api_key", f"locum_{LETTERS[-43:]}", f"locum_{LETTERS[-43:]}"),
        ("secret", "Authorization: Bearer abcdef0123456789abcdef", "abcdef0123456789abcdef"),
        ("secret", "Authorization: Basic dXNlcjpwYXNzd29yZA==", "dXNlcjpwYXNzd29yZA=="),
        ("secret", "postgres://app:pa55word@db/x", "pa55word"),
        ("secret", 'password = "hunter2hunter2"', "hunter2hunter2"),
        ("secret", "my password is Sommer2024!", "Sommer2024!"),
        (
            "secret",
            "t=eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxMjM0NTY3ODkwIn0.dozjgNryP4J3jVmNHl0w5N_XgL0n3I9P",
            "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxMjM0NTY3ODkwIn0.dozjgNryP4J3jVmNHl0w5N_XgL0n3I9P",
        ),
        (
            "secret",
            "x -----BEGIN PRIVATE KEY-----\nMIIE\n-----END PRIVATE KEY----- y",
            "-----BEGIN PRIVATE KEY-----\nMIIE\n-----END PRIVATE KEY-----",
        ),
        (
            "secret",
            f"-----BEGIN RSA PRIVATE KEY-----\n{LETTERS}\n{LETTERS}\n. The rest is prose.",
            f"-----BEGIN RSA PRIVATE KEY-----\n{LETTERS}\n{LETTERS}",
        ),
    ],
)
def test_kind_is_found_exactly(kind: str, text: str, value: str) -> None:
    assert found(text) == [(kind, value)]


@pytest.mark.parametrize(
    "text",
    [
        "icon@2x.png lodash@4.17.21 @decorator user@host git@github.com:org/repo.git",
        "4111 1111 1111 1112 and 1234567812345678 and 0.4111111111111111 and 4111111111111111.5",
        "3f2504e0-4f89-11d3-9a0c-0305e82c3301 da39a3ee5e6b4b0d3255bfef95601890afd80709",
        "DE89 3704 0044 0532 0130 01 and XX89370400440532013000",
        "000-12-3456 666-12-3456 987-65-4329 123-00-4567 2024-05-12 1-219-09-9999",
        "v1.22.33.44, version 10.20.30.40, Chrome/120.1.2.3, 127.0.0.1, 0.0.0.0, 255.255.255.0, 1.2.3.4, 256.1.1.1",
        "12:30:45 00:1a:2b:3c:4d:5e std::vector a::b fee::add ::1 dead:beef",
        "2024-05-12T12:30:45+02:00, 3.14159265358979, 1,234,567.89, 1763812800, +12.5 %, 10-20-30, 300 400 5000",
        "x = 1+4155552671, numpy==2.1.0.123, 1.800.555, ISBN 978-3-16-148410-0, 12/24/2024, 1e-100, 0x4155552671",
        "phone costs 1299.99, the tel was made on 2024-05-12, mobile phones sold: 1,200,000",
        "sk-learn-is-a-library-with-a-long-name, sk-, AKIA, ghp_short, task-abcdefghijklmnopqrstuvwxyz1",
        "password = get_password(); api_key=os.environ['KEY']; secret: string; the password is incorrect",
        "bearer of good news everywhere, https://example.org:443/path, see http://user@example.org",
    ],
)
def test_nothing_is_found_in_what_only_looks_like_it(text: str) -> None:
    hits = [hit for hit in found(text) if hit != ("email", "user@example.org")]
    assert hits == []


def test_own_patterns_win_over_built_in_kinds() -> None:
    assert found("E123456 and 203.0.113.77", {"staff": r"\bE[0-9]{6}\b", "machine": r"203\.0\.113\.[0-9]{1,3}"}) == [
        ("staff", "E123456"),
        ("machine", "203.0.113.77"),
    ]


@pytest.mark.parametrize("regex", ["a+", "a*b", "x{3,}", "(?:ab)+?", r"\d+", "[a-z]*", r"\Q+\E+"])
def test_own_pattern_is_refused_when_it_repeats_without_bound(regex: str) -> None:
    with pytest.raises(PatternError, match="without a bound"):
        checked("mine", regex)


@pytest.mark.parametrize("regex", [r"a\+", "[*+]{1,3}", "x{3,9}", r"\Qa+b\E", "[]+]", "[^]*]x", r"[\]+]", "a{,2}b"])
def test_own_pattern_is_taken_when_every_repetition_is_bounded(regex: str) -> None:
    assert checked("mine", regex) == regex


@pytest.mark.parametrize(("regex", "why"), [("(", "RE2"), ("(?=x)y", "RE2"), ("a{0,3}", "empty"), ("", "characters")])
def test_own_pattern_is_refused_with_the_reason(regex: str, why: str) -> None:
    with pytest.raises(PatternError, match=why):
        checked("mine", regex)
