"""Held-out perturbations that are drawn by a protocol's numbers."""

import pytest

from bionemo.screens import InputError
from bionemo.screens.drawn_split import draw_split
from bionemo.screens.protocol import find_protocol
from bionemo.screens.split import Split

TAHOE, PARSE, REPLOGLE = map(find_protocol, ("tahoe100m", "parse10m-pbmc", "replogle-nadig"))


def observed(protocol, contexts, perturbations):
    return [(c, p) for c in contexts for p in (protocol.control, *perturbations)]


SCREENS = {
    # As many perturbations as the published screens have; two of the lines of Tahoe are not held out.
    "tahoe100m": observed(
        TAHOE,
        [*TAHOE.held_out.labels, "CVCL_0023", "CVCL_0069"],
        [f"[('drug \"{i}\"', {dose}, 'uM')]" for i in range(379) for dose in (0.05, 0.5, 5.0)],
    ),
    "parse10m-pbmc": observed(
        PARSE,
        [f"Donor{d}+{kind}" for d in range(1, 13) for kind in ("CD14+ Mono", "B Naive")],
        [f"IL-{i}" for i in range(90)],
    ),
    "replogle-nadig": observed(REPLOGLE, ["HepG2", "jurkat", "k562", "rpe1"], [f"GENE{i}" for i in range(2000)]),
}


@pytest.mark.parametrize("name", SCREENS)
def test_a_drawn_split_holds_out_what_the_protocol_says(name, tmp_path):
    protocol, conditions = find_protocol(name), SCREENS[name]
    (tmp_path / "split.toml").write_text(draw_split(protocol, conditions).to_toml(name, "drawn"), "utf-8")
    split = Split.from_toml(tmp_path / "split.toml")
    for labels in split.fewshot.values():
        sizes = (protocol.held_out.val, protocol.held_out.test)
        assert all(n is None or len(labels[part]) == n for part, n in zip(("val", "test"), sizes, strict=True))
        assert labels["test"]
    contexts = {context for context, _ in conditions}
    assert set(split.fewshot) == {context for context in contexts if protocol.holds_out(context)} < contexts
    assert draw_split(protocol, conditions[::-1]).hash == split.hash, "nothing but names decides"


def test_a_context_that_lacks_a_perturbation_holds_out_the_others():
    donors = [c for c in SCREENS["parse10m-pbmc"] if c[0] != "Donor1+B Naive"]
    rare = [("Donor1+B Naive", name) for name in ("PBS", "IL-1", "IL-2")]
    split = draw_split(PARSE, donors + rare)
    assert split.part("Donor1+B Naive", "PBS") == "train"
    assert frozenset().union(*split.fewshot["Donor1+B Naive"].values()) <= {"IL-1", "IL-2"}
    assert len(split.fewshot["Donor1+CD14+ Mono"]["test"]) == 62


def test_what_cannot_be_drawn_is_one_sentence(tmp_path):
    with pytest.raises(InputError, match=r"^The protocol 'tahoe100m' holds out 'CVCL_0480', and no observed"):
        draw_split(TAHOE, [c for c in SCREENS["tahoe100m"] if c[0] != "CVCL_0480"])
    with pytest.raises(InputError, match="No cell has the control label 'non-targeting'"):
        draw_split(REPLOGLE, [c for c in SCREENS["replogle-nadig"] if c[1] != "non-targeting"])
    with pytest.raises(InputError, match="holds out 728 perturbations at least, and its contexts have 300"):
        draw_split(REPLOGLE, observed(REPLOGLE, ["hepg2"], [f"GENE{i}" for i in range(300)]))
    own = tmp_path / "own.toml"
    own.write_text('perturbation_key = "p"\ncontrol = "c"\ncontext_key = "k"\nhvg_from = "given"\n')
    with pytest.raises(InputError, match="leaves nothing to draw"):
        draw_split(find_protocol(own), [("k", "c")])
