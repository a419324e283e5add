"""The small world's language model: a tokenizer of the grammar's words and a Llama trained on its stories from scratch.

Both lie in one folder in transformers' form, so that everything else takes them as it takes any model.
"""

from __future__ import annotations

import math
import shutil
from pathlib import Path
from typing import Any

import torch

from ..settings import progress_bar
from .grammar import World, all_prompts

__all__ = ["make_model", "make_tokenizer"]

TEMPLATE = (
    "{% for message in messages %}{% if message['role'] == 'user' %}<prompt>{{ message['content'] }}"
    "{% else %}<story>{{ message['content'] }}<end>{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}<story>{% endif %}"
)
SHAPE = {
    "hidden_size": 128,
    "intermediate_size": 384,
    "num_hidden_layers": 5,
    "num_attention_heads": 4,
    "num_key_value_heads": 4,
    "max_position_embeddings": 128,
    "tie_word_embeddings": True,
}


def make_tokenizer(stories: list[str]) -> Any:
    """A tokenizer whose tokens are words and marks with the space before them; it spells nothing, so a word that is
    not in `stories` becomes <unknown>. Decoding gives texts back letter by letter."""
    from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    split = pre_tokenizers.Split(Regex(r" ?[\w]+| ?[^\w\s]+"), behavior="isolated")
    pieces = {piece for text in stories for piece, _ in split.pre_tokenize_str(text)}
    special = ["<pad>", "<unknown>", "<prompt>", "<story>", "<end>"]
    core = Tokenizer(
        models.WordLevel(
            {w: i for i, w in enumerate([*special, *sorted(pieces)])}, unk_token="<unknown>"
        )
    )
    core.pre_tokenizer, core.decoder = split, decoders.Fuse()
    return PreTrainedTokenizerFast(
        tokenizer_object=core,
        pad_token="<pad>",
        unk_token="<unknown>",
        eos_token="<end>",
        chat_template=TEMPLATE,
        additional_special_tokens=["<prompt>", "<story>"],
        clean_up_tokenization_spaces=False,
        padding_side="left",
    )


def make_model(world: World, folder: Path, held_out: int, steps: int, batch: int = 64) -> Path:
    """Train the model on fresh stories of all prompts but the first `held_out`, and save it in `folder` with its
    tokenizer; one that is there is kept. Next-token loss on prompts and stories, AdamW, cosine to zero.

    Returns:
        folder, for `Profile.model`.
    """
    from transformers import LlamaConfig, LlamaForCausalLM

    if (folder / "config.json").is_file():
        return folder
    prompts = all_prompts(world.seed)
    tokenizer = make_tokenizer([*prompts, *world.stories(prompts, 20)["text"]])
    torch.manual_seed(world.seed)
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        pad_token_id=tokenizer.pad_token_id,
        eos_token_id=tokenizer.eos_token_id,
        bos_token_id=None,
        **SHAPE,
    )
    model = LlamaForCausalLM(config)
    fresh = world.stories(
        prompts[held_out:], math.ceil(steps * batch / (len(prompts) - held_out)), draw=1
    )
    fresh = fresh.sample(frac=1, random_state=world.seed)
    texts = [
        f"<prompt>{p}<story>{t}<end>" for p, t in zip(fresh["prompt"], fresh["text"], strict=True)
    ]
    optimiser = torch.optim.AdamW(model.parameters(), lr=3e-3, betas=(0.9, 0.98), weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimiser,
        lambda i: min(1, (i + 1) / 50) * 0.5 * (1 + math.cos(math.pi * min(1, i / steps))),
    )
    for i in progress_bar(range(steps), desc="a model of the world", leave=False):
        rows = tokenizer(
            texts[i * batch : (i + 1) * batch],
            return_tensors="pt",
            padding=True,
            padding_side="right",
        )
        ids = rows["input_ids"]
        labels = ids.masked_fill(
            rows["attention_mask"] == 0, -100
        )  # prompts too: ORPO's loss will read them
        loss = model(input_ids=ids, attention_mask=rows["attention_mask"], labels=labels).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimiser.step()
        schedule.step()
        optimiser.zero_grad()
    scratch = folder.with_name(folder.name + ".part")
    shutil.rmtree(scratch, ignore_errors=True)
    model.save_pretrained(scratch)
    tokenizer.save_pretrained(scratch)
    scratch.rename(folder)
    return folder
