"""Texts as unit rows: semantic encoders, style encoders, and one cache on disk."""
