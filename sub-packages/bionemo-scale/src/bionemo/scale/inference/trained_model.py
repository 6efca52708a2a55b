"""Hold a trained model in memory, where it predicts from AnnData to AnnData as often as it is asked."""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from enum import StrEnum
from importlib.metadata import version
from pathlib import Path
from typing import Any, TypeVar

import anndata as ad

from bionemo.scale.config.model import mixture
from bionemo.scale.config.prediction import MissingGenes, Part
from bionemo.scale.inference.controls import read_controls
from bionemo.scale.inference.generate import Generator
from bionemo.scale.inference.in_context import told
from bionemo.scale.inference.inputs import Cells, Columns
from bionemo.scale.inference.output import condition_table
from bionemo.scale.inference.populations import (
    Population,
    check_known,
    doses_beyond,
    populations_like,
    populations_of,
    shards,
    unseen_contexts,
)
from bionemo.scale.inference.progress import shown
from bionemo.scale.inference.request import Request
from bionemo.scale.inference.starts import Pools
from bionemo.scale.memory import keep_freed_memory
from bionemo.scale.model.scale_model import ScaleModel
from bionemo.scale.runs.directory import RunRecord
from bionemo.scale.runs.load import find_checkpoint, load_model, torch_device
from bionemo.screens import Split
from bionemo.screens.controls import ControlRoles, Controls
from bionemo.screens.errors import InputError, choices

Choice = TypeVar("Choice", bound=StrEnum)
_log = logging.getLogger("bionemo.scale")


