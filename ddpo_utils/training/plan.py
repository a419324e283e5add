"""What a training run needs, from formulas, before anything is fetched: memory, tokens, FLOPs and hours.

Everything here is an estimate, except the counts of parameters. How near memory comes to what was measured stands in
data/results/memory.json (tests/benchmarks/memory.py makes it), on a CPU alone so far: it is what tensors take, and a C
library that keeps freed memory holds more. Hours rest on an assumed utilisation.
"""

from __future__ import annotations

import itertools
from dataclasses import replace
from pathlib import Path

from ..settings import WRITING_PROMPTS, CourseError, Profile, course_errors
from .architecture import adapted, architecture, trained_parameters
from .runs import divide

__all__ = [
    "architecture",
    "flops",
    "memory",
    "peak",
    "reference_ratio",
    "remedy",
    "show",
    "trained_parameters",
]

GB = 1e9
HEAD = (
    4096,
    32768,
)  # TRL's fused head works through tiles of so many tokens by so many words of the vocabulary
NF4 = (
    0.5 + 1 / 64 + 4 / (64 * 256)
)  # bytes a number: 4 bits, one byte a block of 64, 4 bytes for each 256 of those
OVERHEAD = {
    "cuda": 1.0 * GB,
    "cpu": 0.05 * GB,
}  # from no formula: CUDA's context and rounding; a trainer's workspaces
# glibc's allocator as it is, on a CPU: a process held 1.24 to 1.56 times what its tensors took (4 cases, 6 runs)
HEAP = 1.4
MARGIN = (
    1.15  # assumed: how far the formulas may be off on a GPU, where nothing has been measured yet
)
REMEDIES = (
    "max_length",
    "quantize",
    "micro_batch",
    "gradient_checkpointing",
)  # from the costliest to the mildest
METHODS = {"sft": "SFT", "ddpo": "DPO arms", "orpo": "ORPO arms"}

# GB of memory: a card that has it, and its peak of dense bf16 products (T4: fp16) in FLOP/s, by NVIDIA's data sheets.
CARDS = {
    16: ("T4", 65e12),
    24: ("RTX 4090", 165e12),
    40: ("A100 40 GB", 312e12),
    80: ("H100 SXM", 989e12),
    141: ("H200 SXM", 989e12),
}
UTILISATION = 0.30, 0.45  # assumed share of the peak that does useful work
PAPER = 421_330  # training responses of Chung et al., arXiv 2503.17126
POSTS = 95_000  # of r/writingPrompts that they answer, about
TOKENS = 600  # assumed: a response of r/writingPrompts with its prompt


