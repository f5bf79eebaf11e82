"""Names on the Hub, against a local server that speaks its protocol, breaks off, and goes away."""

from __future__ import annotations

import base64
import hashlib
import importlib
import json
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from urllib.parse import unquote, urlsplit

import pytest
import torch

from facekit.checkpoint import ModelConfig, load_checkpoint, push_checkpoint
from facekit.checkpoint import load as load_module
from facekit.checkpoint import onnx as onnx_module
from facekit.errors import CheckpointError, SettingError

LARGE = (".safetensors", ".onnx", ".pth")  # what the Hub keeps by SHA-256


class Hub:
    """Models in memory: repo -> revision -> file -> bytes; and what was asked for."""

    def __init__(self) -> None:
        self.models: dict[str, dict[str, dict[str, bytes]]] = {}
        self.private: set[str] = set()
        self.requests: list[tuple[str, str]] = []
        self.break_off: dict[str, int] = {}  # file -> how many more times its download ends in the middle
        self.failing = False
        self.url = ""

    @staticmethod
    def commit(repo: str, revision: str, files: dict[str, bytes]) -> str:
        return hashlib.sha1(repr((repo, revision, sorted(files))).encode()).hexdigest()

    def find(self, repo: str, revision: str) -> tuple[str, dict[str, bytes]] | None:
        """Commit and files of a branch, tag or commit."""
        for name, files in self.models.get(repo, {}).items():
            commit = self.commit(repo, name, files)
            if revision in (name, commit):
                return commit, files
        return None

    def downloads(self) -> list[str]:
        return [
            path.rsplit("/", 1)[-1]
            for method, path in self.requests
            if method == "GET" and "/resolve/" in path
        ]


def handler_of(hub: Hub) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, *args: Any) -> None:
            pass

        def answer(self, status: int, body: Any = b"", headers: dict[str, str] | None = None) -> None:
            data = body if isinstance(body, bytes) else json.dumps(body).encode()
            self.send_response(status)
            for name, value in {"Content-Length": str(len(data)), **(headers or {})}.items():
                self.send_header(name, value)
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(data)

        def refuse(self, status: int, code: str) -> None:
            self.answer(status, {"error": code}, {"X-Error-Code": code})

        def do_GET(self) -> None:
            hub.requests.append((self.command, unquote(urlsplit(self.path).path)))
            parts = hub.requests[-1][1].strip("/").split("/")
            if hub.failing:
                return self.answer(503)
            api = parts[:2] == ["api", "models"]
            repo = "/".join(parts[2:4] if api else parts[:2])
            if repo in hub.private and self.headers.get("Authorization") != "Bearer secret":
                return self.refuse(401, "RepoNotFound")
            if repo not in hub.models:
                return self.refuse(404, "RepoNotFound")
            found = hub.find(repo, parts[5] if api and len(parts) > 5 else "main" if api else parts[3])
            if found is None:
                return self.refuse(404, "RevisionNotFound")
            commit, files = found
            if not api:
                return self.send_file(commit, files, "/".join(parts[4:]))
            if len(parts) > 4 and parts[4] == "tree":
                return self.answer(200, [self.entry("path", name, data) for name, data in files.items()])
            siblings = [self.entry("rfilename", name, data) for name, data in files.items()]
            return self.answer(200, {"id": repo, "sha": commit, "siblings": siblings, "tags": []})

        do_HEAD = do_GET

        def entry(self, key: str, name: str, data: bytes) -> dict[str, Any]:
            entry: dict[str, Any] = {key: name, "type": "file", "size": len(data), "blobId": "0" * 40}
            entry["oid"] = "0" * 40
            if name.endswith(LARGE):
                digest = hashlib.sha256(data).hexdigest()
                lfs = {"sha256": digest, "size": len(data), "pointerSize": 130}
                entry["lfs"] = lfs | ({"oid": digest} if key == "path" else {})
            return entry

        def send_file(self, commit: str, files: dict[str, bytes], name: str) -> None:
            if name not in files:
                return self.refuse(404, "EntryNotFound")
            data = files[name]
            headers = {"ETag": f'"{hashlib.sha256(data).hexdigest()}"', "X-Repo-Commit": commit}
            if self.command == "GET" and hub.break_off.get(name, 0):
                hub.break_off[name] -= 1
                self.send_response(200)
                for key, value in {"Content-Length": str(len(data)), **headers}.items():
                    self.send_header(key, value)
                self.end_headers()
                self.wfile.write(data[: len(data) // 2])
                self.close_connection = True
                if not hub.break_off[name]:
                    hub.failing = hub.failing or "dies" in hub.break_off
                return None
            start = int(self.headers.get("Range", "bytes=0-").removeprefix("bytes=").rstrip("-"))
            if start:
                headers["Content-Range"] = f"bytes {start}-{len(data) - 1}/{len(data)}"
            return self.answer(206 if start else 200, data[start:], headers)

        def do_POST(self) -> None:
            path = unquote(urlsplit(self.path).path)
            hub.requests.append((self.command, path))
            body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
            if self.headers.get("Authorization") != "Bearer secret":
                return self.refuse(401, "Unauthorized")
            if path == "/api/repos/create":
                order = json.loads(body)
                repo = (
                    f"{order['organization']}/{order['name']}" if order.get("organization") else order["name"]
                )
                if repo in hub.models:
                    return self.answer(409, {"url": f"{hub.url}/{repo}"})
                hub.models[repo] = {"main": {}}
                return self.answer(200, {"url": f"{hub.url}/{repo}"})
            repo = "/".join(path.strip("/").split("/")[2:4])
            if "/preupload/" in path:
                modes = [
                    {"path": item["path"], "uploadMode": "regular", "shouldIgnore": False}
                    for item in json.loads(body)["files"]
                ]
                return self.answer(200, {"files": modes})
            if "/commit/" in path:
                for line in body.decode().splitlines():
                    item = json.loads(line)
                    if item["key"] == "file":
                        hub.models[repo]["main"][item["value"]["path"]] = base64.b64decode(
                            item["value"]["content"]
                        )
                url = f"{hub.url}/{repo}/commit/{'1' * 40}"
                return self.answer(200, {"commitUrl": url, "commitOid": "1" * 40, "success": True})
            return self.answer(200, {"errors": [], "warnings": []})  # /api/validate-yaml

    return Handler


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Hub]:
    """A running server, which the Hub's client takes for the Hub, with a cache of its own."""
    constants = pytest.importorskip("huggingface_hub.constants")
    hub = Hub()
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler_of(hub))
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    hub.url = f"http://127.0.0.1:{server.server_port}"
    monkeypatch.setattr(constants, "ENDPOINT", hub.url)
    template = hub.url + "/{repo_id}/resolve/{revision}/{filename}"
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_PROGRESS_BARS", True)
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_IMPLICIT_TOKEN", True)
    hurried = SimpleNamespace(**vars(time) | {"sleep": lambda seconds: None})
    for name in ("huggingface_hub.file_download", "huggingface_hub.utils._http"):  # they wait between retries
        monkeypatch.setattr(importlib.import_module(name), "time", hurried)
    yield hub
    server.shutdown()
    thread.join()
    server.server_close()


