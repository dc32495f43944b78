"""Figure 4, against a memory made anew for every class and every number of exemplars."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from eval.experiments.embedded import class_order
from eval.experiments.granularity import Taxonomy, granularity, inaturalist_taxonomy, read_taxonomy
from eval.report.plots import as_png
from retrieval.errors import InvalidArgument
from tests.eval.experiments.made_embedded import made_embedded

LUMBRICUS = "00000_Animalia_Annelida_Clitellata_Haplotaxida_Lumbricidae_Lumbricus_terrestris"
TURDUS = "04561_Animalia_Chordata_Aves_Passeriformes_Turdidae_Turdus_migratorius"


def tree(names: list[str]) -> Taxonomy:
    return Taxonomy(("genus", "species"), {name: (name[0],) for name in names})


def test_growing_a_class_equals_rebuilding_the_memory_each_time() -> None:
    embedded = made_embedded(noise=1.0, each=12)
    analysis = granularity(embedded, taxonomy=tree(embedded.label_names), exemplars=10, seed=4)
    order = class_order(embedded.labels, np.random.default_rng(4))
    rows = {row[0]: dict(zip(analysis.columns, row, strict=True)) for row in analysis.rows}
    for grown in (0, 1, 2, 5, 10):
        genus, species = [], []
        for label, name in enumerate(embedded.label_names):
            own = embedded.labels == label
            items = np.flatnonzero(np.where(own, order < grown, order < 10))
            queries = [row for row, truth in enumerate(embedded.truths) if name in truth]
            found = embedded.labels[items[(embedded.queries[queries] @ embedded.vectors[items].T).argmax(axis=1)]]
            species.append(np.mean(found == label))
            genus.append(np.mean([embedded.label_names[code][0] == name[0] for code in found]))
        column = "1 exemplar" if grown == 1 else f"{grown} exemplars"
        assert rows["species"][column] == pytest.approx(100 * np.mean(species))
        assert rows["genus"][column] == pytest.approx(100 * np.mean(genus))


def test_a_class_without_exemplars_is_never_named_but_its_group_is() -> None:
    embedded = made_embedded()
    genus, species = granularity(embedded, taxonomy=tree(embedded.label_names), exemplars=20).rows
    assert species[1] == 0.0
    assert float(genus[1] or 0) > float(genus[-2] or 0)
    assert genus[-1] == 35.2  # the paper's, at the genus
    assert species[-1] is None


def test_a_class_with_few_exemplars_counts_with_all_it_has() -> None:
    embedded = made_embedded(each=4)
    few = granularity(embedded, taxonomy=tree(embedded.label_names), exemplars=4)
    many = granularity(embedded, taxonomy=tree(embedded.label_names), exemplars=50)
    assert few.rows[1][-3] == many.rows[1][-3]


def test_queries_that_have_no_single_label_in_the_memory_do_not_count() -> None:
    embedded = made_embedded()
    truths = [frozenset(["a0", "a1"]), frozenset(["elsewhere"]), *embedded.truths[2:]]
    analysis = granularity(replace(embedded, truths=truths), taxonomy=tree(embedded.label_names))
    assert "46 queries" in analysis.notes[0]


def test_inaturalists_names_hold_their_taxa() -> None:
    taxonomy = inaturalist_taxonomy([LUMBRICUS, TURDUS])
    assert taxonomy.levels == ("kingdom", "phylum", "class", "order", "family", "genus", "species")
    codes = taxonomy.codes([LUMBRICUS, TURDUS])
    assert (codes[0] == codes[1]).tolist() == [True] + [False] * 6


def test_groups_of_one_name_under_different_parents_differ() -> None:
    taxonomy = Taxonomy(("kingdom", "genus", "species"), {"bee": ("animal", "Morus"), "mulberry": ("plant", "Morus")})
    codes = taxonomy.codes(["bee", "mulberry"])
    assert (codes[0] == codes[1]).tolist() == [False, False, False]


def test_names_of_another_form_ask_for_a_table() -> None:
    with pytest.raises(InvalidArgument, match="give a taxonomy as a CSV file"):
        granularity(made_embedded())


def test_a_table_names_its_levels(tmp_path: Path) -> None:
    (tmp_path / "taxa.csv").write_text("wnid,realm,kind\nn01443537,animal,fish\nn07747607,food,fruit\n")
    taxonomy = read_taxonomy(tmp_path / "taxa.csv")
    assert taxonomy.levels == ("realm", "kind", "wnid")
    assert taxonomy.groups["n07747607"] == ("food", "fruit")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "is no taxonomy"),
        ("label,kind\n", "holds no label"),
        ("label\ncat\n", "must have 2 filled cells"),
        ("label,kind\ncat,\n", "must have 2 filled cells"),
        ("label,kind\ncat,pet\ncat,wild\n", "has 'cat' twice"),
    ],
)
def test_a_table_that_is_no_taxonomy_is_refused(tmp_path: Path, text: str, said: str) -> None:
    (tmp_path / "taxa.csv").write_text(text)
    with pytest.raises(InvalidArgument, match=said):
        read_taxonomy(tmp_path / "taxa.csv")


def test_a_missing_table_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InvalidArgument, match="is no taxonomy"):
        read_taxonomy(tmp_path / "nothing.csv")


def test_a_label_without_a_line_is_refused() -> None:
    embedded = made_embedded()
    with pytest.raises(InvalidArgument, match="does not hold 'd1'"):
        granularity(embedded, taxonomy=tree(embedded.label_names[:-1]))


@pytest.mark.parametrize(("exemplars", "said"), [(0, "exemplars=0"), (5, "takes two classes")])
def test_what_cannot_grow_is_refused(exemplars: int, said: str) -> None:
    embedded = made_embedded(classes=2)
    alone = replace(embedded, truths=[frozenset(["elsewhere"])] * len(embedded.truths))
    with pytest.raises(InvalidArgument, match=said):
        granularity(alone, taxonomy=tree(embedded.label_names), exemplars=exemplars)


def test_the_plot_is_a_picture() -> None:
    embedded = made_embedded()
    assert as_png(granularity(embedded, taxonomy=tree(embedded.label_names)).draw()).startswith(b"\x89PNG")
