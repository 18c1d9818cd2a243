"""Evaluation images as 8-bit PNG contact sheets: exact, viewable, few files.

`images/<name>/index.json` says how to cut the sheets `000.png`, `001.png`, ... back into images, and has their sha256;
one row of a sheet is usually one prompt. A clip lies there frame by frame, and the index has their number and rate.
"""

from __future__ import annotations

import hashlib
import io
import json
import math
import warnings
from typing import TYPE_CHECKING

from grpo_bench.errors import UserError
from grpo_bench.media import CLIP_AXES, as_pictures, kind_of
from grpo_bench.store.atomic import remove_folder, write_folder
from grpo_bench.store.names import check_name, clean_text, parse_json

if TYPE_CHECKING:
    from pathlib import Path

    import numpy as np
    from numpy.typing import NDArray

SHEET_PIXELS = 16_000_000
"""A sheet takes no further row beyond this, so that viewers open it and 1024-pixel images fit in memory."""


def save_images(folder: Path, name: str, images: NDArray[np.uint8], columns: int, fps: float = 0.0) -> Path:
    """Store images or clips losslessly under `folder/name`, `columns` a row; an older set of that name is replaced.

    Args:
        folder: where the set's own folder is made.
        name: of the set.
        images: uint8 RGB, (B, H, W, 3) or (B, F, H, W, 3), at least one.
        columns: images or clips in a row of a sheet.
        fps: frames a second of clips.

    Raises:
        UserError: for a bad name or a full disk.
        ValueError: for another shape or dtype.
    """
    if images.ndim not in (4, CLIP_AXES) or images.shape[-1] != 3 or images.dtype != "uint8" or not images.size:
        raise ValueError(f"images must be uint8 (B, H, W, 3) or clips of them, got {images.dtype} {images.shape}.")
    if columns < 1:
        raise ValueError(f"a sheet has at least one column, got {columns}.")
    target = folder / check_name(name, "image set")
    if target.exists():
        remove_folder(target)
    write_folder(target, lambda temporary: _write_sheets(temporary, images, columns, fps), "images")
    return target


def _write_sheets(folder: Path, images: NDArray[np.uint8], columns: int, fps: float) -> None:
    clip = {"frames": images.shape[1], "fps": fps} if kind_of(images) == "clips" else {}
    columns *= int(clip.get("frames", 1))
    images_BHWC = as_pictures(images)
    count, height, width, _ = images_BHWC.shape
    rows = max(1, SHEET_PIXELS // (columns * height * width))
    size = {"count": count, "height": height, "width": width, "columns": columns, "rows": rows}
    index = size | clip | {"sha256": pixels_digest(images)}
    (folder / "index.json").write_text(json.dumps(index), encoding="utf-8")
    for sheet, first in enumerate(range(0, count, rows * columns)):
        png = encode_png(contact_sheet(images_BHWC[first : first + rows * columns], columns))
        (folder / f"{sheet:03d}.png").write_bytes(png)


def load_images(path: Path) -> NDArray[np.uint8]:
    """The images (B, H, W, 3) or clips (B, F, H, W, 3) stored at `path` (what `save_images` returned), bit for bit.

    Raises:
        UserError: when the set is missing or damaged.
    """
    import numpy as np

    try:
        index = parse_json((path / "index.json").read_text(encoding="utf-8"))
        if not isinstance(index, dict):
            raise ValueError("its index is no table")
        count, height, width, columns, rows = (int(index[k]) for k in ("count", "height", "width", "columns", "rows"))
        tiles = []
        for sheet in range(math.ceil(count / (rows * columns))):
            pixels = _sheet(path / f"{sheet:03d}.png", (columns * width, rows * height))
            grid = pixels.reshape(-1, height, columns, width, 3).swapaxes(1, 2)
            tiles.append(grid.reshape(-1, height, width, 3))
        images: NDArray[np.uint8] = np.concatenate(tiles)[:count]
        found = len(images)
        if "frames" in index and found == count:
            images = images.reshape(-1, int(index["frames"]), height, width, 3)
    except (OSError, ValueError, KeyError, TypeError, SyntaxError, ArithmeticError) as error:
        raise UserError(f"The images in {path} are missing or damaged ({clean_text(str(error), 100)}).") from error
    if found != count:
        raise UserError(f"The images in {path} are damaged: {found} of {count} are there.")
    if index.get("sha256", "") not in ("", pixels_digest(images)):
        raise UserError(f"The images in {path} are damaged: they are not those that were stored.")
    return images


def stored_fps(path: Path) -> float:
    """Frames a second of the clips stored at `path`; 0 of pictures.

    Raises:
        UserError: the set is missing or damaged.
    """
    try:
        index = parse_json((path / "index.json").read_text(encoding="utf-8"))
        return float(index.get("fps", 0.0)) if isinstance(index, dict) else 0.0
    except (OSError, ValueError, TypeError) as error:
        raise UserError(f"The images in {path} are missing or damaged ({clean_text(str(error), 100)}).") from error


def _sheet(path: Path, most: tuple[int, int]) -> NDArray[np.uint8]:
    """The pixels of one sheet, uint8 (H, W, 3), which is no wider and no higher than `most`: a small file can hold more
    pixels than fit in memory. Nothing but a PNG is read, whatever the file is.
    """
    import numpy as np
    from PIL import Image

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            with Image.open(path, formats=("PNG",)) as image:
                if image.width != most[0] or image.height > most[1]:
                    raise ValueError(f"{path.name} has {image.width} x {image.height} pixels")
                return np.asarray(image.convert("RGB"), dtype=np.uint8)
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise ValueError(f"{path.name}: {error}") from error


def pixels_digest(images: NDArray[np.uint8]) -> str:
    """sha256 of images' or clips' shape and pixels."""
    import numpy as np

    digest = hashlib.sha256(str(images.shape).encode())
    digest.update(np.ascontiguousarray(images).data)
    return digest.hexdigest()


def stored_digest(path: Path) -> str | None:
    """`pixels_digest` of the images stored at `path`, taken from their index; None where they are gone.

    Raises:
        UserError: they are damaged. Looked at only where the index, written before it held digests, lacks one.
    """
    try:
        index = parse_json((path / "index.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    digest = index.get("sha256") if isinstance(index, dict) else None
    return str(digest) if digest else pixels_digest(load_images(path))


def contact_sheet(images_BHWC: NDArray[np.uint8], columns: int) -> NDArray[np.uint8]:
    """Images side by side, `columns` a row, uint8 (rows * H, columns * W, 3); what is left of the last row is black."""
    import numpy as np

    count, height, width, channels = images_BHWC.shape
    rows = math.ceil(count / columns)
    padded = np.zeros((rows * columns, height, width, channels), np.uint8)
    padded[:count] = images_BHWC
    grid = padded.reshape(rows, columns, height, width, channels).swapaxes(1, 2)
    return grid.reshape(rows * height, columns * width, channels)


def encode_png(pixels_HWC: NDArray[np.uint8]) -> bytes:
    """One uint8 RGB picture as PNG; compressed lightly, because evaluation waits for it."""
    from PIL import Image

    sink = io.BytesIO()
    Image.fromarray(pixels_HWC).save(sink, format="PNG", compress_level=1)
    return sink.getvalue()
