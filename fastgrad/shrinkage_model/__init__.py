"""SGD with shrunk and noisy gradients on problems whose constants are known, held against ``fastgrad.theory``."""
