from __future__ import annotations

import pickle
import tracemalloc
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from facekit.errors import EvaluationError
from facekit.evaluate import Pair, identities, load_bin, load_pairs

LFW = """2\t2
Ann\t1\t2
Bob\t1\t2
Ann\t1\tBob\t2
Bob\t1\tCat_Doe\t12
Ann\t2\t1
Cat_Doe\t12\t3
Cat_Doe\t3\tAnn\t1
Bob\t2\tAnn\t2
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name in ("Ann_0001", "Ann_0002", "Bob_0001", "Bob_0002", "Cat_Doe_0003", "Cat_Doe_0012"):
        path = tmp_path / "pictures" / name.rsplit("_", 1)[0] / f"{name}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"")
    return tmp_path / "pictures"


def written(folder: Path, name: str, text: str) -> Path:
    file = folder.parent / name
    file.write_text(text, encoding="utf-8")
    return file


class TestLFW:
    def test_pairs_come_with_pictures_kind_and_fold(self, folder: Path) -> None:
        pairs = load_pairs(written(folder, "pairs.txt", LFW), folder)
        assert [pair.same for pair in pairs] == [True, True, False, False] * 2
        assert [pair.fold for pair in pairs] == [0] * 4 + [1] * 4
        assert pairs[3] == Pair(
            folder / "Bob" / "Bob_0001.jpg",
            folder / "Cat_Doe" / "Cat_Doe_0012.jpg",
            False,
            0,
            ("Bob", "Cat_Doe"),
        )
        a, b, same, fold, people = pairs[5]
        assert (a.name, b.name, same, fold) == ("Cat_Doe_0012.jpg", "Cat_Doe_0003.jpg", True, 1)
        assert people == ("Cat_Doe", "Cat_Doe")

    def test_a_header_without_folds(self, folder: Path) -> None:
        text = "1\nAnn 1 2\nAnn 1 Bob 1\n\n"
        assert [pair.fold for pair in load_pairs(written(folder, "pairsDevTest.txt", text), folder)] == [
            None
        ] * 2

    def test_pictures_in_one_folder_and_of_other_types(self, tmp_path: Path) -> None:
        (tmp_path / "Ann_0001.png").touch()
        (tmp_path / "Ann_0002.webp").touch()
        (tmp_path / "Bob_0001.jpeg").touch()
        pairs = load_pairs(written(tmp_path / "x", "p.txt", "1 1\nAnn 1 2\nAnn 1 Bob 1"), tmp_path)
        assert [pair.b.name for pair in pairs] == ["Ann_0002.webp", "Bob_0001.jpeg"]

    def test_the_real_list(self, shared: Path, tmp_path: Path) -> None:
        file = shared / "lfw" / "pairs.txt"
        for words in (line.split() for line in file.read_text().splitlines()[1:]):
            for name, index in (
                (words[0], words[1]),
                (words[-2] if len(words) == 4 else words[0], words[-1]),
            ):
                (tmp_path / f"{name}_{int(index):04d}.jpg").touch()
        pairs = load_pairs(file, tmp_path)
        assert len(pairs) == 1800
        assert len({path for pair in pairs for path in pair[:2]}) == 2320
        for fold in range(3):
            kinds = [pair.same for pair in pairs if pair.fold == fold]
            assert kinds == [True] * 300 + [False] * 300

    @pytest.mark.parametrize(
        ("text", "message"),
        [
            ("", "line 1 is not LFW's header"),
            ("Ann\t1\t2\n", "line 1 is not LFW's header"),
            ("1 2 3\n", "line 1 is not LFW's header"),
            ("2 2\nAnn 1 2\n", "line 1 promises 8 pairs, and 1 follow"),
            ("1 1\nAnn 1 2\nAnn 1 2\n", "line 3 is not a pair name i name j"),
            ("1 1\nAnn 1 Bob 2\nAnn 1 Bob 1\n", "line 2 is not a pair name i j"),
            ("1 1\n\nAnn one 2\nAnn 1 Bob 1\n", "line 3 is not a pair name i j"),
            ("1 1\nAnn 1 2\nAnn 1 Bob 7\n", "line 3 names 'Bob/Bob_0007.jpg', which is not in"),
            ("1 1\nAnn 1 99999999999999\nAnn 1 Bob 7\n", "line 2 is not a pair"),
        ],
    )
    def test_bad_lines_are_named(self, folder: Path, text: str, message: str) -> None:
        file = written(folder, "pairs.txt", text)
        with pytest.raises(EvaluationError, match=message) as caught:
            load_pairs(file, folder)
        assert str(caught.value).startswith(str(file))
        assert "\n" not in str(caught.value)
        assert caught.value.path == str(file)


class TestCSV:
    def test_columns_in_any_order(self, folder: Path) -> None:
        text = (
            "\ufeffsame,fold,b,a,note\n"
            "1,3,Ann/Ann_0002.jpg,Ann/Ann_0001.jpg,\n"
            "False,4,Bob/Bob_0001.jpg,Ann/Ann_0001.jpg,x"
        )
        assert load_pairs(written(folder, "p.CSV", text), folder) == [
            Pair(folder / "Ann/Ann_0001.jpg", folder / "Ann/Ann_0002.jpg", True, 3),
            Pair(folder / "Ann/Ann_0001.jpg", folder / "Bob/Bob_0001.jpg", False, 4),
        ]

    def test_names_of_people(self, folder: Path) -> None:
        text = "a,b,same,person_a,person_b\nAnn/Ann_0001.jpg,Bob/Bob_0001.jpg,0,Ann, Bob\n"
        assert load_pairs(written(folder, "p.csv", text), folder)[0].people == ("Ann", "Bob")

    def test_without_folds(self, folder: Path) -> None:
        text = 'a,b,same\n"Ann/Ann_0001.jpg",Bob/Bob_0001.jpg,0\n'
        assert [pair.fold for pair in load_pairs(written(folder, "p.csv", text), folder)] == [None]

    def test_names_may_hold_what_ends_lines_elsewhere(self, folder: Path) -> None:
        (folder / "x\u2028y\nz.jpg").touch()
        text = 'a,b,same\n"x\u2028y\nz.jpg",Ann/Ann_0001.jpg,0\r\n'
        assert load_pairs(written(folder, "p.csv", text), folder)[0].a == folder / "x\u2028y\nz.jpg"

    @pytest.mark.parametrize(
        ("text", "message"),
        [
            ("", "line 1 does not name the columns"),
            (f"a,b,same\nAnn/Ann_0001.jpg,{'x' * 300}.jpg,1\n", "line 2 names 'x"),
            (f"a,b,same\n{'x' * 200_000},y,1\n", "cannot be read as CSV"),
            ("x,y\n1,2\n", "line 1 does not name the columns"),
            ("a,b,same\nAnn/Ann_0001.jpg,Ann/Ann_0002.jpg,maybe\n", "line 2 has same = 'maybe'"),
            ("a,b,same\nAnn/Ann_0001.jpg\n", "line 2 has same = None"),
            ("a,b,same,fold\nAnn/Ann_0001.jpg,Ann/Ann_0002.jpg,1,x\n", "line 2 has fold = 'x'"),
            ("a,b,same,fold\nAnn/Ann_0001.jpg,Ann/Ann_0002.jpg,1\n", "line 2 has fold = None"),
            ("a,b,same,person_a\nAnn/Ann_0001.jpg,Ann/Ann_0002.jpg,1,Ann\n", "line 2 has person_a = 'Ann'"),
            (
                "a,b,same,person_a,person_b\nAnn/Ann_0001.jpg,Ann/Ann_0002.jpg,0,Ann,Ann\n",
                "person_b = 'Ann': name the people, two",
            ),
            ("a,b,same\nAnn/Ann_0001.jpg,,1\n", "line 2 names ''"),
            ("a,b,same\nAnn/Ann_0001.jpg,Dan.jpg,1\n", "line 2 names 'Dan.jpg'"),
            ("a,b,same\nAnn/Ann_0001.jpg,../outside.jpg,1\n", "line 2 leads out of"),
            ("a,b,same\nAnn/Ann_0001.jpg,{outside},1\n", "line 2 leads out of"),
            ("a,b,same\nAnn/Ann_0001.jpg,link.jpg,1\n", "line 2 leads out of"),
            ("a,b,same\nAnn/Ann_0001.jpg,x\0y,1\n", "line 2"),
        ],
    )
    def test_bad_lines_are_named(self, folder: Path, text: str, message: str) -> None:
        outside = folder.parent / "outside.jpg"
        outside.touch()
        (folder / "link.jpg").symlink_to(outside)
        file = written(folder, "pairs.csv", text.replace("{outside}", str(outside)))
        with pytest.raises(EvaluationError, match=message) as caught:
            load_pairs(file, folder)
        assert "\n" not in str(caught.value)


class TestIdentities:
    def test_by_name(self) -> None:
        a, b, c = map(Path, "abc")
        pairs = [Pair(a, b, True, None, ("y", "y")), Pair(a, c, False, None, ("y", "x"))]
        assert identities(pairs).tolist() == [[1, 1], [1, 0]]

    def test_without_names_by_what_pairs_connect(self) -> None:
        a, b, c, d, e = map(Path, "abcde")
        links = [(a, b, True), (c, d, False), (b, d, True), (e, c, False), (a, e, False)]
        found = identities([Pair(*link, None) for link in links])
        number = {a: found[0, 0], c: found[1, 0], e: found[3, 0]}
        assert len(set(number.values())) == 3
        expected = [[a, a], [c, a], [a, a], [e, c], [a, e]]
        np.testing.assert_array_equal(found, [[number[x], number[y]] for x, y in expected])


class TestFiles:
    def test_what_cannot_be_read(self, folder: Path) -> None:
        with pytest.raises(EvaluationError, match="cannot be read"):
            load_pairs(folder.parent / "none.txt", folder)
        binary = folder.parent / "pairs.txt"
        binary.write_bytes(b"\xff\xfe\x00\x80")
        with pytest.raises(EvaluationError, match="cannot be read"):
            load_pairs(binary, folder)
        with pytest.raises(EvaluationError, match="not a folder"):
            load_pairs(binary, folder / "nowhere")


class Runs:
    """Leaves a file behind when it is unpickled carelessly."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return Path.touch, (self.path,)