@dataclass(frozen=True)
class TrainedModel:
    """A `TrainedModel` is the weights of one checkpoint, and what they mean; :meth:`load` opens one."""

    network: ScaleModel
    """The model is in evaluation mode, on its device."""
    record: RunRecord
    """What the run was started with."""
    checkpoint: Path
    """As it was named."""
    step: int
    """Training steps behind the weights."""
    observed: Mapping[str, Sequence[str]] = field(default_factory=dict)
    """Context -> new perturbations that the model was told of by observed cells of that context."""

    @classmethod
    def load(cls, checkpoint: str | Path, device: str = "auto") -> "TrainedModel":
        """Open a run; see :func:`bionemo.scale.load`."""
        run, chosen = find_checkpoint(checkpoint)
        place = torch_device(device)
        if place.type == "cpu":
            keep_freed_memory()
        network, step = load_model(run, place, chosen)
        return cls(network, run.read(), Path(checkpoint), step)

    @property
    def genes(self) -> tuple[str, ...]:
        """Return the genes of a predicted cell, in their order."""
        return self.network.vocabulary.genes

    @property
    def contexts(self) -> tuple[str, ...]:
        """Return the contexts whose perturbed cells trained the model; others it knows by their control cells."""
        return self.network.vocabulary.contexts

    @property
    def perturbations(self) -> tuple[str, ...]:
        """Return the perturbations that the model can predict, alone or joined to combinations."""
        return self.network.vocabulary.tokens[1:]

    @property
    def network_share(self) -> float:
        """Return the share of the network in a prediction, 0 to 1, as the run chose it."""
        return float(self.network.network_share)

    def summary(self, network_share: float | None = None) -> str:
        """Say in a few words what a prediction is made of, with the run's share of the network or another."""
        return f"step {self.step}, {self._made_of(self.network_share if network_share is None else network_share)}"

    def predict(
        self,
        controls: Cells,
        *,
        perturbations: str | Sequence[str] = (),
        like: Cells | None = None,
        part: str | None = None,
        progress: bool = False,
        **start: Any,
    ) -> ad.AnnData:
        """Predict populations of perturbed cells.

        Parameters
        ----------
        controls, start
            The control cells to start from, and how to read them; see :meth:`start_from`.
        perturbations
            What to apply. Without ``like``, to every (context, batch) of the control cells, one cell for each control
            cell to start from; with it, a selection of its conditions.
        like
            Observed cells, to predict as many of each (context, perturbation, batch).
        part
            Which conditions of ``like``: ``test`` (if not given), ``val``, ``train``, as the training run's split had
            them, or ``all``.
        progress
            Whether to show a bar.

        Returns
        -------
        anndata.AnnData
            ``X``: log1p expression, CSR float32 [cells, genes of the model], on the count grid of the control cells.
            ``obs``: for each cell the row of the control cell that it started from, named in ``control_cell``, under
            its predicted perturbation. ``uns["prediction"]`` says what produced it, ``uns["training_conditions"]``
            every (context, perturbation) that trained the model.

        Raises
        ------
        InputError
            The arguments do not fit each other or the model, a label or a gene is missing or unknown, or the model's
            output is not finite.
        """
        started = self.start_from(controls, **start)
        return started.predict(perturbations=perturbations, like=like, part=part, progress=progress)

    def start_from(
        self,
        controls: Cells,
        *,
        evidence: Cells | None = None,
        perturbation_key: str | None = None,
        context_key: str | None = None,
        batch_key: str | None = None,
        control: str | None = None,
        layer: str | None = None,
        missing_genes: str | None = None,
        control_roles: str | None = None,
        network_share: float | None = None,
        seed: int = 0,
    ) -> "Start":
        """Find control cells, to predict from them again and again.

        What is read and encoded for one call of :meth:`Start.predict` is kept for the next, so the control cells must
        stay as they are.

        Parameters
        ----------
        controls
            AnnData, an h5ad file, a zarr directory or a store, with the control cells: counts, or log1p where the model
            was trained on that.
        evidence
            Observed cells of new perturbations, with control cells of their contexts. The model then predicts these
            perturbations in other contexts, without training.
        perturbation_key, context_key, batch_key
            Columns of ``obs``, of ``controls``, ``like`` and ``evidence``; those of the training data if not given.
        control
            Label of the control cells; that of the training data if not given.
        layer
            Layer of ``controls`` to read; ``X`` if not given.
        missing_genes
            ``zero`` or ``mean`` (of the training cells): what stands in for genes of the model that ``controls`` lacks,
            a tenth of them at most. They are refused if not given.
        control_roles
            ``independent``: populations start from the control cells of role `input` alone, see
            :mod:`bionemo.screens.controls`, so that others are left to score against. ``shared``: from all of them.
            As the training run had it if not given.
        network_share
            Share of the network, 0 to 1, in place of the run's: 0 is the linear start alone, 1 the whole network.
        seed
            Of the choice of control cells, the model's noise and the rounding; not negative.

        Raises
        ------
        InputError
            As :meth:`predict` does.
        """
        if seed < 0:
            raise InputError(f"--seed {seed} is negative: give 0 or more.")
        columns = self._columns(perturbation_key, context_key, batch_key, control)
        reading: dict[str, Any] = {
            "roles": self._roles(control_roles),
            "layer": layer,
            "missing_genes": None if missing_genes is None else _chosen(MissingGenes, "--missing-genes", missing_genes),
            "gene_mean_G": self.network.gene_mean.float().cpu().numpy(),
        }
        model = self
        if evidence is not None:
            shown_cells = read_controls(evidence, columns, self.network.vocabulary, **reading)
            network, observed = told(self.network, shown_cells, columns)
            model = replace(self, network=network, observed=observed)
        share = model._share(network_share)
        cells = read_controls(controls, columns, model.network.vocabulary, **reading)
        pools, size = Pools(cells), self.record.training["cells_per_set"]
        generator = Generator(model.network, pools, cells_per_set=size, seed=seed, network_share=share)
        facts = {
            "tool": f"bionemo-scale {version('bionemo-scale')}",
            "perturbation_key": columns.perturbation,
            "context_key": columns.context,
            "batch_key": columns.batch or "",
            "control": columns.control,
            **self._facts(),
            "evidence": "none" if evidence is None else _evidence_of(evidence, model.observed),
            "network_share": share,
            "made_of": model._made_of(share),
            "controls": cells.roles.to_dict(),
            "controls_file": "" if isinstance(controls, ad.AnnData) else str(controls),
            "layer": layer or "",
            "seed": seed,
            "missing_genes": str(missing_genes or "") if cells.filled_genes else "",
            "filled_genes": ", ".join(cells.filled_genes),
        }
        return Start(model, columns, pools, generator, facts)

    def _made_of(self, share: float) -> str:
        """Return what predictions with a share of the network are made of, in a few words."""
        config = self.network.scale
        return mixture(config.start, config.evidence, share)

    def _share(self, asked: float | None) -> float:
        """Return the share of the network that is asked for, or that of the run."""
        if asked is None:
            return self.network_share
        if self.network.linear_start is None:
            raise InputError(f"--network-share {asked}: the model has no linear start to mix with; leave it out.")
        if self.observed and self.network.evidence is None and asked:
            raise InputError(
                f"--network-share {asked}: the network was trained with model.evidence=off, so --evidence tells the "
                f"linear start alone; leave the share out."
            )
        if not 0 <= asked <= 1:
            raise InputError(f"--network-share {asked} is outside [0, 1].")
        return float(asked)

    def _roles(self, chosen: str | None) -> ControlRoles:
        """Return the run's roles of control cells, independent or shared as it was chosen."""
        roles = self.record.roles()
        return roles if chosen is None else replace(roles, controls=_chosen(Controls, "--control-roles", chosen))

    def _columns(self, perturbation: str | None, context: str | None, batch: str | None, control: str | None):
        trained = self.record.store["keys"]
        if batch is not None and not trained["batch"]:
            raise InputError(f"--batch-key {batch}: the model was trained without batches; leave it out.")
        return Columns(
            perturbation=perturbation or trained["perturbation"],
            context=context or trained["context"],
            batch=batch or trained["batch"],
            control=control or self.network.vocabulary.control,
        )

    def _facts(self) -> dict[str, Any]:
        """Say what the model is, what it was trained on and how its genes were chosen; empty where the run did not."""
        vocabulary, genes = self.network.vocabulary, self.record.store.get("genes") or {}
        return {
            "checkpoint": str(self.checkpoint),
            "step": self.step,
            "start": str(self.network.scale.start),
            "training_seed": self.record.training["seed"],
            "target_sum": vocabulary.target_sum,
            "input_kind": vocabulary.kind,
            "split_hash": Split.from_dict(self.record.split).hash,
            "hvg_from": genes.get("hvg_from") or "",
            "hvg_split": genes.get("hvg_split") or "",
        }