def sequences(profile: Profile, method: str, gpus: int = 1) -> int:
    """Sequences in memory at once on each of `gpus` processes, as `recipes` divides a batch.

    Raises:
        CourseError: the batch cannot be shared by so many.
    """
    sft = method == "sft"
    batch = profile.sft_batch_size if sft else profile.batch_size
    if gpus < 1 or batch % gpus:
        raise CourseError(
            f"A batch of {batch} cannot be shared by {gpus} GPUs: choose --gpus that divides it."
        )
    if sft:
        return divide(batch // gpus, 2 * profile.micro_batch)
    return 2 * divide(batch // gpus, profile.micro_batch)


def memory(
    profile: Profile,
    method: str = "ddpo",
    device: str = "cuda",
    gpus: int = 1,
    sharded: bool = False,
) -> dict[str, float]:
    """Bytes at the peak of a training step on each device, part by part; the peak is their sum.

    With w bytes a number (2 for bf16 and fp16; `auto` is 4 on a CPU), P trained parameters, T tokens at once (every
    sequence padded to max_length L), width h, MLP width f, attention width a (heads x head size):

    frozen weights  w each; with `quantize` NF4 for the layers' linear maps, the blocks' scales quantised too (Dettmers
                    et al., arXiv 2305.14314), and w for embedding, head and norms.
    adapter         16 P: float32 weights, gradients, Adam's two moments; 8 P with `quantize`, where TRL keeps the
                    adapter in bf16. 4 P more for DDP's gradient buckets.
    reference       4 P: the frozen float32 copy of the SFT adapter, which TRL loads even where log-probs were computed
                    before. SFT has none, and ORPO none but where the KL from SFT is watched.
    kept            what autograd keeps of the forward pass, a token and layer: the norms' inputs in float32, 8 h;
                    queries and attention's output, 2 a w; keys and values, which SDPA repeats for every head where a
                    batch has padding, 2 a w; the padding mask, L w; the scores' normaliser, 4 a head (eager attention,
                    which Gemma 2 needs, keeps scores, 8 L a head, for these three and its output); the MLP's gate, its
                    activation and the other factor, 3 f w; the adapted maps' inputs (under autocast each keeps its own
                    copy; without, those that share an input keep it once, and attention's output is there already) and
                    r numbers each. Autocast keeps a copy of the adapter, 2 P. With checkpointing nothing but the
                    layers' inputs, h w.
    working space   the larger of two. The head's backward pass in tiles of 4,096 tokens by 32,768 words: one tile and
                    the hidden states with their gradient, (4 + w) h a token; on a CPU, where torch stands in for the
                    fused kernel, 8 such tiles in float32 and two of booleans. Or one layer's backward pass: 3 f + 2 h
                    numbers a token, and with checkpointing what the layer keeps, computed anew.
    sharded         FSDP holds a share of weights, adapter and reference, and gathers embedding and head, which stay,
                    and two layers, the one at work and the next.
    """
    model, trained, r = (
        architecture(profile),
        trained_parameters(architecture(profile), profile),
        profile.lora_r,
    )
    w = 4 if profile.dtype == "float32" or (device == "cpu" and profile.dtype == "auto") else 2
    h, f, a = model.width, model.inner, model.heads * model.head_dim
    tokens, maps = sequences(profile, method, gpus) * profile.max_length, adapted(model, profile)

    eager = profile.attention == "eager" or model.norms == 4
    autocast = w == 2 and device == "cuda" and not profile.quantize
    if autocast:
        inputs = sum(model.linears[name][0] for name in maps)
    else:
        inputs = h * bool({"q_proj", "k_proj", "v_proj"} & {*maps}) + h * bool(
            {"gate_proj", "up_proj"} & {*maps}
        )
        inputs += f * ("down_proj" in maps) + a * (eager and "o_proj" in maps)
    scores = 8 * model.heads if eager else w  # a token that is looked at
    layer = 4 * model.norms * h + 4 * model.heads + scores * profile.max_length
    layer += w * ((3 if eager else 4) * a + 3 * f + inputs + r * len(maps))
    tile = (
        min(tokens, HEAD[0])
        * min(model.vocabulary, HEAD[1])
        * (w if device == "cuda" else 8 * 4 + 2)
    )
    backward = (
        tokens * (w * (3 * f + 2 * h) + layer * profile.gradient_checkpointing)
        + w * h * f * profile.quantize
    )

    kept = model.layers * tokens * layer + 2 * trained * autocast
    linear = model.layers * model.layer * (NF4 if profile.quantize else w)
    ends = w * (model.parameters - model.layers * model.layer)
    share = gpus if sharded else 1
    several = ends + 2 * linear / model.layers if sharded else 4 * trained
    return {
        "frozen weights": (linear + ends) / share,
        "adapter, gradients, Adam": (8 if profile.quantize else 16) * trained / share,
        "reference adapter": 4 * trained / share if method == "ddpo" else 0.0,
        "for several GPUs": several if gpus > 1 else 0.0,
        "kept for backward": model.layers * tokens * w * h
        if profile.gradient_checkpointing
        else kept,
        "working space": max(tile + tokens * (4 + w) * h, backward),
        "overhead": OVERHEAD[device],
    }


def peak(profile: Profile, device: str = "cuda", gpus: int = 1, sharded: bool = False) -> float:
    """Bytes on each device that both SFT and the preference arms get by with."""
    return max(sum(memory(profile, method, device, gpus, sharded).values()) for method in METHODS)


def remedy(profile: Profile, room: float, gpus: int = 1, sharded: bool = False) -> Profile | None:
    """The profile with the mildest changes that fit in `room` bytes: checkpointing before smaller micro-batches, before
    4 bits, before shorter sequences; None where none do."""
    lengths = [n for n in (profile.max_length, 1024, 512) if n <= profile.max_length]
    choices = (
        lengths,
        (profile.quantize, True),
        (profile.micro_batch, 1),
        (profile.gradient_checkpointing, True),
    )
    tried = (
        replace(profile, **dict(zip(REMEDIES, values, strict=True)))
        for values in itertools.product(*choices)
    )
    return next(
        (changed for changed in tried if peak(changed, gpus=gpus, sharded=sharded) <= room), None
    )


def flops(profile: Profile, method: str = "ddpo") -> tuple[float, float]:
    """FLOPs a token: in each epoch, and once for the reference that is computed before.

    With N the parameters that a token is multiplied with: forward 2 N, gradients of the activations 2 N, 2 N more where
    checkpointing computes the forward pass anew; the reference's forward 2 N, in each epoch, or once if precomputed.
    LoRA's own gradients are left out (6 P beside 4 N), and so are attention's products of queries with keys and scores
    with values, 2 L a for each layer forward: with Llama-3.1-8B about 4% of 2 N at 2,048 tokens, 1% at 600.
    """
    n, step = architecture(profile).multiplied, 6 if profile.gradient_checkpointing else 4
    if method in ("sft", "orpo"):
        return n * step, 0
    return (n * step, 2 * n) if profile.precompute_reference else (n * (step + 2), 0)


def reference_ratio(epochs: float, checkpointing: bool) -> float:
    """FLOPs with the reference computed once, over those with its adapter in the loop: 14/18 = 0.78 for 3 epochs, with
    checkpointing 20/24 = 0.83."""
    step = 6 if checkpointing else 4
    return (step * epochs + 2) / ((step + 2) * epochs)


def data_size(profile: Profile) -> tuple[int, int, float, str]:
    """(responses, pairs, tokens a response with its prompt, where these come from); one's own file is counted.

    Raises:
        CourseError: the data are not there, or no pair can be made of them.
    """
    from ..corpus.stories import is_writing_prompts, load_stories
    from ..pairs import make_pairs
    from .arms import training_stories

    if is_writing_prompts(profile.data):
        if profile.data != WRITING_PROMPTS and not Path(profile.data).exists():
            raise CourseError(
                f"There are no data at {profile.data}: check the path, or leave out --data."
            )
        responses = int(PAPER * min(1, profile.prompts / POSTS)) if profile.prompts else PAPER
        source = (
            f"the paper's {PAPER:,} training responses"
            + f" on {profile.prompts:,} posts" * bool(profile.prompts)
        )
        source += " (yours are not counted)" * (profile.data != WRITING_PROMPTS)
        source += f"; at most half as many pairs, {TOKENS} tokens each (assumed)"
        return responses, responses // 2, TOKENS, source
    stories = training_stories(profile, load_stories(profile.data))
    characters = (stories["prompt"].str.len() + stories["text"].str.len()).mean()
    with course_errors():
        pairs = make_pairs(stories, min_gap=profile.min_gap, seed=profile.seed)
    whose = (
        "the bundled"
        if profile.data == "bundled"
        else f"{Path(profile.data).name}'s {len(stories):,} training"
    )
    return (
        len(stories),
        len(pairs),
        characters / 4 + 30,
        f"{whose} stories, 4 characters a token, a template of 30",
    )


def span(low: float, high: float) -> str:
    """From so many hours to so many, in minutes where the hours would be 0.0."""
    if high >= 0.1:
        return f"{low:,.1f} to {high:,.1f}"
    return f"{60 * low:.1f} to {60 * high:.1f} minutes" if high >= 0.1 / 60 else "under 0.1 minutes"


def show(profile: Profile, gpu_memory: float = 80.0, gpus: int = 1) -> None:
    """Print what a run needs: parameters, memory on each of `gpus` cards of `gpu_memory` GB, whether it fits, and work.

    Raises:
        CourseError: the model's sizes are not known offline, the batch cannot be shared, or as `data_size`.
    """
    if not gpu_memory > 0:
        raise CourseError(f"--gpu-memory is a number of GB, more than 0; got {gpu_memory:g}.")
    model, trained = architecture(profile), trained_parameters(architecture(profile), profile)
    targets = (
        "all linear maps"
        if profile.lora_targets == "all-linear"
        else ", ".join(adapted(model, profile))
    )
    ways = (
        {"": False}
        if gpus == 1
        else {" (DDP)": False} | ({} if profile.quantize else {" (FSDP)": True})
    )
    columns = {
        name + way: memory(profile, method, gpus=gpus, sharded=sharded)
        for way, sharded in ways.items()
        for method, name in METHODS.items()
    }
    size = data_size(profile)
    print(
        f"Profile {profile.name}, {profile.model}, on {gpus} GPU{'s' * (gpus > 1)} of {gpu_memory:g} GB, whatever this "
        "machine has: estimates by the formulas in ddpo_utils/plan.py, nothing measured."
    )
    print(
        f"Parameters: {model.parameters:,}; trained: {trained:,} (LoRA r {profile.lora_r} on {targets})\n"
    )
    print(f"{'GB at the peak, each GPU':<30}" + "".join(f"{name:>18}" for name in columns))
    for part in next(iter(columns.values())):
        if any(column[part] for column in columns.values()):
            print(
                f"  {part:<28}"
                + "".join(f"{column[part] / GB:18.1f}" for column in columns.values())
            )
    print(
        f"  {'together':<28}"
        + "".join(f"{sum(column.values()) / GB:18.1f}" for column in columns.values())
    )
    for way, sharded in ways.items():
        print(
            f"{way.strip(' ()')}: " * (gpus > 1) + verdict(profile, gpu_memory * GB, gpus, sharded)
        )
    _show_work(profile, size, gpu_memory, gpus)


def verdict(profile: Profile, room: float, gpus: int = 1, sharded: bool = False) -> str:
    """One line: it fits in `room` bytes, or with which settings it would, or what else to take."""
    need, where = peak(profile, gpus=gpus, sharded=sharded), f"{room / GB:g} GB"
    if need * MARGIN <= room:
        return f"It fits in {where}: it needs {need / GB:.1f} GB."
    fault = (
        f"may not fit in {where}, with a margin of" if need <= room else f"does not fit in {where}"
    )
    short = f"It needs {need / GB:.1f} GB and {fault}" + f" {MARGIN - 1:.0%}" * (need <= room)
    other = remedy(profile, room / MARGIN, gpus, sharded)
    if other is None:
        return f"{short}; no setting helps: take a larger card, share the model by FSDP, or take a smaller one."
    flags = " ".join(
        f"--{name.replace('_', '-')} {str(getattr(other, name)).lower()}"
        for name in REMEDIES
        if getattr(other, name) != getattr(profile, name)
    )
    return f"{short}; with {flags} it fits: {peak(other, gpus=gpus, sharded=sharded) / GB:.1f} GB."


def _show_work(
    profile: Profile, data: tuple[int, int, float, str], gpu_memory: float, gpus: int
) -> None:
    responses, pairs, tokens, source = data
    size = max((size for size in CARDS if size <= gpu_memory), default=min(CARDS))
    name, rate = CARDS[size]
    (sft, _), (step, once) = flops(profile, "sft"), flops(profile)
    told = (
        profile.sft_steps * profile.sft_batch_size / responses
        if profile.sft_steps
        else profile.sft_epochs
    )
    seen = (
        min(pairs, profile.steps * profile.batch_size) if profile.steps else pairs
    )  # the reference scores no others
    told_passes = profile.steps * profile.batch_size / seen
    passes, orpo = (told_passes,) * 2 if profile.steps else (profile.epochs, profile.orpo_epochs)
    rows = {
        "SFT, an epoch": (responses, sft),
        "DPO or DDPO, an epoch": (2 * pairs, step),
        "reference, once": (2 * seen, once),
        f"SFT, {told:.3g} epochs": (responses * told, sft),
        f"DPO arms, {passes:.3g} x {seen:,} pairs": (2 * seen * passes, step + once / passes),
        f"ORPO arms, {orpo:.3g} x {seen:,} pairs": (2 * seen * orpo, flops(profile, "orpo")[0]),
    }
    low, high = UTILISATION
    print(f"\n{'':<30}{'tokens':>10}{'FLOPs':>10}{'hours':>20}")
    for what, (count, cost) in rows.items():
        total = count * tokens * cost
        hours = [total / (gpus * rate * share * 3600) for share in (high, low)]
        print(f"{what:<30}{count * tokens:>10.2g}{total:>10.2g}" + span(*hours).rjust(20))
    print(
        f"Hours: {gpus} x {name} at {low:.0%} to {high:.0%} of {rate / 1e12:.0f} TFLOP/s (assumed), without padding."
    )
    if size != gpu_memory:
        print(f"The table has no card of {gpu_memory:g} GB: these are the hours of its {name}.")
    print(f"Data: {source}.")
