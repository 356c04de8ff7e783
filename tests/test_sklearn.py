# SPDX-License-Identifier: Apache-2.0
"""ViTFeatures in scikit-learn's pipelines, searches, pickles, caches and checks."""

from __future__ import annotations

import pickle
import subprocess
import sys
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from joblib import Parallel, delayed
from models import refused, small
from PIL import Image
from sklearn.base import clone
from sklearn.compose import ColumnTransformer
from sklearn.exceptions import NotFittedError
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.utils._set_output import ADAPTERS_MANAGER
from sklearn.utils.estimator_checks import check_estimator
from sklearn.utils.validation import check_is_fitted, validate_data

import vitpool
from vitpool.model import UntrainedWarning
from vitpool.sklearn import ViTFeatures
from vitpool.transforms import ImageError, ImageWarning

SAMPLES = [str(path) for path in vitpool.samples()]
X = np.random.default_rng(0).standard_normal((7, 3, 32, 32), "f4")


@pytest.fixture(scope="module")
def digits() -> Any:
    return vitpool.create_model("vit_digits", pretrained=True)


@pytest.fixture(scope="module")
def scans() -> tuple[np.ndarray, np.ndarray]:
    """scikit-learn's first digits as pictures, uint8 (n, 8, 8, 1), and their labels."""
    from sklearn.datasets import load_digits

    pixels, labels = load_digits(return_X_y=True)
    grey = np.rint(255 - pixels[:120].reshape(-1, 8, 8, 1) * (255 / 16))
    return grey.astype(np.uint8), labels[:120]


# -- what comes in, what comes out --


@pytest.mark.parametrize(
    "kind", ["paths", "array of paths", "images", "bytes", "pixels", "object column"]
)
def test_pictures_of_any_kind_give_the_vectors_of_embed(digits: Any, kind: str) -> None:
    images = [Image.open(path) for path in SAMPLES]
    given: Any = {
        "paths": SAMPLES,
        "array of paths": np.array(SAMPLES),
        "images": images,
        "bytes": [Path(path).read_bytes() for path in SAMPLES],
        "pixels": np.stack([np.asarray(image.convert("RGB")) for image in images]),
        "object column": np.array(SAMPLES, object),
    }[kind]
    features = ViTFeatures(digits, batch_size=3).fit_transform(given)
    assert features.dtype == np.float32
    np.testing.assert_array_equal(features, digits.embed(SAMPLES).vectors)


def test_normalised_arrays_give_what_the_model_gives_without_its_head() -> None:
    model = small(global_pool="avg")
    features = ViTFeatures(model, batch_size=3).fit_transform(X)
    model.reset_classifier(0)
    np.testing.assert_array_equal(features, model(X))
    half = ViTFeatures(model).fit_transform(X.astype(np.float64))
    np.testing.assert_array_equal(half, features)


def test_several_pools_stand_side_by_side_under_their_names() -> None:
    model = small(global_pool="map")
    several = ViTFeatures(model, pool="map,avg").fit(X)
    whole = several.transform(X)
    names = list(several.get_feature_names_out())
    assert names == [f"{pool}{i}" for pool in ("map", "avg") for i in range(32)]
    for first, pool in ((0, "map"), (32, "avg")):
        alone = ViTFeatures(model, pool=pool).fit_transform(X)
        np.testing.assert_array_equal(whole[:, first : first + 32], alone)
    assert several.n_features_in_ == 3 * 32 * 32
    assert not hasattr(several.fit(SAMPLES), "n_features_in_")


def test_a_model_comes_by_name_by_folder_and_as_itself(
    digits: Any, tmp_path: Path
) -> None:
    digits.save_pretrained(tmp_path)
    want = digits.embed(SAMPLES).vectors
    for model in ("vit_digits", digits, tmp_path, str(tmp_path)):
        features = ViTFeatures(model).fit_transform(SAMPLES)
        np.testing.assert_array_equal(features, want)


def test_the_model_given_is_not_changed_and_its_later_changes_are_not_seen() -> None:
    model = small(global_pool="avg")
    fitted = ViTFeatures(model).fit(X)
    before = fitted.transform(X)
    assert model.num_classes == 10
    model.set_head(np.ones((2, 32)))
    model.fc_norm.weight = np.zeros(32)
    np.testing.assert_array_equal(fitted.transform(X), before)


