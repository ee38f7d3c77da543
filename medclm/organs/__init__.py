"""Masks of organs: read from what segmenters wrote, or computed."""

from medclm.organs.callables import FromCallable
from medclm.organs.source import NoOrgans, OrganError, OrganSource, organ_source

__all__ = ["FromCallable", "NoOrgans", "OrganError", "OrganSource", "organ_source"]
