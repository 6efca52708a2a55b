"""Run an exported SCALE model with torch and safetensors alone; this file is all it takes.

    import scale_portable
    model = scale_portable.load("exported")
    sources = model.is_input(names)                                  # [n] of control cells, by their names
    x0 = model.normalise(counts)                                     # [B, S, G], genes in the order of model.genes
    x1 = model.predict(x0, perturbation=["TP53"], context=["A549"])  # [B, S, G], log1p
    cells = model.round(x1, counts.sum(-1))                          # [B, S, G], whole counts of these library sizes

Shapes: B sets, S cells of a set, G genes, M gene modules of width d, D latent, K seeds. Weights have the names they
have in training; the layouts of the fused projections are Megatron-Core's.
"""

import difflib
import hashlib
import json
import math
import warnings
import zlib
from collections.abc import Sequence
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import nn

FORMAT = 5
EPSILON = 1e-5
PSEUDOCOUNT = 0.2
INTERACTION_RANK = 256
FEATURES = 8

_USED = {
    *("deep_sets", "condition_pooling", "perturbation_tokens", "prediction", "network_share", "start", "evidence"),
    *("hidden_size", "num_layers", "num_attention_heads", "num_query_groups", "ffn_hidden_size", "gene_modules"),
    *("gene_module_size", "encoder_layers", "condition_seeds", "source", "source_control_share", "solver_steps"),
    "head",
}
_TRAINING_ONLY = {
    *("token_dropout", "gene_dropout", "set_loss", "likelihood_weight", "shift_weight"),
    *("pairing", "start_fraction", "context_dropout", "endpoint_weight", "set_weight"),
    *("reconstruction_weight", "reconstruction_share"),
}


def load(folder: str | Path) -> "ScaleModel":
    """Read ``config.json`` and ``model.safetensors`` of an export.

    Raises
    ------
    ValueError
        The export is of another format, or of a model that this file does not know, or one of its files is damaged.
    """
    from safetensors.torch import load_file

    folder = Path(folder)
    checksums = json.loads((folder / "checksums.json").read_text())["files"]
    for name in {"config.json", "model.safetensors", *checksums}:
        with (folder / name).open("rb") as file:
            if hashlib.file_digest(file, "sha256").hexdigest() != checksums[name]:
                raise ValueError(f"{name} of {folder} is damaged, its checksum differs: export it again.")
    config = json.loads((folder / "config.json").read_text())
    if config["format"] != FORMAT:
        raise ValueError(
            f"{folder} is of format {config['format']}, not {FORMAT}: use the scale_portable.py inside it."
        )
    model = ScaleModel(config["model"], config["vocabulary"], config["labels"], config["control_roles"])
    model.load_state_dict(load_file(folder / "model.safetensors"))
    return model.eval()


def linear(inputs: int, outputs: int, bias: bool = False) -> nn.Linear:
    """Make a projection, without bias unless asked for."""
    return nn.Linear(inputs, outputs, bias=bias)


class Attention(nn.Module):
    """`Attention` is grouped-query attention in both directions; padding is not attended to."""

    def __init__(self, width: int, heads: int, groups: int):
        super().__init__()
        self.groups, self.queries, self.size = groups, heads // groups, width // heads
        self.linear_qkv = linear(width, (heads + 2 * groups) * self.size)
        self.linear_proj = linear(heads * self.size, width)

    def forward(self, h_BND: torch.Tensor, padding: torch.Tensor | None) -> torch.Tensor:
        # Group by group: its queries, its key, its value.
        grouped = self.linear_qkv(h_BND).unflatten(-1, (self.groups, self.queries + 2, self.size))
        q, k, v = grouped.split([self.queries, 1, 1], dim=3)
        q, k, v = (part.flatten(2, 3).transpose(1, 2) for part in (q, k, v))
        k, v = (part.repeat_interleave(self.queries, dim=1) for part in (k, v))
        attended = F.scaled_dot_product_attention(q, k, v, attn_mask=None if padding is None else ~padding)
        return self.linear_proj(attended.transpose(1, 2).flatten(2))


