"""What a candidate of a trained model's space is worth: which weights it is judged with."""

from __future__ import annotations

from typing import NamedTuple

from pydantic import model_validator

from search_spaces.core import Part, setting, unknown_name

AUTO = "auto"
STEPS = 50
"""Of a candidate's own training, if nothing else is said."""
SECONDS = 600
"""Of the nested training, if nothing else is said."""


class WorthEntry(NamedTuple):
    """One way of judging a candidate.

    Attributes:
        help: what its weights are.
        use: when to take it.
    """

    help: str
    use: str


WORTHS: dict[str, WorthEntry] = {
    "repaired": WorthEntry(
        "those that are left, each layer making up for what it lost; nothing is trained", "what leaves the search is not trained either"
    ),
    "steps": WorthEntry(
        "repaired, then trained for a few steps towards the trained model, each candidate by itself",
        "each will be trained further, and a few seconds of it say which",
    ),
    "supernet": WorthEntry(
        "those of one nested training that all candidates share, with the trained model as the teacher",
        "one training must do for the whole front",
    ),
}  # fmt: skip


class Length(NamedTuple):
    """How long a training takes: one of both."""

    seconds: float | None
    steps: int | None

    def __str__(self) -> str:
        return f"{self.steps} steps" if self.steps else f"{self.seconds:g} seconds"


class WorthConfig(Part):
    """What a smaller model of a trained one is worth."""

    kind: str = setting(
        AUTO,
        name="worth",
        help="Which weights a smaller model of a trained one is judged with: see `nas list worths`.",
        otherwise="supernet with train_seconds or train_steps, else repaired",
    )
    seconds: float | None = setting(
        None,
        name="train_seconds",
        gt=0,
        help=f"Seconds of the nested training of worth supernet; {SECONDS} by default.",
    )
    steps: int | None = setting(
        None,
        name="train_steps",
        gt=0,
        help=f"Steps of that training, in place of seconds, or of each candidate's with worth steps; {STEPS} there by default.",
    )

    @property
    def used(self) -> str:
        """The way that is taken, also where none is named."""
        if self.kind != AUTO:
            return self.kind
        return "supernet" if self.seconds or self.steps else "repaired"

    @property
    def length(self) -> Length:
        """How long the training takes."""
        if self.used == "steps":
            return Length(None, self.steps or STEPS)
        return Length(None, self.steps) if self.steps else Length(self.seconds or SECONDS, None)

    @model_validator(mode="after")
    def _fits(self) -> WorthConfig:
        if self.kind != AUTO and self.kind not in WORTHS:
            raise unknown_name("worth", self.kind, WORTHS)
        if self.seconds and self.steps:
            raise ValueError(
                f"a training takes `train_seconds` or `train_steps`, got {self.seconds:g} and {self.steps}; leave out one"
            )
        if self.used == "repaired" and (self.seconds or self.steps):
            raise ValueError(
                f"`worth` repaired trains nothing, got {'train_seconds' if self.seconds else 'train_steps'} as well; leave it out, or "
                "choose steps or supernet"
            )
        if self.used == "steps" and self.seconds:
            raise ValueError(
                "`worth` steps takes `train_steps`, so that candidates compare on any machine, got `train_seconds`; give steps"
            )
        return self
