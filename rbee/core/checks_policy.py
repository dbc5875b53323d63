# SPDX-License-Identifier: GPL-3.0-or-later
"""Checks of policies: of the models they are for, of their expressions, of labels that not every hive has. Pure."""

from __future__ import annotations

import re
from collections.abc import Iterator

from rbee.core.checks import Finding, Scene, unknown_name
from rbee.core.policy import FIELDS, OWN_TERMS
from rbee.core.spec import PolicySpec

_LABEL = re.compile(r"worker\.labels(?:\.([A-Za-z_]\w*)|\[\s*(['\"])([^'\"\\]*)\2\s*\])")


def check_policies(scene: Scene) -> Iterator[Finding]:
    names = sorted({*scene.known("models"), *scene.aliases})
    for name, policy in scene.spec.policies.items():
        for index, model in enumerate(policy.models):
            if model not in names and not scene.damaged("models") and not scene.damaged("aliases"):
                yield unknown_name(("policies", name, "models", index), "model or alias", model, names)
        if scene.damaged("policies", name):
            continue
        if all(getattr(policy, what) is None for what in FIELDS):
            summary, mend = f"The policy {name!r} does nothing.", "Say `filter`, `score` or `reject`."
            yield Finding(path=("policies", name), summary=summary, mend=mend, severity="warning", key=True)
        elif policy.reason is not None and policy.reject is None:
            summary = f"The policy {name!r} has a `reason` and rejects nothing."
            yield Finding(path=("policies", name, "reason"), summary=summary, mend="Add `reject`.", severity="warning")
        if policy.score is not None and name in OWN_TERMS:
            summary = f"{name!r} is the name of a term of routing's own."
            detail = "Each policy's score is shown under its name, beside those."
            yield Finding(path=("policies", name), summary=summary, detail=detail, mend="Rename the policy.", key=True)
        yield from _expressions(scene, name, policy)


def _expressions(scene: Scene, name: str, policy: PolicySpec) -> Iterator[Finding]:
    if scene.compile is None:
        return
    _, faults = scene.compile(name, policy)
    for fault in faults:
        yield Finding(
            path=("policies", name, fault.field),
            summary=fault.summary,
            detail=fault.detail,
            mend=fault.mend,
            within=fault.offset,
        )
    if not faults:
        for what in ("filter", "score"):
            yield from _labels(scene, name, what, getattr(policy, what) or "")


def _labels(scene: Scene, name: str, what: str, text: str) -> Iterator[Finding]:
    """A warning for each label that is looked up and that some hive does not have: the policy fails there."""
    told = set()
    for found in _LABEL.finditer(text):
        label = found[1] or found[3]
        asked = re.search(rf"has\(\s*worker\.labels\.{re.escape(label)}\s*\)|['\"]{re.escape(label)}['\"]\s+in\b", text)
        without = sorted(n for n, hive in scene.spec.hives.items() if label not in hive.labels)
        if label in told or asked is not None or not without or scene.damaged("hives"):
            continue
        told.add(label)
        yield Finding(
            path=("policies", name, what),
            summary=f"Not every hive has the label {label!r}: {', '.join(without[:3])} has none.",
            detail="With a worker there the policy fails, and is left out of the decision.",
            mend=f"Ask first: `has(worker.labels.{label}) && ...`."
            if found[1]
            else f"Ask first: `'{label}' in worker.labels && ...`.",
            severity="warning",
            within=found.start(),
        )
