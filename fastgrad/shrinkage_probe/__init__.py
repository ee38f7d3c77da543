"""Real quantizers on the gradients of a network in training, and what their shrinkage predicts."""
