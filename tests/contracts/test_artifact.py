"""Artifacts: what is saved comes back bit for bit, and what does not fit says so."""

from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from numpy.testing import assert_array_equal

from shortlist import __version__, artifact
from shortlist.config import frozen
from shortlist.errors import ArtifactError
from shortlist.forms import Form, Lists, Vectors
from shortlist.schema import Schema, Vocabulary

VECTORS = Vectors(np.array([7, 2, 9]), np.array([[1, 2], [3, 4], [5, 6]], dtype=np.float32), "cos")
LISTS = Lists(
    np.array([3, 8]),
    np.array([0, 2, 3]),
    np.array([5, 6, 5]),
    np.array([0.5, 0.25, 1.0], dtype=np.float32),
    ("hot:区域", 'a"b\n'),
)
SCHEMA = Schema.parse({"items": {"category": "sparse", "title": "text"}})


@frozen
class Config:
    n: int = 200
    widths: tuple[int, ...] = (4, 2)


def write(folder: Path, **changes: Any) -> artifact.Manifest:
    values: dict[str, Any] = {"kind": "recall", "name": "item_cf", "form": VECTORS, "created_ms": 5}
    return artifact.save(folder, **{**values, **changes})


def equal(left: Form, right: Form) -> bool:
    if isinstance(left, Vectors) and isinstance(right, Vectors):
        same = left.metric == right.metric
        return same and left.matrix.tobytes() == right.matrix.tobytes() and bool((left.keys == right.keys).all())
    assert isinstance(left, Lists)
    assert isinstance(right, Lists)
    parts = ("keys", "offsets", "items", "scores")
    pairs = [(getattr(left, name), getattr(right, name)) for name in parts]
    return left.labels == right.labels and all(a.dtype == b.dtype and a.tobytes() == b.tobytes() for a, b in pairs)


@pytest.mark.parametrize("form", [VECTORS, LISTS, Lists(LISTS.keys, LISTS.offsets, LISTS.items, LISTS.scores)])
def test_a_form_comes_back_bit_for_bit(tmp_path: Path, form: Form) -> None:
    write(tmp_path / "a", form=form)
    assert equal(artifact.load(tmp_path / "a").form(), form)


def test_an_empty_form_comes_back(tmp_path: Path) -> None:
    none = np.zeros(0, dtype=np.int64)
    write(tmp_path / "v", form=Vectors(none, np.zeros((0, 4), dtype=np.float32)))
    write(tmp_path / "l", form=Lists(none, np.zeros(1, dtype=np.int64), none, np.zeros(0, dtype=np.float32)))
    vectors, lists = artifact.load(tmp_path / "v").form(), artifact.load(tmp_path / "l").form()
    assert isinstance(vectors, Vectors)
    assert vectors.matrix.shape == (0, 4)
    assert isinstance(lists, Lists)
    assert len(lists) == 0


def test_arrays_and_tables_come_back_and_arrays_are_read_only(tmp_path: Path) -> None:
    frame = pl.DataFrame({"id": ["a", None], "tags": [["x", "y"], None], "n": [1.5, float("nan")]})
    arrays = {"item.prior": np.array([[1, 2]], dtype=np.int16), "../up": np.array([True])}
    write(tmp_path / "a", form=None, arrays=arrays, tables={"words": frame})
    made = artifact.load(tmp_path / "a")
    for name, array in arrays.items():
        assert made.array(name).dtype == array.dtype
        assert_array_equal(made.array(name), array)
    assert made.table("words").equals(frame)
    with pytest.raises(ValueError, match="read-only"):
        made.array("item.prior")[0, 0] = 9
    # a name that would climb is written inside the folder
    assert sorted(p.name for p in tmp_path.rglob("*.npy")) == ["%2E.%2Fup.npy", "item.prior.npy"]


def test_the_manifest_says_what_it_is(tmp_path: Path) -> None:
    print_of = SCHEMA.fingerprint(("item.category", "actions"))
    made = write(
        tmp_path / "a",
        config=Config(n=7),
        reads=("item.category", "actions"),
        fingerprint=print_of,
        snapshot="s1",
        metrics={"recall@10": np.float32(0.5)},
    )
    assert made == artifact.load(tmp_path / "a").manifest
    assert (made.format, made.kind, made.name, made.code) == (1, "recall", "item_cf", __version__)
    assert (made.config, made.reads) == ({"n": 7, "widths": [4, 2]}, ("actions", "item.category"))
    assert (made.snapshot, made.metrics, made.created_ms) == ("s1", {"recall@10": 0.5}, 5)
    assert sorted(made.files) == ["form.keys.npy", "form.matrix.npy"]
    # a .npy of 3 int64: 128 bytes of header and 24 of numbers
    assert made.files["form.keys.npy"].bytes == 152


