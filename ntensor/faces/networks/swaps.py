"""Pictures of a batch that are decoded again with one code of another picture."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import torch
from torch import Tensor

from ntensor.faces.common.errors import ConfigurationError
from ntensor.faces.datasets.records import DIFFERS

# Codes, and the factor of each in which two pictures of one person may differ.
_CODES = {"z_exp": "expression", "z_p": "pose", "z_l": "light"}


class Swaps(NamedTuple):
    """`m` pictures that get one code of another picture of the same person.

    The two pictures differ only in the factor of that code, so decoding must give the other one.

    Attributes:
        rows, others (Tensor[m]): indices in the batch of the pictures, and of those that provide
            the code.
        differs (Tensor[m]): the factor, an index into `records.DIFFERS`; not 0.
    """

    rows: Tensor
    others: Tensor
    differs: Tensor

    def exchange(self, codes: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The pictures' codes (Tensor[m, k] by name), with one of them replaced."""
        exchanged = {name: code[self.rows] for name, code in codes.items()}
        for name, factor in _CODES.items():
            replaced = (self.differs == DIFFERS.index(factor)).unsqueeze(1)
            exchanged[name] = torch.where(replaced, codes[name][self.others], exchanged[name])
        return exchanged

    @property
    def still(self) -> Tensor:
        """Tensor[m]: bool, the pictures that keep their pose."""
        return self.differs != DIFFERS.index("pose")


def find_swaps(batch: Mapping[str, Tensor]) -> Swaps:
    """The swaps of a batch whose rows 2k and 2k + 1 are pairs, in both directions.

    Args:
        batch (mapping): with `identity` and `differs` (Tensor[n]), as in `records`. Rows whose
            label is 0 or unknown (-1), and rows that do not form a pair, are ignored.

    Raises:
        ConfigurationError: the data has no label `differs`.
    """
    if "differs" not in batch:
        raise ConfigurationError(
            "losses.swap needs pictures in pairs of one person, with the label differs that says "
            "in what they differ; the data has none (--losses.swap 0 trains without)"
        )
    identity, differs = (batch[name] for name in ("identity", "differs"))
    rows = torch.arange(len(identity) // 2 * 2, device=identity.device)
    others = rows ^ 1
    paired = (identity[rows] == identity[others]) & (differs[rows] == differs[others])
    rows = rows[paired & (identity[rows] >= 0) & (differs[rows] > 0)]
    return Swaps(rows, rows ^ 1, differs[rows])
