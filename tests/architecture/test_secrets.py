"""Secrets are compared in constant time, never by an operator that stops at the first difference."""

from __future__ import annotations

import ast

from architecture.repository import dotted, sources, tree

#: Words that a name of a secret has in it, one at least.
WORDS = ("secret", "password", "signature", "digest", "hmac", "token")
#: What looks like one and is none, each for the reason given.
NO_SECRETS: dict[str, str] = {
    "openstream_runtime/domain/producers.py": "the digest of events, to know them again",
    "openstream_runtime/actors/admitting.py": "the digest of events, to know them again",
    "openstream_runtime/settings.py": "whether a secret is a well-known one, asked at start and of nobody else's",
}
#: Where a secret that somebody sends is held against ours.
COMPARED_IN = {"http/openstream_http/tokens.py"}


def is_secret(node: ast.AST) -> bool:
    name = dotted(node.func if isinstance(node, ast.Call) else node).lower()
    return any(word in name for word in WORDS)


def is_constant(node: ast.AST) -> bool:
    """None, a text that stands in the source, a number: nobody learns anything from these."""
    return isinstance(node, ast.Constant)


def compared(file: str) -> list[str]:
    """Comparisons of something that is called a secret, by an operator."""
    return [
        f"{file}:{node.lineno}: {ast.unparse(node)}"
        for node in ast.walk(tree(file))
        if isinstance(node, ast.Compare)
        and any(isinstance(op, ast.Eq | ast.NotEq) for op in node.ops)
        and any(map(is_secret, (node.left, *node.comparators)))
        and not any(map(is_constant, (node.left, *node.comparators)))
    ]


def test_no_secret_is_compared_by_an_operator() -> None:
    found = [one for file in sources() if file not in NO_SECRETS for one in compared(file)]
    assert found == [], "hmac.compare_digest takes as long for a near miss as for a far one"


def test_the_search_would_find_one() -> None:
    module = ast.parse("if asked.admin_secret == settings.secret.get_secret_value(): pass")
    (node,) = (node for node in ast.walk(module) if isinstance(node, ast.Compare))
    assert is_secret(node.left)
    assert is_secret(node.comparators[0])


def test_secrets_are_compared_by_compare_digest_where_they_come_in() -> None:
    calls = {
        file
        for file in sources()
        for node in ast.walk(tree(file))
        if isinstance(node, ast.Call) and dotted(node.func).endswith("compare_digest")
    }
    assert calls == COMPARED_IN


def test_the_admin_secret_is_read_nowhere_else_at_the_edge() -> None:
    """So that there is one comparison to look at."""
    readers = {
        file
        for file in sources()
        if file.startswith("http/openstream_http/")
        for node in ast.walk(tree(file))
        if isinstance(node, ast.Attribute) and node.attr == "auth_admin_secret"
    }
    assert readers == {"http/openstream_http/tokens.py", "http/openstream_http/dashboard.py"}


def test_nothing_that_must_not_be_guessed_is_made_by_random() -> None:
    """`random` is for jitter; ids of requests and replays, and secrets, are made by `secrets`."""
    users = {
        file
        for file in sources()
        for node in ast.walk(tree(file))
        if isinstance(node, ast.Call)
        and dotted(node.func).startswith(("uuid.uuid1", "random.getrandbits", "random.choices"))
    }
    assert users == set()
