"""The equations of the transport stand here, one concept a file, in plain torch.

A tensor's name ends in its axes: B sets, S cells of a set, D latent width, G genes. ``mask_BS`` is bool, True where a
cell is there. Every loss is [B], a mean over the valid cells of each set and 0 for an empty set;
:func:`bionemo.scale.flow.reduce.over_sets` joins them. Expression is log1p of normalised counts.
"""
