"""Samples of each row and their scores, stored as they come: log-probs, KLs from SFT, rewards."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import cache, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ..models.endpoint import Endpoint, served_models
from ..models.policy import load_adapter, load_policy, load_stops, number_type, public_name
from ..models.sampling import DECODING, read_samples, sample_served, sample_stories
from ..models.scoring import mean_logps, token_kl
from ..settings import CourseError, Profile, progress_bar
from ..storage.adapters import adapter_digest
from ..storage.files import read_json, read_numbers, short_digest, write_json
from ..training.run_folder import process
from .reward import Target, load_reward, public_backbone, score_stories
from .reward_trial import FINAL, decisive_accuracy, load_trial

if TYPE_CHECKING:
    import pandas as pd

PIECE = 32  # scores are stored after so many stories


def _model_key(profile: Profile) -> list[Any]:
    """What tells models of two profiles apart, adapters aside."""
    return [public_name(profile), profile.tokenizer, profile.quantize, profile.dtype]


def one_number_type(profile: Profile, folder: Path) -> Profile:
    """The profile with one number type for all that goes into `folder`.

    "auto" may rest on a timing, which can turn out otherwise in another process.
    """
    if profile.dtype != "auto":
        return profile
    path = folder / "number_type.json"
    if process().is_main_process and not path.is_file():
        write_json(path, str(number_type(profile)).removeprefix("torch."))
    process().wait_for_everyone()
    stored = read_json(path)
    if stored not in ("float32", "bfloat16", "float16"):
        raise CourseError(f"{path} is damaged: write the number type of the samples, or delete it.")
    return replace(profile, dtype=stored)


def read_row(path: Path, prompts: pd.DataFrame) -> pd.DataFrame:
    """A row's samples, each once; CourseError where they do not belong to the prompts.

    Two evaluations without a lock may have written each sample twice.
    """
    frame = read_samples(path)
    kinds = [frame[name].dtype.kind for name in ("sample", "tokens", "finished") if name in frame]
    texts = prompts.set_index("prompt_id")["prompt"]
    fits = kinds == ["i", "i", "b"] and not frame.duplicated(["prompt_id", "sample"]).any()
    if not fits or (frame["prompt_id"].map(texts) != frame.get("prompt")).any():
        raise CourseError(f"{path} holds other samples than its row's: delete it, run again.")
    return frame


def sample_rows(
    profile: Profile,
    adapters: Mapping[str, Path | None],
    prompts: pd.DataFrame,
    folder: Path,
    server: Endpoint | None = None,
) -> dict[str, Path]:
    """Each row's file of samples; this process makes its share of those that are missing."""
    # longest first: batches hold little padding, and memory runs out at once or never
    order = np.argsort(-prompts["prompt"].str.len().to_numpy(), kind="stable")
    prompts = prompts.iloc[order]
    content = prompts.to_numpy().tolist()
    plan = (profile.samples, profile.max_new_tokens, profile.sample_batch, profile.seed)
    model = _model_key(profile)
    if server:  # batches, seed and number types are its own
        plan, model = plan[:2], ["served", *model[:2]]
    wanted = len(prompts) * profile.samples
    paths, missing = {}, {}
    for row, adapter in adapters.items():
        key = short_digest(*model, adapter_digest(adapter), DECODING, content, *plan)
        path = folder / f"{row}-{'served-' if server else ''}{key}.jsonl"
        paths[row] = path
        lines = path.read_bytes().count(b"\n") if path.is_file() else 0
        if lines < wanted or len(read_row(path, prompts)) != wanted:
            missing[row] = adapter
    if server and missing:
        _sample_from(server, profile, missing, prompts, paths)
        missing = {}
    for row, adapter in missing.items():
        sample_stories(
            *load_policy(profile, adapter),  # no name keeps this model while the next one loads
            prompts,
            paths[row],
            profile.samples,
            profile.max_new_tokens,
            source=row,
            batch_size=profile.sample_batch,
            seed=profile.seed,
            rank=process().process_index,
            ranks=process().num_processes,
        )
    process().wait_for_everyone()
    return paths


def _sample_from(
    server: Endpoint,
    profile: Profile,
    adapters: Mapping[str, Path | None],
    prompts: pd.DataFrame,
    paths: Mapping[str, Path],
) -> None:
    """Sample this process's share of the rows from the server."""
    engine, names = served_models(server, adapters)
    tokenizer, stops = load_stops(profile)
    sizes = profile.samples, profile.max_new_tokens
    share = slice(process().process_index, None, process().num_processes)
    for row in [row for row in list(paths)[share] if row in adapters]:
        endpoint = replace(server, model=names[row])
        sample_served(endpoint, engine, tokenizer, stops, prompts, paths[row], *sizes)


