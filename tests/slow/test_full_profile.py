"""The profile 8b through papermill: notebooks 04 and 05 on a small model and small data."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from awkward_posts import small_posts

pytestmark = pytest.mark.slow

ROOT = Path(__file__).resolve().parents[2]
SMALL = {"tokenizer": "", "semantic": "minilm", "style": "stylometric"}
SMALL |= {"judge_semantic": "wordllama", "judge_style": "delta"}
SHORT = {"batch_size": 4, "sft_batch_size": 4, "sft_warmup_steps": 2, "sft_steps": 4, "steps": 4}
SHORT |= {"checkpoint_every": 2, "max_length": 512, "max_new_tokens": 24}
SHORT |= {"sample_prompts": 3, "samples": 2}
SMALL |= {"on_topic_rank": 70}  # the posts are random words: no encoder finds their prompts


def test_notebooks_04_and_05_run_with_the_profile_8b(tmp_path: Path, tiny_folder: Path) -> None:
    clone = tmp_path / "clone"
    subprocess.run(["git", "clone", "--quiet", ROOT, clone], check=True)
    data = small_posts(tmp_path / "posts.parquet", posts=40, responses=6, seed=0)
    settings = SMALL | SHORT | {"model": tiny_folder, "data": data}
    pairs = [f"{name}={value}" for name, value in settings.items()]
    env = {k: v for k, v in os.environ.items() if not k.startswith("DDPO_")}
    env |= {"PYTHONPATH": str(clone), "HF_HUB_OFFLINE": "1"}
    words = [sys.executable, "-m", "ddpo_utils", "run", "--profile", "8b"]
    words += ["--notebooks", "04", "05", "--set", *pairs]
    done = subprocess.run(words, cwd=clone, env=env, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    assert "2 passed, 0 failed" in done.stdout
    built = clone / "build" / "8b"
    record = json.loads((built / "adapters" / "ddpo" / "run.json").read_text(encoding="utf-8"))
    assert record["settings"]["lora_r"] == 128 and record["settings"]["max_length"] == 512
    results = json.loads((built / "evaluation" / "results.json").read_text(encoding="utf-8"))
    assert {"gold", "start", "sft", "dpo", "ddpo", "shuffled"} <= set(results["rows"])
    assert len(results["by_prompt"]["ddpo"]["semantic"]) == SHORT["sample_prompts"]
