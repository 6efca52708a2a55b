"""Training conditions that are held out to choose with can still be predicted from those that are left."""

from bionemo.screens import Split
from bionemo.screens.inner_split import LEAST, MOST, inner_split

CONTEXTS = [f"line{i}" for i in range(4)]
OBSERVED = [(c, p) for c in CONTEXTS for p in ("ctrl", *(f"p{i}" for i in range(12)))]
SPLIT = Split(fewshot={"line0": {"test": frozenset({"p1", "p2"})}})


def marked(split: Split, observed) -> set:
    return {condition for condition in observed if split.part(*condition) == "val"}


def test_a_tenth_is_held_out_and_the_test_conditions_stay():
    made = inner_split(SPLIT, OBSERVED, "ctrl")
    held_out = marked(made, OBSERVED)
    assert len(held_out) == 5
    assert all(label != "ctrl" for _, label in held_out)
    assert made.part("line0", "p1") == made.part("line0", "p2") == "test"
    assert made == inner_split(SPLIT, OBSERVED[::-1], "ctrl")


def test_what_is_held_out_is_known_from_elsewhere():
    observed = [(c, p) for c in CONTEXTS for p in ("ctrl", "a", "b")]
    made = inner_split(Split(), observed, "ctrl")
    held_out = marked(made, observed)
    assert len(held_out) == LEAST
    training = {c for c in observed if made.part(*c) == "train" and c[1] != "ctrl"}
    for context, label in held_out:
        assert any(other == label for _, other in training)
        assert any(other == context for other, _ in training)


def test_one_perturbation_is_held_out_of_some_contexts_and_trains_in_two():
    observed = [(c, p) for c in CONTEXTS for p in ("ctrl", "drug")]
    made = inner_split(Split(), observed, "ctrl")
    assert len(marked(made, observed)) == 2
    assert inner_split(Split(), observed[:-2], "ctrl") is None


def test_nothing_is_held_out_where_nothing_could_be_predicted():
    assert inner_split(Split(), [(c, p) for c in "ab" for p in ("ctrl", "drug")], "ctrl") is None
    assert inner_split(Split(), [("a", p) for p in ("ctrl", *map(str, range(50)))], "ctrl") is None


def test_a_large_screen_holds_out_no_more_than_it_needs():
    observed = [(str(c), str(p)) for c in range(50) for p in range(100)]
    assert len(marked(inner_split(Split(), observed, "0"), observed)) == MOST
