"""transformers.Trainer: a small Llama reads Python's documentation, with 4-bit states and no stored gradients."""

import tempfile
from pydoc_data.topics import topics

import torch
from transformers import LlamaConfig, LlamaForCausalLM, TrainingArguments

from fastgrad.integrations.transformers import FastgradTrainer

torch.manual_seed(0)
text = torch.tensor(list("\n".join(topics.values()).encode()[: 600 * 64]))
blocks = [{"input_ids": block, "labels": block} for block in text.view(-1, 64)]
config = LlamaConfig(
    vocab_size=256,
    hidden_size=64,
    intermediate_size=192,
    num_hidden_layers=2,
    num_attention_heads=4,
    max_position_embeddings=64,
)

with tempfile.TemporaryDirectory() as folder:
    arguments = TrainingArguments(
        folder,
        max_steps=60,
        per_device_train_batch_size=8,
        learning_rate=5e-3,
        max_grad_norm=0,
        logging_steps=10,
        save_strategy="no",
        report_to="none",
        use_cpu=True,
    )
    options = {"state_format": "fp4_e2m1", "factored": True, "grad_format": "bf16", "release": True}
    trainer = FastgradTrainer(LlamaForCausalLM(config), arguments, train_dataset=blocks, fastgrad_options=options)
    trainer.train()

logs = [entry for entry in trainer.state.log_history if "loss" in entry]
print(f"loss {logs[0]['loss']:.3f} -> {logs[-1]['loss']:.3f}, {trainer.optimizer.optimizer.memory()}")