def test_a_picture_that_cannot_be_read_raises_or_is_a_row_of_nan(digits: Any) -> None:
    bad = [*SAMPLES[:2], __file__]
    with pytest.raises(ImageError, match=Path(__file__).name):
        ViTFeatures(digits).fit_transform(bad)
    with pytest.warns(ImageWarning, match="1 of 3"):
        features = ViTFeatures(digits, errors="nan").fit_transform(bad)
    assert np.isnan(features).all(1).tolist() == [False, False, True]


def test_random_weights_are_said_once() -> None:
    model = vitpool.VisionTransformer(
        img_size=8, patch_size=4, embed_dim=8, depth=1, num_heads=2, seed=0
    )
    with pytest.warns(UntrainedWarning, match=r"blocks\.0"):
        fitted = ViTFeatures(model).fit(SAMPLES)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        fitted.transform(SAMPLES)


BAD: dict[str, tuple[type[Exception], str, dict[str, Any], Any]] = {
    "pool": (ValueError, "'middle'", {"pool": "middle"}, X),
    "model": (TypeError, "not int", {"model": 3}, X),
    "name": (ValueError, "vit_digit", {"model": "vit_digit"}, X),
    "batch": (ValueError, "batch_size must be at least 1", {"batch_size": 0}, X),
    "errors": (ValueError, "'raise', 'nan'", {"errors": "skip"}, X),
    "rows": (ValueError, "shape (7, 3072)", {}, X.reshape(7, -1)),
    "integers": (TypeError, "int64", {}, X.astype(np.int64)),
    "infinity": (ValueError, "infinity", {}, X + np.inf),
}


@pytest.mark.parametrize("name", BAD)
def test_what_cannot_be_is_refused_by_fit(name: str) -> None:
    error, words, options, given = BAD[name]
    with refused(error, words):
        ViTFeatures(**{"model": small(), **options}).fit(given)


def test_transform_before_fit_is_scikit_learns_own_error() -> None:
    with pytest.raises(NotFittedError):
        ViTFeatures().transform(SAMPLES)


# -- among scikit-learn's tools --


def test_a_grid_search_over_the_pool_and_back_into_the_model(
    digits: Any, scans: tuple[np.ndarray, np.ndarray]
) -> None:
    pictures, labels = scans
    pipeline = make_pipeline(
        ViTFeatures(digits), StandardScaler(), LogisticRegression(max_iter=300)
    )
    grid = {"vitfeatures__pool": ["avg", "max", "map"]}
    search = GridSearchCV(pipeline, grid, cv=2, error_score="raise")
    search.fit(pictures, labels)
    scores = search.cv_results_["mean_test_score"]
    assert scores.min() > 0.8
    assert len(set(search.cv_results_["param_vitfeatures__pool"])) == 3
    best = search.best_estimator_
    model = vitpool.create_model("vit_digits", pretrained=True)
    model.reset_classifier(10, best[0].pool)
    model.load_linear(best[1:])
    np.testing.assert_array_equal(
        model.predict_proba(pictures).argmax(1), best.predict(pictures)
    )


def test_clones_and_pickles_answer_the_same(digits: Any) -> None:
    original = ViTFeatures(digits, pool="avg", batch_size=4)
    want = original.fit_transform(SAMPLES)
    again = clone(original)
    assert not hasattr(again, "pooling_")
    assert again.get_params()["pool"] == "avg"
    np.testing.assert_array_equal(again.fit_transform(SAMPLES), want)
    thawed = pickle.loads(pickle.dumps(original))
    np.testing.assert_array_equal(thawed.transform(SAMPLES), want)


def test_processes_of_joblib_take_it(digits: Any) -> None:
    fitted = ViTFeatures(digits).fit(SAMPLES)
    found = Parallel(n_jobs=2)(
        delayed(fitted.transform)(part) for part in (SAMPLES[:5], SAMPLES[5:])
    )
    np.testing.assert_array_equal(np.concatenate(found), fitted.transform(SAMPLES))


