"""Benchmarks of fastgrad: every op against plain PyTorch and against the floor of its memory traffic."""
