"""Tokens: each trap of JWT, sprung."""

from __future__ import annotations

import base64
import hmac
import json
from hashlib import sha256, sha512
from typing import Any

import pytest
from joserfc import jwt
from joserfc.jwk import OctKey, RSAKey

from openstream_http import auth
from openstream_http.auth import LEEWAY, REMEMBERED, Principal, Role, Verifier
from openstream_http.problems import Problem
from support.edge import JWT_SECRET, FakeClock, settings_of

CLOCK = FakeClock()
NOW = CLOCK.ms // 1000


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


@pytest.fixture
def verifier(clock: FakeClock) -> Verifier:
    return Verifier(settings_of(), lambda: clock.now_ms() / 1000)


def claims(**changes: Any) -> dict[str, Any]:
    good = {"iss": "openstream", "aud": "openstream", "sub": "me", "role": "admin", "iat": NOW, "exp": NOW + 600}
    return {name: value for name, value in (good | changes).items() if value is not ...}


def b64(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def signed(body: Any, header: dict[str, Any] | None = None, *, secret: str = JWT_SECRET, digest: Any = sha256) -> str:
    """A token made by hand, so that it can be as wrong as it likes."""
    head = {"alg": "HS256", "typ": "JWT"} if header is None else header
    text = body if isinstance(body, bytes) else json.dumps(body).encode()
    message = f"{b64(json.dumps(head).encode())}.{b64(text)}"
    return f"{message}.{b64(hmac.new(secret.encode(), message.encode(), digest).digest())}"


def refusal(verifier: Verifier, *headers: str) -> Problem:
    with pytest.raises(Problem) as caught:
        verifier.verify(headers)
    assert caught.value.status == 401
    challenge = dict(caught.value.headers)["www-authenticate"]
    assert challenge.startswith('Bearer realm="openstream"')
    assert JWT_SECRET not in str(caught.value)
    return caught.value


def test_a_minted_token_is_good_and_says_who_it_is(verifier: Verifier) -> None:
    token = verifier.mint("me", Role.CONSUMER, 60, ["a.*", "b"])
    found = verifier.verify([f"Bearer {token}"])
    assert found == Principal("me", Role.CONSUMER, ("a.*", "b"))
    assert found.allows("a.x")
    assert found.allows("b")
    assert not found.allows("ab")
    assert not found.allows("A.x")
    assert verifier.verify([f"bearer  {token} "]) == found


def test_a_token_made_by_hand_is_as_good(verifier: Verifier) -> None:
    assert verifier.verify([f"Bearer {signed(claims())}"]) == Principal("me", Role.ADMIN)
    for typ in ("at+jwt", "application/at+jwt", "jwt"):
        assert verifier.verify([f"Bearer {signed(claims(), {'alg': 'HS256', 'typ': typ})}"]).subject
    assert verifier.verify([f"Bearer {signed(claims(aud=['x', 'openstream']), {'alg': 'HS256'})}"]).subject


@pytest.mark.parametrize(
    "changes",
    [
        {name: wrong}
        for name, wrongs in dict[str, list[Any]](
            {
                "exp": [..., None, "tomorrow", True, [], NOW - LEEWAY, 0, -1],
                "sub": [..., None, "", 7, "x" * 201, "a\nb", ["me"]],
                "role": [..., None, "root", "ADMIN", ["admin"], {"admin": 1}, 1],
                "iss": [..., None, "other", ["openstream"]],
                "aud": [..., None, "other", [], ["other"], {"openstream": 1}],
                "nbf": [NOW + LEEWAY + 1, "later"],
                "iat": [NOW + LEEWAY + 1, "once"],
                "topics": [None, "*", {}, [1], ["x" * 201], ["x"] * 101],
            }
        ).items()
        for wrong in wrongs
    ],
    ids=str,
)
def test_a_claim_that_is_missing_or_wrong_refuses_the_token(verifier: Verifier, changes: dict[str, Any]) -> None:
    refusal(verifier, f"Bearer {signed(claims(**changes))}")


@pytest.mark.parametrize("exp", [b"1e400", b"NaN", b"Infinity", b"9" * 5000])
def test_a_number_that_is_none_is_no_expiry(verifier: Verifier, exp: bytes) -> None:
    body = json.dumps(claims()).encode().replace(b"%d" % (NOW + 600), exp)
    refusal(verifier, f"Bearer {signed(body)}")


def test_clocks_may_differ_by_the_leeway(verifier: Verifier) -> None:
    assert verifier.verify([f"Bearer {signed(claims(exp=NOW - LEEWAY + 1))}"]).subject
    assert verifier.verify([f"Bearer {signed(claims(nbf=NOW + LEEWAY, iat=NOW + LEEWAY))}"]).subject


def test_no_algorithm_but_ours_is_taken(verifier: Verifier) -> None:
    good = claims()
    head, body, _ = signed(good, {"alg": "none"}).split(".")
    rsa = RSAKey.generate_key(2048)
    for token in (
        f"{head}.{body}.",
        signed(good, {"alg": "none"}),
        signed(good, {"alg": "None"}),
        signed(good, {"alg": "HS512"}, digest=sha512),
        signed(good, {"alg": "hs256"}),
        signed(good, {"alg": ["HS256"]}),
        signed(good, {"typ": "JWT"}),
        jwt.encode({"alg": "RS256"}, good, rsa),
        # Key confusion: the text of a public key as the secret of an HMAC.
        signed(good, secret=rsa.as_pem(private=False).decode()),
        signed(good, secret=""),
        signed(good, secret=JWT_SECRET[:-1]),
    ):
        refusal(verifier, f"Bearer {token}")


def test_a_key_in_the_header_is_not_listened_to(verifier: Verifier) -> None:
    theirs = "another-secret-of-somebody-else-0123456789"
    jwk = OctKey.import_key(theirs).as_dict()
    for header in (
        {"kid": "../../dev/null"},
        {"kid": "' or 1=1 --"},
        {"kid": ["x"]},
        {"jwk": jwk},
        {"jku": "http://127.0.0.1:1/keys"},
        {"x5u": "http://127.0.0.1:1/cert"},
        {"crit": ["exp"], "exp": 1},
        {"b64": False, "crit": ["b64"]},
    ):
        refusal(verifier, f"Bearer {signed(claims(), {'alg': 'HS256'} | header, secret=theirs)}")


def test_a_kid_in_a_token_of_ours_does_no_harm(verifier: Verifier) -> None:
    assert verifier.verify([f"Bearer {signed(claims(), {'alg': 'HS256', 'kid': '../../dev/null'})}"]).subject


@pytest.mark.parametrize("typ", ["dpop+jwt", "logout+jwt", "", 7, ["JWT"], None])
def test_a_token_of_another_type_is_refused(verifier: Verifier, typ: Any) -> None:
    refusal(verifier, f"Bearer {signed(claims(), {'alg': 'HS256', 'typ': typ})}")


@pytest.mark.parametrize(
    "body", [b"[]", b'"me"', b"null", b"", b"{", b"\xff", b'{"sub":' + b"[" * 5_000 + b"]" * 5_000 + b"}"]
)
def test_claims_that_are_no_object_are_refused(verifier: Verifier, body: bytes) -> None:
    refusal(verifier, f"Bearer {signed(body)}")


@pytest.mark.parametrize(
    "token", ["", "a", "a.b", "a.b.c", "a.b.c.d", "...", "é.é.é", "\ud800", "a b", "x" * (auth.MAX_TOKEN_CHARS + 1)]
)
def test_garbage_is_no_token(verifier: Verifier, token: str) -> None:
    refusal(verifier, f"Bearer {token}")


def test_a_changed_signature_or_body_is_refused(verifier: Verifier) -> None:
    head, body, signature = signed(claims(role="consumer")).split(".")
    other = signed(claims()).split(".")[1]
    refusal(verifier, f"Bearer {head}.{other}.{signature}")
    refusal(verifier, f"Bearer {head}.{body}.{signature[:-3]}AAA")
    refusal(verifier, f"Bearer {head}.{body}.")


def test_the_header_comes_once_and_as_bearer(verifier: Verifier) -> None:
    good = f"Bearer {signed(claims())}"
    refusal(verifier, good, good)
    refusal(verifier, f"Basic {good}")
    refusal(verifier, signed(claims()))
    missing = refusal(verifier)
    assert "error=" not in dict(missing.headers)["www-authenticate"]


def test_a_known_token_is_not_verified_again_until_it_expires(
    verifier: Verifier, clock: FakeClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    checked = []
    real = jwt.decode

    def counting(*args: Any, **kwargs: Any) -> Any:
        checked.append(args)
        return real(*args, **kwargs)

    monkeypatch.setattr(jwt, "decode", counting)
    header = f"Bearer {verifier.mint('me', Role.ADMIN, 65)}"
    for _ in range(3):
        verifier.verify([header])
    assert len(checked) == 1
    clock.move(REMEMBERED)
    verifier.verify([header])
    assert len(checked) == 2
    clock.move(65 - REMEMBERED + LEEWAY)
    assert "expired" in refusal(verifier, header).detail


def test_the_memory_of_tokens_is_bounded(verifier: Verifier, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(auth, "_MAX_REMEMBERED", 3)
    headers = [f"Bearer {verifier.mint(f'me{n}', Role.ADMIN, 60)}" for n in range(5)]
    for header in headers * 2:
        assert verifier.verify([header]).subject
    assert len(verifier._remembered) == 3


def test_a_refused_token_is_not_remembered(verifier: Verifier) -> None:
    for _ in range(2):
        refusal(verifier, f"Bearer {signed(claims(role='root'))}")
    assert verifier._remembered == {}


def test_a_principal_without_a_list_may_see_every_topic_and_with_an_empty_one_none() -> None:
    assert Principal("me", Role.ADMIN).allows("anything")
    assert not Principal("me", Role.ADMIN, ()).allows("anything")