class TestBin:
    @pytest.mark.parametrize(
        ("content", "message"),
        [
            (b"\x80\x04Nr\xff\xff\xff\x000N.", "TypeError"),
            (
                b"c_codecs\nencode\nq\x000X\x10\0\0\0" + b"x" * 16 + b"q\x010(" + b"h\0(h\1NtR" * 9 + b"l.",
                "unpacks to more than the file has",
            ),
        ],
    )
    def test_small_files_take_little_memory(self, tmp_path: Path, content: bytes, message: str) -> None:
        file = tmp_path / "lfw.bin"
        file.write_bytes(content)
        tracemalloc.start()
        try:
            with pytest.raises(EvaluationError, match=message):
                load_bin(file)
            assert tracemalloc.get_traced_memory()[1] < 1 << 22
        finally:
            tracemalloc.stop()

    @pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
    def test_pairs_and_their_pictures(self, tmp_path: Path, protocol: int) -> None:
        file = tmp_path / "lfw.bin"
        pictures = [b"\xff\xd8a", b"\x89PNGb", b"\xff\xd8a", b"c"]
        file.write_bytes(pickle.dumps((pictures, [True, False]), protocol))
        pairs, found = load_bin(file)
        assert pairs == [
            Pair(file / "000000", file / "000001", True, None),
            Pair(file / "000000", file / "000003", False, None),
        ]
        assert found == {file / "000000": pictures[0], file / "000001": pictures[1], file / "000003": b"c"}

    def test_a_pickle_of_python_2(self, tmp_path: Path) -> None:
        file = tmp_path / "old.bin"
        file.write_bytes(b"\x80\x02]q\x00(U\x02\xff\xd8U\x01be]q\x01\x88a\x86.")  # str is bytes
        assert list(load_bin(file)[1].values()) == [b"\xff\xd8", b"b"]

    def test_runs_nothing(self, tmp_path: Path) -> None:
        file, trace = tmp_path / "evil.bin", tmp_path / "trace"
        file.write_bytes(pickle.dumps(([b"a", Runs(trace)], [True])))
        with pytest.raises(EvaluationError, match=r"refused: to open it .* would have to be imported"):
            load_bin(file)
        assert not trace.exists()

    @pytest.mark.parametrize(
        ("content", "message"),
        [
            (b"", "EOFError"),
            (b"\xff\xd8\xff", "not a verification set"),
            (pickle.dumps([1, 2, 3]), "ValueError"),
            (pickle.dumps((["a", "b"], [True])), "no list of the bytes"),
            (pickle.dumps(([b"a", b"b"], [True, True])), "2 pictures and 2 kinds"),
            (pickle.dumps(([b"a", b"b"], [7])), "True or False"),
        ],
    )
    def test_bad_files_are_named(self, tmp_path: Path, content: bytes, message: str) -> None:
        file = tmp_path / "x.bin"
        file.write_bytes(content)
        with pytest.raises(EvaluationError, match=message) as caught:
            load_bin(file)
        assert str(caught.value).startswith(str(file))
        with pytest.raises(EvaluationError, match="cannot be read"):
            load_bin(tmp_path / "none.bin")
