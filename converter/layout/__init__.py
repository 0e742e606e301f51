"""Frame-major layout from end to end: `make_frame_major` is the pass, the rest are its parts."""

from converter.layout.sinking import LayoutReport, make_frame_major

__all__ = ["LayoutReport", "make_frame_major"]
