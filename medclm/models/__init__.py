"""The models that are trained: checkpoints of transformers, the offline student, a tiny one."""
