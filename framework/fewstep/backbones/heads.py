"""Heads: from rows of hidden states to logits.

Shapes: N rows, D width, V output vocabulary, S input states.
"""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional as F

from fewstep.backbones.base import TokenSpace


class TiedHead(nn.Module):
    """Logits by the embedding itself (arXiv 1608.05859), with a bias of its own; [MASK] has a row that is not read.

    Args:
        owner: the module that holds the embedding [S, D], where it is trained and kept.
        name: what the embedding is called there.
        vocab_size: V, at most S.
    """

    def __init__(self, owner: nn.Module, name: str, vocab_size: int) -> None:
        super().__init__()
        # In a tuple it is no submodule of this one: it has one name in the state, and copies follow their own.
        self._owner, self._name = (owner,), name
        self.bias = nn.Parameter(owner.get_parameter(name).new_zeros(vocab_size))

    @property
    def weight(self) -> Tensor:
        """[V, D]."""
        table: Tensor = getattr(self._owner[0], self._name)
        return table[: len(self.bias)]

    def forward(self, hidden: Tensor) -> Tensor:
        return F.linear(hidden, self.weight, self.bias)


def symbol_head(owner: nn.Module, name: str, tokens: TokenSpace, width: int, *, tied: bool) -> nn.Module:
    """A linear head [N, D] -> [N, V]; tied to the embedding if asked to, and if it is symbols that it scores."""
    if tied and tokens.vocab_size in (tokens.num_states, tokens.num_states - 1):
        return TiedHead(owner, name, tokens.vocab_size)
    return nn.Linear(width, tokens.vocab_size)
