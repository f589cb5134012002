"""Files are written whole, with the usual permissions, and a damaged one is not read as another."""

import os
import random
import stat
import sys

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file

from adjointdpm.storage import (
    read_tensors,
    remove_folder,
    remove_partial,
    replacing,
    replacing_folder,
    write_tensors,
    write_text,
)

POSIX = pytest.mark.skipif(sys.platform == "win32", reason="permissions are others there")


@pytest.fixture
def tensors():
    generator = torch.Generator().manual_seed(1)
    return {
        "noise": torch.randn(1, 4, 8, 8, generator=generator),
        "half": torch.randn(3, generator=generator).to(torch.bfloat16),
        "count": torch.tensor(7),
        "mask": torch.tensor([True, False]),
        "none": torch.zeros(0, 3),
        "eight": torch.ones(2).to(torch.float8_e4m3fn),
    }


def same(found, expected):
    return found.keys() == expected.keys() and all(
        found[name].dtype == expected[name].dtype
        and found[name].shape == expected[name].shape
        and found[name]
        .reshape(-1)
        .view(torch.uint8)
        .equal(expected[name].reshape(-1).view(torch.uint8))
        for name in expected
    )


def test_what_is_written_is_read(tmp_path, tensors):
    path = tmp_path / "x.safetensors"
    write_tensors(path, "things", tensors, {"seed": 7, "words": ["ü", None]})
    found, fields = read_tensors(path, "things")
    assert same(found, tensors)
    assert fields == {"seed": 7, "words": ["ü", None]}
    assert same(load_file(path), tensors)  # for whoever does not know us
    with pytest.raises(ValueError, match="holds things, not words"):
        read_tensors(path, "words")


