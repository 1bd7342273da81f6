import numpy as np
import pytest

from trivium.synth.caption import caption, relation
from trivium.synth.narration import manual, narration
from trivium.synth.scene import Place, Scene, direction, distance_cm, heading
from trivium.synth.spatial_qa import Question, questions


def scene(gripper=(0.2, 0.3), thing=(0.6, 0.7), xyz=(0.03, 0.04, 0.0), opening=1.0, done=False) -> Scene:
    hand = Place("gripper", (0.0, 0.0, 0.0), *gripper)
    return Scene("open the drawer", hand, Place("drawer handle", xyz, *thing), opening, done)


def every(kind: str, of: Scene) -> list[Question]:
    return [q for q in questions(of, 99, np.random.default_rng(0)) if q.kind == kind]


@pytest.mark.parametrize(
    ("u", "v", "words"),
    [(0.5, 0.2, "above"), (0.5, 0.8, "below"), (0.2, 0.5, "left"), (0.9, 0.1, "above right"), (0.51, 0.49, "")],
)
def test_direction_is_that_of_the_picture(u: float, v: float, words: str):
    origin = Place("a", (0, 0, 0), 0.5, 0.5)
    assert direction(Place("b", (0, 0, 0), u, v), origin) == words


def test_heading_leads_from_the_gripper_to_the_object():
    assert heading(scene()) == "down and right"
    assert heading(scene(gripper=(0.9, 0.9))) == "up and left"
    assert heading(scene(gripper=(0.6, 0.7))) == "straight on"


def test_positions_are_hundredths_and_distances_centimetres():
    assert Place("a", (0, 0, 0), 0.419, 0.63).position == "x 41 y 63"
    assert distance_cm(scene().gripper, scene().object) == 5
    assert not Place("a", (0, 0, 0), 1.0, 0.5).visible
    assert not Place("a", (0, 0, 0), float("nan"), 0.5).visible


def test_relation_names_both_directions():
    of = scene()
    assert relation(of.gripper, of.object) == "above and left of the drawer handle in the picture"
    assert relation(of.object, of.gripper) == "below and right of the gripper in the picture"


def test_captions_take_every_form_and_say_what_is_so():
    rng = np.random.default_rng(0)
    found = {caption(scene(), rng) for _ in range(100)}
    assert found == {
        "The open gripper is above and left of the drawer handle in the picture, 5 cm away.",
        "The gripper is at x 20 y 30 and the drawer handle is at x 60 y 70.",
        "A robot arm with its open gripper near the drawer handle.",
        "The robot is about to open the drawer. The drawer handle is at x 60 y 70.",
        "To reach the drawer handle at x 60 y 70, the gripper has to move down and right in the picture; "
        "it is 5 cm away.",
    }
    assert any("has finished" in caption(scene(done=True), rng) for _ in range(30))
    assert any("closed gripper" in caption(scene(opening=0.2), rng) for _ in range(30))


def test_answers_follow_from_the_positions():
    of = scene()
    assert {(q.question, q.answer) for q in every("position", of)} == {
        ("Where is the gripper?", "x 20 y 30"),
        ("Where is the drawer handle?", "x 60 y 70"),
    }
    assert [q.answer for q in every("left_right", of)] == ["left"]
    assert [q.answer for q in every("above_below", of)] == ["above"]
    assert [q.answer for q in every("left_right", scene(gripper=(0.9, 0.3)))] == ["right"]
    assert [q.answer for q in every("distance", of)] == ["5 cm"]
    assert [q.answer for q in every("way", of)] == ["down and right"]
    assert {q.answer for q in every("yes_no", of)} == {"yes"}
    assert {q.answer for q in every("yes_no", scene(gripper=(0.9, 0.9)))} == {"no"}


def test_what_is_not_clear_is_not_asked():
    same = scene(gripper=(0.61, 0.7))
    assert not every("left_right", same)
    assert not every("name", same)
    assert not every("way", same)
    assert not every("near_far", scene(xyz=(0.07, 0.0, 0.0)))
    assert [q.answer for q in every("near_far", scene(xyz=(0.2, 0.0, 0.0)))] == ["far"]
    assert not any("drawer handle" in q.question for q in every("position", scene(thing=(1.2, 0.5))))


def test_questions_differ_and_come_again_with_the_same_rng():
    first = questions(scene(), 3, np.random.default_rng(1))
    assert len({q.question for q in first}) == 3
    assert first == questions(scene(), 3, np.random.default_rng(1))
    assert first != questions(scene(), 3, np.random.default_rng(2))


def test_a_narration_tells_the_way_the_move_and_the_end():
    rng = np.random.default_rng(0)
    ended = scene(gripper=(0.6, 0.5), thing=(0.6, 0.5), xyz=(0.03, 0.19, 0.0), done=True)
    found = [narration([scene(), ended], 2.25, rng) for _ in range(30)]
    assert all("The drawer handle moves 15 cm." in text and "down and right" in text for text in found)
    assert all("After 2.2 seconds the drawer handle is at x 60 y 50 and the task is done." in text for text in found)
    assert len(set(found)) == 6


def test_a_page_of_the_manual_uses_the_words_of_the_task():
    rng = np.random.default_rng(0)
    pages = {manual("open the drawer", ("pull it open",), "drawer handle", "open drawer", rng) for _ in range(50)}
    text = " ".join(pages)
    assert '"Pull it open" means the same as "open the drawer".' in text
    assert "To open the drawer, first bring the gripper to the drawer handle." in text
    assert len(pages) > 20
