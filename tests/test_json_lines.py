"""A file of results: whatever a crash leaves, each result is in it whole and once."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from adjointdpm.storage import JsonLines, merge_json_lines, read_json_lines

json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=5,
)  # fmt: skip
results = st.lists(
    st.builds(lambda id, value: {"id": id, "value": value}, st.text(), json_values),
    max_size=6,
    unique_by=lambda result: result["id"],
)


@given(written=results, cut=st.integers(0), more=results)
@settings(max_examples=50, deadline=None)
def test_whatever_was_cut_off_the_rest_is_whole(
    tmp_path_factory: pytest.TempPathFactory,
    written: list[dict[str, Any]],
    cut: int,
    more: list[dict[str, Any]],
) -> None:
    path = tmp_path_factory.mktemp("results") / "results.jsonl"
    with JsonLines(path) as file:
        for result in written:
            file.append(result)
    content = path.read_bytes()
    path.write_bytes(content[: cut % (len(content) + 1)])
    kept = path.read_bytes().count(b"\n")
    assert list(read_json_lines(path)) == written[:kept]
    with JsonLines(path) as file:
        assert file.done == {result["id"] for result in written[:kept]}
        added = [result for result in more if result["id"] not in file.done]
        for result in added:
            file.append(result)
        assert list(file) == written[:kept] + added
    assert content.startswith(b"".join(path.read_bytes().splitlines(keepends=True)[:kept]))


def test_ids_are_unique(tmp_path: Path) -> None:
    path = tmp_path / "results.jsonl"
    with JsonLines(path) as file:
        file.append({"id": "a", "value": 1})
        with pytest.raises(ValueError, match="has a result of 'a' already"):
            file.append({"id": "a", "value": 2})
    with JsonLines(path) as file, pytest.raises(ValueError, match="already"):
        file.append({"id": "a", "value": 2})
    path.write_text('{"id": "a"}\n{"id": "b"}\n{"id": "a"}\n')
    with pytest.raises(ValueError, match=r"line 3 of .* is a second result of 'a'.* line 1"):
        JsonLines(path)


@pytest.mark.parametrize(
    ("result", "message"),
    [
        ({"value": 1}, "needs a string as its id"),
        ({"id": 3}, "needs a string as its id, but has 3"),
        ({"id": "a", "value": float("inf")}, "is no JSON"),
        ({"id": "a", "value": object()}, "is no JSON"),
    ],
)
def test_what_is_no_json_is_not_written(
    tmp_path: Path, result: dict[str, Any], message: str
) -> None:
    with JsonLines(tmp_path / "results.jsonl") as file:
        with pytest.raises(ValueError, match=message):
            file.append(result)
        assert not list(file)
        assert not file.path.read_bytes()


@pytest.mark.parametrize("line", ["[1]", "{}", '{"id": 1}', "\0\0", '{"id": "a"'])
def test_damage_before_the_end_is_told(tmp_path: Path, line: str) -> None:
    path = tmp_path / "results.jsonl"
    content = f'{{"id": "first"}}\n{line}\n{{"id": "last"}}\n'
    path.write_text(content)
    with pytest.raises(ValueError, match=r"line 2 of .* is no JSON object with an id"):
        JsonLines(path)
    assert path.read_text() == content


@pytest.mark.skipif(sys.platform == "win32", reason="no such locks there")
def test_one_process_writes(tmp_path: Path) -> None:
    path = tmp_path / "results.jsonl"
    with JsonLines(path), pytest.raises(BlockingIOError, match="another process is writing"):
        JsonLines(path)
    JsonLines(path).close()


@pytest.mark.skipif(sys.platform == "win32", reason="no such limits there")
def test_a_full_disk_leaves_no_half_line(tmp_path: Path) -> None:
    """Under a limit on the sizes of files, which is a disk that is full."""
    path = tmp_path / "results.jsonl"
    code = f"""
import resource, signal
from adjointdpm.storage import JsonLines
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (100, 100))
with JsonLines({str(path)!r}) as file:
    file.append({{"id": "a"}})
    try:
        file.append({{"id": "b", "value": "x" * 200}})
    except OSError:
        file.append({{"id": "c"}})
"""
    subprocess.run([sys.executable, "-c", code], check=True)
    assert [json.loads(line)["id"] for line in path.read_text().splitlines()] == ["a", "c"]


def test_files_are_merged(tmp_path: Path) -> None:
    for name, ids in {"a": "12", "b": "34", "c": "23"}.items():
        with JsonLines(tmp_path / name) as file:
            for id in ids:
                file.append({"id": id, "value": int(id)})
    paths = [tmp_path / name for name in "abc"]
    assert merge_json_lines(paths, tmp_path / "merged") == 4
    assert [result["id"] for result in read_json_lines(tmp_path / "merged")] == list("1234")
    with JsonLines(tmp_path / "d") as file:
        file.append({"id": "4", "value": 5})
    with pytest.raises(ValueError, match="holds another result of '4'"):
        merge_json_lines([*paths, tmp_path / "d"], tmp_path / "merged")
