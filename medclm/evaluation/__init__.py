"""Evaluation of vision-language models: benchmarks, metrics as others count them, leakage, a report."""
