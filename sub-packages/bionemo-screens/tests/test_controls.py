"""Control cells are divided by their names alone, evenly, and each part has one role."""

import numpy as np
import pytest

from bionemo.screens.controls import ControlRole, ControlRoles, Controls, check_roles, control_parts
from bionemo.screens.errors import InputError

NAMES = [f"{barcode}-{batch}" for barcode in range(3000) for batch in "12"]


def test_a_cell_keeps_its_part_in_any_file():
    parts = control_parts(NAMES)
    assert (control_parts(NAMES[::-7]) == parts[::-7]).all()
    # Written down, because a prediction and its truth may be divided by two releases.
    assert control_parts(["AAACCTGAGAAACCAT-1", "AAACCTGAGAAACCAT-2", "zelle_ü", ""]).tolist() == [1, 0, 2, 0]


def test_parts_are_nearly_even():
    counts = np.bincount(control_parts(NAMES))
    assert counts.sum() == len(NAMES)
    assert counts.min() > 0.31 * len(NAMES)


@pytest.mark.parametrize("rotation", range(3))
def test_roles_are_disjoint_and_use_every_cell(rotation):
    roles = ControlRoles(rotation=rotation)
    assert (sum(roles.has(NAMES, role).astype(int) for role in ControlRole) == 1).all()


def test_three_rotations_use_every_cell_in_every_role():
    for role in ControlRole:
        assert (sum(ControlRoles(rotation=r).has(NAMES, role).astype(int) for r in range(3)) == 1).all()


def test_shared_controls_are_all_cells_in_every_role():
    assert all(ControlRoles(Controls.SHARED).has(NAMES, role).all() for role in ControlRole)


def test_roles_are_read_as_they_were_written():
    roles = ControlRoles(Controls.INDEPENDENT, 2)
    assert ControlRoles.from_dict(roles.to_dict(), "a file") == roles
    assert ControlRoles.from_dict(roles.to_dict() | {"rotation": np.int64(2)}, "an h5ad file") == roles


@pytest.mark.parametrize(
    ("table", "says"),
    [
        ({}, "does not say"),
        (None, "does not say"),
        ({"controls": "indepandent", "rotation": 0}, "independent"),
        ({"controls": "shared", "rotation": 3}, "0, 1 or 2"),
        ({"controls": "shared", "rotation": "1"}, "0, 1 or 2"),
    ],
)
def test_what_is_no_role_is_refused_by_name(table, says):
    with pytest.raises(InputError, match=says):
        ControlRoles.from_dict(table, "a file")


def test_the_smallest_part_is_named_and_an_empty_one_refused():
    full = {role: 5 for role in ControlRole}
    assert check_roles({"a": full, "b": full | {ControlRole.TRUTH: 2}}, "x.h5ad") == ("b", ControlRole.TRUTH, 2)
    with pytest.raises(InputError, match=r"The 10 control cells of context 'b' in x.h5ad are too few.*'truth'"):
        check_roles({"a": full, "b": full | {ControlRole.TRUTH: 0}}, "x.h5ad")