def test_saving_again_replaces_the_old_one_whole(tmp_path: Path) -> None:
    write(tmp_path / "a", form=LISTS)
    held = artifact.load(tmp_path / "a").form()
    write(tmp_path / "a", form=VECTORS)
    assert equal(artifact.load(tmp_path / "a").form(), VECTORS)
    assert equal(held, LISTS)  # a reader of the old one keeps it
    assert [p.name for p in tmp_path.iterdir()] == ["a"]


def test_a_failed_save_leaves_the_old_one_and_no_litter(tmp_path: Path) -> None:
    write(tmp_path / "a")
    with pytest.raises(ArtifactError) as caught:
        write(tmp_path / "a", arrays={"bad": np.array([{}], dtype=object)})
    assert str(caught.value) == "bad.npy: an array holds Python objects (save text and lists as a table)"
    with pytest.raises(ArtifactError, match=r"^item_cf.metrics: not plain JSON: Out of range float"):
        write(tmp_path / "a", metrics={"recall": float("nan")})
    with pytest.raises(ArtifactError, match=r"^item_cf.config: not plain JSON: object is not a plain value"):
        write(tmp_path / "a", config={"f": object()})
    assert equal(artifact.load(tmp_path / "a").form(), VECTORS)
    assert [p.name for p in tmp_path.iterdir()] == ["a"]


def test_a_folder_of_something_else_is_not_replaced(tmp_path: Path) -> None:
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "cat.jpg").touch()
    with pytest.raises(ArtifactError) as caught:
        write(tmp_path / "photos")
    what = f"{tmp_path}/photos: this folder is not an artifact; it stays as it is (choose another folder)"
    assert str(caught.value) == what
    assert (tmp_path / "photos" / "cat.jpg").exists()


def test_absent_things_name_the_nearest(tmp_path: Path) -> None:
    write(tmp_path / "a", form=None, arrays={"norms": np.zeros(2)})
    made = artifact.load(tmp_path / "a")
    with pytest.raises(ArtifactError) as caught:
        made.array("norm")
    assert str(caught.value) == f"{tmp_path}/a: item_cf has no norm.npy (did you mean norms.npy?)"
    with pytest.raises(ArtifactError) as caught:
        made.form()
    assert str(caught.value) == f"{tmp_path}/a: item_cf has no form (read its arrays or tables)"
    with pytest.raises(ArtifactError) as caught:
        artifact.load(tmp_path / "b")
    assert str(caught.value) == f"{tmp_path}/b: no artifact here (name a folder that holds manifest.json)"


def test_an_artifact_of_another_schema_is_refused_by_the_fields_it_reads(tmp_path: Path) -> None:
    vocabularies = {"item.category": Vocabulary(["war", "drama"])}
    reads = ("item.category", "actions")
    made = write(tmp_path / "a", reads=reads, fingerprint=SCHEMA.fingerprint(reads, vocabularies))
    artifact.check_fits(made, SCHEMA, vocabularies)

    unread = Schema.parse({"items": {"category": "sparse", "title": "sparse", "price": "dense"}})
    artifact.check_fits(made, unread, vocabularies)  # what it does not read may change

    hint = "(restore these parts of [schema], or train and publish again)"
    changed = Schema.parse({"items": {"category": {"kind": "varlen", "split": "|"}, "title": "text"}})
    for schema, words in (
        (changed, vocabularies),
        (SCHEMA, {"item.category": Vocabulary(["war"])}),
        (SCHEMA, {}),
    ):
        with pytest.raises(ArtifactError) as caught:
            artifact.check_fits(made, schema, words)
        what = "schema: item_cf was trained on another schema: one of actions, item.category has changed "
        assert str(caught.value) == what + hint

    gone = Schema.parse({"items": {"title": "text"}})
    with pytest.raises(ArtifactError) as caught:
        artifact.check_fits(made, gone, vocabularies)
    what = "schema: item_cf was trained on another schema: the schema has no field 'item.category' "
    assert str(caught.value) == what + hint
