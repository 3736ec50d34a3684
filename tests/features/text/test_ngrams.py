"""Hashed n-grams: what is counted, by hand; angles that are kept; one vector a text, whatever else there is."""

import hashlib
import os
import subprocess
import sys
from math import log, sqrt
from pathlib import Path
from unicodedata import normalize

import numpy as np
import polars as pl
import pytest
import scipy.sparse as sp
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from pytest import approx

from shortlist.errors import ConfigError
from shortlist.features.text.ngrams import CHARS, Ngrams, directions, runs

HERE = Path()
TEXTS = ["The Matrix (1999)", "Amélie", "千と千尋の神隠し", "STRASSE", "", "ﬁnding nemo", "Η Οδύσσεια", "🦊 fox"]


def fitted(*texts: str | None, **options: object) -> Ngrams:
    return Ngrams.fit(Ngrams.Config(**options), pl.Series(texts, dtype=pl.String), HERE)  # type: ignore[arg-type]


def vectors(encoder: Ngrams, *texts: str | None) -> NDArray[np.float32]:
    return encoder(pl.Series(texts, dtype=pl.String))


def test_runs_stay_with_their_owner() -> None:
    # [7 8 9] and [7]: four runs of one, two of two (78, 89), none of three asked for
    owners, hashes = runs(np.array([7, 8, 9, 7], dtype=np.uint64), np.array([3, 1]), (1, 2), CHARS)
    assert owners.tolist() == [0, 0, 0, 1, 0, 0]
    assert hashes[0] == hashes[3]
    assert len(set(hashes.tolist())) == 5
    turned, _ = runs(np.array([8, 7], dtype=np.uint64), np.array([2]), (2,), CHARS)
    assert turned.tolist() == [0]
    assert runs(np.array([8, 7], dtype=np.uint64), np.array([2]), (2,), CHARS)[1][0] != hashes[4]  # 87 is not 78


@pytest.mark.parametrize(
    ("text", "options", "grams"),
    [
        ("ab", {}, 4),  # _ab ab_, _ab_ of five letters none; the word
        ("ab ab", {}, 9),  # twice these, and the two words in a row
        ("a-b", {"words": ()}, 2),  # two words of one letter: _a_ _b_
        ("abc", {"chars": (), "words": (1,)}, 1),
        ("千と", {"chars": ()}, 3),  # each a word, and both
        ("!?", {}, 0),
    ],
)
def test_what_is_counted(text: str, options: dict[str, tuple[int, ...]], grams: int) -> None:
    encoder = Ngrams(Ngrams.Config(**options))  # type: ignore[arg-type]
    assert encoder._counts(pl.Series([text]), signed=False).sum() == grams


def test_rare_buckets_weigh_more() -> None:
    encoder = fitted("red fox", "red sea", "", None, chars=(), words=(1,))
    assert encoder.idf is not None

    def weight(word: str) -> float:
        assert encoder.idf is not None
        return float(encoder.idf[encoder._counts(pl.Series([word]), signed=False).indices[0]])

    # two texts: both have red, log(3/3) + 1; one has fox, log(3/2) + 1; none has owl, log(3/1) + 1
    assert [weight(w) for w in ("red", "fox", "owl")] == approx([1.0, log(1.5) + 1, log(3) + 1])
    assert fitted("red fox", idf=False).idf is None
    x, y = vectors(encoder, "red fox", "red")
    # (1, 1.405) and (1, 0): 1 / sqrt(1 + 1.405^2) = 0.58, to 0.09 = 1 / sqrt(128)
    assert float(x @ y) == approx(1 / sqrt(1 + (log(1.5) + 1) ** 2), abs=0.2)


def test_angles_are_kept() -> None:
    """Of 300 pairs with k of 8 words in common the cosine is k/8, found without bias and to 1 / sqrt(D)."""
    words = [f"w{n:04}" for n in range(300 * 16)]
    left, right, true = [], [], []
    for pair in range(300):
        own, k = words[pair * 16 : pair * 16 + 16], pair % 9
        left.append(" ".join(own[:8]))
        right.append(" ".join(own[8 - k : 16 - k]))
        true.append(k / 8)
    for dim in (64, 256):
        encoder = Ngrams(Ngrams.Config(dim=dim, chars=(), words=(1,), idf=False))
        error = (vectors(encoder, *left) * vectors(encoder, *right)).sum(axis=1) - np.array(true)
        assert abs(error.mean()) < 4 / sqrt(dim * 300)  # four standard errors
        assert sqrt((error**2).mean()) < 1.1 / sqrt(dim)


