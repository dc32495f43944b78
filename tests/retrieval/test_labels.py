"""Names of labels: no two classes share one, and what is no known class is its own."""

import pytest

from retrieval.labels import display_name, full_name, imagenet_by_wnid, imagenet_classes


def test_the_thousand_classes_stand_in_the_order_of_their_wnids() -> None:
    wnids = [known.wnid for known in imagenet_classes()]
    assert len(wnids) == 1000 and wnids == sorted(set(wnids))
    assert [known.index for known in imagenet_classes()] == list(range(1000))


def test_no_two_classes_have_the_same_name_even_where_others_lists_repeat_one() -> None:
    names = {known.name.lower() for known in imagenet_classes()}
    assert len(names) == 1000
    by_index = imagenet_classes()
    assert {by_index[657].name, by_index[744].name} == {"missile", "projectile"}
    assert {by_index[836].name, by_index[837].name} == {"sunglass", "sunglasses"}
    assert {by_index[134].name, by_index[517].name} == {"crane bird", "construction crane"}
    assert by_index[638].name != by_index[639].name


def test_imagenet_a_and_r_have_200_classes_each_and_share_86() -> None:
    in_a = {known.wnid for known in imagenet_classes() if known.in_a}
    in_r = {known.wnid for known in imagenet_classes() if known.in_r}
    assert (len(in_a), len(in_r), len(in_a & in_r)) == (200, 200, 86)


@pytest.mark.parametrize(
    ("label", "name"),
    [
        ("n01440764", "tench"),
        ("n99999999", "n99999999"),
        ("dog", "dog"),
        ("", ""),
        (
            "03111_Animalia_Chordata_Aves_Passeriformes_Turdidae_Turdus_migratorius",
            "Turdus migratorius (Turdidae)",
        ),
        ("03111_Animalia_Chordata_Aves", "03111_Animalia_Chordata_Aves"),
    ],
)
def test_a_label_has_a_name_that_people_read(label: str, name: str) -> None:
    assert display_name(label) == name


def test_classes_are_found_by_wnid() -> None:
    assert imagenet_by_wnid()["n02012849"].name == "crane bird"


def test_a_full_name_tells_the_label_too_where_it_differs() -> None:
    assert (full_name("n01440764"), full_name("cat")) == ("tench (n01440764)", "cat")
