"""The numbers by which a model multiplies what passes through it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypedDict


class Scaled(TypedDict):
    """Fields of ModelConfig."""

    norm_eps: float
    query_scale: float
    embedding_scale: float
    logit_scale: float


@dataclass(frozen=True)
class Scales:
    """Of embeddings, of attention's scores, of what a branch adds to the residual stream, and the
    divisor of logits. All are positive.
    """

    embedding: float
    scores: float
    branch: float = 1.0
    logits_divisor: float = 1.0

    def fields(self, eps: float) -> Scaled:
        """What a config says of them, and of `eps`, which norms of the residual stream add.

        x + s·b is s·(x/s + b), and a norm gives the same for x/s as for x where its eps is divided
        by s². So the stream is kept divided by s: embeddings are, and branches are added as they
        are. Only norms of the stream may use that eps.
        """
        return {
            "norm_eps": eps / self.branch**2,
            "query_scale": self.scores,
            "embedding_scale": self.embedding / self.branch,
            "logit_scale": 1 / self.logits_divisor,
        }