def files_of(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@pytest.fixture
def published(hub: Hub, tiny_checkpoint: Path) -> Hub:
    """The tiny checkpoint as somebody/faces, beside things that nobody needs."""
    extra = {"README.md": b"card", "plots/roc.png": b"x", "pytorch_model.pth": b"other weights"}
    hub.models["somebody/faces"] = {"main": files_of(tiny_checkpoint) | extra}
    return hub


def partial_files(cache: Path) -> list[Path]:
    """Files of the cache that look like downloads, but hold only a part of one."""
    return [
        path for path in cache.rglob("blobs/*") if hashlib.sha256(path.read_bytes()).hexdigest() != path.name
    ]


# --- loading ----------------------------------------------------------------------------------------------


def test_a_name_loads_what_its_folder_would(published: Hub, tiny_checkpoint: Path) -> None:
    here, there = load_checkpoint(tiny_checkpoint), load_checkpoint("somebody/faces")
    assert there.config == here.config
    ours, theirs = here.model.state_dict(), there.model.state_dict()
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)
    assert sorted(published.downloads()) == ["config.json", "model.safetensors"]


def test_the_second_time_nothing_is_downloaded(published: Hub) -> None:
    load_checkpoint("somebody/faces")
    published.requests.clear()
    load_checkpoint("somebody/faces")
    assert published.downloads() == []


