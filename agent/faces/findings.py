"""What a doctor found, for people and for programs."""

import json
from collections.abc import Sequence

from agent.core.finding import Finding, worst


def findings_text(findings: Sequence[Finding]) -> str:
    """Say what was found, a line each, with what to do about it."""
    width = max(len(finding.topic) for finding in findings)
    lines = []
    for finding in findings:
        lines.append(f"{finding.level:4}  {finding.topic:{width}}  {finding.message}")
        if finding.hint:
            lines.append(f"{'':4}  {'':{width}}  -> {finding.hint}")
    return "\n".join(lines)


def findings_json(findings: Sequence[Finding]) -> str:
    """Say what was found as one JSON object on one line."""
    return json.dumps(
        {
            "level": worst(tuple(findings)),
            "findings": [
                {
                    "level": finding.level,
                    "topic": finding.topic,
                    "message": finding.message,
                    "hint": finding.hint,
                }
                for finding in findings
            ],
        }
    )
