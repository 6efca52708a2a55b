"""The weights of a trained model in one that knows more names."""

from collections.abc import Collection, Mapping

import numpy as np
import torch

from bionemo.scale.config.model import ModelConfig
from bionemo.scale.data.vocabulary import Vocabulary
from bionemo.scale.model.condition_encoder import EMBEDDING
from bionemo.scale.model.low_rank import DOSE, TABLES
from bionemo.scale.model.scale_model import ScaleModel
from bionemo.screens.errors import InputError

GENES = {
    "encoder.within_cell.project.weight": 1,
    "expression_decoder.to_genes.weight": 0,
    "expression_decoder.gene_bias": 0,
    "expression_decoder.rates.to_rates.weight": 0,
    "expression_decoder.rates.to_rates.bias": 0,
    "expression_decoder.rates.log_inverse_dispersion": 0,
    "gene_mean": 0,
    "evidence.gene_embedding": 0,
    "linear_start.parts": 2,
    **{f"linear_start.{name}": 1 for name in ("variance", "elsewhere", "common")},
}
"""Tensors with an axis of genes, and which. Behind the genes there may be columns that nothing uses."""
START_ROWS = {
    **dict.fromkeys(("parts", "variance", "elsewhere"), "start_rows"),
    **dict.fromkeys(("common", "known"), "contexts"),
}
"""Tables of the linear start -> the names of their rows; the last row is for any other name."""


def known_rows(old: Vocabulary, config: ModelConfig) -> dict[str, int]:
    """Rows of each table that a trained model has filled, and whether it takes doses; see :class:`LowRank`."""
    rows = {field: len(getattr(old, field)) for field in TABLES}
    if not config.learns_tokens:
        rows["perturbations"] = 1  # the control token alone is learned
    return {**rows, "dose": int(old.log_dose is not None)}


@torch.no_grad()
def take_over(trained: ScaleModel, model: ScaleModel, fitted: Mapping[str, torch.Tensor], shown: Vocabulary) -> None:
    """Give a model the weights of another, whose names it has among its own.

    Rows of new names stay as the model was made, which is how every row starts. The mean of each gene stays that of
    the trained model: the latents hang on it. A gene that the trained model has not seen starts with weights of zero:
    it says nothing to the encoder, and the network changes nothing of it. A linear start is refitted for the names
    that the new data show; the others keep their rows, but have no interaction: it stands in a basis of its own data.

    `fitted` are buffers as the new data say them: those of a linear start, whose rows are the names that the new data
    show, embeddings of all tokens, and means of genes.
    """
    old, new = trained.vocabulary, model.vocabulary
    place = {gene: row for row, gene in enumerate(old.genes)}
    order = torch.tensor([place.get(gene, -1) for gene in new.genes], device=trained.gene_mean.device)
    state, taken = model.state_dict(), trained.state_dict()
    known = known_rows(old, trained.scale)
    rows = {f"{name}.weight": known[field] for field, name in TABLES.items()}
    for name, values in state.items():
        if not isinstance(values, torch.Tensor) or (name.startswith(DOSE) and name not in taken):
            continue
        part, _, table = name.partition(".")
        if name == "linear_start.basis":
            values.zero_()[: len(fitted[name])] = fitted[name]
            continue
        if name == "linear_start.interaction":
            contexts = torch.tensor([new.contexts.index(context) for context in shown.contexts], dtype=torch.long)
            labels = torch.tensor([new.start_row_of[label] for label in shown.start_rows], dtype=torch.long)
            values.zero_()[contexts[:, None], labels, : fitted[name].shape[2]] = fitted[name][:-1, :-1].to(values)
            continue
        if name == EMBEDDING or (part == "linear_start" and table not in (*START_ROWS, "size")):
            values.copy_(fitted[name])
            continue
        before = taken[name]
        if name in GENES:
            before = _by_gene(before, order, GENES[name], values.shape[GENES[name]])
        if field := START_ROWS.get(table):
            names = tuple(getattr(vocabulary, field) for vocabulary in (old, shown, new))
            # What was measured is not replaced by what embeddings say of it.
            measured = set(old.start_labels) - set(shown.start_labels)
            values.copy_(_rows_by_name(before, fitted[name].to(before), *names, kept=measured))
        elif name in rows:
            values[: rows[name]] = before[: rows[name]]
        else:
            values.copy_(before)
    fresh = (order < 0).nonzero().flatten()
    if len(fresh):
        model.gene_mean[fresh] = fitted["gene_mean"].to(model.gene_mean)[fresh]


