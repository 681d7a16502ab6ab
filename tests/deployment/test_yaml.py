"""Every YAML file in ops/ is well-formed and tidy, and every JSON file parses."""

from __future__ import annotations

import json
import subprocess
import sys

import yaml

from deployment.files import OPS


def test_yaml_is_tidy() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "yamllint", "--strict", "-c", str(OPS / "yamllint.yaml"), str(OPS)],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert done.returncode == 0, done.stdout


def test_yaml_and_json_parse_and_hold_something() -> None:
    paths = [path for path in OPS.rglob("*") if path.suffix in {".yaml", ".yml", ".json"}]
    assert len(paths) > 20
    for path in paths:
        text = path.read_text()
        assert json.loads(text) if path.suffix == ".json" else list(yaml.safe_load_all(text)), path


def test_the_collector_s_pipelines_are_made_of_parts_that_are_declared() -> None:
    config = yaml.safe_load((OPS / "otel" / "collector.yaml").read_text())
    pipelines = config["service"]["pipelines"]
    assert set(pipelines) == {"traces", "logs"}
    for pipeline in pipelines.values():
        for part, names in pipeline.items():
            assert set(names) <= set(config[part]), part
    assert pipelines["traces"]["exporters"] == ["otlp/jaeger"]
