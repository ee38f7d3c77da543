"""Training of vision-language models on converted sets."""
