import subprocess
import sys

import jaxtyping
import numpy as np
import pytest

from sonodetr import shapes

NAMES = ("Bool", "Float", "Float32", "Float64", "Int64", "UInt8")


@pytest.mark.parametrize("name", NAMES)
def test_where_shapes_are_checked_the_names_are_those_of_jaxtyping(name):
    hint = getattr(shapes, name)[np.ndarray, "n 4"]
    assert getattr(shapes, name) is getattr(jaxtyping, name)
    dtype = {"Float": "float64"}.get(name, name.lower())
    assert isinstance(np.zeros((3, 4), dtype), hint)
    assert not isinstance(np.zeros((3, 5), dtype), hint)


def test_where_they_are_not_checked_jaxtyping_is_not_imported():
    code = f"""
import sys, numpy
from sonodetr import shapes, types
hints = [getattr(shapes, name)[numpy.ndarray, "n 4"] for name in {NAMES}]
print(all(hint is numpy.ndarray for hint in hints), types.Pixels is numpy.ndarray)
print("jaxtyping" in sys.modules)
"""
    answer = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    assert answer.stdout == "True True\nFalse\n"
