"""The transport's equations, one concept a file, in plain torch.

Throughout: B sets, S cells, D latent, G genes; ``mask`` is bool [B, S], True where a cell is there. Every loss is
[B], a mean over the valid cells of each set, 0 for an empty set; :func:`bionemo.scale.flow.reduce.over_sets` joins
them.
"""
