"""All published mixtures by name."""

from trivium.core.errors import ConfigError
from trivium.core.schema import suggest
from trivium.data.preset import emu, internvl, olmo, starcoder
from trivium.data.preset.preset import Preset

PRESETS: tuple[Preset, ...] = (*emu.PRESETS, *starcoder.PRESETS, *internvl.PRESETS, *olmo.PRESETS)


def preset(name: str) -> Preset:
    """Return the published mixture of a name; its `mixture` takes your sources.

    Raises:
        ConfigError: there is none of that name.
    """
    names = [known.name for known in PRESETS]
    if name not in names:
        todo = suggest(name, names, "`trivium data presets` lists them.")
        raise ConfigError("preset", repr(name), "the name of a published mixture", todo)
    return PRESETS[names.index(name)]
