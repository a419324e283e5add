"""Fit the style encoders on the training authors' stories and freeze them.

    python data/make/style.py      style.npz, in seconds

Style figures depend on this fit: every record with a style measure must be made again after it.
"""

from __future__ import annotations

from ddpo_utils.corpus.stories import load_stories
from ddpo_utils.embeddings.stylometry import fit_style
from recording import folders, parser, run


def main() -> None:
    args = parser(__doc__).parse_args()
    _, data = folders(args, "style")
    stories = load_stories()
    authors = (stories["source"] == "authors") & (stories["split"] == "train")
    fit_style(stories.loc[authors, "text"].tolist(), data / "style.npz")


if __name__ == "__main__":
    run(main)
