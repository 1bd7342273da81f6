import numpy as np
import pytest
import torch

from trivium.core.batch import IGNORE, Kind
from trivium.core.errors import DataError
from trivium.data.row import Row, collate


def row(name: str, tokens: list[int], **fields) -> Row:
    ids = np.asarray(tokens, np.int64)
    targets = np.append(ids[1:], IGNORE) if len(ids) else ids
    kinds = np.full(len(ids), Kind.TEXT, np.int64)
    fields = {"length": len(ids), "counts": {"text": len(ids)}} | fields
    return Row(sample_id=name, tokens=ids, kinds=kinds, targets=targets, **fields)


def picture(value: int, size: int = 4) -> np.ndarray:
    return np.full((size, size, 3), value, np.uint8)


def test_packed_tokens_know_their_document_and_position():
    batch = collate([[("a", row("x", [5, 6, 7])), ("b", row("y", [8, 9]))], [("a", row("z", [1]))]], 6)
    assert batch.tokens.tolist() == [[5, 6, 7, 8, 9, 0], [1, 0, 0, 0, 0, 0]]
    assert batch.kinds.tolist() == [[1, 1, 1, 1, 1, 0], [1, 0, 0, 0, 0, 0]]
    assert batch.documents.tolist() == [[0, 0, 0, 1, 1, -1], [2, -1, -1, -1, -1, -1]]
    assert batch.positions.tolist() == [[0, 1, 2, 0, 1, 0], [0, 0, 0, 0, 0, 0]]
    assert batch.targets.tolist() == [[6, 7, IGNORE, 9, IGNORE, IGNORE], [IGNORE] * 6]
    assert batch.ids == ("x", "y", "z")
    assert batch.token_counts == {"a/text": 4, "b/text": 2}
    assert batch.num_tokens == 6
    assert batch.images is None
    assert batch.actions is None


def test_pictures_states_and_actions_name_their_document():
    chunk, valid = np.ones((3, 2), np.float32), np.array([True, True, False])
    robot = row("r", [1, 2], images=[picture(1), picture(2)], state=np.zeros(2, np.float32), actions=chunk, valid=valid)
    batch = collate([[("t", row("t", [3])), ("r", robot)], [("c", row("c", [4], images=[picture(3)]))]], 4)
    assert batch.images.shape == (3, 3, 4, 4)
    assert batch.images.dtype == torch.uint8
    assert batch.images[:, 0, 0, 0].tolist() == [1, 2, 3]
    assert batch.images_document.tolist() == [1, 1, 2]
    assert batch.states_document.tolist() == [1]
    assert batch.actions_document.tolist() == [1]
    assert batch.actions_valid.tolist() == [[True, True, False]]


def test_rows_without_tokens():
    empty = {"length": 4, "counts": {"image": 4}}
    batch = collate([[("v", row("a", [], images=[picture(1)], **empty))], [("v", row("b", [], **empty))]], 8)
    assert batch.tokens is None
    assert batch.images_document.tolist() == [0]
    assert batch.ids == ("a", "b")
    assert batch.num_tokens == 8


def test_shapes_that_cannot_be_stacked():
    packs = [[("v", row("a", [1], images=[picture(1)])), ("v", row("b", [1], images=[picture(1, 6)]))]]
    with pytest.raises(
        DataError, match=r"sample b: found pictures of shape \(6, 6, 3\); expected \(4, 4, 3\), as in sample a"
    ):
        collate(packs, 8)


def test_our_own_mistakes():
    with pytest.raises(AssertionError, match="pack 0 holds 3 tokens, a row has 2"):
        collate([[("a", row("x", [1, 2, 3]))]], 2)
    leaky = Row(
        sample_id="x",
        length=1,
        counts={"text": 1},
        tokens=np.array([1]),
        kinds=np.array([1]),
        targets=np.array([2]),
    )
    with pytest.raises(AssertionError, match="another sample's token"):
        collate([[("a", leaky)]], 2)
