"""A text as a QR code, drawn in the page: no image is fetched, and no secret goes into an address."""

from __future__ import annotations

import io

import segno
from markupsafe import Markup

# Apps read it from an arm's length; more correction makes smaller modules.
_MODULE_PX = 4


def qr_svg(text: str) -> Markup:
    """An SVG element of ISO/IEC 18004 with its quiet zone of four modules. Raises ValueError for more than fits (about 2,900
    bytes)."""
    drawn = io.BytesIO()
    segno.make(text, error="m", micro=False).save(
        drawn, kind="svg", scale=_MODULE_PX, border=4, xmldecl=False, svgns=False, nl=False, svgclass="qr", lineclass="qr-dark"
    )
    # What segno writes is made of numbers; the text itself is in none of it.
    return Markup(drawn.getvalue().decode())  # noqa: S704
