import base64
import re

import cv2
import numpy as np

from sonodetr.report import (
    Section,
    commands,
    line_chart,
    paragraph,
    picture,
    table,
    video,
    write_page,
)


def test_page_holds_everything_and_asks_for_nothing_else(tmp_path):
    path = tmp_path / "page.html"
    chart = line_chart(
        {"a": ([0.0, 1.0], [2.0, 3.0]), "b": ([0.0, 1.0], [3.0, 2.0])}, "x", "y", "Two lines."
    )
    write_page(path, "Why?", "Because.", [Section("Part <1>", [chart])], {"seed": 7})
    page = path.read_text(encoding="utf-8")
    assert "<title>Why?</title>" in page
    assert "<h2>Part &lt;1&gt;</h2>" in page
    assert "&quot;seed&quot;: 7" in page
    assert "<svg" in page
    assert "Two lines." in page
    # Addresses are names in XML only: nothing is fetched.
    assert not re.search(r'(?:src|href)="(?!data:|#)', page)
    assert "@import" not in page


def test_texts_are_escaped():
    assert paragraph("<b>&") == "<p>&lt;b&gt;&amp;</p>"
    assert commands(["a < b", "c"]) == "<pre>a &lt; b\nc</pre>"
    made = table(("x<",), [("1>0",)], "cap&")
    assert "x&lt;" in made
    assert "1&gt;0" in made
    assert "<caption>cap&amp;</caption>" in made


def test_picture_is_lossless_rgb():
    pixels = np.random.default_rng(0).integers(0, 256, (5, 7, 3), np.uint8)
    made = picture(pixels, "noise")
    data = base64.b64decode(re.search(r"base64,([^\"]+)", made).group(1))
    back = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)[..., ::-1]
    np.testing.assert_array_equal(back, pixels)


def test_video_carries_the_file(tmp_path):
    path = tmp_path / "clip.mp4"
    path.write_bytes(b"not really a film")
    assert base64.b64encode(b"not really a film").decode() in video(path, "a film")
