"""Measures, and how sure a number is."""
