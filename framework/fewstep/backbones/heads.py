"""Heads: from rows of hidden states to logits.

Shapes: N rows, D width, V output vocabulary, S input states.
"""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional as F

from fewstep.backbones.base import TokenSpace


class TiedHead(nn.Module):
    """Logits by the embedding's weight (arXiv 1608.05859), with a separate bias; the row of [MASK] is not read.

    Args:
        owner: the module that holds the embedding [S, D] as its parameter.
        name: name of that parameter.
        vocab_size: V, at most S.
    """

    def __init__(self, owner: nn.Module, name: str, vocab_size: int) -> None:
        super().__init__()
        # A tuple hides the owner from nn.Module: the weight keeps one name in the state dict, and a deep copy of the
        # network refers to its own embedding.
        self._owner, self._name = (owner,), name
        self.bias = nn.Parameter(owner.get_parameter(name).new_zeros(vocab_size))

    @property
    def weight(self) -> Tensor:
        """[V, D]."""
        table: Tensor = getattr(self._owner[0], self._name)
        return table[: len(self.bias)]

    def affine(self) -> tuple[Tensor, Tensor]:
        """Weight and bias of this affine map (`Prediction.affine`)."""
        return self.weight, self.bias

    def forward(self, hidden: Tensor) -> Tensor:
        return F.linear(hidden, self.weight, self.bias)


def symbol_head(owner: nn.Module, name: str, tokens: TokenSpace, width: int, *, tied: bool) -> nn.Module:
    """A head [N, D] -> [N, V]: tied to the embedding if `tied` and if it scores the input symbols, else linear."""
    if tied and tokens.vocab_size in (tokens.num_states, tokens.num_states - 1):
        return TiedHead(owner, name, tokens.vocab_size)
    return nn.Linear(width, tokens.vocab_size)
