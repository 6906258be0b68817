"""Stages: the steps a pipeline is made of."""
