"""Checks that all annotation readers share."""

import logging
import math
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sonodetr.files import InputError
from sonodetr.formats.annotations import (
    BadLabel,
    LabelTable,
    Pictures,
    Row,
    clip_box,
    find_pictures,
    number,
    numbers,
    read_xml,
    unique,
)

SIZE = (11, 17)  # height, width


def test_a_box_inside_is_unchanged_and_rounding_over_the_border_is_clipped() -> None:
    assert clip_box([2, 3, 5.5, 7], SIZE) == [2, 3, 5.5, 7]
    assert clip_box([0, 0, 17, 11], SIZE) == [0, 0, 17, 11]
    assert clip_box([-1, -0.5, 18, 11.25], SIZE) == [0, 0, 17, 11]


@pytest.mark.parametrize(
    ("box", "message"),
    [
        ([3, 4, 3, 9], "box is empty (0 x 5 px)"),
        ([3, 4, 8, 2], "box is empty (5 x -2 px)"),
        (
            [-1.25, 2, 5, 7],
            "box -1.25, 2, 5, 7 (left, top, right, bottom) sticks 1.25 px out of the 17 x 11",
        ),
        ([2, 2, 5, 13], "sticks 2 px out"),
        ([20, 2, 25, 7], "sticks 8 px out"),
        ([17.25, 2, 17.75, 7], "has no area in the picture"),
        ([2, 2, math.nan, 7], "is not finite"),
        ([2, 2, math.inf, 7], "is not finite"),
    ],
)
def test_a_box_that_cannot_be_used_says_why(box: list[float], message: str) -> None:
    with pytest.raises(BadLabel) as caught:
        clip_box(box, SIZE)
    assert message in str(caught.value)


@given(st.lists(st.floats(-3, 20), min_size=4, max_size=4))
def test_a_clipped_box_lies_inside_and_has_an_area_in_float32(box: list[float]) -> None:
    try:
        left, top, right, bottom = np.float32(clip_box(box, SIZE))
    except BadLabel:
        return
    assert 0 <= left < right <= 17
    assert 0 <= top < bottom <= 11


@pytest.mark.parametrize(
    "values",
    [
        None,
        "1234",
        [1, 2, 3],
        [1, 2, 3, "4"],
        [1, 2, 3, True],
        [1, 2, 3, math.nan],
        [1, 2, 3, 10**400],
    ],
)
def test_numbers_refuses_all_but_finite_numbers(values: object) -> None:
    with pytest.raises(BadLabel, match=r"bbox .* is not a list of 4 finite numbers"):
        numbers(values, 4, "bbox")


@pytest.mark.parametrize("text", [None, "", "1,5", "nan", "inf", "1e400"])
def test_number_refuses_all_but_finite_numbers(text: str | None) -> None:
    with pytest.raises(BadLabel, match=r"xmin .* is not a finite number"):
        number(text, "xmin")
    assert number(" 1.5 ", "xmin") == 1.5


def table_with_a_bad_label(on_bad_label: str) -> LabelTable[str]:
    table: LabelTable[str] = LabelTable(on_bad_label)  # type: ignore[arg-type]
    table.add_frame("empty")
    table.add("good", Row([1, 2, 3, 4], 0))
    table.add("spoilt", Row([1, 2, 3, 4], 0))
    table.add_bad("spoilt", "a.json: label 5: is bad")
    table.add_bad(None, "a.json: label 6: is bad")
    return table


def test_a_bad_label_stops_with_the_first_and_their_number() -> None:
    with pytest.raises(InputError) as caught:
        table_with_a_bad_label("error").finish()
    assert str(caught.value) == (
        "a.json: label 5: is bad (2 of 4 labels are bad); "
        "correct the file, or leave bad labels out: --on-bad-label skip, in a config "
        "data.on_bad_label=skip"
    )


def test_a_skipped_label_leaves_its_frame_unlabelled_with_one_warning(
    caplog: pytest.LogCaptureFixture,
) -> None:
    with caplog.at_level(logging.WARNING):
        labels = table_with_a_bad_label("skip").finish()
    assert set(labels) == {"empty", "good"}
    assert len(labels["empty"]) == 0
    assert [record.getMessage() for record in caplog.records] == [
        "2 of 4 labels left out, frames left unlabelled: 1; the first: a.json: label 5: is bad"
    ]


def test_pictures_are_found_beside_the_file_or_in_images(tmp_path: Path) -> None:
    source = tmp_path / "labels.json"
    (tmp_path / "images" / "sub").mkdir(parents=True)
    (tmp_path / "images" / "sub" / "a.png").touch()
    assert find_pictures(source, "", ["sub/a.png"]).folder == tmp_path / "images"
    assert find_pictures(source, "", ["images/sub/a.png"]).folder == tmp_path
    pictures = Pictures(tmp_path / "images")
    assert pictures.has("sub/a.png")
    assert not pictures.has("sub/b.png")
    assert not pictures.has("absent/a.png")
    with pytest.raises(InputError, match=r"images=nowhere: no such folder"):
        find_pictures(source, "nowhere", ["a.png"])


def test_unique_names_the_first_repeat() -> None:
    unique([1, 2, 3], "id", Path("a.json"))
    with pytest.raises(InputError, match=r"a\.json: id 2 is given twice"):
        unique([1, 2, 3, 2, 1], "id", Path("a.json"))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "the file is empty"),
        ("<a><b></a>", "not valid XML (mismatched tag: line 1"),
        ("<a>", "the file may be truncated"),
        ('<!DOCTYPE a [<!ENTITY e "x">]><a>&e;</a>', "not plain XML (EntitiesForbidden)"),
        ('<?xml version="1.0" encoding="none"?><a/>', "XML"),
        ('<?xml version="1.0" encoding="gb2312"?><a/>', "save it as UTF-8"),
    ],
)
def test_xml_that_cannot_be_used(tmp_path: Path, text: str, message: str) -> None:
    file = tmp_path / "a.xml"
    file.write_text(text)
    with pytest.raises(InputError) as caught:
        read_xml(file)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)
