"""OLMo and OLMo 2: the Dolma mixtures, and how long each model trained on its own."""

from trivium.data.preset.preset import Cite, Preset, Setting, rows, settings

CARD = Cite("Hugging Face card of allenai/dolma", sure=False)
RECALLED = Cite("arXiv 2402.00159 and card of allenai/dolma", sure=False)
DOLMINO = Cite("card of allenai/dolmino-mix-1124 (arXiv 2501.00656)", sure=False)
OLMOE = Cite("card of allenai/OLMoE-mix-0924 (arXiv 2409.02060)", sure=False)
DOLMA_3 = Cite("secondary text on Dolma 3", sure=False)
CONFIGS = Cite("official OLMo configs, github allenai/OLMo")

DOLMA_17 = Preset(
    name="dolma-1.7",
    title="Dolma v1.7, in OLMo tokens",
    unit="B tokens",
    rows=(
        *rows(
            CARD,
            {
                "common-crawl": 1195.5,
                "refinedweb": 456.4,
                "starcoder": 263.8,
                "c4": 138.4,
                "reddit": 79.9,
                "pes2o": 57.2,
            },
            used={"common-crawl": 0.5, "c4": 0.5},
        ),
        *rows(
            RECALLED,
            {
                "arxiv": 28.0,
                "stackexchange": 19.6,
                "flan": 16.5,
                "cc-news": 14.3,
                "openwebmath": 12.6,
                "algebraic-stack": 12.6,
                "gutenberg": 5.3,
                "megawika": 4.6,
                "wikipedia": 3.7,
            },
            used={"wikipedia": 2.0},
        ),
    ),
    total=2308.5,
    total_cite=RECALLED,
    settings=(
        Setting(name="tokens of one pass, printed", value="1,715.1 B", cite=RECALLED),
        *settings(
            CONFIGS,
            {
                "OLMo-7B-0424: duration": "2 epochs",
                "OLMo-7B-0424: learning rate": "3e-4, cosine to 10 %, warm-up 10.49 B tokens",
                "OLMo-7B-0424: batch x context": "1,024 x 4,096",
            },
        ),
    ),
    notes=("With C4 sampled by half, one pass sums to less than what is printed: C4 whole would come near it.",),
)

DOLMA_15 = Preset(
    name="dolma-1.5",
    title="Dolma v1.5 and v1.6, in Llama tokens",
    unit="B tokens",
    rows=rows(
        RECALLED,
        {
            "common-crawl": 2281.0,
            "the-stack": 411.0,
            "c4": 198.0,
            "reddit": 89.0,
            "pes2o": 70.0,
            "gutenberg": 6.0,
            "wikipedia-wikibooks": 4.3,
        },
    ),
    total=3059.0,
    total_cite=RECALLED,
    settings=settings(
        CONFIGS,
        {
            "OLMo-7B: tokens seen": "2 T",
            "OLMo-7B: learning rate": "3e-4, linear to 10 %, warm-up 5,000 steps",
            "OLMo-7B: batch x context": "2,048 x 2,048",
        },
    ),
)

OLMO_2 = Preset(
    name="olmo2-stage1",
    title="OLMo 2, stage 1 (the sibling mixture OLMoE-mix-0924)",
    unit="B tokens",
    rows=rows(
        OLMOE,
        {
            "dclm": 3860.0,
            "starcoder": 101.0,
            "pes2o": 57.2,
            "arxiv": 21.1,
            "openwebmath": 12.7,
            "algebraic-stack": 12.6,
            "wikipedia": 3.69,
        },
    ),
    total=4070.0,
    total_cite=OLMOE,
    settings=settings(
        CONFIGS,
        {
            "OLMo2-1B: tokens seen": "4 T, learning rate 4e-4, batch 512 x 4,096",
            "OLMo2-7B: tokens seen": "3.9 T (928,646 steps), learning rate 3e-4, batch 1,024 x 4,096",
            "OLMo2-13B: tokens seen": "5.0 T (596,057 steps), learning rate 3e-4 in the config, batch 2,048 x 4,096",
            "OLMo2-32B: learning rate": "6e-4, cosine, warm-up 2,000 steps",
            "gradient clip, weight decay, z-loss": "1.0, 0.1, 1e-5",
        },
    ),
)

OLMO_2_ANNEAL = Preset(
    name="olmo2-stage2",
    title="OLMo 2, stage 2: Dolmino-mix-1124, the learning rate falls to 0",
    unit="B tokens",
    rows=rows(
        DOLMINO,
        {
            "dclm": 752.0,
            "flan": 17.0,
            "pes2o": 58.6,
            "wikipedia": 3.7,
            "stackexchange": 1.26,
            "synthetic-math": 0.23,
        },
    ),
    settings=settings(
        CONFIGS,
        {
            "7B: tokens seen": "50 B, three orders, weights averaged",
            "13B: tokens seen": "100 B, three orders, and 300 B, weights averaged",
            "learning rate": "linear to 0 from the last of stage 1 (7B: 6.15e-5), no warm-up",
        },
    ),
    notes=(
        "The pool from which stage 2 draws, not what it drew: the shares of the draws were not to be had.",
        'Synthetic mathematics is "230 M+ ..." in our source: a lower bound.',
    ),
)

DOLMA_3_MIX = Preset(
    name="dolma-3",
    title="Dolma 3 Mix: 5.93 T tokens",
    unit="share",
    rows=rows(
        DOLMA_3,
        {
            "common-crawl": 0.761,
            "science-pdf": 0.136,
            "code": 0.0689,
            "math": 0.0256,
            "arxiv": 0.0086,
            "wikipedia": 0.0004,
        },
    ),
    settings=settings(DOLMA_3, {"tokens": "5.93 T"}),
)

PRESETS = (DOLMA_15, DOLMA_17, DOLMA_3_MIX, OLMO_2, OLMO_2_ANNEAL)
