"""The same demonstrations in other laboratories' formats, written by the formats' own rules and not by our readers'."""

import io
import json
import struct
import tarfile
from collections.abc import Iterator, Mapping
from pathlib import Path

import av
import google_crc32c
import h5py
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import zarr
from PIL import Image as Pillow

from trivium.core.sample import Action, Image, State, Text
from trivium.data.source.episode import EpisodeSource

Arrays = Mapping[str, np.ndarray]


def episodes(source: EpisodeSource, count: int) -> Iterator[tuple[str, Arrays]]:
    """Yield the task sentence and the arrays (picture, state, action) of the first episodes."""
    for begin, end in list(zip(source.found.begin, source.found.end, strict=True))[:count]:
        samples = [source.read(i) for i in range(begin, end)]
        yield (
            source.task(int(begin)),
            {
                "picture": np.stack([sample.of(Image)[0].pixels for sample in samples]),
                "state": np.stack([sample.of(State)[0].values for sample in samples]),
                "action": np.stack([sample.of(Action)[0].values[0] for sample in samples]),
            },
        )


def write_robomimic(path: Path, source: EpisodeSource, count: int) -> Path:
    """One HDF5 file: data/demo_i/{obs/*, actions, dones, rewards, states}, num_samples, total, env_args."""
    with h5py.File(path, "w") as file:
        data = file.create_group("data")
        data.attrs["env_args"] = json.dumps({"env_name": "demo", "type": 1, "env_kwargs": {}})
        total = 0
        for number, (task, arrays) in enumerate(episodes(source, count)):
            demo = data.create_group(f"demo_{number}")
            length = len(arrays["action"])
            demo.attrs["num_samples"] = length
            demo.create_dataset("actions", data=arrays["action"].astype(np.float64))
            demo.create_dataset("dones", data=np.arange(length) == length - 1)
            demo.create_dataset("rewards", data=np.zeros(length))
            demo.create_dataset("states", data=arrays["state"].astype(np.float64))
            demo.create_dataset("obs/top", data=arrays["picture"])
            demo.create_dataset("obs/proprio", data=arrays["state"].astype(np.float64))
            data.attrs["problem_info"] = json.dumps({"language_instruction": task})
            total += length
        data.attrs["total"] = total
    return path


def write_diffusion_policy(path: Path, source: EpisodeSource, count: int) -> Path:
    """A Zarr folder: data/{img, state, action} of all frames and meta/episode_ends."""
    parts = [arrays for _, arrays in episodes(source, count)]
    root = zarr.open_group(str(path), mode="w", zarr_format=2)
    for name, key in (("img", "picture"), ("state", "state"), ("action", "action")):
        values = np.concatenate([part[key] for part in parts])
        root.create_array(f"data/{name}", data=values, chunks=(16, *values.shape[1:]))
    root.create_array("meta/episode_ends", data=np.cumsum([len(part["action"]) for part in parts]))
    return path


def write_rlds(folder: Path, source: EpisodeSource, count: int) -> Path:
    """A TFDS folder: features.json, dataset_info.json, and one Example an episode in a TFRecord file."""
    folder.mkdir(parents=True)
    records = []
    for task, arrays in episodes(source, count):
        length = len(arrays["action"])
        first, last = np.arange(length) == 0, np.arange(length) == length - 1
        records.append(
            _example(
                {
                    "steps/observation/image": [_png(picture) for picture in arrays["picture"]],
                    "steps/observation/state": arrays["state"].astype(np.float32).reshape(-1),
                    "steps/action": arrays["action"].astype(np.float32).reshape(-1),
                    "steps/language_instruction": [task.encode()] * length,
                    "steps/is_first": first.astype(np.int64),
                    "steps/is_last": last.astype(np.int64),
                    "steps/is_terminal": last.astype(np.int64),
                }
            )
        )
    (folder / "demo-train.tfrecord-00000-of-00001").write_bytes(b"".join(map(_record, records)))
    split = {"name": "train", "shardLengths": [str(len(records))], "numBytes": "0"}
    about = {"name": "demo", "version": "1.0.0", "fileFormat": "tfrecord", "splits": [split]}
    (folder / "dataset_info.json").write_text(json.dumps(about))
    (folder / "features.json").write_text(json.dumps(_features(arrays)))
    return folder


def write_webdataset(path: Path, rows: list[tuple[np.ndarray, str]]) -> Path:
    """A tar shard of NNN.png beside NNN.txt."""
    with tarfile.open(path, "w", format=tarfile.USTAR_FORMAT) as tar:
        for number, (picture, words) in enumerate(rows):
            for suffix, data in (("png", _png(picture)), ("txt", words.encode())):
                member = tarfile.TarInfo(f"{number:06d}.{suffix}")
                member.size = len(data)
                tar.addfile(member, io.BytesIO(data))
    return path


