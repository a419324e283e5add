"""The training runs of the course: SFT, then the preference arms, each from the same SFT adapter.

Notebook 04 and the command line call these on every profile; each run saves its adapter and a record of what made it.
"""

from __future__ import annotations

import json
import math
import os
import platform
import subprocess
import time
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from .corpus import as_messages, to_dataset
from .deviation import deviation_weights
from .encoders import load_encoder
from .policy import load_policy, lora_config, public_name
from .profiles import CourseError, Profile
from .scoring import token_kl

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["response_weights", "run_facts", "shuffled_weights", "train_pairs", "train_sft"]


def response_weights(stories: pd.DataFrame, pairs: pd.DataFrame, profile: Profile) -> pd.Series:
    """Weight `both` of every response that takes part in a pair, by its row in `stories` (sums to K per prompt)."""
    rows = stories.loc[sorted({*pairs["chosen_row"], *pairs["rejected_row"]})]
    texts = rows["text"].tolist()
    embeddings = [load_encoder(name).encode(texts) for name in (profile.semantic, profile.style)]
    import pandas as pd

    return pd.Series(
        deviation_weights(*embeddings, groups=rows["prompt_id"].to_numpy()), index=rows.index, name="weight"
    )


def shuffled_weights(pairs: pd.DataFrame, weight: Sequence[float], seed: int) -> np.ndarray:
    """The control: the winners' weights dealt anew among the winners of the same prompt, at random."""
    rng, out = np.random.default_rng(seed), np.array(weight, dtype=float)
    for index in pairs.reset_index(drop=True).groupby("prompt_id", sort=True).indices.values():
        out[index] = out[rng.permutation(index)]
    return out


def run_facts(profile: Profile, **more: Any) -> dict[str, Any]:
    """What a record must name: settings, code and stack versions, hardware. No path, no key, no host name."""
    from importlib.metadata import PackageNotFoundError, version

    versions = {}
    for name in ("torch", "transformers", "trl", "peft", "numpy"):
        try:
            versions[name] = version(name)
        except PackageNotFoundError:
            versions[name] = "absent"
    git = subprocess.run(
        ["git", "rev-parse", "--short", "HEAD"], cwd=Path(__file__).parent, capture_output=True, text=True
    ) if (Path(__file__).parent.parent / ".git").exists() else None  # fmt: skip
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else f"CPU, {os.cpu_count()} cores"
    return {
        "model": public_name(profile),
        "code": git.stdout.strip() if git and git.returncode == 0 else "unknown",
        "versions": versions,
        "python": platform.python_version(),
        "hardware": f"{device}, {platform.system()} {platform.machine()}",
        "settings": asdict(profile),
        **more,
    }


def _arguments(config: Any, folder: Path, profile: Profile, **more: Any) -> Any:
    """What SFT and the preference arms have in common; weights are loaded in their number type, so no autocast."""
    fp16 = torch.cuda.is_available() and torch.cuda.get_device_capability()[0] < 8
    return config(
        output_dir=str(folder / "checkpoints"), max_length=profile.max_length, seed=profile.seed, fp16=fp16, bf16=False,
        gradient_checkpointing=torch.cuda.is_available(), logging_steps=1, report_to="none", save_only_model=True,
        dataloader_pin_memory=torch.cuda.is_available(), **more,
    )  # fmt: skip