@pytest.mark.parametrize("offline", ["local_files_only", "server down", "server gone"])
def test_without_a_network_the_cache_serves(
    published: Hub, offline: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = load_checkpoint("somebody/faces")
    published.requests.clear()
    published.failing = offline == "server down"
    if offline == "server gone":
        monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", "http://127.0.0.1:9")
    again = load_checkpoint("somebody/faces", local_files_only=offline == "local_files_only")
    assert again.config == first.config
    assert published.downloads() == []
    if offline == "local_files_only":
        assert published.requests == []


def test_without_a_network_and_a_cache_it_says_so(published: Hub) -> None:
    with pytest.raises(CheckpointError, match="neither a file here nor in the Hub's cache") as caught:
        load_checkpoint("somebody/faces", local_files_only=True)
    assert caught.value.path == "somebody/faces"
    assert published.requests == []
    published.failing = True
    with pytest.raises(CheckpointError, match="is silent"):
        load_checkpoint("somebody/faces")


def test_revisions_are_kept_apart(published: Hub, tiny_checkpoint: Path) -> None:
    main = published.models["somebody/faces"]["main"]
    config = main["config.json"].replace(b'"threshold": null', b'"threshold": 0.25')
    published.models["somebody/faces"]["v1"] = main | {"config.json": config}
    assert load_checkpoint("somebody/faces", revision="v1").config.threshold == 0.25
    assert load_checkpoint("somebody/faces").config.threshold is None
    assert load_checkpoint("somebody/faces", revision="v1", local_files_only=True).config.threshold == 0.25
    with pytest.raises(CheckpointError, match=r"no revision 'v2'.*404"):
        load_checkpoint("somebody/faces", revision="v2")


def test_a_model_that_is_not_there_is_neither_file_nor_name(hub: Hub) -> None:
    with pytest.raises(CheckpointError, match="no such file here, and the Hub has no such model"):
        load_checkpoint("nobody/nothing")


def test_a_private_model_needs_its_token(published: Hub) -> None:
    published.private.add("somebody/faces")
    with pytest.raises(CheckpointError, match="token"):
        load_checkpoint("somebody/faces")
    assert load_checkpoint("somebody/faces", token="secret").config.embedding_dim == 64


def test_a_path_wins_over_a_name(
    published: Hub, tiny_checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "somebody").mkdir()
    (tmp_path / "somebody" / "faces").symlink_to(tiny_checkpoint)
    monkeypatch.chdir(tmp_path)
    load_checkpoint("somebody/faces")
    assert published.requests == []


def test_a_cache_elsewhere_is_used(published: Hub, tmp_path: Path) -> None:
    load_checkpoint("somebody/faces", cache_dir=tmp_path / "elsewhere")
    assert list((tmp_path / "elsewhere").rglob("model.safetensors"))
    assert not list((tmp_path / "cache").rglob("model.safetensors"))


# --- interrupted downloads --------------------------------------------------------------------------------


def test_a_download_that_breaks_off_goes_on(published: Hub, tiny_checkpoint: Path) -> None:
    published.break_off["model.safetensors"] = 2
    assert load_checkpoint("somebody/faces").config == load_checkpoint(tiny_checkpoint).config


def test_a_download_that_ends_leaves_nothing_that_looks_complete(published: Hub, tmp_path: Path) -> None:
    published.break_off |= {"model.safetensors": 1, "dies": 1}  # then the server answers 503
    with pytest.raises(CheckpointError, match="broke off") as caught:
        load_checkpoint("somebody/faces")
    assert "\n" not in str(caught.value)
    assert partial_files(tmp_path / "cache") == []
    with pytest.raises(CheckpointError):
        load_checkpoint("somebody/faces", local_files_only=True)
    published.failing = False
    published.break_off.clear()
    assert load_checkpoint("somebody/faces").config.embedding_dim == 64


def test_a_changed_file_is_caught_by_its_fingerprint(published: Hub) -> None:
    weights = published.models["somebody/faces"]["main"]["model.safetensors"]
    published.models["somebody/faces"]["main"]["model.safetensors"] = weights[:-4] + b"\0\0\0\0"
    with pytest.raises(CheckpointError, match="do not belong together"):
        load_checkpoint("somebody/faces")


# --- ONNX and foreign models ------------------------------------------------------------------------------


def write_onnx(path: Path) -> bytes:
    """A graph from pictures to their three mean colours."""
    onnx = pytest.importorskip("onnx")
    from onnx import TensorProto, helper

    nodes = [helper.make_node("GlobalAveragePool", ["x"], ["p"]), helper.make_node("Flatten", ["p"], ["y"])]
    ends = [
        helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 3, 112, 112]),
        helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", 3]),
    ]
    graph = helper.make_graph(nodes, path.stem, ends[:1], ends[1:])
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8), path)
    return path.read_bytes()


