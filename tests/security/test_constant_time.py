"""Secrets are compared in constant time, and all of them: neither a prefix nor a place in the list shows in the time."""

from __future__ import annotations

import ast
from pathlib import Path

ROUTER = Path(__file__).parents[2] / "router"
SECRET_WORDS = ("digest", "offered", "secret", "password", "authorization", "sha256")
AT_START_ONLY = {
    ("admission/keyring.py", "_pairs"),  # entries of one variable against each other
    ("admission/keyring.py", "_admin_key"),
    ("admission/key_file.py", None),
    ("admission/commands.py", None),
}
"""Compare what the operator has written with what the operator has written; no client is there."""
NOT_SECRET = {
    "admin/audit.py",  # the chain's hashes are public
    "admin/policy.py",
    "documents/",
    "quality/alarm_book.py",  # hashes of certificates
    "segments.py",
    "log/",
}


def functions(tree: ast.AST) -> list[ast.FunctionDef | ast.AsyncFunctionDef]:
    return [node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)]


def named(node: ast.AST) -> list[str]:
    return [
        name for part in ast.walk(node)
        if (name := getattr(part, "id", None) or getattr(part, "attr", None)) is not None
    ]  # fmt: skip


def comparisons_of_secrets(tree: ast.AST) -> list[tuple[str, int]]:
    """(function, line) of each ==, != and `in` with something that is named like a secret."""
    found = []
    for function in functions(tree):
        for node in ast.walk(function):
            if not isinstance(node, ast.Compare):
                continue
            if not any(isinstance(op, ast.Eq | ast.NotEq | ast.In | ast.NotIn) for op in node.ops):
                continue
            operands = [node.left, *node.comparators]
            if any(isinstance(operand, ast.Constant) for operand in operands):
                continue  # a scheme, a header's name, None
            if any(word in name for operand in operands for name in named(operand) for word in SECRET_WORDS):
                found.append((function.name, node.lineno))
    return found


def test_no_secret_of_a_client_is_compared_with_an_operator() -> None:
    wrong = []
    for path in sorted(ROUTER.rglob("*.py")):
        name = path.relative_to(ROUTER).as_posix()
        if name.startswith(tuple(NOT_SECRET)):
            continue
        for function, line in comparisons_of_secrets(ast.parse(path.read_text())):
            if (name, function) not in AT_START_ONLY and (name, None) not in AT_START_ONLY:
                wrong.append(f"router/{name}:{line} in {function}: use hmac.compare_digest")
    assert wrong == []


DOORS = {"admission/keyring.py": "find", "admin/keys.py": "actor_of"}
"""Where the key that a client offers meets the known ones, as hashes."""


def test_keys_are_compared_as_hashes_in_constant_time_and_to_the_end() -> None:
    """A loop that stopped at the first match would tell by its time where in the list a key is."""
    for name, door in DOORS.items():
        tree = ast.parse((ROUTER / name).read_text())
        function = next(function for function in functions(tree) if function.name == door)
        assert "compare_digest" in named(function)
        assert {"digest_of", "_digest"} & set(named(function))
        for loop in ast.walk(function):
            if isinstance(loop, ast.For):
                assert not [node for node in ast.walk(loop) if isinstance(node, ast.Break | ast.Return | ast.Raise)]


def test_comparison_of_a_secret_would_be_found() -> None:
    """The search itself can fail."""
    tree = ast.parse("def find(offered, known):\n    return offered == known.digest\n")
    assert comparisons_of_secrets(tree) == [("find", 2)]