def _batch(size: int, most: int) -> dict[str, int]:
    """A batch of `size` as equal parts of at most `most`, whose gradients are accumulated."""
    part = math.gcd(size, most)
    return {"per_device_train_batch_size": part, "gradient_accumulation_steps": size // part}


def _finish(trainer: Any, folder: Path, record: dict[str, Any], started: float) -> dict[str, Any]:
    import psutil

    trainer.model.eval()
    trainer.model.save_pretrained(folder, selected_adapters=["default"], save_embedding_layers=False)
    config = json.loads((folder / "adapter_config.json").read_text(encoding="utf-8"))
    config["base_model_name_or_path"] = record["model"]  # a name that means something on other machines
    (folder / "adapter_config.json").write_text(json.dumps(config, indent=1), encoding="utf-8")
    record["number_type"] = str(trainer.model.dtype)
    record["seconds"] = round(time.perf_counter() - started, 1)
    if torch.cuda.is_available():
        record["peak_gpu_bytes"] = torch.cuda.max_memory_allocated()
    record["process_bytes"] = psutil.Process().memory_info().rss
    record["log"] = [entry for entry in trainer.state.log_history if "loss" in entry]
    scratch = folder / "run.json.part"
    scratch.write_text(json.dumps(record, indent=1), encoding="utf-8")
    os.replace(scratch, folder / "run.json")
    return record


def train_sft(profile: Profile, stories: pd.DataFrame, folder: Path) -> dict[str, Any]:
    """Supervised fine-tuning of a fresh LoRA adapter on the stories, loss on the responses alone.

    Saves the adapter and run.json in `folder` and returns the record.
    """
    from datasets import Dataset
    from trl import SFTConfig, SFTTrainer

    started = time.perf_counter()
    (folder / "reference.csv").unlink(missing_ok=True)  # log-probs under the adapter that this run replaces
    model, tokenizer = load_policy(profile)
    data = Dataset.from_dict(
        {
            "prompt": [as_messages("user", p) for p in stories["prompt"]],
            "completion": [as_messages("assistant", t) for t in stories["text"]],
        }
    )
    args = _arguments(
        SFTConfig, folder, profile, learning_rate=profile.sft_learning_rate, completion_only_loss=True,
        **_batch(profile.sft_batch_size, 2 * profile.micro_batch), max_steps=profile.sft_steps or -1,
        num_train_epochs=1,
        lr_scheduler_type="cosine_with_min_lr", lr_scheduler_kwargs={"min_lr_rate": 0.5}, save_strategy="no",
    )  # fmt: skip
    trainer = SFTTrainer(
        model=model, args=args, train_dataset=data, processing_class=tokenizer, peft_config=lora_config(profile)
    )
    trainer.train()
    record = run_facts(profile, arm="sft", stories=len(stories))
    return _finish(trainer, folder, record, started)


def train_pairs(
    profile: Profile,
    pairs: pd.DataFrame,
    weight: Sequence[float] | None,
    folder: Path,
    sft: Path,
    arm: str,
    watch: pd.DataFrame | None = None,
) -> dict[str, Any]:
    """One preference arm from the SFT adapter: DPO where `weight` is None, else DDPO with these weights.

    Pairs, order, seed and steps depend on the profile alone, so arms differ by their weights and nothing else.
    The reference is a frozen copy of the SFT adapter, its log-probs computed once before training.

    Args:
        profile: beta, learning rate, steps (0: three passes), batch, seed, weight of the chosen side's NLL.
        pairs: a frame of `corpus.make_pairs`.
        weight: one weight a pair.
        folder: where adapter, checkpoints (`checkpoints/checkpoint-N`) and run.json go.
        sft: folder of the SFT adapter.
        arm: name for the record.
        watch: sampled stories of the SFT model; at each checkpoint the policy's KL from the reference along them
            is recorded (nats a story).
    """
    import pandas as pd
    from transformers import TrainerCallback
    from trl import DPOConfig

    from .trainers import DDPOTrainer

    if profile.steps and len(pairs) < profile.batch_size:
        raise CourseError(
            f"{len(pairs)} pairs do not fill one batch of {profile.batch_size}: add stories or lower batch_size."
        )
    pairs = pairs.assign(weight=1.0 if weight is None else np.asarray(weight, dtype=float))
    if 0 < profile.steps * profile.batch_size < len(pairs):  # the reference scores only pairs that will be seen
        pairs = pairs.sample(profile.steps * profile.batch_size, random_state=profile.seed)
    known = sft / "reference.csv"
    pairs["key"] = pd.util.hash_pandas_object(pairs[["prompt", "chosen", "rejected"]], index=False)
    if known.is_file():  # the reference is the same for every arm: its log-probs are computed once
        scores = pd.read_csv(known, dtype={"key": "uint64"}).drop_duplicates("key")  # one's own stories may repeat
        scored = pairs.merge(scores, on="key", how="left")
        pairs = pairs if scored["ref_chosen_logps"].isna().any() else scored
    started = time.perf_counter()
    model, tokenizer = load_policy(profile, adapter=sft, trainable=True)
    nll = {"loss_type": ["sigmoid", "sft"], "loss_weights": [1.0, profile.nll_weight]} if profile.nll_weight else {}
    args = _arguments(
        DPOConfig, folder, profile, learning_rate=profile.learning_rate, beta=profile.beta, num_train_epochs=3,
        **_batch(profile.batch_size, profile.micro_batch), max_steps=profile.steps or -1, lr_scheduler_type="linear",
        precompute_ref_log_probs="ref_chosen_logps" not in pairs, save_strategy="steps",
        save_steps=profile.checkpoint_every, **nll,
    )  # fmt: skip
    kl: dict[int, float] = {}

    class WatchKL(TrainerCallback):
        def on_save(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            if watch is not None:
                kl[state.global_step] = float(token_kl(model, tokenizer, watch).mean())

    trainer = DDPOTrainer(
        model=model,
        args=args,
        train_dataset=to_dataset(pairs, pairs["weight"]).add_column("key", pairs["key"].to_numpy()),
        processing_class=tokenizer,
        callbacks=[WatchKL()],
    )
    if args.precompute_ref_log_probs:
        # from the trainer's own set: it drops pairs whose prompt alone fills max_length
        columns = ["key", "ref_chosen_logps", "ref_rejected_logps"]
        scored = pd.DataFrame({name: trainer.train_dataset[name][:] for name in columns})
        scored.to_csv(sft / "reference.part", index=False)
        os.replace(sft / "reference.part", known)
    trainer.train()
    weights = pairs["weight"].to_numpy()
    record = run_facts(
        profile, arm=arm, pairs=len(pairs), kl=kl, mean_weight=float(weights.mean()),
        effective_pairs=float(weights.sum() ** 2 / (weights**2).sum()),
    )  # fmt: skip
    return _finish(trainer, folder, record, started)