class FeedForward(nn.Module):
    """`FeedForward` is SwiGLU."""

    def __init__(self, width: int, inner: int):
        super().__init__()
        self.linear_fc1 = linear(width, 2 * inner)
        self.linear_fc2 = linear(inner, width)

    def forward(self, h: torch.Tensor) -> torch.Tensor:
        gate, value = self.linear_fc1(h).chunk(2, dim=-1)
        return self.linear_fc2(F.silu(gate) * value)


class Modulation(nn.Module):
    """`Modulation` makes shift, scale and gate of adaLN-zero: [B, D] to ``parts`` tensors [B, 1, D]."""

    def __init__(self, width: int, parts: int):
        super().__init__()
        self.parts = parts
        self.linear = linear(width, parts * width)

    def forward(self, condition_BD: torch.Tensor) -> tuple[torch.Tensor, ...]:
        return self.linear(F.silu(condition_BD)).unsqueeze(1).chunk(self.parts, dim=-1)


class Block(nn.Module):
    """`Block` does ``h <- h + gate * F(norm(h) * (1 + scale) + shift)``, for attention and feed-forward."""

    def __init__(self, width: int, inner: int, heads: int, groups: int, conditioned: bool):
        super().__init__()
        self.modulation = Modulation(width, 6) if conditioned else None
        self.attention_norm = nn.RMSNorm(width, eps=EPSILON)
        self.attention = Attention(width, heads, groups)
        self.mlp_norm = nn.RMSNorm(width, eps=EPSILON)
        self.mlp = FeedForward(width, inner)

    def forward(self, h_BND, padding=None, condition_BD=None) -> torch.Tensor:
        if self.modulation is None:
            h_BND = h_BND + self.attention(self.attention_norm(h_BND), padding)
            return h_BND + self.mlp(self.mlp_norm(h_BND))
        shift_a, scale_a, gate_a, shift_f, scale_f, gate_f = self.modulation(condition_BD)
        h_BND = h_BND + gate_a * self.attention(self.attention_norm(h_BND) * (1 + scale_a) + shift_a, padding)
        return h_BND + gate_f * self.mlp(self.mlp_norm(h_BND) * (1 + scale_f) + shift_f)