def write_llava(folder: Path, rows: list[tuple[np.ndarray, str, str]]) -> Path:
    """LLaVA's json with pictures beside it; the turns of one picture are one conversation."""
    folder.mkdir(parents=True)
    records = []
    for number, (picture, question, answer) in enumerate(rows):
        (folder / f"{number}.png").write_bytes(_png(picture))
        turns = [{"from": "human", "value": f"<image>\n{question}"}, {"from": "gpt", "value": answer}]
        turns += [{"from": "human", "value": "Are you sure?"}, {"from": "gpt", "value": "Yes."}]
        records.append({"id": f"{number}", "image": f"{number}.png", "conversations": turns})
    (folder / "train.json").write_text(json.dumps(records))
    return folder / "train.json"


def write_code(path: Path, files: list[tuple[str, str, str]]) -> Path:
    """Rows of repository, path and content, as The Stack v2 has them."""
    names = ("repo_name", "path", "content")
    pq.write_table(pa.table({name: [file[j] for file in files] for j, name in enumerate(names)}), path)
    return path


def write_talk(folder: Path, source: EpisodeSource, count: int, fps: int = 10) -> Path:
    """Videos with subtitles beside them that say what is done."""
    folder.mkdir(parents=True)
    for number, (task, arrays) in enumerate(episodes(source, count)):
        with av.open(str(folder / f"{number}.mp4"), "w") as container:
            stream = container.add_stream("libx264", rate=fps, options={"g": "5"})
            stream.height, stream.width = arrays["picture"].shape[1:3]
            stream.pix_fmt = "yuv420p"
            for pixels in arrays["picture"]:
                container.mux(stream.encode(av.VideoFrame.from_ndarray(pixels, format="rgb24")))
            container.mux(stream.encode())
        end = len(arrays["picture"]) / fps
        (folder / f"{number}.srt").write_text(f"1\n{_clock(0)} --> {_clock(end / 2)}\nNow we {task}.\n")
    return folder


def captions(source: EpisodeSource, count: int) -> list[tuple[np.ndarray, str]]:
    """Pictures of evenly spread frames with their instruction as words."""
    chosen = [source.read(int(i)) for i in np.linspace(0, len(source) - 1, count).astype(int)]
    return [(sample.of(Image)[0].pixels, sample.of(Text)[0].text) for sample in chosen]


def _clock(seconds: float) -> str:
    return f"00:00:{int(seconds):02d},{round(seconds % 1 * 1000):03d}"


def _png(pixels: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    Pillow.fromarray(pixels).save(buffer, format="PNG")
    return buffer.getvalue()


def _varint(value: int) -> bytes:
    out = bytearray()
    while value > 127:
        out.append(value & 127 | 128)
        value >>= 7
    return bytes([*out, value])


def _field(number: int, payload: bytes) -> bytes:
    return _varint(number << 3 | 2) + _varint(len(payload)) + payload


def _feature(values: object) -> bytes:
    if isinstance(values, list):
        return _field(1, b"".join(_field(1, item) for item in values))
    assert isinstance(values, np.ndarray)
    if values.dtype == np.float32:
        return _field(2, _field(1, values.astype("<f4").tobytes()))
    return _field(3, _field(1, b"".join(_varint(int(value)) for value in values)))


def _example(features: Mapping[str, object]) -> bytes:
    entries = (_field(1, name.encode()) + _field(2, _feature(values)) for name, values in features.items())
    return _field(1, b"".join(_field(1, entry) for entry in entries))


def _masked(data: bytes) -> bytes:
    crc = google_crc32c.value(data)
    return struct.pack("<I", ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF)


def _record(data: bytes) -> bytes:
    head = struct.pack("<Q", len(data))
    return head + _masked(head) + data + _masked(data)


def _features(arrays: Arrays) -> dict:
    """features.json of TFDS, as far as a reader needs it."""

    def tensor(shape: list[int], dtype: str) -> dict:
        dimensions = {"dimensions": [str(size) for size in shape]} if shape else {}
        return {
            "pythonClassName": "tensorflow_datasets.core.features.tensor_feature.Tensor",
            "tensor": {"shape": dimensions, "dtype": dtype, "encoding": "none"},
        }

    def group(features: dict) -> dict:
        name = "tensorflow_datasets.core.features.features_dict.FeaturesDict"
        return {"pythonClassName": name, "featuresDict": {"features": features}}

    picture = {"dimensions": [str(size) for size in arrays["picture"].shape[1:]]}
    image = {
        "pythonClassName": "tensorflow_datasets.core.features.image_feature.Image",
        "image": {"shape": picture, "dtype": "uint8", "encodingFormat": "png"},
    }
    state = tensor([arrays["state"].shape[1]], "float32")
    text = {
        "pythonClassName": "tensorflow_datasets.core.features.text_feature.Text",
        "text": {},
    }
    flags = {name: tensor([], "bool") for name in ("is_first", "is_last", "is_terminal")}
    step = {
        "observation": group({"image": image, "state": state}),
        "action": tensor([arrays["action"].shape[1]], "float32"),
        "language_instruction": text,
        **flags,
    }
    steps = {
        "pythonClassName": "tensorflow_datasets.core.features.dataset_feature.Dataset",
        "sequence": {"feature": group(step), "length": "-1"},
    }
    return group({"steps": steps})
