"""Training: the loop, the teachers' outputs, passes without gradients."""
