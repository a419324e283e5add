"""The README's script for several processes: `train.py MODEL PARQUET OUTPUT` trains two steps."""

import sys

from datasets import load_dataset
from peft import LoraConfig
from transformers import AutoModelForCausalLM, AutoTokenizer
from trl import DPOConfig

from ddpo_utils import DDPOTrainer

model, pairs, output = sys.argv[1:]
args = DPOConfig(
    output_dir=output,
    per_device_train_batch_size=2,
    max_steps=2,
    max_length=64,
    precompute_ref_log_probs=True,
    use_cpu=True,
    bf16=False,
    logging_steps=1,
    report_to="none",
    save_strategy="no",
)
trainer = DDPOTrainer(
    AutoModelForCausalLM.from_pretrained(model, dtype="float32"),
    args=args,
    train_dataset=load_dataset("parquet", data_files=pairs, split="train", cache_dir=output),
    processing_class=AutoTokenizer.from_pretrained(model),
    peft_config=LoraConfig(r=2, target_modules="all-linear", task_type="CAUSAL_LM"),
)
trainer.train()
state = trainer.accelerator
sys.stdout.write(f"process {state.process_index} of {state.num_processes}\n")
sys.stdout.flush()
