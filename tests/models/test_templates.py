"""Chat templates of real models: what is sampled and scored is what TRL trains on."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch
import trl
from faults import refusal
from tiny_llama import write_llama
from trl import DPOConfig, DPOTrainer

from ddpo_utils import get_profile, load_policy
from ddpo_utils.models.prompting import answer_end, render, render_exchanges, stop_tokens
from ddpo_utils.models.sampling import complete
from ddpo_utils.models.scoring import mean_logps
from ddpo_utils.training.one_arm import _orpo_trainer, to_dataset

CHATML = (
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n"
    "{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
MISTRAL = (
    "{{ bos_token }}{% for m in messages %}{% if m['role'] == 'user' %}[INST] {{ m['content'] }} "
    "[/INST]{% else %} {{ m['content'] | trim }}{{ eos_token }}{% endif %}{% endfor %}"
)
VICUNA = (
    "{% for m in messages %}{% if m['role'] == 'user' %}USER: {{ m['content'] }} {% else %}"
    "ASSISTANT: {{ m['content'] }} {{ eos_token }}\n{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}ASSISTANT: {% endif %}"
)
TOKENS = ["<|im_start|>", "<|im_end|>", "<|eot_id|>", "<end_of_turn>", "<|end|>", "<think>"]
TOKENS += ["</think>", "[INST]", "[/INST]", "<turn|>", "<｜end▁of▁sentence｜>"]
ENDS = {  # a template's text, or its name in TRL, and the token that ends its answers
    CHATML: "<|im_end|>",
    MISTRAL: "</s>",
    VICUNA: "</s>",
    "llama3": "<|eot_id|>",
    "gemma": "<end_of_turn>",
    "phi3": "<|end|>",
    "qwen3": "<|im_end|>",
    "qwen3_5_think": "<|im_end|>",
    "deepseek_r1_distill": "<｜end▁of▁sentence｜>",
    "glm4moe": "",  # a turn ends where the next one begins
}
PROMPTS = ["Sea.", "A clock 🙂 stops", " spaces ", "ANSWER the door", "two\nlines\n"]
TEXTS = ["the light", "nobody knows\n\nÉlodie", " indented ", "ANSWER", "ends\n"]


@pytest.fixture(params=ENDS, ids=lambda template: template.split("\n")[0][:24])
def folder(request: Any, tiny: Any, tmp_path: Path) -> tuple[Path, str]:
    """A tiny model whose tokenizer has a real template, and the token that ends its answers."""
    tokenizer = tiny[1]
    template = request.param
    if "{" not in template:
        path = Path(trl.__file__).parent / "chat_templates" / f"{template}.jinja"
        template = path.read_text(encoding="utf-8")
    tokenizer.add_special_tokens({"eos_token": "</s>", "bos_token": "<s>", "pad_token": "<|pad|>"})
    tokenizer.add_tokens(TOKENS, special_tokens=True)
    tokenizer.chat_template = template
    return write_llama(tmp_path / "m", tokenizer), ENDS[request.param]


def trained(model: Any, tokenizer: Any, tmp_path: Path, pairs: pd.DataFrame) -> list[Any]:
    """The rows that TRL makes for DPO of these pairs."""
    args = DPOConfig(str(tmp_path / "dpo"), report_to="none", bf16=False, max_length=None)
    data = to_dataset(pairs).remove_columns("weight")
    return list(
        DPOTrainer(model, None, args, train_dataset=data, processing_class=tokenizer).train_dataset
    )


@pytest.mark.filterwarnings("ignore:The chat template")
def test_what_is_sampled_and_scored_is_what_is_trained(folder, tmp_path):
    path, end = folder
    profile = get_profile("smoke", model=str(path), dtype="float32", max_length=512)
    model, tokenizer = load_policy(profile)
    assert answer_end(tokenizer)[1] == end
    assert not end or tokenizer.convert_tokens_to_ids(end) in stop_tokens(
        model.generation_config, tokenizer
    )
    pairs = pd.DataFrame({"prompt": PROMPTS, "chosen": TEXTS, "rejected": TEXTS[::-1]})
    rows = trained(model, tokenizer, tmp_path, pairs)
    exchanges = render_exchanges(tokenizer, PROMPTS, TEXTS)
    means = []
    for row, asked, (prompt, answer) in zip(
        rows, render(tokenizer, PROMPTS), exchanges, strict=True
    ):
        ids = row["prompt_ids"] + row["chosen_ids"]
        before = tokenizer(asked, add_special_tokens=False)["input_ids"]
        scored = tokenizer(prompt + answer, add_special_tokens=False)["input_ids"]
        assert asked == prompt and ids[: len(before)] == before and ids[: len(scored)] == scored
        assert tokenizer.decode(ids[len(scored) :]).replace("</s>", "").strip() == ""
        with torch.no_grad():
            logps = model(input_ids=torch.tensor([ids])).logits[0].log_softmax(-1)
        places = range(len(before), len(scored))
        means.append(sum(float(logps[i - 1, ids[i]]) for i in places) / len(places))
    frame = pairs[["prompt"]].assign(text=TEXTS)
    assert mean_logps(model, tokenizer, frame).tolist() == pytest.approx(means, rel=1e-4)
    for row, (prompt, answer) in zip(
        _orpo_trainer(profile, pairs.assign(weight=1.0), tmp_path / "orpo").train_dataset,
        exchanges,
        strict=True,
    ):
        ids = tokenizer(prompt + answer, add_special_tokens=False)["input_ids"]
        assert row["chosen_input_ids"] == ids + ([] if end else [tokenizer.eos_token_id])


@pytest.mark.filterwarnings("ignore:The chat template")
def test_an_answer_stops_at_the_templates_end_and_at_the_models(folder, monkeypatch):
    path, end = folder
    model, tokenizer = load_policy(get_profile("smoke", model=str(path), dtype="float32"))
    words = tokenizer("light out", add_special_tokens=False)["input_ids"]
    for stop in {end or "</s>", "</s>"}:
        new = torch.tensor([[*words, tokenizer.convert_tokens_to_ids(stop), *words]])
        monkeypatch.setattr(
            model, "generate", lambda input_ids, new=new, **kw: torch.cat([input_ids, new], dim=1)
        )
        (answer,) = complete(model, tokenizer, ["Sea."], 9)
        assert answer == {"text": "light out", "tokens": len(words), "finished": True}


def test_a_template_that_cannot_be_used_is_named(tiny):
    tokenizer = tiny[1]
    for template in (
        "{{ raise_exception('no system') }}",
        "{{ messages[0]['content'] }}",
        "{{ x.y }}",
    ):
        tokenizer.chat_template = template
        assert "chat template" in refusal(render, tokenizer, ["Sea."])
    tokenizer.chat_template = "{% for m in messages %}{{ m['content'] }}\n{% endfor %}"
    assert answer_end(tokenizer) == ("", "")
