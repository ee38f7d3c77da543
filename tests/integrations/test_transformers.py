"""The Trainer with fastgrad: its optimizers, released gradients, logs, checkpoints, int8 weights."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
from contract_bits import assert_same_bits
from kept_bits import kept_tensors

import fastgrad
from fastgrad.weights import Int8Weight

transformers = pytest.importorskip(
    "transformers", reason="transformers is not installed: pip install -e .[integrations]"
)
pytest.importorskip("accelerate", reason="accelerate is not installed: pip install -e .[integrations]")

from transformers import LlamaConfig, LlamaForCausalLM, Trainer, TrainerCallback, TrainingArguments  # noqa: E402

from fastgrad.integrations.accelerate import unwrap  # noqa: E402
from fastgrad.integrations.transformers import INT8_WEIGHTS, FastgradTrainer, FastgradTrainerMixin  # noqa: E402

TOKENS = torch.randint(0, 64, (20, 16), generator=torch.Generator().manual_seed(5))
DATA = [{"input_ids": row, "labels": row} for row in TOKENS]


@pytest.fixture(autouse=True)
def one_thread():
    torch.set_num_threads(1)


def make_model(seed: int = 0, int8: bool = False, dtype: torch.dtype = torch.float32) -> LlamaForCausalLM:
    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=64, hidden_size=64, intermediate_size=96, num_hidden_layers=1, num_attention_heads=2,
        max_position_embeddings=16, tie_word_embeddings=True,
    )  # fmt: skip
    model = LlamaForCausalLM(config).to(dtype)
    if int8:
        assert "model.embed_tokens.weight" in fastgrad.quantize_weights_(model)
    return model


def make_arguments(folder: Path, **changed) -> TrainingArguments:
    options = {
        "max_steps": 6, "per_device_train_batch_size": 4, "learning_rate": 1e-2, "weight_decay": 0.1,
        "max_grad_norm": 0, "logging_steps": 1, "save_strategy": "no", "report_to": "none", "use_cpu": True,
        "disable_tqdm": True, "seed": 7,
    }  # fmt: skip
    return TrainingArguments(str(folder), **{**options, **changed})


def make_trainer(folder: Path, options: dict, model=None, cls=FastgradTrainer, **changed) -> FastgradTrainer:
    model = make_model() if model is None else model
    return cls(model, make_arguments(folder, **changed), train_dataset=DATA, fastgrad_options=options)


def kept(trainer: Trainer) -> list[torch.Tensor]:
    return kept_tensors(trainer.model, unwrap(trainer.optimizer))


def logged(trainer: Trainer, name: str) -> list[float]:
    return [entry[name] for entry in trainer.state.log_history if "loss" in entry]


def test_groups_names_and_arguments_are_the_trainers(tmp_path):
    class MyTrainer(FastgradTrainerMixin, Trainer):
        fastgrad_options = {"state_format": "int8", "betas_of_nobody": 0}  # noqa: RUF012

    ours = make_trainer(tmp_path, {"state_format": "int8"}, cls=MyTrainer, adam_beta1=0.8, adam_epsilon=1e-6)
    plain = Trainer(ours.model, ours.args, train_dataset=DATA)
    assert isinstance(ours.create_optimizer(), fastgrad.optim.AdamW)
    assert ours.create_optimizer() is ours.optimizer
    names = {id(p): name for name, p in ours.model.named_parameters()}
    for group, expected in zip(ours.optimizer.param_groups, plain.create_optimizer().param_groups, strict=True):
        assert group["param_names"] == [names[id(p)] for p in expected["params"]]
        for key in ("lr", "betas", "eps", "weight_decay"):
            assert group[key] == expected[key], key
    assert ours.optimizer.param_groups[0]["betas"] == (0.8, 0.999)
    assert [g["weight_decay"] for g in ours.optimizer.param_groups] == [0.1, 0.0]
    with pytest.raises(ValueError, match="'betas_of_nobody' is unknown"):
        MyTrainer(ours.model, ours.args, train_dataset=DATA)


@pytest.mark.parametrize("accumulation", (1, 2))
def test_released_training_has_the_bits_of_the_trainers_own_loop(tmp_path, accumulation):
    """Five batches an epoch: with two micro-batches to a step the last step of an epoch has one."""
    options = {"state_format": "fp4_e2m1", "factored": True, "grad_format": "fp8_e4m3", "accumulate_format": "fp32"}
    results = []
    for release in (False, True):
        trainer = make_trainer(
            tmp_path, {**options, "release": release}, gradient_accumulation_steps=accumulation, num_train_epochs=2,
            max_steps=-1,
        )  # fmt: skip
        trainer.train()
        assert unwrap(trainer.optimizer)._progress.step == trainer.state.global_step == math.ceil(5 / accumulation) * 2
        results.append(kept(trainer))
    assert not trainer.released.active
    assert_same_bits(results[1], results[0], "released")


RESUMED = {
    "fp4 released": {"state_format": "fp4_e2m1", "factored": True, "normalize": "autoscale", "stats": "lagged",
                     "grad_format": "int8", "release": True},
    "int8 weights released": {"factored": True, "release": True},
    "sgd": {"optimizer": "sgd", "momentum": 0.9, "grad_format": "fp8_e4m3", "eps": 1e-6},
}  # fmt: skip


@pytest.mark.parametrize("tier", RESUMED)
def test_checkpoints_resume_bit_for_bit(tmp_path, tier):
    """Six steps, and three more from the checkpoint after three, in a Trainer of another initialization."""
    int8 = "weights" in tier
    save = dict(save_strategy="steps", save_steps=3, gradient_accumulation_steps=2, per_device_train_batch_size=2)
    whole = make_trainer(tmp_path, RESUMED[tier], make_model(int8=int8), **save)
    whole.train()
    resumed = make_trainer(tmp_path / "other", RESUMED[tier], make_model(seed=1, int8=int8), **save)
    resumed.train(resume_from_checkpoint=str(tmp_path / "checkpoint-3"))
    assert whole.state.global_step == resumed.state.global_step == 6
    assert_same_bits(kept(resumed), kept(whole), tier)
    assert logged(whole, "loss")[3:] == logged(resumed, "loss")[3:]
    assert (tmp_path / "checkpoint-3" / INT8_WEIGHTS).exists() == int8


def test_int8_checkpoints_are_dense_for_from_pretrained(tmp_path):
    trainer = make_trainer(tmp_path, {}, make_model(int8=True), max_steps=2)
    trainer.train()
    trainer.save_model(str(tmp_path / "final"))
    loaded = LlamaForCausalLM.from_pretrained(tmp_path / "final")
    assert loaded.lm_head.weight is loaded.model.embed_tokens.weight
    expected = {n: p.dense() if isinstance(p, Int8Weight) else p for n, p in trainer.model.named_parameters()}
    assert_same_bits(list(dict(loaded.named_parameters()).values()), list(expected.values()), "dense")
    with pytest.raises(RuntimeError, match=r"dense_state_dict\(model\)"):
        trainer.model.save_pretrained(tmp_path / "without")


def test_the_best_int8_model_comes_back_exactly(tmp_path):
    best = {}

    class Recorder(TrainerCallback):
        def on_step_end(self, args, state, control, model=None, **_):
            best[state.global_step] = kept_tensors(model, torch.optim.SGD(model.parameters()))

    trainer = FastgradTrainer(
        make_model(int8=True),
        make_arguments(
            tmp_path, max_steps=2, eval_strategy="steps", eval_steps=1, save_strategy="steps", save_steps=1,
            load_best_model_at_end=True, metric_for_best_model="loss", greater_is_better=True,
        ),
        train_dataset=DATA, eval_dataset=DATA[:4], callbacks=[Recorder()], fastgrad_options={"release": True},
    )  # fmt: skip
    trainer.train()
    step = int(trainer.state.best_model_checkpoint.rpartition("-")[2])
    assert_same_bits(kept_tensors(trainer.model, torch.optim.SGD(trainer.model.parameters())), best[step], "best")
    assert step == 1  # the largest loss is taken, since the last model is there anyway


def test_the_monitors_values_are_logged(tmp_path):
    """grad_norm is that of the Trainer; with release, too, where the Trainer itself would log zeros."""
    plain = Trainer(make_model(), make_arguments(tmp_path, max_steps=2), train_dataset=DATA)
    plain.train()
    ours = make_trainer(tmp_path, {"grad_format": "fp8_e4m3", "normalize": "znorm", "release": True}, max_steps=2)
    ours.train()
    every_second = make_trainer(tmp_path, {"monitor": {"every": 2}}, max_steps=3)
    every_second.train()
    assert every_second.monitor.series(None, "std")[0].tolist() == [0, 2]
    assert logged(ours, "grad_norm")[0] == pytest.approx(logged(plain, "grad_norm")[0], rel=1e-5)
    assert all(0.9 < q < 1.1 for q in logged(ours, "fastgrad/q_mean"))
    assert all(s > 0 for s in logged(ours, "fastgrad/global_std"))
    assert {"fastgrad/alpha", "fastgrad/noise_variance", "fastgrad/nonfinite"} <= set(ours.state.log_history[0])
    assert ours.monitor.series(None, "std")[0].tolist() == [0, 1]
    assert "model.embed_tokens.weight" in ours.monitor.layers


def test_without_a_monitor_the_trainer_measures_itself_or_nobody(tmp_path):
    kept_by_trainer = make_trainer(tmp_path, {"monitor": False}, max_steps=1)
    kept_by_trainer.train()
    assert logged(kept_by_trainer, "grad_norm")[0] > 0
    released = make_trainer(tmp_path, {"monitor": False, "release": True}, max_steps=1)
    released.train()
    assert "grad_norm" not in released.state.log_history[0]


@pytest.mark.parametrize("release", (False, True), ids=("step", "released"))
def test_clipping_to_max_grad_norm_in_the_step(tmp_path, release):
    options = {"normalize": "clip", "release": release, **({"stats": "lagged"} if release else {})}
    trainer = make_trainer(tmp_path, options, max_steps=3, max_grad_norm=0.05)
    trainer.train()
    norms, factors = logged(trainer, "grad_norm"), logged(trainer, "fastgrad/alpha")
    assert norms[0] > 0.5  # of gradients that nobody clipped before
    of = list(zip(norms[:-1], factors[1:], strict=True)) if release else list(zip(norms, factors, strict=True))
    assert all(factor == pytest.approx(0.05 / (norm + 1e-6), rel=1e-4) for norm, factor in of)


def test_skipped_parameters_are_logged(tmp_path):
    trainer = make_trainer(tmp_path, {"release": True, "nonfinite": "skip"}, max_steps=2)
    trainer.model.model.norm.weight.register_hook(lambda g: g * torch.nan)
    trainer.train()
    assert logged(trainer, "fastgrad/skipped") == [1, 2]
    assert trainer.released.skipped == {"model.norm.weight": 2}


def test_a_training_that_broke_off_can_be_started_again(tmp_path):
    class Breaks(TrainerCallback):
        def on_step_end(self, args, state, control, **_):
            raise KeyboardInterrupt

    trainer = make_trainer(tmp_path, {"release": True}, max_steps=2)
    trainer.add_callback(Breaks)
    with pytest.raises(KeyboardInterrupt):
        trainer.train()
    trainer.remove_callback(Breaks)
    monitor = trainer.monitor
    trainer.train()
    assert trainer.state.global_step == 2
    assert trainer.monitor is monitor
    assert unwrap(trainer.optimizer)._progress.step == 3


def test_model_init_makes_optimizer_and_monitor_anew(tmp_path):
    trainer = FastgradTrainer(
        model_init=lambda: make_model(), args=make_arguments(tmp_path, max_steps=1), train_dataset=DATA,
        fastgrad_options={"release": True},
    )  # fmt: skip
    trainer.train()
    first = (unwrap(trainer.optimizer), trainer.monitor)
    trainer.train()
    assert unwrap(trainer.optimizer) is not first[0]
    assert trainer.monitor is not first[1]
    assert trainer.monitor.series(None, "std")[0].tolist() == [0]


@pytest.mark.parametrize(
    ("options", "arguments", "message"),
    (
        ({"release": True}, {"max_grad_norm": 1.0}, "max_grad_norm: got 1.0 .* stats='lagged'"),
        ({"release": True, "normalize": "clip", "stats": "lagged"}, {}, "max_grad_norm: normalize='clip' clips to it"),
        ({"optimizer": "adam"}, {}, "fastgrad_options\\['optimizer'\\]: expected"),
        ({"statformat": "int8"}, {}, "'statformat' is unknown; expected optimizer, release.*state_format"),
        ({"lr": 0.1}, {}, "'lr': expected in TrainingArguments, as learning_rate"),
        ({"eps": 1e-6}, {}, "'eps': .* as adam_epsilon"),
        ({"optimizer": "sgd", "max_norm": 1.0}, {}, "'max_norm': .* as max_grad_norm"),
    ),
)
def test_options_that_cannot_be_meant(tmp_path, options, arguments, message):
    with pytest.raises(ValueError, match=message):
        make_trainer(tmp_path, options, **arguments)


def test_a_scaler_is_refused_with_the_reason(tmp_path):
    trainer = make_trainer(tmp_path, {"release": True})
    trainer.accelerator.scaler = torch.amp.GradScaler("cpu")
    with pytest.raises(ValueError, match=r"mixed_precision: 'fp16' .* known only after backward"):
        trainer.train()


def test_another_optimizer_class_is_refused(tmp_path):
    with pytest.raises(ValueError, match="optimizer_cls_and_kwargs"):
        FastgradTrainer(make_model(), make_arguments(tmp_path), optimizer_cls_and_kwargs=(torch.optim.SGD, {}))


def test_attach_to_the_trainers_own_optimizer(tmp_path):
    trainer = Trainer(make_model(), make_arguments(tmp_path, max_steps=2), train_dataset=DATA)
    handle = fastgrad.attach(trainer.create_optimizer(), normalize="znorm", grad_format="bf16")
    trainer.train()
    assert handle._progress.step == 2
    assert 0.9 < float(fastgrad.shrinkage.projection(handle.table[-1, 8], handle.table[-1, 9])) < 1.1