class Stack(nn.Module):
    """`Stack` is blocks in a row and a last norm."""

    def __init__(self, config: dict, width: int, layers: int, conditioned: bool):
        super().__init__()
        inner = max(1, config["ffn_hidden_size"] * width // config["hidden_size"])
        self.layers = layers
        for number in range(1, layers + 1):
            block = Block(width, inner, config["num_attention_heads"], config["num_query_groups"], conditioned)
            self.add_module(f"block_{number}", block)
        self.norm = nn.RMSNorm(width, eps=EPSILON)

    def forward(self, h_BND, padding=None, condition_BD=None) -> torch.Tensor:
        for number in range(1, self.layers + 1):
            h_BND = self.get_submodule(f"block_{number}")(h_BND, padding, condition_BD)
        return self.norm(h_BND)


class GeneModuleEncoder(nn.Module):
    """`GeneModuleEncoder` works within a cell: G genes become M tokens, which attend and are joined to D."""

    def __init__(self, config: dict, genes: int):
        super().__init__()
        self.shape = (config["gene_modules"], config["gene_module_size"])
        joined = self.shape[0] * self.shape[1]
        self.project = linear(genes, joined)
        self.module_embedding = nn.Parameter(torch.empty(self.shape))
        self.blocks = Stack(config, self.shape[1], config["encoder_layers"], conditioned=False)
        self.join = linear(joined, config["hidden_size"])

    def forward(self, x_BSG: torch.Tensor) -> torch.Tensor:
        tokens_CMd = self.project(x_BSG).flatten(0, 1).unflatten(-1, self.shape) + self.module_embedding
        return self.join(self.blocks(tokens_CMd).flatten(1)).unflatten(0, x_BSG.shape[:2])


class DeepSets(nn.Module):
    """`DeepSets` works across cells: ``h_i <- h_i + rho(mean_j phi(h_j))`` over the valid cells."""

    def __init__(self, width: int):
        super().__init__()
        self.phi = linear(width, width)
        self.rho = linear(width, width)

    def forward(self, h_BSD: torch.Tensor, mask_BS: torch.Tensor) -> torch.Tensor:
        valid = mask_BS.unsqueeze(-1).to(h_BSD.dtype)
        summary = (F.silu(self.phi(h_BSD)) * valid).sum(1, keepdim=True) / valid.sum(1, keepdim=True).clamp(min=1)
        return h_BSD + self.rho(summary)


class CellEncoder(nn.Module):
    """`CellEncoder` has both levels."""

    def __init__(self, config: dict, genes: int):
        super().__init__()
        self.within_cell = GeneModuleEncoder(config, genes)
        self.across_cells = DeepSets(config["hidden_size"]) if config["deep_sets"] else None

    def forward(self, x_BSG: torch.Tensor, mask_BS: torch.Tensor) -> torch.Tensor:
        h_BSD = self.within_cell(x_BSG)
        return h_BSD if self.across_cells is None else self.across_cells(h_BSD, mask_BS)


class PerturbationEncoder(nn.Module):
    """`PerturbationEncoder` makes tokens of perturbations and doses, learned, from embeddings, or both."""

    def __init__(self, config: dict, vocabulary: dict):
        super().__init__()
        width, kind = config["hidden_size"], config["perturbation_tokens"]
        learns = kind != "embedding" and config["evidence"] == "off"
        self.learned_rows = len(vocabulary["perturbations"]) if learns else 1
        self.learned = nn.Embedding(self.learned_rows, width)
        self.project = None
        if kind != "learned":
            rows = len(vocabulary["perturbations"]) + len(vocabulary["embedded"])
            self.embedding = nn.Buffer(torch.zeros(rows, vocabulary["embedding_size"]))
            self.project = linear(vocabulary["embedding_size"], width)
        self.dose = linear(3, width) if vocabulary["log_dose"] else None

    def forward(self, rows_BP: torch.Tensor, dose_BP: torch.Tensor) -> torch.Tensor:
        learned = (rows_BP < self.learned_rows).unsqueeze(-1)
        rows_BP = rows_BP.clamp(min=0)
        tokens_BPD = self.learned(rows_BP.clamp(max=self.learned_rows - 1)) * learned
        if self.project is not None:
            tokens_BPD = tokens_BPD + self.project(self.embedding[rows_BP])
        if self.dose is None:
            return tokens_BPD
        u_BP = dose_BP.nan_to_num()
        powers = torch.stack([torch.ones_like(u_BP), u_BP, u_BP.square()], dim=-1) * ~dose_BP.isnan().unsqueeze(-1)
        return tokens_BPD + self.dose(powers)


class ConditionEncoder(nn.Module):
    """`ConditionEncoder` pools tokens of perturbations, context and batch over those that are there (row -1 is not)."""

    def __init__(self, config: dict, vocabulary: dict):
        super().__init__()
        self.by_attention = config["condition_pooling"] == "seed_attention"
        width, seeds = config["hidden_size"], config["condition_seeds"] if self.by_attention else 1
        self.perturbation = PerturbationEncoder(config, vocabulary)
        self.context = nn.Embedding(max(len(vocabulary["contexts"]), 1), width)
        self.batch = nn.Embedding(max(len(vocabulary["batches"]), 1), width)
        if self.by_attention:
            self.seeds = nn.Parameter(torch.empty(seeds, width))
            self.key = linear(width, width)
        self.value = linear(width, width)
        self.join = linear(seeds * width, width)

    def forward(self, perturbation_BP, dose_BP, context_B, batch_B) -> torch.Tensor:
        others = (self.context, context_B[:, None]), (self.batch, batch_B[:, None])
        tokens_BTD = torch.cat(
            [self.perturbation(perturbation_BP, dose_BP), *(table(rows.clamp(min=0)) for table, rows in others)], dim=1
        )
        there_BT = torch.cat([perturbation_BP, context_B[:, None], batch_B[:, None]], dim=1) >= 0
        if self.by_attention:
            scores_BKT = self.seeds @ self.key(tokens_BTD).transpose(1, 2) / math.sqrt(tokens_BTD.shape[-1])
            weights_BKT = scores_BKT.masked_fill(~there_BT[:, None], float("-inf")).softmax(-1)
        else:
            weights_BKT = (there_BT / there_BT.sum(1, keepdim=True))[:, None]
        return self.join((weights_BKT @ self.value(tokens_BTD)).flatten(1))


class TimeEmbedding(nn.Module):
    """`TimeEmbedding` is sinusoids of t, then two layers."""

    def __init__(self, width: int):
        super().__init__()
        self.frequencies = width // 2
        self.inner = linear(2 * self.frequencies, width, bias=True)
        self.outer = linear(width, width, bias=True)

    def forward(self, t_B: torch.Tensor) -> torch.Tensor:
        steps = torch.arange(self.frequencies, device=t_B.device, dtype=torch.float32)
        angles = 1000.0 * t_B.float()[:, None] * torch.exp(-math.log(10_000.0) * steps / self.frequencies)
        return self.outer(F.silu(self.inner(torch.cat([angles.cos(), angles.sin()], dim=-1))))


class Transport(nn.Module):
    """`Transport` is ``g(z_t, t, C, z0)``: ``z0`` plus a change, or ``z_t`` plus a velocity times the time left."""

    def __init__(self, config: dict):
        super().__init__()
        width = config["hidden_size"]
        self.velocity = config["prediction"] == "velocity"
        self.time = TimeEmbedding(width)
        self.enter = linear(2 * width, width)
        self.blocks = Stack(config, width, config["num_layers"], conditioned=True)
        self.modulation = Modulation(width, 2)
        self.leave = linear(width, width)

    def forward(self, z_t_BSD, t_B, condition_BD, z0_BSD, mask_BS) -> torch.Tensor:
        condition_BD = condition_BD + self.time(t_B)
        # An empty set may attend to itself: a row that is all masked would turn into NaN.
        padding = (~mask_BS & mask_BS.any(1, keepdim=True))[:, None, None, :]
        h_BSD = self.blocks(self.enter(torch.cat([z_t_BSD, z0_BSD], dim=-1)), padding, condition_BD)
        shift, scale = self.modulation(condition_BD)
        change_BSD = self.leave(h_BSD * (1 + scale) + shift)
        return z_t_BSD + (1 - t_B)[:, None, None] * change_BSD if self.velocity else z0_BSD + change_BSD


class Decoder(nn.Module):
    """`Decoder` turns latents into centred log1p expression; columns beyond G only fill up the projection."""

    def __init__(self, config: dict, genes: int, columns_multiple: int = 64):
        super().__init__()
        width = config["hidden_size"]
        self.genes = genes
        self.norm = nn.RMSNorm(width, eps=EPSILON)
        self.mlp = FeedForward(width, config["ffn_hidden_size"])
        self.to_genes = linear(width, math.ceil(genes / columns_multiple) * columns_multiple)
        self.gene_bias = nn.Parameter(torch.zeros(genes))

    def forward(self, z_BSD: torch.Tensor) -> torch.Tensor:
        return self.to_genes(z_BSD + self.mlp(self.norm(z_BSD)))[..., : self.genes] + self.gene_bias


Rows = list[list[tuple[int, float]]]
"""For each perturbation of a label, the rows of a table that its effect is made of, and their weights."""


def weighted(table: torch.Tensor, rows: Rows) -> torch.Tensor:
    """Return the sum of weighted rows of a table; 0 without rows."""
    return sum((weight * table[row] for part in rows for row, weight in part), torch.zeros_like(table[0]))


class LinearStart(nn.Module):
    """`LinearStart` shifts control cells by what a perturbation did elsewhere; L training labels, K contexts."""

    def __init__(self, vocabulary: dict):
        super().__init__()
        contexts, genes = len(vocabulary["contexts"]), len(vocabulary["genes"])
        trained = len(vocabulary["start_labels"])
        labels, rank = trained + len(vocabulary["embedded"]), max(1, min(INTERACTION_RANK, genes, contexts * trained))
        # The last row of each table is for a perturbation, or a context, that nothing is known of.
        self.parts = nn.Buffer(torch.zeros(labels + 1, 3, genes))
        self.variance = nn.Buffer(torch.zeros(labels + 1, genes))
        self.elsewhere = nn.Buffer(torch.zeros(labels + 1, genes))
        self.common = nn.Buffer(torch.zeros(contexts + 1, genes))
        self.known = nn.Buffer(torch.zeros(contexts + 1))
        self.middle = nn.Buffer(torch.zeros(genes))
        self.unit = nn.Buffer(torch.zeros(genes))
        self.shares = nn.Buffer(torch.zeros(6))
        self.interaction = nn.Buffer(torch.zeros(contexts + 1, labels + 1, rank))
        self.basis = nn.Buffer(torch.zeros(rank, genes))
        self.directions = nn.Buffer(torch.zeros(8, genes))
        self.size = nn.Buffer(torch.zeros(FEATURES))

    def features(self, rows: list[Rows], context_B, control_mean_BG) -> torch.Tensor:
        """Return what is known of the condition of each set from elsewhere, [B, F, G]; no rows, no effect."""
        # Tables hold logarithms of normalised counts plus a pseudocount, where a shift is a fold change.
        level_BG, found = torch.log(torch.expm1(control_mean_BG) + PSEUDOCOUNT), []
        for parts, context, level in zip(rows, context_B, level_BG, strict=True):
            common = self.common[context]
            if not self.known[context]:
                common = weighted(self.elsewhere, parts) / max(len(parts), 1)
            interaction = weighted(self.interaction[context], parts) @ self.basis
            others = [common, self.middle - level, interaction, weighted(self.variance, parts).sqrt()]
            effect = torch.cat([weighted(self.parts, parts), torch.stack(others)]) * bool(parts)
            found.append(torch.cat([effect, level[None]]) * self.unit)
        return torch.stack(found)

    def move(self, x_BSG, features_BFG, share) -> torch.Tensor:
        """Return cells whose mean moves by a share of the shift: up by adding, down by a factor, which keeps zeros."""
        shift_BG = torch.einsum("bfg,f->bg", features_BFG[:, :6], self.shares)
        before_BG, after_BG = (
            torch.log1p((torch.exp(level_BG / self.unit) - PSEUDOCOUNT).clamp(min=0))
            for level_BG in (features_BFG[:, -1], features_BFG[:, -1] + shift_BG)
        )
        delta_BG = after_BG - before_BG
        down_BG = (delta_BG / before_BG.clamp(min=1e-6)).clamp(-1, 0)
        return x_BSG * (1 + share * down_BG)[:, None] + share * delta_BG.clamp(min=0)[:, None]


class EvidenceHead(nn.Module):
    """`EvidenceHead` makes numbers of genes of what is known of a condition; a cell's latent weighs them."""

    def __init__(self, width: int, genes: int, hidden: int = 32, numbers: int = 8, columns_multiple: int = 64):
        super().__init__()
        self.genes = genes
        self.gene_embedding = nn.Parameter(torch.empty(math.ceil(genes / columns_multiple) * columns_multiple, hidden))
        self.enter, self.leave = linear(FEATURES, hidden), linear(hidden + FEATURES, numbers + 1)
        self.weigh, self.summary = linear(width, numbers), linear(hidden, width)

    def forward(self, features_BFG: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Return numbers [B, K + 1, G], and a summary [B, D]."""
        features_BGF = features_BFG.transpose(1, 2)
        hidden_BGH = F.silu(self.enter(features_BGF) + self.gene_embedding[: self.genes])
        known_BGK = self.leave(torch.cat([hidden_BGH, features_BGF], dim=-1))
        return known_BGK.transpose(1, 2), self.summary(hidden_BGH.mean(1))

    def change(self, z0_BSD: torch.Tensor, known_BKG: torch.Tensor) -> torch.Tensor:
        """Return what is added to cells, [B, S, G]."""
        weights_BSK = self.weigh(F.rms_norm(z0_BSD, z0_BSD.shape[-1:]))
        return F.pad(weights_BSK, (1, 0), value=1.0) @ known_BKG


class ScaleModel(nn.Module):
    """`ScaleModel` is the exported model.

    Attributes
    ----------
    genes, perturbations, contexts, batches
        Names, in the order of the columns and tables.
    target_sum
        Counts a cell is normalised to before log1p.
    """

    def __init__(self, config: dict, vocabulary: dict, labels: dict | None = None, control_roles: dict | None = None):
        super().__init__()
        unknown = sorted(config.keys() - _USED - _TRAINING_ONLY)
        if unknown:
            raise ValueError(f"this file does not know model.{unknown[0]}={config[unknown[0]]!r}: use a newer one.")
        if config["head"] not in ("residual", "regression"):
            raise ValueError(f"this file does not know model.head={config['head']!r}: use a newer one.")
        self.config, self.labels = config, labels or {}
        self.control_roles = control_roles or {"controls": "independent", "rotation": 0}
        self.genes, self.perturbations = vocabulary["genes"], [*vocabulary["perturbations"], *vocabulary["embedded"]]
        self.separator, self.log_dose = vocabulary["separator"], vocabulary["log_dose"]
        self.control = vocabulary["control"]
        self.contexts, self.batches = vocabulary["contexts"], vocabulary["batches"]
        self.target_sum, self.kind = vocabulary["target_sum"], vocabulary["kind"]
        self.ceiling = math.log1p(self.target_sum) if self.kind == "counts" else math.inf
        shares = {"control": 1.0, "gaussian": 0.0, "mixed": config["source_control_share"]}
        self.control_share = shares[config["source"]]
        self.encoder = CellEncoder(config, len(self.genes))
        self.condition_encoder = ConditionEncoder(config, vocabulary)
        self.transport = Transport(config)
        self.expression_decoder = Decoder(config, len(self.genes))
        self.gene_mean = nn.Buffer(torch.zeros(len(self.genes)))
        self.network_share = nn.Buffer(torch.ones(1))
        self.linear_start = LinearStart(vocabulary) if config["start"] == "linear" else None
        told = config["evidence"] == "on"
        self.evidence = EvidenceHead(config["hidden_size"], len(self.genes)) if told else None

    def is_input(self, names: Sequence[str]) -> torch.Tensor:
        """Tell which control cells predictions start from, by their names in the AnnData file; bool [n].

        The others are what a prediction can be scored against, without the noise of its own control cells; a model
        that was trained with shared control cells starts from all.
        """
        parts = torch.tensor([zlib.crc32(name.encode()) % 3 for name in names])
        return (parts == self.control_roles["rotation"]) | (self.control_roles["controls"] == "shared")

    def normalise(self, counts: torch.Tensor, library: torch.Tensor | None = None) -> torch.Tensor:
        """Return log1p of counts [..., G] brought to ``target_sum``; ``library`` [...] counts all genes of the cell."""
        library = counts.sum(-1) if library is None else library
        return torch.log1p(counts * (self.target_sum / library.clamp(min=1)).unsqueeze(-1))

    def forward(self, control, mask, perturbation, dose, context, batch, key, evidence=None) -> torch.Tensor:
        """Predict from rows of the tables, int64 [B, P] and [B], -1 where there is no token; see :meth:`predict`."""
        answer = self._answer(control, mask, perturbation, dose, context, batch, key, evidence)
        return answer.clamp(0, self.ceiling)

    def _answer(self, x0_BSG, mask_BS, perturbation, dose, context, batch, key, evidence) -> torch.Tensor:
        """Predict before values are brought into their range, which would hide what is infinite."""
        z0_BSD = self.encoder(x0_BSG - self.gene_mean, mask_BS)
        condition_BD, known_BKG = self.condition_encoder(perturbation, dose, context, batch), None
        if self.evidence is not None and self.linear_start is not None:
            known_BKG, summary_BD = self.evidence(evidence / self.linear_start.size[:, None])
            condition_BD = condition_BD + summary_BD
        noise_BSD = torch.stack([self._noise(int(k), z0_BSD.shape[1:]) for k in key]).to(z0_BSD.device)
        size_BS = torch.where(mask_BS, z0_BSD.square().mean(2), 0.0)
        scale_B11 = (size_BS.sum(1) / mask_BS.sum(1).clamp(min=1)).sqrt()[:, None, None]
        z_BSD = self.control_share * z0_BSD + (1 - self.control_share**2) ** 0.5 * scale_B11 * noise_BSD
        steps = self.config["solver_steps"]
        for step in range(steps):
            t_B = torch.full((len(z_BSD),), step / steps, device=z_BSD.device)
            z_BSD = z_BSD + (self.transport(z_BSD, t_B, condition_BD, z0_BSD, mask_BS) - z_BSD) / (steps - step)
        x1_BSG = self.expression_decoder(z_BSD)
        if self.config["head"] != "residual":
            return x1_BSG + self.gene_mean
        change_BSG = x1_BSG - self.expression_decoder(z0_BSD)
        if self.evidence is not None and known_BKG is not None:
            change_BSG = change_BSG + self.evidence.change(z0_BSD, known_BKG)
        if self.linear_start is not None:
            x0_BSG = self.linear_start.move(x0_BSG, evidence, 1 - self.network_share if self.evidence is None else 1.0)
        return x0_BSG + self.network_share * change_BSG

    @torch.no_grad()
    def predict(
        self,
        control: torch.Tensor,
        *,
        perturbation: list[str],
        dose: list[list[float]] | None = None,
        context: list[str] | None = None,
        batch: list[str] | None = None,
        mask: torch.Tensor | None = None,
        control_mean: torch.Tensor | None = None,
        key: list[int] | None = None,
    ) -> torch.Tensor:
        """Predict perturbed populations, a cell for each control cell.

        Parameters
        ----------
        control
            log1p [B, S, G], genes in the order of ``genes``.
        perturbation, context, batch
            A name for each set; a combination is joined by ``separator``, and a label of training is taken as it is. A
            context or batch that training has not shown is known by its control cells alone, which a warning says.
        dose
            Of each perturbation of each set, in the unit of training; that of the label, or none, if not given.
        mask
            bool [B, S], True where a cell is there; all of them if not given.
        control_mean
            Mean of all control cells of each set's context, log1p [B, G]; that of the set's cells if not given.
        key
            Where the noise of each set comes from; 0, 1, 2, ... if not given.

        Returns
        -------
        torch.Tensor
            log1p [B, S, G]; :meth:`round` makes whole counts of it.

        Raises
        ------
        ValueError
            A perturbation was never seen in training, doses are given and training had none, or the answer is not
            finite.
        """
        sets, device = control.shape[0], control.device
        if dose is not None and self.log_dose is None:
            raise ValueError("doses are given, and training had none.")
        mean, scale = self.log_dose or (0.0, 1.0)
        known = [self._tokens(label) for label in perturbation]
        rows = torch.full((sets, max(len(tokens) for tokens, _ in known)), -1)
        doses = torch.full(rows.shape, torch.nan)
        for row, (tokens, of_label) in enumerate(known):
            given = of_label if dose is None else [(math.log10(value) - mean) / scale for value in dose[row]]
            rows[row, : len(tokens)], doses[row, : len(tokens)] = torch.tensor(tokens), torch.tensor(given)
        others = [
            torch.tensor(self._table_rows(kind, names, given or [None] * sets), device=device)
            for kind, names, given in (("context", self.contexts, context), ("batch", self.batches, batch))
        ]
        mask = torch.ones(control.shape[:2], dtype=torch.bool, device=device) if mask is None else mask
        evidence = None
        if self.linear_start is not None:
            if control_mean is None:
                control_mean = (control * mask[..., None]).sum(1) / mask.sum(1, keepdim=True).clamp(min=1)
            parts = [
                self.start_rows(label, None if dose is None else of_set)
                for label, of_set in zip(perturbation, doses.tolist(), strict=True)
            ]
            evidence = self.linear_start.features(parts, others[0], control_mean)
        keys = list(range(sets)) if key is None else key
        answer = self._answer(control, mask, rows.to(device), doses.to(device), others[0], others[1], keys, evidence)
        for label, x_SG in zip(perturbation, answer, strict=True):
            if not x_SG.isfinite().all():
                raise ValueError(f"what the model predicts of {label!r} is not finite: its weights are damaged.")
        return answer.clamp(0, self.ceiling)

    def round(self, x1: torch.Tensor, library: torch.Tensor, seed: int = 0) -> torch.Tensor:
        """Round predicted cells to what whole counts of their libraries can show, keeping the mean of every gene.

        A value between two neighbours of a cell's count grid becomes one of them, the upper with the probability that
        leaves its expectation as it was; the cells of a set share their chance (systematic sampling). The package does
        the same, in groups of cells with like libraries.

        Parameters
        ----------
        x1
            log1p [B, S, G].
        library
            Counts of each cell over all of its genes, [B, S].
        seed
            Of the chance.

        Returns
        -------
        torch.Tensor
            log1p [B, S, G] of whole counts normalised to ``target_sum``; zeros are as frequent as in cells.
        """
        unit_BS1, x1_BSG = (self.target_sum / library.clamp(min=1))[..., None].double(), x1.double()
        whole_BSG = torch.floor(torch.expm1(x1_BSG) / unit_BS1 + 1e-6)
        lower_BSG, upper_BSG = torch.log1p(whole_BSG * unit_BS1), torch.log1p((whole_BSG + 1) * unit_BS1)
        up_BSG = ((x1_BSG - lower_BSG) / (upper_BSG - lower_BSG)).clamp(0, 1)
        generator = torch.Generator().manual_seed(seed)
        chance_B1G = torch.rand(x1.shape[0], 1, x1.shape[2], generator=generator).to(x1_BSG)
        passed_BSG = torch.floor(chance_B1G + up_BSG.cumsum(1))
        is_up_BSG = passed_BSG > F.pad(passed_BSG, (0, 0, 1, 0))[:, :-1]
        return torch.where(is_up_BSG, upper_BSG, lower_BSG).to(x1.dtype)

    def start_rows(self, label: str, doses: Sequence[float] | None = None) -> Rows:
        """Name the rows of the linear start that a label is made of: its own, or those of its parts alone.

        With ``doses``, the standardised log10 dose of each part, the effect of a part is linear in it between the doses
        of training, and that of the nearest dose beyond them.
        """
        if label in self.labels and doses is None:
            return self.labels[label]["rows"]
        parts = [self.perturbations[token] for token in self._tokens(label)[0]]
        parts = [name for name in parts if name != self.control]
        if doses is None:
            return [self.labels[name]["rows"][0] for name in parts]
        return [self._at_dose(name, dose) for name, dose in zip(parts, doses, strict=False)]

    def _at_dose(self, name: str, dose: float) -> list[tuple[int, float]]:
        """Return the rows of a perturbation at a standardised dose."""
        token, series = self.perturbations.index(name), []
        for known in self.labels.values():
            if known["tokens"] == [token] and known["doses"] != [None] and known["rows"]:
                series.append((known["doses"][0], known["rows"][0][0][0]))
        series.sort()
        if math.isnan(dose) or not series:
            return self.labels[name]["rows"][0]
        if dose <= series[0][0] or dose >= series[-1][0]:
            return [(series[0 if dose <= series[0][0] else -1][1], 1.0)]
        above = next(i for i, (known, _) in enumerate(series) if known > dose)
        (low, under), (high, over) = series[above - 1], series[above]
        share = (dose - low) / (high - low)
        return [(under, 1 - share), (over, share)]

    def _tokens(self, label: str) -> tuple[list[int], list[float]]:
        """Return the rows of the tokens of a label, and their doses, NaN where there is none."""
        if label in self.labels:
            return self.labels[label]["tokens"], [math.nan if d is None else d for d in self.labels[label]["doses"]]
        names = [label] if label in self.perturbations else self._parts(label)
        for name in names:
            if name not in self.perturbations:
                near = difflib.get_close_matches(name, self.perturbations, 1)
                meant = f": did you mean {near[0]!r}?" if near else ""
                raise ValueError(f"perturbation {name!r} was never seen in training{meant}")
        return [self.perturbations.index(name) for name in names], [math.nan] * len(names)

    @staticmethod
    def _table_rows(kind: str, table: list[str], names: Sequence[str | None]) -> list[int]:
        """Return the rows of names in a table, -1 where there is none."""
        unknown = sorted({name for name in names if name is not None and name not in table})
        if unknown:
            warnings.warn(f"{kind} {', '.join(map(repr, unknown))} was not seen in training.", stacklevel=3)
        return [table.index(name) if name in table else -1 for name in names]

    def _parts(self, label: str) -> list[str]:
        parts = [part.strip() for part in label.split(self.separator)] if self.separator else [label]
        return [part for part in parts if part != self.control] or [self.control]

    @staticmethod
    def _noise(key: int, shape: torch.Size) -> torch.Tensor:
        generator = torch.Generator().manual_seed(key)
        torch.rand(3, generator=generator)  # what training draws first
        return torch.randn(shape, generator=generator)
