"""``python -m bench.medclm_training``: MedCLM's loop in little memory, beside the same loop with torch.optim.AdamW."""
