import pytest

from trivium.core.errors import ConfigError
from trivium.eval.sim.metaworld import check_views, task_text
from trivium.eval.sim.task import TASKS


def test_every_task_of_meta_world_has_its_words():
    policies = pytest.importorskip("metaworld.policies")
    assert set(TASKS) == set(policies.ENV_POLICY_MAP)


def test_no_two_tasks_share_an_instruction_and_no_sentence_repeats_within_one():
    assert len({text.instruction for text in TASKS.values()}) == 50
    for task, text in TASKS.items():
        said = [text.instruction, *text.paraphrases]
        assert len(set(said)) == len(said) >= 4, task
        for sentence in said:
            assert sentence == sentence.strip().lower().rstrip("."), f"{task}: {sentence!r} does not follow 'To'"


def test_a_misspelt_task_is_met_with_the_right_ones():
    with pytest.raises(ConfigError, match=r"found 'drawer-opn-v3'; expected .* Did you mean 'drawer-open-v3'"):
        task_text("drawer-opn-v3")


def test_an_unknown_view_is_refused_with_the_known_ones():
    with pytest.raises(ConfigError, match=r"views: found \('front',\); expected .*top, corner2.* Change `views`"):
        check_views(("front",))
    with pytest.raises(ConfigError, match="different names"):
        check_views(("top", "top"))
