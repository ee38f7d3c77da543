"""The numeric contract of docs/numerics.md as plain PyTorch: the oracle, the documentation and the fallback.

One module per part of the contract:

- `philox`: noise and streams (section 2)
- `formats`: number formats, their storage and the rounding of values (sections 3 and 4)
- `scales`: per-tensor and per-block scales (section 5)
- `moments`: tile sums, halving trees, moments and shrinkage sums (sections 1, 6 and 8)
- `normalizers`: the coefficients of the affine maps (section 7)
- `sgd`: one SGD step (section 9)
- `sweep`: all of it over a list of tensors, and the table it returns (sections 10 and 11)

Nothing here calls a reduction, an FMA or a library function whose rounding or order PyTorch leaves open.
"""