@dataclass(frozen=True)
class Start:
    """A `Start` is control cells that a model answers from as often as it is asked; :meth:`TrainedModel.start_from`."""

    model: TrainedModel
    columns: Columns
    pools: Pools
    generator: Generator
    facts: Mapping[str, Any]
    """What ``uns["prediction"]`` says of every prediction."""

    def predict(
        self,
        *,
        perturbations: str | Sequence[str] = (),
        like: Cells | None = None,
        part: str | None = None,
        progress: bool = False,
    ) -> ad.AnnData:
        """Predict populations of perturbed cells, as :meth:`TrainedModel.predict` does."""
        request = self.request(perturbations=perturbations, like=like, part=part)
        with shown(sum(request.sizes), progress) as report:
            return request.whole(report)

    def request(
        self, *, perturbations: str | Sequence[str] = (), like: Cells | None = None, part: str | None = None
    ) -> Request:
        """Check what :meth:`predict` is asked for, and predict nothing yet."""
        if like is None and part is not None:
            raise InputError(f"--part {part} chooses among the conditions of --like, which was not given: give both.")
        populations = self._populations(perturbations, like, part or "test")
        trained = self.model.record.trained
        if trained is not None:  # what a prediction has seen, it may not be scored on
            trained = {
                context: [*trained.get(context, ()), *self.model.observed.get(context, ())]
                for context in sorted({*trained, *self.model.observed})
            }
        return Request(
            generator=self.generator,
            cells=self.pools.cells,
            columns=self.columns,
            genes=self.model.genes,
            shards=shards(populations),
            facts={**self.facts, "part": str(part or "test") if like is not None else ""},
            trained=None if trained is None else condition_table(trained),
        )

    def _populations(self, perturbations: str | Sequence[str], like: Cells | None, part: str) -> list[Population]:
        """Choose what to predict, and say what a user may not expect of it."""
        asked = [perturbations] if isinstance(perturbations, str) else list(dict.fromkeys(perturbations))
        pools, vocabulary = self.pools, self.model.network.vocabulary
        if like is None:
            chosen = populations_of(asked, pools.cells)
        else:
            _chosen(Part, "--part", part)
            chosen = populations_like(like, self.columns, Split.from_dict(self.model.record.split), part, asked)
        if not chosen:
            raise InputError("nothing to predict: name --perturbations, or give an observed file with --like.")
        check_known(chosen, vocabulary)
        seen = sorted({p.names[:2] for p in chosen if p.perturbation in self.model.observed.get(p.context, ())})
        if seen:
            context, perturbation = seen[0]
            raise InputError(
                f"--evidence shows perturbation {perturbation!r} in context {context!r}, which is asked for: "
                f"predict it in other contexts, with --controls or --like that leave this one out."
            )
        pools.check(chosen)
        of_model = *unseen_contexts(chosen, vocabulary), *doses_beyond(chosen, vocabulary)
        for notice in (*pools.cells.notices, *pools.notices(chosen), *of_model):
            _log.warning("note: %s", notice)
        return chosen


def _evidence_of(cells: Cells, observed: Mapping[str, Sequence[str]]) -> dict[str, str]:
    """Say where evidence came from, and what it showed."""
    file = "AnnData in memory" if isinstance(cells, ad.AnnData) else str(cells)
    shown = [f"{', '.join(labels)} in {context}" for context, labels in sorted(observed.items())]
    return {"file": file, "observed": "; ".join(shown)}


def _chosen(kind: type[Choice], option: str, name: str) -> Choice:
    """Return the member of an enumeration that an option names; an InputError where there is none."""
    try:
        return kind(name)
    except ValueError:
        raise InputError(f"{option} {name!r} is not known: {choices(name, kind)}.") from None
