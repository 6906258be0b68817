"""The report: one document and its views."""
