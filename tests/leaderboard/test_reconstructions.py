"""Reconstructed images beside class means, and what is said where a record holds none."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from benchmark.result import Picture, Result
from leaderboard.figures import GAP, strip
from leaderboard.publish import publish
from leaderboard.ranking import Board
from tests.leaderboard.conftest import EVIL, app_page, make_result, texts

BOARD = Board((), ("undefended", "selena"), (0, 1), "undefended", 0.7)


def inversions(pictures: bool = True) -> list[Result]:
    """Two attacks on two defenses; one is skipped on the second."""
    images = {n: Picture.of(np.full((10, 1, 8, 8), v)) for n, v in (("reconstructions", 0.25), ("class_means", 0.75))}
    rows = [
        make_result("utility", "", d, s, metrics={"test_accuracy": 0.8})
        for d in BOARD.required_defenses
        for s in (0, 1)
    ]
    for attack in ("descent", "nothing"):
        for defense in BOARD.required_defenses:
            for seed in (0, 1):
                changes = {
                    "metrics": {
                        "evaluator_accuracy": 0.3 + seed / 10,
                        "mse_to_class_mean": 0.2,
                        "ssim_to_class_mean": 0.1,
                    }
                }
                if defense == "selena":
                    changes = {"status": "skipped", "reason": "a guard is outside this threat model"}  # type: ignore[dict-item]
                elif pictures:
                    changes["pictures"] = images  # type: ignore[assignment]
                rows.append(
                    make_result(
                        "inversion", attack, defense, seed, access="white-box", null_row=attack == "nothing", **changes
                    )
                )
    return rows


def test_strip_places_each_image() -> None:
    images = np.arange(3, dtype=np.uint8)[:, None, None, None] * np.ones((1, 4, 4, 1), np.uint8)
    out = strip(images, across=2, least=8)
    assert out.shape == (2 * 8 + 6, 2 * 8 + 6, 3)
    assert (out[:8, :8] == 0).all() and (out[:8, 14:] == 1).all() and (out[14:, :8] == 2).all()
    assert (out[8:14] == GAP).all() and (out[14:, 8:] == GAP).all(), "gaps, and the place that no image takes"
    colours = np.zeros((1, 2, 2, 3), np.uint8)
    colours[..., 2] = 9
    assert strip(colours, least=2)[..., 2].tolist() == [[9, 9], [9, 9]]


def test_images_stand_beside_class_means(folder: Path) -> None:
    publish(inversions(), BOARD, folder / "toy-v1")
    app = app_page("reconstructions", defense="undefended", seed="1").run()
    assert not app.exception
    assert app.selectbox(key="seed").value == 1
    assert len(app.get("image")) == 3, "the class means, then two attacks"
    said = texts(app)
    assert "Class means" in said
    assert "descent\nEvaluation accuracy 0.400; MSE to the class mean 0.200; SSIM to the class mean 0.100" in said
    assert (
        "nothing\nEvaluation accuracy 0.400; MSE to the class mean 0.200; SSIM to the class mean 0.100; null row"
        in said
    )
    assert list(app.dataframe[0].value.attack) == ["descent", "nothing"]


def test_what_can_be_drawn_is_shown_first(folder: Path) -> None:
    publish(inversions(), BOARD, folder / "toy-v1")
    app = app_page("reconstructions").run()
    assert app.selectbox(key="defense").options == ["undefended", "selena"]
    app.selectbox(key="defense").set_value("selena").run()
    assert not app.exception
    assert not app.get("image")
    assert "Nothing was reconstructed: a guard is outside this threat model." in texts(app)


def test_old_records_say_what_to_run(folder: Path) -> None:
    publish(inversions(pictures=False), BOARD, folder / "toy-v1")
    app = app_page("reconstructions").run()
    assert not app.exception
    assert not app.get("image")
    assert app.code[0].value == "leakboard run descent nothing --protocol toy-v1\nleakboard publish --protocol toy-v1"
    assert list(app.dataframe[0].value.evaluator_accuracy) == [0.3, 0.3]


def test_a_board_without_inversion_says_what_to_run(folder: Path) -> None:
    publish([r for r in inversions() if r.task == "utility"], BOARD, folder / "toy-v1")
    app = app_page("reconstructions").run()
    assert not app.exception
    assert app.code[0].value == "leakboard run --protocol digits-v2"


def test_odd_pictures_and_names_do_no_harm(folder: Path) -> None:
    """Two channels, and a name that is Markdown and shell at once."""
    odd = {"reconstructions": Picture(shape=(1, 1, 1, 2), pixels="AAA=")}
    evil = f"{EVIL}; rm -rf ~ $(reboot)"
    rows = [
        r.model_copy(update={"attack": evil, "pictures": odd if r.seed else {}}) if r.attack == "descent" else r
        for r in inversions()
    ]
    rows = [r for r in rows if r.attack != "nothing"]
    publish(rows, BOARD, folder / "toy-v1")
    app = app_page("reconstructions", seed="1").run()
    assert not app.exception
    assert "Images of shape (1, 1, 1, 2) can't be drawn." in texts(app)
    app.selectbox(key="seed").set_value(0).run()
    assert not app.exception
    assert not app.markdown
    assert app.code[0].value.startswith("leakboard run '=1 !["), "quoted for the shell"
