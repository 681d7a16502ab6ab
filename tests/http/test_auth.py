"""Tokens: each trap of JWT, sprung."""

from __future__ import annotations

import base64
import hmac
import json
from hashlib import sha256, sha512
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from joserfc import jwt
from joserfc.jwk import OctKey, RSAKey

from openstream_http import auth
from openstream_http.auth import LEEWAY, REMEMBERED, Principal, Role, Verifier
from openstream_http.problems import Problem
from support.edge import JWT_SECRET, FakeClock, settings_of

#: How long an example takes says how busy the machine is, and nothing else.
quietly = settings(deadline=None, suppress_health_check=list(HealthCheck))

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


def verdict(verifier: Verifier, token: str) -> Principal | int:
    """Whom a token speaks for, or the status that says it speaks for nobody; anything else is a fault of ours."""
    try:
        return verifier.verify([f"Bearer {token}"])
    except Problem as problem:
        return problem.status


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


@pytest.mark.parametrize(
    "header",
    [
        b'{"alg":"none","alg":"HS256"}',
        b'{"alg":"HS256","alg":"none"}',
        b'{"alg":"HS256","enc":"A256GCM","zip":"DEF"}',
        b'{"alg":"HS256","zip":"DEF"}',
        b'{"alg":"dir","enc":"A256GCM"}',
        b'{"alg":"PBES2-HS256+A128KW","p2c":2147483647,"p2s":"AA","enc":"A128GCM"}',
        b'{"alg":"HS256","typ":"JWT","kid":null}',
        b'{"alg":"HS256","cty":"JWT"}',
        b'{"alg":"HS256","kid":"' + b"k" * 4_000 + b'"}',
        b'{"alg":null}', b'{"alg":{}}', b'{"alg":""}', b'{}', b'[]', b'null', b'"HS256"', b'', b'{', b'\xff',
        b'{"alg":"HS256\x00"}',
        b'{"alg":"HS256"} x', b'\xef\xbb\xbf{"alg":"HS256"}', b'{"alg":"\\u0048S256"}', b"[" * 2_000,
    ],
    ids=lambda header: ascii(header)[:40],
)  # fmt: skip
def test_a_header_is_ours_or_the_token_is_refused_whoever_signed_it(verifier: Verifier, header: bytes) -> None:
    """Signed with the right secret, so that nothing but the header can be what refuses it; and never an exception."""
    message = f"{b64(header)}.{b64(json.dumps(claims()).encode())}"
    token = f"{message}.{b64(hmac.new(JWT_SECRET.encode(), message.encode(), sha256).digest())}"
    found = verdict(verifier, token)
    if found != 401:
        assert found == Principal("me", Role.ADMIN)
        assert json.loads(header)["alg"] == "HS256", "in whatever spelling of JSON"


@pytest.mark.parametrize(
    "subject",
    [
        "\u202eadmin",
        "a\u200bb",
        "a\u0000b",
        "\ufeffme",
        "a\u2028b",
        "\ud800",
        "a\x1b[2Jb",
        "me\r\nX: y",
        "\U000e0001",
        "\x7f",
    ],
)
def test_a_subject_that_would_not_show_as_what_it_is_is_refused(verifier: Verifier, subject: str) -> None:
    """It goes into logs and onto screens of people who decide by it."""
    refusal(verifier, f"Bearer {signed(claims(sub=subject))}")


@pytest.mark.parametrize(
    "subject", ["é", "e\u0301", "日本", "\U0001f600", "\uff21\uff24", "\u0430dmin", "me@example.org", "system:x/y"]
)
def test_a_subject_of_any_language_is_taken_as_it_is(verifier: Verifier, subject: str) -> None:
    assert verifier.verify([f"Bearer {signed(claims(sub=subject))}"]).subject == subject


@pytest.mark.parametrize(
    "role", ["\u0430dmin", "Admin", "admin ", "admin\u200b", "\uff41dmin", "adm\u0131n", "admin\x00"]
)
def test_a_role_is_one_of_three_words_and_nothing_that_looks_like_them(verifier: Verifier, role: str) -> None:
    refusal(verifier, f"Bearer {signed(claims(role=role))}")


def test_a_claim_that_is_there_twice_widens_nothing(verifier: Verifier) -> None:
    """JSON leaves open which one counts. The signature is ours, so both are; what is taken must be one that is said."""
    body = json.dumps(claims(role="consumer")).encode()
    twice = body[:-1] + b', "role": "producer"}'
    assert verifier.verify([f"Bearer {signed(twice)}"]).role in {Role.CONSUMER, Role.PRODUCER}
    narrowed = body[:-1] + b', "topics": ["a"], "topics": null}'
    refusal(verifier, f"Bearer {signed(narrowed)}")


@pytest.mark.parametrize("pattern", ["[", "[!", "[]", "[z-a]", "(?i)x", "a" * 200, "*" * 200, "[a" * 60, "?" * 200])
def test_no_pattern_takes_long_or_means_a_regular_expression(verifier: Verifier, pattern: str) -> None:
    found = verifier.verify([f"Bearer {signed(claims(topics=[pattern] * 20))}"])
    assert found.allows("a" * 199 + "b") in {pattern == "*" * 200, pattern == "?" * 200}


@quietly
@given(st.binary(max_size=300) | st.text(max_size=300).map(lambda text: text.encode("utf-8", "surrogatepass")))
def test_whatever_is_sent_as_a_token_is_a_principal_or_a_401(sent: bytes) -> None:
    verifier = Verifier(settings_of(), lambda: NOW)
    assert verdict(verifier, sent.decode("latin-1")) == 401


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=10), inner, max_size=4),
    max_leaves=10,
)


@quietly
@given(st.dictionaries(st.sampled_from(["iss", "aud", "sub", "role", "exp", "nbf", "iat", "topics", "jti"]), JSON))
def test_whatever_claims_we_have_signed_they_make_a_principal_that_is_whole_or_a_401(changes: dict[str, Any]) -> None:
    verifier = Verifier(settings_of(), lambda: NOW)
    found = verdict(verifier, signed(json.dumps(claims(**changes)).encode()))
    if not isinstance(found, Principal):
        assert found == 401
        return
    assert isinstance(found.subject, str)
    assert found.role in set(Role)
    assert found.expires > NOW
    assert found.topics is None or all(isinstance(pattern, str) for pattern in found.topics)
    assert ("topics" in changes) == (found.topics is not None)


@quietly
@given(st.text(st.characters(codec="ascii", exclude_characters=".")), st.integers(0, 2), st.integers(0, 400))
def test_no_change_of_a_token_that_changes_what_it_says_is_taken(put: str, part: int, at: int) -> None:
    parts = signed(claims(role="consumer", topics=["a"])).split(".")
    verifier = Verifier(settings_of(), lambda: NOW)
    good = verifier.verify([f"Bearer {'.'.join(parts)}"])
    parts[part] = parts[part][:at] + put + parts[part][at:]
    # Base64 has several spellings of the same bytes; what they say is the same.
    assert verdict(verifier, ".".join(parts)) in (401, good)
