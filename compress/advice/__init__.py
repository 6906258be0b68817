"""Advice before the budget: what can be known of a distillation before it is paid for."""
