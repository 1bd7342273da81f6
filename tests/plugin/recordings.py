"""Robot sets as other people's programs write them: each picture says its own (episode, frame), action = 1000 e + t."""

import io
import json
import struct
import zipfile
from pathlib import Path
from typing import Any

import google_crc32c
import h5py
import numpy as np
import zarr
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory
from PIL import Image

LENGTHS = (9, 14, 5)
CELL = 4
SIZE = 4 * CELL
FPS = 20.0
TASKS = ("push the block", "open the drawer")
BASE = {"fps": FPS, "embodiment": "toy", "horizon": 4}


def draw(episode: int, frame: int) -> np.ndarray:
    """Sixteen black or white cells: eight bits of episode, eight of frame; the corner's colour tells up from down."""
    bits = np.unpackbits(np.array([episode, frame], np.uint8)).reshape(4, 4)
    return np.repeat(np.kron(bits * 255, np.ones((CELL, CELL))).astype(np.uint8)[..., None], 3, axis=2)


def seen(pixels: np.ndarray) -> tuple[int, int]:
    """Read (episode, frame) back from a picture."""
    bits = pixels.mean(2).reshape(4, CELL, 4, CELL).mean((1, 3)) > 127
    episode, frame = np.packbits(bits.reshape(-1))
    return int(episode), int(frame)


def numbers(episode: int, length: int) -> dict[str, np.ndarray]:
    """Position is t in two dimensions, gripper 100 + t, action 1000 e + t."""
    t = np.arange(length)
    return {
        "pos": np.stack([t, -t], 1).astype(np.float32),
        "gripper": (100.0 + t)[:, None],
        "action": np.stack([1000 * episode + t] * 3, 1).astype(np.float32),
        "pictures": np.stack([draw(episode, int(frame)) for frame in t]),
    }


# --- RLDS ------------------------------------------------------------------------------------------------------------


def _example_class() -> type:
    """Build tf.train.Example from the public definition in tensorflow/core/example/{example,feature}.proto."""
    file = descriptor_pb2.FileDescriptorProto(name="example.proto", package="t", syntax="proto3")
    kinds = {"bytes": ("BytesList", 12), "float": ("FloatList", 2), "int64": ("Int64List", 3)}
    feature = descriptor_pb2.DescriptorProto(name="Feature")
    feature.oneof_decl.add(name="kind")
    for number, (name, (message, kind)) in enumerate(kinds.items(), 1):
        file.message_type.add(name=message).field.add(name="value", number=1, label=3, type=kind)
        field = {"number": number, "label": 1, "type": 11, "type_name": f".t.{message}", "oneof_index": 0}
        feature.field.add(name=f"{name}_list", **field)
    file.message_type.append(feature)
    features = file.message_type.add(name="Features")
    entry = features.nested_type.add(name="FeatureEntry", options={"map_entry": True})
    entry.field.add(name="key", number=1, label=1, type=9)
    entry.field.add(name="value", number=2, label=1, type=11, type_name=".t.Feature")
    features.field.add(name="feature", number=1, label=3, type=11, type_name=".t.Features.FeatureEntry")
    example = file.message_type.add(name="Example")
    example.field.add(name="features", number=1, label=1, type=11, type_name=".t.Features")
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    return message_factory.GetMessageClass(pool.FindMessageTypeByName("t.Example"))


Example = _example_class()


def example(features: dict) -> bytes:
    """Serialise lists of bytes, floats or integers as TensorFlow does."""
    message = Example()
    for key, values in features.items():
        array = None if isinstance(values, list) else np.asarray(values).reshape(-1)
        kind = "bytes_list" if array is None else "float_list" if array.dtype.kind == "f" else "int64_list"
        getattr(message.features.feature[key], kind).value.extend(values if array is None else array.tolist())
    return message.SerializeToString()


def frame_record(data: bytes) -> bytes:
    """Put TFRecord's frame around a record."""

    def masked(part: bytes) -> bytes:
        crc = google_crc32c.value(part)
        return struct.pack("<I", (((crc >> 15) | (crc << 17) & 0xFFFFFFFF) + 0xA282EAD8) & 0xFFFFFFFF)

    head = struct.pack("<Q", len(data))
    return head + masked(head) + data + masked(data)


def encoded(pixels: np.ndarray, kind: str = "PNG") -> bytes:
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, kind, quality=95)
    return file.getvalue()