@pytest.mark.parametrize("by", ["name", "model"])
def test_a_pipelines_memory_keeps_the_features(
    by: str, digits: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    runs = []
    real = ViTFeatures.transform

    def counted(self: Any, given: Any) -> Any:
        runs.append(len(given))
        return real(self, given)

    monkeypatch.setattr(ViTFeatures, "transform", counted)
    labels = np.arange(10) % 2

    def fit(model: Any, pool: str) -> None:
        pipeline = make_pipeline(
            ViTFeatures(model, pool=pool), LogisticRegression(), memory=str(tmp_path)
        )
        pipeline.fit(SAMPLES, labels)

    model = "vit_digits" if by == "name" else digits
    fit(model, "avg")
    fit(model, "avg")
    assert len(runs) == 1
    fit(model, "max")
    assert len(runs) == 2
    if by == "model":  # another by its weights alone
        other = vitpool.create_model("vit_digits", pretrained=True)
        fit(other, "avg")
        assert len(runs) == 2
        other.norm.weight = np.ones(64)
        fit(other, "avg")
        assert len(runs) == 3


def test_a_column_of_a_table_is_taken_and_the_features_have_names(digits: Any) -> None:
    columns = ColumnTransformer([("picture", ViTFeatures(digits), 0)])
    table = np.array([[path, str(i)] for i, path in enumerate(SAMPLES)], object)
    features = columns.fit_transform(table)
    np.testing.assert_array_equal(features, digits.embed(SAMPLES).vectors)
    names = list(columns.get_feature_names_out())
    assert names == [f"picture__map{i}" for i in range(64)]


class Table:
    """A kind of table for set_output, which pandas is where it is installed."""

    container_lib = "a test's tables"

    def create_container(
        self, X_output: Any, X_original: Any, columns: Any, inplace: bool = True
    ) -> Any:
        if isinstance(X_output, dict):  # fit_transform's, which transform has made
            return X_output
        return {name: X_output[:, i] for i, name in enumerate(columns())}

    def is_supported_container(self, X: Any) -> bool:
        return isinstance(X, dict)


def test_set_output_gives_a_table_with_named_columns(
    digits: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(ADAPTERS_MANAGER.adapters, Table.container_lib, Table())
    extractor = ViTFeatures(digits).set_output(transform=Table.container_lib)
    table = extractor.fit_transform(SAMPLES)
    assert list(table) == [f"map{i}" for i in range(64)]
    np.testing.assert_array_equal(table["map3"], digits.embed(SAMPLES).vectors[:, 3])


# -- scikit-learn's checks --


class OfRows(ViTFeatures):
    """ViTFeatures of rows of numbers, as pixels of a picture of 8 x 8.

    scikit-learn's checks have no pictures: they give rows, of any number of columns.
    """

    def fit(self, X: Any, y: Any = None) -> Any:
        pixels = self._pixels(X, reset=True)
        columns = self.n_features_in_
        super().fit(pixels, y)
        self.n_features_in_ = columns
        return self

    def transform(self, X: Any) -> Any:
        check_is_fitted(self)
        return super().transform(self._pixels(X, reset=False))

    def _pixels(self, X: Any, reset: bool) -> np.ndarray:
        rows = validate_data(self, X, reset=reset, dtype=np.float32)
        pixels = np.zeros((len(rows), 64), np.float32)
        pixels[:, : rows.shape[1]] = rows
        return pixels.reshape(-1, 1, 8, 8)

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.input_tags.two_d_array, tags.input_tags.one_d_array = True, False
        tags.input_tags.string = False
        return tags


def test_check_estimator_passes_on_rows_taken_for_pixels() -> None:
    model = small(img_size=8, patch_size=4, in_chans=1, embed_dim=8)
    results = check_estimator(OfRows(model), on_fail=None, on_skip=None)
    failed = {
        result["check_name"]: result["exception"]
        for result in results
        if result["status"] not in ("passed", "skipped")
    }
    assert not failed
    skipped = {r["check_name"] for r in results if r["status"] == "skipped"}
    # It wants SCIPY_ARRAY_API set before the start of the process.
    assert skipped <= {"check_array_api_input"}
    assert len(results) > 40


def test_of_pictures_check_estimator_has_no_more_than_the_first_checks() -> None:
    """That is why the checks run on rows: a row of numbers is no picture."""
    model = small(img_size=8, patch_size=4, in_chans=1, embed_dim=8)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        results = check_estimator(ViTFeatures(model), on_fail=None, on_skip=None)
    assert all(result["status"] == "passed" for result in results)
    assert len(results) < 5


# -- without scikit-learn --


def test_without_scikit_learn_the_import_says_what_to_install() -> None:
    program = (
        "import sys; sys.modules['sklearn'] = None\n"
        "import vitpool.train\n"
        "try:\n    import vitpool.sklearn\n"
        "except ImportError as error:\n    print(error)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == (
        "vitpool.sklearn needs scikit-learn: pip install 'vitpool[sklearn]'"
    )
