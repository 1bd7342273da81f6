"""The model card of an exported policy: what it is, how it was made, how well it works, and what is not known."""

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from jinja2 import Environment, StrictUndefined

from trivium.core.dialect import write_yaml
from trivium.serve.contract import Contract


@dataclass(frozen=True, kw_only=True)
class Grid:
    """A table: what stands above it, its columns, its rows as words."""

    head: Sequence[str]
    rows: Sequence[Sequence[str]]
    title: str = ""
    """A sentence."""


@dataclass(frozen=True, kw_only=True)
class Facts:
    """Everything that the card says, as words; whoever wrote them, they are escaped here."""

    name: str
    summary: Sequence[str]
    """Sentences: stage and step, what it was made of."""
    contract: Contract
    license: str
    """A hub's identifier, "other" where there are several."""
    datasets: Sequence[str]
    base_models: Sequence[str]
    curriculum: Grid
    tokens: Grid
    health: Sequence[Grid]
    rollouts: Grid
    texts: Grid
    licenses: Grid
    missing: Sequence[str]
    """Sentences about what was not measured, or went wrong."""
    versions: Mapping[str, str]

    def add_vision(self, why: str) -> "Facts":
        """Return the facts with the reason why transformers cannot load the encoder, if there is one."""
        said = f"The weights of vision/ are in model.safetensors alone, not in a form for transformers: {why}."
        return replace(self, missing=(*self.missing, said)) if why else self


class Raw(str):
    """Text of ours, that is not escaped."""


def render(facts: Facts) -> str:
    """Return the card, Markdown with front matter."""
    front = {
        "license": facts.license,
        **({"license_name": "several", "license_link": "LICENSES.json"} if facts.license == "other" else {}),
        "library_name": "trivium",
        "pipeline_tag": "robotics",
        "tags": ["robotics", "vision-language-action", "trivium"],
        **({"datasets": sorted(set(facts.datasets))} if facts.datasets else {}),
        **({"base_model": sorted(set(facts.base_models))} if facts.base_models else {}),
    }
    environment = Environment(undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True, finalize=_finalize)
    environment.globals |= {"grid": _grid}
    card = environment.from_string(TEMPLATE).render(
        facts=facts, contract=facts.contract, code=Raw(example(facts.contract)), dimensions=_dimensions(facts.contract)
    )
    return f"---\n{write_yaml(front)}---\n\n{card}\n"


def example(contract: Contract) -> str:
    """Return the four lines that load the folder and act; they run where they stand."""
    history = f"{contract.history}, " if contract.history > 1 else ""
    shapes = {view: f"{history}{h}, {w}, 3" for view, (h, w) in contract.picture_sizes.items()}
    images = ", ".join(f"{json.dumps(view)}: np.zeros(({shapes[view]}), np.uint8)" for view in contract.views)
    observation = f'{{"images": {{{images}}}, "state": np.zeros({len(contract.state_names)}), "instruction": "do it"}}'
    return (
        "import numpy as np\n"
        "from trivium.serve.policy import load_policy\n"
        'policy = load_policy(".")\n'
        f"commands = policy.act({observation})"
    )


def escape(text: str) -> str:
    """Return text as it will be read: no Markdown, no HTML, no table, one line."""
    line = " ".join(text.split())
    line = line.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    return re.sub(r"([\\`*_\[\]{}#|~$!])", r"\\\1", line)


def _finalize(value: Any) -> Any:
    return value if isinstance(value, Raw) else escape(str(value))


def _grid(grid: Grid) -> Raw:
    """Draw a table; without rows that is said."""
    if not grid.rows:
        return Raw("Not measured.\n")
    lines = [grid.head, ["---"] * len(grid.head), *grid.rows]
    drawn = [f"| {' | '.join(cell if i == 1 else escape(cell) for cell in line)} |" for i, line in enumerate(lines)]
    return Raw("\n".join([*([f"{escape(grid.title)}\n"] if grid.title else []), *drawn, ""]))


def _dimensions(contract: Contract) -> Grid:
    named = zip(contract.action_names, contract.action_kinds, contract.action_units, strict=True)
    rows = [(name, kind or "not said", unit or "not said") for name, kind, unit in named]
    return Grid(head=("command", "kind", "unit"), rows=rows)


TEMPLATE = """\
# {{ facts.name }}

A vision-language-action policy, trained with Trivium.
{% for sentence in facts.summary %}
{{ sentence }}
{% endfor %}

## Load it

In this folder:

```python
{{ code }}
```

`commands` is an array of {{ contract.horizon }} steps x {{ contract.action_names | length }} dimensions in physical \
units; the first step is for the time of the observation, the rest follow at {{ "%g" | format(contract.rate_hz) }} Hz. \
`load_policy` needs no code that trains. `language/` is a folder for `AutoModelForCausalLM` and `AutoTokenizer`, \
`vision/`, where there is one, for `AutoModel`.

Robot: {{ contract.embodiment or "not named" }}. Cameras: {{ contract.views | join(", ") or "none" }}\
{% if contract.history > 1 %}, {{ contract.history }} frames each{% endif %}. \
State: {{ contract.state_names | join(", ") }}.

{{ grid(dimensions) }}
## How it was made

{{ grid(facts.curriculum) }}
Tokens by bucket:

{{ grid(facts.tokens) }}
## How well it works

### Closed loop

{{ grid(facts.rollouts) }}
### Health check

{% for table in facts.health %}
{{ grid(table) }}
{% else %}
Not measured.

{% endfor %}
### Held-out text

{{ grid(facts.texts) }}
## Limitations

{% for sentence in facts.missing %}
- {{ sentence }}
{% endfor %}
- It was taught this robot, these cameras and these instructions; what it does elsewhere is not known.

## Licences

The terms of everything that the weights were made from; `LICENSES.json` says it in full.

{{ grid(facts.licenses) }}
## Versions

{% for name, version in facts.versions.items() %}
- {{ name }}: {{ version }}
{% endfor %}
"""