def rlds_episode(episode: int, length: int, kind: str = "JPEG") -> dict:
    """One episode, flattened as TFDS does; the action is a nested dictionary."""
    found = numbers(episode, length)
    t = np.arange(length)
    return {
        "steps/observation/image": [encoded(pixels, kind) for pixels in found["pictures"]],
        "steps/observation/pos": found["pos"],
        "steps/observation/gripper": found["gripper"],
        "steps/observation/raw": [row.astype("<f8").tobytes() for row in found["pos"]],
        "steps/action/move": found["action"][:, :2],
        "steps/action/open": found["action"][:, 2].astype(int),
        "steps/language_instruction": [TASKS[episode % 2].encode()] * length,
        "steps/is_first": (t == 0).astype(int),
        "steps/is_last": (t == length - 1).astype(int),
        "steps/is_terminal": (t == length - 1).astype(int),
        "steps/reward": (t == length - 1).astype(np.float32),
        "episode_metadata/file_path": [b"somewhere.hdf5"],
    }


def _leaf(kind: str, shape: tuple[int, ...] = (), dtype: str = "float32", **more: str) -> dict:
    sizes = {"dimensions": [str(x) for x in shape]} if shape else {}
    return {kind: {} if kind == "text" else {"shape": sizes, "dtype": dtype, **more}}


def _dictionary(**features: dict) -> dict:
    return {"pythonClassName": "FeaturesDict", "featuresDict": {"features": features}}


def write_rlds(root: Path, lengths: tuple[int, ...] = LENGTHS, kind: str = "JPEG") -> Path:
    """Write a TFDS folder of two shards; the last episode lies in the second."""
    root.mkdir(parents=True)
    flags = {flag: _leaf("tensor", (), "bool", encoding="none") for flag in ("is_first", "is_last", "is_terminal")}
    step = _dictionary(
        observation=_dictionary(
            image=_leaf("image", (SIZE, SIZE, 3), "uint8", encodingFormat="jpeg"),
            pos=_leaf("tensor", (2,), encoding="none"),
            gripper=_leaf("tensor", (1,), "float64", encoding="none"),
            raw=_leaf("tensor", (2,), "float64", encoding="bytes"),
        ),
        action=_dictionary(move=_leaf("tensor", (2,)), open=_leaf("tensor", (), "int32")),
        language_instruction=_leaf("text"),
        reward=_leaf("tensor"),
        **flags,
    )
    steps = {"pythonClassName": "Dataset", "sequence": {"feature": step, "length": "-1"}}
    meta = _dictionary(file_path=_leaf("text"))
    (root / "features.json").write_text(json.dumps(_dictionary(steps=steps, episode_metadata=meta)))
    shards = [range(len(lengths) - 1), range(len(lengths) - 1, len(lengths))]
    split = {"name": "train", "shardLengths": [str(len(shard)) for shard in shards], "numBytes": "0"}
    split["filepathTemplate"] = "{DATASET}-{SPLIT}.{FILEFORMAT}-{SHARD_X_OF_Y}"
    info = {"name": "toy", "version": "1.0.0", "fileFormat": "tfrecord", "splits": [split]}
    info["redistributionInfo"] = {"license": "CC-BY-4.0"}
    (root / "dataset_info.json").write_text(json.dumps(info))
    for j, shard in enumerate(shards):
        data = [frame_record(example(rlds_episode(e, lengths[e], kind))) for e in shard]
        (root / f"toy-train.tfrecord-{j:05d}-of-{len(shards):05d}").write_bytes(b"".join(data))
    return root


# --- HDF5 ------------------------------------------------------------------------------------------------------------


