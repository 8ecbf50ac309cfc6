"""The parts of KubeRay's RayJob (ray.io/v1, KubeRay 1.6) and of Kubernetes' types that manifests use, as JSON schema.

Written after the Go types of both projects; unlike the API server, it refuses unknown fields.
"""

from typing import Any

NAME = {"type": "string", "pattern": "^[a-z0-9]([-a-z0-9]*[a-z0-9])?$", "maxLength": 63}
TEXTS = {"type": "object", "additionalProperties": {"type": "string"}}
COUNT = {"type": "integer", "minimum": 0, "maximum": 2**31 - 1}
QUANTITY = {"type": "string", "pattern": r"^\d+(\.\d+)?(m|Ki|Mi|Gi|Ti|k|M|G|T)?$"}
QUANTITIES = {"type": "object", "additionalProperties": QUANTITY}


def record(required: dict[str, Any], optional: dict[str, Any] | None = None) -> dict[str, Any]:
    """Return the schema of a mapping with just these fields."""
    properties = {**required, **(optional or {})}
    return {"type": "object", "properties": properties, "required": list(required), "additionalProperties": False}


def several(item: dict[str, Any], least: int = 0) -> dict[str, Any]:
    """Return the schema of a list."""
    return {"type": "array", "items": item, "minItems": least}


VOLUME = {
    "oneOf": [
        record({"name": NAME, "configMap": record({"name": NAME})}),
        record({"name": NAME, "emptyDir": record({}, {"medium": {"enum": ["", "Memory"]}, "sizeLimit": QUANTITY})}),
        record({"name": NAME, "persistentVolumeClaim": record({"claimName": NAME}, {"readOnly": {"type": "boolean"}})}),
    ]
}
MOUNT = record(
    {"name": NAME, "mountPath": {"type": "string", "pattern": "^/[^:]*$"}}, {"readOnly": {"type": "boolean"}}
)
SECRET_KEY = record({"secretKeyRef": record({"name": NAME, "key": {"type": "string"}})})
ENV = {
    "oneOf": [
        record({"name": {"type": "string"}, "value": {"type": "string"}}),
        record({"name": {"type": "string"}, "valueFrom": SECRET_KEY}),
    ]
}
CONTAINER = record(
    {"name": NAME, "image": {"type": "string", "minLength": 1}},
    {
        "resources": record({}, {"limits": QUANTITIES, "requests": QUANTITIES}),
        "volumeMounts": several(MOUNT),
        "env": several(ENV),
        "envFrom": several(record({"secretRef": record({"name": NAME})})),
    },
)
POD = record({"spec": record({"containers": several(CONTAINER, 1)}, {"volumes": several(VOLUME)})})
# KubeRay's own checks: labels stand beside the parameters, and are such as Kubernetes knows
START = {**TEXTS, "properties": {"labels": False}}
LABEL = r"[A-Za-z0-9]([-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?"
LABELS = {
    "type": "object",
    "patternProperties": {rf"^([a-z0-9][-a-z0-9.]*/)?{LABEL}$": {"type": "string", "pattern": f"^({LABEL})?$"}},
    "additionalProperties": False,
}
CLUSTER = record(
    {"headGroupSpec": record({"template": POD}, {"rayStartParams": START, "labels": LABELS})},
    {
        "rayVersion": {"type": "string", "pattern": r"^\d+\.\d+\.\d+$"},
        "authOptions": record({}, {"mode": {"enum": ["disabled", "token"]}, "secretName": NAME}),
        "enableInTreeAutoscaling": {"type": "boolean"},
        "autoscalerOptions": record({}, {"version": {"enum": ["v1", "v2"]}, "idleTimeoutSeconds": COUNT}),
        "workerGroupSpecs": several(
            record(
                {"groupName": NAME, "minReplicas": COUNT, "maxReplicas": COUNT, "template": POD},
                {"replicas": COUNT, "rayStartParams": START, "labels": LABELS},
            )
        ),
    },
)
RAYJOB = record(
    {
        "apiVersion": {"const": "ray.io/v1"},
        "kind": {"const": "RayJob"},
        "metadata": record({"name": {**NAME, "maxLength": 47}}, {"namespace": NAME}),
        "spec": record(
            {"rayClusterSpec": CLUSTER},
            {
                "entrypoint": {"type": "string"},
                "submissionMode": {"enum": ["K8sJobMode", "HTTPMode", "InteractiveMode", "SidecarMode"]},
                "runtimeEnvYAML": {"type": "string"},
                "backoffLimit": COUNT,
                "shutdownAfterJobFinishes": {"type": "boolean"},
                "ttlSecondsAfterFinished": COUNT,
                "activeDeadlineSeconds": {**COUNT, "minimum": 1},
            },
        ),
    }
)
CONFIG_MAP = record(
    {
        "apiVersion": {"const": "v1"},
        "kind": {"const": "ConfigMap"},
        "metadata": record({"name": NAME}, {"namespace": NAME}),
        "data": {**TEXTS, "propertyNames": {"pattern": "^[-._a-zA-Z0-9]+$"}},
    }
)
