"""QLoRA with the real bitsandbytes: trained, saved, broken off and called again."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

import pytest
import torch
from tiny_llama import write_llama
from tiny_runs import BrokenOff, Command, break_off, curve, record_of

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        find_spec("bitsandbytes") is None, reason="needs bitsandbytes (pip install -e '.[qlora]')"
    ),
]


@pytest.fixture
def model(tiny_folder: Path, tmp_path: Path) -> Path:
    """A random Llama of width 64, the least that 4-bit blocks divide, and a tokenizer."""
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(tiny_folder)
    shape = {"num_key_value_heads": 2, "max_position_embeddings": 1024, "initializer_range": 0.1}
    shape["tie_word_embeddings"] = False
    return write_llama(tmp_path / "llama", tokenizer, width=64, **shape)


def test_four_bit_weights_train_are_saved_and_go_on(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    from peft import PeftModel
    from transformers import AutoModelForCausalLM, Trainer

    monkeypatch.chdir(tmp_path)
    train, kinds, original = Command(model, tmp_path), [], Trainer.train

    def spy(trainer, *args, **kwargs):
        kinds.append({type(module).__name__ for module in trainer.model.modules()})
        return original(trainer, *args, **kwargs)

    monkeypatch.setattr(Trainer, "train", spy)
    options = {"quantize": "true", "steps": 4, "checkpoint_every": 2, "sft_steps": 3}
    assert train("whole", "ddpo", **options) == 0
    assert len(kinds) == 2 and all("Linear4bit" in kind for kind in kinds)
    whole = record_of(tmp_path / "whole" / "ddpo")
    assert whole["settings"]["quantize"] is True and len(set(curve(whole))) == 4
    assert min(curve(whole, "grad_norm")) > 0
    # the reference is the policy at its start, in 4 bits too
    assert abs(curve(whole, "rewards/margins")[0]) < 0.05
    with monkeypatch.context() as patch:
        break_off(patch, 3)
        with pytest.raises(BrokenOff):
            train("broken", "ddpo", sft="whole/sft", **options)
    assert train("broken", "ddpo", sft="whole/sft", **options) == 0
    again = record_of(tmp_path / "broken" / "ddpo")
    assert again["resumed_at_step"] == 2 and curve(again) == pytest.approx(curve(whole), rel=5e-3)
    for arm in ("sft", "ddpo"):  # an adapter for the model in full precision, by plain PEFT
        base = AutoModelForCausalLM.from_pretrained(model, dtype=torch.float32)
        loaded = PeftModel.from_pretrained(base, str(tmp_path / "whole" / arm))
        moved = [p for name, p in loaded.named_parameters() if "lora_B" in name]
        assert len(moved) == 4 and all(p.abs().max() > 0 for p in moved)
