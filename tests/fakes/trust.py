"""Trusted documents in memory."""

from dataclasses import dataclass, field, replace

from agent.core.bundle import TrustedDocuments
from tests.fakes.effects import Effect, at_once


@dataclass
class MemoryTrust:
    trusted: TrustedDocuments = field(default_factory=TrustedDocuments)
    provisioned: tuple[tuple[int, bytes], ...] = ()
    effect: Effect = at_once

    def documents(self) -> TrustedDocuments:
        return replace(self.trusted, roots=self.trusted.roots or self.provisioned)

    def remember(self, documents: TrustedDocuments) -> None:
        kept = replace(documents, roots=tuple(sorted(documents.roots)))
        self.effect(lambda: setattr(self, "trusted", kept))
