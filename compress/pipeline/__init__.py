"""The pipeline: from a recipe to a verdict."""
