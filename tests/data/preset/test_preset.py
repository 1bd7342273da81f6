import pytest

from trivium.core.errors import ConfigError
from trivium.data.bucket import shares
from trivium.data.preset.catalog import PRESETS, preset
from trivium.data.source.text import TextConfig

SIZES = {"row_length": 4096, "rows_per_batch": 8, "max_images_per_row": 0, "max_epochs": 5.0}


def sources(name: str) -> dict[str, TextConfig]:
    return {row.name: TextConfig(path=row.name) for row in preset(name).rows}


def test_every_figure_has_a_place_and_every_name_is_its_own():
    assert len({known.name for known in PRESETS}) == len(PRESETS)
    for known in PRESETS:
        assert known.rows, known.name
        assert len({row.name for row in known.rows}) == len(known.rows)
        assert (known.total is None) == (known.total_cite is None)
        for cite in [row.cite for row in known.rows] + [setting.cite for setting in known.settings]:
            assert cite.where, known.name
        if known.unit == "share":
            assert known.sum == pytest.approx(1.0, abs=0.0006), known.name


def test_what_was_not_read_is_marked():
    assert all(row.cite.sure for row in preset("starcoder2-3b").rows)
    assert not any(row.cite.sure for row in preset("dolma-1.7").rows)
    assert "not read there: check" in str(preset("dolma-1.7").rows[0].cite)
    assert str(preset("emu3.5-stage1").rows[0].cite) == "arXiv 2510.26583, section 3, Table 2"


@pytest.mark.parametrize(
    ("size", "ours", "printed"), [("3b", 612.45, 622.09), ("7b", 663.25, 658.58), ("15b", 913.23, 913.23)]
)
def test_sums_of_starcoder_beside_those_that_its_paper_prints(size, ours, printed):
    found = preset(f"starcoder2-{size}")
    assert found.sum == pytest.approx(ours, abs=0.005)
    assert found.total == printed


@pytest.mark.parametrize(("size", "parameters"), [("3b", 3.0e9), ("7b", 7.2e9), ("15b", 15.9e9)])
def test_the_capacity_aware_preset_becomes_that_of_each_size(size, parameters):
    mixed = preset("starcoder2").mixture(sources("starcoder2"), **SIZES).of_size(int(parameters))
    alone = preset(f"starcoder2-{size}").mixture(sources(f"starcoder2-{size}"), **SIZES)
    assert shares(mixed) == pytest.approx(shares(alone))
    assert ("openwebmath" in shares(mixed)) == (size != "3b")


def test_shares_are_those_of_the_tables():
    second = shares(preset("emu3.5-stage2").mixture(sources("emu3.5-stage2"), **SIZES))
    assert second == pytest.approx(
        {"text": 0.18, "image-text": 0.16, "video-text": 0.08, "any-to-image": 0.03, "video-interleaved": 0.55}
    )
    dolma = shares(preset("dolma-1.7").mixture(sources("dolma-1.7"), **SIZES))
    assert dolma["common-crawl"] / dolma["refinedweb"] == pytest.approx(0.5 * 1195.5 / 456.4)
    assert dolma["wikipedia"] / dolma["gutenberg"] == pytest.approx(2 * 3.7 / 5.3)


def test_rows_and_sources_must_match():
    given = sources("emu3.5-stage1")
    with pytest.raises(ConfigError, match=r"a source for 'image_text'; expected one of .*Did you mean 'image-text'\?"):
        preset("emu3.5-stage1").mixture({**given, "image_text": given["text"]}, **SIZES)
    del given["video-text"], given["text"]
    with pytest.raises(ConfigError, match="no source for text, video-text; expected a source for each of its 4 rows"):
        preset("emu3.5-stage1").mixture(given, **SIZES)


def test_a_preset_that_is_not_there():
    with pytest.raises(ConfigError, match=r"found 'starcoder2-3B'; .*Did you mean 'starcoder2-3b'\?"):
        preset("starcoder2-3B")
