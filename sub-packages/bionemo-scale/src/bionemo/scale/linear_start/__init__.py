"""Move control cells by what the perturbation did in other contexts.

The shift of perturbation p in context k is that of a linear model of condition means,

    delta(k, p) = s_1 P e_p + s_2 J (e_p - P e_p) + s_3 K (e_p - P e_p) + b c_k + a (m - m_k) + c i(k, p),

with ``e_p`` the effect of p in other contexts beyond what their other perturbations have in common, P the projection on
the few directions that the effects of other perturbations share, K what is clear of its noise gene by gene and J the
rest, shrunk by what of it is noise, ``c_k`` what the perturbations of context k have in common, ``m_k`` the mean of its
control cells, ``m`` that mean over contexts, and ``i(k, p)`` how perturbations that resemble p deviate in k from what
they do elsewhere. The six numbers are fitted to training conditions, each predicted from the others; ``a`` is
regression towards the mean of contexts. All of it is on the scale of :mod:`.fold_change`, and only
its outcome is log1p again. The derivation is this project's own; docs/reference/model.md has it.

``means`` reads the store, ``evidence`` and ``interaction`` say what is known of a condition from elsewhere, ``fit``
finds the six numbers, ``apply`` is the module that a model keeps them in and that moves cells.

Axes: B sets, S cells, G genes, L training labels, K contexts.
"""