def test_order_spelling_and_script() -> None:
    bag = Ngrams(Ngrams.Config(chars=(), words=(1,), idf=False))
    one, other = vectors(bag, "red fox red", "red red fox")
    assert one.tobytes() == other.tobytes()
    encoder = Ngrams(Ngrams.Config(idf=False))
    x = vectors(encoder, "Straße", "STRASSE", "ﬁn", "FIN", "Amélie", "ame\u0301lie", "ＡＢＣ", "abc")
    assert [x[n].tobytes() == x[n + 1].tobytes() for n in (0, 2, 4, 6)] == [True] * 4
    near = vectors(encoder, "The Godfather", "Godfather, The: Part II", "Clueless")
    assert near[0] @ near[1] > 0.5 > near[0] @ near[2]


def test_empty_texts_are_zero() -> None:
    encoder = fitted("a fox", None)
    assert not vectors(encoder, None, "", " ", "!?…").any()
    assert encoder(pl.Series([], dtype=pl.String)).shape == (0, 128)
    assert encoder(pl.Series([None, None])).shape == (2, 128)
    assert not fitted(None, "")(pl.Series(["", None])).any()
    learned = fitted(None, "").idf
    assert learned is not None
    assert (learned == 1).all()  # from nothing: log(1/1) + 1


@given(st.lists(st.text(max_size=40), min_size=1, max_size=6))
@settings(deadline=None, max_examples=60)
def test_any_text_has_one_vector(texts: list[str]) -> None:
    encoder = Ngrams(Ngrams.Config(dim=16, width=512, idf=False))
    found = vectors(encoder, *texts)
    length = np.linalg.norm(found.astype(np.float64), axis=1)
    assert found.dtype == np.float32
    assert np.isfinite(found).all()
    assert all(value == 0 or value == approx(1, abs=1e-6) for value in length)
    alone = np.concatenate([vectors(encoder, text) for text in texts])
    assert found.tobytes() == alone.tobytes()  # to the bit, beside others or by itself
    assert found.tobytes() == vectors(encoder, *(normalize("NFD", text) for text in texts)).tobytes()