def write_robomimic(path: Path, lengths: tuple[int, ...] = LENGTHS, **storage: Any) -> Path:
    """Write a file by https://robomimic.github.io/docs/datasets/overview.html; demonstrations stand in wrong order."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with h5py.File(path, "w") as file:
        data = file.create_group("data")
        data.attrs["total"] = sum(lengths)
        kwargs = {"robots": ["Panda"], "control_freq": int(FPS)}
        data.attrs["env_args"] = json.dumps({"env_name": "Lift", "type": 1, "env_kwargs": kwargs})
        for e in reversed(range(len(lengths))):
            found, group = numbers(e, lengths[e]), data.create_group(f"demo_{e}")
            group.attrs["num_samples"] = lengths[e]
            group.attrs["model_file"] = "<mujoco/>"
            group.create_dataset("actions", data=found["action"].astype(np.float64), **storage)
            group.create_dataset("rewards", data=np.zeros(lengths[e]))
            group.create_dataset("dones", data=(np.arange(lengths[e]) == lengths[e] - 1).astype(int))
            group.create_dataset("states", data=np.zeros((lengths[e], 5)))
            for name in ("obs", "next_obs"):
                shift = int(name == "next_obs")
                for key, values in (("eef_pos", found["pos"]), ("gripper_qpos", found["gripper"])):
                    group.create_dataset(f"{name}/{key}", data=values + shift, **storage)
                group.create_dataset(f"{name}/agentview_image", data=found["pictures"], **storage)
        names = [f"demo_{e}".encode() for e in range(len(lengths))]
        file["mask/train"], file["mask/valid"] = np.array(names[:-1]), np.array(names[-1:])
    return path


def write_libero(root: Path, lengths: tuple[int, ...] = LENGTHS) -> Path:
    """Write a folder of two tasks as LIBERO's scripts/create_dataset.py does: pictures with the last row first."""
    root.mkdir(parents=True)
    for j, task in enumerate(TASKS):
        with h5py.File(root / f"{task.replace(' ', '_')}_demo.hdf5", "w") as file:
            data = file.create_group("data")
            episodes = [e for e in range(len(lengths)) if e % 2 == j]
            data.attrs["total"], data.attrs["num_demos"] = sum(lengths[e] for e in episodes), len(episodes)
            data.attrs["problem_info"] = json.dumps({"language_instruction": task, "domain_name": "robosuite"})
            data.attrs["macros_image_convention"] = "opengl"
            data.attrs["env_args"] = json.dumps({"type": 1, "env_kwargs": {"control_freq": int(FPS)}})
            for number, e in enumerate(episodes):
                found, group = numbers(e, lengths[e]), data.create_group(f"demo_{number}")
                group.attrs["num_samples"] = lengths[e]
                group.create_dataset("actions", data=found["action"].astype(np.float64))
                group.create_dataset("obs/agentview_rgb", data=found["pictures"][:, ::-1])
                group.create_dataset("obs/eye_in_hand_rgb", data=found["pictures"][:, ::-1])
                group.create_dataset("obs/ee_states", data=np.repeat(found["pos"], 3, axis=1).astype(np.float64))
                group.create_dataset("obs/gripper_states", data=np.repeat(found["gripper"], 2, axis=1))
    return root


# --- Zarr ------------------------------------------------------------------------------------------------------------


def write_zarr(path: Path, lengths: tuple[int, ...] = LENGTHS, version: int = 2, **how: Any) -> Path:
    """Write a ReplayBuffer of Diffusion Policy with the zarr library: data/<key> and meta/episode_ends."""
    path.parent.mkdir(parents=True, exist_ok=True)
    parts = [numbers(e, length) for e, length in enumerate(lengths)]
    joined = {key: np.concatenate([part[key] for part in parts]) for key in parts[0]}
    kind = how.pop("pictures", np.uint8)
    arrays = {"img": joined["pictures"].astype(kind), "agent_pos": joined["pos"], "gripper": joined["gripper"]}
    arrays |= {"action": joined["action"]}
    if how.pop("channels_first", False):
        arrays["img"] = np.ascontiguousarray(arrays["img"].transpose(0, 3, 1, 2))
    folder = path.with_suffix(".folder") if path.suffix == ".zip" else path
    root = zarr.open_group(folder, mode="w", zarr_format=version)
    for key, values in arrays.items():
        chunks = (5, *values.shape[1:]) if key == "img" else (7, *values.shape[1:])
        made = root.create_array(f"data/{key}", shape=values.shape, dtype=values.dtype, chunks=chunks, **how)
        made[:] = values
    ends = np.cumsum(lengths).astype(np.int64)
    root.create_array("meta/episode_ends", shape=ends.shape, dtype=ends.dtype, chunks=ends.shape, **how)[:] = ends
    if path.suffix == ".zip":
        with zipfile.ZipFile(path, "w") as archive:
            for file in sorted(p for p in folder.rglob("*") if p.is_file()):
                archive.write(file, file.relative_to(folder).as_posix())
    return path
