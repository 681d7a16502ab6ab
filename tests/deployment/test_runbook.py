"""Whoever is woken finds a paragraph under the name of the alert, and a test that shows when it fires."""

from __future__ import annotations

import re

from deployment.files import OPS, README, alerts, load

_TOLD = ("Means", "Users feel", "Look at", "Do")


def paragraphs() -> dict[str, str]:
    parts = re.split(r"^### (OpenStream\w+)$", README.read_text(), flags=re.MULTILINE)
    return {
        name: re.split(r"^#", text, maxsplit=1, flags=re.MULTILINE)[0]
        for name, text in zip(parts[1::2], parts[2::2], strict=True)
    }


def test_every_alert_has_its_paragraph_and_every_paragraph_its_alert() -> None:
    assert set(paragraphs()) == set(alerts())


def test_a_paragraph_says_what_it_means_what_users_feel_what_to_look_at_and_what_to_do() -> None:
    for name, text in paragraphs().items():
        assert [word for word in _TOLD if f"**{word}**" not in text] == [], name
        assert len(text) > 200, name


def test_every_alert_is_shown_to_fire_and_to_stay_silent() -> None:
    asked = [one for test in load(OPS / "prometheus" / "rules_test.yml")["tests"] for one in test["alert_rule_test"]]
    assert {one["alertname"] for one in asked if one["exp_alerts"]} == set(alerts())
    silent = {one["alertname"] for one in asked if not one["exp_alerts"]}
    loud_at_once = {"OpenStreamNotScraped"}
    assert set(alerts()) - silent - loud_at_once == set()


def test_every_alert_says_how_bad_it_is_in_a_sentence() -> None:
    for name, rule in alerts().items():
        assert rule["labels"]["severity"] in {"warning", "critical"}, name
        assert len(rule["annotations"]["summary"]) > 15, name
