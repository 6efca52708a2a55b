"""Move control cells by what the perturbation did in other contexts.

The shift of perturbation p in context k is that of a linear model of condition means,

    delta(k, p) = s_1 P e_p + s_2 J (e_p - P e_p) + s_3 K (e_p - P e_p) + b c_k + a (m - m_k) + c i(k, p),

where

- ``e_p`` is the effect of p in other contexts, beyond what their other perturbations have in common;
- P projects on the few directions that the effects of other perturbations share;
- of the rest, K takes the genes that are clear of their noise, and J shrinks the others by the part that is noise;
- ``c_k`` is what the perturbations of context k have in common;
- ``m_k`` is the mean of the control cells of k, and ``m`` the mean of that over contexts;
- ``i(k, p)`` is how perturbations that resemble p deviate in k from what they do elsewhere.

The six numbers are fitted to training conditions, each predicted from the others. Everything is on the scale of
:mod:`.fold_change`, and only the outcome is log1p again. The derivation is this project's own: see
docs/reference/model.md.

``means`` reads the store, ``evidence`` and ``interaction`` say what is known of a condition from elsewhere, ``fit``
finds the six numbers, ``apply`` is the module that a model keeps them in and that moves cells.

Axes: B sets, S cells, G genes, L training labels, K contexts.
"""