def _by_gene(tensor: torch.Tensor, order: torch.Tensor, axis: int, length: int) -> torch.Tensor:
    """Move the part of each gene to its new place; zeros for genes that have none, and behind the last."""
    moved = tensor.new_zeros([length if i == axis else size for i, size in enumerate(tensor.shape)])
    known = (order >= 0).nonzero().flatten()
    return moved.index_copy_(axis, known, tensor.index_select(axis, order[known]))


def _rows_by_name(
    before: torch.Tensor,
    fitted: torch.Tensor,
    old: tuple[str, ...],
    shown: tuple[str, ...],
    new: tuple[str, ...],
    kept: Collection[str],
) -> torch.Tensor:
    """Row of each new name: the one before if it is kept or the data do not show it, else the fitted; then the last."""
    fitted_row = {name: i for i, name in enumerate(shown) if name not in kept}
    row = {name: i for i, name in enumerate(old)}
    found = [fitted[fitted_row[name]] if name in fitted_row else before[row[name]] for name in new]
    return torch.stack([*found, fitted[-1]])


def joined_embeddings(old: Vocabulary, before: torch.Tensor, new: Vocabulary, table: torch.Tensor) -> torch.Tensor:
    """Embeddings of the extended vocabulary's tokens, float32 [tokens, E], on the scale the model was trained on.

    A file standardises each feature over its own names. The scale that the model knows follows from the names that it
    shares with the new file, exactly if their vectors are the same. From the trained model are the names `old` and the
    vectors `before`; `new` are the names of the model to be trained, and `table` what the new file has for them, zeros
    where it has nothing. An InputError says that vectors are of another length, or others for the same names.
    """
    if before.shape[1] != table.shape[1]:
        raise InputError(
            f"--embeddings holds vectors of {table.shape[1]} numbers, and the model was trained with "
            f"{before.shape[1]}: give vectors of the same kind."
        )
    old_row, rows = {name: row for row, name in enumerate(old.tokens)}, range(len(new.tokens))
    given = table.abs().sum(1) > 0
    shared = [row for row in rows if given[row] and new.tokens[row] in old_row and new.tokens[row] != new.control]
    then = before[[old_row[new.tokens[row]] for row in shared]].double().numpy()
    now = table[shared].double().numpy()
    if len(shared) < 2:
        raise InputError(
            "--embeddings has fewer than two of the perturbations that the model was trained with: give a file with "
            "their vectors too, from which the scale of the new ones follows."
        )
    spread = now.std(0)
    slope = np.where(spread > 1e-6, then.std(0) / np.where(spread > 1e-6, spread, 1.0), 1.0)
    shift = then.mean(0) - slope * now.mean(0)
    if np.abs(now * slope + shift - then).max() > 1e-3 * max(1.0, float(np.abs(then).max())):
        raise InputError(
            "--embeddings has other vectors for perturbations that the model was trained with: give the file it was "
            "trained with, with the new perturbations added."
        )
    joined = table.double() * torch.from_numpy(slope) + torch.from_numpy(shift)
    joined[~given] = 0.0
    for row in rows:
        if new.tokens[row] in old_row:
            joined[row] = before[old_row[new.tokens[row]]].double()
    return joined.float()
