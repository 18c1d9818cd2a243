"""Images for people: the first prompts of a run's points, from full sets and from the slim ones that bundles keep."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from run_folder import point, save_images, stored

from grpo_bench.analysis.panels import first_middle_last, panels, slim_images
from grpo_bench.errors import UserError
from grpo_bench.store.run import RunStore

PROMPTS = [f"prompt {i}" for i in range(10)]


@pytest.fixture
def run(tmp_path: Path) -> RunStore:
    """Four points; prompt p's image i is grey 10 p + i, and 100 more at the last."""
    store = stored(tmp_path / "runs", [point(i, 0.5) for i in (0, 3, 5, 9)])
    save_images(store, PROMPTS)
    return store


def test_all_points_are_read_with_the_first_eight_prompts(run: RunStore) -> None:
    read = panels(run.folder)

    assert [panel.iteration for panel in read] == [0, 3, 5, 9]
    assert read[0].prompts == tuple(PROMPTS[:8])
    assert read[0].images_PIHWC.shape == (8, 2, 32, 32, 3)
    assert (read[0].images_PIHWC[3, 1] == 31).all()
    assert (read[-1].images_PIHWC[3, 1] == 131).all()


def test_slim_sets_give_what_the_full_ones_gave(run: RunStore, tmp_path: Path) -> None:
    target = tmp_path / "slim" / run.folder.name

    written = slim_images(run.folder, target)

    full, slim = first_middle_last(run.folder), first_middle_last(target)
    assert written == 3
    assert [panel.iteration for panel in slim] == [panel.iteration for panel in full] == [0, 5, 9]
    assert all(np.array_equal(one.images_PIHWC, other.images_PIHWC) for one, other in zip(full, slim, strict=True))
    assert [panel.prompts for panel in slim] == [panel.prompts for panel in full]
    assert RunStore(target).load_prompts() == PROMPTS
    assert sorted(path.name for path in (target / "images").iterdir()) == [
        "panel-000000", "panel-000005", "panel-000009", "prompts.json",
    ]  # fmt: skip


def test_slim_sets_of_slim_sets_are_the_same_files(run: RunStore, tmp_path: Path) -> None:
    once, twice = tmp_path / "once", tmp_path / "twice"

    slim_images(run.folder, once, [0, 9])
    slim_images(once, twice)

    files = [path.relative_to(once) for path in sorted(once.rglob("*")) if path.is_file()]
    assert len(files) == 5  # two sheets, two indices, the prompts
    assert all((twice / name).read_bytes() == (once / name).read_bytes() for name in files)


def test_a_run_without_images_has_no_panels_and_gets_no_folder(tmp_path: Path) -> None:
    store = stored(tmp_path, [point(0, 0.5)])

    assert panels(store.folder) == ()
    assert slim_images(store.folder, tmp_path / "slim") == 0
    assert not (tmp_path / "slim").exists()


def test_images_that_do_not_fit_the_prompts_are_an_error(run: RunStore) -> None:
    run.save_prompts(PROMPTS[:7])

    with pytest.raises(UserError, match="20 images for 7 prompts"):
        panels(run.folder)
