"""The small world's language model: a tokenizer of whole words, a Llama trained from scratch.

Both are saved in one folder in transformers' form, so that `Profile.model` can name it.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import torch

from ..settings import progress_bar
from ..storage.files import check_seal, replacing, seal
from ..storage.locks import locked
from .grammar import World, all_prompts

CHAT_TEMPLATE = (
    "{% for message in messages %}"
    "{% if message['role'] == 'user' %}<prompt>{{ message['content'] }}"
    "{% else %}<story>{{ message['content'] }}<end>{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}<story>{% endif %}"
)
SPECIAL_TOKENS = ("<pad>", "<unknown>", "<prompt>", "<story>", "<end>")
ARCHITECTURE = {
    "hidden_size": 128,
    "intermediate_size": 384,
    "num_hidden_layers": 5,
    "num_attention_heads": 4,
    "num_key_value_heads": 4,
    "max_position_embeddings": 128,
    "tie_word_embeddings": True,
}
LEARNING_RATE = 3e-3
WARMUP_STEPS = 50


def make_tokenizer(stories: list[str]) -> Any:
    """A tokenizer of whole words and marks, each with the space before it.

    A word that is not in `stories` becomes <unknown>. Decoding gives texts back letter by letter.
    """
    from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    split = pre_tokenizers.Split(Regex(r" ?[\w]+| ?[^\w\s]+"), behavior="isolated")
    pieces = {piece for text in stories for piece, _ in split.pre_tokenize_str(text)}
    words = [*SPECIAL_TOKENS, *sorted(pieces)]
    vocabulary = {word: number for number, word in enumerate(words)}
    core = Tokenizer(models.WordLevel(vocabulary, unk_token="<unknown>"))
    core.pre_tokenizer = split
    core.decoder = decoders.Fuse()
    return PreTrainedTokenizerFast(
        tokenizer_object=core,
        pad_token="<pad>",
        unk_token="<unknown>",
        eos_token="<end>",
        chat_template=CHAT_TEMPLATE,
        additional_special_tokens=["<prompt>", "<story>"],
        clean_up_tokenization_spaces=False,
        padding_side="left",
    )


def make_model(world: World, folder: Path, held_out: int, steps: int, batch: int = 64) -> Path:
    """`folder` with a model of the world's stories; a finished one is kept.

    Of several processes one makes it. CourseError: the folder is damaged, or cannot be written.

    Args:
        held_out: number of prompts, the first of `all_prompts`, of which no story is seen.
        steps: of AdamW with a cosine schedule, on `batch` fresh stories each.
    """
    with locked(folder, wait=True):
        if folder.exists():
            check_seal(folder)
        else:
            # a killed run leaves no half model
            with replacing(folder) as part:
                _train_into(part, world, held_out, steps, batch)
                seal(part)
    return folder


def _train_into(folder: Path, world: World, held_out: int, steps: int, batch: int) -> None:
    from safetensors import SafetensorError
    from transformers import LlamaConfig, LlamaForCausalLM

    prompts = all_prompts(world.seed)
    tokenizer = make_tokenizer([*prompts, *world.stories(prompts, 20)["text"]])
    torch.manual_seed(world.seed)
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        pad_token_id=tokenizer.pad_token_id,
        eos_token_id=tokenizer.eos_token_id,
        bos_token_id=None,
        **ARCHITECTURE,
    )
    model = LlamaForCausalLM(config)
    each = math.ceil(steps * batch / (len(prompts) - held_out))
    fresh = world.stories(prompts[held_out:], each, draw=1)
    fresh = fresh.sample(frac=1, random_state=world.seed)
    texts = ("<prompt>" + fresh["prompt"] + "<story>" + fresh["text"] + "<end>").tolist()

    def rate(step: int) -> float:
        """Linear warm-up, then a cosine to zero."""
        done = min(1, step / steps)
        cosine = 0.5 * (1 + math.cos(math.pi * done))
        return min(1, (step + 1) / WARMUP_STEPS) * cosine

    optimiser = torch.optim.AdamW(
        model.parameters(), lr=LEARNING_RATE, betas=(0.9, 0.98), weight_decay=0.01
    )
    schedule = torch.optim.lr_scheduler.LambdaLR(optimiser, rate)
    for step in progress_bar(range(steps), desc="a model of the world", leave=False):
        part = texts[step * batch : (step + 1) * batch]
        inputs = tokenizer(part, return_tensors="pt", padding=True, padding_side="right")
        mask = inputs["attention_mask"]
        # The prompt's tokens are learnt too: ORPO's loss reads them.
        labels = inputs["input_ids"].masked_fill(mask == 0, -100)
        loss = model(input_ids=inputs["input_ids"], attention_mask=mask, labels=labels).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimiser.step()
        schedule.step()
        optimiser.zero_grad()
    try:
        model.save_pretrained(folder)
        tokenizer.save_pretrained(folder)
    except SafetensorError as error:  # the disk is full
        raise OSError(str(error)) from None