def test_no_flipped_bit_loads_as_something_else(tmp_path, tensors):
    path, damaged = tmp_path / "x.safetensors", tmp_path / "y.safetensors"
    fields = {"seed": 7, "prompt": "a car", "token": "<it>"}
    write_tensors(path, "things", tensors, fields)
    whole = path.read_bytes()
    chosen = random.Random(0).sample(range(8 * len(whole)), 1000)
    # Every bit of the header counts too, and there are fewer of them.
    header = 8 * (8 + int.from_bytes(whole[:8], "little"))
    chosen += random.Random(1).sample(range(header), 1000)
    refused = 0
    for bit in chosen:
        content = bytearray(whole)
        content[bit // 8] ^= 1 << bit % 8
        damaged.write_bytes(content)
        for kind in ("things", None):
            try:
                found = read_tensors(damaged, kind)
            except ValueError as error:
                assert str(damaged) in str(error)  # noqa: PT017
                refused += 1
            else:  # such as a bit of "format", which nobody reads
                assert same(found[0], tensors)
                assert found[1] == fields
    assert refused > 3900


@given(st.data())
def test_a_file_that_is_cut_or_overwritten_is_refused(tmp_path_factory, data):
    folder = tmp_path_factory.mktemp("cut")
    path = folder / "x.safetensors"
    write_tensors(path, "things", {"x": torch.arange(40.0)}, {"seed": 7})
    whole = path.read_bytes()
    start = data.draw(st.integers(0, len(whole) - 1))
    middle = data.draw(st.binary(max_size=20))
    content = whole[:start] + middle + whole[data.draw(st.integers(start, len(whole))) :]
    path.write_bytes(content)
    try:
        found, fields = read_tensors(path, "things")
    except ValueError:
        return
    assert same(found, {"x": torch.arange(40.0)})
    assert fields == {"seed": 7}


def test_loaded_tensors_are_not_the_file(tmp_path):
    path = tmp_path / "x.safetensors"
    write_tensors(path, "things", {"x": torch.ones(4096)}, {})
    found = read_tensors(path)[0]["x"]
    size = path.stat().st_size
    with path.open("r+b") as file:  # in place, as another program may do it
        file.write(bytes(size))
        file.truncate(100)
    assert torch.equal(found, torch.ones(4096))
    found += 1
    assert path.stat().st_size == 100


def test_values_that_are_not_finite(tmp_path):
    path = tmp_path / "x.safetensors"
    for value in (float("nan"), float("inf")):
        with pytest.raises(ValueError, match="x has values that are not finite"):
            write_tensors(path, "things", {"x": torch.tensor([1.0, value])}, {})
        assert not path.exists()
        save_file({"x": torch.tensor([1.0, value])}, tmp_path / "other.safetensors")
        with pytest.raises(ValueError, match="not finite"):
            read_tensors(tmp_path / "other.safetensors")


def test_files_without_a_checksum(tmp_path):
    """Those of others are read where any file will do; ours must have one."""
    path = tmp_path / "x.safetensors"
    save_file({"x": torch.ones(2)}, path)
    assert read_tensors(path)[1] == {}
    with pytest.raises(ValueError, match="not saved by adjointdpm"):
        read_tensors(path, "things")
    save_file({"x": torch.ones(2)}, path, {"adjointdpm": '{"kind": "things"}'})
    with pytest.raises(ValueError, match="has no checksum"):
        read_tensors(path, "things")


@pytest.mark.parametrize("text", ["[]", "3", "null", "{", '"x"'])
def test_metadata_that_are_no_object(tmp_path, text):
    from adjointdpm.storage.tensors import CHECKSUM_KEY, METADATA_KEY, _checksum

    path = tmp_path / "x.safetensors"
    tensors = {"x": torch.ones(2)}
    save_file(tensors, path, {METADATA_KEY: text, CHECKSUM_KEY: _checksum(text, tensors)})
    with pytest.raises(ValueError, match="not a JSON object"):
        read_tensors(path)


def test_a_file_is_written_whole_or_not_at_all(tmp_path):
    path = tmp_path / "x.txt"
    write_text(path, "whole")

    def interrupted():
        with replacing(path) as partial:
            partial.write_text("ha")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert path.read_text() == "whole"
    assert list(tmp_path.iterdir()) == [path]


@POSIX
@pytest.mark.parametrize("umask", [0o022, 0o077, 0o002])
def test_permissions_are_the_usual_ones(tmp_path, umask):
    before = os.umask(umask)
    try:
        ordinary = tmp_path / "ordinary"
        ordinary.touch()
        path = tmp_path / "x.safetensors"
        write_tensors(path, "things", {"x": torch.ones(2)}, {})
        assert path.stat().st_mode == ordinary.stat().st_mode
        path.chmod(0o640)
        write_tensors(path, "things", {"x": torch.ones(2)}, {})
        assert stat.S_IMODE(path.stat().st_mode) == 0o640
    finally:
        os.umask(before)


def files(folder):
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


def test_a_folder_is_there_when_all_is_in_it(tmp_path):
    def write(names, folder=tmp_path / "a" / "b"):
        with replacing_folder(folder) as partial:
            for name in names:
                write_text(partial / name, "x")
                assert not (folder / name).exists()
            return 1 / (len(names) - 1)

    assert write(["x", "y/z"]) == 1
    assert files(tmp_path) == ["a/b/x", "a/b/y/z"]
    with pytest.raises(ZeroDivisionError):
        write(["other"])
    assert files(tmp_path) == ["a/b/x", "a/b/y/z"]
    assert write(["new", "w", "v"]) == 0.5
    assert files(tmp_path) == ["a/b/new", "a/b/v", "a/b/w"]
    remove_folder(tmp_path / "a" / "b")
    remove_folder(tmp_path / "a" / "b")
    assert [path.name for path in tmp_path.rglob("*")] == ["a"]


def test_only_what_killed_writers_left_is_removed(tmp_path):
    kept = [".git/config.txt.abcdefgh/x", ".x.tmp/x", "x.abcdefgh/x", "a/.hidden", ".y.abcdefgh"]
    for name in [*kept, ".x.png.k1ll_d8x/x.png", "a/.checkpoint-3.abcdefgh/checkpoint-3/x"]:
        write_text(tmp_path / name, "x")
    remove_partial(tmp_path)
    assert files(tmp_path) == sorted(kept)