def _scores_path(folder: Path, row: str, stories: pd.DataFrame, *key: Any) -> Path:
    """Where the scores of these stories are stored, without the suffix that names the score."""
    content = stories["prompt"].tolist(), stories["text"].tolist()
    return folder / f"{row}-{short_digest(*key, *content)}"


def _score(
    path: Path,
    stories: pd.DataFrame,
    load: Callable[[], tuple[Any, Any]],
    score: Callable[[Any, Any, pd.DataFrame], np.ndarray],
) -> list[float]:
    """Scores of the stories, stored in `path` piece by piece; a killed run goes on after the last.

    `load` gives model and tokenizer, if a score is missing.
    """
    values = read_numbers(path, len(stories)) if path.is_file() else []
    starts = range(len(values), len(stories), PIECE)
    shown = len(starts) >= 4 and process().is_main_process
    row = path.name.partition("-")[0]
    for start in progress_bar(starts, shown=shown, desc=row, leave=False):
        scores = score(*load(), stories.iloc[start : start + PIECE])
        if not np.isfinite(scores).all():
            raise CourseError(
                f"The model gives {row} scores that are no finite numbers: train it again with a "
                "lower learning rate, or set dtype to float32."
            )
        values += [round(float(value), 4) for value in scores]
        write_json(path, values, indent=None)
    return values


def compare_with_sft(
    profile: Profile,
    adapters: Mapping[str, Path | None],
    frames: Mapping[str, pd.DataFrame],
    folder: Path,
) -> tuple[dict[str, list[float]], dict[str, dict[Any, float]]]:
    """Each row's log-probs under SFT, and each arm's KLs from SFT; a process scores some rows.

    Returns:
        row -> mean log-prob of a token of each story (nats); arm -> prompt_id -> KL(arm || SFT)
        along its first sample of the prompt (nats a story).
    """
    sft = adapters["sft"]
    arms = [row for row in frames if adapters.get(row) is not None and row != "sft"]
    first = {}  # samples, along which the KL is measured
    for row in arms:
        frame = frames[row]
        first[row] = frame[frame["sample"] == 0]
    logp_paths = {}
    kl_paths = {}
    for row, frame in frames.items():
        digests = adapter_digest(sft), adapter_digest(adapters.get(row))
        path = _scores_path(folder, row, frame, *_model_key(profile), *digests)
        logp_paths[row] = Path(f"{path}.logp.json")
        kl_paths[row] = Path(f"{path}.kl.json")

    def load_pair(row: str) -> tuple[Any, Any]:
        model, tokenizer = load_policy(profile, adapters[row])
        load_adapter(model, sft, "ref")
        return model, tokenizer

    load_sft = cache(partial(load_policy, profile, sft))
    share = slice(process().process_index, None, process().num_processes)
    for row in list(frames)[share]:
        _score(logp_paths[row], frames[row], load_sft, mean_logps)
    load_sft.cache_clear()
    for row in arms[share]:
        _score(kl_paths[row], first[row], cache(partial(load_pair, row)), token_kl)
    process().wait_for_everyone()  # now all scores exist
    logps = {row: read_numbers(path, len(frames[row])) for row, path in logp_paths.items()}
    kls = {}
    for row in arms:
        values = read_numbers(kl_paths[row], len(first[row]))
        kls[row] = dict(zip(first[row]["prompt_id"], values, strict=True))
    return logps, kls


def score_rewards(
    profile: Profile, frames: Mapping[str, pd.DataFrame], folder: Path, reward: Path | None
) -> tuple[dict[str, Any], str]:
    """A reward for each row's stories (none if it did not pass), and a sentence on quality."""
    if reward is None:
        return {}, "quality not measured: no reward was given"
    trial = load_trial(reward)
    backbone = public_backbone(profile)
    if trial["backbone"] != backbone:
        other = f"the reward's trial is of {trial['backbone']}, another backbone"
        return {}, f"quality not measured: {other}"
    accuracy = decisive_accuracy(trial["accuracy"]["regression"])
    bound = trial["bound"]
    grounds = f"it orders {accuracy} of unseen pairs correctly; the lower end must reach {bound}"
    if accuracy.low < bound:
        return {}, f"quality not measured: the reward did not pass its trial ({grounds})"
    load = cache(partial(load_reward, profile, reward / FINAL))
    key = backbone, profile.dtype, profile.max_length, adapter_digest(reward / FINAL)
    quality = f"reward: regression on {backbone} ({grounds})"
    rewards = {}
    for row, frame in frames.items():
        if row == "gold":
            rewards[row] = Target(**trial["target"])(frame["score"])
            quality += "; Gold's is its own scores on the same scale, not the model's"
        else:
            path = Path(f"{_scores_path(folder, row, frame, *key)}.reward.json")
            rewards[row] = _score(path, frame, load, partial(score_stories, profile))
    return rewards, quality
