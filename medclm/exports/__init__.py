"""A converted set in the formats of trainers."""

from medclm.exports.export import FORMATS, export

__all__ = ["FORMATS", "export"]
