"""Which file is meant, whether it may be read (never pickle), and whether its fields are right."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

PICKLED = (".bin", ".ckpt", ".pt", ".pth", ".pkl", ".pickle")


def refuse_pickle(path: str | Path) -> None:
    """Raise if a file is of a kind that is read with pickle, and say how to convert it.

    Pickle runs whatever code the file's author put into it.

    Raises:
        ValueError: it is.
    """
    path = Path(path)
    if path.suffix.lower() not in PICKLED or path.is_dir():
        return
    # transformers calls them pytorch_model.bin and model.safetensors, and asks for the format.
    name = "model" if path.stem == "pytorch_model" else path.stem
    safe = path.with_name(f"{name}.safetensors")
    raise ValueError(
        f"{path} would be read with pickle, which runs any code that is in the file; only "
        "safetensors files are read. If you trust where it comes from, convert it:\n"
        "    from torch import load; from safetensors.torch import save_file\n"
        f"    weights = load({str(path)!r}, map_location='cpu', weights_only=True)\n"
        "    save_file({k: v.contiguous() for k, v in weights.items()}, "
        f"{str(safe)!r}, {{'format': 'pt'}})"
    )


def refuse_pickled_weights(folder: str | Path) -> None:
    """Raise if all the weights in a folder are pickled, as `refuse_pickle` does.

    Raises:
        ValueError: they are.
    """
    files = sorted(Path(folder).iterdir()) if Path(folder).is_dir() else []
    pickled = [file for file in files if file.suffix.lower() in PICKLED]
    if pickled and not any(file.suffix == ".safetensors" for file in files):
        refuse_pickle(pickled[0])


def file_to_write(folder_or_file: str | Path, name: str) -> Path:
    """Return the file that is meant: a path that ends in .safetensors, or ``name`` in a folder.

    Raises:
        ValueError: the path is that of a pickle file.
    """
    path = Path(folder_or_file)
    refuse_pickle(path)
    return path if path.suffix == ".safetensors" else path / name


def file_to_read(folder_or_file: str | Path, name: str) -> Path:
    """Return the file that is meant: the path itself, or ``name`` in a folder.

    Raises:
        ValueError: the file, or all that the folder holds under that name, is pickled.
        FileNotFoundError: there is none.
    """
    path = Path(folder_or_file)
    refuse_pickle(path)
    if path.is_dir():
        for suffix in PICKLED:
            pickled = (path / name).with_suffix(suffix)
            if pickled.is_file() and not (path / name).is_file():
                refuse_pickle(pickled)
        path = path / name
    if not path.is_file():
        raise FileNotFoundError(f"there is no file {path}")
    return path


Fields = Mapping[str, type | tuple[type, ...]]
"""The names in a file's metadata, each with the types that its value may have; or it is null."""
TEXT = (str, list)
NUMBER = (int, float)


def check_fields(path: Path, fields: Mapping[str, Any], expected: Fields) -> None:
    """Raise unless a file's metadata have these fields, and of these types.

    Raises:
        ValueError: they have not; the message names the field.
    """
    for name, types in expected.items():
        if name not in fields:
            raise ValueError(f"the metadata of {path} lack {name}: another program wrote it")
        value = fields[name]
        wrong = isinstance(value, bool) or not isinstance(value, types)
        if isinstance(value, list):
            wrong = wrong or not all(isinstance(entry, str | int) for entry in value)
        if value is not None and wrong:
            raise ValueError(f"{name} in the metadata of {path} cannot be {value!r}")


@contextmanager
def metadata_of(path: Path) -> Iterator[None]:
    """Say which file it is if the block finds metadata of another form than it expects."""
    try:
        yield
    except (KeyError, TypeError, ValueError, AttributeError, IndexError) as error:
        raise ValueError(
            f"the metadata of {path} are not as they were written: {error!r}"
        ) from None
