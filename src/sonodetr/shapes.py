"""Array shapes in annotations: the names of jaxtyping, without waiting for jaxtyping.

`Float32[np.ndarray, "n 4"]` tells readers and type checkers what an array is. At run time only
shape checks look at it, as tests switch them on, and those have imported jaxtyping before. Else
nobody does, and importing it would take as long as half of NumPy: the annotation is then
`np.ndarray`. For modules that a live process loads; where torch is imported anyway, jaxtyping is.
"""

import sys
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING or "jaxtyping" in sys.modules:
    from jaxtyping import Bool as Bool
    from jaxtyping import Float as Float
    from jaxtyping import Float32 as Float32
    from jaxtyping import Float64 as Float64
    from jaxtyping import Int64 as Int64
    from jaxtyping import UInt8 as UInt8
else:

    class _Array:
        def __class_getitem__(cls, array_and_shape: tuple[Any, str]) -> Any:
            return array_and_shape[0]

    Bool = Float = Float32 = Float64 = Int64 = UInt8 = _Array
