"""`trivium show`: every setting with its meaning, and which parameters learn in which stage."""

import textwrap

from rich.table import Table
from rich.text import Text

from trivium.assemble import build_model, build_objective
from trivium.core.config import describe
from trivium.core.log import console
from trivium.policy.attention import ALWAYS, SENTENCES
from trivium.run import Run
from trivium.train.stage import apply_freeze


def show(config: Run) -> None:
    """Print the settings of a run, then its parts and what every stage trains; no data is read."""
    console.print(settings(config), soft_wrap=True)
    console.print(attention(config), soft_wrap=True)
    console.print(learners(config))


def settings(config: Run) -> Text:
    """Lay every setting out: dotted path (what an override names) and value, the meaning below them."""
    text = Text()
    for setting in describe(config):
        text.append(setting.path, "bold").append(f" = {_plain(setting.value)}\n")
        meaning = textwrap.fill(setting.doc, width=96, initial_indent="    ", subsequent_indent="    ")
        text.append(f"{meaning}\n" if setting.doc else "", "dim")
    return text


def attention(config: Run) -> Text:
    """Say in sentences who may look at whom."""
    said = (SENTENCES[config.model.attention], *ALWAYS)
    return Text("\n".join(["who may look at whom", *(f"    {sentence}" for sentence in said), ""]))


def learners(config: Run) -> Table:
    """Lay out, stage by stage, how many parameters of every part learn."""
    model = build_model(config)
    table = Table(title="who learns (parameters that learn / all)")
    for header in ("stage", "objective", "part", "learning", "frozen"):
        table.add_column(header, justify="right" if header in ("learning", "frozen") else "left")
    for stage in config.stages:
        objective = build_objective(stage.objective, model, config)
        stage.adapt(objective)
        apply_freeze(objective, stage.learn)
        parts: dict[str, list[int]] = {}
        for name, parameter in objective.named_parameters():
            sizes = parts.setdefault(name.split(".")[0], [0, 0])
            sizes[0 if parameter.requires_grad else 1] += parameter.numel()
        for number, (part, (learning, frozen)) in enumerate(parts.items()):
            head = (stage.name, stage.objective.kind) if number == 0 else ("", "")
            table.add_row(*head, part, f"{learning:,}" if learning else "-", f"{frozen:,}" if frozen else "-")
        table.add_section()
        stage.hand_over(objective)
    return table


def _plain(value: object) -> str:
    if isinstance(value, tuple):
        return ", ".join(map(str, value)) or "none"
    return str(value)