def test_blocks_do_not_show(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = fitted(*TEXTS)
    expected = vectors(whole, *TEXTS)
    monkeypatch.setattr("shortlist.features.text.ngrams.BLOCK", 10)
    parts = fitted(*TEXTS)
    assert whole.idf is not None
    assert parts.idf is not None
    assert parts.idf.tobytes() == whole.idf.tobytes()
    assert vectors(whole, *TEXTS).tobytes() == expected.tobytes()


ASKED = """
import hashlib, polars as pl
from pathlib import Path
from shortlist.features.text.ngrams import Ngrams
texts = pl.Series(TEXTS)
print(hashlib.sha256(Ngrams.fit(Ngrams.Config(dim=32), texts, Path())(texts).tobytes()).hexdigest())
"""


def test_the_same_in_another_process_and_on_any_machine() -> None:
    env = {**os.environ, "PYTHONHASHSEED": "7"}
    done = subprocess.run(
        [sys.executable, "-c", ASKED.replace("TEXTS", repr(TEXTS))],
        capture_output=True, text=True, check=True, timeout=600, env=env,
    )  # fmt: skip
    mine = hashlib.sha256(vectors(fitted(*TEXTS, dim=32), *TEXTS).tobytes()).hexdigest()
    assert done.stdout.strip() == mine
    assert mine == "ca3ffda287751b260818f2eb094cf16b707962d4cf80d9aa1275c7753e47628f"


def test_singular_directions_by_hand() -> None:
    """a+b, b+c, c+a, each in two texts, span three directions: cosines are exact, 1/2 between any two."""
    pairs = ["a b", "b c", "c a"]
    options = {"project": "svd", "chars": (), "words": (1,), "idf": False}
    encoder = fitted(*pairs, *pairs, "owl", None, dim=5, **options)
    found = vectors(encoder, "a b", "c b", "A C", "a", "owl", "nothing known", None)
    inner = found @ found.T
    assert inner[:3, :3] == approx(np.full((3, 3), 0.5) + np.eye(3) / 2, abs=1e-6)
    # a to a+b: 1 / sqrt 2; to b+c: 0
    assert inner[3, :3] == approx([sqrt(0.5), 0, sqrt(0.5)], abs=1e-6)
    # one text alone has an owl; two dimensions are left over
    assert not found[4:].any()
    assert not found[:, 3:].any()
    # of fewer directions the first are the strongest: all three words alike
    one = fitted(*pairs, *pairs, dim=1, **options)
    found = vectors(one, "a b", "c", "a")
    assert found @ found.T == approx(np.ones((3, 3)), abs=1e-6)


def test_a_direction_points_where_its_first_largest_part_does() -> None:
    """(1, -1) / sqrt 2 and (1, 1) / sqrt 2: parts of one size, and what is the larger by rounding says nothing."""
    rows = sp.csr_array(np.array([[1.0, -1.0], [1.0, -1.0], [1.0, 1.0], [-1.0, 1.0]]))
    for order in ([0, 1, 2, 3], [3, 2, 1, 0], [1, 3, 0, 2]):
        buckets, axes = directions(rows[order], 2)
        assert buckets.tolist() == [0, 1]
        assert axes == approx(np.array([[1, 1], [-1, 1]]) * sqrt(0.5), abs=1e-6)


def test_topics_of_long_texts() -> None:
    """Texts of a topic share few words; what these share puts them together: more than their own words say."""
    rng = np.random.default_rng(0)
    topic = np.arange(400) % 2
    texts = [" ".join(f"t{t}w{n}" for n in rng.choice(60, 6)) for t in topic]
    apart = []
    for project in ("random", "svd"):
        options = {"project": project, "dim": 8, "chars": (), "words": (1,)}
        found = vectors(fitted(*texts[:300], **options), *texts[300:])
        near = (found @ found.T - 2 * np.eye(100)).argmax(axis=1)
        apart.append(float((topic[300:][near] == topic[300:]).mean()))
    assert apart[1] > 0.95 > apart[0]


@pytest.mark.parametrize("texts", [(), ("", None), ("red fox",), ("red fox", "owl")])
def test_too_little_to_find_directions(texts: tuple[str | None, ...]) -> None:
    encoder = fitted(*texts, project="svd")
    assert vectors(encoder, "red fox", "").tolist() == np.zeros((2, 128)).tolist()


def test_directions_survive_and_stand_alone() -> None:
    encoder = fitted(*TEXTS, *TEXTS, project="svd", dim=4)
    again = Ngrams.restore(encoder.config, *encoder.state(), HERE)
    whole = vectors(encoder, *TEXTS)
    assert np.linalg.norm(whole, axis=1)[[0, 4]] == approx([1, 0], abs=1e-6)
    assert whole.tobytes() == np.concatenate([vectors(again, text) for text in TEXTS]).tobytes()
    assert (
        fitted(*TEXTS, *TEXTS, project="svd", dim=4).state()[1]["axes"].tobytes()
        == encoder.state()[1]["axes"].tobytes()
    )


def test_state_survives() -> None:
    encoder = fitted(*TEXTS, dim=8)
    again = Ngrams.restore(encoder.config, *encoder.state(), HERE)
    assert vectors(again, *TEXTS).tobytes() == vectors(encoder, *TEXTS).tobytes()
    assert Ngrams(Ngrams.Config(idf=False)).state() == ({}, {})


def test_small_widths() -> None:
    # fewer than eight dimensions: as many entries a bucket as there are
    for dim in (1, 3, 9):
        length = np.linalg.norm(vectors(Ngrams(Ngrams.Config(dim=dim, idf=False)), "the red fox")[0])
        assert length == approx(1, abs=1e-6)


def test_nothing_to_count() -> None:
    with pytest.raises(ConfigError) as error:
        Ngrams(Ngrams.Config(chars=(), words=()))
    assert str(error.value) == "encode.chars: no n-grams to count (give lengths, as chars = [3, 4, 5])"
