"""What ``bench.memory`` and ``bench.finetune`` share: Llama shapes, contestants, counted and resident bytes."""
