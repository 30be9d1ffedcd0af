"""The package's version; the format on disk has one of its own (`ckptfmt.format.documents`)."""

from __future__ import annotations

__version__ = "0.1.0"
