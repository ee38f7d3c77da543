"""What is compared: differences to the default settings, by name."""

# "No organs" is another set: `medclm convert .. --organs none`.
ARMS: dict[str, dict] = {
    "adaptive": {},
    "paper": {"scheduler": "paper"},
    "staged": {"scheduler": "staged"},
    "none": {"scheduler": "none"},
    "easy": {"scheduler": "mix:1,0,0"},
    "easy+medium": {"scheduler": "mix:1,1,0"},
    "no-reasoning": {"reasoning": False},
    "no-backward-rounding": {"backward_format": "none"},
    "no-compression": {"backward_format": "none", "activations": "none", "state_format": "fp32", "dtype": "fp32"},
    "box": {"box_weight": 0.1},
}
