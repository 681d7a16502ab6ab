"""The manifests: by Kubernetes' own schemas, and in step with what a node does."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import kubernetes_validate  # type: ignore[import-untyped]
import pytest

from deployment.files import K8S, OPS, load, manifest, manifests
from openstream_runtime.actors.world import Limits
from openstream_runtime.node import MARGIN
from openstream_runtime.settings import Settings

#: The oldest Kubernetes whose preStop can sleep, and what is current.
VERSIONS = ("1.30", "1.37")
#: Of other people's operators: their schemas are not Kubernetes'.
FOREIGN = {"ServiceMonitor", "ScaledObject", "Cluster"}
DEPLOYMENT = manifest("Deployment")
POD: dict[str, Any] = DEPLOYMENT["spec"]["template"]["spec"]
(CONTAINER,) = POD["containers"]


def settings() -> Settings:
    """A node's settings as the ConfigMap and the image leave them."""
    (generator,) = load(K8S / "base" / "kustomization.yaml")["configMapGenerator"]
    literals = dict(line.split("=", 1) for line in generator["literals"])
    known = {str(field.validation_alias) for field in Settings.model_fields.values()}
    assert set(literals) <= known, "a node reads no such setting"
    secret = "q7Wm2Rt9Xc4Vb8Nz5Lk1Jh6Gf3Ds0PaYu"
    return Settings.from_env(
        literals | {"REDIS_URL": "redis://r", "DATABASE_URL": "postgresql://p", "AUTH_JWT_SECRET": secret}
    )


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("one", manifests(K8S), ids=lambda one: f"{one['kind']}-{one['metadata']['name']}")
def test_an_object_is_valid_for_kubernetes(one: dict[str, Any], version: str) -> None:
    if one["kind"] in FOREIGN:
        assert "." in one["apiVersion"].split("/")[0]
    else:
        kubernetes_validate.validate(one, version, strict=True)


@pytest.mark.parametrize("path", sorted(K8S.rglob("kustomization.yaml")), ids=lambda path: path.parent.name)
def test_a_kustomization_names_what_exists_and_leaves_nothing_out(path: Path) -> None:
    resources = load(path)["resources"]
    assert all((path.parent / name).exists() for name in resources)
    beside = {one.name for one in path.parent.glob("*.yaml")} - {path.name}
    assert beside == {name for name in resources if name.endswith(".yaml")}


def test_kubernetes_waits_longer_than_a_node_needs_to_stop() -> None:
    pause = CONTAINER["lifecycle"]["preStop"]["sleep"]["seconds"]
    stop = settings().grace_ms / 1000 + MARGIN
    assert POD["terminationGracePeriodSeconds"] > pause + stop + 5, "and some seconds for a busy machine"


def test_before_it_is_told_to_stop_a_node_serves_until_nobody_sends_it_anything() -> None:
    probe = CONTAINER["readinessProbe"]
    assert CONTAINER["lifecycle"]["preStop"]["sleep"]["seconds"] > probe["periodSeconds"]
    assert probe["httpGet"]["path"] == "/readyz"


def test_a_node_that_waits_for_its_backends_is_not_killed_for_it() -> None:
    startup = CONTAINER["startupProbe"]
    assert startup["periodSeconds"] * startup["failureThreshold"] > settings().startup_ms / 1000 + 20
    assert CONTAINER["livenessProbe"]["httpGet"]["path"] == "/livez", "a Redis that is away is no reason to restart"


def test_the_memory_a_node_may_use_holds_what_it_may_keep() -> None:
    limits = Limits()
    mailboxes, bodies, store = 4 * limits.mailbox_bytes, 4 * limits.mailbox_bytes, 64 << 20
    megabytes = int(CONTAINER["resources"]["limits"]["memory"].removesuffix("Mi"))
    assert megabytes << 20 > mailboxes + bodies + store + (150 << 20)


def test_a_node_can_do_nothing_but_serve() -> None:
    assert POD["securityContext"]["runAsNonRoot"] is True
    assert POD["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    assert CONTAINER["securityContext"] == {
        "allowPrivilegeEscalation": False, "readOnlyRootFilesystem": True, "capabilities": {"drop": ["ALL"]},
    }  # fmt: skip
    assert POD["automountServiceAccountToken"] is False
    assert f"USER {POD['securityContext']['runAsUser']}:" in (OPS / "Dockerfile").read_text()


def test_the_service_s_own_variables_do_not_shadow_the_settings() -> None:
    # A Service named openstream would set OPENSTREAM_PORT to tcp://… in every pod.
    assert POD["enableServiceLinks"] is False


def test_no_secret_stands_in_a_manifest() -> None:
    assert not [one for one in manifests(K8S) if one["kind"] == "Secret"]
    assert {"secretRef": {"name": "openstream-secrets"}} in CONTAINER["envFrom"]


def test_whoever_selects_pods_selects_the_nodes() -> None:
    labels = DEPLOYMENT["spec"]["template"]["metadata"]["labels"]
    selectors = [
        DEPLOYMENT["spec"]["selector"]["matchLabels"],
        manifest("Service")["spec"]["selector"],
        manifest("PodDisruptionBudget")["spec"]["selector"]["matchLabels"],
        manifest("NetworkPolicy")["spec"]["podSelector"]["matchLabels"],
        POD["topologySpreadConstraints"][0]["labelSelector"]["matchLabels"],
    ]
    assert all(selector == labels for selector in selectors)
    port = CONTAINER["ports"][0]["name"]
    assert manifest("Service")["spec"]["ports"][0]["targetPort"] == port
    ha = K8S / "overlays" / "ha"
    assert (
        manifest("ServiceMonitor", ha)["spec"]["endpoints"][0]["port"]
        == manifest("Service")["spec"]["ports"][0]["name"]
    )
    assert manifest("HorizontalPodAutoscaler", ha)["spec"]["scaleTargetRef"]["name"] == DEPLOYMENT["metadata"]["name"]


def test_the_scaler_s_query_is_never_nothing() -> None:
    (trigger,) = manifest("ScaledObject", K8S / "keda", "orders-workers")["spec"]["triggers"]
    # Nothing would be scaled as if it were everything.
    assert trigger["metadata"]["query"].endswith("or vector(0)")
