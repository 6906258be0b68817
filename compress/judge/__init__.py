"""Judging: what a file scores, how files compare, and what the gates say."""