@pytest.fixture
def sface(hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Hub:
    """A model laid out as opencv/face_recognition_sface: three ONNX files, one of them known, no config."""
    pytest.importorskip("onnxruntime")
    names = [
        "face_recognition_sface_2021dec.onnx",
        "face_recognition_sface_2021dec_int8.onnx",
        "other_int8bq.onnx",
    ]
    files = {name: write_onnx(tmp_path / name) for name in names}
    known = ModelConfig("onnx", 3, 112, "rgb", (0, 0, 0), (1, 1, 1), license="Apache-2.0")
    table = {hashlib.sha256(files[names[0]]).hexdigest(): known}
    for module in (onnx_module, load_module):
        monkeypatch.setattr(module, "KNOWN_FILES", table)
    hub.models["opencv/face_recognition_sface"] = {"main": files | {"README.md": b"card", "LICENSE": b"x"}}
    return hub


def test_sface_loads_by_name(sface: Hub) -> None:
    checkpoint = load_checkpoint("opencv/face_recognition_sface")
    assert checkpoint.config.embedding_dim == 3
    assert sface.downloads() == ["face_recognition_sface_2021dec.onnx"]
    again = load_checkpoint("opencv/face_recognition_sface", local_files_only=True)
    assert again.config == checkpoint.config


def test_several_files_without_a_known_one_are_a_question(
    sface: Hub, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(load_module, "KNOWN_FILES", {})
    with pytest.raises(
        CheckpointError, match=r"several files of weights \(face_recognition_sface_2021dec\.onnx, "
    ):
        load_checkpoint("opencv/face_recognition_sface")
    assert sface.downloads() == []


def test_a_foreign_file_loads_by_name(hub: Hub, tmp_path: Path) -> None:
    from facekit.models import build

    with torch.device("meta"):
        state = build("resnet10t").state_dict()
    state = {f"backbone.{name}": torch.full(v.shape, 0.01).to(v.dtype) for name, v in state.items()}
    torch.save({"state_dict": state}, tmp_path / "vcl.ckpt")
    files = {"last.ckpt": (tmp_path / "vcl.ckpt").read_bytes(), "README.md": b"card"}
    hub.models["somebody/vcl-face-understanding"] = {"main": files}
    config = load_checkpoint("somebody/vcl-face-understanding").config
    assert (config.architecture, config.input_size) == ("resnet10t", 128)


def test_weights_of_vcl_go_on_learning_by_name(hub: Hub, tmp_path: Path) -> None:
    """``--init owner/name``: the backbone out of Lightning's file, with its own scale of pixels."""
    from facekit.models import build
    from facekit.train.start import start_network

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        network = build("resnet10t")
    state = {f"backbone.{name}": tensor for name, tensor in network.state_dict().items()}
    state["projection_head.fc_mu.weight"] = torch.zeros(128, 512)
    torch.save({"state_dict": state, "epoch": 3}, tmp_path / "vcl.ckpt")
    hub.models["owner/vcl"] = {"main": {"vcl.ckpt": (tmp_path / "vcl.ckpt").read_bytes()}}
    start = start_network("resnet10t", "owner/vcl", size=64)
    assert start.trained is start.model
    assert start.mean == pytest.approx((123.675, 116.28, 103.53))
    learnt = start.model.state_dict()
    assert all(torch.equal(tensor, learnt[name]) for name, tensor in network.state_dict().items())


def test_a_model_without_weights_is_refused_before_any_download(hub: Hub) -> None:
    hub.models["somebody/text"] = {"main": {"README.md": b"card", "config.json": b"{}", "model.gguf": b"x"}}
    with pytest.raises(CheckpointError, match="holds no weights"):
        load_checkpoint("somebody/text")
    assert hub.downloads() == []


# --- pushing ----------------------------------------------------------------------------------------------


def test_pushed_is_loaded(hub: Hub, tiny_checkpoint: Path) -> None:
    address = push_checkpoint(tiny_checkpoint, "me/faces", token="secret")
    assert address.startswith(f"{hub.url}/me/faces/commit/")
    assert hub.models["me/faces"]["main"] == files_of(tiny_checkpoint)
    assert load_checkpoint("me/faces").config == load_checkpoint(tiny_checkpoint).config
    push_checkpoint(tiny_checkpoint, "me/faces", token="secret")  # once more, into the model that is there


def test_only_whole_checkpoints_are_pushed(hub: Hub, tiny_checkpoint: Path, tmp_path: Path) -> None:
    (tmp_path / "half").mkdir()
    for name, data in files_of(tiny_checkpoint).items():
        (tmp_path / "half" / name).write_bytes(data[: len(data) // 2] if name.endswith("tensors") else data)
    with pytest.raises(CheckpointError):
        push_checkpoint(tmp_path / "half", "me/faces", token="secret")
    with pytest.raises(SettingError, match="owner/name"):
        push_checkpoint(tiny_checkpoint, "faces", token="secret")
    assert hub.requests == []


def test_a_refused_push_says_so(hub: Hub, tiny_checkpoint: Path) -> None:
    with pytest.raises(CheckpointError, match=r"cannot be uploaded.*token"):
        push_checkpoint(tiny_checkpoint, "me/faces", token="wrong")
    assert hub.models == {}
