"""Blind comparisons for raters: built, shown, rated, and read with their key."""
