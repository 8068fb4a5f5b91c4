"""One sentence for every package that may be absent."""

import pytest

from stylenat.extras import require


def test_what_is_installed_is_not_spoken_of():
    require("this test", "torch", "scikit-learn", extra="modes")


def test_a_sentence_names_what_is_missing_the_extra_and_the_other_way():
    with pytest.raises(ValueError, match="needs") as refusal:
        require("the page", "torch", "no-such-one", "nor_this", extra="explore", otherwise="walk")
    assert str(refusal.value) == (
        "the page needs no-such-one and nor_this, which are not installed: pip install "
        "'stylenat[explore]', or walk"
    )
    with pytest.raises(ValueError, match=r"needs absent, which is not .*'stylenat\[film\]'$"):
        require("the page", "absent", extra="film")


def test_a_folder_without_code_is_no_package(tmp_path, monkeypatch):
    (tmp_path / "hollow").mkdir()
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(ValueError, match="needs hollow"):
        require("the page", "hollow", extra="film")
    (tmp_path / "hollow" / "__init__.py").touch()
    require("the page", "hollow", extra="film")
