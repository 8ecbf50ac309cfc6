"""Examples for the API's documentation."""

from __future__ import annotations

from typing import Any

ID = "digits_cnn-1f2e3d4c5b"
SPEC = {"space": "digits_cnn", "trials": 20, "sampler": "noise", "seed": 0, "workers": 2}
SPEC_YAML = """\
space: digits_cnn
trials: 20
sampler: noise
workers: 2
parameters:
  momentum: {min: 0.0, max: 0.95}
fixed:
  epochs: 4
"""
SWEEP: dict[str, Any] = {
    "id": ID, "name": ID, "owner": "anna", "shared": False, "space": "digits_cnn", "sampler": "noise",
    "objective": "merged_loss", "state": "running", "reason": "trials are starting", "priority": 0, "position": None,
    "created": "2026-01-01T12:00:00Z", "started": "2026-01-01T12:00:02Z", "ended": None,
    "progress": {"budget": 20, "done": 7, "failed": 0, "repeats": 1, "trials": 7, "outcomes": {"ok": 7}},
    "cost": {"device_seconds": 41.5, "gpu_hours": 0.0, "wall_seconds": 24.1},
    "regime": {"objective": "merged_loss", "noise": "paper", "unit": "1", "optimum": 0.021, "low": 0.011,
               "high": 0.043, "message": "the best noise is inside the tried range"},
    "best": {"digest": "0f3a2b1c4d5e6f70", "config": "a1b2c3d4e5f60718", "objective": "merged_loss", "value": 0.101,
             "repeats": 1, "posterior_mean": 0.104, "posterior_sd": None, "undecided": "",
             "noise": 0.023, "knobs": {"learning_rate": 0.05, "batch_size": 64}},
    "warnings": [], "run": ID, "url": f"/v1/sweeps/{ID}", "page": f"/?sweep={ID}",
}  # fmt: skip
DETAIL: dict[str, Any] = {
    **SWEEP,
    "spec": SPEC,
    "transitions": [{"state": "queued", "time": "2026-01-01T12:00:00Z", "cause": "sent"}],
}
PAGE: dict[str, Any] = {"items": [SWEEP], "next": None}
ESTIMATE: dict[str, Any] = {
    "configurations": 20, "trials": 20, "seconds_per_trial": 5.9, "device_seconds": 118.0, "wall_seconds": 59.0,
    "based_on": ["digits_cnn-9a8b7c6d5e"],
    "message": "20 configurations, 20 trials of 5.9 s of device time each, as in 1 earlier sweep of digits_cnn",
}  # fmt: skip
SUBMITTED: dict[str, Any] = {"id": ID, "url": f"/v1/sweeps/{ID}", "state": "queued", "estimate": ESTIMATE}
TRIALS: dict[str, Any] = {
    "items": [{"digest": "0f3a2b1c4d5e6f70", "number": 0, "outcome": "ok", "merged_loss_val": 0.101}],
    "next": "1",
    "more": False,
}
ADVICE: list[dict[str, Any]] = [
    {
        "objective": "merged_loss",
        "message": "the best noise is inside the tried range",
        "recommendations": [{"batch_size": 256, "learning_rate": 0.11, "momentum": 0.9, "weight_decay": 0.0}],
        "text": "batch size 256: learning rate 0.11",
    }
]
SETTINGS: dict[str, Any] = {
    "settings": [
        {
            "params": {"learning_rate": 0.11, "batch_size": 256, "momentum": 0.9, "weight_decay": 0.0001},
            "fixed": ["batch_size"],
            "objective": "merged_loss",
            "predicted": {"mean": 0.29, "sd": 0.006},
            "learning_rate_low": 0.07,
            "learning_rate_high": 0.16,
        }
    ],
    "text": "Use these settings",
    "formats": {"yaml": "space: digits_cnn", "python": "settings = {}", "torch": "import torch"},
}
BEST: dict[str, Any] = {"digest": "0f3a2b1c4d5e6f70", "config": "a1b2c3d4e5f60718", "merged_loss_val": 0.101}
EXTENSION: dict[str, Any] = {"id": ID, "trials": 6, "message": "6 trials at 3 noises", "dry_run": True}
EVENTS: dict[str, str] = {
    "id": "1767268800001",
    "event": "trial",
    "data": f'{{"id":1767268800001,"sweep":"{ID}","type":"trial","time":"2026-01-01T12:00:09Z","data":{{}}}}',
}
ME: dict[str, Any] = {
    "user": "anna",
    "role": "submitter",
    "quota": {"running": 2, "waiting": 100, "trials": 1000, "gpu_hours": None},
    "used": {"running": 1, "waiting": 3, "trials": 120, "gpu_hours": 0.0, "due_trials": 200, "due_gpu_hours": 0.0},
}
TOKENS: list[dict[str, Any]] = [
    {"id": "0a1b2c3d4e5f", "user": "anna", "role": "submitter", "created": "2026-01-01T11:00:00Z", "expires": None,
     "revoked": None, "quota": {"running": 2, "waiting": 100, "trials": 1000, "gpu_hours": None}}
]  # fmt: skip
AUDIT: dict[str, Any] = {
    "items": [{"id": 7, "time": "2026-01-01T12:00:00Z", "user": "anna", "action": "submit_sweep", "target": ID,
               "detail": "", "status": 202}],
    "next": None,
}  # fmt: skip


def example_response(
    example: Any, description: str, status: int = 200, **headers: str
) -> dict[int | str, dict[str, Any]]:
    """Return the OpenAPI response of a route that returns JSON.

    Args:
        example: An example of the JSON.
        description: Description of the response.
        status: HTTP status.
        headers: Name (with underscores) -> description of additional headers.
    """
    response: dict[str, Any] = {"description": description, "content": {"application/json": {"example": example}}}
    if headers:
        named = {name.replace("_", "-"): text for name, text in headers.items()}
        response["headers"] = {n: {"schema": {"type": "string"}, "description": t} for n, t in named.items()}
    return {status: response}
