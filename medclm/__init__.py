"""MedCLM: lesion boxes and organ masks become medical visual questions with reasoning, in three stages."""
