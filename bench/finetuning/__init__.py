"""A real fine-tune under every contestant's optimizer: text, pretrained model, loop, report."""
