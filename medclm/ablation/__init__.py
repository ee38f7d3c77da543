"""``medclm ablation``: the same training with and without each part of the method."""
