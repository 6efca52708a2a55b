"""Labels become the tokens of their perturbations, and doses."""

import math
from dataclasses import replace

from bionemo.scale.data.condition import token_table


def test_tokens_of_combinations_and_doses(vocabulary):
    known = replace(vocabulary, perturbations=("ctrl", "MYC", "TP53", "P+Q"), log_dose=(-1.0, 2.0))
    tokens, doses = token_table(["MYC", "TP53+MYC", "P+Q", "MYC+10+TP53+0.1", "MYC+X", "ctrl"], known)
    assert tokens.tolist() == [[1, -1], [2, 1], [3, -1], [1, 2], [-1, -1], [0, -1]]
    assert doses[3].tolist() == [1.0, 0.0]
    assert all(map(math.isnan, doses[[0, 1, 2, 4, 5]].flatten().tolist()))
    assert known.unknown("MYC+X+Y") == ["X", "Y"]
